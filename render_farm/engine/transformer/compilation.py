"""`torch.compile` of a transformer's blocks, region by region, and whether it is worth it here.

Attention, the key/value cache and the choice of frames stay outside: what is compiled are the element-wise operations
around the matrix products, once for all blocks and with the number of tokens left open, so that neither another layer
nor another span, segment or film is compiled again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch.fx.experimental import _config as shape_config

from render_farm.engine.transformer.attention import AttentionBackend
from render_farm.engine.transformer.transformer import EAGER, FrameBlock, FrameTransformer, Regions
from render_farm.memory_mode import MemoryMode, Placement, WeightForm
from render_farm.planning.group_cost import TEXT_TOKENS

log = logging.getLogger(__name__)

_MOST_FORMS = 64
"""Of a block that are compiled: LoRAs make one for each set of layers that they change. torch's own limit is 8, after
which blocks silently run as they are."""

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class CompilePlan:
    """Whether blocks are compiled, and why."""

    compiles: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """For `job.json`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"compile: {'on' if self.compiles else 'off'}, {self.reason}"


def plan_compilation(asked: str, device: torch.device, mode: MemoryMode) -> CompilePlan:
    """The decision for `asked` (`auto`, `on` or `off`) and weights in `mode`.

    `auto` compiles on CUDA only: on a CPU matrix products and attention are nine tenths of the time. Weights that are
    fetched as they are used have hooks around their modules, which are left alone, as are torchao's.
    """
    if asked == "off":
        return CompilePlan(compiles=False, reason="as asked")
    is_plain = mode.weights in (WeightForm.FULL, WeightForm.FP8_CAST)
    if mode.placement not in (Placement.AUTO, Placement.RESIDENT) or not is_plain:
        return CompilePlan(compiles=False, reason=f"weights are {mode}")
    if asked == "on":
        return CompilePlan(compiles=True, reason="as asked")
    if device.type == "cuda":
        return CompilePlan(compiles=True, reason="a GPU gains by fused element-wise operations")
    return CompilePlan(compiles=False, reason=f"it does not pay on {device.type}")


def _inductor(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def compile_blocks(transformer: FrameTransformer, *, or_else_eager: bool, compiler: Compiler = _inductor) -> None:
    """Compile the regions of `transformer`'s blocks when they are first run.

    With `or_else_eager` a region that cannot be compiled (no C compiler, no Triton) is run as it is from then on, and
    the log says so; else the compiler's error passes.
    """
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, _MOST_FORMS)
    transformer.run_regions(
        Regions(**{name: _Region(name, eager, compiler(eager), or_else_eager) for name, eager in vars(EAGER).items()})
    )


def run_regions_once(
    transformer: FrameTransformer, attention: AttentionBackend, *, num_frames: int, tokens_per_frame: int
) -> None:
    """Run a block's regions, so that compiled ones are ready. Kernels are tuned to the size of this first call."""
    block = cast(FrameBlock, transformer.blocks[0])
    config, num_tokens = transformer.config, num_frames * tokens_per_frame
    width, head_dim = config["num_attention_heads"] * config["attention_head_dim"], config["attention_head_dim"]
    hidden = torch.zeros((1, num_tokens, width), device=transformer.device, dtype=transformer.dtype)
    modulation = torch.zeros((1, num_frames, 6, width), device=transformer.device)
    cos, sin = (torch.zeros((num_tokens, 1, head_dim // 2), device=transformer.device) for _ in range(2))
    query, key, value = block.regions.enter_self_attention(block, hidden, modulation, cos, sin, 0)
    # A graph is compiled for how its arguments lie in memory: as attention leaves them, or exchanges after it.
    for attended in (attention.attend(query, key, value), value):
        _, query = block.regions.enter_cross_attention(block, hidden, attended, modulation, 0)
    attended = attention.attend(query, key[:, :TEXT_TOKENS], value[:, :TEXT_TOKENS])
    block.regions.leave_cross_attention(block, hidden, attended, modulation, 0)


class _Region:
    """A compiled function, and the function itself for where it cannot be compiled."""

    def __init__(self, name: str, eager: Callable[..., Any], compiled: Callable[..., Any], or_else_eager: bool) -> None:
        self._name = name
        self._eager = eager
        self._compiled: Callable[..., Any] | None = compiled
        self._or_else_eager = or_else_eager

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            return self._eager(*args)
        try:
            # Sizes that happen to be equal in the first call (blocks and heads, say) are not taken for the same.
            with shape_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                return self._compiled(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            if not self._or_else_eager:
                raise
            reason = " ".join(str(error).split())[:200]
            log.warning("compile: %s is not compiled and runs as it is: %s", self._name, reason)
            self._compiled = None
            return self._eager(*args)
