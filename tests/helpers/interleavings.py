"""A small model checker: every interleaving of a few processes at their store requests, with real code over a store in
memory.

A process is a function of a store. It is run again from its start with the replies that it has had so far, until it
makes the next request: a process whose replies are the same is in the same state. So two interleavings that lead to the
same objects and the same replies are one state, which is visited once. `explore` counts the interleavings that pass
through the states (they are far too many to walk one by one) and has every end checked.

At each request a fault may strike, up to a number of faults for the whole interleaving: the process dies before it, the
request fails, or it is done and its answer is lost.

A scene that is too large is bounded by `max_switches`: how often a process that could go on is left for another one.
One that is frozen, and thawed when the others have ended, takes one switch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from render_farm.errors import NotFoundError, RenderFarmError, StorageError
from render_farm.storage.store import Store, StoreOptions

Objects = dict[str, bytes]
Process = Callable[[Store], Any]
CRASH, FAIL, LOSE = "dies before", "fails at", "loses the answer to"
FAULTS = (CRASH, FAIL, LOSE)
_MISSING = "no such object"
_FAULT = "injected"


class _Pause(BaseException):
    """The replies are used up."""


@dataclass(frozen=True)
class Request:
    """One request to the store."""

    verb: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.verb} {' '.join(text for text in self.arguments if isinstance(text, str))}"


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    value: Any = None
    error: Exception | None = None
    is_crashed: bool = False
    num_faults: int = 0
    """That struck it."""

    @property
    def is_success(self) -> bool:
        return self.error is None and not self.is_crashed


class ModelStore(Store):
    """Answers from `replies`, and then from `objects` when there are any; else it stops its process."""

    def __init__(self, replies: Iterable[Any] = (), objects: Objects | None = None) -> None:
        super().__init__("model://store", StoreOptions())
        self._replies = iter(replies)
        self.objects = objects
        self.request: Request | None = None

    def _ask(self, verb: str, *arguments: Any) -> Any:
        request = Request(verb, arguments)
        reply = next(self._replies, _Pause)
        if reply is _Pause and self.objects is not None:
            self.objects, reply = answer(self.objects, request)
        elif reply is _Pause:
            self.request = self.request or request
            raise _Pause
        if reply == _MISSING:
            raise NotFoundError(f"{request}: {_MISSING}")
        if reply == _FAULT:
            raise StorageError(f"{request}: {_FAULT}")
        return reply

    def read_bytes(self, key):
        return self._ask("read", key)

    def write_bytes(self, key, data, content_type=None):
        self._ask("write", key, data)

    def put_file(self, local_path, key, content_type=None):
        self._ask("write", key, Path(local_path).read_bytes())

    def get_file(self, key, local_path):
        Path(local_path).write_bytes(self._ask("read", key))

    def create(self, key, data, content_type=None):
        return self._ask("create", key, data)

    def exists(self, key):
        return bool(self.sizes([key]))

    def size(self, key):
        return len(self._ask("read", key))

    def sizes(self, keys):
        return dict(self._ask("sizes", *keys))

    def delete(self, key):
        self._ask("delete", key)

    def delete_tree(self, prefix):
        for key in self.list(prefix):
            self.delete(key)

    def list(self, prefix=""):
        return list(self._ask("list", prefix))

    def list_folders(self, prefix=""):
        return list(self._ask("folders", prefix))

    def copy(self, source_key, target_key, content_type=None):
        self._ask("copy", source_key, target_key)

    def sweep(self, prefix, older_than_s=86_400.0, *, only=lambda folder: True):
        return 0  # nothing is ever half written here


def answer(objects: Objects, request: Request) -> tuple[Objects, Any]:
    """What a store does with a request: the objects then, and a reply that can be hashed."""
    match request.verb, request.arguments:
        case "read", (key,):
            return objects, objects.get(key, _MISSING)
        case "write", (key, data):
            return {**objects, key: data}, None
        case "create", (key, data):
            # As `Store.create`: who finds exactly its own bytes counts as the creator.
            return (objects, objects[key] == data) if key in objects else ({**objects, key: data}, True)
        case "sizes", keys:
            return objects, tuple((key, len(objects[key])) for key in keys if key in objects)
        case "delete", (key,):
            return {name: data for name, data in objects.items() if name != key}, None
        case "list", (prefix,):
            return objects, tuple(sorted(key for key in objects if not prefix or key.startswith(f"{prefix}/")))
        case "folders", (prefix,):
            below = (key.removeprefix(f"{prefix}/") for key in objects if not prefix or key.startswith(f"{prefix}/"))
            return objects, tuple(sorted({key.partition("/")[0] for key in below if "/" in key}))
        case "copy", (source, target):
            return ({**objects, target: objects[source]}, None) if source in objects else (objects, _MISSING)
    raise AssertionError(request)


class _Surroundings:
    """Tokens and a clock for the process that runs: the same ones each time it is run again. Time passes only while it
    sleeps."""

    def __init__(self) -> None:
        self.enter("")

    def enter(self, name: str) -> None:
        self._name, self._numbers, self._now_s = name, count(), 0.0

    def token_hex(self, size: int = 8) -> str:
        return f"{self._name}{next(self._numbers):x}"

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds

    @contextmanager
    def around(self) -> Iterator[None]:
        with (
            mock.patch("secrets.token_hex", self.token_hex),
            mock.patch("render_farm.storage.lease.time.monotonic", self.monotonic),
            mock.patch("render_farm.storage.lease._now_s", self.monotonic),
            mock.patch("render_farm.storage.lease.time.sleep", self.sleep),
        ):
            yield


@dataclass(frozen=True)
class _Place:
    """Where a process is: in which of its tries, with which replies there."""

    number: int = 0
    replies: int = 0
    is_crashed: bool = False
    num_faults: int = 0


@dataclass
class Explorer:
    """See the module. `check(objects, outcomes)` raises AssertionError for an end that may not be."""

    processes: dict[str, Process]
    check: Callable[[Objects, dict[str, Outcome]], None]
    store: type[ModelStore] = ModelStore
    num_faults: int = 0
    faults: tuple[str, ...] = FAULTS
    faulty: tuple[str, ...] = ()
    """Processes that a fault may strike. Empty: all. One of two that differ by their names alone is enough."""
    num_tries: int = 1
    """A process that ends with StorageError starts again, as often as this, and remembers nothing."""
    max_switches: int | None = None
    num_states: int = 0
    num_ends: int = 0
    _children: dict[tuple[int, Any], int] = field(default_factory=dict)
    _replies: list[tuple[Any, ...]] = field(default_factory=lambda: [()])
    _steps: dict[tuple[str, int, int], Request | Outcome] = field(default_factory=dict)
    _objects: dict[frozenset[tuple[str, bytes]], int] = field(default_factory=dict)
    _visited: dict[Any, int] = field(default_factory=dict)
    _path: list[str] = field(default_factory=list)

    def explore(self, objects: Objects) -> int:
        """Visit every state that follows from `objects`; the number of interleavings."""
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(10_000)
        try:
            with _surroundings.around():
                return self._visit(objects, dict.fromkeys(self.processes, _Place()), "", 0)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), "the interleaving:", *self._path])) from error
        finally:
            sys.setrecursionlimit(limit)

    def _visit(self, objects: Objects, places: dict[str, _Place], last: str, num_switches: int) -> int:
        """`last` made the last request."""
        if self.max_switches is None:
            last = ""
        there = self._objects.setdefault(frozenset(objects.items()), len(self._objects))
        state = (there, *places.values(), last, num_switches)
        known = self._visited.get(state)
        if known is not None:
            return known
        self.num_states += 1
        left = self.num_faults - sum(place.num_faults for place in places.values())
        outcomes: dict[str, Outcome] = {}
        requests: dict[str, Request] = {}
        number = 0
        for name, place in places.items():
            step = Outcome(is_crashed=True) if place.is_crashed else self._step(name, place)
            if isinstance(step, Request):
                requests[name] = step
            else:
                outcomes[name] = replace(step, num_faults=place.num_faults)
        for name, step in requests.items():
            switches = num_switches + (name != last and last in requests)
            if self.max_switches is not None and switches > self.max_switches:
                continue
            after, reply = answer(objects, step)
            choices = [("", after, reply)]
            if left and (not self.faulty or name in self.faulty):
                choices += [(fault, after if fault == LOSE else objects, _FAULT) for fault in self.faults]
            for fault, then, said in choices:
                self._path.append(f"{name} {fault} {step}")
                place = self._next(name, places[name], fault, said)
                number += self._visit(then, {**places, name: place}, name, switches)
                self._path.pop()
        if not requests:
            self.num_ends += 1
            self.check(objects, outcomes)
            number = 1
        self._visited[state] = number
        return number

    def _next(self, name: str, place: _Place, fault: str, reply: Any) -> _Place:
        """Where a process is after a reply."""
        num_faults = place.num_faults + bool(fault)
        if fault == CRASH:
            return replace(place, is_crashed=True, num_faults=num_faults)
        key = (place.replies, reply)
        if key not in self._children:
            self._children[key] = len(self._replies)
            self._replies.append((*self._replies[place.replies], reply))
        place = replace(place, replies=self._children[key], num_faults=num_faults)
        step = self._step(name, place)
        if isinstance(step, Outcome) and isinstance(step.error, StorageError) and place.number + 1 < self.num_tries:
            return replace(place, number=place.number + 1, replies=0)
        return place

    def _step(self, name: str, place: _Place) -> Request | Outcome:
        """The next request of a process, or how it ended."""
        key = (name, place.number, place.replies)
        if key not in self._steps:
            store = self.store(self._replies[place.replies])
            try:
                self._steps[key] = Outcome(value=run(f"{name}{place.number}", self.processes[name], store))
            except _Pause:
                assert store.request is not None
                self._steps[key] = store.request
            except RenderFarmError as error:
                self._steps[key] = Outcome(error=error)
        return self._steps[key]


def run(name: str, process: Process, store: Store) -> Any:
    """Run a process with tokens and a clock of its own, the same every time, within `explore`."""
    _surroundings.enter(name)
    return process(store)


def run_alone(name: str, process: Process, store: Store) -> Any:
    """As `run`, outside of it."""
    with _surroundings.around():
        return run(name, process, store)


_surroundings = _Surroundings()
