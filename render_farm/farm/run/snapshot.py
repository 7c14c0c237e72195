"""What a person watching a run is shown: frozen pictures of its state, made by the coordinator, free of Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from render_farm.observability.events import LogLine


@dataclass(frozen=True, kw_only=True)
class JobSnapshot:
    """One film at one moment."""

    job_id: str
    state: str
    """`waiting running done failed cancelled`."""
    num_segments: int = 0
    segments_done: int = 0
    step: int = 0
    """Steps done of the segment that is being rendered."""
    num_steps: int = 0
    phase: str = ""
    """What is happening now: `text`, `denoise`, `decode`, `publish`, or empty."""
    worker: str = ""
    message: str = ""
    """Why it failed, or that it was already there."""


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """One run at one moment. `jobs` holds those that run and those that changed since the last picture asked for."""

    run_id: str
    output: str
    state: str
    num_jobs: int
    counts: dict[str, int] = field(default_factory=dict)
    """Jobs by state."""
    num_segments: int = 0
    segments_done: int = 0
    steps_per_s: float = 0.0
    eta_s: float | None = None
    num_workers: int = 0
    workers_busy: int = 0
    engine_s: float = 0.0
    """How long the workers' processes were denoising or decoding, added up, as they last reported."""
    jobs: tuple[JobSnapshot, ...] = ()
    log: tuple[LogLine, ...] = ()
    note: str = ""
    """What the run waits for, when it does (workers starting, text encoding)."""


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended; `render --json` prints exactly these."""

    run_id: str
    output: str
    state: str
    jobs: dict[str, int]
    """Jobs by state."""
    exit_code: int
