"""Temporary folders that name their owner, so that those of killed processes can be removed."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from render_farm.storage.process import ProcessId, is_dead, this_process

_PREFIX = "render-farm-film-"
_OWNER = "owner.json"


def make_folder() -> Path:
    """A new temporary folder of this process. Nothing is left when the disk is full (OSError passes)."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        (folder / _OWNER).write_text(json.dumps(asdict(this_process())))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def clear_abandoned() -> int:
    """Remove the folders of processes of this host that are dead for certain. Returns how many."""
    abandoned = [folder for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*") if _is_abandoned(folder)]
    for folder in abandoned:
        shutil.rmtree(folder, ignore_errors=True)
    return len(abandoned)


def _is_abandoned(folder: Path) -> bool:
    try:
        return is_dead(ProcessId(**json.loads((folder / _OWNER).read_text())))
    except (OSError, ValueError, TypeError):
        return False  # just being made, or not ours to judge
