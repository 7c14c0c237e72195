"""Load the parts of a checkpoint: safetensors only, each part in its dtype, complete or not at all.

The files are mapped into memory, and tensors go from there to the device one by one: nothing is held twice. On another
device than the CPU that needs the package accelerate; without it a part is put together on the CPU first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from render_farm.engine.transformer.transformer import FrameTransformer
from render_farm.engine.weights.transformer_loading import read_transformer
from render_farm.engine.weights.vae_convolution import copy_once
from render_farm.engine.weights.vae_residual_block import fuse_blocks, kernel_works
from render_farm.errors import ModelError


def load_transformer(folder: Path, *, device: torch.device, dtype: torch.dtype) -> FrameTransformer:
    """The denoiser, its float32-kept modules float32 (`from_pretrained` sees to that; a later dtype `to` would not)."""
    model = _load(SkyReelsV2Transformer3DModel, folder, "transformer", device, torch_dtype=dtype)
    wrapped: FrameTransformer = FrameTransformer.wrap(model)
    return wrapped


def load_vae(folder: Path, *, device: torch.device, fused: bool = False) -> AutoencoderKLWan:
    """The video autoencoder, always float32. `fused`: with a kernel of our own, where that runs."""
    vae: AutoencoderKLWan = _load(AutoencoderKLWan, folder, "vae", device, torch_dtype=torch.float32)
    copy_once(vae)
    if fused and kernel_works(device):
        fuse_blocks(vae)
    return vae


def load_text_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The prompt encoder (UMT5)."""
    from transformers import UMT5EncoderModel

    encoder: nn.Module = _load(UMT5EncoderModel, folder, "text_encoder", device, dtype=dtype, trust_remote_code=False)
    return encoder


def load_image_encoder(folder: Path, class_name: str, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The encoder of conditioning images (CLIP), of the class that the checkpoint names."""
    import transformers

    encoder: nn.Module = _load(
        getattr(transformers, class_name), folder, "image_encoder", device, dtype=dtype, trust_remote_code=False
    )
    return encoder


def load_image_processor(folder: Path) -> Any:
    """What scales and normalises images for the image encoder."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            folder / "image_processor", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model {folder}: its image_processor cannot be loaded: {error}") from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the prompt encoder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model {folder}: its tokenizer cannot be loaded: {error}") from error


@torch.inference_mode(False)  # weights outlive a segment, and threads of the libraries do not inherit the mode
def _load(cls: Any, folder: Path, component: str, device: torch.device, **kwargs: Any) -> Any:
    _read_ahead(folder / component)
    has_accelerate = find_spec("accelerate") is not None
    model: Any
    if device.type != "cpu" and has_accelerate:
        kwargs["device_map"] = {"": device}
    try:
        if cls is SkyReelsV2Transformer3DModel and not has_accelerate:
            model, report = read_transformer(folder / component, dtype=kwargs["torch_dtype"])
        else:
            with without_progress_bars():
                model, report = cls.from_pretrained(
                    folder / component, use_safetensors=True, local_files_only=True, output_loading_info=True, **kwargs
                )
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        # RuntimeError: shapes that do not fit the configuration; the device's own errors are subclasses of it.
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
            raise
        raise ModelError(f"model {folder}: {component} cannot be loaded: {str(error).strip()[:500]}") from error
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]
    if wrong:
        raise ModelError(
            f"model {folder}: {component} lacks {len(wrong)} of its weights, first {wrong[0]}",
            advice="the weights do not belong to this config.json",
        )
    return model.to(device).eval()


def _read_ahead(folder: Path) -> None:
    """Have the system read the weights in large pieces. A mapped file is read page by page, as it is touched."""
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Both libraries draw bars on stderr while they load, which is the caller's to draw on."""
    loggers = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in loggers:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in loggers:
            log.enable_progress_bar()
