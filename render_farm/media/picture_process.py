"""Decoding pictures in a child process: a file of some kilobytes can ask for gigabytes of memory or hours of CPU time.

A child reads one request per line and answers it, until its stdin ends. It may use a fixed amount of memory per pixel
that is allowed, and is killed when a picture takes too long. Children are kept for the next picture, at most
`_CHILDREN` work at a time, and they import neither torch nor anything from the working directory.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from render_farm.errors import InputError, MediaError
from render_farm.media.fetching.uris import refusal
from render_farm.media.limits import InputLimits

_CHILDREN = 2
_BYTES_PER_PIXEL = 28
"""As measured for the most demanding picture, a transparent WebP with a profile: its decoder keeps several copies while
the colours are converted. A PNG like it takes 20."""
_FIXED_BYTES = 256 << 20
_START_TIMEOUT_S = 60.0


class _Child:
    """One process. Not shared between threads."""

    def __init__(self, limits: InputLimits) -> None:
        package = str(Path(__file__).parents[2])
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # an empty entry stands for the working directory
        path = os.pathsep.join([package, *filter(os.path.isabs, given)])
        command = "from render_farm.media.picture_process import serve; serve()"
        try:
            self._process = subprocess.Popen(
                # -P keeps the working directory off the path: a file there could shadow a library.
                [sys.executable, "-P", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise MediaError(f"cannot start a process that decodes pictures: {error}") from error
        self.max_pixels = limits.max_image_pixels
        if not self._ask({"num_bytes": self.max_pixels * _BYTES_PER_PIXEL + _FIXED_BYTES}, _START_TIMEOUT_S)[0]:
            self.end()
            raise MediaError(
                "the process that decodes pictures does not start", advice="is this machine out of memory?"
            )

    def decode(self, path: Path, uri: str, limits: InputLimits, *, keep_pixels: bool) -> tuple[dict[str, Any], bytes]:
        """The child's answer and its pixels. Both empty when the child died or was killed."""
        request = {"path": str(path), "uri": uri, "max_pixels": limits.max_image_pixels, "keep_pixels": keep_pixels}
        return self._ask(request, limits.image_timeout_s)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdin is not None and self._process.stdout is not None
        alarm = threading.Timer(timeout_s, self._process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else {}
            num_bytes = answer.get("num_bytes", 0)
            pixels = self._process.stdout.read(num_bytes)
            return (answer, pixels) if len(pixels) == num_bytes else ({}, b"")
        except BrokenPipeError:
            return {}, b""
        finally:
            alarm.cancel()

    def kill(self) -> None:
        """Have a call of another thread end at once, without an answer."""
        self._process.kill()

    def end(self) -> None:
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


_slots = threading.BoundedSemaphore(_CHILDREN)
_idle: list[_Child] = []
_busy: list[_Child] = []
_lock = threading.Lock()


def decode_apart(
    path: Path, *, uri: str, limits: InputLimits, keep_pixels: bool = True
) -> tuple[np.ndarray, tuple[str, ...], tuple[int, int]]:
    """The picture in the file at `path`, (H, W, 3) uint8 RGB, what is to be said of it, and its (W, H).

    Without `keep_pixels` it is decoded all the same and the array is empty. InputError when it cannot be used; see
    `images.decode_image`.
    """
    with _slots:
        child = _take(limits)
        answer: dict[str, Any] = {}
        try:
            answer, pixels = child.decode(path, uri, limits, keep_pixels=keep_pixels)
        finally:
            with _lock:
                _busy.remove(child)
                if answer:
                    _idle.append(child)
            if not answer:
                child.end()
    if not answer:
        raise refusal(
            uri,
            f"decoding it took longer than {limits.image_timeout_s:g} s, or more memory than a picture of "
            f"{limits.max_image_pixels:,} pixels needs",
            "save it again as an ordinary PNG or JPEG, or raise image_timeout_s or max_image_pixels in the settings",
        )
    if "problem" in answer:
        raise InputError(answer["problem"], advice=answer["advice"])
    array = np.frombuffer(pixels, np.uint8).reshape(answer["shape"])
    return array, tuple(answer["notes"]), tuple(answer["size"])


def _take(limits: InputLimits) -> _Child:
    with _lock:
        for child in _idle:
            if child.max_pixels == limits.max_image_pixels:
                _idle.remove(child)
                _busy.append(child)
                return child
        for child in _idle[_CHILDREN - 1 :]:  # of other limits
            _idle.remove(child)
            child.end()
    child = _Child(limits)
    with _lock:
        _busy.append(child)
    return child


@atexit.register
def end_children() -> None:
    """End the children. Idle ones end by themselves when this process dies, but a picture may keep one busy."""
    with _lock:
        while _idle:
            _idle.pop().end()
        for child in _busy:
            child.kill()


def _forget_children() -> None:
    """A forked process must not talk to its parent's children."""
    global _lock, _slots
    _lock, _slots = threading.Lock(), threading.BoundedSemaphore(_CHILDREN)
    _idle.clear()
    _busy.clear()


os.register_at_fork(after_in_child=_forget_children)


def serve() -> None:
    """The child: answers requests on stdin until it ends."""
    from PIL import Image

    from render_farm.media.images import decode_image

    Image.MAX_IMAGE_PIXELS = None  # pixels are counted against the settings' limit before anything is decoded
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _limit_memory(json.loads(requests.readline())["num_bytes"])
    _send(answers, {"ready": True})
    for line in requests:
        request = json.loads(line)
        limits = InputLimits(max_image_pixels=request["max_pixels"])
        try:
            data = Path(request["path"]).read_bytes()
            image, notes = decode_image(data, uri=request["uri"], limits=limits)
            shape = (image.height, image.width, 3) if request["keep_pixels"] else (0, 0, 3)
            pixels = image.tobytes() if request["keep_pixels"] else b""
        except InputError as error:
            _send(answers, {"problem": error.message, "advice": error.advice})
        else:
            size = (image.width, image.height)
            _send(answers, {"shape": shape, "size": size, "notes": notes, "num_bytes": len(pixels)}, pixels)
            del image, pixels


def _send(answers: BinaryIO, answer: dict[str, Any], pixels: bytes = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.write(pixels)
    answers.flush()


def _limit_memory(num_bytes: int) -> None:
    """Let this process have that much more address space than it has now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    with suppress(ValueError, OSError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (now + num_bytes, now + num_bytes))
