"""The runs of an output tree, the newest first, each in one line. Few small objects are read per run."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from render_farm.report.run_folder import RunFolderReader, run_documents
from render_farm.report.status import stored_state
from render_farm.storage.store import Store

_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One run."""

    run_id: str
    state: str
    """`waiting running done failed cancelled`, and `interrupted` for one that has jobs left and that nobody renders."""
    num_jobs: int
    jobs: dict[str, int]
    """By state."""
    started_at: str | None
    """UTC."""
    manifest: str | None
    """None: it was started with --prompt."""
    is_live: bool


def list_runs(store: Store, limit: int, *, now_s: float) -> tuple[list[ListedRun], int]:
    """The newest `limit` runs, and how many there are. StorageError passes."""
    documents = run_documents(store)
    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        found = list(pool.map(lambda document: _listed(store, document, now_s), documents[:limit]))
    return found, len(documents)


def _listed(store: Store, document: dict[str, Any], now_s: float) -> ListedRun:
    run_id = str(document["run_id"])
    folder = RunFolderReader(store, run_id).read(with_events=False)
    live = folder.live_at(now_s)
    counts = Counter(live.jobs) if live else folder.counts()
    state = live.state if live else stored_state(counts, folder)
    if live is None and state in ("running", "waiting"):
        state = "interrupted"
    return ListedRun(
        run_id=run_id,
        state=state,
        num_jobs=sum(counts.values()),
        jobs={name: number for name, number in sorted(counts.items()) if number},
        started_at=document.get("started_at"),
        manifest=document.get("manifest"),
        is_live=live is not None,
    )
