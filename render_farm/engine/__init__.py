"""The engine: one SkyReels-V2 model on one device. torch, diffusers, transformers and safetensors; no Ray.

Importing the package loads none of them. Its names do when they are first used, so that code which only reads a model's
files (`checkpoint`, `locate`) does not wait for torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from render_farm.engine.conditioning.conditioning import Conditioning, Inputs
    from render_farm.engine.decoding.streaming import StreamingDecoder
    from render_farm.engine.decoding.video import Video
    from render_farm.engine.engine import Engine, load_engine
    from render_farm.engine.progress import StepProgress

__all__ = ["Conditioning", "Engine", "Inputs", "StepProgress", "StreamingDecoder", "Video", "load_engine"]

_HOME = {
    "Conditioning": "conditioning.conditioning",
    "Engine": "engine",
    "Inputs": "conditioning.conditioning",
    "StepProgress": "progress",
    "StreamingDecoder": "decoding.streaming",
    "Video": "decoding.video",
    "load_engine": "engine",
}


# Where several processes share the cores, as workers on a CPU do, threads that wait for each other by spinning keep the
# working ones from running: ten times the CPU seconds were measured. OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
