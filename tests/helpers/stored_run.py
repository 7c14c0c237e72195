"""The folder of a run, as its coordinator left it."""

from __future__ import annotations

from pathlib import Path

from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.storage import Store, open_store
from render_farm.storage.layout import RunKeys
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state

KEYS = RunKeys(run_id="night")


def stored_run(folder: Path) -> Store:
    """The output of a run of jobs a, b and c that nobody renders any more."""
    write_manifest(str(folder / "m.parquet"), [RenderJob(job_id=name, prompt="p") for name in "abc"])
    store = open_store(folder / "out")
    store.put_file(folder / "m.parquet", KEYS.manifest)
    store.write_bytes(KEYS.run, b"{}")
    state = RunStateWriter(store, "night", load_run_state(store, "night"))
    state.write(
        {
            "a": JobRow(state="done", segments=2, segments_done=2),
            "b": JobRow(state="failed", segments=3, segments_done=1, message="no memory", error_class="X"),
        }
    )
    return store
