"""render_farm: a distributed batch renderer for long SkyReels-V2 video.

From Python, one film in this process is `load_engine`. A run is `render_run` (here, or on a Ray cluster that this
process is connected to) or `submit` (as a Ray Job), and `run_status` says how it stands.

``import render_farm`` loads neither torch nor Ray nor pyarrow: names load what they need when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from render_farm.job import RenderJob

if TYPE_CHECKING:
    from render_farm.api import run_status, submit
    from render_farm.engine import Engine
    from render_farm.farm.driver.ray_job import Submitted
    from render_farm.farm.driver.render_run import render_run
    from render_farm.farm.run.outcome import RunOutcome
    from render_farm.farm.run.request import RunRequest
    from render_farm.farm.run.settings import Settings, load_settings
    from render_farm.observability.snapshot import RunSnapshot
    from render_farm.report.status import RunStatus

__version__: str
__all__ = [
    "RenderJob",
    "RunOutcome",
    "RunRequest",
    "RunSnapshot",
    "RunStatus",
    "Settings",
    "Submitted",
    "__version__",
    "load_engine",
    "load_settings",
    "render_run",
    "run_status",
    "submit",
]

_HOME = {
    "RunOutcome": "farm.run.outcome",
    "RunRequest": "farm.run.request",
    "RunSnapshot": "observability.snapshot",
    "RunStatus": "report.status",
    "Settings": "farm.run.settings",
    "Submitted": "farm.driver.ray_job",
    "load_settings": "farm.run.settings",
    "render_run": "farm.driver.render_run",
    "run_status": "api",
    "submit": "api",
}


def load_engine(model: str = "tiny", *, device: str = "auto", dtype: str | None = None) -> Engine:
    """Load a model and return an `Engine` (see `render_farm.engine.load_engine`, which this calls)."""
    from render_farm.engine import load_engine as load

    return load(model, device=device, dtype=dtype)


if not TYPE_CHECKING:  # a checker would take every name for one of this package

    def __getattr__(name: str) -> Any:
        """`__version__` and the farm's names, when they are asked for."""
        if name == "__version__":
            return _version()
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def _version() -> str:
    """That of the installed package, which names its commit."""
    from importlib import metadata

    try:
        return metadata.version("render_farm")
    except metadata.PackageNotFoundError:  # a folder on the path
        return "0+unknown"
