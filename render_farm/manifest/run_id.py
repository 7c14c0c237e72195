"""The default run id: the manifest's stem and 8 hex of its content, so that the same command again continues."""

from __future__ import annotations

import hashlib
import re

from render_farm.manifest.files import clear_errors, open_binary
from render_farm.manifest.limits import LIMITS, ManifestLimits
from render_farm.manifest.parts import part_files
from render_farm.uris import without_query

_PART_BYTES = 1 << 20
_LONGEST_STEM = 100


def default_run_id(uri: str, limits: ManifestLimits = LIMITS) -> str:
    """The run id of the manifest at `uri`: `<stem>-<8 hex of its sha256>`, for a folder that of its parts. Raises
    `ManifestError` when unreadable."""
    digest = hashlib.sha256()
    parts = part_files(uri, limits)
    for name in [uri] if parts is None else parts:
        if parts is not None:
            digest.update(f"\n{name.rpartition('/')[2]}\n".encode(errors="surrogatepass"))
        with open_binary(name) as handle, clear_errors(name):
            while part := handle.read(_PART_BYTES):
                digest.update(part)
    return f"{safe_stem(uri)}-{digest.hexdigest()[:8]}"


def safe_stem(uri: str) -> str:
    """The file's name without its suffix, as it can stand in an object key: letters, digits, '.', '_' and '-'."""
    name = without_query(uri).split("::", 1)[0].rstrip("/").rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")
    return safe[:_LONGEST_STEM] or "run"
