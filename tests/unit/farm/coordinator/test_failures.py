"""Whose fault an exception is, and whether its process may go on."""

from __future__ import annotations

import errno

import pytest
from ray.exceptions import ActorUnschedulableError, NodeDiedError
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError

from render_farm.errors import DeviceError, Fault, PreemptedError, StorageUnavailableError, UsageError
from render_farm.farm.coordinator.failures import classify, died
from render_farm.scheduling.retry import rule_for


class AcceleratorError(RuntimeError):
    """As torch's, which is looked at by its name: the coordinator loads no torch."""


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "fault", "error_class", "poisons"),
    [
        (DeviceError("segment 1: the device failed"), Fault.WORKER, "DeviceError", True),
        (AcceleratorError("an illegal memory access was encountered"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("CUDA error: device-side assert triggered"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("CUDA driver error: unknown error"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("NCCL Error 2: unhandled system error"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("cuDNN Frontend error: no plan"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("Unable to find an engine to execute this computation"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("nvrtc: error: failed to open builtins"), Fault.WORKER, "DeviceError", True),
        (RuntimeError("a bug"), Fault.WORKER, "RuntimeError", False),
        (OutOfMemoryError("CUDA out of memory"), Fault.JOB, "OutOfMemoryError", False),
        (MemoryError(), Fault.WORKER, "HostMemoryError", False),
        (RayOutOfMemoryError("The node ran low on memory"), Fault.WORKER, "HostMemoryError", False),
        (NodeDiedError("The node is dead"), Fault.CLUSTER, "NodeLostError", False),
        (ActorUnschedulableError("no node fits"), Fault.WORKER, "WorkerDiedError", False),
        (OSError(errno.ENOSPC, "No space left on device"), Fault.CLUSTER, "StorageFullError", False),
        (StorageUnavailableError("503"), Fault.CLUSTER, "StorageUnavailableError", False),
        (PreemptedError("asked to end"), Fault.CLUSTER, "PreemptedError", False),
        (UsageError("of a worker"), Fault.WORKER, "UsageError", False),
    ],
)
def test_whose_fault_it_is(error, fault, error_class, poisons):
    failure = classify(error, worker="worker-0.1")
    assert (failure.fault, failure.error_class, failure.poisons_process) == (fault, error_class, poisons)
    assert failure.message


def test_rays_wrapper_is_looked_through():
    wrapped = RuntimeError("ray::RenderWorker.render_segment() ...")
    wrapped.cause = AcceleratorError("ECC")  # type: ignore[attr-defined]
    assert rule_for(classify(wrapped, worker="worker-0.1")).ends_process


@pytest.mark.parametrize(
    ("said", "error_class"),
    [
        ("The actor died because its node has died. Node Id: 1", "NodeLostError"),
        ("The actor is dead because its node was terminated: preempted", "NodeLostError"),
        ("Worker unexpectedly exits with a connection error code 2", "WorkerDiedError"),
    ],
)
def test_a_machine_that_leaves_is_no_workers_fault(said, error_class):
    failure = died("worker-0.1", RuntimeError(said))
    assert failure.error_class == error_class
    assert rule_for(failure).counted is (error_class == "WorkerDiedError")


def test_a_death_is_told_from_how_the_process_ended():
    said = f"actor {'0' * 400} Worker exit type: SYSTEM_ERROR Worker exit detail: The OOM killer ended it. {'x' * 400}"
    assert "held this work: Worker exit type: SYSTEM_ERROR Worker exit detail: The OOM killer ended it." in (
        died("worker-0.1", RuntimeError(said)).message
    )
