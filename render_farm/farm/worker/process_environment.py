"""What torch reads from a worker's environment. Ray gives a worker a process of its own, so it is set there."""

from __future__ import annotations

import os


def set_environment() -> None:
    """Set what is not set already. Call it before torch is imported."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)


_VARIABLES = {
    # Denoising and decoding take turns with blocks of 0.3 to 3 GB: fixed segments would be left in pieces.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # A failed exchange is aborted by `parallel`, which then says what failed. NCCL's own watch would end the process.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    # diffusers then reads the files of a checkpoint side by side.
    "HF_ENABLE_PARALLEL_LOADING": "1",
    # Eight workers of a host that compile at once share its cores.
    "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, (os.cpu_count() or 1) // 8)),
}
