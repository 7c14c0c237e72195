"""The bytes of an input, from wherever its URI points, within the limits."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path

from render_farm.errors import RenderFarmError
from render_farm.media.fetching.https import fetch_https
from render_farm.media.fetching.places import check_local, check_place, has_local_rules
from render_farm.media.fetching.sink import Sink, Target
from render_farm.media.fetching.store_errors import open_place, store_errors, store_failure
from render_farm.media.fetching.uris import read_input_address, refusal
from render_farm.media.limits import InputLimits

_BLOCK_BYTES = 1 << 20


def fetch(uri: str, target: Target, *, max_bytes: int, limits: InputLimits) -> None:
    """Write the bytes of `uri` to `target`.

    InputError for everything that is the input's fault. StorageError when an object store does not answer or fails
    inside (the farm waits and tries again), StorageFullError when `target`'s disk is full.
    """
    protocol = check_place(uri, limits)
    sink = Sink(target, uri=uri, max_bytes=max_bytes, within_s=limits.fetch_timeout_s)
    if protocol in ("https", "http"):
        fetch_https(uri, sink, limits)
    elif protocol == "file":
        _fetch_local(uri, sink, limits)
    else:
        _fetch_from_store(uri, protocol, sink)
    if sink.num_bytes == 0:
        raise refusal(uri, "it is empty", "copy or export it again")


@contextmanager
def fetched_file(uri: str, *, max_bytes: int, limits: InputLimits) -> Iterator[Path]:
    """The bytes of `uri` as a temporary file, which is gone after the block. Errors as `fetch`.

    Local inputs are copied too: the file that was checked is then the one that is read.
    """
    with tempfile.TemporaryDirectory(prefix="render_farm-input-") as folder:
        path = Path(folder) / "input"
        with open(path, "w+b") as file:
            fetch(uri, file, max_bytes=max_bytes, limits=limits)
        yield path


def _fetch_local(uri: str, sink: Sink, limits: InputLimits) -> None:
    path = read_input_address(uri).place
    try:
        check_local(uri, path, limits)
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            descriptor = file.fileno()
            # The file that is open now counts: a link may have changed since the check.
            if has_local_rules(limits) and os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: PTH110
                check_local(uri, f"/proc/self/fd/{descriptor}", limits)
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise refusal(uri, "it is not a regular file", "give the file itself")
            sink.expect(about.st_size)
            while block := file.read(_BLOCK_BYTES):
                sink.write(block)
    except FileNotFoundError:
        raise refusal(uri, "there is no such file", _LOCAL_ADVICE) from None
    except IsADirectoryError:
        raise refusal(uri, "it is a folder", "give the file itself") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise refusal(uri, f"it cannot be read: {reason}", "check the file's name and mode") from None


_LOCAL_ADVICE = "every worker must see it under this path; else put it on your object store"


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _fetch_from_store(uri: str, protocol: str, sink: Sink) -> None:
    place = read_input_address(uri).text

    def copy() -> None:
        fs, path = open_place(protocol, place)
        with fs.open(path, "rb", block_size=4 * _BLOCK_BYTES) as file:
            size = getattr(file, "size", None)
            if isinstance(size, int):
                sink.expect(size)
            while block := file.read(_BLOCK_BYTES):
                sink.write(block)

    try:
        _within(sink.left_s, copy)
    except RenderFarmError:
        raise
    except FutureTimeoutError:
        sink.stop()
        sink.check_time()
    except store_errors() as error:
        raise store_failure(error, uri) from None


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Run `work`, for at most `seconds`: file systems wait for their servers as long as they like. What is not done
    by then is left to a thread that ends with its next block. TimeoutError from here is `FutureTimeoutError`."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except TimeoutError as error:  # the store's, not this function's: it must not look like the latter
            done.set_exception(ConnectionError(str(error)))
        except BaseException as error:  # noqa: BLE001  (raised again by `result` below)
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="fetch-input", daemon=True).start()
    done.result(timeout=seconds)
