"""`FilmTask`: everything that a worker must know about a film, and its reports.

A film whose checks say `retry` may be rendered with several seeds, one after the other. All of them share the work
folder and the claim of the row's own film: what is published is the row's film, whatever its seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from render_farm.check_mode import CheckAction, parse_checks
from render_farm.farm.run.hook_settings import HookSettings
from render_farm.farm.run.timeouts import Timeouts
from render_farm.job import NUM_SEEDS
from render_farm.media.check_limits import CheckLimits
from render_farm.media.limits import InputLimits
from render_farm.media.provenance_settings import ProvenanceSettings
from render_farm.planning import FilmPlan
from render_farm.planning.film import with_seed
from render_farm.planning.group_options import GroupOptions
from render_farm.storage.hashing import sha256_bytes
from render_farm.storage.layout import film_key


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedSeed:
    """A film of a seed, in which the checks found something."""

    seed: int
    findings: tuple[str, ...]
    seconds: float = 0.0
    """`FilmReport.render_s` of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmTask:
    """One film of one run. Small: it travels with every segment."""

    run_id: str
    output: str
    """URI of the output tree."""
    model: str
    """As `load_engine` takes it."""
    model_is_named: bool = False
    """A row names it, so it must be where `limits` allow."""
    plan: FilmPlan
    keep_latents: bool = False
    create_only: bool = True
    """Whether the output's store honours create-only writes."""
    limits: InputLimits = InputLimits()
    """Limits on the job's inputs, LoRAs and model."""
    checks: CheckLimits = CheckLimits()
    timeouts: Timeouts = Timeouts()
    group_options: GroupOptions = GroupOptions()
    """Whether a render group decodes together."""
    previews: bool = False
    """Whether its segments can be watched while it renders."""
    provenance: ProvenanceSettings = ProvenanceSettings()
    row_key: str = ""
    """The render key of the film's row, where `plan` has another seed."""
    tried: tuple[TriedSeed, ...] = ()
    """Earlier films of the row, which were not published."""
    hooks: HookSettings = HookSettings()

    @property
    def job_id(self) -> str:
        return self.plan.job.job_id

    @property
    def render_key(self) -> str:
        """Of the row."""
        return self.row_key or self.plan.render_key

    @property
    def work_key(self) -> str:
        """Name of the film's work folder."""
        return film_key(self.job_id, self.render_key)

    @property
    def pixels_key(self) -> str:
        """Tells films apart in a worker's memory: those of several seeds share a work folder."""
        return f"{self.work_key}/{self.plan.render_key}"

    @property
    def seeds_left(self) -> int:
        """How many further seeds may be tried after this film."""
        return parse_checks(self.plan.job.checks).num_retries - len(self.tried)

    @property
    def tried_keys(self) -> tuple[str, ...]:
        """Segments of the films tried so far, one of which is published when all of them have findings."""
        return tuple(key for one in self.tried for key in with_seed(self.plan, one.seed).segment_keys)

    @property
    def limits_key(self) -> str:
        """Tells thresholds apart: a film that some have rejected may be clean by others."""
        return sha256_bytes(repr(self.checks).encode())[:12]

    def ranked(self, findings: tuple[str, ...]) -> tuple[TriedSeed, ...]:
        """The films tried so far, with this one, which has `findings`: those with the fewest first."""
        tried = (*self.tried, TriedSeed(seed=self.plan.job.seed, findings=findings))
        return tuple(sorted(tried, key=lambda one: len(one.findings)))

    def after(self, findings: tuple[str, ...], seconds: float) -> FilmTask:
        """The task that follows on this film, which took `seconds` and has `findings`: the next seed, or, when none is
        left, the best film so far."""
        tried = (*self.tried, TriedSeed(seed=self.plan.job.seed, findings=findings, seconds=round(seconds, 3)))
        seed = (tried[0].seed + len(tried)) % NUM_SEEDS if self.seeds_left > 0 else self.ranked(findings)[0].seed
        return replace(self, plan=with_seed(self.plan, seed), row_key=self.render_key, tried=tried)

    def rejected_films(self) -> tuple[dict[str, Any], ...] | None:
        """`tried` for the run's durable state (`JobRow.rejected`)."""
        films = [asdict(one) | {"findings": list(one.findings), "limits": self.limits_key} for one in self.tried]
        return tuple(films) or None

    def continued(self, rejected: Iterable[Mapping[str, Any]]) -> FilmTask:
        """The task of a row that starts again, after the films that its checks would reject again."""
        task, is_retried = self, parse_checks(self.plan.job.checks).action is CheckAction.RETRY
        for one in rejected:
            is_next = (one["seed"], one["limits"]) == (task.plan.job.seed, task.limits_key)
            if not is_retried or not is_next or task.seeds_left < 0:
                break
            task = task.after(tuple(one["findings"]), one["seconds"])
        return task


@dataclass(frozen=True, kw_only=True)
class SegmentReport:
    """A segment is stored."""

    segment: int
    seconds: float
    """Time of denoising (and of decoding, where a group decoded together), on the worker's clock."""
    loading_s: float | None = None
    """Time of loading the model, if it was loaded since the worker's last segment."""
    engine_s: float = 0.0
    """Time that the worker's process has spent denoising or decoding so far."""
    phases: tuple[tuple[str, float], ...] = ()
    """`denoise` and `checkpoint`, with their seconds."""
    notes: tuple[str, ...] = ()
    """Choices of the engine that the worker's last segment did not have, one per line."""
    is_found: bool = False
    """It was stored already, for this film or for another one, and nothing was rendered."""


@dataclass(frozen=True, kw_only=True)
class FilmReport:
    """A film is published."""

    uri: str
    sha256: str
    num_frames: int
    video_bytes: int
    render_s: float
    """Denoising seconds of the segments that were rendered for it, times the workers that rendered them."""
    seconds: float
    """Time of finishing: waiting for the decoder, encoding, publishing."""
    engine_s: float = 0.0
    """As in `SegmentReport`."""
    phases: tuple[tuple[str, float], ...] = ()
    """`decode` and `encode` of each segment, and `upload`, with their seconds."""
    seam_score: float | None = None
    """Score of its most visible join (`media/seam_score.py`). None without a join."""
    reused_segments: int = 0
    """Segments that were rendered for other films."""
    findings: tuple[str, ...] = ()
    """What the checks found in its pictures: `frozen@97-160`."""
    drift: float | None = None
    """As `CheckedFilm.drift`."""
    seeds_tried: tuple[int, ...] = ()
    """In order, the published one last; empty when only the row's own was rendered."""


@dataclass(frozen=True, kw_only=True)
class PreviewNews:
    """A film's preview has grown, or it has ended."""

    output: str = ""
    run_id: str
    job_id: str
    work_key: str
    num_segments: int = 0
    """Segments that can be watched now."""
    num_frames: int = 0
    problem: str = ""
    """Why it has ended. Empty while it grows."""
