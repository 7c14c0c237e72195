"""The request for a run: the flags of `render` and `submit` as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from render_farm.farm.run.settings import Settings
from render_farm.observability.observer import ObserverSource

Degree = int | Literal["auto"] | None
"""Of render groups, for jobs that name none. `auto` anywhere leaves the degrees that are no numbers to the farm."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One run. Exactly one of `manifest` (a URI) and `prompt` is given."""

    output: str
    manifest: str | None = None
    prompt: str | tuple[str, ...] | None = None
    """One text, or one per segment."""
    overrides: dict[str, object] = field(default_factory=dict)
    """Columns for the one job of `prompt`."""
    relative_to: str | None = None
    """Folder or URI that relative inputs of the manifest are meant from; None: the manifest's own."""
    deadline: datetime | None = None
    """Of the jobs that have none in the manifest; it orders work, and never stops a job."""
    where: str | None = None
    """Only rows for which this expression over columns holds (`manifest.selection`)."""
    limit: int | None = None
    """Only the first so many of these rows."""
    first_segments: int | None = None
    """Only so many segments of each film, as drafts. None: whole films."""
    is_draft_manifest: bool = False
    """The manifest's rows have the ids of drafts already: it is that of the run."""
    canary: int | None = None
    """So many films are rendered first, and the run is paused when one of them fails."""
    replace: bool = False
    """Render films that are done there and were made by a run of another manifest."""
    manifest_name: str | None = None
    """What the run says of its manifest; None: `manifest`. A run that is continued reads its stored manifest."""
    run_id: str | None = None
    """None: the manifest's stem and 8 hex of its content."""
    address: str | None = None
    """`local`, `auto` or a Ray address; None: `$RAY_ADDRESS`, else `local`."""
    credentials: bool = True
    """Whether the store's credentials of this process are for the workers of a running cluster."""
    num_workers: int | None = None
    """None: every GPU of the cluster; on the CPU, a few, no more than there are films."""
    max_gpus: int | None = None
    """How far the cluster's autoscaler may be asked to go (GPUs; on the CPU, slots); None: the cluster is as it is."""
    max_cost: float | None = None
    """The run stops before its cluster has cost more, by `settings.gpu_price_per_hour`; with `max_gpus` only."""
    device: str = "auto"
    ulysses: Degree = None
    ring: Degree = None
    cfg_parallel: Degree = None
    keep_latents: bool = False
    strict: bool = False
    timeout_s: float | None = None
    max_failed: str | None = None
    settings: Settings = field(default_factory=Settings)
    observer: ObserverSource | None = None
    """The observer that the run's holder notifies."""
