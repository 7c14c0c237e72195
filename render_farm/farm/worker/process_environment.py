"""What torch reads from a worker's environment. Ray gives a worker a process of its own, so it is set there."""

from __future__ import annotations

import os
from importlib.metadata import version


def set_environment() -> None:
    """Set what is not set already. Call it before torch is imported."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PYTORCH_ALLOC_CONF", _allocation(version("torch")))


_VARIABLES = {
    # A failed exchange is aborted by `parallel`, which then says what failed. NCCL's own watch would end the process.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    # diffusers then reads the files of a checkpoint side by side.
    "HF_ENABLE_PARALLEL_LOADING": "1",
    # Eight workers of a host that compile at once share its cores.
    "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, (os.cpu_count() or 1) // 8)),
}


def _allocation(torch_version: str) -> str:
    # Denoising and decoding take turns with blocks of 0.3 to 3 GB: fixed segments would be left in pieces.
    found = "expandable_segments:True"
    if tuple(map(int, torch_version.split(".")[:2])) >= (2, 13):  # a CUDA build refuses names that it does not know
        # Pinned memory is rounded up to a power of two (41 GB for the 28.6 GB of 14B) unless a block is larger than
        # what torch keeps for the next time. `pinned_max_round_threshold_mb` would not do. With it alone, torch 2.13
        # hands out kept blocks that are too small (pytorch/pytorch#192722).
        found += ",pinned_max_cached_size_mb:32"
    return found
