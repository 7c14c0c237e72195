"""The values that the driver hands to the coordinator: a run, its films, and the farm that renders them."""

from __future__ import annotations

from dataclasses import dataclass, field

from render_farm.engine.options import EngineOptions
from render_farm.errors import UsageError
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.results import Result
from render_farm.farm.run.timeouts import Timeouts
from render_farm.media.limits import InputLimits
from render_farm.observability.observer import ObserverSource
from render_farm.planning.groups import GroupShape
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.retry import RetryPolicy
from render_farm.scheduling.scaling import ScaleLimits


@dataclass(frozen=True, kw_only=True)
class FarmConfig:
    """The workers of a farm."""

    num_workers: int
    device: str
    """`cuda` or `cpu`."""
    dtype: str | None = None
    """None: by the device."""
    num_threads: int | None = None
    """Of each worker on the CPU."""
    cpus_per_worker: float = 0.0
    """What Ray reserves; 0 on a private Ray, where the number of workers is the limit."""
    bundle_size: int = 1
    """So many workers in a row are started on one node: those of a render group."""
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    scheduling: SchedulingPolicy = field(default_factory=SchedulingPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    model_cache: str | None = None
    """Local folder for models that come from a URI."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    scaling: ScaleLimits | None = None
    """How far the cluster's autoscaler may be asked to go; None: it is not asked."""

    @property
    def gpus_per_worker(self) -> float:
        return 1.0 if self.device == "cuda" else 0.0


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, without its films."""

    run_id: str
    output: str
    """As its store names itself (`Store.root_uri`): however it was written, the same place is the same text."""
    max_failed: int | None = None
    max_workers: int | None = None
    """The most workers that it renders on at a time; None: no limit."""
    first: tuple[str, ...] = ()
    """Jobs that are rendered before all others start (`--canary`)."""
    failed_before: int = 0
    order: tuple[str, ...] = ()
    """Every job in the manifest's order."""
    ended: tuple[Result, ...] = ()
    """Rows that need no work: bad ones, and jobs that are there already."""
    render_keys: dict[str, str] = field(default_factory=dict)
    """Of every film, by job."""
    limits: InputLimits = InputLimits()
    default_model: str = ""
    """Models of other names are named by rows, and must be where `limits` allow."""
    texts: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Fingerprints and texts of films that are told later, by model: all are encoded at once."""
    manifest: bytes = b""
    """As submitted; written with the run once its lease is held."""
    manifest_sha256: str = ""
    document: bytes = b""
    """`run.json`, likewise."""
    keep_latents: bool = False
    observer: ObserverSource | None = None
    """The observer that the run's holder notifies."""

    def check_joins(self, live: RunSpec) -> None:
        """Raises `UsageError` when `live`, the run of this id that is being rendered, is not all that this one asks
        for: a command that joined it would report films as done that nobody rendered."""
        if self.manifest_sha256 != live.manifest_sha256:
            raise UsageError(
                f"run {self.run_id} is being rendered from another manifest",
                advice="give another --run-id, or start it again when that run has ended",
            )
        if self.keep_latents and not live.keep_latents:
            raise UsageError(
                f"run {self.run_id} is being rendered without --keep-latents",
                advice="start it again when that run has ended; finished films get them then",
            )

    @property
    def key(self) -> str:
        """The key of the run in a coordinator."""
        return run_key(self.output, self.run_id)


def run_key(output: str, run_id: str) -> str:
    """Of a run of a coordinator: the same manifest rendered into two outputs makes two runs of one id."""
    return f"{output}/_runs/{run_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmEntry:
    """One film of a run."""

    task: FilmTask
    segments_done: int = 0
    costs: tuple[int, ...] = ()
    """Token passes of each segment."""
    priority: int = 50
    deadline_s: float | None = None
    """Unix time."""
    share: str = ""
    """Whose share of the farm it uses."""
    texts: tuple[str, ...] = ()
    group: GroupShape = GroupShape()
    """Of the workers that render a segment of it together."""
    joined: tuple[GroupShape, ...] = ()
    """Larger ones that it takes when workers would be idle otherwise, one per size. Empty: its degrees are pinned."""
    joined_speeds: tuple[float, ...] = ()
    """How many times as fast as `group` each of them should be."""
    segment_keys: tuple[str, ...] = ()
    """Of its segments, where another film of the run may have some of them; else empty."""

    @property
    def most_workers(self) -> int:
        return max(shape.size for shape in (self.group, *self.joined))

    @property
    def in_groups(self) -> bool:
        """Whether several workers may render a segment of it."""
        return self.most_workers > 1

    def group_of_size(self, size: int) -> GroupShape:
        """Its group when `size` workers render a segment; one of those it has."""
        return next(shape for shape in (self.group, *self.joined) if shape.size == size)

    def step_cost(self, segment: int) -> float:
        """Token passes of one step of a segment, on average."""
        return self.costs[segment] / self.task.plan.schedule(segment).num_rows
