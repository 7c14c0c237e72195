"""Whatever happens to a farm, after every event: no GPU twice, no job lost or run twice, groups whole and on one host,
quotas kept, nothing on quarantined hosts; and when the trouble is over, everything ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.retry import Failure, RetryPolicy
from render_farm.scheduling.states import State

RUNS, SHARES = ("r", "q"), ("a", "b")
RUN_QUOTA, SHARE_QUOTA = {"q": 3}, {"b": 4}
JOINED = {1: (2, 4), 2: (4,)}

films = st.builds(
    ev.QueuedFilm,
    run_id=st.sampled_from(RUNS),
    job_id=st.just(""),
    num_segments=st.integers(1, 4),
    model=st.sampled_from("mn"),
    adapters=st.sampled_from(((), (("lora", 1.0),))),
    priority=st.sampled_from((0, 50, 50, 50, 90)),
    deadline_s=st.sampled_from((None, None, 100.0, 400.0)),
    share=st.sampled_from(SHARES),
    group_size=st.sampled_from((1, 1, 1, 2)),
    segments_s=st.just(()),
)
operations = st.lists(st.tuples(st.sampled_from(range(14)), st.integers(0, 1000)), max_size=60)


class World:
    """Workers that do what they are told, until an operation has one of them fail."""

    def __init__(self, specs: list[ev.QueuedFilm], hosts: list[int], aging_s: float) -> None:
        self.machine = FarmMachine(
            RetryPolicy(attempts=99, patience_s=1e9),
            scheduling=SchedulingPolicy(quotas=SHARE_QUOTA, aging_s=aging_s, share_slack_s=100.0),
        )
        self.now = 0.0
        self.host_of: dict[str, str] = {}
        self.busy: dict[str, ev.JobKey] = {}
        """Workers that render, helpers included."""
        self.leaving: set[str] = set()
        """GroupCalls that are not out of a group that is over."""
        self.rendering: dict[ev.JobKey, ev.RenderSegment] = {}
        self.finishing: dict[ev.JobKey, ev.FinishFilm] = {}
        self.stopping: list[tuple[str, ev.JobKey]] = []
        self.stored: Counter[ev.JobKey] = Counter()
        self.ended: dict[ev.JobKey, State] = {}
        self.runs_ended: list[str] = []
        self.coming: list[str] = []
        self.number = 0
        self.films = {
            film.key: film
            for film in (
                replace(spec, job_id=f"f{i}", joined_sizes=JOINED[spec.group_size]) for i, spec in enumerate(specs)
            )
        }
        self.send(ev.FilmsAdded(films=tuple(self.films.values())))
        for run_id in RUNS:
            for model in "mn":
                self.send(ev.TextReady(run_id=run_id, model=model))
            self.send(ev.RunSealed(run_id=run_id, max_workers=RUN_QUOTA.get(run_id)))
        for host, number in enumerate(hosts):
            for _ in range(number):
                self.up(f"host{host}")

    def up(self, host: str) -> None:
        self.number += 1
        worker = f"w{self.number}"
        self.host_of[worker] = host
        self.send(ev.WorkerUp(worker=worker, host=host))

    def send(self, event: ev.Event) -> None:
        for action in self.machine.apply(event, self.now):
            self.take(action)
        self.audit()

    def take(self, action: ev.Action) -> None:
        match action:
            case ev.RenderSegment():
                film, members = self.films[action.film], (action.worker, *action.helpers)
                assert action.film not in self.rendering, "a film twice"
                assert action.film not in self.ended, "work for a film that ended"
                assert action.segment == self.stored[action.film], "a segment out of order"
                assert not set(members) & {*self.busy, *self.leaving}, "a GPU twice"
                assert len(set(members)) == len(members)
                sizes = {film.group_size, *film.joined_sizes}
                assert len(members) in sizes, "a group that is not whole"
                assert len({self.host_of[member] for member in members}) == 1, "a group on two hosts"
                assert not self.machine.hosts.is_quarantined(self.host_of[action.worker])
                self.busy.update(dict.fromkeys(members, action.film))
                self.rendering[action.film] = action
            case ev.FinishFilm():
                assert self.stored[action.film] == self.films[action.film].num_segments, "finished too early"
                assert action.film not in self.finishing and action.worker in self.host_of
                self.finishing[action.film] = action
            case ev.StopWork():
                self.stopping.append((action.worker, action.film))
            case ev.ReplaceWorker():
                host = self.host_of[action.worker]
                self.bury(action.worker)
                self.coming.append(host)
            case ev.FilmEnded():
                assert action.film not in self.ended, "a film ended twice"
                self.ended[action.film] = action.state
            case ev.RunEnded():
                assert action.run_id not in self.runs_ended
                self.runs_ended.append(action.run_id)

    def free(self, key: ev.JobKey) -> None:
        self.rendering.pop(key, None)
        self.busy = {worker: film for worker, film in self.busy.items() if film != key}

    def bury(self, worker: str) -> None:
        del self.host_of[worker]
        if worker in self.busy:
            self.free(self.busy[worker])
        for key in [key for key, work in self.finishing.items() if work.worker == worker]:
            del self.finishing[key]
        self.stopping = [entry for entry in self.stopping if entry[0] != worker]

    def audit(self) -> None:
        counts: Counter[str] = Counter()
        for run_id in RUNS:
            if self.machine.has_run(run_id):
                counts.update(self.machine.counts(run_id))
        assert sum(counts.values()) == len(self.films), "a job was lost"
        by_run: Counter[str] = Counter()
        by_share: Counter[str] = Counter()
        for key in self.busy.values():
            by_run[key[0]] += 1
            by_share[self.films[key].share] += 1
        assert all(by_run[run_id] <= quota for run_id, quota in RUN_QUOTA.items()), "a run over its quota"
        assert all(by_share[share] <= quota for share, quota in SHARE_QUOTA.items()), "a share over its quota"
        for key in self.films:
            if self.machine.has_run(key[0]) and self.machine.state_of(key) is State.WAITING:
                assert self.machine.why_waiting(key, self.now)

    # --- what can happen ---

    def operate(self, operation: int, choice: int) -> None:
        self.now += choice / 50
        hosts, workers = sorted({*self.host_of.values()}), sorted(self.host_of)
        works = sorted(self.rendering)
        if operation <= 4:
            self.progress(choice)
        elif operation == 5 and workers:
            self.lose(workers[choice % len(workers)])
        elif operation == 6 and works:
            self.fail(works[choice % len(works)], Fault.WORKER)
        elif operation == 7 and works:
            self.fail(works[choice % len(works)], Fault.CLUSTER)
        elif operation == 8 and works:
            action = self.rendering[works[choice % len(works)]]
            if action.helpers and choice % 2:
                self.lose(action.helpers[choice % len(action.helpers)])
            elif action.helpers:
                self.fail(action.film, Fault.WORKER, ending=(action.worker, *action.helpers))
        elif operation == 9 and len(hosts) > 1:
            self.send(ev.QuarantineHost(host=hosts[choice % len(hosts)], reason="by hand"))
        elif operation == 10:
            for host in list(self.machine.hosts.quarantined):
                self.send(ev.ReleaseHost(host=host))
        elif operation == 11:
            self.send((ev.PauseRun, ev.ResumeRun)[choice % 2](run_id=RUNS[choice // 2 % 2]))
        elif operation == 12:
            run_id, job_id = sorted(self.films)[choice % len(self.films)]
            if choice % 3:
                self.send(ev.SetPriority(run_id=run_id, job_ids=(job_id,), priority=choice % 101))
            else:
                self.send(ev.CancelRun(run_id=run_id, reason="asked to", job_ids=(job_id,)))
                self.stop_all()
        elif operation == 13 and self.coming:
            self.up(self.coming.pop(0))

    def stop_all(self) -> None:
        for worker, key in self.stopping:
            self.finishing.pop(key, None)
            self.free(key)
            failure = Failure(fault=Fault.USER, error_class="Cancelled", message="stopped")
            self.send(ev.WorkFailed(worker=worker, film=key, failure=failure))
        self.stopping = []

    def lose(self, worker: str) -> None:
        """A process dies. The others of its group notice: a leader fails its segment, helpers leave the group."""
        key = self.busy.pop(worker, None)
        self.coming.append(self.host_of.pop(worker))
        self.finishing = {film: work for film, work in self.finishing.items() if work.worker != worker}
        self.stopping = [entry for entry in self.stopping if entry[0] != worker]
        died = Failure(fault=Fault.CLUSTER, error_class="NodeLostError", message="died")
        action = self.rendering.get(key) if key is not None else None
        if action is not None and action.worker == worker:
            self.leaving = {helper for helper in action.helpers if helper in self.busy}
            self.free(action.film)
            self.send(ev.WorkerLost(worker=worker, failure=died))
            left, self.leaving = sorted(self.leaving), set()
            for helper in left:
                if helper in self.host_of:
                    self.send(ev.HelperLeft(worker=helper, leader=worker))
        else:
            self.send(ev.WorkerLost(worker=worker, failure=died))
            if action is not None:
                self.fail(action.film, Fault.WORKER, blamed=worker)

    def fail(self, key: ev.JobKey, fault: Fault, **more) -> None:
        action = self.rendering.get(key)
        if action is not None:
            self.free(key)
            failure = Failure(fault=fault, error_class="X", message="x")
            self.send(ev.WorkFailed(worker=action.worker, film=key, failure=failure, **more))

    def progress(self, choice: int) -> None:
        works = [*sorted(self.rendering), *sorted(self.finishing)]
        if not works:
            self.now += 70
            self.send(ev.Tick())
            return
        key = works[choice % len(works)]
        if key in self.rendering:
            action = self.rendering[key]
            staying = action.helpers[:1] if choice % 3 == 0 else ()
            self.free(key)
            self.leaving = set(staying)
            self.stored[key] += 1
            done = ev.SegmentDone(
                worker=action.worker, film=key, segment=action.segment, seconds=10.0 + choice / 20, staying=staying
            )
            self.send(done)
            self.leaving = set()
            for helper in staying:
                self.send(ev.HelperLeft(worker=helper, leader=action.worker))
        else:
            finish = self.finishing.pop(key)
            self.send(ev.FilmPublished(worker=finish.worker, film=key))


@settings(max_examples=120, deadline=None)
@given(
    specs=st.lists(films, min_size=1, max_size=10),
    hosts=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    happening=operations,
    aging_s=st.sampled_from((0.0, 5.0, 360.0)),
)
def test_invariants_after_every_event_and_an_end_when_the_trouble_is_over(specs, hosts, happening, aging_s):
    world = World(specs, [4, *hosts], aging_s)
    for operation, choice in happening:
        world.operate(operation, choice)
    for host in list(world.machine.hosts.quarantined):
        world.send(ev.ReleaseHost(host=host))
    for run_id in RUNS:
        world.send(ev.ResumeRun(run_id=run_id))
    for step in range(1000):
        while world.coming:
            world.up(world.coming.pop(0))
        if len(world.ended) == len(world.films):
            break
        world.now += 61.0
        world.progress(step)
    assert len(world.ended) == len(world.films), "something starved"
    assert sorted(world.runs_ended) == sorted(RUNS)
