"""How another shell, on any machine that can write the output, talks to a run's coordinator: requests and answers are
small objects in the run's folder. Anyone who may write there may control the run. Nothing listens on a port.

    control/<id>.request.json    put by the one who asks
    control/<id>.answer.json     put by the coordinator, which then removes the request; removed by the one who asked
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from render_farm.errors import NotFoundError
from render_farm.storage import checked_json
from render_farm.storage.layout import RunKeys, check_id
from render_farm.storage.store import Store

log = logging.getLogger(__name__)
SCHEMA = "render_farm.control/1"
_REQUEST = ".request.json"
_ANSWER = ".answer.json"
_POLL_S = 0.25


class Verb(StrEnum):
    """The requests to a run."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    PRIORITY = "priority"
    EXPLAIN = "explain"
    HOSTS = "hosts"
    QUARANTINE = "quarantine"
    RELEASE = "release"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request."""

    verb: Verb
    jobs: tuple[str, ...] = ()
    """Empty: the whole run."""
    value: str = ""
    """A priority, or a host."""
    reason: str = ""
    by: str = ""
    """The author of the request, for the log: `user@machine`."""

    @property
    def priority(self) -> int | None:
        """`value` as a priority; None when it is none. Whoever may write to the output may have written it."""
        found = re.fullmatch(r"0*([0-9]{1,3})", self.value, re.ASCII)
        number = int(found.group(1)) if found else 101
        return number if number <= 100 else None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to a request."""

    ok: bool
    text: str
    """For people."""
    data: Mapping[str, object]
    """The same for programs, as JSON."""

    @property
    def not_found(self) -> bool:
        """Whether it was refused because a job or a host does not exist."""
        return self.data.get("not_found") is True


def post(store: Store, run_id: str, request: Request) -> str:
    """Put a request; returns its id."""
    request_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(8)}"
    store.create(RunKeys(run_id=run_id).request(request_id), checked_json.dump(asdict(request), schema=SCHEMA))
    return request_id


def wait_answer(
    store: Store, run_id: str, request_id: str, timeout_s: float, *, is_over: Callable[[], bool] = lambda: False
) -> Answer | None:
    """The answer. None if there is none in time, or once `is_over`. The request is withdrawn then."""
    keys = RunKeys(run_id=run_id)
    stop = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() >= stop or is_over()
        try:
            content = checked_json.load(store.read_bytes(keys.answer(request_id)), schema=SCHEMA)
            answer = Answer(ok=content["ok"] is True, text=str(content["text"]), data=dict(content["facts"]))
        except NotFoundError:
            if late:
                store.delete(keys.request(request_id))
                return None
            time.sleep(_POLL_S)
            continue
        except (checked_json.DamagedDocument, KeyError, TypeError, ValueError) as error:
            answer = Answer(ok=False, text=f"the coordinator's answer is damaged: {error}", data={})
        store.delete(keys.answer(request_id))
        return answer


def take_requests(store: Store, run_id: str) -> list[tuple[str, Request]]:
    """Requests without an answer, oldest first. Anything else is removed, with a warning."""
    keys = RunKeys(run_id=run_id)
    names = [key.rpartition("/")[2] for key in store.list(keys.control)]
    answered = {name.removesuffix(_ANSWER) for name in names if name.endswith(_ANSWER)}
    found = []
    for name in names:
        request_id = name.removesuffix(_REQUEST)
        if request_id == name or request_id in answered:
            continue
        try:
            found.append((request_id, _parse(store.read_bytes(keys.request(request_id)))))
        except NotFoundError:
            continue  # withdrawn
        except ValueError as error:
            log.warning("run %s: %s is not a request and is removed: %s", run_id, name, error)
            store.delete(f"{keys.control}/{name}")
    return found


def give_answer(store: Store, run_id: str, request_id: str, answer: Answer) -> None:
    """Answer a request and remove it."""
    keys = RunKeys(run_id=run_id)
    # `facts` is the key of `data` in the store: an older command line may be waiting for this answer.
    content = {"ok": answer.ok, "text": answer.text, "facts": dict(answer.data)}
    store.write_bytes(keys.answer(request_id), checked_json.dump(content, schema=SCHEMA))
    store.delete(keys.request(request_id))


def _parse(data: bytes) -> Request:
    """ValueError for anything else than a request."""
    content = checked_json.load(data, schema=SCHEMA)
    jobs = content.get("jobs")
    if not isinstance(jobs, list):
        raise ValueError("it names no jobs")
    texts = {name: content.get(name) for name in ("verb", "value", "reason", "by")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("its verb, value, reason or author is not text")
    return Request(
        verb=Verb(str(texts["verb"])),
        jobs=tuple(check_id(str(job)) for job in jobs),
        value=str(texts["value"]),
        reason=str(texts["reason"]),
        by=str(texts["by"]),
    )
