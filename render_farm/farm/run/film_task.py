"""`FilmTask`: all that a worker must be told of a film."""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.config import GroupOptions, InputLimits
from render_farm.planning import FilmPlan
from render_farm.storage.layout import film_key


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmTask:
    """One film of one run. Small: it travels with every segment."""

    run_id: str
    output: str
    """URI of the output tree."""
    model: str
    """What `load_engine` is given."""
    plan: FilmPlan
    keep_latents: bool = False
    create_only: bool = True
    """Whether the output's store honours create-only writes."""
    limits: InputLimits = InputLimits()
    """What the job's images and videos may be."""
    patience_s: float = 0.0
    """How long a store that fails is tried again before a rendered segment is given up."""
    grace_s: float = 0.0
    """How long a worker that is to end may go on to complete the segment."""

    meeting_s: float = 600.0
    """How long the workers of a render group may take to load what they need and come together."""
    group_options: GroupOptions = GroupOptions()
    """Whether a render group decodes together."""
    step_checkpoint_s: float = 0.0
    """How often to store a segment's state in the middle of its steps; 0: never."""

    previews: bool = False
    """Whether its segments can be watched while it renders."""

    @property
    def job_id(self) -> str:
        return self.plan.job.job_id

    @property
    def film(self) -> str:
        """Name of the film's work folder."""
        return film_key(self.job_id, self.plan.render_key)


@dataclass(frozen=True, kw_only=True)
class SegmentReport:
    """A segment is stored."""

    segment: int
    seconds: float
    """Of denoising (and of decoding, where a group did that together), on the worker's clock."""
    loading_s: float | None = None
    """What loading the model took, where that was done since the worker's last segment."""
    engine_s: float = 0.0
    """How long the worker's process has been denoising or decoding so far, in all."""
    phases: tuple[tuple[str, float], ...] = ()
    """What was done here (`denoise`, `checkpoint`), with its seconds."""
    notes: tuple[str, ...] = ()
    """What the engine chose, a line each, where it differs from the worker's last segment."""


@dataclass(frozen=True, kw_only=True)
class FilmReport:
    """A film is published."""

    uri: str
    sha256: str
    num_frames: int
    video_bytes: int
    render_s: float
    """Denoising seconds of all its segments, times the workers that rendered them."""
    seconds: float
    """What finishing took: waiting for the decoder, encoding, publishing."""
    engine_s: float = 0.0
    """As of `SegmentReport`."""
    phases: tuple[tuple[str, float], ...] = ()
    """What was done here (`decode` and `encode` of each segment, `upload`), with its seconds."""
    seam_score: float | None = None
    """Of its most visible join (`media/seams.py`); None without one."""


@dataclass(frozen=True, kw_only=True)
class PreviewNews:
    """What became of a film's preview."""

    output: str = ""
    run_id: str
    job_id: str
    film: str
    num_segments: int = 0
    """That can be watched now."""
    num_frames: int = 0
    problem: str = ""
    """Why there will be no more of it."""
