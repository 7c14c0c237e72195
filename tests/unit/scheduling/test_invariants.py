"""Random histories of a farm: after every event the invariants hold, and whatever happens the run ends."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.retry import Failure, RetryPolicy
from render_farm.scheduling.states import State


class World:
    """Workers that do what the machine says, and fail as a seeded random generator likes."""

    def __init__(self, seed: int, num_films: int, num_workers: int, trouble: float) -> None:
        self.random = random.Random(seed)
        self.machine = FarmMachine(RetryPolicy(attempts=3, patience_s=50))
        self.now, self.trouble, self.generation = 0.0, trouble, num_workers
        self.rendering: dict[str, ev.RenderSegment] = {}
        self.finishing: dict[tuple[str, ev.JobKey], ev.FinishFilm] = {}
        self.alive = {f"w{i}" for i in range(num_workers)}
        self.stored: Counter = Counter()
        self.segments = {f"f{i}": self.random.randint(1, 4) for i in range(num_films)}
        self.groups = {name: (1, 1 + int(name[1:]) % 2) for name in self.segments}
        """The smallest and the largest that a film may have."""
        self.ended: dict[ev.JobKey, State] = {}
        self.run_ended = 0
        films = tuple(
            ev.QueuedFilm(
                run_id="r",
                job_id=name,
                num_segments=n,
                model=self.random.choice("mn"),
                adapters=self.random.choice(((), (("a", 1.0),), (("a", 1.0), ("b", 0.5)))),
                priority=40 + n,
                joined_sizes=tuple(range(2, self.groups[name][1] + 1)),
                segment_keys=self.keys_of(name),
            )
            for name, n in self.segments.items()
        )
        self.send(ev.FilmsAdded(films=films))
        self.send(ev.RunSealed(run_id="r"))
        self.send(ev.TextReady(run_id="r", model="m"))
        self.send(ev.TextReady(run_id="r", model="n"))
        for worker in sorted(self.alive):
            self.send(ev.WorkerUp(worker=worker))

    def keys_of(self, name: str) -> tuple[str, ...]:
        """Two of three films start alike, and every second one of these differs from its second segment on."""
        number = int(name[1:])
        if number % 3 == 2:
            return ()
        return tuple(f"{number % 2 if index else ''}-{index}" for index in range(self.segments[name]))

    def send(self, event) -> None:
        for action in self.machine.apply(event, self.now):
            self.take(action)
        self.audit()

    def take(self, action) -> None:
        match action:
            case ev.RenderSegment():
                assert action.worker in self.alive, "work for a dead worker"
                assert action.worker not in self.rendering, "two segments on one worker"
                assert action.segment == self.stored[action.film], "a segment out of order"
                assert action.film not in {work.film for work in self.rendering.values()}, "a film twice"
                keys = self.keys_of(action.film[1])
                twins = [work for work in self.rendering.values() if self.keys_of(work.film[1])]
                at_work = {self.keys_of(work.film[1])[work.segment] for work in twins}
                assert not keys or keys[action.segment] not in at_work, "a shared segment twice at once"
                self.rendering[action.worker] = action
            case ev.FinishFilm():
                assert self.stored[action.film] == self.segments[action.film[1]], "finished too early"
                assert action.film not in {film for _, film in self.finishing}, "finished twice at once"
                self.finishing[action.worker, action.film] = action
            case ev.ReplaceWorker():
                self.bury(action.worker)
                self.restart()
            case ev.FilmEnded():
                assert action.film not in self.ended, "a film ended twice"
                self.ended[action.film] = action.state
            case ev.RunEnded():
                self.run_ended += 1

    def bury(self, worker: str) -> None:
        self.alive.discard(worker)
        self.rendering.pop(worker, None)
        for key in [key for key in self.finishing if key[0] == worker]:
            del self.finishing[key]

    def restart(self) -> None:
        self.generation += 1
        worker = f"w{self.generation}"
        self.alive.add(worker)
        self.coming = worker
        self.pending_up = [*getattr(self, "pending_up", []), worker]

    def audit(self) -> None:
        counts = self.machine.counts("r")
        assert sum(counts.values()) == len(self.segments), "a job was lost"
        sizes = Counter(self.groups[name] for name in self.segments if ("r", name) not in self.ended)
        assert self.machine.unfinished("r") == sizes
        begun = self.machine.unfinished("r", begun_only=True)
        assert sum(begun.values()) == counts.get("running", 0)
        assert Counter(self.ended.values()) == Counter({state: n for state, n in counts.items() if State(state).ended})

    def step(self) -> None:
        self.now += self.random.random()
        for worker in self.__dict__.pop("pending_up", []):
            self.send(ev.WorkerUp(worker=worker))
        choices = [*self.rendering.values(), *self.finishing.values()]
        if not choices:
            self.now += 60
            self.send(ev.Tick())
            return
        work = self.random.choice(choices)
        luck = self.random.random()
        if luck < self.trouble / 3:
            self.bury(work.worker)
            lost = Failure(fault=Fault.WORKER, error_class="WorkerDiedError", message="died")
            self.send(ev.WorkerLost(worker=work.worker, failure=lost))
            self.restart()
        elif luck < self.trouble:
            fault = self.random.choice([Fault.JOB, Fault.WORKER, Fault.CLUSTER, Fault.CLUSTER])
            self.drop(work)
            failure = Failure(fault=fault, error_class="X", message="x", poisons_process=luck < self.trouble / 2)
            self.send(ev.WorkFailed(worker=work.worker, film=work.film, failure=failure))
        else:
            self.drop(work)
            if isinstance(work, ev.RenderSegment):
                self.stored[work.film] += 1
                self.send(ev.SegmentDone(worker=work.worker, film=work.film, segment=work.segment))
            else:
                self.send(ev.FilmPublished(worker=work.worker, film=work.film))

    def drop(self, work) -> None:
        if isinstance(work, ev.RenderSegment):
            del self.rendering[work.worker]
        else:
            del self.finishing[work.worker, work.film]


@pytest.mark.parametrize("trouble", [0.0, 0.1, 0.5])
def test_whatever_happens_every_film_ends_once(trouble):
    for seed in range(60):
        world = World(seed, num_films=12, num_workers=1 + seed % 4, trouble=trouble)
        for _ in range(5000):
            if world.run_ended:
                break
            world.step()
        assert world.run_ended == 1, f"seed {seed}: the run did not end"
        assert len(world.ended) == 12
        if trouble == 0:
            assert set(world.ended.values()) == {State.DONE}


def test_the_same_history_gives_the_same_decisions():
    def decisions(seed: int) -> list:
        world, seen = World(seed, num_films=8, num_workers=2, trouble=0.3), []
        take = world.take
        world.take = lambda action: (seen.append(action), take(action))  # type: ignore[method-assign]
        while not world.run_ended:
            world.step()
        return seen

    assert decisions(5) == decisions(5)


@pytest.mark.slow
def test_an_event_costs_the_same_with_many_films():
    def seconds_per_event(num_films: int) -> float:
        machine = FarmMachine()
        films = tuple(ev.QueuedFilm(run_id="r", job_id=f"f{i}", num_segments=1) for i in range(num_films))
        machine.apply(ev.FilmsAdded(films=films), 0)
        machine.apply(ev.TextReady(run_id="r", model=""), 0)
        actions = machine.apply(ev.WorkerUp(worker="w"), 0)
        started = time.process_time()
        for _ in range(400):
            work = next(action for action in actions if isinstance(action, ev.RenderSegment))
            actions = machine.apply(ev.SegmentDone(worker="w", film=work.film, segment=0), 0)
            machine.apply(ev.FilmPublished(worker="w", film=work.film), 0)
        return (time.process_time() - started) / 400

    seconds_per_event(500)
    assert seconds_per_event(50_000) < 10 * seconds_per_event(500)
