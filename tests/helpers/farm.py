"""A farm without processes for the tests of scheduling: the machine, a clock, workers on hosts, and films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.retry import Failure, RetryPolicy

_RETRY = {field.name for field in fields(RetryPolicy)}
Action = TypeVar("Action")


class Farm:
    """The scheduling machine with a clock, one sealed run `r` of `films`, and workers `w0`, `w1`, ...

    `first` holds what the machine wanted when the workers came up.

    Args:
        workers: how many workers there are, all on a host without a name.
        hosts: instead of `workers`, each worker's host; "aab" is three workers, two of them on host a.
        seal: whether the run is sealed, so that it ends with its last film.
        policy: fields of `RetryPolicy` and `SchedulingPolicy`. Delays have no jitter unless it is given.
    """

    def __init__(
        self,
        *films: ev.QueuedFilm,
        workers: int = 1,
        hosts: Sequence[str] = (),
        seal: bool = True,
        max_failed: int | None = None,
        max_workers: int | None = None,
        **policy: Any,
    ) -> None:
        retry = {name: value for name, value in policy.items() if name in _RETRY}
        scheduling = {name: value for name, value in policy.items() if name not in _RETRY}
        self.machine = FarmMachine(RetryPolicy(**{"jitter": 0.0, **retry}), scheduling=SchedulingPolicy(**scheduling))
        self.now = 0.0
        self.add(*films)
        if seal:
            self.apply(ev.RunSealed(run_id="r", max_failed=max_failed, max_workers=max_workers))
        self.first = [
            action
            for number, host in enumerate(hosts or [""] * workers)
            for action in self.apply(ev.WorkerUp(worker=f"w{number}", host=host))
        ]

    def add(self, *films: ev.QueuedFilm) -> list[ev.Action]:
        """Films whose prompts are encoded."""
        actions = self.apply(ev.FilmsAdded(films=films))
        for run_id, model in dict.fromkeys((film.run_id, film.model) for film in films):
            actions += self.apply(ev.TextReady(run_id=run_id, model=model))
        return actions

    def apply(self, event: ev.Event, now: float | None = None) -> list[ev.Action]:
        """`now` is a time for this event alone."""
        return self.machine.apply(event, self.now if now is None else now)

    def tick(self, seconds: float) -> list[ev.Action]:
        self.now += seconds
        return self.apply(ev.Tick())

    def done(self, action: ev.RenderSegment, **more: Any) -> list[ev.Action]:
        return self.apply(ev.SegmentDone(worker=action.worker, film=action.film, segment=action.segment, **more))

    def failed(self, action: ev.RenderSegment | ev.FinishFilm, failure: Failure, **more: Any) -> list[ev.Action]:
        return self.apply(ev.WorkFailed(worker=action.worker, film=action.film, failure=failure, **more))

    def published(self, action: ev.FinishFilm) -> list[ev.Action]:
        return self.apply(ev.FilmPublished(worker=action.worker, film=action.film))

    def why(self, job_id: str) -> str:
        return self.machine.why_waiting(("r", job_id), self.now)

    def order(self, segment_s: float = 60.0) -> list[str]:
        """Films in the order of their segments, one worker rendering all."""
        order, actions = [], self.first
        while works := renders(actions):
            [work] = works
            order.append(work.film[1])
            self.now += segment_s
            actions = self.done(work)
            for finish in [action for action in actions if isinstance(action, ev.FinishFilm)]:
                actions += self.published(finish)
        return order


def renders(actions: list[ev.Action]) -> list[ev.RenderSegment]:
    return [action for action in actions if isinstance(action, ev.RenderSegment)]


def only(actions: Sequence[Any], kind: type[Action]) -> Action:
    """The one action of a kind."""
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, actions
    return found[0]


def none(actions: Sequence[Any], kind: type) -> None:
    """No action of a kind."""
    assert not [action for action in actions if isinstance(action, kind)], actions


def film(job_id: str, segments: int = 1, *, run_id: str = "r", **values: Any) -> ev.QueuedFilm:
    return ev.QueuedFilm(run_id=run_id, job_id=job_id, num_segments=segments, **values)
