"""What a store can do. Used by `doctor`, and before a run."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from render_farm.errors import RenderFarmError, StorageError
from render_farm.storage.layout import WORK
from render_farm.storage.store import Store

log = logging.getLogger(__name__)
_NUM_RACERS = 8


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of `doctor`."""

    name: str
    ok: bool
    detail: str


def create_only_honoured(store: Store) -> bool:
    """Whether one of several writers at once creates an object, and nobody creates it again. Some S3 servers silently
    replace it, and some look first and write then. Leaves nothing behind. StorageError passes."""
    key = _probe_key()
    try:
        with ThreadPoolExecutor(_NUM_RACERS) as racers:
            created = list(racers.map(lambda number: store.create(key, b"%d" % number), range(_NUM_RACERS)))
        again = store.create(key, b"again")
        honoured = sum(created) == 1 and not again and store.read_bytes(key) == b"%d" % created.index(True)
    except RenderFarmError:
        with contextlib.suppress(RenderFarmError):  # it is the first error that says what is wrong
            store.delete_tree(key.rpartition("/")[0])
        raise
    store.delete_tree(key.rpartition("/")[0])  # a folder on a disk would stay
    if not honoured:
        log.warning("%s does not honour create-only writes: the last writer wins", store.root_uri)
    return honoured


def folds_case(store: Store) -> bool:
    """Whether names that differ only in upper and lower case are one object there. StorageError passes."""
    key = _probe_key()
    folder, _, name = key.rpartition("/")
    try:
        store.create(key, b"lower")
        return not store.create(f"{folder}/{name.swapcase()}", b"upper")
    finally:
        store.delete_tree(folder)


def round_trip(store: Store) -> None:
    """Write, read and delete a small object. StorageError passes, and says so when other bytes come back."""
    key, data = _probe_key(), secrets.token_bytes(64)
    try:
        store.write_bytes(key, data)
        if store.read_bytes(key) != data:
            raise StorageError(f"{store.uri(key)} gave back other bytes than were written")
    finally:
        store.delete_tree(key.rpartition("/")[0])


def check_access(store: Store) -> list[Check]:
    """Write, read, list and delete a small object, and try a create-only write; never raises for what the store cannot
    do. Stops at the first failure, because what follows would fail for the same reason."""
    key = _probe_key()
    data = secrets.token_bytes(64)

    def read() -> str:
        found = store.read_bytes(key)
        return "" if found == data else f"{store.uri(key)} gave back other bytes than were written"

    def listed() -> str:
        return "" if key in store.list(key.rpartition("/")[0]) else f"{store.uri(key)} is not listed after its write"

    def create() -> str:
        return "" if create_only_honoured(store) else "not honoured: two farms on one output must be avoided"

    steps: list[tuple[str, Callable[[], str | None]]] = [
        ("write", lambda: store.write_bytes(key, data)),
        ("read", read),
        ("list", listed),
        ("delete", lambda: store.delete_tree(key.rpartition("/")[0])),
        ("create-only", create),
    ]
    checks: list[Check] = []
    for name, step in steps:
        try:
            wrong = step() or ""
        except RenderFarmError as error:
            wrong = str(error)
        checks.append(Check(name=name, ok=not wrong, detail=wrong or store.root_uri))
        if wrong:
            break
    return checks


def is_old_probe(name: str) -> bool:
    """Whether a folder of `WORK` was left by a probe of another day. One of today may be at work: without its object,
    it would take the store for one that does not honour create-only writes."""
    day = re.fullmatch(r"probe-(?:([0-9]{8})-)?[0-9a-f]{16}", name)
    return day is not None and (day.group(1) or "") < (datetime.now(UTC) - timedelta(days=1)).strftime("%Y%m%d")


def _probe_key() -> str:
    return f"{WORK}/probe-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(8)}/object"
