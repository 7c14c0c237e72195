"""The cost of a step in a render group: operations and bytes of each rank, and seconds on a given machine.

Formulas for one step of T tokens (all frames that move or are read), L layers, width E, feed-forward width F, C values
predicted a token, b bytes an element, G guidance branches, and a group of P = U x R ranks a branch:

- operations of a rank: T/P * (G/cfg * L * (12 E^2 + 4 E F + 4 * 512 E) + A * 4 T E), a multiply-add counted as two;
- A self-attentions: G/cfg * L, less what the branches share in the first layer, before the first prompt. A rank that
  computes both does that one once; the halves of a group share it out by heads and each counts half of it, where
  2 x U divides the heads: A = (G L - 1)/cfg. They then exchange what they saw: T/P * E/2 * b;
- Ulysses sends 4 exchanges (query, key, value, output) of T/P * E elements a self-attention, of which (U-1)/U leave
  the rank: 4 (U-1)/U * T/P * E * b;
- the ring sends keys and values on R-1 times: 2 (R-1) * T/P * E * b a self-attention;
- the exchange of predictions sends them to the other cfg * P - 1 ranks, once: (cfg * P - 1) * G/cfg * T/P * C * b.

A group takes seconds to form. It does so for the first of the segments that its workers render together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

from render_farm.planning.film import FilmPlan
from render_farm.planning.group_options import GroupOptions
from render_farm.planning.groups import GroupShape
from render_farm.planning.memory import ELEMENT_BYTES
from render_farm.planning.model_sizes import TransformerSizes
from render_farm.planning.passes import passes

TEXT_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """One step of a segment."""

    num_tokens: float
    """Of all frames that a step computes."""
    tokens_per_frame: int | None = None
    """Where given, slices of a frame that the ranks do not divide are counted with their padding."""
    width: int
    """Heads x channels of a head."""
    num_layers: int
    ffn_width: int
    num_branches: int = 2
    output_tokens: float | None = None
    """Of the frames that are predicted; None: all."""
    output_width: int = 64
    num_heads: int = 0
    """0: as many as it takes to share any way."""
    bytes_per_element: int = 2

    def padded(self, num_ranks: int) -> float:
        """How many times `num_tokens` the slices on `num_ranks` ranks hold together."""
        if self.tokens_per_frame is None:
            return 1.0
        return ceil(self.tokens_per_frame / num_ranks) * num_ranks / self.tokens_per_frame


@dataclass(frozen=True, kw_only=True)
class GroupMachine:
    """What the ranks of a group run on; the numbers come from `render-farm bench parallel`."""

    operations_per_s: float
    """Of one rank, in the layers of the transformer."""
    bytes_per_s: float
    """Between ranks of one node, per rank and direction."""
    exchange_s: float
    """Of an exchange that sends next to nothing."""
    decoding_operations_per_s: float = 1e14
    """Of one rank, in the VAE's decoder (float32, on a GPU multiplied in TF32)."""
    forming_s: float = 2.0
    """Until the ranks of a new group have exchanged something. A group that is kept does not form again."""


NVLINK_NODE = GroupMachine(operations_per_s=4e14, bytes_per_s=2e11, exchange_s=4e-5)
"""A guess for 8 H100 on NVLink, to be replaced by a measurement: 40 % of the peak in bfloat16, 200 GB/s."""
PCIE_NODE = replace(NVLINK_NODE, bytes_per_s=1.5e10)
"""A guess for GPUs that meet on PCIe."""
CPU_NODE = GroupMachine(
    operations_per_s=4e10, bytes_per_s=1e9, exchange_s=1e-3, decoding_operations_per_s=4e10, forming_s=0.1
)
"""A guess for one-thread ranks on gloo."""


def machine_of(options: GroupOptions, device: str) -> GroupMachine:
    """What a rank on `device` (`cuda` or `cpu`) is counted as: the measured coefficients of `options`, else guesses."""
    base = CPU_NODE if device == "cpu" else {"nvlink": NVLINK_NODE, "pcie": PCIE_NODE}[options.interconnect]
    given = {
        name: getattr(options, name)
        for name in ("operations_per_s", "bytes_per_s", "exchange_s", "decoding_operations_per_s", "forming_s")
    }
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def step_work(plan: FilmPlan, sizes: TransformerSizes) -> StepWork:
    """The mean step of a film's largest segment, of those that compute all guidance branches."""
    num_frames = max(_mean(one.num_frames for one in passes(plan, index)) for index in range(plan.num_segments))
    return StepWork(
        num_tokens=num_frames * plan.tokens_per_frame,
        tokens_per_frame=plan.tokens_per_frame,
        width=sizes.dim,
        num_heads=sizes.num_heads,
        num_layers=sizes.num_layers,
        ffn_width=sizes.ffn_dim,
        num_branches=2 if plan.job.guided else 1,
        output_width=sizes.out_channels * sizes.patch[1] * sizes.patch[2],
        bytes_per_element=ELEMENT_BYTES[plan.spec.dtype],
    )


def _mean(numbers: Iterable[int]) -> float:
    found = list(numbers)
    return sum(found) / len(found)


def rank_operations(work: StepWork, shape: GroupShape) -> float:
    """Operations of one rank in a step."""
    own = work.num_tokens * work.padded(shape.sequence) / shape.sequence
    layer = 12 * work.width**2 + 4 * work.width * work.ffn_width + 4 * work.width * TEXT_TOKENS
    attention = 4 * work.width * work.num_tokens
    layers = work.num_branches / shape.cfg * work.num_layers
    return own * (layers * layer + attention_passes(work, shape) * attention)


def attention_passes(work: StepWork, shape: GroupShape) -> float:
    """Self-attentions of a rank in a step; half a one in the first layer where it is shared out."""
    branches = work.num_branches // shape.cfg
    shared = 0.5 if work.num_branches == 2 and shape.shares_first_layer(work.num_heads) else 0.0
    return work.num_layers * branches - (branches - 1) - shared


def rank_bytes(work: StepWork, shape: GroupShape) -> dict[str, float]:
    """Bytes that one rank sends in a step, by exchange: `ulysses`, `ring`, `first_layer`, `predictions`."""
    branches = work.num_branches // shape.cfg
    passes = attention_passes(work, shape)
    share = work.padded(shape.sequence) / shape.sequence
    tokens = work.num_tokens * share
    output = (work.num_tokens if work.output_tokens is None else work.output_tokens) * share
    unit = tokens * work.width * work.bytes_per_element
    last = work.num_layers > 1 and output != tokens  # the last layer computes queries and outputs for these only
    leaving = (shape.ulysses - 1) / shape.ulysses
    saved = branches * 2 * (1 - output / tokens) if last else 0.0
    return {
        "ulysses": leaving * (4 * passes - saved) * unit,
        "ring": 2 * (shape.ring - 1) * passes * unit,
        "first_layer": unit / 2 if passes % 1 else 0.0,
        "predictions": (shape.size - 1) * branches * output * work.output_width * work.bytes_per_element,
    }


def step_seconds(work: StepWork, shape: GroupShape, machine: GroupMachine) -> float:
    """An estimate of a step's time. The ring's exchanges are counted in full, although attention runs alongside them
    (how much that hides differs between machines), and joining what was attended to in parts as one exchange more."""
    operations = rank_operations(work, shape) / machine.operations_per_s
    sent = rank_bytes(work, shape)
    passes = work.num_layers * work.num_branches / shape.cfg
    waits = passes * (2 * (shape.ulysses > 1) + 2 * (shape.ring - 1)) + (shape.cfg == 2) + (shape.size > 1)
    return operations + sum(sent.values()) / machine.bytes_per_s + waits * machine.exchange_s


def segment_seconds(work: StepWork, shape: GroupShape, machine: GroupMachine, *, num_steps: int) -> float:
    """An estimate of a segment's time in a group that forms for it."""
    return num_steps * step_seconds(work, shape, machine) + (machine.forming_s if shape.size > 1 else 0.0)
