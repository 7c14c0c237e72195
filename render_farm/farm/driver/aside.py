"""Work in threads that are left behind when a run is interrupted. What fetches an input or a model cannot be told to
stop, and may take minutes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_CHECK_EVERY_S = 0.1


def as_done(
    work: Callable[[_Item], _Result], items: Sequence[_Item], *, num_threads: int, check: Callable[[], None]
) -> Iterator[tuple[int, _Result]]:
    """`work` of each item, in the order in which it is done, each with the number of its item.

    `check` is called many times a second and raises when it is to end. So does an exception of `work`.
    """
    left = iter(enumerate(items))
    done: queue.SimpleQueue[tuple[int, _Result | None, BaseException | None]] = queue.SimpleQueue()
    lock, over = threading.Lock(), threading.Event()

    def run() -> None:
        while not over.is_set():
            with lock:
                taken = next(left, None)
            if taken is None:
                return
            number, item = taken
            try:
                done.put((number, work(item), None))
            except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
                done.put((number, None, error))

    for _ in range(min(num_threads, len(items))):
        threading.Thread(target=run, name="aside", daemon=True).start()
    try:
        for _ in items:
            yield _next(done, check)
    finally:
        over.set()


def _next(
    done: queue.SimpleQueue[tuple[int, _Result | None, BaseException | None]], check: Callable[[], None]
) -> tuple[int, _Result]:
    while True:
        check()
        try:
            number, result, error = done.get(timeout=_CHECK_EVERY_S)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        return number, result  # type: ignore[return-value]


def aside(work: Callable[[], _Result], *, check: Callable[[], None]) -> _Result:
    """The result of `work`, as `as_done`."""
    [(_, result)] = as_done(lambda _: work(), [None], num_threads=1, check=check)
    return result
