"""The engine on torch's `meta` device: shapes and dtypes are real. Nothing is computed, and everything is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from diffusers import SkyReelsV2Transformer3DModel
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from render_farm.engine.conditioning.conditioning import Conditioning
from render_farm.engine.denoising.window import AttentionPolicy, render_window
from render_farm.engine.transformer.attention import BlockCausalAttention
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.engine.transformer.group import RenderGroup
from render_farm.engine.transformer.transformer import EAGER, FrameTransformer, Regions
from render_farm.models import PRESETS
from render_farm.planning import FilmPlan
from render_farm.planning.frames import num_latent_frames
from tests.helpers.live_memory import LiveMemory

_VIEWS = (
    "view",
    "reshape",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "split",
    "unbind",
    "squeeze",
    "detach",
)


class DryRun(LiveMemory):
    """Counts operations by kind, bytes that kernels move and that ranks send, and the memory of the device."""

    def __init__(self) -> None:
        super().__init__("meta")
        self.operations: Counter[str] = Counter()
        self.moved_bytes: Counter[str] = Counter()
        self.num_kernels = 0
        self.sent: Counter[str] = Counter()
        """Bytes that are given to exchanges, by operator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = func._overloadpacket.__name__
        given = [
            leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.device.type == "meta"
        ]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.device.type == "meta"]
        if func.namespace in ("c10d", "_c10d_functional"):
            self.sent[name] += min((tensor.nbytes for tensor in given), default=0)
        elif given and not any(view in name for view in _VIEWS):
            kind = "elementwise"
            if func._overloadpacket in flop_registry:
                kind = "attention" if "attention" in name else "matrix"
                self.operations[kind] += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.moved_bytes[kind] += sum(tensor.nbytes for tensor in (*given, *made))
            self.num_kernels += 1
        return out


def meta_transformer(name: str, *, num_layers: int) -> FrameTransformer:
    """That of a published checkpoint with fewer layers, in bfloat16. Its regions hold their arguments
    until they return, as compiled ones do."""
    config = {key: value for key, value in PRESETS[name].transformer_config().items() if key[0] != "_"}
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel(**{**config, "num_layers": num_layers}).eval().requires_grad_(False)
    kept = set(model._keep_in_fp32_modules or ())
    for path, parameter in model.named_parameters():
        if not kept.intersection(path.split(".")):
            parameter.data = parameter.data.to(torch.bfloat16)
    transformer = FrameTransformer.wrap(model)
    transformer.run_regions(Regions(**{name: _holding(region) for name, region in vars(EAGER).items()}))
    return transformer


def _holding(region: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: region(*args)


def dry_run(
    transformer: FrameTransformer,
    plan: FilmPlan,
    segment: int = 0,
    *,
    group: RenderGroup | None = None,
    keeps: bool = True,
) -> DryRun:
    """The denoising of a segment, from inputs that lie on the CPU."""
    backend, window = BACKENDS["torch_flash"].make(), plan.windows[segment]
    history = None
    if window.num_history_frames:
        history = torch.empty((1, 16, window.num_history_frames, plan.latent_height, plan.latent_width))
    embeddings = {text: torch.empty((512, 4096), dtype=torch.bfloat16) for text in plan.texts}
    conditioning = _conditioning(plan)
    with DryRun() as counted:
        latents = render_window(
            transformer,
            plan,
            segment,
            history=history,
            embeddings=embeddings,
            attention=AttentionPolicy(
                own=BlockCausalAttention(backend), cross=backend, cache_budget_bytes=(1 << 62) * keeps
            ),
            conditioning=conditioning,
            group=group,
        )
    assert (latents.device.type, latents.dtype) == ("meta", torch.float32)
    return counted


def _conditioning(plan: FilmPlan) -> Conditioning:
    job, size = plan.job, (plan.latent_height, plan.latent_width)

    def latents(num_frames: int, channels: int = 16) -> Tensor:
        return torch.empty((1, channels, num_frames, *size))

    has_channels = plan.windows[0].has_image_channels
    num_images = 2 if job.last_image else 1
    return Conditioning(
        first_image=latents(1) if job.image else None,
        last_image=latents(1) if job.last_image else None,
        video_prefix=latents(num_latent_frames(job.overlap_history)) if job.video else None,
        image_channels=latents(plan.windows[0].num_latent_frames, 20) if has_channels else None,
        image_states=torch.empty((num_images, 257, 1280), dtype=torch.bfloat16) if has_channels else None,
    )
