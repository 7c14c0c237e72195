"""A command that adds its run while the coordinator dies, on a real Ray: `python -m tests.farm.dying_coordinator
ADDRESS FOLDER`. A process of its own, for Ray reads its token mode when it is imported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from render_farm.farm.driver import run_watch
from render_farm.farm.driver.connection import connect
from render_farm.farm.run.spec import RunSpec


class Coordinator:
    """Dies in its first lives as soon as it is asked for something."""

    def __init__(self, folder: str, num_deaths: int) -> None:
        number = len(list(Path(folder).iterdir()))
        Path(folder, str(number)).touch()
        self._dies = number < num_deaths

    def add_run(self, *_: Any) -> bool:
        if self._dies:
            os._exit(1)
        return True

    def seal_run(self, *_: Any) -> None:
        assert not self._dies


def watch(folder: Path, num_deaths: int) -> run_watch.RunWatch:
    """What a command does with a coordinator that dies so often."""
    folder.mkdir()
    actor = ray.remote(Coordinator).options(num_cpus=0, max_restarts=-1).remote(str(folder), num_deaths)
    nothing: Any = None
    cluster: Any = SimpleNamespace(private=False, environment=None, coordinator=lambda shape: actor)
    spec = RunSpec(run_id="r", output=str(folder))
    prepared: Any = SimpleNamespace(entries=[])
    return run_watch.RunWatch(cluster, nothing, spec, prepared, nothing, nothing)


def main(address: str, folder: Path) -> None:
    run_watch._ADD_AGAIN_S = 0.1
    with connect(address, num_workers=None):
        patient = watch(folder / "two", 2)
        patient._add()
        run_watch._ADD_WITHIN_S = 0.5
        given_up = ""
        try:
            watch(folder / "all", 1000)._add()
        except run_watch.CoordinatorEndedError as error:
            given_up = str(error).partition(":")[0]
    lives = len(list((folder / "two").iterdir()))
    print(json.dumps({"num_lives": lives, "is_added": patient.is_added, "given_up": given_up}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
