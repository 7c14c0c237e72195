"""Which run may publish a job: a series of numbered create-only objects per job, the newest of which names the run.

    _work/_claims/<job_id>/00000001.json

Two runs on one output with the same job id and different pixels would mix their files under the job's final names. So a
run claims the job before it renders it, and looks again around the copying. A claim needs no renewals: it holds as long
as its run is held (`lease.py`), and is free when that run has ended. Where the copying was overtaken all the same (a
process frozen between looking and copying), whoever notices repeats the newest claim's publication.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass

from render_farm.errors import ClusterError, JobError, NotFoundError
from render_farm.storage import checked_json
from render_farm.storage.layout import ClaimKeys, number_of, split_film_key
from render_farm.storage.lease import read_lease
from render_farm.storage.process import is_dead
from render_farm.storage.store import Store

SCHEMA = "render_farm.claim/1"
_POLL_S = 0.5


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


def claim_job(store: Store, run_id: str, film: str, *, gone_after_s: float = 30.0) -> Claim:
    """Make `run_id` the run that publishes the film's job. Returns the claim, the present one when it has it already.

    JobHeldError names the run that has it, when that is another one with other pixels that is still being rendered.
    Two runs with the same pixels may both go on: whoever publishes, the files are the same. A run whose lease shows no
    renewal for `gone_after_s` is none any more.
    """
    job_id = split_film_key(film)[0]
    keys = ClaimKeys(job_id=job_id)
    while True:
        seen = read_claim(store, job_id)
        if seen is not None and (seen.run_id, seen.film) == (run_id, film):
            return seen
        if seen is not None and seen.run_id not in ("", run_id) and _is_rendered(store, seen, gone_after_s):
            if seen.film == film:
                return seen
            raise JobHeldError(
                f"job {job_id}: run {seen.run_id}, which is being rendered, publishes another film under this id",
                advice="give the job another id, or render it again when that run has ended",
            )
        mine = Claim(
            number=1 if seen is None else seen.number + 1, run_id=run_id, film=film, token=secrets.token_hex(8)
        )
        content = {name: value for name, value in asdict(mine).items() if name != "number"}
        if store.create(keys.claim(mine.number), checked_json.dump(content, schema=SCHEMA)):
            if seen is not None:
                store.delete(keys.claim(seen.number))
            return mine


def is_current(store: Store, claim: Claim) -> bool:
    """Whether the claim is still the newest of its job."""
    seen = read_claim(store, split_film_key(claim.film)[0])
    return seen is not None and seen.film == claim.film


def _is_rendered(store: Store, claim: Claim, gone_after_s: float) -> bool:
    """Whether somebody holds the claim's run: a holder that is not certainly gone is watched until it renews."""
    try:
        seen = read_lease(store, claim.run_id)
    except ValueError:  # no run id at all
        return False
    stop = time.monotonic() + gone_after_s
    while seen is not None and not seen.released and not is_dead(seen.holder.process):
        if time.monotonic() >= stop:
            return False
        time.sleep(_POLL_S)
        now_seen = read_lease(store, claim.run_id)
        if now_seen is not None and not now_seen.released and now_seen.number != seen.number:
            return True
        seen = now_seen
    return False
