"""Events of the farm, and the actions that follow. Frozen values. Times are seconds of one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State

_USUAL_EXPONENT = 0.85
"""A group of n times as many workers is taken to be n to this power times as fast, where nothing else is known."""


class JobKey(NamedTuple):
    """A job of a run: what the scheduler and the farm know a film by."""

    run: str
    job_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedFilm:
    """One job as the scheduler sees it."""

    run_id: str
    job_id: str
    num_segments: int
    segments_done: int = 0
    """Found in storage when the run was added."""
    model: str = ""
    adapters: tuple[tuple[str, float], ...] = ()
    """What is put on the model for it, which takes a worker some time: (identity, weight) of each LoRA."""
    priority: int = 50
    deadline_s: float | None = None
    """By the machine's clock. It orders work and never stops a film."""
    share: str = ""
    """Whose share of the farm it uses: an owner, or the value of a tag."""
    group_size: int = 1
    """Workers that render a segment of it together, all on one host."""
    joined_sizes: tuple[int, ...] = ()
    """Larger groups that it may have when workers would be idle otherwise, the smallest first."""
    joined_speeds: tuple[float, ...] = ()
    """How many times as fast each of them should be as one of `group_size`, by arithmetic; (): not known."""
    segments_s: tuple[float, ...] = ()
    """What each of its segments should take in a group of `group_size`, by arithmetic; (): not known."""
    cost_class: tuple[str, ...] = ()
    """What `costs.CostModel` learns by, coarse to fine."""
    segment_keys: tuple[str, ...] = ()
    """What each of its segments is stored under; (): no other film has any of them."""
    num_memory_modes: int = 1
    """Modes that can be tried, the first included, each of which needs less memory than the one before."""

    @property
    def key(self) -> JobKey:
        return JobKey(self.run_id, self.job_id)

    @property
    def most_workers(self) -> int:
        """Of the largest group that it may have."""
        return self.joined_sizes[-1] if self.joined_sizes else self.group_size

    @property
    def groups(self) -> tuple[tuple[int, float], ...]:
        """(workers, times as fast as the smallest) of every group that it may have, the smallest first."""
        return _groups(self.group_size, self.joined_sizes, self.joined_speeds)


@lru_cache(maxsize=256)
def _groups(
    group_size: int, joined_sizes: tuple[int, ...], joined_speeds: tuple[float, ...]
) -> tuple[tuple[int, float], ...]:
    speeds = joined_speeds or tuple((size / group_size) ** _USUAL_EXPONENT for size in joined_sizes)
    return ((group_size, 1.0), *zip(joined_sizes, speeds, strict=True))


# --- events ---


@dataclass(frozen=True, kw_only=True)
class FilmsAdded:
    """Films of a run; they wait until `TextReady` names their model."""

    films: tuple[QueuedFilm, ...]


@dataclass(frozen=True, kw_only=True)
class RunSealed:
    """No more films come for this run; it ends when all of its films have. See `more`."""

    run_id: str
    max_failed: int | None = None
    failed_before: int = 0
    """Jobs that failed before the run began; they count towards `max_failed`."""
    max_workers: int | None = None
    """The most workers that its films render on at a time; None: no limit."""
    first: tuple[str, ...] = ()
    """Jobs that are rendered before all others start. The run is paused when one of them fails."""
    first_failed: int = 0
    """How many of those had failed before the run began."""
    more: bool = False
    """Further films come: the run starts with those that are there, and is sealed by another such event."""
    cut_short: bool = False
    """It is stopped before all of its films had come, so it is not done whatever became of those that had."""


@dataclass(frozen=True, kw_only=True)
class TextReady:
    """The prompts of a run's films of one model are encoded."""

    run_id: str
    model: str


@dataclass(frozen=True, kw_only=True)
class TextMissing:
    """Some of them were lost again: films of that model wait for `TextReady` before their next segment."""

    run_id: str
    model: str


@dataclass(frozen=True, kw_only=True)
class TextFailed:
    """They cannot be encoded: the films that wait for them fail."""

    run_id: str
    model: str
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class WorkerUp:
    """A worker process is ready. Its id is of the process: a restarted worker has a new one."""

    worker: str
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class StartFailed:
    """A worker process could not be started on a host."""

    host: str
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """A worker process ended; whatever it held failed by its fault."""

    worker: str
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class SegmentDone:
    """A segment's latents are stored."""

    worker: str
    film: JobKey
    segment: int
    seconds: float | None = None
    """What denoising took, to learn from."""
    loading_s: float | None = None
    """What loading the model took before, when it had to be loaded."""
    staying: tuple[str, ...] = ()
    """Helpers that have not left its group yet: `HelperLeft` says when they have."""


@dataclass(frozen=True, kw_only=True)
class FilmPublished:
    """A film lies under its final names."""

    worker: str
    film: JobKey


@dataclass(frozen=True, kw_only=True)
class WorkFailed:
    """A segment, or a film's finishing, failed on a worker that stays up.

    `segments_done` is what storage holds now when that is fewer than thought (a damaged checkpoint), else None.
    """

    worker: str
    film: JobKey
    failure: Failure
    segments_done: int | None = None
    blamed: str = ""
    """The helper whose failure it is; empty: `worker` itself."""
    staying: tuple[str, ...] = ()
    """As in `SegmentDone`."""
    ending: tuple[str, ...] = ()
    """Workers of its group whose processes are to end."""
    is_rejected: bool = False
    """Another seed follows, whose segments no other film is known to have."""


@dataclass(frozen=True, kw_only=True)
class HelperLeft:
    """A worker is out of the group that `leader` led; for those that left after it."""

    worker: str
    leader: str


@dataclass(frozen=True, kw_only=True)
class CancelRun:
    """Stop a run; what is stored stays. `job_ids` None means all of it."""

    run_id: str
    reason: str
    job_ids: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class PauseRun:
    """Hand out no more segments of a run. What is being rendered or finished is completed."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class ResumeRun:
    """The end of a pause."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class RetryFilms:
    """Films that failed or were cancelled wait again, as if nothing had happened. Others are left alone."""

    run_id: str
    job_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SetPriority:
    """Films that have not ended get another priority, from their next segment on."""

    run_id: str
    job_ids: tuple[str, ...]
    priority: int


class Cause(StrEnum):
    """Why a host is quarantined."""

    PERSON = "a person asked for it"
    FAULTS = "its workers' faults"
    EARLIER_FAULTS = "faults that an earlier coordinator saw, which cannot be taken back"


@dataclass(frozen=True, kw_only=True)
class QuarantineHost:
    """A host gets no more work. Its workers end after their present work."""

    host: str
    reason: str
    cause: Cause = Cause.PERSON


@dataclass(frozen=True, kw_only=True)
class ReleaseHost:
    """A host gets work again."""

    host: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Time has passed."""


Event = (
    FilmsAdded
    | RunSealed
    | TextReady
    | TextMissing
    | TextFailed
    | WorkerUp
    | StartFailed
    | WorkerLost
    | SegmentDone
    | FilmPublished
    | WorkFailed
    | HelperLeft
    | CancelRun
    | PauseRun
    | ResumeRun
    | RetryFilms
    | SetPriority
    | QuarantineHost
    | ReleaseHost
    | Tick
)

# --- actions ---


@dataclass(frozen=True, kw_only=True)
class RenderSegment:
    """Have `worker` render one segment."""

    worker: str
    film: JobKey
    segment: int
    attempt: int
    helpers: tuple[str, ...] = ()
    """The other workers of its render group; `worker` stores the segment."""
    fallback_level: int = 0
    """How many memory modes below the one that was asked for."""


@dataclass(frozen=True, kw_only=True)
class FinishFilm:
    """Have `worker` decode, encode and publish a film whose segments are all stored, alongside its next work."""

    worker: str
    film: JobKey
    attempt: int
    fallback_level: int = 0


@dataclass(frozen=True, kw_only=True)
class StopWork:
    """Have `worker` drop what it does for a film at its next step or frame."""

    worker: str
    film: JobKey
    keep_steps: bool = False
    """Its steps so far are stored, for the run's next start."""


@dataclass(frozen=True, kw_only=True)
class ReplaceWorker:
    """End a worker's process and start a fresh one."""

    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FilmEnded:
    """A film reached its last state."""

    film: JobKey
    state: State
    error_class: str = ""
    message: str = ""
    attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class FilmDelayed:
    """A film will be tried again after a failure."""

    film: JobKey
    message: str
    delay_s: float


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """Every film of a run ended."""

    run_id: str
    state: State


@dataclass(frozen=True, kw_only=True)
class RunPaused:
    """Films that were to be rendered first failed: the run is paused until somebody resumes it."""

    run_id: str
    num_failed: int


@dataclass(frozen=True, kw_only=True)
class HostQuarantined:
    """A host's workers kept failing: it gets no more work until it is released."""

    host: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class HostReleased:
    """A host was quarantined for what turned out not to be its fault: it gets work again."""

    host: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class WakeAt:
    """Send a `Tick` at this time."""

    time_s: float


Action = (
    RenderSegment
    | FinishFilm
    | StopWork
    | ReplaceWorker
    | FilmEnded
    | FilmDelayed
    | RunEnded
    | RunPaused
    | HostQuarantined
    | HostReleased
    | WakeAt
)
