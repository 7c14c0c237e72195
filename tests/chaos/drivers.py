"""`render-farm render` as a process of its own that starts at once: it is forked from a server which has imported torch
and diffusers before (half of a short run's time otherwise). Everything else is as a shell would start it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from tests.helpers import films


class Driver(Protocol):
    """A running command."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""

    def kill(self) -> None:
        """SIGKILL."""

    def output(self) -> str:
        """What it wrote to standard output so far."""


class ForkedDriver:
    """See the module."""

    def __init__(self, arguments: list[str], environment: dict[str, str], output: Path, errors: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["render_farm.engine", "render_farm.cli.rendering.render", "tests.chaos.drivers"]
        )
        self._output = output
        self._process: BaseProcess = context.Process(
            target=_main, args=(arguments, environment, str(output), str(errors))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""


class FreshDriver:
    """The same, started from nothing: for environments that a process must be born with."""

    def __init__(self, arguments: list[str], environment: dict[str, str], output: Path, errors: Path) -> None:
        self._output = output
        with open(output, "a") as out, open(errors, "a") as err:
            command = films.command("render", *arguments)
            self._process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, process_group=0)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        self._process.kill()

    def output(self) -> str:
        return self._output.read_text()


def _main(arguments: list[str], environment: dict[str, str], output: str, errors: str) -> None:
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    from render_farm.cli.main import main

    sys.argv = ["render-farm", "render", *arguments]
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # a forked process leaves them out otherwise
