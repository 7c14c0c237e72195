"""render_farm: a distributed batch renderer for long SkyReels-V2 video.

``import render_farm`` loads neither torch nor Ray: `load_engine` imports them when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from render_farm.job import RenderJob

if TYPE_CHECKING:
    from render_farm.engine import Engine

__version__: str
__all__ = ["RenderJob", "__version__", "load_engine"]


def load_engine(model: str = "tiny", *, device: str = "auto", dtype: str | None = None) -> Engine:
    """Load a model and return an `Engine` (see `render_farm.engine.load_engine`, which this calls)."""
    from render_farm.engine import load_engine as load

    return load(model, device=device, dtype=dtype)


if not TYPE_CHECKING:  # a checker would take every name for one of this package

    def __getattr__(name: str) -> str:
        """`__version__`, when it is asked for: that of the installed package, which names its commit."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import metadata

        try:
            return metadata.version("render_farm")
        except metadata.PackageNotFoundError:  # a folder on the path
            return "0+unknown"
