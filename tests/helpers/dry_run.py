"""The engine on a fake GPU (torch's fake tensors): shapes, dtypes and devices are real. Nothing is computed, and
everything is counted. An operator that is given tensors of two devices fails, as on a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SkyReelsV2Transformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from render_farm.engine.conditioning.conditioning import Conditioning
from render_farm.engine.denoising.window import AttentionPolicy, render_window
from render_farm.engine.transformer.attention import BlockCausalAttention
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.engine.transformer.group import RenderGroup
from render_farm.engine.transformer.transformer import EAGER, FrameTransformer, Regions
from render_farm.engine.weights.transformer_loading import restore_positions
from render_farm.models import PRESETS
from render_farm.planning import FilmPlan
from render_farm.planning.frames import num_latent_frames
from tests.helpers.live_memory import LiveMemory


class DryRun(LiveMemory):
    """Counts operations by kind, bytes that kernels move and that ranks send, and the memory of the device."""

    def __init__(self) -> None:
        super().__init__("cuda")
        self.operations: Counter[str] = Counter()
        self.moved_bytes: Counter[str] = Counter()
        self.num_kernels = 0
        self.sent: Counter[str] = Counter()
        """Bytes that are given to exchanges, by operator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = func._overloadpacket.__name__
        given, made = (
            [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type == "cuda"]
            for values in ((args, kwargs), out)
        )
        if func.namespace in ("c10d", "_c10d_functional"):
            self.sent[name] += min((tensor.nbytes for tensor in given), default=0)
        elif given and func.namespace == "aten" and not func.is_view:
            kind = "elementwise"
            if func._overloadpacket in flop_registry:
                kind = "attention" if "attention" in name else "matrix"
                self.operations[kind] += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.moved_bytes[kind] += sum(tensor.nbytes for tensor in (*given, *made))
            self.num_kernels += 1
        return out


def fake_transformer(name: str, *, num_layers: int, device: str = "cuda") -> FrameTransformer:
    """That of a published checkpoint with fewer layers, in bfloat16. Its regions hold their arguments
    until they return, as compiled ones do."""
    allow_fake_gpus()
    config = {key: value for key, value in PRESETS[name].transformer_config().items() if key[0] != "_"}
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel(**{**config, "num_layers": num_layers}).eval().requires_grad_(False)
    kept = set(model._keep_in_fp32_modules or ())
    with FAKE:
        for path, parameter in model.named_parameters():
            dtype = torch.float32 if kept.intersection(path.split(".")) else torch.bfloat16
            fake = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=device), requires_grad=False)
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, fake)
    restore_positions(model)
    transformer = FrameTransformer.wrap(model)
    transformer.run_regions(Regions(**{name: _holding(region) for name, region in vars(EAGER).items()}))
    return transformer


FAKE = FakeTensorMode(allow_non_fake_inputs=True)
_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>);
"""


@cache
def allow_fake_gpus() -> None:
    """Have torch take part without a GPU: indexing asks for a guard of the device. A CPU build has none, and that of a
    CUDA build asks for the driver. Skips the test where there is no compiler."""
    if torch.cuda.is_available():
        return
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is needed for a fake GPU")
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(_GUARD)
        command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", str(source), "-o", str(library)]
        subprocess.run([*command, f"-L{root / 'lib'}", "-lc10"], check=True)
        ctypes.CDLL(str(library))


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
    with FAKE, DryRun() as counted:
        history = None
        if window.num_history_frames:
            history = torch.empty((1, 16, window.num_history_frames, plan.latent_height, plan.latent_width))
        embeddings = {text: torch.empty((512, 4096), dtype=torch.bfloat16) for text in plan.texts}
        latents = render_window(
            transformer,
            plan,
            segment,
            history=history,
            embeddings=embeddings,
            attention=AttentionPolicy(
                own=BlockCausalAttention(backend), cross=backend, cache_budget_bytes=(1 << 62) * keeps
            ),
            conditioning=_conditioning(plan),
            group=group,
        )
    assert (latents.device.type, latents.dtype) == ("cuda", torch.float32)
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
