"""Films, workers and runs as the machine knows them, and sums over films that are kept up to date."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from render_farm.scheduling.affinity import Setting
from render_farm.scheduling.costs import CostClass, CostModel
from render_farm.scheduling.elastic import Options, as_learned, speed_of
from render_farm.scheduling.events import JobKey, QueuedFilm
from render_farm.scheduling.policy import UNKNOWN_SEGMENT_S
from render_farm.scheduling.states import MOVES, State


@dataclass(slots=True)
class FilmState:
    """A film."""

    spec: QueuedFilm
    setting: Setting
    number: int
    """Position in the order of arrival."""
    added_s: float
    priority: int
    level: int
    segments_done: int
    prior_left_s: float
    """Time of the segments that are not done, by arithmetic."""
    suspect_after: int
    """Faults after which it may be the film that breaks its workers."""
    state: State = State.WAITING
    worker: str | None = None
    """The worker that renders or finishes it now, the leader of a group."""
    finishing: bool = False
    attempts: int = 0
    """Tries that failed and count, plus one for the work in hand or done."""
    faults: tuple[str, ...] = ()
    """Error classes of the failures of its present work by workers' fault."""
    waits: int = 0
    waiting_since_s: float = 0.0
    avoid: tuple[str, ...] = ()
    """Workers that failed it, in the order in which they did. None of them gets it again."""
    fallback_level: int = 0
    cancelled_for: str = ""
    """Why it is to be cancelled once its worker has stopped finishing it. It is done when it was published before."""

    @property
    def is_suspect(self) -> bool:
        """A last try is made in the safest way: in the smallest group, and alone in its process."""
        return len(self.faults) >= self.suspect_after

    @property
    def is_rendered(self) -> bool:
        """Whether all of its segments are stored."""
        return self.segments_done >= self.spec.num_segments

    def prior_of(self, segment: int) -> float:
        """Seconds of a segment by arithmetic."""
        return self.spec.segments_s[segment] if self.spec.segments_s else UNKNOWN_SEGMENT_S


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkInHand:
    """A segment that is being rendered, as its leader has it. The film may have continued elsewhere since."""

    film: JobKey
    spec: QueuedFilm
    workers: tuple[str, ...]
    """The leader first."""
    begun_s: float
    ends_s: float
    """When it should be done."""
    charged_s: float
    """Worker-seconds that its share was charged for it."""
    segment_key: str = ""
    """Empty when no other film has the segment."""

    @property
    def size(self) -> int:
        return len(self.workers)


@dataclass(slots=True)
class WorkerRecord:
    """A worker process."""

    host: str = ""
    work: WorkInHand | None = None
    """The segment that it renders, with helpers or alone."""
    leader: str = ""
    """The worker that it helps with a segment."""
    finishing: set[JobKey] = field(default_factory=set)
    setting: Setting | None = None
    """What it has loaded."""

    @property
    def rendering(self) -> JobKey | None:
        return self.work.film if self.work is not None else None

    @property
    def is_idle(self) -> bool:
        """It renders nothing, though it may finish films."""
        return self.work is None and not self.leader

    @property
    def is_at_work(self) -> bool:
        return not self.is_idle or bool(self.finishing)


@dataclass
class RunEntry:
    """A run."""

    films: list[JobKey] = field(default_factory=list)
    counts: Counter[State] = field(default_factory=Counter)
    sizes: Counter[tuple[State, int, int]] = field(default_factory=Counter)
    """The same by (state, workers of the smallest group that a film may have, of the largest)."""
    ready_models: set[str] = field(default_factory=set)
    sealed: bool = False
    cut_short: bool = False
    """Stopped before all of its films had come."""
    ended: bool = False
    max_failed: int | None = None
    failed_before: int = 0
    """Jobs that failed before the run began (bad rows)."""
    stopping: str = ""
    paused: bool = False
    held: dict[JobKey, None] = field(default_factory=dict)
    """Films that would be ready if the run might start them."""
    first: set[JobKey] = field(default_factory=set)
    """Films that are to end before any other starts, and have not."""
    first_failed: int = 0

    def holds(self, key: JobKey) -> bool:
        """Whether no segment of a film may start now."""
        return self.paused or (bool(self.first) and key not in self.first)

    @property
    def counts_by_name(self) -> dict[str, int]:
        """Jobs by state, without states that no job is in."""
        return {state.value: number for state, number in self.counts.items() if number}


class FarmState:
    """The records, and what is summed over them."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self.films: dict[JobKey, FilmState] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self.runs: dict[str, RunEntry] = {}
        self.num_rendering = 0
        """Segments that are being rendered."""
        self.num_wanted = 0
        """Workers of the segments that are being rendered, were all groups as small as may be."""
        self._prior_left_s: dict[tuple[str, ...], float] = {}
        """Of all films that have not ended, by cost class."""
        self._num_open: Counter[tuple[str, ...]] = Counter()
        self.dated: dict[int, dict[JobKey, None]] = {}
        """Films with a deadline that have not ended, by level."""
        self.dated_changes = 0
        """Goes up whenever a plan for dated films becomes void."""
        self.longest_segment_s = 0.0
        """The longest that was expected of any film so far."""
        self._settings: dict[Setting, Setting] = {}

    def run(self, run_id: str) -> RunEntry:
        found = self.runs.get(run_id)
        if found is None:
            found = self.runs[run_id] = RunEntry()
        return found

    def setting_of(self, film: QueuedFilm) -> Setting:
        """What a worker must have loaded for a film; one object for all films that need the same."""
        setting = Setting(model=film.model, adapters=film.adapters)
        return self._settings.setdefault(setting, setting)

    def move(self, key: JobKey, state: State) -> None:
        """Change a film's state."""
        film = self.films[key]
        if film.state is state:
            return
        assert state in MOVES[film.state], f"{key}: {film.state} -> {state}"
        if film.state.ended != state.ended:
            (self.close if state.ended else self.open)(key)
        self._count(film, -1)
        film.state = state
        self._count(film, 1)

    def add(self, key: JobKey, film: FilmState) -> None:
        """A film that is to be rendered."""
        self.films[key] = film
        self.run(film.spec.run_id).films.append(key)
        self._count(film, 1)
        self.open(key)

    def _count(self, film: FilmState, change: int) -> None:
        run, spec = self.runs[film.spec.run_id], film.spec
        run.counts[film.state] += change
        run.sizes[film.state, spec.group_size, spec.most_workers] += change

    # --- sums over the films that have not ended ---

    def open(self, key: JobKey) -> None:
        """A film is to be rendered."""
        film = self.films[key]
        film.prior_left_s = sum(map(film.prior_of, range(film.segments_done, film.spec.num_segments)))
        cost_class = film.spec.cost_class
        longest_s = max(film.spec.segments_s, default=film.prior_of(0)) * self.ratio(film)
        self.longest_segment_s = max(self.longest_segment_s, longest_s)
        self._num_open[cost_class] += 1
        self._prior_left_s[cost_class] = self._prior_left_s.get(cost_class, 0.0) + film.prior_left_s
        self._set_dated(key)

    def close(self, key: JobKey) -> None:
        """A film ended."""
        film = self.films[key]
        cost_class = film.spec.cost_class
        self._num_open[cost_class] -= 1
        if self._num_open[cost_class]:
            self._prior_left_s[cost_class] -= film.prior_left_s
        else:
            del self._num_open[cost_class], self._prior_left_s[cost_class]
        film.prior_left_s = 0.0
        if film.spec.deadline_s is not None:
            self._forget_dated(key, film.level)

    def _set_dated(self, key: JobKey) -> None:
        film = self.films[key]
        if film.spec.deadline_s is not None:
            self.dated.setdefault(film.level, {})[key] = None
            self.dated_changes += 1

    def _forget_dated(self, key: JobKey, level: int) -> None:
        del self.dated[level][key]
        if not self.dated[level]:
            del self.dated[level]

    def relevel(self, key: JobKey, level: int) -> None:
        """A film that has not ended gets another level."""
        film = self.films[key]
        if film.spec.deadline_s is not None:
            self._forget_dated(key, film.level)
        film.level = level
        self._set_dated(key)

    def stored(self, key: JobKey, segments_done: int) -> None:
        """A film has so many segments now, more or fewer."""
        film = self.films[key]
        left_s = sum(map(film.prior_of, range(segments_done, film.spec.num_segments)))
        self._prior_left_s[film.spec.cost_class] += left_s - film.prior_left_s
        film.segments_done, film.prior_left_s = segments_done, left_s

    # --- expectations ---

    def ratio(self, film: FilmState, size: int | None = None) -> float:
        """Measured by expected time, in a group of `size` (None: the smallest it may have)."""
        return self.costs.ratio(_class_of(film, film.spec.group_size if size is None else size))

    def expected_s(self, film: FilmState, segment: int, size: int) -> float:
        """Seconds that a group of `size` should need for a segment."""
        return _prior_s(film, segment, size) * self.ratio(film, size)

    def observe(self, film: FilmState, segment: int, size: int, measured_s: float) -> None:
        """A group of `size` rendered a segment of it."""
        self.costs.observe(_class_of(film, size), _prior_s(film, segment, size), measured_s)

    def groups(self, film: FilmState) -> Options:
        """(workers, times as fast as the smallest) of the groups that it may have, as far as is known by now."""
        return as_learned(
            film.spec.groups,
            lambda size: self.ratio(film, size),
            lambda size: self.costs.num_observed(_class_of(film, size)),
        )

    def left_s(self, film: FilmState) -> float:
        """What is left of a film in the smallest group it may have."""
        return film.prior_left_s * self.ratio(film)

    def left_of_all_s(self) -> float:
        """The same of all films that have not ended."""
        return sum(left * self.costs.ratio(cost_class) for cost_class, left in self._prior_left_s.items())


def _prior_s(film: FilmState, segment: int, size: int) -> float:
    """Seconds of a segment in a group of `size`, by arithmetic."""
    return film.prior_of(segment) / speed_of(film.spec.groups, size)


def _class_of(film: FilmState, size: int) -> CostClass:
    return (*film.spec.cost_class, str(size))
