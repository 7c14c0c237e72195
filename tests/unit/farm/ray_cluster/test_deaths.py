"""Which of Ray's exceptions mean that a process is gone."""

from __future__ import annotations

import pytest
from ray import exceptions as ray

from render_farm.farm.ray_cluster.deaths import is_death, is_memory_kill, is_node_loss

DEATHS = [
    ray.RayActorError(error_msg="Worker exit type: SYSTEM_ERROR"),
    ray.ActorDiedError(),
    ray.ActorUnavailableError("The actor is temporarily unavailable", b"0" * 16),
    ray.OutOfMemoryError("Task was killed due to the node running low on memory."),
    ray.NodeDiedError("The node is dead"),
    ray.LocalRayletDiedError(),
    ray.WorkerCrashedError(),
    ray.ActorPlacementGroupRemoved(),
    ray.ActorUnschedulableError("no node has the label"),
    ray.RaySystemError("the gRPC channel is closed"),
]


@pytest.mark.parametrize("error", DEATHS, ids=lambda error: type(error).__name__)
def test_a_process_that_is_gone(error: ray.RayError) -> None:
    assert is_death(error)
    assert is_memory_kill(error) is isinstance(error, ray.OutOfMemoryError)
    assert is_node_loss(error) is isinstance(
        error, ray.NodeDiedError | ray.LocalRayletDiedError | ray.ActorPlacementGroupRemoved
    )


def test_an_exception_of_the_process_itself_is_no_death() -> None:
    for cause in (MemoryError(), ray.OutOfMemoryError("of a process that this one called"), RuntimeError("a bug")):
        answer = ray.RayTaskError("render_segment", "traceback", cause).as_instanceof_cause()
        assert not is_death(answer)
    for error in (ray.GetTimeoutError(), ray.TaskCancelledError(), TimeoutError(), ConnectionError()):
        assert not is_death(error)
