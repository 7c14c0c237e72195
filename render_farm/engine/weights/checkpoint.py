"""Read a model folder without loading weights, and refuse models other than SkyReels-V2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from render_farm.engine.weights.compatibility import check_compatible
from render_farm.engine.weights.fingerprint import MAGNITUDES, fingerprint
from render_farm.errors import ModelError
from render_farm.models import (
    CUSTOM_DEFAULTS,
    CUSTOM_IMAGE_DEFAULTS,
    CUSTOM_VIDEO_DEFAULTS,
    DIFFUSION_FORCING_TASKS,
    PRESETS,
    Family,
)
from render_farm.planning import ModelSpec
from render_farm.planning.magnitudes import Magnitudes

FAMILY_OF_PIPELINE = {
    "SkyReelsV2DiffusionForcingPipeline": Family.DIFFUSION_FORCING,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": Family.DIFFUSION_FORCING,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": Family.DIFFUSION_FORCING,
    "SkyReelsV2Pipeline": Family.TEXT_TO_VIDEO,
    "SkyReelsV2ImageToVideoPipeline": Family.IMAGE_TO_VIDEO,
}
CLASSES = {
    "transformer": ("SkyReelsV2Transformer3DModel",),
    "vae": ("AutoencoderKLWan",),
    "scheduler": ("UniPCMultistepScheduler",),
    "text_encoder": ("UMT5EncoderModel", "T5EncoderModel"),
}
IMAGE_CLASSES = {
    "image_encoder": ("CLIPVisionModelWithProjection", "CLIPVisionModel"),
    "image_processor": ("CLIPProcessor", "CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
}
"""Further parts of an image-to-video checkpoint."""
_NUMBER, _COUNT, _FLAG = "a number from 1 to 1,000,000", "a number from 1 to 256", "true or false"
_NUMBERS, _FLAGS = "a list of numbers above 0", "a list of flags"
_MOST = {_NUMBER: 1_000_000, _COUNT: 256}
"""What is planned loops over some of these, and a row must not keep the driver busy for hours."""
_LONGEST_LIST = 16
_FIELDS: dict[str, dict[str, str]] = {
    "transformer": {
        **dict.fromkeys(("num_attention_heads", "num_layers", "num_frame_per_block"), _COUNT),
        **dict.fromkeys(("attention_head_dim", "in_channels", "out_channels"), _NUMBER),
        **dict.fromkeys(("text_dim", "freq_dim", "ffn_dim"), _NUMBER),
        **dict.fromkeys(("rope_max_seq_len", "image_dim", "added_kv_proj_dim", "pos_embed_seq_len"), _NUMBER),
        "inject_sample_info": _FLAG,
        "patch_size": _NUMBERS,
    },
    "vae": {
        **dict.fromkeys(("z_dim", "base_dim", "decoder_base_dim"), _NUMBER),
        "num_res_blocks": _COUNT,
        "dim_mult": _NUMBERS,
        "temperal_downsample": _FLAGS,
    },
    "text_encoder": {
        **dict.fromkeys(("d_model", "d_ff", "d_kv", "vocab_size", "relative_attention_num_buckets"), _NUMBER),
        **dict.fromkeys(("num_heads", "num_layers"), _COUNT),
    },
    "image_encoder": {
        **dict.fromkeys(("hidden_size", "intermediate_size", "image_size", "patch_size"), _NUMBER),
        "num_hidden_layers": _COUNT,
    },
}
"""What the arithmetic reads of each part's config.json. A field that has a default may be absent."""
_MAY_BE_NULL = frozenset(("image_dim", "added_kv_proj_dim", "pos_embed_seq_len", "decoder_base_dim"))
"""Fields whose null means that there is no such thing."""
_UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SAMPLER = {
    "solver_order": 2,
    "solver_type": "bh2",
    "predict_x0": True,
    "lower_order_final": True,
    "thresholding": False,
    "disable_corrector": [],
    "solver_p": None,
    "final_sigmas_type": "zero",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "num_train_timesteps": 1000,
    "shift_terminal": None,
}
"""What `sampler` computes. Flow sigmas, flow prediction and the shift are the job's, whatever a checkpoint says."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model folder that can be rendered with, as far as its configuration tells."""

    folder: Path
    spec: ModelSpec
    image_encoder: str | None = None
    """Class of its image encoder, if it has one."""


def read_checkpoint(folder: Path, *, name: str, dtype: str) -> Checkpoint:
    """Check the model in `folder` (diffusers format, safetensors) and gather its spec.

    `name` is what the user calls it. Raises `ModelError` that says what is wrong and what would work.
    """
    index = _read_json(folder / "model_index.json", name, missing="no model_index.json is in {parent}")
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in FAMILY_OF_PIPELINE:
        raise ModelError(f"model {name} is for {pipeline}; this farm renders SkyReels-V2 ({_known_pipelines()})")
    family = FAMILY_OF_PIPELINE[pipeline]
    has_images = family is Family.IMAGE_TO_VIDEO
    for component, classes in (CLASSES | IMAGE_CLASSES if has_images else CLASSES).items():
        entry = index.get(component)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found not in classes:
            raise ModelError(f"model {name}: its {component} is {found}, not {' or '.join(classes)}")
    for component in ("transformer", "vae", "text_encoder", *(["image_encoder"] if has_images else [])):
        _check_weights(folder / component, name)
    configs = {part: _read_config(folder, part, name) for part in ("transformer", "vae", "text_encoder")}
    image_encoder = _read_config(folder, "image_encoder", name) if has_images else None
    transformer, vae = configs["transformer"], configs["vae"]
    _check_scheduler(_read_json(folder / "scheduler" / "scheduler_config.json", name), name)
    preset = PRESETS.get(name)
    downsample = vae.get("temperal_downsample", [False, True, True])
    latent_channels, temporal_factor = vae.get("z_dim", 16), 2 ** sum(map(bool, downsample))
    check_compatible(
        transformer,
        name=name,
        latent_channels=latent_channels,
        mask_channels=temporal_factor,
        image_encoder=image_encoder,
    )
    try:
        spec = ModelSpec(
            name=name,
            fingerprint=fingerprint(folder),
            family=family,
            tasks=_tasks(family, transformer),
            num_heads=transformer["num_attention_heads"],
            dtype=dtype,
            defaults=preset.defaults if preset else CUSTOM_DEFAULTS,
            image_defaults=preset.image_defaults if preset else CUSTOM_IMAGE_DEFAULTS,
            video_defaults=None if preset else CUSTOM_VIDEO_DEFAULTS,
            num_frame_per_block=transformer.get("num_frame_per_block", 1),
            temporal_factor=temporal_factor,
            spatial_factor=2 ** len(downsample),
            patch=transformer.get("patch_size", (1, 2, 2))[1],
            latent_channels=latent_channels,
            sample_info=transformer.get("inject_sample_info", False),
            magnitudes=_read_magnitudes(folder, name),
            rope_max_len=transformer.get("rope_max_seq_len", 1024),
        )
    except KeyError as error:
        raise ModelError(f"model {name}: transformer/config.json has no {error.args[0]}") from error
    except OSError as error:
        raise ModelError(f"model {name} cannot be read: {error.strerror}: {error.filename}") from error
    return Checkpoint(folder=folder, spec=spec, image_encoder=index["image_encoder"][1] if has_images else None)


def _tasks(family: Family, transformer: dict[str, Any]) -> tuple[str, ...]:
    """A transformer that tells the first image from the last takes two, no more and no less; any other takes one."""
    if family is Family.IMAGE_TO_VIDEO:
        return ("flf2v",) if transformer.get("pos_embed_seq_len") else ("i2v",)
    return DIFFUSION_FORCING_TASKS if family is Family.DIFFUSION_FORCING else ("t2v",)


def _read_magnitudes(folder: Path, name: str) -> Magnitudes | None:
    """Those that `calibrate` measured with exactly these weights; None when there are none."""
    if not (folder / MAGNITUDES).is_file():
        return None
    try:
        found = Magnitudes.from_dict(_read_json(folder / MAGNITUDES, name))
    except ValueError as error:
        raise ModelError(
            f"model {name}: {MAGNITUDES}: {error}", advice="remove it, or measure them again (engine.calibrate)"
        ) from error
    return found if found.fingerprint == fingerprint(folder) else None


def _known_pipelines() -> str:
    return ", ".join(FAMILY_OF_PIPELINE)


def _read_json(path: Path, name: str, *, missing: str = "{path} is missing") -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"model {name}: {missing.format(path=path, parent=path.parent)}",
            advice="give the folder of a model in diffusers format (what `save_pretrained` wrote)",
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"model {name}: {path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ModelError(f"model {name}: {path} is not a JSON object")
    return document


def _read_config(folder: Path, part: str, name: str) -> dict[str, Any]:
    """A part's config.json, each field of the kind that the arithmetic takes it for. ModelError names one that is
    not."""
    config = _read_json(folder / part / "config.json", name)
    for field, kind in _FIELDS[part].items():
        value = config.get(field)
        if field not in config or (value is None and field in _MAY_BE_NULL):
            continue
        if not _is_of(value, kind):
            raise ModelError(f"model {name}: {part}/config.json: {field} is {str(value)[:80]!r}, not {kind}")
    patch = config.get("patch_size")
    if part == "transformer" and patch is not None and len(patch) != 3:
        raise ModelError(f"model {name}: transformer/config.json: patch_size has {len(patch)} numbers, not 3")
    return config


def _is_of(value: Any, kind: str) -> bool:
    if kind in (_NUMBERS, _FLAGS):
        one = _NUMBER if kind == _NUMBERS else _FLAG
        return isinstance(value, list) and 0 < len(value) <= _LONGEST_LIST and all(_is_of(item, one) for item in value)
    return isinstance(value, bool) if kind == _FLAG else type(value) is int and 0 < value <= _MOST[kind]


def _check_weights(folder: Path, name: str) -> None:
    """Refuse a component without safetensors, or with an index that names files that are not there."""
    if not any(folder.glob("*.safetensors")):
        unsafe = sorted(path.name for path in folder.glob("*") if path.suffix in _UNSAFE_SUFFIXES)
        if unsafe:
            raise ModelError(
                f"model {name}: {folder.name}/ has only pickled weights ({unsafe[0]}), which can run code when loaded",
                advice="load it where you trust it and save it again with `save_pretrained(safe_serialization=True)`",
            )
        raise ModelError(f"model {name}: {folder.name}/ has no *.safetensors file", advice="is the copy complete?")
    for index in folder.glob("*.safetensors.index.json"):
        places = _read_json(index, name).get("weight_map", {})
        if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
            raise ModelError(
                f"model {name}: {index} does not say which tensor is in which file", advice="copy it again"
            )
        shards = set(places.values())
        absent = sorted(shard for shard in shards if not (folder / shard).is_file())
        if absent:
            raise ModelError(
                f"model {name}: {folder.name}/ lacks {len(absent)} of {len(shards)} weight files, first {absent[0]}",
                advice="copy it again",
            )


def _check_scheduler(config: dict[str, Any], name: str) -> None:
    for field, expected in _SAMPLER.items():
        found = config.get(field, expected)
        if found != expected:
            raise ModelError(f"model {name}: its scheduler has {field} {found}; only {expected} is rendered")
