"""Names under which Ray's dashboard lists what workers do.

Ray counts tasks by name, at every node's Prometheus endpoint, for as long as the processes live: with the names of
films each film would be nine series there. So films are named only where Ray leaves names out of its metrics
(`RAY_metric_cardinality_level=low` on the cluster's machines); elsewhere tasks keep the names of their methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VARIABLE = "RAY_metric_cardinality_level"


class TaskNames:
    """Names calls of actors. Made once, by the coordinator."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._are_free = environment.get(_VARIABLE, "").lower() == "low"

    def named(self, method: Any, name: str) -> Any:
        """`method` of an actor's handle, its next call listed as `name` where names cost nothing."""
        return method.options(name=name) if self._are_free else method


def segment_name(job_id: str, segment: int, num_segments: int) -> str:
    """`shot-1: segment 2/5`; `segment` is counted from 0."""
    return f"{job_id}: segment {segment + 1}/{num_segments}"


def finish_name(job_id: str) -> str:
    """`shot-1: finishing`."""
    return f"{job_id}: finishing"
