"""`[group]`: render groups, several workers of one host for one segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from render_farm.config import Table, setting

_MORE_THAN_0 = {"gt": 0}


@dataclass(frozen=True, kw_only=True)
class GroupOptions(Table):
    """How `auto` degrees are chosen, and who decodes.

    `render-farm bench parallel` measures the five numbers on a machine and prints them as such a table. Unset, they are
    guesses.
    """

    variables: ClassVar[str] = "RENDER_FARM_GROUP_"

    degrees: Literal["given", "auto"] = setting(
        "given",
        "`given` takes the degrees of the job or the command line, else 1. `auto` chooses those that they leave open: "
        "a film is rendered by the fewest workers that it fits on, and by more when they would be idle otherwise. Its "
        "last bits then depend on its groups (1e-4 in float32).",
    )
    gpus_per_node: int | None = setting(
        None,
        "GPUs of a machine that the cluster's autoscaler adds. Where a cluster may grow (`--max-gpus`), `auto` plans "
        "for such machines before they exist, and films that may have larger groups ask for them. Unset: the machines "
        "that are there when the run starts.",
        unit="GPUs",
        limits={"ge": 1},
    )
    interconnect: Literal["nvlink", "pcie"] = setting(
        "nvlink", "How the GPUs of a host are connected. `bytes_per_s` is guessed from it."
    )
    operations_per_s: float | None = setting(
        None,
        "Speed of one worker in the transformer's layers. A multiply-add counts as two operations.",
        unit="operations per second",
        limits=_MORE_THAN_0,
    )
    bytes_per_s: float | None = setting(
        None,
        "How fast a worker sends to others of its host while they send as much.",
        unit="bytes per second",
        limits=_MORE_THAN_0,
    )
    exchange_s: float | None = setting(
        None, "How long an exchange takes that sends next to nothing.", unit="seconds", limits=_MORE_THAN_0
    )
    decoding_operations_per_s: float | None = setting(
        None, "Speed of one worker in the VAE's decoder.", unit="operations per second", limits=_MORE_THAN_0
    )
    forming_s: float | None = setting(
        None,
        "How long a group takes to form. It does so when its workers first render together.",
        unit="seconds",
        limits={"ge": 0},
    )
    decode: Literal["auto", "on", "off"] = setting(
        "auto",
        "Whether a group decodes its films together between segments, instead of one worker alongside the next "
        "segment. `auto` does it when these numbers say that it takes less time.",
    )
