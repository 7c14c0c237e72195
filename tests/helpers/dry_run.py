"""The engine on a fake GPU (torch's fake tensors): shapes, dtypes and devices are real. Nothing is computed, and
everything is counted. An operator that is given tensors of two devices fails, as on a GPU."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel
from diffusers.hooks import group_offloading
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from render_farm import RenderJob
from render_farm.engine.conditioning.conditioning import Conditioning
from render_farm.engine.denoising.window import AttentionPolicy, render_window
from render_farm.engine.transformer.attention import BlockCausalAttention
from render_farm.engine.transformer.attention_backends import BACKENDS
from render_farm.engine.transformer.group import RenderGroup
from render_farm.engine.transformer.transformer import EAGER, FrameTransformer, Regions
from render_farm.engine.weights.transformer_loading import restore_positions
from render_farm.engine.weights.vae_convolution import copy_once
from render_farm.models import FULL, PRESETS
from render_farm.parallel import GroupShape, ParallelGroup, ProcessGroups, Rendezvous, Seat, process_group
from render_farm.planning import FilmPlan, plan_film, spec_of_preset
from render_farm.planning.frames import num_latent_frames
from render_farm.planning.model_sizes import ModelSizes, sizes_of_preset
from tests.helpers.live_memory import LiveMemory

_NO_KERNEL = ("_unsafe_view", "empty_like", "new_empty")
_FIRST_IS_NOT_READ = ("copy_", "fill_", "zero_", "new_zeros", "new_full", "zeros_like", "ones_like", "full_like")


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
        # What an exchange gives is wrapped until it is there, which it is at once.
        args, kwargs = tree_map_only(AsyncCollectiveTensor, lambda tensor: tensor.elem, (args, kwargs))
        name = func._overloadpacket.__name__
        if name == "wait_tensor":  # for fake tensors, torch makes another one here
            return args[0]
        out = super().__torch_dispatch__(func, types, args, kwargs)
        given, made = (
            [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type == "cuda"]
            for values in ((args, kwargs), out)
        )
        read = given[name in _FIRST_IS_NOT_READ :]
        if func.namespace in ("c10d", "_c10d_functional"):
            self.sent[name] += min((tensor.nbytes for tensor in given), default=0)
        elif given and func.namespace in ("aten", "render_farm") and not func.is_view and name not in _NO_KERNEL:
            kind = "elementwise"
            if func._overloadpacket in flop_registry:
                kind = "attention" if "attention" in name else "matrix"
                self.operations[kind] += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.moved_bytes[kind] += sum(tensor.nbytes for tensor in (*read, *made))
            self.num_kernels += 1
        return out


def fake_transformer(name: str, *, num_layers: int, device: str = "cuda") -> FrameTransformer:
    """That of a published checkpoint with fewer layers, in bfloat16. Its regions hold their arguments
    until they return, as compiled ones do."""
    allow_fake_gpus()
    config = {key: value for key, value in PRESETS[name].transformer_config().items() if key[0] != "_"}
    with torch.device("meta"):
        model = SkyReelsV2Transformer3DModel(**{**config, "num_layers": num_layers}).eval().requires_grad_(False)
    _make_fake(model, torch.bfloat16, device)
    restore_positions(model)
    transformer = FrameTransformer.wrap(model)
    transformer.run_regions(Regions(**{name: _holding(region) for name, region in vars(EAGER).items()}))
    return transformer


def fake_vae() -> AutoencoderKLWan:
    """That of the published checkpoints, on the GPU."""
    allow_fake_gpus()
    with torch.device("meta"):
        vae = AutoencoderKLWan().eval().requires_grad_(False)
    _make_fake(vae, torch.float32, "cuda")
    copy_once(vae)
    return vae


def _make_fake(model: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Give `model`, which is on `meta`, parameters on a fake device. Those that stay float32 are."""
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    with FAKE:
        for path, parameter in list(model.named_parameters()):
            own = torch.float32 if kept.intersection(path.split(".")) else dtype
            fake = nn.Parameter(torch.empty(parameter.shape, dtype=own, device=device), requires_grad=False)
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, fake)


_INPUTS: dict[str, dict[str, Any]] = {
    "t2v": {},
    "i2v": {"image": "a.png"},
    "flf2v": {"image": "a.png", "last_image": "b.png"},
    "v2v": {"video": "a.mp4"},
}
_BLOCKS: dict[str, Any] = {"num_frames": 97, "base_num_frames": 97, "ar_step": 2, "causal_block_size": 5}
MODES: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "causal blocks": _BLOCKS | {"block_attention": "causal"},
    "full blocks": _BLOCKS | {"block_attention": FULL},
}
LAYERS = 3
"""Enough to tell the first, the last and the others, which are alike."""


def film(name: str, task: str, mode: str, **columns: Any) -> tuple[FilmPlan, ModelSizes]:
    """A film of two steps at a checkpoint's own size, and the sizes of that with `LAYERS`."""
    job = RenderJob(job_id="a", prompt="x", num_inference_steps=2, **{**_INPUTS[task], **MODES[mode], **columns})
    sizes = sizes_of_preset(PRESETS[name])
    return plan_film(job, spec_of_preset(name)), replace(
        sizes, transformer=replace(sizes.transformer, num_layers=LAYERS)
    )


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
    prepare: Callable[[FrameTransformer], None] | None = None,
) -> DryRun:
    """The denoising of a segment, from inputs that lie on the CPU. What `prepare` does first is counted too."""
    backend, window = BACKENDS["torch_flash"].make(), plan.windows[segment]
    with FAKE, DryRun() as counted:
        if prepare is not None:
            prepare(transformer)
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


@contextmanager
def fake_transfers() -> Iterator[None]:
    """Have fake weights and features move between fake devices: `tensor.data = other` would leave a fake tensor on its
    device. Memory is pinned by name only, streams do nothing, and the files of `offload_disk` are in memory."""
    torch.utils._device._device_constructors()  # it remembers torch.empty, which is replaced below
    files: dict[str, dict[str, Tensor]] = {}
    storage_of, empty = torch._C.TensorBase.__dict__["data"], torch.empty

    def set_data(tensor: FakeTensor, other: FakeTensor) -> None:
        storage_of.__set__(tensor, other)
        tensor.fake_device = other.fake_device

    def load(path: str, device: str) -> dict[str, Tensor]:
        return {name: tensor.to(device, copy=True) for name, tensor in files[path].items()}

    stream = SimpleNamespace(synchronize=lambda: None)
    device = SimpleNamespace(Stream=lambda: stream, current_stream=lambda: stream, stream=lambda _: nullcontext())
    library = SimpleNamespace(
        torch=SimpleNamespace(save_file=lambda given, to: files.update({to: given}), load_file=load)
    )
    with (
        patch.object(FakeTensor, "data", property(FakeTensor.detach, set_data), create=True),
        patch.object(torch.utils, "swap_tensors", set_data),
        patch.object(torch, "empty", lambda *size, pin_memory=False, **given: empty(*size, **given)),
        patch.object(FakeTensor, "pin_memory", lambda tensor: tensor, create=True),
        patch.object(FakeTensor, "is_pinned", lambda _: True, create=True),
        patch.object(FakeTensor, "record_stream", lambda *_: None, create=True),
        patch.object(group_offloading, "TorchDeviceBackend", lambda _: device),
        patch.object(group_offloading, "safetensors", library),
    ):
        yield


@contextmanager
def fake_group(shape: GroupShape, rank: int) -> Iterator[ParallelGroup]:
    """A rank of a group whose others are not there: exchanges have their shapes, and nothing arrives."""
    importlib.import_module("torch.testing._internal.distributed.fake_pg")
    importlib.import_module("torch.distributed._tools.fake_collectives")  # what exchanges give, for fake tensors
    init, new = dist.init_process_group, dist.new_group
    seat = Seat(shape=shape, rank=rank, rendezvous=Rendezvous(host="127.0.0.1", port=0, name="fake"))
    with (
        patch.object(dist, "init_process_group", lambda backend, **given: init("fake", **given)),
        patch.object(dist, "new_group", lambda ranks=None, **_: new(ranks, backend="fake")),
        patch.object(process_group, "_meet", lambda *_: dist.HashStore()),
        patch.object(process_group, "_set_timeouts", lambda _: None),
        ProcessGroups(seat, device=torch.device("cpu"), timeout_s=1.0) as groups,
    ):
        group = ParallelGroup(groups)
        with patch.object(group, "all_agree", lambda here: here):
            yield group


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
