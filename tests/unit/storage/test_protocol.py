"""The protocol of claims, publishing and leases (`render_farm/storage/README.md`), checked by a model: every
interleaving of two processes at their store requests, with a death, a failed request or a lost answer anywhere.

What may not be at an end has the names of the chaos audit's invariants (`tests/chaos/audit.py`).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from render_farm.errors import LeaseHeldError, StorageError
from render_farm.storage import claims, publish
from render_farm.storage.claims import Claim, ClaimLostError, JobHeldError, claim_job, read_claim
from render_farm.storage.done import is_whole, read_done, verify_done
from render_farm.storage.layout import FilmKeys, film_key
from render_farm.storage.lease import Holder, HolderWatch, LeaseTiming, acquire, read_lease
from render_farm.storage.process import ProcessId
from tests.helpers.interleavings import (
    CRASH,
    FAIL,
    LOSE,
    Explorer,
    ModelStore,
    Objects,
    Outcome,
    Process,
    run,
    run_alone,
)

A, B, C = (film_key("job", letter * 12) for letter in "abc")
RUN_OF = {A: "night", B: "other", C: "past"}
TIMING = LeaseTiming(renew_every_s=0.25, gone_after_s=1.0, poll_every_s=1.0)


@pytest.fixture(autouse=True)
def two_final_names(monkeypatch):
    """A poster and latents would make more states, and no others."""
    monkeypatch.setattr(publish, "FINAL_NAMES", ("video.mp4", "job.json"))


@pytest.fixture(autouse=True)
def files_in_memory(monkeypatch):
    """Processes are run again thousands of times, and their temporary files were half of what that cost."""
    if Path("/dev/shm").is_dir():
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """A worker that finishes a film, as `FilmWorker.finish_film` does. The farm has it tried again (`num_tries`)."""

    name: str
    film: str
    folder: Path
    claim: Claim | None = None
    """Made before; else it is made now."""
    create_only: bool = True
    at_once: bool = False
    """With a file as soon as it begins; else it looks first for what was committed."""

    def __call__(self, store) -> tuple[str, str]:
        claim = self.claim or claim_job(store, RUN_OF[self.film], self.film, HolderWatch(0.0))
        job = None if self.at_once else publish.resume_publish(store, self.film, ("video.mp4",), self.name, claim)
        if job is None:
            job = publish.publish(
                store, self.film, self.name, self._files(), {}, create_only=self.create_only, claim=claim
            ).job
        publish.clean_attempts(store, self.film, self.name)
        return f"job-{job['render_key']}", job["attempt"]

    def _files(self) -> dict[str, Path]:
        video = self.folder / f"{self.film}-{self.name}.mp4"
        if not video.exists():
            video.write_bytes(f"{self.film} by {self.name}".encode())
        return {"video.mp4": video}

    def commit(self, store) -> None:
        publish.commit(store, publish.stage(store, self.film, self.name, self._files(), {}))


class Ends:
    """The invariants, at every end of two publishers."""

    def __init__(self, folder: Path, store: type[ModelStore], *, create_only: bool = True) -> None:
        self._folder = folder
        self._store = store
        self._create_only = create_only

    def __call__(self, objects: Objects, outcomes: dict[str, Outcome]) -> None:
        store = self._store(objects=objects)
        self.no_attempt_is_counted(outcomes)
        self.nothing_half_written_under_a_final_name(store, outcomes)
        self.every_job_is_done_once_or_failed_with_a_reason(store, outcomes)
        self.results_agree_with_the_tree(store, outcomes)
        self.the_next_start_completes_the_film(store)

    @staticmethod
    def no_attempt_is_counted(outcomes) -> None:
        """Nobody who was spared a fault fails by anybody's fault but that of the claim's new holder."""
        for name, outcome in outcomes.items():
            expected = (ClaimLostError, JobHeldError, *([StorageError] if outcome.num_faults else []))
            assert outcome.error is None or isinstance(outcome.error, expected), (
                f"no_attempt_is_counted: {name}: {outcome.error!r}"
            )

    @staticmethod
    def nothing_half_written_under_a_final_name(store, outcomes) -> None:
        """What the next start takes for done is whole; with nobody dead, what `job.json` says is."""
        found = read_done(store, "job")
        if found is not None and (not any(map(_left_early, outcomes.values())) or is_whole(store, found)):
            assert not verify_done(store, "job"), (
                f"nothing_half_written_under_a_final_name: {verify_done(store, 'job')}"
            )

    @staticmethod
    def every_job_is_done_once_or_failed_with_a_reason(store, outcomes) -> None:
        """A film that was published, and that nobody else has claimed since, is done, unless somebody died or failed
        in the middle of publishing it too: then it has only to be copied again."""
        claim = read_claim(store, "job")
        published = {outcome.value[0] for outcome in outcomes.values() if outcome.is_success}
        if claim is None or claim.film not in published:
            return
        found = read_done(store, "job")
        name = "every_job_is_done_once_or_failed_with_a_reason"
        if any(map(_left_early, outcomes.values())):
            again = run("n", lambda store: publish.resume_publish(store, claim.film, ("video.mp4",), "n", claim), store)
            assert again is not None, f"{name}: {claim.film} would be decoded again"
        else:
            assert found is not None, f"{name}: {claim.film} is not done"

    @staticmethod
    def results_agree_with_the_tree(store, outcomes) -> None:
        claim, found = read_claim(store, "job"), read_done(store, "job")
        if found is None or claim is None or any(map(_left_early, outcomes.values())):
            return
        told = {outcome.value for outcome in outcomes.values() if outcome.is_success and outcome.value[0] == claim.film}
        there = f"job-{found['render_key']}", found["attempt"]
        assert not told or there in told, f"results_agree_with_the_tree: {told} was told and {there} is there"

    def the_next_start_completes_the_film(self, store) -> None:
        claim = read_claim(store, "job")
        film = claim.film if claim is not None else A
        nxt = Publisher(name="z", film=film, folder=self._folder, create_only=self._create_only)
        film_there, _ = run("z", nxt, store)
        assert film_there == film and not verify_done(store, "job"), "the_next_start_completes_the_film"


def _left_early(outcome: Outcome) -> bool:
    """Died, or gave up because the store failed to the end."""
    return outcome.is_crashed or isinstance(outcome.error, StorageError)


def objects_with(*processes, store=ModelStore) -> Objects:
    """What is there before: what these processes leave, one after the other."""
    live = store(objects={})
    for process in processes:
        run_alone("before", process, live)
    return live.objects


def held_elsewhere(run_id: str):
    """A lease that is held by a process of another machine and never renewed."""
    process = ProcessId(host="another", pid=1, started=1)
    return lambda store: acquire(store, run_id, Holder(address="x", process=process, token=run_id), TIMING)


def explore(publishers, before, folder, *, store=ModelStore, create_only=True, **faults) -> Explorer:
    ends = Ends(folder, store, create_only=create_only)
    explorer = Explorer({each.name: each for each in publishers}, ends, store=store, **faults)
    started, number = time.perf_counter(), explorer.explore(objects_with(*before, store=store))
    took_s = time.perf_counter() - started
    print(f"\n{explorer.num_states} states, {explorer.num_ends} ends, {number:.2e} interleavings, {took_s:.1f} s")
    return explorer


def one_film(folder: Path, *, past=False, create_only=True, num_tries=2, **more) -> Explorer:
    """Two publishers of film A, which has the claim. They differ by their names alone."""
    options = {"film": A, "folder": folder, "claim": CLAIM, "create_only": create_only}
    publishers = [Publisher(name=name, at_once=True, **options) for name in ("p1", "p2")]
    before = [Publisher(name="c", film=C, folder=folder)] if past else []
    before.append(lambda store: claim_job(store, "night", A, HolderWatch(0.0)))
    claims_made = 2 if past else 1
    publishers = [replace(each, claim=replace(CLAIM, number=claims_made)) for each in publishers]
    more = {"faulty": ("p1",), "num_tries": num_tries, **more}
    return explore(publishers, before, folder, create_only=create_only, **more)


def two_films(folder: Path, *, num_tries=2, **more) -> Explorer:
    """A publisher of film A, committed, whose run fell silent; and one of film B, whose run takes the job over."""
    frozen = Publisher(name="p1", film=A, folder=folder, claim=CLAIM, at_once=True)
    rival = Publisher(name="p2", film=B, folder=folder, at_once=True)
    before = [held_elsewhere("night"), lambda store: claim_job(store, "night", A), frozen.commit]
    return explore([frozen, rival], before, folder, num_tries=num_tries, **more)


CLAIM = Claim(number=1, run_id="night", film=A, token="before0")


@pytest.mark.slow
def test_two_that_are_only_slow_end_with_a_whole_film(tmp_path):
    one_film(tmp_path)


@pytest.mark.slow
def test_two_that_are_only_slow_replace_another_film(tmp_path):
    one_film(tmp_path, past=True)


@pytest.mark.slow
def test_a_frozen_publisher_leaves_the_film_of_the_one_that_took_its_place(tmp_path):
    two_films(tmp_path)


@pytest.mark.slow
def test_a_store_that_ignores_create_only_writes_ends_with_a_whole_film(tmp_path):
    one_film(tmp_path, create_only=False)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", [CRASH, FAIL, LOSE])
@pytest.mark.parametrize("scene", [one_film, two_films])
def test_a_fault_anywhere_leaves_no_film_under_the_job_json_of_another(tmp_path, scene, fault):
    scene(tmp_path, num_faults=1, faults=(fault,))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scene", [one_film, two_films])
def test_who_gives_up_after_one_failed_request_leaves_it_as_whole(tmp_path, scene):
    scene(tmp_path, num_faults=1, faults=(FAIL, LOSE), num_tries=1)


# --- the explorer finds each old fault when its fix is taken out ---


def _remove_all_attempts(patch) -> None:
    patch.setattr(
        publish, "clean_attempts", lambda store, film, publisher: store.delete_tree(FilmKeys(film=film).attempts)
    )


def _delete_unread(patch) -> None:
    patch.setattr(publish, "read_job", lambda store, job_id: (True, read_done(store, job_id)))


def _do_not_look_again(patch) -> None:
    patch.setattr(publish, "read_job", lambda store, job_id: (store.exists(f"{job_id}/job.json"), None))


def _leave_without_looking(patch) -> None:
    patch.setattr(publish, "_leave", lambda store, winner, word: store.delete(word))


def _believe_the_claim_of_before(patch) -> None:
    patch.setattr(publish, "_settle", lambda store, film, written: written)


def _say_nothing(patch) -> None:
    patch.setattr(publish, "publishing_key", lambda job_id, publisher: f"_work/unseen/{publisher}")


WITHOUT = {
    "attempts of others are removed": ([_remove_all_attempts, _delete_unread], partial(one_film)),
    "who loses the race does not look again": (
        [_remove_all_attempts, _do_not_look_again],
        partial(one_film, past=True),
    ),
    "a failed request is left as it is": (
        [_leave_without_looking],
        partial(two_films, num_faults=1, faults=(FAIL,), num_tries=1),
    ),
    "the claim is not looked at again": ([_believe_the_claim_of_before], partial(two_films)),
    "a death leaves no word": ([_say_nothing], partial(two_films, num_faults=1, faults=(CRASH,))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT)
def test_the_model_finds_the_fault_when_its_fix_is_taken_out(tmp_path, monkeypatch, name):
    fixes, scene = WITHOUT[name]
    for take_out in fixes:
        take_out(monkeypatch)
    with pytest.raises(AssertionError, match="the interleaving") as found:
        scene(tmp_path)
    print(str(found.value).partition("\n")[0])


# --- claims and leases ---


class Alive(HolderWatch):
    """Every run is being rendered."""

    def held(self, store, run_ids):
        return set(run_ids)


def claimers() -> dict[str, Process]:
    """Three runs of film A, one after the other, and one of film B: it may be frozen while numbers are used and
    removed."""
    return {"r1": partial(_claim_all, ("n1", "n2", "n3"), A), "r2": partial(_claim_all, ("n4",), B)}


def _claim_all(names, film, store) -> Claim:
    return [_claim(name, film, store) for name in names][-1]


def _claim(name: str, film: str, store) -> Claim:
    for is_last in (False, True):
        try:
            return claim_job(store, name, film, Alive())
        except StorageError:
            if is_last:
                raise
    raise AssertionError


def one_film_is_claimed(objects: Objects, outcomes: dict[str, Outcome]) -> None:
    claimed = {outcome.value.film for outcome in outcomes.values() if outcome.is_success}
    assert len(claimed) <= 1, f"nothing_half_written_under_a_final_name: {claimed} are claimed by runs that are alive"
    for outcome in outcomes.values():
        assert outcome.error is None or isinstance(outcome.error, JobHeldError | StorageError), repr(outcome.error)
        assert outcome.num_faults or not isinstance(outcome.error, StorageError), repr(outcome.error)
    newest = read_claim(ModelStore(objects=objects), "job")
    assert newest is not None and (not claimed or newest.film in claimed)


@pytest.mark.parametrize("num_faults", [0, 1])
def test_of_runs_that_are_alive_only_those_of_one_film_get_a_job(num_faults):
    explorer = Explorer(claimers(), one_film_is_claimed, num_faults=num_faults)
    number = explorer.explore({})
    print(f"\n{explorer.num_states} states, {number:.2e} interleavings")


def test_the_model_finds_two_claims_when_nobody_looks_after_claiming(monkeypatch):
    read = claims.read_claim
    made = []

    def believing(store, job_id):
        """What was just created is the newest."""
        return made.pop() if made else read(store, job_id)

    class Believer(ModelStore):
        def create(self, key, data, content_type=None):
            is_created = super().create(key, data, content_type)
            if is_created:
                content = claims.checked_json.load(data, schema=claims.SCHEMA)
                made.append(Claim(number=claims.number_of(key), **content))
            return is_created

    monkeypatch.setattr(claims, "read_claim", believing)
    with pytest.raises(AssertionError, match="are claimed by runs that are alive"):
        Explorer(claimers(), one_film_is_claimed, store=Believer).explore({})


def _own(name: str, store) -> str:
    """A coordinator: takes the run, and gives it back."""
    holder = Holder(address=name, process=ProcessId(host=name, pid=1, started=1), token=name)
    handle = acquire(store, "night", holder, TIMING, clock=lambda: time.monotonic(), sleep=lambda s: time.sleep(s))
    handle.release()
    return name


def the_run_is_given_back(objects: Objects, outcomes: dict[str, Outcome]) -> None:
    newest = read_lease(ModelStore(objects=objects), "night")
    name = "the_run_is_given_back_and_its_state_says_so"
    if not any(map(_left_early, outcomes.values())):
        assert newest is not None and newest.released, f"{name}: {newest}"
    for outcome in outcomes.values():
        assert outcome.error is None or isinstance(outcome.error, LeaseHeldError) or outcome.num_faults, repr(outcome)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_faults", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_run_is_given_back_whoever_takes_it_over(num_faults):
    owners = {name: partial(_own, name) for name in ("k1", "k2")}
    explorer = Explorer(owners, the_run_is_given_back, num_faults=num_faults)
    number = explorer.explore(objects_with(held_elsewhere("night")))
    print(f"\n{explorer.num_states} states, {number:.2e} interleavings")
