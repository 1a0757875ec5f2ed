"""Samples along the chain: x_t, x̂_t and x̂_0 in one grid."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from exposure_bias.errors import InputError, whole_number
from exposure_bias.plots.style import COLUMN, style, subplots
from exposure_bias.recording import Recording

ROWS = {"truth": r"$x_t$", "state": r"$\hat x_t$", "prediction": r"$\hat x_0$"}
FRAMES = 4  # of a video, side by side


def strip(
    what: Any,
    data: Any = None,
    *,
    samples: int = 3,
    levels: int = 7,
    axes: NDArray[Any] | None = None,
    **options: Any,
) -> Figure:
    """x_t of the teacher, x̂_t of the chain and x̂_0 of several samples, from noise (left) to clean.

    what: a `Recording` that keeps samples, or a model, which is then recorded on `data` with the
    `options` of `record`. Images are drawn as such, (D,) and (C, T) states as curves, of a video
    four frames side by side. axes: an array (rows, columns) of Axes to draw into.

    Returns the figure. Raises InputError for a recording without kept samples.
    """
    recording = what if isinstance(what, Recording) else _recorded(what, data, samples, options)
    found, steps = kept(recording)
    samples = min(whole_number(samples, "samples, the number of rows,"), found["state"].shape[0])
    levels = min(whole_number(levels, "levels, the number of columns,"), len(steps))
    columns = np.linspace(0, len(steps) - 1, levels).round().astype(int)
    rows = [(k, name) for k in range(samples) for name in ROWS if name in found]
    with style():
        if axes is None:
            size = 2 * COLUMN / levels
            figure, axes = subplots(
                len(rows), levels, figsize=(2 * COLUMN + 0.4, 0.4 + size * len(rows)), squeeze=False
            )
        axes = np.asarray(axes)
        if axes.shape != (len(rows), levels):
            raise InputError(
                f"axes has shape {axes.shape}, but {len(rows)} rows and {levels} columns are drawn:"
                f" give subplots({len(rows)}, {levels})"
            )
        figure = axes[0, 0].figure
        for i, (k, name) in enumerate(rows):
            for j, column in enumerate(columns):
                bound = limits(recording) if name == "prediction" else bounds(recording)[column]
                draw(axes[i, j], found[name][k, column], bound)
                if i == 0:
                    timestep = float(recording["chain"]["timestep"][int(steps[column])])
                    end = column == len(steps) - 1
                    axes[i, j].set_title("clean" if end else f"t = {timestep:g}", fontsize=8)
            axes[i, 0].set_ylabel(ROWS[name], rotation=0, ha="right", va="center")
    return figure


def kept(recording: Recording) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The chain's kept samples by row of `ROWS`, (sample, level, *shape).

    Their places among the recorded steps come second.

    Raises InputError where none are kept.
    """
    chain = recording["chain"]
    names = [name for name in ROWS if f"kept_{name}" in chain]
    here = 0 if not names else int((chain["sample"].values < chain.sizes["kept"]).sum())
    if here == 0:
        raise InputError(
            "this recording keeps no samples as they are: record again with keep=8, from the first"
            " sample on"
        )
    return {n: as_drawn(chain, n)[:here] for n in names}, chain["kept_step"].values


def as_drawn(stream: xr.Dataset, field: str) -> NDArray[Any]:
    """Kept samples (sample, level, *shape) as they are drawn: of latents, their pictures.

    Pictures of what the network never said, at the clean end, are NaN."""
    kept = stream[f"kept_{field}"].values
    if f"picture_{field}" not in stream:
        return kept
    pictures = stream[f"picture_{field}"].values / np.float32(127.5) - 1
    said = np.isfinite(kept).reshape(*kept.shape[:2], -1).all(axis=2)
    pictures[~said] = np.nan
    found: NDArray[Any] = pictures
    return found


def decoded(recording: Recording) -> bool:
    """Whether what is drawn are pictures of latents, in [−1, 1] at every level."""
    return "picture_state" in recording["chain"]


def limits(recording: Recording) -> float:
    """The largest absolute value to draw of clean states: 1 for images in [−1, 1]."""
    if decoded(recording):
        return 1.0
    kept = recording["data"].get("kept_state") if "data" in recording else None
    largest = 1.0 if kept is None else float(np.abs(kept.values).max(initial=0))
    return 1.0 if 0.25 < largest <= 1.05 else largest or 1.0


def bounds(recording: Recording) -> NDArray[np.float64]:
    """The same of states at every kept level: α times that of clean ones, and 2 σ."""
    chain = recording["chain"]
    if decoded(recording):
        return np.ones(chain.sizes["kept_step"])
    alpha, sigma = (chain[k].values[chain["kept_step"].values] for k in ("alpha", "sigma"))
    found: NDArray[np.float64] = alpha * limits(recording) + 2 * sigma
    return found


def draw(axis: Any, state: NDArray[Any], bound: float) -> None:
    """One state (C, *space) as a picture, or as curves."""
    axis.set(xticks=[], yticks=[])
    if not np.isfinite(state).all():
        axis.axis("off")
    elif state.ndim >= 3:
        axis.spines[:].set_visible(False)
        axis.imshow(pictures(state[None], bound)[0], interpolation="nearest")
    else:
        axis.plot(np.atleast_2d(state.squeeze()).T, linewidth=0.8)
        axis.set_ylim(-1.2 * bound, 1.2 * bound)


def pictures(states: NDArray[Any], bound: float) -> list[NDArray[Any]]:
    """States (N, C, H, W) or (N, C, F, H, W) as colour pictures (H, W, 3) in [0, 1].

    −bound is black and bound white. One channel is grey, three are colours; of other numbers the
    first is shown. Frames stand side by side.
    """
    scaled = np.clip(states.astype(np.float64) / (2 * bound) + 0.5, 0, 1)
    if scaled.ndim == 5:
        frames = np.linspace(0, scaled.shape[2] - 1, min(scaled.shape[2], FRAMES)).round()
        scaled = np.concatenate([scaled[:, :, int(f)] for f in frames], axis=-1)
    colours = scaled if scaled.shape[1] == 3 else np.repeat(scaled[:, :1], 3, axis=1)
    return list(np.moveaxis(colours, 1, -1))


def _recorded(model: Any, data: Any, samples: int, options: dict[str, Any]) -> Recording:
    from exposure_bias.running.recorder import record

    if data is None:
        raise InputError("strip of a model needs data to start on: strip(model, data)")
    whole_number(samples, "samples, the number of rows,")
    return record(model, data, **{"n": samples, "keep": samples} | options)
