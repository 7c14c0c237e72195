"""What a benchmark measures on a device: its name, time, memory, and speed of matrix products."""

from __future__ import annotations

import contextlib
import platform
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch


def device_name(device: torch.device) -> str:
    """For people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of some work."""

    seconds: float
    cpu_s: float
    """Of the process, all threads."""
    peak_bytes: int | None
    """The most memory in use: the device's tensors on CUDA, the process's on the CPU; None where it cannot be read."""


def measured(work: Callable[[], object], device: torch.device) -> Cost:
    """Run `work` and wait for the device."""
    _reset_peak(device)
    _wait(device)
    started, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return Cost(seconds=time.perf_counter() - started, cpu_s=time.process_time() - cpu, peak_bytes=_peak_bytes(device))


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product of random numbers: the most that can be reached."""
    size, repeats = (8192, 10) if device.type == "cuda" else (1024, 2)
    generator = torch.Generator(device=device).manual_seed(0)
    left, right = (torch.randn((size, size), generator=generator, device=device).to(dtype) for _ in range(2))
    rates = []
    for number in range(8):
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            left @ right
        _wait(device)
        if number >= 3:
            rates.append(repeats * 2 * size**3 / (time.perf_counter() - started))
    return median(rates)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or not allowed: then the peak is that of the process so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def num_threads(count: int | None) -> Iterator[None]:
    """torch's threads on the CPU within the block. None leaves them."""
    before = torch.get_num_threads()
    try:
        if count:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
