"""Bringing a picture to a job's size. Everything is resampled with Lanczos, as diffusers does."""

from __future__ import annotations

from typing import Literal, get_args

from PIL import Image, ImageOps

Fit = Literal["crop", "stretch", "pad"]


def fit_image(image: Image.Image, *, width: int, height: int, fit: Fit) -> Image.Image:
    """An RGB `image` at width x height; unchanged when it has that size.

    `crop` covers the size and cuts what sticks out, evenly on both sides. `stretch` is what diffusers'
    `VaeImageProcessor.resize` does by default (image_processor.py). `pad` fits inside, on black.
    """
    if fit not in get_args(Fit):
        raise ValueError(f"fit {fit!r}: {', '.join(get_args(Fit))} are known")
    if image.size == (width, height):
        return image
    if fit == "crop":
        # It resamples the box alone: a picture one pixel wide does not grow to gigabytes on the way.
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    sheet = Image.new("RGB", (width, height))
    sheet.paste(image.resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return sheet
