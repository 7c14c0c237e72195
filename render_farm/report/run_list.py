"""The server's page with all runs of an output tree, the newest first, with the job counts of recent ones."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from render_farm.errors import RenderFarmError
from render_farm.report.page import plain_page
from render_farm.report.run_folder import RunFolderReader, run_documents
from render_farm.storage.layout import RUNS
from render_farm.storage.store import Store

_LOOKED_INTO = 20
"""Number of runs whose results are read. Older ones are only listed."""
_STATES = ("done", "running", "waiting", "failed", "cancelled")


def runs_page(store: Store) -> bytes:
    """The page, as HTML."""
    runs = run_documents(store)
    with ThreadPoolExecutor(max_workers=_LOOKED_INTO) as pool:
        counts = list(pool.map(lambda run: _counts(store, run["run_id"]), runs[:_LOOKED_INTO]))
    counts += [Counter()] * (len(runs) - len(counts))
    rows = "".join(_row(run, count) for run, count in zip(runs, counts, strict=True))
    head = "<tr><th>Run</th><th>Films</th><th></th><th>Started (UTC)</th><th>Manifest</th></tr>"
    table = f'<div class="card scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    body = f'<p class="dim">{html.escape(store.root_uri)}</p>{table if rows else "<p>None yet.</p>"}'
    return plain_page("Runs", body)


def _row(run: dict[str, Any], counts: Mapping[str, int]) -> str:
    name = html.escape(run["run_id"])
    began = str(run.get("started_at") or "").replace("T", " ").removesuffix("+00:00")
    states = ", ".join(
        f'<span class="s-{state}">{counts[state]:,} {state}</span>' for state in _STATES if counts.get(state)
    )
    link = f'<a class="link" href="{RUNS}/{name}/report.html">{name}</a>'
    number = run.get("num_jobs")
    cells = [link, "" if number is None else f"{number:,}" if isinstance(number, int) else html.escape(str(number))]
    cells += [states, html.escape(began), html.escape(str(run.get("manifest") or ""))]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _counts(store: Store, run_id: str) -> Counter[str]:
    """Jobs by state. Empty if they cannot be read."""
    try:
        return Counter(RunFolderReader(store, run_id).states())
    except RenderFarmError:
        return Counter()
