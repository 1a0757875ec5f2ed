"""A result as a section of the page: what it asks, a figure, a table to read, one to take away.

No torch here."""

import base64
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias import plots
from exposure_bias.diagnostics.epsilon_norm import epsilon_norm
from exposure_bias.diagnostics.published_delta import published_delta
from exposure_bias.diagnostics.spectra import spectrum
from exposure_bias.diagnostics.state_error import state_error
from exposure_bias.diagnostics.variance_gap import variance_gap
from exposure_bias.plots.style import or_warn
from exposure_bias.recording import Recording
from exposure_bias.reporting.frames import frame_slider
from exposure_bias.results import (
    Drawing,
    Table,
    Term,
    details,
    drawings,
    kind_of,
    name_of,
    sentence,
    tables,
    title_of,
    to_do,
)
from exposure_bias.results.formats import terms_of

LARGEST_SVG = 400_000


@dataclass(frozen=True)
class Picture:
    """A figure on the page: a data: URI, what it shows, and its size in CSS pixels.

    is_drawn: whether it holds lines and text alone, so that a dark page may invert it. narrow: the
    same for a narrow page, where it is another.
    """

    source: str
    alt: str
    width: int
    height: int
    is_drawn: bool = True
    narrow: "Picture | None" = None


@dataclass(frozen=True)
class Shown:
    """A table on the page. columns: heading and explanation; csv: everything, as a data: URI."""

    title: str
    columns: list[tuple[str, str]]
    rows: list[list[str]]
    notes: tuple[str, ...]
    csv: str
    file: str


@dataclass(frozen=True)
class Section:
    """A part of the page about one result."""

    name: str
    title: str
    asks: str
    sentence: str
    details: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Shown] = field(default_factory=list)
    advice: str = ""
    code: str = ""
    frames: dict[str, Any] | None = None


def of_recording(recording: Recording, but: Collection[str] = ()) -> list[xr.Dataset]:
    """What a recording says without the network: gap, spectra, norms, state errors, δ.

    but: kinds that are there already, and are not computed again.
    """
    if "chain" not in recording or "data" not in recording or recording.n < 2:
        return []
    chain, forward = recording["chain"], "forward" in recording
    possible = {
        "variance_gap": (variance_gap, True),
        "spectrum": (spectrum, forward and "state_spectrum" in chain),
        "epsilon_norm": (epsilon_norm, forward and "epsilon_norm" in chain),
        "state_error": (state_error, recording.paired),
        "published_delta": (published_delta, recording.paired),
    }
    return [f(recording) for name, (f, can) in possible.items() if can and name not in but]


def section(result: xr.Dataset) -> Section:
    """One result's part of the page."""
    kind, title, said = kind_of(result), title_of(result), sentence(result)
    term, name = terms_of(result), name_of(result).replace("_", "-")
    return Section(
        name,
        title,
        kind.question if kind else "This result's kind is not known here: this is what it holds.",
        said,
        [line for line in details(result) if line != said],
        _pictures(result, f"{title}: {said}"),
        [shown(table, name, term) for table in tables(result)],
        *to_do(result),
        frames=frame_slider(result),
    )


def _pictures(result: xr.Dataset, alt: str) -> list[Picture]:
    """Those figures of a result that can be drawn here."""
    found = []
    for drawing in drawings(result):
        with or_warn():
            found.append(_both(drawing, result, alt))
    return found


def _both(drawing: Drawing, result: xr.Dataset, alt: str) -> Picture:
    """A figure, with its form for a narrow page where it has one."""
    wide = picture(drawing(result), alt)
    if not drawing.has_columns:
        return wide
    return replace(wide, narrow=picture(drawing(result, column="single"), alt))


def picture(figure: Figure, alt: str) -> Picture:
    """A figure as SVG, or as PNG where that would be large."""
    buffer = io.BytesIO()
    # Letters stay letters: outlines would make up most of the file.
    with plots.style(), plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        kind = "svg+xml"
        if buffer.tell() > LARGEST_SVG:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=200)
            kind = "png"
    width, height = (round(96 * inches * 1.3) for inches in figure.get_size_inches())
    is_drawn = not any(axis.images for axis in figure.axes)
    plt.close(figure)
    return Picture(_uri(f"image/{kind}", buffer.getvalue()), alt, width, height, is_drawn)


def shown(table: Table, kind: str, term: Callable[[str], Term | None]) -> Shown:
    """A table with its columns explained, and all of it as CSV."""
    columns = [(column.heading, _explanation(term(column.name))) for column in table.shown]
    content = table.frame.to_csv(index=False).encode()
    return Shown(
        table.title[:1].upper() + table.title[1:],
        columns,
        table.cells if columns else [],
        table.told,
        _uri("text/csv;charset=utf-8", content),
        table.csv(kind),
    )


def _explanation(term: Term | None) -> str:
    return "" if term is None else term.text or term.words


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
