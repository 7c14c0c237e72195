"""What a memory mode leaves of a film's needs on the device: the estimate by which `memory: auto` begins."""

from __future__ import annotations

from render_farm.memory_mode import MemoryMode, Placement, WeightForm
from render_farm.planning.film import FilmPlan
from render_farm.planning.memory import ELEMENT_BYTES, FLOAT32_BYTES, estimate_memory, weight_bytes
from render_farm.planning.model_sizes import ModelShapes, TransformerShape
from render_farm.planning.vae_memory import decoding_memory

_BYTE = 1
_TILE = 256
"""Pixels of a tile's side, as `AutoencoderKLWan` has it."""
_GROUPS_AT_ONCE = 2
"""The weights that compute, and those that are copied meanwhile."""


def device_bytes(plan: FilmPlan, shapes: ModelShapes, mode: MemoryMode, *, num_decoders: int = 1) -> int:
    """The memory that rendering `plan` in `mode` takes, without cached keys and values, while `num_decoders` films are
    being decoded."""
    estimate = estimate_memory(plan, shapes, num_decoders=num_decoders)
    rest = estimate.render_stage_bytes - estimate.transformer_bytes
    if mode.vae_tiling and max(plan.job.height, plan.job.width) > _TILE:
        rest += _tiled_decoding_bytes(plan, shapes) - estimate.decoding_bytes
    return rest + transformer_bytes(shapes.transformer, mode, ELEMENT_BYTES[plan.facts.dtype])


def _tiled_decoding_bytes(plan: FilmPlan, shapes: ModelShapes) -> int:
    """One tile with its features (on a GPU those of the others lie in the host's memory), and a latent frame's pixels:
    in tiles, in rows, joined, and as they are given out."""
    height, width = plan.job.height, plan.job.width
    tile = decoding_memory(shapes.vae, height=min(height, _TILE), width=min(width, _TILE))
    pixels = plan.facts.temporal_factor * 3 * height * width * FLOAT32_BYTES
    return tile.total_bytes + 5 * pixels


def transformer_bytes(shape: TransformerShape, mode: MemoryMode, element_bytes: int) -> int:
    """The transformer's weights on the device at one time, in the dtype of `element_bytes` or the mode's form."""
    layers = shape.num_layers * shape.num_layer_parameters
    outside = weight_bytes(shape, element_bytes) - layers * element_bytes
    stored = element_bytes if mode.weights is WeightForm.FULL else _BYTE
    if mode.placement in (Placement.AUTO, Placement.RESIDENT):
        return outside + layers * stored
    if mode.placement is Placement.OFFLOAD_LEAF:
        return _GROUPS_AT_ONCE * shape.dim * max(shape.ffn_dim, shape.dim) * stored
    return outside + _GROUPS_AT_ONCE * shape.num_layer_parameters * stored
