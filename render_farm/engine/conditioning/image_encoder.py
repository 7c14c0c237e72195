"""Images to the states that cross-attention sees in addition to the prompt, as
`SkyReelsV2ImageToVideoPipeline.encode_image`.

Shapes: N images, S tokens of an image (257 for CLIP ViT-H/14), D channels of the image encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from render_farm.errors import ModelError


@torch.no_grad()
def encode_images(pictures: Sequence[np.ndarray], *, processor: Any, encoder: Any) -> Tensor:
    """`pictures` ((any height, any width, 3) uint8) to the states before the encoder's last layer, (N S D) on the CPU.

    The processor scales and crops them to the encoder's square. Raises `ModelError` when that is another square.
    """
    images = [Image.fromarray(picture) for picture in pictures]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    size = encoder.config.image_size
    if pixels.shape[2:] != (size, size):
        raise ModelError(
            f"its image_processor makes pictures of {tuple(pixels.shape[2:])}, its image_encoder takes {(size, size)}",
            advice="the two do not belong together: copy image_processor from where image_encoder is from",
        )
    device = next(encoder.parameters()).device
    states: Tensor = encoder(pixel_values=pixels.to(device), output_hidden_states=True).hidden_states[-2].cpu()
    return states
