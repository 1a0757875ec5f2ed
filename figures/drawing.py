"""What the figures share: results in, PDF, PNG and caption out. They run no network and compute no
statistics."""

import json
import logging
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE as T_QUANTILE
from exposure_bias.plots.style import COLUMN as COLUMN
from exposure_bias.plots.style import REFERENCE as REFERENCE
from exposure_bias.plots.style import style as style

# fontTools remarks on the date in a font of matplotlib's own.
logging.getLogger("fontTools").setLevel(logging.ERROR)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
folder = ROOT / "figures" / "build"  # not committed
# What is written, and what leaves the date out, so that the same results make the same bytes.
formats: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
}
MARKERS = ("o", "s", "^", "D", "v", "P")
CROWDED = 40  # points of a curve, beyond which it has no markers


def read(study: str, name: str) -> pd.DataFrame | None:
    """A table of a study's results; None if the study was not run to its end."""
    folder = RESULTS / study
    ended = (folder / "run.json").exists() and (folder / name).exists()
    return pd.read_csv(folder / name) if ended else None


def decisions() -> pd.DataFrame:
    """The parts of all claims, with intervals, sizes that count and outcomes."""
    return pd.read_csv(RESULTS / "decisions.csv")


def run_of(study: str) -> dict[str, Any]:
    """A study's run.json."""
    run: dict[str, Any] = json.loads((RESULTS / study / "run.json").read_text())
    return run


def published() -> pd.DataFrame:
    """The numbers of the literature with their sources."""
    return pd.read_csv(ROOT / "figures" / "reference" / "published.csv")


def save(figure: Figure, study: str, caption: str) -> None:
    """NAME.pdf and NAME.png in `folder`, NAME.md in figures/captions: the same bytes from the same
    results."""
    folder.mkdir(parents=True, exist_ok=True)
    with style():  # resolution, and colours that are named by their place in the cycle
        for suffix, metadata in formats.items():
            figure.savefig(folder / f"{study}.{suffix}", metadata=metadata)
    text = f"{caption}\n\n{made_by(study)}\n"
    captions = ROOT / "figures" / "captions"
    captions.mkdir(exist_ok=True)
    (captions / f"{study}.md").write_text(text)
    matplotlib.pyplot.close(figure)


def made_by(study: str) -> str:
    """What a study was run with, in words."""
    run = run_of(study)
    if "settings" not in run:
        return f"Made by `python analyses/{study}.py`."
    bundled = {"model": "bundled {data}", "ip": "bundled {data}-ip"}
    said = {
        k: bundled[k].format(**run["settings"]) if v is None else v
        for k, v in run["settings"].items()
    }
    settings = ", ".join(
        f"{k} {', '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in said.items()
    )
    return f"Scale: {run['scale']}. Settings: {settings}; made by `{run['command']}`."


def curve(
    axis: Axes, table: pd.DataFrame, along: str, label: str, place: int, **options: Any
) -> None:
    """A line with its band and a marker of its own, so that colour is not all that tells it from
    others."""
    table = table.sort_values(along)
    colour = _colour(place)
    x = table[along].to_numpy(float)
    marker = MARKERS[place % len(MARKERS)] if len(x) <= CROWDED else None
    axis.plot(x, table["value"], color=colour, marker=marker, markersize=3, label=label, **options)
    if "low" in table:
        axis.fill_between(x, table["low"], table["high"], color=colour, alpha=0.2, linewidth=0)


def bars(
    axis: Axes, table: pd.DataFrame, along: str, label: str, place: int, apart: float = 1.04
) -> None:
    """As `curve`, with bars in place of the band, each family a factor `apart` beside the last,
    where bands overlap."""
    table = table.sort_values(along)
    x = table[along].to_numpy(float) * apart**place
    middle = table["value"].to_numpy()
    half = np.abs(table[["low", "high"]].to_numpy().T - middle)
    marker = MARKERS[place % len(MARKERS)]
    axis.errorbar(
        x,
        middle,
        half,
        color=_colour(place),
        marker=marker,
        markersize=3,
        elinewidth=0.8,
        label=label,
    )


def _colour(place: int) -> str:
    colours: list[str] = matplotlib.pyplot.rcParams["axes.prop_cycle"].by_key()["color"]
    return colours[place % len(colours)]


def log_lengths(axis: Axes, lengths: Any, label: str = "chain length $T'$") -> None:
    """A logarithmic axis with a tick at every length."""
    lengths = np.unique(np.asarray(lengths, dtype=int))
    crowded = np.append(False, lengths[1:] < 1.35 * lengths[:-1])
    axis.set_xscale("log")
    axis.set_xticks(
        lengths, ["" if c else str(k) for k, c in zip(lengths, crowded, strict=True)], fontsize=7
    )
    axis.minorticks_off()
    axis.set_xlabel(label)


def note_missing(study: str) -> None:
    print(f"{study}: not run, no figure")
