"""`Settings`: everything that a farm needs to know and that is not in a manifest.

The tables are defined next to the code that uses them. `guide/settings.md` is written from all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from render_farm.config import Table, load, setting
from render_farm.engine.options import EngineOptions
from render_farm.farm.run.hook_settings import HookSettings
from render_farm.farm.run.timeouts import Timeouts
from render_farm.manifest.limits import ManifestLimits
from render_farm.media.check_limits import CheckLimits
from render_farm.media.limits import InputLimits
from render_farm.media.provenance_settings import ProvenanceSettings
from render_farm.memory_mode import canonical_memory
from render_farm.observability.settings import NotifySettings
from render_farm.planning.group_options import GroupOptions
from render_farm.scheduling.policy import SchedulingSettings

MOST_LINK_HOURS = 168
"""Object stores sign links for a week at most."""
_NOT_EMPTY = {"min_length": 1, "pattern": r"\S"}


@dataclass(frozen=True, kw_only=True)
class Settings(Table):
    """The settings of a farm."""

    variables: ClassVar[str] = "RENDER_FARM_"

    output: str | None = setting(
        None, "Folder or URI where runs go when neither a flag nor the run's URI says so.", limits=_NOT_EMPTY
    )
    model: str = setting("tiny", "The model of rows whose `model` is null.", limits=_NOT_EMPTY)
    model_cache: str = setting(
        "~/.cache/render_farm/models", "Local folder for models that come from a URI.", limits=_NOT_EMPTY
    )
    dtype: Literal["auto", "float32", "fp32", "bfloat16", "bf16", "float16", "fp16"] = setting(
        "auto", "`auto` is bfloat16 on CUDA and float32 on the CPU."
    )
    memory: str = setting(
        "auto",
        "The memory mode of rows whose `memory` is null.",
        canonical=canonical_memory,
        expected="options joined with +",
    )
    attempts: int = setting(
        3,
        "How often a segment is tried before its job fails. Only the worker's faults count.",
        unit="tries",
        limits={"ge": 1, "le": 1000},
    )
    host_faults: int = setting(
        3,
        "A host with this many worker faults within 10 minutes is quarantined.",
        unit="faults",
        limits={"ge": 1, "le": 1_000_000},
    )
    max_failed: str | None = setting(
        None,
        "A run stops when more jobs than this have failed. Unset means never.",
        limits={"pattern": "^([0-9]{1,9}|(100|[0-9]{1,2})%)$"},
        expected="a number of jobs or a share like 10%",
    )
    previews: bool = setting(
        True, "Whether a film's finished segments can be watched while the rest is rendered (`render-farm preview`)."
    )
    gpu_price_per_hour: float | None = setting(
        None,
        "What an hour of one GPU costs, for the report. Unset means that no cost is shown.",
        unit="`currency`",
        limits={"ge": 0},
    )
    currency: str = setting("USD", "Currency of that price.", limits=_NOT_EMPTY)
    report_link_hours: float | None = setting(
        None,
        "The report links to films by signed links that last this long, for readers without access to the bucket. "
        "Unset: relative links, which need access or `render-farm serve`.",
        unit="hours",
        limits={"gt": 0, "le": MOST_LINK_HOURS},
    )
    timeouts: Timeouts = field(default_factory=Timeouts)
    inputs: InputLimits = field(default_factory=InputLimits)
    manifest: ManifestLimits = field(default_factory=ManifestLimits)
    checks: CheckLimits = field(default_factory=CheckLimits)
    engine: EngineOptions = field(default_factory=EngineOptions)
    group: GroupOptions = field(default_factory=GroupOptions)
    provenance: ProvenanceSettings = field(default_factory=ProvenanceSettings)
    hooks: HookSettings = field(default_factory=HookSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)


def load_settings(*, file: str | None = None, environment: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """The settings from the file, `RENDER_FARM_<FIELD>` variables and `flags`, as `config.load` reads them.

    Raises `UsageError` for a file that cannot be read, an unknown setting or an impossible value.
    """
    settings = load(Settings, file=file, environment=environment, flags=flags).settings
    settings.provenance.check()
    return settings
