"""A farm that observes nothing, or counts what observing costs it: changed in every process as it imports the farm.

`observing_demo.py` puts a `sitecustomize` on the path of a demo's processes that calls `install`. Nothing in the farm
itself switches these off but previews, for nobody would want it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

MODE = "RENDER_FARM_BENCH_OBSERVING"
"""`on`: as it is; `off`: nothing is observed; `counted`: CPU seconds go into files of `FOLDER`."""
FOLDER = "RENDER_FARM_BENCH_FOLDER"
PARTS = ("previews", "metrics", "log", "live", "report", "seams", "step")
_COUNTS = struct.Struct("<qd")


def install() -> None:
    """Watch for the farm's modules. Called once a process, before anything of the farm is imported."""
    changes = {"off": _SILENCED, "counted": _COUNTED}.get(os.environ.get(MODE, ""))
    if changes is not None:
        sys.meta_path.insert(0, _Finder(changes))


def read_counts(folder: Path) -> dict[str, tuple[int, float]]:
    """Calls and CPU seconds of each part, of all processes of a counted demo."""
    found = dict.fromkeys(PARTS, (0, 0.0))
    for path in folder.glob("*.counts"):
        for index, part in enumerate(PARTS):
            calls, seconds = _COUNTS.unpack_from(path.read_bytes(), index * _COUNTS.size)
            found[part] = found[part][0] + calls, found[part][1] + seconds
    return found


# --- nothing is observed ---


def _nothing(*_: Any, **__: Any) -> None:
    return None


async def _nothing_awaited(*_: Any, **__: Any) -> None:
    return None


def _silence(*names: str) -> Callable[[ModuleType], None]:
    """Methods that do nothing any more, as `Class.method`."""

    def change(module: ModuleType) -> None:
        for name in names:
            owner, _, method = name.partition(".")
            is_async = method == "_write_live"
            setattr(getattr(module, owner), method, _nothing_awaited if is_async else _nothing)

    return change


def _no_seams(module: ModuleType) -> None:
    _silence("SeamMeter.begin", "SeamMeter.add")(module)
    module.SeamMeter.seams = lambda _: ()  # type: ignore[attr-defined]


_SILENCED: dict[str, Callable[[ModuleType], None]] = {
    "render_farm.farm.ray_cluster.ray_metrics": _silence(
        *(f"RayMetrics.{name}" for name in ("__init__", "add", "set", "observe"))
    ),
    "render_farm.farm.worker.metrics": _silence("WorkerMetrics.__init__", "WorkerMetrics.close"),
    "render_farm.farm.coordinator.metrics": _silence("FarmMetrics.sample"),
    "render_farm.farm.run.log": _silence("RunLog.add", "RunLog.flush"),
    "render_farm.farm.run.owned_run": _silence("OwnedRun._write_live"),
    "render_farm.media.seam_score": _no_seams,
}


# --- what it costs is counted ---


class _Counter:
    """CPU seconds of threads inside what is counted, by part, in a file that outlives the process' sudden end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._totals = [(0, 0.0)] * len(PARTS)
        path = Path(os.environ[FOLDER], f"{os.getpid()}.counts")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(self._file, bytes(_COUNTS.size * len(PARTS)), 0)

    @contextmanager
    def counting(self, part: str) -> Iterator[None]:
        """Count the block. What is inside another counted block is that one's."""
        if getattr(self._inside, "part", ""):
            yield
            return
        self._inside.part = part
        began = time.thread_time()
        try:
            yield
        finally:
            self._inside.part = ""
            self.add(part, time.thread_time() - began)

    def is_inside(self, part: str) -> bool:
        return getattr(self._inside, "part", "") == part

    def add(self, part: str, seconds: float, calls: int = 1) -> None:
        index = PARTS.index(part)
        with self._lock:
            self._totals[index] = self._totals[index][0] + calls, self._totals[index][1] + seconds
            os.pwrite(self._file, _COUNTS.pack(*self._totals[index]), index * _COUNTS.size)


_counters: dict[int, _Counter] = {}
_making = threading.Lock()


def _counter() -> _Counter:
    """This process' own: Ray's may be forked."""
    with _making:
        if os.getpid() not in _counters:
            _counters[os.getpid()] = _Counter()
        return _counters[os.getpid()]


def _counted(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    def counted(*values: Any, **named: Any) -> Any:
        with _counter().counting(part):
            return function(*values, **named)

    return counted


def _count(**parts: Sequence[str]) -> Callable[[ModuleType], None]:
    """Functions, or methods as `Class.method`, whose CPU time is a part's."""

    def change(module: ModuleType) -> None:
        for part, names in parts.items():
            for name in names:
                owner: Any = module
                *path, last = name.split(".")
                for step in path:
                    owner = getattr(owner, step)
                setattr(owner, last, _counted(getattr(owner, last), part))

    return change


def _count_steps(module: ModuleType) -> None:
    """What a step tells the coordinator, Ray's part included."""
    render = module.FilmWorker.render_segment  # type: ignore[attr-defined]

    def counted(*values: Any, on_step: Callable[..., Any] | None = None, **named: Any) -> Any:
        return render(*values, on_step=on_step and _counted(on_step, "step"), **named)

    module.FilmWorker.render_segment = counted  # type: ignore[attr-defined]


def _count_ffmpeg(module: ModuleType) -> None:
    """A preview's ffmpeg, by its own account, before it is collected."""
    import psutil

    finish = module.Ffmpeg.finish  # type: ignore[attr-defined]

    def counted(self: Any, timeout_s: float) -> int:
        if _counter().is_inside("previews"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            times = psutil.Process(self.pid).cpu_times()
            _counter().add("previews", times.user + times.system, calls=0)
        return finish(self, timeout_s)

    module.Ffmpeg.finish = counted  # type: ignore[attr-defined]


def _count_written(module: ModuleType) -> None:
    """Objects that are there to be looked at."""
    write = module.LocalStore.write_bytes  # type: ignore[attr-defined]

    def counted(self: Any, key: str, *values: Any, **named: Any) -> None:
        if key.endswith("/live.json"):
            with _counter().counting("live"):
                return write(self, key, *values, **named)
        return write(self, key, *values, **named)

    module.LocalStore.write_bytes = counted  # type: ignore[attr-defined]


_COUNTED: dict[str, Callable[[ModuleType], None]] = {
    "render_farm.farm.ray_cluster.ray_metrics": _count(
        metrics=[f"RayMetrics.{name}" for name in ("add", "set", "observe")]
    ),
    "render_farm.farm.worker.metrics": _count(metrics=["WorkerMetrics.report"]),
    "render_farm.farm.coordinator.metrics": _count(metrics=["FarmMetrics.sample"]),
    "render_farm.farm.run.log": _count(log=["RunLog.add", "RunLog.flush"]),
    "render_farm.farm.run.progress": _count(live=["RunProgress.snapshot"]),
    "render_farm.storage.local": _count_written,
    "render_farm.media.seam_score": _count(seams=[f"SeamMeter.{name}" for name in ("begin", "add", "seams")]),
    "render_farm.media.preview": _count(previews=["_feed"]),
    "render_farm.media.ffmpeg": _count_ffmpeg,
    "render_farm.farm.worker.films.film_preview": _count(
        previews=[f"FilmPreview.{name}" for name in ("add", "end", "_make", "_end_playlist")]
    ),
    "render_farm.cli.report": _count(report=["RunReporter._work"]),
    "render_farm.cli.watch.progress": _count(log=["LineWatcher.show"]),
    "render_farm.report.run_folder": _count(report=["RunFolderReader._bytes"]),
    "render_farm.farm.worker.film_worker": _count_steps,
}


# --- as they are imported ---


class _Finder(importlib.abc.MetaPathFinder):
    """Changes modules once they have been executed."""

    def __init__(self, changes: dict[str, Callable[[ModuleType], None]]) -> None:
        self._changes = changes
        self._busy = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self._changes.get(name)
        if change is None or getattr(self._busy, "on", False):
            return None
        self._busy.on = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._busy.on = False
        assert spec is not None and spec.loader is not None, f"there is no module {name}"
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            change(module)

        loader.exec_module = execute_and_change
        return spec
