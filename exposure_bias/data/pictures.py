"""One picture: 8-bit grey or RGB, of a format that we name, of one frame.

Pillow is imported only here."""

import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

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


ORIENTATION = 0x0112  # of EXIF: 1 is upright
JPEG_NOTE = "JPEG images: high frequencies are quantised"
TURNED_NOTE = "images are turned as their EXIF orientation says"


class Picture(NamedTuple):
    """uint8 (C, H, W), C = 1 or 3, the file's format, and whether EXIF had it turned."""

    pixels: NDArray[np.uint8]
    format: str | None
    turned: bool

    @property
    def notes(self) -> set[str]:
        """What a reader of the data must know."""
        jpeg = {JPEG_NOTE} if self.format in ("JPEG", "MPO") else set()
        return jpeg | ({TURNED_NOTE} if self.turned else set())


def decoded(content: bytes, name: str, where: Path, limit: Limit) -> Picture:
    """A picture as people see it: turned as its EXIF orientation says.

    Palettes become RGB and an opaque alpha channel is dropped."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
        with opened:
            _check_header(opened, content, name, where, limit)
            format_ = opened.format
            turned = opened.getexif().get(ORIENTATION, 1) not in (0, 1)
            image = (ImageOps.exif_transpose(opened) if turned else None) or opened.copy()
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
    upright = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return Picture(upright, format_, turned)


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


def of_pillow(image: Any, what: str) -> Picture:
    """A picture that another library opened, turned as its EXIF orientation says.

    Raises InputError for what is neither 8-bit grey nor RGB."""
    from PIL import ImageOps

    if image.mode not in ("L", "RGB"):
        raise InputError(
            f"{what} has mode {image.mode}: allowed are 8-bit greyscale (L) and RGB; convert the"
            " dataset"
        )
    turned = image.getexif().get(ORIENTATION, 1) not in (0, 1)
    upright = (ImageOps.exif_transpose(image) if turned else None) or image
    array = np.asarray(upright, dtype=np.uint8)
    pixels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return Picture(pixels, getattr(image, "format", None), turned)
