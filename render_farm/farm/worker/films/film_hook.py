"""The operator's hook: a process that looks at a finished film and says whether to publish it.

It answers in lines on stdout. No line at all is `pass`:

    pass                    publish it
    fail: REASON            do not
    finding: NAME[@FRAMES]  goes to the film's findings

What it writes into its working directory is published beside the film. A function of Python returns the lines instead,
and gets the directory. Time-outs, crashes and other answers are faults of the worker's side, and never of the film.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from render_farm.errors import FilmRefusedError, HookError
from render_farm.farm.run.hook_settings import HookSettings
from render_farm.storage.layout import JOB, is_extra_name

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FINDING = re.compile(r"[a-z][a-z0-9_-]{0,39}(@[0-9,-]{1,100})?")
_MOST_FINDINGS = 100
_MOST_FILES = 16
_MOST_FILE_BYTES = 256 << 20
_MOST_ANSWER_BYTES = 64 << 10
_LOOK_EVERY_S = 0.2
_NICENESS = 10
_NOT_ITS = ("RENDER_FARM_", "RAY_")
"""Variables that hold secrets of the farm: of notifications, of signing, of the cluster."""


@dataclass(frozen=True, kw_only=True)
class HookAnswer:
    """What follows for a film that may be published."""

    findings: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    """Extra files by final name."""


def run_hook(
    settings: HookSettings, video: Path, document: Mapping[str, Any], folder: Path, go_on: Callable[[], None]
) -> HookAnswer:
    """Run the hook on a finished film.

    Args:
        video: The film. Its poster lies beside it.
        document: What `job.json` will say, without what publishing adds.
        folder: A new folder for the hook's own files. The caller removes it.
        go_on: Called several times a second. What it raises ends the hook.

    Raises:
        FilmRefusedError: The hook says `fail`.
        HookError: It cannot be started, took too long, failed, or gave an answer that is none.
    """
    assert settings.on_film is not None
    extra = folder / "files"
    extra.mkdir(parents=True)
    (folder / JOB).write_text(json.dumps(document))
    before = _state(video)
    _run(_command(settings.on_film), [str(video), str(folder / JOB)], extra, settings.timeout_s, go_on)
    if _state(video) != before:
        raise HookError("the hook changed the film", advice="it may write files into its working directory only")
    findings = _findings((extra.parent / "answer").read_bytes())
    return HookAnswer(findings=findings, files=_files(extra))


def _command(on_film: str) -> list[str]:
    if _FUNCTION.fullmatch(on_film):
        return [sys.executable, "-P", "-m", "render_farm.farm.worker.films.hook_function", on_film]
    try:
        return shlex.split(on_film)
    except ValueError as error:
        raise HookError(f"[hooks] on_film is no command: {error}") from error


def _environment() -> dict[str, str]:
    """This process's, without secrets of the farm and without GPUs. Modules are found where this process finds them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_ITS)}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)), "CUDA_VISIBLE_DEVICES": ""}


def _run(command: list[str], arguments: list[str], extra: Path, timeout_s: float, go_on: Callable[[], None]) -> None:
    """Run it in `extra`. What it prints is `answer` beside that folder."""
    said = extra.parent / "stderr"
    with open(extra.parent / "answer", "wb") as answer, open(said, "wb") as errors:
        try:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=extra,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=errors,
                start_new_session=True,  # what it starts is ended with it
            )
        except OSError as error:
            raise HookError(f"the hook cannot be started: {error.strerror}", advice=_EVERYWHERE) from error
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        deadline = time.monotonic() + timeout_s
        try:
            while process.poll() is None:
                go_on()
                if time.monotonic() > deadline:
                    raise HookError(f"the hook took more than {timeout_s:g} s", advice="raise timeout_s in [hooks]")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_LOOK_EVERY_S)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        last = said.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        how = f"ended with {process.returncode}" + (f": {last[-1][:300]}" if last else "")
        raise HookError(f"the hook {how}", advice=_EVERYWHERE)


_EVERYWHERE = "it must be installed on every machine that renders"


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def _findings(answer: bytes) -> tuple[str, ...]:
    if len(answer) > _MOST_ANSWER_BYTES:
        raise HookError(f"the hook answered {len(answer):,} bytes", advice="it may print to stderr")
    findings, refusal = [], None
    for line in filter(None, map(str.strip, answer.decode(errors="replace").splitlines())):
        word, _, rest = line.partition(":")
        rest = " ".join(rest.split())
        if word == "fail":
            refusal = rest or "it gave no reason"
        elif word == "finding" and _FINDING.fullmatch(rest):
            findings.append(rest)
        elif line != "pass":
            raise HookError(
                f"the hook answered {line[:100]!r}", advice="pass, fail: REASON and finding: NAME@FRAMES are answers"
            )
    if len(findings) > _MOST_FINDINGS:
        raise HookError(f"the hook has {len(findings)} findings, and {_MOST_FINDINGS} are allowed")
    if refusal is not None:
        raise FilmRefusedError(f"refused by the hook: {refusal[:1000]}", findings=tuple(findings))
    return tuple(findings)


def _files(extra: Path) -> dict[str, Path]:
    found = {path.name: path for path in sorted(extra.iterdir())}
    wrong = [name for name, path in found.items() if path.is_symlink() or not path.is_file() or not is_extra_name(name)]
    if wrong:
        raise HookError(
            f"the hook left {wrong[0][:100]!r}, which cannot be published",
            advice="files can whose name has letters, digits, '.', '_' and '-', and is none of the farm's. Web pages "
            "and scripts cannot",
        )
    num_bytes = sum(path.stat().st_size for path in found.values())
    if len(found) > _MOST_FILES or num_bytes > _MOST_FILE_BYTES:
        raise HookError(
            f"the hook left {len(found)} files with {num_bytes:,} bytes",
            advice=f"{_MOST_FILES} files with {_MOST_FILE_BYTES:,} bytes are allowed",
        )
    return found
