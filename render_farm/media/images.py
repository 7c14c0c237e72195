"""PNG, JPEG and WebP files to RGB pictures, whatever they hold and however they are broken."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from render_farm.media.fetching.uris import refusal
from render_farm.media.kinds import kind_of
from render_farm.media.limits import InputLimits
from render_farm.media.png import cicp, has_all_pixels

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
    AssertionError,
    struct.error,
    zlib.error,
)


def decode_image(data: bytes, *, uri: str, limits: InputLimits) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in `data` as sRGB, upright, and what is to be said of it.

    InputError when it is not a PNG, JPEG or WebP, damaged, or has too many pixels. These are counted before anything is
    decoded.

    Transparent parts show black, as in `fit="pad"`. Of an animation, the first picture. 16-bit grey keeps its
    brightness. Pictures with another colour profile are converted to sRGB. Those that name another colour space
    without a profile are taken for sRGB, with a note. HDR pictures are refused.
    """
    name = _format(data)
    if not name:
        kind = kind_of(data[:512])
        raise refusal(uri, f"it is not a PNG, JPEG or WebP image{f' but {kind}' if kind else ''}", _ADVICE)
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            if image.width * image.height > limits.max_image_pixels:
                raise refusal(
                    uri,
                    f"it has {image.width} x {image.height} pixels, more than the {limits.max_image_pixels:,} allowed",
                    "scale it down, or raise max_image_pixels in the settings",
                )
            if name == "PNG" and (curve := _hdr_curve(data)):
                raise refusal(uri, f"it is an HDR image ({curve})", "save it as an ordinary (SDR) PNG or JPEG")
            is_animated = getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
            image.load()
            if name == "PNG" and not has_all_pixels(data):
                raise EOFError("its image data end early: it is cut short")
            is_small_grey = name == "PNG" and data[_PNG_DEPTH] in (2, 4) and not data[_PNG_DEPTH + 1]
            if is_small_grey and isinstance(image.info.get("transparency"), int):
                # Pillow makes 8 bits of such a grey, and leaves the value that is transparent as it was.
                image.info["transparency"] *= 255 // ((1 << data[_PNG_DEPTH]) - 1)
            if name == "PNG" and data[_PNG_DEPTH] == 16 and isinstance(image.info.get("transparency"), tuple):
                image.putalpha(_alpha_of_16_bit_rgb(image, data))
            converted, notes = _in_srgb(image) if image.info.get("icc_profile") else (image, _other_space(image, data))
            if is_animated:
                notes += ("it is an animation: its first picture is taken",)
            return _upright(_rgb(converted)), notes
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        raise refusal(
            uri,
            f"decoding it needs more memory than a picture of {limits.max_image_pixels:,} pixels may take",
            "scale it down, or raise max_image_pixels in the settings",
        ) from None
    except _BROKEN as error:
        # Pillow's own words for a header that makes no sense name the buffer that it was in.
        words = "" if isinstance(error, UnidentifiedImageError) else f" ({str(error)[:120] or type(error).__name__})"
        raise refusal(uri, f"it is a damaged {name} image{words}", _ADVICE) from None


_STRIP_PIXELS = 1 << 20
_PNG_DEPTH = 24
"""Where a PNG's header has its bits per channel. Its kind of colour follows, 0 for grey."""
_ADVICE = "give a complete PNG, JPEG or WebP file"


def _format(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _hdr_curve(data: bytes) -> str:
    """The HDR transfer function that a PNG names (chunk cICP, PNG's third edition); "" where it names none."""
    return {16: "PQ", 18: "HLG"}.get(cicp(data)[1], "")


def _other_space(image: Image.Image, data: bytes) -> tuple[str, ...]:
    """A note on a picture without a profile that says in another way that its colours are not those of sRGB."""
    if image.format == "PNG":
        if name := {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}.get(cicp(data)[0], ""):
            return (f"its {name} colours are taken for sRGB",)
        gamma = image.info.get("gamma")
        if gamma and "srgb" not in image.info and not 0.4 < gamma < 0.5:
            return (f"its gamma of {1 / gamma:.3g} is taken for that of sRGB",)
    try:
        is_adobe_rgb = image.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except _BROKEN:
        return ()
    return ("its Adobe RGB colours are taken for sRGB",) if is_adobe_rgb else ()


def _with_info(image: Image.Image, source: Image.Image) -> Image.Image:
    image.info = dict(source.info)  # where EXIF data and profiles are looked for
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says. A camera's broken EXIF data is no reason to refuse its picture."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _in_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """A picture with a profile with its colours in sRGB, and a note when they were in another space. Unreadable
    profiles are ignored, as every viewer ignores them."""
    data = image.info["icc_profile"]
    if image.mode in ("P", "PA"):
        image = _with_info(image.convert("RGBA" if image.has_transparency_data else "RGB"), image)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = ImageCms.getProfileDescription(profile).strip()
        if "srgb" in name.lower():
            return image, ()
        if image.mode not in ("RGB", "RGBA", "L", "LA", "CMYK"):
            raise ValueError(f"mode {image.mode}")
        alpha = image.getchannel("A") if "A" in image.getbands() else None
        source = image if alpha is None else image.convert(image.mode[:-1])
        converted = ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, *_BROKEN):
        return image, ("its colour profile cannot be used: its colours are taken for sRGB",)
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return _with_info(converted, image), (f"its colours are converted from {name[:60]!r} to sRGB",)


def _grey_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, in strips: Pillow's own conversion cuts everything above 255."""
    transparent = image.info.get("transparency")
    grey = np.empty((image.height, image.width), np.uint8)
    num_rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        values = np.asarray(image.crop((0, top, image.width, bottom))).astype(np.int64)
        if isinstance(transparent, int):
            values[values == transparent] = 0
        grey[top:bottom] = (values.clip(0, 65535) * 255 + 32767) // 65535
    return Image.fromarray(grey)


def _alpha_of_16_bit_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Transparent where all 16 bits are those of the picture's transparent colour, which it no longer names then.

    Pillow keeps the high bytes alone. Read as little-endian numbers, the same data give it the low bytes.
    """
    colour = image.info.pop("transparency")
    alpha = Image.new("L", image.size)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as low:
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        for source, shift in ((image, 8), (low, 0)):
            for band, value in zip("RGB", colour, strict=True):
                differs = [255] * 256
                differs[value >> shift & 255] = 0
                alpha = ImageChops.lighter(alpha, source.getchannel(band).point(differs))
    return alpha


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        rgb = _grey_8_bit(image).convert("RGB")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    else:
        rgb = image.convert("RGB")
    return _with_info(rgb, image)
