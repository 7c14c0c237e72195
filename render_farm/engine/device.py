"""The device a model runs on: its choice, dtype, memory and errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from render_farm.engine.dtypes import canonical_dtype
from render_farm.errors import DeviceError, HostMemoryError, OutOfMemoryError, UsageError


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is some, else the CPU. Raises `UsageError` for what torch does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: {str(error).splitlines()[0]}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: torch finds no CUDA device here", advice="use cpu or auto")
    return found


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """`auto` or None is bfloat16 on CUDA and float32 on the CPU."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    resolved: torch.dtype = getattr(torch, canonical_dtype(dtype, device.type))
    return resolved


KERNEL_FAILURES = (
    RuntimeError,
    ImportError,
    OSError,
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
    subprocess.SubprocessError,
)
"""What kernels and their packages raise where they cannot run (OSError: a library built for another machine,
SubprocessError: a compiler that fails)."""


def set_precision() -> None:
    """Choose what float32 is multiplied in on CUDA, whatever the environment or other libraries say: TF32 in
    convolutions, for its speed, and float32 in matrix products, of which only small ones are float32."""
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


def vae_precision(device: torch.device) -> str:
    """What the VAE's convolutions multiply in: `tf32` (10 bits of mantissa) or `float32`; their sums are float32."""
    return "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"


_USABLE_SHARE = 0.85
"""Of the device's memory; the rest is its runtime and fragmentation."""
_CACHE_SHARE = 0.8
"""Of what the weights leave; the rest is for activations and the VAE."""


def total_bytes(device: torch.device) -> int:
    """The memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cache_budget_bytes(model: nn.Module, device: torch.device) -> int:
    """How many bytes of keys and values may be kept next to `model`. It follows from the device's whole memory, not
    from what happens to be free, so that the same device always decides alike and renders a segment to the same bits.
    """
    here = (parameter for parameter in model.parameters() if parameter.device.type == device.type)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in here)
    return max(0, int(_CACHE_SHARE * (_USABLE_SHARE * total_bytes(device) - weights)))


@contextmanager
def device_errors(what: str) -> Iterator[None]:
    """Turn torch's device errors into the farm's, which say whose fault they are."""
    try:
        yield
    except RuntimeError as error:
        if not _is_of_memory(error):
            problem = str(error).splitlines()[0] if isinstance(error, torch.AcceleratorError) else _broken_context()
            if problem:
                raise DeviceError(f"{what}: the device failed: {problem}") from error
            raise
        if "DefaultCPUAllocator" in str(error) and torch.cuda.is_initialized():  # it has no exception class of its own
            raise HostMemoryError(
                f"{what} does not fit the memory of the machine: {str(error).splitlines()[0]}",
                advice="stop what else uses that memory, or use fewer workers on the machine",
            ) from error
        raise OutOfMemoryError(
            f"{what} does not fit the device: {str(error).splitlines()[0]}",
            advice="a smaller height, width or base_num_frames needs less, or a device with more memory",
        ) from error


def _is_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out. Triton, cuDNN and cuBLAS say so in words only."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in str(error).lower() for sign in ("defaultcpuallocator", "out of memory", "_status_alloc_failed")
    )


def _broken_context() -> str:
    """What is wrong with the GPU's context. An error that it keeps surfaces under any name, where it is next used."""
    if not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""
