"""What a step takes on a GPU that nobody has measured: its operations and bytes over rates that such GPUs reach.

The counts are those of the engine, which tests run at full size without computing anything. The rates are what good
kernels sustain within the power limit. Decoding and storing overlap with it and are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from render_farm.planning.film import FilmPlan
from render_farm.planning.group_cost import NVLINK_NODE, TEXT_TOKENS, attention_passes, rank_bytes, step_work
from render_farm.planning.groups import GroupShape
from render_farm.planning.model_sizes import ModelSizes
from render_farm.planning.passes import Pass, passes

_IMAGE_TOKENS = 257
_WIDE = 4096
"""Channels of a token from which on matrix products fill the chip."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Operations (a multiply-add counted as two) and bytes a second, in bfloat16."""

    name: str
    memory_bytes: int
    matrix: float = 6.4e14
    narrow_matrix: float = 5.2e14
    """Of a model of fewer than 4096 channels, such as 1.3B."""
    attention: float = 5.8e14
    """By cuDNN or FlashAttention 3; FlashAttention 2 reaches 3.7e14."""
    cross_attention: float = 3.6e14
    """To 512 keys."""
    bandwidth: float = 2.6e12
    """Of its memory."""
    layer_traffic: int = 29
    """How many times the tokens of a layer and branch (bfloat16) cross the memory between matrix products and
    attention: 29 in compiled blocks, 128 where every operation is a kernel."""
    link: float = 2.5e11
    """To other GPUs of the node."""
    exchange_s: float = 3.5e-5
    forming_s: float = NVLINK_NODE.forming_s
    exchange_traffic: int = 16
    """The same as `layer_traffic` for packing what Ulysses exchanges. A test counts it."""

    def matrix_rate(self, width: int) -> float:
        return self.matrix if width >= _WIDE else self.narrow_matrix

    def token_layer_s(self, width: int, ffn_width: int, seen_tokens: float) -> float:
        """Seconds of one token in one layer and branch, seeing so many others."""
        return (
            (12 * width**2 + 4 * width * ffn_width) / self.matrix_rate(width)
            + 4 * width * seen_tokens / self.attention
            + 4 * width * TEXT_TOKENS / self.cross_attention
            + self.layer_traffic * 2 * width / self.bandwidth
        )


H100 = Gpu(name="h100", memory_bytes=84_900_000_000)
GPUS = {"h100": H100, "h200": Gpu(name="h200", memory_bytes=150_000_000_000, bandwidth=3.7e12)}
FLASH_2 = 3.7e14
EAGER_TRAFFIC = 128
"""A third of it changes dtypes. A test counts it at full size."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one rank does in the steps of a segment."""

    num_steps: int
    matrix: float
    """Operations of matrix products."""
    attention: float
    cross_attention: float
    token_layers: float
    """Tokens times layers times branches."""
    sent_bytes: float = 0.0
    num_exchanges: float = 0.0

    @property
    def operations(self) -> float:
        return self.matrix + self.attention + self.cross_attention


def segment_work(
    plan: FilmPlan, segment: int, sizes: ModelSizes, shape: GroupShape = GroupShape(), *, with_cache: bool = True
) -> Work:
    """The denoising of a segment by a rank of a group of `shape`. `with_cache` if finished blocks can be kept."""
    model, schedule = sizes.transformer, plan.schedule(segment)
    rows = list(passes(plan, segment, with_cache=with_cache))
    rows = rows if schedule.is_causal else rows * schedule.num_rows
    one_step = step_work(plan, model)
    width, layers = model.dim, model.num_layers
    images = _IMAGE_TOKENS * (2 if model.pos_embed_len else 1) if model.image_dim else 0
    found = Work(num_steps=len(rows), matrix=0, attention=0, cross_attention=0, token_layers=0)
    for row, updates, num_branches in zip(rows, schedule.updates, plan.num_branches(segment), strict=True):
        work = replace(one_step, num_tokens=row.num_frames * plan.tokens_per_frame, num_branches=num_branches)
        share = work.padded(shape.sequence) / shape.sequence
        tokens = work.num_tokens * share
        first_output = updates.index(True) * schedule.block_size
        # The last layer computes keys and values of all tokens, and the rest for those that are predicted.
        left_out = (first_output - row.start) * plan.tokens_per_frame * share
        branches = num_branches / min(num_branches, shape.cfg)
        attended = attention_passes(work, _within(shape, num_branches))
        block_size = schedule.block_size if schedule.is_causal else 0
        seen = attended * _pairs(row, block_size) - branches * (
            _pairs(row, block_size) - _pairs(row, block_size, first_output)
        )
        # Before the first cross-attention all branches are the same: its query, and the projections of self-attention.
        shared = branches - 1
        found = replace(
            found,
            matrix=found.matrix
            + tokens * (layers * branches * (12 * width**2 + 4 * width * model.ffn_dim) - shared * 10 * width**2)
            - left_out * branches * (8 * width**2 + 4 * width * model.ffn_dim),
            attention=found.attention + 4 * width * seen * plan.tokens_per_frame**2 * share,
            cross_attention=found.cross_attention
            + (tokens * layers - left_out) * branches * 4 * width * (TEXT_TOKENS + images),
            token_layers=found.token_layers + tokens * layers * branches,
            sent_bytes=found.sent_bytes + sum(rank_bytes(work, shape).values()),
            num_exchanges=found.num_exchanges
            + attended * (2 * (shape.ulysses > 1) + 2 * (shape.ring - 1))
            + (shape.size > 1),
        )
    return found


def _within(shape: GroupShape, num_branches: int) -> GroupShape:
    return replace(shape, cfg=min(shape.cfg, num_branches))


def _pairs(row: Pass, block_size: int, first: int | None = None) -> int:
    """(frame, frame that it sees), for all frames of a pass, or those from `first` on."""
    first = row.start if first is None else first
    if not block_size:
        return (row.stop - first) * row.stop
    return sum(block_size * end for end in range(first + block_size, row.stop + 1, block_size))


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """The mean step of a segment."""

    matrix_s: float
    attention_s: float
    cross_attention_s: float
    elementwise_s: float
    exchange_s: float

    @property
    def total_s(self) -> float:
        return self.matrix_s + self.attention_s + self.cross_attention_s + self.elementwise_s + self.exchange_s


def predicted_step(work: Work, sizes: ModelSizes, gpu: Gpu) -> StepSeconds:
    """Without exchanges that overlap with computing, and without what a group takes to form."""
    width = sizes.transformer.dim
    layer_bytes = work.token_layers * 2 * width
    sends = work.sent_bytes / gpu.link + work.num_exchanges * gpu.exchange_s
    sends += gpu.exchange_traffic * layer_bytes / gpu.bandwidth if work.sent_bytes else 0.0
    return StepSeconds(
        matrix_s=work.matrix / gpu.matrix_rate(width) / work.num_steps,
        attention_s=work.attention / gpu.attention / work.num_steps,
        cross_attention_s=work.cross_attention / gpu.cross_attention / work.num_steps,
        elementwise_s=gpu.layer_traffic * layer_bytes / gpu.bandwidth / work.num_steps,
        exchange_s=sends / work.num_steps,
    )


def variants(plan: FilmPlan, sizes: ModelSizes, gpu: Gpu) -> dict[str, tuple[Gpu, GroupShape]]:
    """What another setting would make of it, by name."""
    found = {
        "as it is": (gpu, GroupShape()),
        "attention torch_flash": (replace(gpu, attention=FLASH_2), GroupShape()),
        "compile off": (replace(gpu, layer_traffic=EAGER_TRAFFIC), GroupShape()),
    }
    cfg = 2 if plan.job.splits_branches else 1
    for size in (2, 4, 8):
        shape = GroupShape(cfg=cfg, ulysses=size // cfg)
        if sizes.transformer.num_heads % shape.ulysses == 0:
            found[str(shape)] = (gpu, shape)
    return found
