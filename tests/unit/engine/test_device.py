"""Devices: their errors, and names that are none."""

from __future__ import annotations

import pytest
import torch

from render_farm.engine import load_engine
from render_farm.engine.device import device_errors, vae_precision
from render_farm.errors import (
    Cancelled,
    DeviceError,
    OutOfMemoryError,
    UsageError,
)


def test_unknown_device_and_dtype() -> None:
    with pytest.raises(UsageError, match="device 'gpu'"):
        load_engine("tiny", device="gpu")
    with pytest.raises(UsageError, match="dtype 'int4' is not one of"):
        load_engine("tiny", device="cpu", dtype="int4")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="finds no CUDA device"):
            load_engine("tiny", device="cuda")


def test_device_errors_say_whose_fault_it_is() -> None:
    with pytest.raises(OutOfMemoryError, match="segment 1 does not fit"), device_errors("segment 1"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore")
    with pytest.raises(OutOfMemoryError, match="segment 1 does not fit"), device_errors("segment 1"):
        torch.empty(2**60, dtype=torch.uint8)
    for said in ("Triton Error [CUDA]: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"):
        with pytest.raises(OutOfMemoryError, match="segment 1 does not fit"), device_errors("segment 1"):
            raise RuntimeError(said)
    with pytest.raises(OutOfMemoryError, match="segment 1 does not fit"), device_errors("segment 1"):
        raise torch.AcceleratorError("CUDA error: out of memory")
    with pytest.raises(DeviceError, match="segment 1: the device failed"), device_errors("segment 1"):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(Cancelled), device_errors("segment 1"):
        raise Cancelled("asked to stop")
    with pytest.raises(RuntimeError, match="a bug"), device_errors("segment 1"):
        raise RuntimeError("a bug")


def test_a_broken_context_is_found_whatever_the_error_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(DeviceError, match="illegal memory access"), device_errors("segment 1"):
        raise RuntimeError("an error of a library")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with pytest.raises(RuntimeError, match="a bug"), device_errors("segment 1"):
        raise RuntimeError("a bug")


def test_an_engine_chooses_tf32_for_convolutions_alone() -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = False, True
    load_engine("tiny", device="cpu")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False)
    assert vae_precision(torch.device("cuda")) == "tf32"
    assert vae_precision(torch.device("cpu")) == "float32"
