"""The one look of all figures."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from exposure_bias.errors import InputError, reason

PALETTE = "colorblind"
# The colour of each part of an error, the same in every figure.
PARTS = {"sampler": 0, "network": 1, "start": 2, "feedback": 4}
REFERENCE: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1.2}
COLUMN = 3.3  # inches
STEP_LABEL = "step (0 = noise)"
DPI = 300


@contextmanager
def style() -> Iterator[None]:
    """Readable at a paper's column width, safe for colour-blind readers.

    Fonts are embedded in PDFs."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "axes.prop_cycle": plt.cycler(color=sns.color_palette(PALETTE)),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": DPI,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
    }
    with plt.rc_context(settings):
        yield


class CannotDraw(UserWarning):
    """A figure is left out; the command line says so once, whatever the number of figures."""

    once = True


@contextmanager
def or_warn() -> Iterator[None]:
    """Warn where a figure cannot be drawn: numbers matter more.

    An environment may have fonts, settings or a LaTeX that do not work."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        warnings.warn(
            f"figures are left out, since matplotlib cannot draw here ({type(error).__name__}:"
            f" {reason(error)}); all numbers are written",
            CannotDraw,
            stacklevel=3,
        )


def panels(
    names: Sequence[str],
    ax: Any = None,
    axes: Any = None,
    column: str = "double",
    height: float = 2.5,
    widths: list[float] | None = None,
) -> tuple[Figure, list[Any]]:
    """Axes for the named panels: those given, or a new figure's.

    ax: one matplotlib Axes for the first panel alone, or a dict {name of a panel: Axes}. What is
    not asked for is drawn into a figure that nobody sees. axes: as many Axes as there are panels,
    in any array. column: "single" stacks the panels at the width of a paper's column (3.3 in),
    "double" sets up to three side by side over both (6.6 in), four in two rows. height: of a row,
    in inches. Raises InputError where both ax and axes are given, for another number of axes, and
    for an unknown name or column.
    """
    count, width = len(names), _width(column)
    if ax is not None:
        return _chosen(list(names), ax, axes)
    if axes is not None:
        given = list(np.ravel(np.asarray(axes, dtype=object)))
        if len(given) != count:
            raise InputError(
                f"{len(given)} axes were given, but {count} panels are drawn: give as many, or ax="
                f" with some of {', '.join(names)}"
            )
        return given[0].figure, [_ours(axis) for axis in given]
    rows, columns = (count, 1) if column == "single" else (1, count)
    if column == "double" and count > 3:
        rows, columns, widths = 2, -(-count // 2), None
    ratios = None if column == "single" else widths
    figure, found = subplots(
        rows, columns, figsize=(width, height * rows), squeeze=False, width_ratios=ratios
    )
    for spare in found.ravel()[count:]:
        spare.remove()
    return figure, list(found.ravel()[:count])


def _chosen(names: list[str], ax: Any, axes: Any) -> tuple[Figure, list[Any]]:
    """The Axes of the panels that are asked for, and of the others some that nobody sees."""
    if axes is not None:
        raise InputError("ax and axes were given: ax is for some of the panels, axes for all")
    asked = dict(ax) if isinstance(ax, Mapping) else {names[0]: ax}
    unknown = [name for name in asked if name not in names]
    if unknown or not asked:
        said = f"there is no panel {unknown[0]!r}" if unknown else "ax names no panel"
        raise InputError(f"{said}: allowed are {', '.join(names)}")
    unseen = Figure()
    found = [_ours(asked[n]) if n in asked else unseen.add_subplot() for n in names]
    return next(iter(asked.values())).figure, found


def _ours(axis: Any) -> Any:
    """Somebody's Axes, whose next curves have our colours."""
    axis.set_prop_cycle(color=sns.color_palette(PALETTE))
    return axis


def subplots(*shape: int, **options: Any) -> tuple[Figure, Any]:
    """A new figure and its Axes, as of `plt.subplots`.

    A notebook shows a figure that a cell returns. It would show it once more as long as pyplot
    holds it too.
    """
    figure, axes = plt.subplots(*shape, **options)
    if "inline" in plt.get_backend():
        plt.close(figure)
    return figure, axes


def _width(column: str) -> float:
    """A figure's width in inches; raises InputError for another column."""
    if column not in ("single", "double"):
        raise InputError(f"column is {column!r:.40}: allowed are single, double")
    return COLUMN if column == "single" else 2 * COLUMN


def grid(
    rows: int,
    columns: int,
    axes: Any,
    column: str,
    height: float,
    most: float = 2 * COLUMN,
    **options: Any,
) -> tuple[Figure, Any]:
    """A grid of small panels, an array (rows, columns) of Axes.

    Those given, or a new figure's, at most so many inches wide.
    """
    if axes is not None:
        names = [f"{row + 1}, {k + 1}" for row in range(rows) for k in range(columns)]
        figure, given = panels(names, None, axes, column)
        return figure, np.array(given, dtype=object).reshape(rows, columns)
    size = (min(_width(column), most), height * rows + 0.6)
    return subplots(rows, columns, figsize=size, squeeze=False, **options)


def colour_of(part: str) -> Any:
    """The colour of a part of an error, as a number that holds outside `style` too."""
    return sns.color_palette(PALETTE)[PARTS[part]]


def percent(axis: Any) -> None:
    """Show the numbers of an axis times 100; its label says that they are per cent."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}".replace("-", "−"))


def plain(axis: Any) -> None:
    """Numbers as they are on a short logarithmic axis.

    There are none between the powers of ten and their fifths."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def wrapped(text: str, width: int = 26) -> str:
    """A long label in several lines."""
    return fill(text, width)


def legend(axis: Any, columns: int = 2, **options: Any) -> None:
    """A legend above its panel, where it hides nothing."""
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    spacing = {"handlelength": 1.4, "columnspacing": 1.0, "labelspacing": 0.3}
    axis.legend(ncols=columns, fontsize=6.5, **(place | spacing | options))


def below(figure: Figure, axis: Any, column: str, is_ours: bool) -> None:
    """One legend for all panels under a figure of ours; in somebody else's, above the first."""
    if not is_ours:
        legend(axis, 1)
        return
    most = 3 if column == "double" else 1
    handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=most, fontsize=7)


def picture(axis: Any, values: xr.DataArray, top: float) -> Any:
    """A number for each element of a state, channels averaged.

    An image; a vector or signal as one row, frames side by side."""
    array = np.asarray(values)
    array = np.atleast_2d(array if array.ndim == 1 else array.mean(0))
    if array.ndim == 3:
        array = np.concatenate(list(array), axis=1)
    aspect = "auto" if len(array) == 1 else "equal"
    return axis.imshow(array, vmin=0, vmax=top, cmap="viridis", aspect=aspect)


def unless_empty(axis: Any, values: Any) -> None:
    """Say why a panel is empty, where no value is a number."""
    if not np.isfinite(np.asarray(values, dtype=float)).any():
        axis.text(0.5, 0.5, "too few samples", ha="center", color="0.35", transform=axis.transAxes)


def save(figure: Figure, where: Any, **options: Any) -> None:
    """Write a figure as a paper wants it: 300 dots an inch, in PDF with embedded TrueType fonts.

    where, options: as of `Figure.savefig`.
    """
    with style():
        figure.savefig(where, **options)
