"""`RunOutcome`: how a run ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """`render --json` prints exactly these."""

    run_id: str
    output: str
    state: str
    jobs: dict[str, int]
    """By state."""
    exit_code: int
