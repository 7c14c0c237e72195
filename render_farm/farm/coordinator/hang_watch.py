"""Which workers have been silent for too long: pure bookkeeping of the calls that are out, without Ray and clocks.

A segment goes through three phases, each with its own rule: until its first step (it may load and compile), from step
to step, and after its last step, while it is stored. Finishing a film makes no steps: its signs of life are the frames
it writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.farm.run.timeouts import Timeouts
from render_farm.scheduling.events import JobKey

_SLOW_FACTOR = 10
"""How many times longer than usual a step may take."""


class TextWatch:
    """The process that encodes prompts. It loads its model, then reports after every few prompts."""

    def __init__(self) -> None:
        self._last_s = 0.0
        self._longest_s: float | None = None

    def begin(self, now: float) -> None:
        self._last_s, self._longest_s = now, None

    def sign(self, now: float) -> None:
        """It has encoded some."""
        # The first time has the loading in it, so it says nothing of how long the others take.
        self._longest_s = 0.0 if self._longest_s is None else max(self._longest_s, now - self._last_s)
        self._last_s = now

    def silent(self, now: float, timeouts: Timeouts) -> str:
        """A sentence about a silent process. Empty while it may still be at work."""
        allowed_s = timeouts.first_step_floor_s
        if self._longest_s is not None:
            allowed_s = max(timeouts.hang_floor_s, _SLOW_FACTOR * self._longest_s)
        return f"encoded no prompt for {allowed_s:.0f} s" if now - self._last_s > allowed_s else ""


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
    """The calls that are out, by id. Times are seconds of one monotonic clock."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self._open: dict[int, WorkerCall] = {}
        self._last_id = 0
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
        """Note a call. Its id is for the methods below."""
        self._last_id += 1
        self._open[self._last_id] = WorkerCall(
            worker=worker, film=film, segment=segment, last_sign_s=now, model=model, step_cost=step_cost
        )
        return self._last_id

    def stepped(self, call_id: int, step: int, num_steps: int, now: float) -> WorkerCall | None:
        """A segment has made `step` of its steps. None when the call is over already."""
        call = self._open.get(call_id)
        if call is None:
            return None
        if call.num_steps_seen and step > call.num_steps_seen:
            usual_s = (now - call.last_sign_s) / (step - call.num_steps_seen)
            call.usual_step_s = max(call.usual_step_s, usual_s)
            if call.step_cost > 0:
                pace = usual_s / call.step_cost
                self._s_per_cost[call.model] = max(self._s_per_cost.get(call.model, 0.0), pace)
        call.num_steps_seen, call.last_sign_s = step, now
        call.is_storing = step >= num_steps
        return call

    def alive(self, call_id: int, now: float) -> None:
        """A film that is being finished has written something."""
        if call_id in self._open:
            self._open[call_id].last_sign_s = now

    def end(self, call_id: int) -> None:
        """The call is over."""
        self._open.pop(call_id, None)

    def has_stepped(self, call_id: int) -> bool:
        """Whether a segment that is out has made a step."""
        return call_id in self._open and self._open[call_id].num_steps_seen > 0

    @property
    def num_preparing(self) -> int:
        """Segments that are out and have made no step yet."""
        return sum(call.segment is not None and not call.num_steps_seen for call in self._open.values())

    def calls_of(self, worker: str, film: JobKey) -> list[int]:
        """Ids of the calls by which a worker renders or finishes a film."""
        return [call_id for call_id, call in self._open.items() if (call.worker, call.film) == (worker, film)]

    def silent(self, now: float) -> list[tuple[WorkerCall, str]]:
        """Calls without a sign for longer than their rule allows, each with a sentence about it."""
        return [
            (call, doing)
            for call in self._open.values()
            for allowed_s, doing in [self._rule(call)]
            if now - call.last_sign_s > allowed_s
        ]

    def _rule(self, call: WorkerCall) -> tuple[float, str]:
        timeouts = self.timeouts
        if call.segment is None:
            return timeouts.finish_floor_s, f"made no progress finishing the film for {timeouts.finish_floor_s:g} s"
        if call.is_storing:
            return timeouts.store_floor_s, f"did not store its segment within {timeouts.store_floor_s:g} s"
        if not call.num_steps_seen:
            predicted_s = self._s_per_cost.get(call.model, 0.0) * call.step_cost
            allowed_s = max(timeouts.first_step_floor_s, _SLOW_FACTOR * predicted_s)
            return allowed_s, f"made no first step within {allowed_s:.0f} s"
        allowed_s = max(timeouts.hang_floor_s, _SLOW_FACTOR * call.usual_step_s)
        return allowed_s, f"made no step for {allowed_s:.0f} s"
