"""States as pictures for the slider along the chain: PNG strips, one row of samples each."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from exposure_bias.plots import limits, pictures
from exposure_bias.plots.strips import as_drawn, decoded
from exposure_bias.recording import Recording

MOST_NUMBERS = 2_000_000
MOST_SIDE = 96
BINS = 41

# Rows of the slider: what they are called, and what they are.
ROWS = {
    "truth": ("Data", "x_t, a real image with the noise of this step, as training shows it"),
    "state": ("Samples", "x̂_t, the sampler's state, as sampling shows it to the network"),
    "difference": ("Difference", "x̂_t − x_t, grey where there is none"),
    "prediction": ("Prediction from the sample", "the clean image that the network sees in x̂_t"),
    "forward": ("Prediction from the data", "the clean image that it sees in a real x_t"),
}


@dataclass(frozen=True)
class Slider:
    """What the page's script shows: frames from noise to clean, and the rows there are."""

    rows: dict[str, tuple[str, str]]
    frames: list[dict[str, Any]]
    samples: int


def slider(recording: Recording) -> Slider | None:
    """The kept samples along the chain; None where none are kept, or states are no images."""
    if "chain" not in recording or "kept_state" not in recording["chain"]:
        return None
    chain = recording["chain"]
    found = _fields(recording)
    count, space = chain.sizes["kept"], chain["kept_state"].shape[3:]
    count = min(count, int((chain["sample"].values < count).sum()))
    if count == 0 or len(space) not in (2, 3):
        return None
    steps = chain["kept_step"].values
    size = len(steps) * len(found) * int(np.prod(found["state"].shape[2:]))
    shown = int(np.clip(MOST_NUMBERS // size, 1, count))
    frames = [_frame(recording, found, k, shown) for k in range(len(steps))]
    return Slider({k: ROWS[k] for k in found}, frames, shown)


def _fields(recording: Recording) -> dict[str, NDArray[Any]]:
    """The rows that a recording has, (kept, kept_step, *shape)."""
    chain = recording["chain"]
    found = {"state": _plain(chain, "state")}
    if "kept_truth" in chain:
        truth = _plain(chain, "truth")
        found = {"truth": truth, **found, "difference": found["state"] - truth}
    if "kept_prediction" in chain:
        found["prediction"] = _plain(chain, "prediction")
    if "forward" in recording and "kept_prediction" in recording["forward"]:
        found["forward"] = _plain(recording["forward"], "prediction")
    return found


def _plain(stream: xr.Dataset, field: str) -> NDArray[Any]:
    """Half precision is for keeping, not for computing. Of latents the pictures are shown."""
    return as_drawn(stream, field).astype(np.float64)


def _frame(
    recording: Recording, found: dict[str, NDArray[Any]], k: int, shown: int
) -> dict[str, Any]:
    chain = recording["chain"]
    here = chain.isel(step=int(chain["kept_step"][k]))
    level = {name: float(here[name]) for name in ("timestep", "alpha", "sigma")}
    clean = limits(recording)
    bound = 1.0 if decoded(recording) else level["alpha"] * clean + 2 * level["sigma"]
    apart = float(np.std(found["difference"][:shown, k])) if "difference" in found else 0.0
    bounds = {
        "truth": bound,
        "state": bound,
        "difference": 3 * apart or 1.0,
        "prediction": clean,
        "forward": clean,
    }
    images = {
        name: _png(values[:shown, k], bounds[name])
        for name, values in found.items()
        if np.isfinite(values[:shown, k]).all()
    }
    step = int(chain["step"][int(chain["kept_step"][k])])
    return {"step": step, **level, "images": images} | _curves(recording, found, k, bound)


def _curves(
    recording: Recording, found: dict[str, NDArray[Any]], k: int, bound: float
) -> dict[str, Any]:
    """Power by frequency of both streams, and how the kept samples' values are distributed."""
    edges = np.linspace(-1.5 * bound, 1.5 * bound, BINS + 1)
    curves: dict[str, Any] = {"values": ((edges[1:] + edges[:-1]) / 2).tolist()}
    for name in ("truth", "state"):
        if name in found:
            values = found[name][:, k].ravel()
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
            curves[f"histogram_{name}"] = (counts / max(len(values), 1)).tolist()
    row = int(recording["chain"]["kept_step"][k])
    for name in ("chain", "forward"):
        if name in recording and "state_spectrum" in recording[name]:
            curves[f"power_{name}"] = _power(recording[name], row)
    if "power_chain" in curves and "frequency" in recording["chain"]:
        curves["frequency"] = recording["chain"]["frequency"].values.tolist()
    return curves


def _power(stream: xr.Dataset, row: int) -> list[float]:
    """Σ over samples and channels of the power in each bin, per sample."""
    power = stream["state_spectrum"].isel(step=row)
    rest = [dim for dim in power.dims if dim != "frequency"]
    total = power.sum(rest).values / float(stream["count"].sum())
    return [float(v) for v in np.maximum(total, 1e-12)]


def _png(values: NDArray[Any], bound: float) -> str:
    """One row of samples as a data: URI; a grey line between them."""
    drawn = [_thin(picture) for picture in pictures(values, bound)]
    gap = np.full((drawn[0].shape[0], 1, 3), 0.5)
    row = np.concatenate([part for one in drawn for part in (one, gap)][:-1], axis=1)
    buffer = io.BytesIO()
    Image.fromarray((255 * row).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _thin(picture: NDArray[Any]) -> NDArray[Any]:
    """Every k-th pixel of a large picture: noise keeps its look, where a mean would hide it."""
    stride = -(-max(picture.shape[:2]) // MOST_SIDE)
    return picture[::stride, ::stride]
