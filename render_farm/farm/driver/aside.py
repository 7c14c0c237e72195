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
    return (found for found in as_done_or_none(work, items, num_threads=num_threads, check=check) if found is not None)


def as_done_or_none(
    work: Callable[[_Item], _Result], items: Sequence[_Item], *, num_threads: int, check: Callable[[], None]
) -> Iterator[tuple[int, _Result] | None]:
    """The same, and None many times a second while nothing is done."""
    left = iter(enumerate(items))
    done: queue.SimpleQueue[tuple[int, _Result] | BaseException] = queue.SimpleQueue()
    lock, over = threading.Lock(), threading.Event()

    def run() -> None:
        while not over.is_set():
            with lock:
                following = next(left, None)
            if following is None:
                return
            number, item = following
            try:
                done.put((number, work(item)))
            except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
                done.put(error)

    for _ in range(min(num_threads, len(items))):
        threading.Thread(target=run, name="aside", daemon=True).start()
    num_left = len(items)
    try:
        while num_left:
            check()
            try:
                found = done.get(timeout=_CHECK_EVERY_S)
            except queue.Empty:
                yield None
                continue
            if isinstance(found, BaseException):
                raise found
            num_left -= 1
            yield found
    finally:
        over.set()


def aside(work: Callable[[], _Result], *, check: Callable[[], None]) -> _Result:
    """The result of `work`, as `as_done`."""
    [(_, result)] = as_done(lambda _: work(), [None], num_threads=1, check=check)
    return result
