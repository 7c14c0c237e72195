"""The denoiser's weights in a memory mode: what form they have, and where they lie between their uses.

Offloading, and casting outside the blocks, are diffusers' hooks on the model's own modules (`apply_group_offloading`,
`enable_layerwise_casting`). Quantised matrices are torchao's. None of them knows our forward, nor it them.
"""

from __future__ import annotations

import importlib.util
import shutil
import weakref
from pathlib import Path

import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from torch import Tensor, nn
from torch.nn.functional import linear

from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.errors import MemoryModeError
from render_farm.extras import install_advice
from render_farm.memory_mode import MemoryMode, Placement, WeightForm

_TYPES = {
    Placement.OFFLOAD_BLOCK: "block_level",
    Placement.OFFLOAD_LEAF: "leaf_level",
    Placement.OFFLOAD_DISK: "block_level",
}
_FLOAT8 = torch.float8_e4m3fn
_OFFLOADING_HOOKS = ("group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker")


class CastLinear(nn.Linear):
    """A layer stored as float8, multiplied in the dtype of its input.

    The numbers of diffusers' hook, which a compiled region could not hold: it casts parameters to and fro.
    """

    def forward(self, states: Tensor) -> Tensor:
        """`states` (... I) to (... O)."""
        bias = None if self.bias is None else self.bias.to(states.dtype)
        return linear(states, self.weight.to(states.dtype), bias)


def check_mode(mode: MemoryMode) -> None:
    """Raise `MemoryModeError` when a package that `mode` needs is not installed here."""
    if mode.package and importlib.util.find_spec(mode.package) is None:
        raise MemoryModeError(
            f"memory: {mode} needs the package {mode.package}, which is not installed where this worker runs",
            advice=f"{install_advice(mode.package)}, or {WeightForm.FP8_CAST}, which needs no package",
        )


def convert_weights(model: FrameTransformer, form: WeightForm, *, device: torch.device) -> None:
    """Store the matrices of `model` (in full, on the CPU) as `form`, in place. It cannot be undone: load it again.

    Layers that diffusers keeps out of casting (embeddings, norms) stay as they are.
    """
    if form is WeightForm.FP8_CAST:
        outside = (*DEFAULT_SKIP_MODULES_PATTERN, "blocks")
        model.enable_layerwise_casting(_FLOAT8, compute_dtype=model.dtype, skip_modules_pattern=outside)
        for layer in model.blocks.modules():
            if type(layer) is nn.Linear:
                layer.to(_FLOAT8).__class__ = CastLinear
    elif form is not WeightForm.FULL:
        _quantise(model, form, device)


def _quantise(model: FrameTransformer, form: WeightForm, device: torch.device) -> None:
    """The linear layers of the blocks; each is brought to `device` for it, where it is fast, and stays there."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig() if form is WeightForm.INT8 else Float8WeightOnlyConfig()
    quantize_(model.blocks, config, device=device)


def place(model: FrameTransformer, placement: Placement, *, device: torch.device) -> None:
    """Put the weights of `model`, which no hook moves yet, where `placement` says.

    With offloading on CUDA the next group is copied on a stream of its own while the present one computes.
    """
    if placement is Placement.RESIDENT:
        nn.Module.to(model, device)
        return
    nn.Module.to(model, "cpu")
    streams = device.type == "cuda"
    model.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type=_TYPES[placement],
        num_blocks_per_group=1,
        use_stream=streams,
        record_stream=streams,
        offload_to_disk_path=str(_disk_folder(model)) if placement is Placement.OFFLOAD_DISK else None,
    )
    model.caches_text_states = placement is not Placement.OFFLOAD_LEAF


def _disk_folder(model: nn.Module) -> Path:
    """A new temporary folder (`TMPDIR`), removed with the model, or by the next worker when this process is killed."""
    from render_farm.storage.scratch import make_folder

    folder = make_folder()
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return folder


def unplace(model: FrameTransformer) -> None:
    """Take off the hooks that move weights, so that `place` can be called again. Not after `offload_disk`: the weights
    in memory are not whole then."""
    registry = HookRegistry.check_if_exists_or_initialize(model)
    for hook in _OFFLOADING_HOOKS:
        registry.remove_hook(hook, recurse=True)
    model.caches_text_states = True
