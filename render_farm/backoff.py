"""How long to pause before a request is tried again: full jitter, and what the server asks for.

Hundreds of workers that one server throttled must not come back together. So a pause is a random share of a ceiling
that grows with every try, which spreads them best (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015). A
server that names a time in `Retry-After` is not asked earlier.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_LONGEST_ASKED_S = 120.0
"""A server that asks for more is still tried again, because every loop has its own limit."""
_SECONDS = re.compile(r"[0-9]{1,6}")


class Backoff:
    """The pauses of one loop of tries."""

    def __init__(self, first_s: float, longest_s: float = 60.0, *, factor: float = 2.0) -> None:
        """The ceiling is `first_s` for the first pause and `factor` times higher for each further one, at most
        `longest_s`."""
        self._first_s = self._ceiling_s = first_s
        self._longest_s = longest_s
        self._factor = factor

    def next_s(self, error: BaseException | None = None) -> float:
        """Seconds to pause after a try that failed with `error`."""
        pause_s = jittered(self._ceiling_s, error)
        self._ceiling_s = min(self._factor * self._ceiling_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Start again with the first pause: the last try brought something new."""
        self._ceiling_s = self._first_s


def jittered(ceiling_s: float, error: BaseException | None = None) -> float:
    """A random share of `ceiling_s`, on top of what the server behind `error` asks for."""
    return retry_after_s(error) + random.uniform(0.0, ceiling_s)


def retry_after_s(error: BaseException | None) -> float:
    """The `Retry-After` of the answer behind `error` or one of its causes, in seconds; 0 when there is none. It reads
    the errors of botocore, httpx, aiohttp and urllib, and any with `headers`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for name, value in _headers(error).items():
            if str(name).lower() == "retry-after":
                return min(_seconds(str(value).strip()), _LONGEST_ASKED_S)
        error = error.__cause__ or error.__context__
    return 0.0


def _headers(error: BaseException) -> Mapping[str, Any]:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        found = getattr(response, "headers", None) or getattr(error, "headers", None)
    return found if hasattr(found, "items") else {}


def _seconds(text: str) -> float:
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
