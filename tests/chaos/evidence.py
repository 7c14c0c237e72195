"""What a run with violations leaves to find their cause with: logs of the command and of Ray, its output."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from render_farm.storage.store import Store
from tests.chaos.records import Record
from tests.chaos.world import World


def keep_evidence(folder: Path, world: World, store: Store, record: Record) -> Path:
    """Copy it to a folder of the run's own below `folder`, which is returned. Workers and Ray of earlier runs log to
    the same files: the times tell them apart."""
    kept = folder / f"{record.fault}-{record.seed}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    (kept / "record.json").write_text(json.dumps(asdict(record), indent=1))
    for file in world.folder.glob("*.log"):
        shutil.copy(file, kept)
    for number, logs in enumerate(sorted(Path(world.environment["RAY_TMPDIR"]).glob("**/session_2*/logs"))):
        shutil.copytree(logs, kept / f"ray-{number}", ignore_dangling_symlinks=True)
    for key in store.list(""):
        path = kept / "output" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read_bytes(key))
    return kept
