"""Sequences as pictures for the slider along frames: true, forced and free ones. No torch here."""

import base64
import io
import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from exposure_bias.plots import pictures
from exposure_bias.reporting.pictures import MOST_NUMBERS

WORDS = {
    "true": ("true", "frames of the data"),
    "forced": ("forced", "drawn by the network from the true frames before: one frame's own error"),
    "free": ("free", "drawn by the network from its own frames: errors are fed back"),
}
IMAGES = "Every column is one sequence."
VECTORS = "Every row is one sequence, and every cell one of its numbers; white is 0."
MOST_SIDE = 96
COLOURS = "RdBu_r"  # of vectors and signals, whose sign counts


def frame_slider(result: xr.Dataset) -> "dict[str, Any] | None":
    """What the page's script shows of a drift: numbers of frames, and pictures by row.

    None where no example frames are kept. A place without a frame is an empty text.
    """
    if "shown" not in result.data_vars or "shown_frame" not in result["shown"].dims:
        return None
    shown = result["shown"].transpose("shown_as", "sequence", "shown_frame", ...)
    names = [str(name) for name in shown["shown_as"].values]
    if not set(names) <= set(WORDS) or "true" not in names or shown.ndim < 4 or shown.size == 0:
        return None
    values = shown.values.astype(np.float64)
    count = int(np.clip(MOST_NUMBERS // (values.size // values.shape[1]), 1, values.shape[1]))
    values = values[:, :count]
    true = values[names.index("true")]
    bound = float(np.nanmax(np.abs(true))) if np.isfinite(true).any() else 1.0
    rows = [
        {
            "name": name,
            "words": WORDS[name],
            "images": [_picture(values[k, :, f], bound or 1.0) for f in range(values.shape[2])],
        }
        for k, name in enumerate(names)
    ]
    frames = [int(f) for f in shown["shown_frame"].values]
    asks = IMAGES if values.ndim > 5 else VECTORS
    return {"frames": frames, "rows": rows, "asks": asks, "json": _json(frames, rows)}


def _json(frames: list[int], rows: list[dict[str, Any]]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps({"frames": frames, "images": [row["images"] for row in rows]})
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _picture(states: NDArray[Any], bound: float) -> str:
    """One frame of some sequences (N, *shape) side by side as a data: URI."""
    if not np.isfinite(states).all():
        return ""
    if states.ndim < 4:
        return _png(_coloured(states.reshape(len(states), -1), bound))
    drawn = [_thin(one) for one in pictures(states, bound)]
    gap = np.full((drawn[0].shape[0], 1, 3), 0.5)
    return _png(np.concatenate([part for one in drawn for part in (one, gap)][:-1], axis=1))


def _coloured(vectors: NDArray[Any], bound: float) -> NDArray[Any]:
    """Vectors (N, D) as rows of coloured cells, each three pixels high."""
    from matplotlib import colormaps

    stride = -(-vectors.shape[1] // (4 * MOST_SIDE))
    cells = colormaps[COLOURS](np.clip(vectors[:, ::stride] / (2 * bound) + 0.5, 0, 1))[..., :3]
    wide = max(1, 2 * MOST_SIDE // cells.shape[1])
    return np.repeat(np.repeat(cells, max(3, wide), axis=0), wide, axis=1)


def _thin(picture: NDArray[Any]) -> NDArray[Any]:
    stride = -(-max(picture.shape[:2]) // MOST_SIDE)
    return picture[::stride, ::stride]


def _png(picture: NDArray[Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray((255 * picture).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
