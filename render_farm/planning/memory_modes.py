"""The device memory that a film needs in a memory mode: the estimate from which `memory: auto` starts."""

from __future__ import annotations

from render_farm.memory_mode import MemoryMode, Placement, WeightForm
from render_farm.planning.film import FilmPlan
from render_farm.planning.memory import ELEMENT_BYTES, FLOAT32_BYTES, estimate_memory, weight_bytes
from render_farm.planning.model_sizes import ModelSizes, TransformerSizes
from render_farm.planning.vae_memory import decoding_memory

_BYTE = 1
_TILE = 256
"""Pixels of a tile's side, as `AutoencoderKLWan` has it."""
_GROUPS_AT_ONCE = 2
"""The weights that compute, and those that are copied at the same time."""


def device_bytes(plan: FilmPlan, sizes: ModelSizes, mode: MemoryMode) -> int:
    """The memory that rendering `plan` in `mode` takes, without cached keys and values."""
    estimate = estimate_memory(plan, sizes)
    rest = estimate.render_stage_bytes - estimate.transformer_bytes
    if mode.vae_tiling and max(plan.job.height, plan.job.width) > _TILE:
        rest += _tiled_decoding_bytes(plan, sizes) - estimate.decoding_bytes
    return rest + transformer_bytes(sizes.transformer, mode, ELEMENT_BYTES[plan.spec.dtype])


def _tiled_decoding_bytes(plan: FilmPlan, sizes: ModelSizes) -> int:
    """One tile with its features (on a GPU those of the others lie in the host's memory) and the tiles before it.

    Tiles overlap by a quarter of each side, so their pixels are less than twice a latent frame's.
    """
    height, width = plan.job.height, plan.job.width
    tile = decoding_memory(sizes.vae, height=min(height, _TILE), width=min(width, _TILE))
    pixels = plan.spec.temporal_factor * 3 * height * width * FLOAT32_BYTES
    return tile.total_bytes + 2 * pixels


def transformer_bytes(sizes: TransformerSizes, mode: MemoryMode, element_bytes: int) -> int:
    """The transformer's weights on the device at one time, in the dtype of `element_bytes` or the mode's form."""
    layers = sizes.num_layers * sizes.num_layer_parameters
    outside = weight_bytes(sizes, element_bytes) - layers * element_bytes
    stored = element_bytes if mode.weights is WeightForm.FULL else _BYTE
    if mode.placement in (Placement.AUTO, Placement.RESIDENT):
        return outside + layers * stored
    if mode.placement is Placement.OFFLOAD_LEAF:
        return _GROUPS_AT_ONCE * sizes.dim * max(sizes.ffn_dim, sizes.dim) * stored
    return outside + _GROUPS_AT_ONCE * sizes.num_layer_parameters * stored
