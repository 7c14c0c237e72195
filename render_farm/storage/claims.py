"""Which run may publish a job: a series of numbered create-only objects per job, the newest of which names the run.

    _work/_claims/<job_id>/00000001.json

Two runs on one output with the same job id and different pixels would mix their files under the job's final names. So a
run claims the job before it renders it, and looks again around the copying. A claim needs no renewals: it holds as long
as its run is held (`lease.py`), and is free when that run has ended. If the copying was overtaken all the same (by a
process frozen between the check and the copy), whoever notices repeats the publication of the newest claim. Runs that
render the same film need not wait for each other: each puts its own claim after the other's.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass

from render_farm.errors import ClusterError, JobError, NotFoundError
from render_farm.storage import checked_json
from render_farm.storage.layout import ClaimKeys, number_of, split_film_key
from render_farm.storage.lease import HolderWatch
from render_farm.storage.store import Store

SCHEMA = "render_farm.claim/1"


class JobHeldError(JobError):
    """Another run that is being rendered publishes a job of this id into the same output."""


class ClaimLostError(ClusterError):
    """The claim was taken over while this process published; the job's present owner has been completed."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One object of the series."""

    number: int
    run_id: str
    film: str
    token: str = ""


def read_claim(store: Store, job_id: str) -> Claim | None:
    """The newest claim of a job, or None. A damaged one counts as nobody's. StorageError passes."""
    keys = ClaimKeys(job_id=job_id)
    while True:
        numbers = sorted(number for number in map(number_of, store.list(keys.folder)) if number is not None)
        if not numbers:
            return None
        try:
            content = checked_json.load(store.read_bytes(keys.claim(numbers[-1])), schema=SCHEMA)
            return Claim(
                number=numbers[-1],
                run_id=str(content["run_id"]),
                film=str(content["film"]),
                token=str(content["token"]),
            )
        except NotFoundError:
            continue
        except (checked_json.DamagedDocument, KeyError):
            return Claim(number=numbers[-1], run_id="", film="")


def claim_job(store: Store, run_id: str, film: str, watch: HolderWatch | None = None) -> Claim:
    """Make `run_id` the run that publishes the film's job. Returns the claim, the present one when it has it already.

    JobHeldError names the run that has it, when that is another one with other pixels that is still being rendered.
    `watch` tells that, and remembers runs that nobody holds any more. Nobody waits for a run with the same pixels:
    whoever publishes, the files are the same.
    """
    job_id = split_film_key(film)[0]
    keys = ClaimKeys(job_id=job_id)
    watch = watch or HolderWatch()
    while True:
        seen = read_claim(store, job_id)
        if seen is not None and (seen.run_id, seen.film) == (run_id, film):
            return seen
        if (
            seen is not None
            and seen.run_id not in ("", run_id)
            and seen.film != film
            and watch.held(store, [seen.run_id])
        ):
            raise JobHeldError(
                f"job {job_id}: run {seen.run_id}, which is being rendered, publishes another film under this id",
                advice="give the job another id, or render it again when that run has ended",
            )
        mine = Claim(
            number=1 if seen is None else seen.number + 1, run_id=run_id, film=film, token=secrets.token_hex(8)
        )
        content = {name: value for name, value in asdict(mine).items() if name != "number"}
        if not store.create(keys.claim(mine.number), checked_json.dump(content, schema=SCHEMA)):
            continue
        # One that was frozen may create a number that was used and removed long ago; and a store that does not honour
        # create-only writes lets two create one number. Both show when looking again.
        newest = read_claim(store, job_id)
        if newest == mine:
            if seen is not None:
                store.delete(keys.claim(seen.number))
            return mine
        if newest is not None and newest.number > mine.number:
            store.delete(keys.claim(mine.number))


def is_current(store: Store, claim: Claim) -> bool:
    """Whether the claim's film still has the newest claim of its job."""
    seen = read_claim(store, split_film_key(claim.film)[0])
    return seen is not None and seen.film == claim.film
