"""One picture: 8-bit grey or RGB, of a format that we name, of one frame.

Pillow is imported only here."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.data.dataset import unreadable
from exposure_bias.errors import InputError
from exposure_bias.files.limits import PICTURES, Limit

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
# Pillow would open any format under any name, EPS by starting Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
BITS_PER_SAMPLE = 258  # of a TIFF
PNG_DEPTH = 24  # where a PNG's header says its bit depth


def decoded(
    content: bytes, name: str, where: Path, limit: Limit
) -> tuple[NDArray[np.uint8], str | None]:
    """uint8 (C, H, W), C = 1 or 3, and the file format.

    Palettes become RGB and an opaque alpha channel is dropped."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
        with opened:
            _check_header(opened, content, name, where, limit)
            format_ = opened.format
            image = opened.copy()
        if image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            opaque = rgba.getchannel("A").getextrema() == (255, 255)
            image = rgba.convert("L" if image.mode in ("L", "LA") else "RGB") if opaque else rgba
        elif image.mode == "1":
            image = image.convert("L")
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        pixels = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"{name} in {where} has more than {pixels:,} pixels, Pillow's limit: resize it"
        ) from error
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise unreadable(where / name, "an image", error) from error
    if image.mode not in ("L", "RGB"):
        what = "is transparent" if image.mode == "RGBA" else f"has mode {image.mode}"
        raise _refused(name, where, what)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1), format_


def _check_header(opened: Any, content: bytes, name: str, where: Path, limit: Limit) -> None:
    """Raise InputError for what is too large, has several frames, or would be cut to 8 bits."""
    channels = 1 if opened.mode in ("1", "L") else 3
    limit.check(opened.width * opened.height * channels, name, where, PICTURES)
    # A camera's JPEG may carry a preview as another frame (MPO): its first is the picture.
    if getattr(opened, "is_animated", False) and opened.format != "MPO":
        raise _refused(name, where, "has several frames")
    if opened.mode in ("RGB", "RGBA", "LA") and _depth(opened, content) > 8:
        raise _refused(name, where, "has 16 bits a channel, which would be cut to 8")


def _depth(opened: Any, content: bytes) -> int:
    """Bits of a channel in the file."""
    if opened.format == "PNG":
        return content[PNG_DEPTH]
    if opened.format == "TIFF":
        return max(opened.tag_v2.get(BITS_PER_SAMPLE, (8,)))
    if opened.format == "PPM":
        arguments = opened.tile[0][3]
        most = arguments[-1] if isinstance(arguments, tuple) else 255
        return int(most).bit_length() if isinstance(most, int) else 8
    return 8


def _refused(name: str, where: Path, what: str) -> InputError:
    return InputError(
        f"{name} in {where} {what}: allowed are 8-bit greyscale and RGB images of one frame without"
        " alpha; convert it"
    )


def described(pixels: NDArray[np.uint8]) -> str:
    """A picture's kind and size, for people."""
    channels, height, width = pixels.shape
    return f"{'greyscale' if channels == 1 else 'RGB'} of {width}x{height} pixels"
