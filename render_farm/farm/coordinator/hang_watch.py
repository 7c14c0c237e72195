"""Which workers have been silent for too long: pure bookkeeping of the work that is out, without Ray and clocks.

A segment goes through three phases, each with a rule of its own: until its first step (it may load and compile), from
step to step, and after its last one, when it is being stored and no step can come. Finishing a film makes no steps: its
signs of life are the frames it writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.farm.run.timeouts import Timeouts
from render_farm.scheduling.events import JobKey

_SLOW_FACTOR = 10
"""How many times longer than usual a step may take."""


@dataclass(kw_only=True)
class WorkerCall:
    """A segment, or a film's finishing, on a worker."""

    worker: str
    film: JobKey
    segment: int | None
    """None: the film is being finished."""
    last_sign_s: float
    model: str = ""
    step_cost: float = 0.0
    """Token passes of one step."""
    num_steps_seen: int = 0
    usual_step_s: float = 0.0
    is_storing: bool = False


class HangWatch:
    """The work that is out, by number. Times are seconds of one monotonic clock."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self._works: dict[int, WorkerCall] = {}
        self._last_number = 0
        self._s_per_cost: dict[str, float] = {}
        """Of one step, by model: the slowest usual step seen, divided by what it cost."""

    def begin(
        self,
        worker: str,
        film: JobKey,
        segment: int | None,
        now: float,
        *,
        model: str = "",
        step_cost: float = 0.0,
    ) -> int:
        """Note work that is handed out; its number is for the calls below."""
        self._last_number += 1
        self._works[self._last_number] = WorkerCall(
            worker=worker, film=film, segment=segment, last_sign_s=now, model=model, step_cost=step_cost
        )
        return self._last_number

    def stepped(self, number: int, step: int, num_steps: int, now: float) -> WorkerCall | None:
        """A segment has made `step` of its steps. None when the work is over already."""
        work = self._works.get(number)
        if work is None:
            return None
        if work.num_steps_seen and step > work.num_steps_seen:
            usual_s = (now - work.last_sign_s) / (step - work.num_steps_seen)
            work.usual_step_s = max(work.usual_step_s, usual_s)
            if work.step_cost > 0:
                pace = usual_s / work.step_cost
                self._s_per_cost[work.model] = max(self._s_per_cost.get(work.model, 0.0), pace)
        work.num_steps_seen, work.last_sign_s = step, now
        work.is_storing = step >= num_steps
        return work

    def alive(self, number: int, now: float) -> None:
        """A film that is being finished has written something."""
        if number in self._works:
            self._works[number].last_sign_s = now

    def end(self, number: int) -> None:
        """The work is over."""
        self._works.pop(number, None)

    def has_stepped(self, number: int) -> bool:
        """Whether a segment that is out has made a step."""
        return number in self._works and self._works[number].num_steps_seen > 0

    def is_stepping(self, number: int) -> bool:
        """Whether a segment is out between its first step and its last."""
        return self.has_stepped(number) and not self._works[number].is_storing

    @property
    def num_preparing(self) -> int:
        """Segments that are out and have made no step yet."""
        return sum(work.segment is not None and not work.num_steps_seen for work in self._works.values())

    def segments_of(self, worker: str, film: JobKey) -> list[int]:
        """Numbers of a film's segments that a worker renders."""
        return [
            number
            for number, work in self._works.items()
            if (work.worker, work.film) == (worker, film) and work.segment is not None
        ]

    def silent(self, now: float) -> list[tuple[WorkerCall, str]]:
        """WorkerCall without a sign for longer than its rule allows, each with what it did not do."""
        return [
            (work, doing)
            for work in self._works.values()
            for allowed_s, doing in [self._rule(work)]
            if now - work.last_sign_s > allowed_s
        ]

    def _rule(self, work: WorkerCall) -> tuple[float, str]:
        timeouts = self.timeouts
        if work.segment is None:
            return timeouts.finish_floor_s, f"made no progress finishing the film for {timeouts.finish_floor_s:g} s"
        if work.is_storing:
            return timeouts.store_floor_s, f"did not store its segment within {timeouts.store_floor_s:g} s"
        if not work.num_steps_seen:
            predicted_s = self._s_per_cost.get(work.model, 0.0) * work.step_cost
            allowed_s = max(timeouts.first_step_floor_s, _SLOW_FACTOR * predicted_s)
            return allowed_s, f"made no first step within {allowed_s:.0f} s"
        allowed_s = max(timeouts.hang_floor_s, _SLOW_FACTOR * work.usual_step_s)
        return allowed_s, f"made no step for {allowed_s:.0f} s"
