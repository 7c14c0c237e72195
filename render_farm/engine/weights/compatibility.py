"""Whether a checkpoint's transformer, VAE and image encoder fit together, from their configurations."""

from __future__ import annotations

from typing import Any

from render_farm.errors import ModelError


def check_compatible(
    transformer: dict[str, Any],
    *,
    name: str,
    latent_channels: int,
    mask_channels: int,
    image_encoder: dict[str, Any] | None,
) -> None:
    """Raise `ModelError` where the parts of model `name` do not fit. `image_encoder` is the configuration of the one
    that an image-to-video checkpoint has; its transformer also takes a mask and the images' latents."""
    expected: dict[str, Any] = {
        "in_channels": latent_channels if image_encoder is None else 2 * latent_channels + mask_channels,
        "out_channels": latent_channels,
        "image_dim": None,
        "added_kv_proj_dim": None,
    }
    if image_encoder is not None:
        expected["image_dim"] = image_encoder.get("hidden_size", 768)
        expected["added_kv_proj_dim"] = transformer.get("num_attention_heads", 0) * transformer.get(
            "attention_head_dim", 0
        )
        if transformer.get("pos_embed_seq_len") is not None:
            patches = image_encoder.get("image_size", 224) // image_encoder.get("patch_size", 32)
            expected["pos_embed_seq_len"] = 2 * (patches**2 + 1)
    for field, value in expected.items():
        found = transformer.get(field, value)
        if found != value:
            kind = "with an image encoder" if image_encoder is not None else "without an image encoder"
            raise ModelError(
                f"model {name}: its transformer has {field} {found}, but a model of its class, {kind}, needs {value}",
                advice="does model_index.json name the right pipeline?",
            )
