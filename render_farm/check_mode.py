"""What the column `checks` says: what happens to a film in whose pictures something is found, and what that can be."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

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
