"""ffmpeg as a child process: the one that imageio-ffmpeg carries, with the end of what it said for error messages."""

from __future__ import annotations

import atexit
import errno
import resource
import signal
import subprocess
import threading
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

from render_farm.errors import MediaError, RenderFarmError, StorageError, StorageFullError
from render_farm.extras import install_advice

_WARNING = "[warning] "
"""How lines begin, after who says them, with the verbosity `level+warning`."""
_FULL = ("no space left on device", "disk quota exceeded", "file too large")


def is_full(said: str) -> bool:
    """Whether the message of a program says that a disk is full."""
    return any(sign in said.lower() for sign in _FULL)


def write_failure(path: Path, error: OSError) -> StorageError:
    """The error for a file that this process could not write."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (StorageFullError if full else StorageError)(f"cannot write {path}: {error}")


class Ffmpeg:
    """A running ffmpeg. `stdin` or `stdout` is a pipe, as asked for. What it writes to stderr is kept, the last
    `most_lines` of it, so that it can neither block ffmpeg nor fill the memory. `memory_bytes` is the most address
    space that it may use: some hundred bytes of a video's index can stand for gigabytes."""

    def __init__(
        self,
        arguments: list[str],
        *,
        reads_stdin: bool = False,
        writes_stdout: bool = False,
        verbosity: str = "error",
        most_lines: int = 40,
        memory_bytes: int | None = None,
    ) -> None:
        command = [ffmpeg_path(), "-hide_banner", "-nostdin", "-v", verbosity, *arguments]
        if reads_stdin:
            command.remove("-nostdin")
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if reads_stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if writes_stdout else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal is the farm's to handle
            )
        except OSError as error:
            raise MediaError(f"cannot start ffmpeg ({command[0]}): {error}") from error
        if memory_bytes is not None:
            with suppress(OSError, ValueError):  # it has ended, or a lower limit is in force already
                resource.prlimit(self._process.pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        _running.add(self)
        self._said: deque[str] = deque(maxlen=most_lines)
        self._listener = threading.Thread(target=self._listen, name="ffmpeg-stderr", daemon=True)
        self._listener.start()

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def finish(self, timeout_s: float) -> int:
        """Wait for ffmpeg to end and return its exit status; a negative one is a signal. MediaError after
        `timeout_s`, when it is killed."""
        try:
            status = self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise MediaError(f"ffmpeg did not end within {timeout_s:g} s", advice="is the disk hanging?") from None
        self._close()
        return status

    def kill(self) -> None:
        """End it now. Fine when it has ended."""
        self._process.kill()
        self._process.wait()
        self._close()

    @property
    def said(self) -> list[str]:
        """The last lines that it wrote to stderr."""
        return list(self._said)

    def failure(self, doing: str, status: int) -> RenderFarmError:
        """The error for an exit `status` other than 0: StorageFullError when the disk is full, else MediaError."""
        said = "; ".join(line.replace("[error] ", "") for line in self._said if _WARNING not in line)
        full = is_full(said) or status == -signal.SIGXFSZ
        ended = f"ffmpeg was ended by {signal.Signals(-status).name}" if status < 0 else f"ffmpeg ended with {status}"
        message = f"cannot {doing}: {ended}: {said or 'it said nothing'}"
        if full:
            return StorageFullError(message, advice="free some space or set another temporary folder (TMPDIR)")
        return MediaError(message)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").strip()[:500]
            if text:
                self._said.append(text)

    def _close(self) -> None:
        self._listener.join(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):  # frames that were still buffered when ffmpeg went
                    pipe.close()


_running: weakref.WeakSet[Ffmpeg] = weakref.WeakSet()


@atexit.register
def _kill_all() -> None:
    """A thread that is left behind reads no more, and the video that it decodes may take long."""
    for ffmpeg in _running:
        ffmpeg._process.kill()


def ffmpeg_path() -> str:
    """The ffmpeg program: IMAGEIO_FFMPEG_EXE, imageio-ffmpeg's own, or the one on PATH. MediaError if there is none."""
    try:
        import imageio_ffmpeg  # here: the engine and its bench run where it is not installed

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MediaError(f"there is no ffmpeg: {error}", advice=install_advice("imageio_ffmpeg")) from error
