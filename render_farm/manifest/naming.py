"""Names made from content, so that the same content has the same name: job ids and run ids."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any

_SLUG_CHARACTERS = 40


def slug(prompt: Any) -> str:
    """The first words of a prompt (or of a prompt list), as they can begin a job id; `job` when none is left."""
    first = prompt[0] if isinstance(prompt, list | tuple) and prompt else prompt
    if not isinstance(first, str):
        return "job"
    plain = unicodedata.normalize("NFKD", first[:400]).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    taken = ""
    for word in words:
        longer = f"{taken}-{word}" if taken else word[:_SLUG_CHARACTERS]
        if len(longer) > _SLUG_CHARACTERS:
            break
        taken = longer
    return taken or "job"


def content_id(prompt: Any, content: str) -> str:
    """An id that stays the same for the same content: the prompt's slug and 8 hex."""
    return f"{slug(prompt)}-{hashlib.sha256(content.encode(errors='surrogatepass')).hexdigest()[:8]}"
