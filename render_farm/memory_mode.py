"""`MemoryMode`: what the column `memory` says, and which mode is tried when one does not fit.

A mode is written as options joined with `+`: a placement of the weights, a form of them, and `vae_tiling`, each at
most once and in any order. `offload_block+vae_tiling`, `fp8_cast` (which is `auto+fp8_cast`) and `auto` are modes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from enum import StrEnum


class Placement(StrEnum):
    """Where the denoiser's weights lie between their uses. None of it changes a film."""

    AUTO = "auto"
    """The fastest of the others that fits."""
    RESIDENT = "resident"
    """On the device."""
    OFFLOAD_BLOCK = "offload_block"
    """In the host's memory; a transformer block at a time comes to the device."""
    OFFLOAD_LEAF = "offload_leaf"
    """In the host's memory; a layer at a time comes to the device."""
    OFFLOAD_DISK = "offload_disk"
    """In files on a local disk; a transformer block at a time comes to the device."""


class WeightForm(StrEnum):
    """What the denoiser's large matrices are stored as. All but `FULL` change the film."""

    FULL = "full"
    """In the model's dtype."""
    FP8_CAST = "fp8_cast"
    """As float8 (e4m3), cast back to the model's dtype before each use."""
    INT8 = "int8"
    """As 8-bit integers with a scale an output channel, by torchao."""
    FP8 = "fp8"
    """As float8 (e4m3) with a scale an output channel, by torchao."""


VAE_TILING = "vae_tiling"
_OPTIONS = (*Placement, *(form for form in WeightForm if form is not WeightForm.FULL), VAE_TILING)
_SMALLER = {
    "cpu": (Placement.RESIDENT, Placement.OFFLOAD_DISK),
    "cuda": (Placement.RESIDENT, Placement.OFFLOAD_BLOCK, Placement.OFFLOAD_LEAF),
}
"""By kind of device, from the fastest to what takes the least of its memory."""


@dataclass(frozen=True, kw_only=True)
class MemoryMode:
    """How a model and its activations are kept in memory."""

    placement: Placement = Placement.RESIDENT
    weights: WeightForm = WeightForm.FULL
    vae_tiling: bool = False
    """Decode (and encode) pixels in overlapping tiles of 256 that are blended, as diffusers' `enable_tiling`."""

    def __str__(self) -> str:
        return "+".join([self.placement, *filter(None, [self.what_changes_pixels])])

    @property
    def what_changes_pixels(self) -> str:
        """The options that change the film, joined with `+`; empty when it is the exact one."""
        weights = [] if self.weights is WeightForm.FULL else [self.weights.value]
        return "+".join([*weights, *([VAE_TILING] if self.vae_tiling else [])])

    @property
    def package(self) -> str | None:
        """The package that this mode needs in addition to the engine's own."""
        return "torchao" if self.weights in (WeightForm.INT8, WeightForm.FP8) else None

    def at(self, placement: Placement) -> MemoryMode:
        """This mode with its weights in another place."""
        return replace(self, placement=placement)


def parse_memory(text: str) -> MemoryMode:
    """Read what a job or the settings say. Raises ValueError that says what would work.

    Without a placement it is `auto`.
    """
    placements: list[Placement] = []
    forms: list[WeightForm] = []
    tiled = 0
    for part in (part.strip() for part in text.split("+")):
        if part in list(Placement):
            placements.append(Placement(part))
        elif part == VAE_TILING:
            tiled += 1
        elif part in _OPTIONS:
            forms.append(WeightForm(part))
        else:
            near = difflib.get_close_matches(part.lower(), _OPTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it is made of {', '.join(_OPTIONS)}, joined with +"
            raise ValueError(f"{part!r} is not a memory option; {hint}")
    if len(placements) > 1:
        raise ValueError(f"{text!r} says twice where the weights lie; one of {', '.join(Placement)} would work")
    if len(forms) > 1 or tiled > 1:
        twice = "how the weights are stored" if len(forms) > 1 else VAE_TILING
        raise ValueError(f"{text!r} says twice {twice}; once would work")
    mode = MemoryMode(
        placement=placements[0] if placements else Placement.AUTO,
        weights=forms[0] if forms else WeightForm.FULL,
        vae_tiling=tiled > 0,
    )
    if mode.package and mode.placement is Placement.OFFLOAD_DISK:
        raise ValueError(f"{text!r}: weights of {mode.package} are not written to disk; offload_leaf would work")
    return mode


def canonical_memory(text: str) -> str:
    """`text` as it is written in `job.json`. Raises ValueError as `parse_memory`."""
    return str(parse_memory(text))


def modes_of(mode: MemoryMode, device: str) -> tuple[MemoryMode, ...]:
    """The modes that `mode` stands for on a device of the kind `device` (`cuda`, `cpu`), the fastest first.

    One that names its placement stands for itself.
    """
    if mode.placement is not Placement.AUTO:
        return (mode,)
    found = (mode.at(placement) for placement in _SMALLER.get(device, _SMALLER["cuda"]))
    return tuple(m for m in found if not (m.package and m.placement is Placement.OFFLOAD_DISK))


def next_smaller(mode: MemoryMode, device: str) -> MemoryMode | None:
    """The next mode to try when `mode` has run out of the memory of a `device`; None after the last.

    It renders the same film: what changes pixels is never added. The disk takes as much of a GPU's memory as the host's
    memory does, so after it comes `offload_leaf`.
    """
    ladder = _SMALLER.get(device, _SMALLER["cuda"])
    if mode.placement in ladder:
        rest = ladder[ladder.index(mode.placement) + 1 :]
    else:
        rest = ladder[-1:] if mode.placement is Placement.OFFLOAD_DISK and device != "cpu" else ()
    smaller = [mode.at(placement) for placement in rest]
    smaller = [m for m in smaller if not (m.package and m.placement is Placement.OFFLOAD_DISK)]
    return smaller[0] if smaller else None
