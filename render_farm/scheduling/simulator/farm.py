"""`SimulatedFarm`: what there is to render on and how it behaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SimulatedFarm:
    """Times in seconds, rates per node and hour. Everything drawn at random follows from `seed`."""

    num_gpus: int
    gpus_per_node: int = 8
    failures_per_hour: float = 0.0
    """Nodes that die, and are back after `repair_s`."""
    preemptions_per_hour: float = 0.0
    """Nodes that are taken away, and given back after `repair_s`."""
    faults_per_segment: float = 0.0
    """Segments that fail by their worker's fault, half way."""
    repair_s: float = 600.0
    start_s: float = 30.0
    """From a worker's end to the next one's being ready."""
    load_s: float = 60.0
    """Loading a model."""
    adapters_s: float = 2.0
    """Changing LoRAs of a model that is loaded."""
    forming_s: float = 0.0
    """Forming a group. One whose workers rendered their last segment together is kept."""
    finish_s: float = 20.0
    """Decoding and publishing what is left of a film after its last segment, alongside other work."""
    hand_over_s: float = 0.1
    """Between two segments of a worker: storing, deciding, calling."""
    noise: float = 0.03
    """Standard deviation of the logarithm of a segment's time by its expectation."""
    seed: int = 0
