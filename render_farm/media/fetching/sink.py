"""Where the bytes of an input go while they arrive: counted against the limits before they are kept."""

from __future__ import annotations

import errno
import time
from typing import Protocol

from render_farm.errors import StorageFullError
from render_farm.media.fetching.uris import refusal
from render_farm.uris import shown_uri

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Target(Protocol):
    """What a `Sink` fills: a file, a buffer, or something that only looks at the bytes."""

    def write(self, block: bytes, /) -> object: ...

    def seek(self, position: int, /) -> object: ...

    def truncate(self) -> object: ...


class Sink:
    """Takes the bytes of `uri`, at most `max_bytes` of them and for at most `within_s`, InputError beyond either."""

    def __init__(self, target: Target, *, uri: str, max_bytes: int, within_s: float) -> None:
        self._target = target
        self._uri = uri
        self._max_bytes = max_bytes
        self._within_s = within_s
        self._deadline = time.monotonic() + within_s
        self.num_bytes = 0

    @property
    def left_s(self) -> float:
        """Seconds until the time is over; never below zero."""
        return max(0.0, self._deadline - time.monotonic())

    def expect(self, num_bytes: int) -> None:
        """Refuse at once an input that declares itself too large. `write` finds one that declares nothing, or lies."""
        if num_bytes > self._max_bytes:
            raise refusal(self._uri, f"it has {_mib(num_bytes)}, more than the {_mib(self._max_bytes)} allowed", _LARGE)

    def write(self, block: bytes) -> None:
        """Keep `block`. StorageFullError when the disk is full."""
        self.check_time()
        if self.num_bytes + len(block) > self._max_bytes:
            raise refusal(self._uri, f"it has more than the {_mib(self._max_bytes)} allowed", _LARGE)
        try:
            self._target.write(block)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFullError(
                    f"no space is left to fetch {shown_uri(self._uri)}: {error.strerror}",
                    advice="free some space or set another temporary folder (TMPDIR)",
                ) from error
            raise
        self.num_bytes += len(block)

    def check_time(self) -> None:
        if self.left_s <= 0:
            raise refusal(
                self._uri,
                f"it did not arrive within {self._within_s:g} s",
                "try again later, put it nearer, or raise fetch_timeout_s",
            )

    def restart(self) -> None:
        """Forget what came so far, because another try starts at the first byte."""
        self._target.seek(0)
        self._target.truncate()
        self.num_bytes = 0

    def stop(self) -> None:
        """Refuse everything that comes from now on."""
        self._deadline = time.monotonic()


_LARGE = "give a smaller file, or raise max_image_bytes, max_video_bytes or max_lora_bytes in the farm's settings"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):,.1f} MiB" if num_bytes >= 1 << 20 else f"{num_bytes:,} bytes"
