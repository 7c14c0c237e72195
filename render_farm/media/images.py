"""PNG, JPEG and WebP files to RGB pictures, whatever they hold and however they are broken."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from render_farm.media.kinds import kind_of
from render_farm.media.limits import InputLimits
from render_farm.media.uris import refusal

# What Pillow's readers raise for damaged files, besides OSError; a file is refused for any of them.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    MemoryError,
    struct.error,
    zlib.error,
)


def decode_image(data: bytes, *, uri: str, limits: InputLimits) -> Image.Image:
    """The picture in `data` as RGB, upright. InputError when it is no PNG, JPEG or WebP, damaged, or has too many
    pixels; these are counted before anything is decoded.

    Transparent parts show black, as in `fit="pad"`. Of an animation, the first picture. 16-bit grey keeps its
    brightness. Colour profiles are not applied (diffusers applies none).
    """
    name = _format(data)
    if not name:
        kind = kind_of(data[:512])
        raise refusal(uri, f"it is no PNG, JPEG or WebP image{f' but {kind}' if kind else ''}", _ADVICE)
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            if image.width * image.height > limits.max_image_pixels:
                raise refusal(
                    uri,
                    f"it has {image.width} x {image.height} pixels, more than the {limits.max_image_pixels:,} allowed",
                    "scale it down, or raise max_image_pixels in the farm's settings",
                )
            image.load()
            return _upright(_rgb(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # a warning may be an error, too
        raise refusal(uri, "it has far too many pixels", "scale it down") from None
    except _BROKEN as error:
        # Pillow's own words for a header that makes no sense name the buffer that it was in.
        words = "" if isinstance(error, UnidentifiedImageError) else f" ({str(error)[:120] or type(error).__name__})"
        raise refusal(uri, f"it is a damaged {name} image{words}", _ADVICE) from None


_ADVICE = "give a complete PNG, JPEG or WebP file"


def _format(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says. A camera's broken EXIF data is no reason to refuse its picture."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion cuts everything above 255
        values = np.asarray(image).astype(np.int64)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            values = np.where(values == transparent, 0, values)
        grey = Image.fromarray(((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
        rgb = grey.convert("RGB")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    else:
        rgb = image.convert("RGB")
    rgb.info = dict(image.info)  # where EXIF data is looked for
    return rgb
