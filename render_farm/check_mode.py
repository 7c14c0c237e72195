"""What the column `checks` says: what happens to a film in whose pictures something is found, and what that can be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

MOST_RETRIES = 20
_RETRY = re.compile(r"retry:([0-9]+)")
KINDS = ("black", "flat", "frozen", "cut", "seam", "flash", "drift", "input")
"""Of findings."""


def kinds_of(findings: Iterable[str]) -> set[str]:
    """The kinds among findings such as `frozen@97-160`."""
    return {finding.partition("@")[0] for finding in findings} & set(KINDS)


class CheckAction(StrEnum):
    """What happens to a film with findings."""

    OFF = "off"
    """Nothing is looked for."""
    MARK = "mark"
    """It is published with its findings."""
    FAIL = "fail"
    """Its job fails."""
    RETRY = "retry"
    """It is rendered again with other seeds."""


@dataclass(frozen=True, kw_only=True)
class CheckMode:
    """A value of the column."""

    action: CheckAction
    num_retries: int = 0

    def __str__(self) -> str:
        return f"{self.action}:{self.num_retries}" if self.num_retries else str(self.action)


def parse_checks(text: str) -> CheckMode:
    """Read the column. ValueError that says what would work."""
    name = text.strip().lower()
    match = _RETRY.fullmatch(name)
    if match:
        number = int(match.group(1)[:9])
        if not 1 <= number <= MOST_RETRIES:
            raise ValueError(f"{text!r}: 1 to {MOST_RETRIES} retries are possible, for example retry:3")
        return CheckMode(action=CheckAction.RETRY, num_retries=number)
    if name not in (CheckAction.OFF, CheckAction.MARK, CheckAction.FAIL):
        raise ValueError(f"{text!r} is not one of mark, fail, retry:N, off; retry:3 renders up to three more seeds")
    return CheckMode(action=CheckAction(name))


def canonical_checks(text: str) -> str:
    """`text` in its one spelling. ValueError as `parse_checks`."""
    return str(parse_checks(text))
