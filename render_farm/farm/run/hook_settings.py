"""`[hooks]`: a program of the operator's that sees each film before it is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from render_farm.config import Table, setting


@dataclass(frozen=True, kw_only=True)
class HookSettings(Table):
    """A program that sees each film before it is published, and may refuse it."""

    variables: ClassVar[str] = "RENDER_FARM_HOOK_"

    on_film: str | None = setting(
        None,
        "`module:function` of Python, or a command. It runs on the worker's machine, in a process of its own without "
        "a GPU.",
        limits={"min_length": 1},
    )
    timeout_s: float = setting(
        600.0, "How long it may take for one film.", unit="seconds", limits={"gt": 0, "le": 24 * 3600}
    )
