"""Tells which of Ray's exceptions mean that a process is gone. No other file knows."""

from __future__ import annotations

from ray import exceptions as ray

_OF_THE_CALL = (
    ray.RayTaskError,  # the process answered, with an exception of its own
    ray.TaskCancelledError,
    ray.GetTimeoutError,
    ray.PendingCallsLimitExceeded,
    ray.UnserializableException,
    ray.AuthenticationError,
    ray.RuntimeEnvSetupError,
)
"""What Ray raises of one call, or before a process exists."""
_NODE_GONE = ("node has died", "node died", "node is dead", "node was terminated", "receives a SIGTERM")


def is_death(error: BaseException) -> bool:
    """Whether a call failed because the process that was to answer is gone, or cannot be reached.

    Ray has a dozen classes for that without a common base: `RayActorError` of an actor that ended, `OutOfMemoryError`
    of one that the memory monitor killed, `NodeDiedError`, `LocalRayletDiedError`, `WorkerCrashedError`, those of
    removed placement groups. So everything counts that Ray raises in the place of an answer.
    """
    return isinstance(error, ray.RayError) and not isinstance(error, _OF_THE_CALL)


def is_memory_kill(error: BaseException) -> bool:
    """Whether Ray's memory monitor ended the process, because its machine ran out of memory."""
    return isinstance(error, ray.OutOfMemoryError)


def is_node_loss(error: BaseException) -> bool:
    """Whether the machine of the process left the cluster: a spot instance, a drained node."""
    if isinstance(error, ray.NodeDiedError | ray.LocalRayletDiedError | ray.ActorPlacementGroupRemoved):
        return True
    return bool(getattr(error, "preempted", False)) or any(sign in str(error) for sign in _NODE_GONE)
