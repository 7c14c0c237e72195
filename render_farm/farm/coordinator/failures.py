"""From an exception to a `Failure`: whose fault it was. The one place that knows the exceptions of other libraries."""

from __future__ import annotations

import errno
import re

from render_farm.errors import Fault, RenderFarmError
from render_farm.scheduling.retry import Failure

_OF_A_DEVICE = re.compile(
    r"CUDA (driver )?error|cuDNN error|CU(DNN|BLAS)_STATUS_|NCCL error|uncorrectable ECC", re.IGNORECASE
)
"""The libraries under torch raise a bare RuntimeError; nothing that the process computes later is to be trusted."""
_HOW_IT_ENDED = "Worker exit type:"
_NODE_GONE = ("node has died", "node died", "node is dead", "node was terminated", "receives a SIGTERM")


def classify(error: BaseException) -> Failure:
    """Say whose fault `error` is. Ray's wrapper around a worker's exception is looked through.

    An exception nobody foresaw counts as the worker's: it is tried on another a few times, then fails the job.
    """
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
    if name == "OutOfMemoryError" or isinstance(error, MemoryError):
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
    detail = " ".join(str(error).split()) if error is not None else ""
    message = f"worker {worker} ended while it held this work" + (f": {_how(detail)}" if detail else "")
    if getattr(error, "preempted", False) or any(sign in detail for sign in _NODE_GONE):
        return Failure(fault=Fault.CLUSTER, error_class="NodeLostError", message=message)
    return Failure(fault=Fault.WORKER, error_class="WorkerDiedError", message=message)


def _how(detail: str) -> str:
    """Of what Ray says of an actor's death, how its process ended; names and addresses come before."""
    return detail[max(0, detail.find(_HOW_IT_ENDED)) :][:300]
