"""The outcome of a simulation, and the figures that people want from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from render_farm.scheduling.events import JobKey
from render_farm.scheduling.states import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A segment on its workers."""

    film: JobKey
    segment: int
    workers: tuple[int, ...]
    """GPUs by number."""
    begin_s: float
    end_s: float
    loading_s: float = 0.0
    """Of that, loading a model and forming a group."""
    is_lost: bool = False
    """It failed, or its node went away: it was rendered again."""

    @property
    def gpu_s(self) -> float:
        return (self.end_s - self.begin_s) * len(self.workers)

    @property
    def useful_gpu_s(self) -> float:
        return 0.0 if self.is_lost else (self.end_s - self.begin_s - self.loading_s) * len(self.workers)


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """No schedule on GPUs that never fail and load nothing ends sooner."""

    work_s: float
    """All segments in the groups that use the fewest GPU-seconds, divided by the GPUs."""
    chain_s: float
    """The longest film in the largest groups it may have, and its finishing."""

    @property
    def seconds(self) -> float:
        return max(self.work_s, self.chain_s)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Times in seconds from the start."""

    num_gpus: int
    makespan_s: float
    bound: LowerBound
    tail_s: float
    """When fewer workers were wanted than there were, for good."""
    counts: Mapping[str, int]
    """Films by state."""
    spans: Sequence[Span]
    down_s: Sequence[tuple[int, float, float]]
    """(GPU, begin, end) of every time that one was not there."""
    num_missed: int
    """Films that were published after their deadline, or never."""
    num_dated: int
    worst_lateness_s: float
    used_s: Mapping[str, float] = field(default_factory=dict)
    """Worker-seconds by share, up to the moment in which the first share had nothing left."""
    weights: Mapping[str, float] = field(default_factory=dict)
    num_failures: int = 0
    num_preemptions: int = 0
    num_faults: int = 0
    num_loads: int = 0
    num_decisions: int = 0
    """Segments and finishings that were handed out."""
    num_events: int = 0
    deciding_s: float = 0.0
    """Processor time of the scheduler."""

    @property
    def num_left(self) -> int:
        """Films that did not end: no host has room for their groups, or time was up."""
        return sum(number for state, number in self.counts.items() if not State(state).ended)

    @property
    def over_bound(self) -> float:
        """Makespan by lower bound, less 1."""
        return self.makespan_s / self.bound.seconds - 1 if self.bound.seconds else 0.0

    def utilisation(self, until_s: float | None = None) -> float:
        """Useful rendering by the time of the GPUs that were there, up to `until_s` (None: the end)."""
        end_s = self.makespan_s if until_s is None else until_s
        useful = sum(_within(span, end_s) for span in self.spans)
        down = sum(max(0.0, min(end, end_s) - begin) for _, begin, end in self.down_s if begin < end_s)
        there = self.num_gpus * end_s - down
        return useful / there if there > 0 else 0.0

    @property
    def fairness(self) -> float:
        """Jain's index of what the shares used for their weight while all had work: 1 is even, 1/n is one has all."""
        used = [used / self.weights.get(share, 1.0) for share, used in self.used_s.items()]
        squares = sum(value * value for value in used)
        return sum(used) ** 2 / (len(used) * squares) if squares else 1.0

    @property
    def lost_gpu_s(self) -> float:
        """GPU-seconds of segments that had to be rendered again."""
        return sum(span.gpu_s for span in self.spans if span.is_lost)


def _within(span: Span, end_s: float) -> float:
    """Useful GPU-seconds of a span before a time."""
    if span.end_s <= end_s:
        return span.useful_gpu_s
    if span.begin_s >= end_s or span.is_lost:
        return 0.0
    return max(0.0, end_s - span.begin_s - span.loading_s) * len(span.workers)
