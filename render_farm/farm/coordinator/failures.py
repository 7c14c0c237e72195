"""From an exception to a `Failure`: whose fault it was. The one place that knows the exceptions of other libraries."""

from __future__ import annotations

import errno
import re

from render_farm.errors import Fault, RenderFarmError
from render_farm.farm.ray_cluster.deaths import is_death, is_memory_kill, is_node_loss
from render_farm.scheduling.retry import Failure

_OF_A_DEVICE = re.compile(
    r"CUDA (driver )?error|Triton Error \[CUDA\]|cudaError|CUDA kernel|cuDNN (Frontend )?error|CU(DNN|BLAS)_STATUS_|"
    r"unable to find an engine to execute|nvrtc|device-side assert|misaligned address|NCCL error|uncorrectable ECC",
    re.IGNORECASE,
)
"""The libraries under torch raise a bare RuntimeError; nothing that the process computes later is to be trusted."""
_HOW_IT_ENDED = "Worker exit type:"


def classify(error: BaseException, *, worker: str) -> Failure:
    """Say whose fault `error` of a call of `worker` is. Ray's wrapper around a worker's exception is looked through.

    An exception nobody foresaw counts as the worker's: it is tried on another a few times, then fails the job.
    """
    if is_death(error):
        return died(worker, error)
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        error = cause
    if isinstance(error, RenderFarmError):
        return Failure(
            # What would be the user's mistake on a command line is a surprise inside a worker.
            fault=Fault.WORKER if error.fault is Fault.USER else error.fault,
            error_class=type(error).__name__,
            message=str(error),
            poisons_process=type(error).__name__ in ("DeviceError", "BrokenGroupError"),
        )
    name, message = type(error).__name__, " ".join(str(error).split())[:500]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(fault=Fault.CLUSTER, error_class="StorageFullError", message=f"no space left: {message}")
    if isinstance(error, MemoryError):
        return _host_memory(f"worker {worker} could not get the memory it needed" + (f": {message}" if message else ""))
    if name == "OutOfMemoryError":
        return Failure(
            fault=Fault.JOB,
            error_class="OutOfMemoryError",
            message=f"the segment does not fit the device's memory: {message} "
            "(a smaller height, width or base_num_frames needs less)",
        )
    if name == "AcceleratorError" or _OF_A_DEVICE.search(message):
        return Failure(fault=Fault.WORKER, error_class="DeviceError", message=message, poisons_process=True)
    return Failure(fault=Fault.WORKER, error_class=name, message=message or name)


def died(worker: str, error: BaseException | None = None) -> Failure:
    """The failure of whatever a worker held when its process ended, as Ray tells it. A machine that left the cluster
    (a spot instance, a drained node) is no fault of the worker's."""
    if error is not None and is_memory_kill(error):
        return _host_memory(f"worker {worker} was killed by Ray because its machine ran out of memory")
    detail = " ".join(str(error).split()) if error is not None else ""
    message = f"worker {worker} ended while it held this work" + (f": {_how(detail)}" if detail else "")
    if error is not None and is_node_loss(error):
        return Failure(fault=Fault.CLUSTER, error_class="NodeLostError", message=message)
    return Failure(fault=Fault.WORKER, error_class="WorkerDiedError", message=message)


def _host_memory(message: str) -> Failure:
    advice = "stop what else uses the memory of that machine, or use fewer workers on it"
    return Failure(fault=Fault.WORKER, error_class="HostMemoryError", message=f"{message} ({advice})")


def _how(detail: str) -> str:
    """Of what Ray says of an actor's death, how its process ended; names and addresses come before."""
    return detail[max(0, detail.find(_HOW_IT_ENDED)) :][:300]
