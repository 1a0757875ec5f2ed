"""A result as a section of the page: what it asks, a figure, a table to read, one to take away.

No torch here."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias import plots
from exposure_bias.diagnostics.epsilon_norm import epsilon_norm
from exposure_bias.diagnostics.published_delta import published_delta
from exposure_bias.diagnostics.spectra import spectrum
from exposure_bias.diagnostics.state_error import state_error
from exposure_bias.diagnostics.variance_gap import variance_gap
from exposure_bias.glossary import kind_of, term
from exposure_bias.headlines import details, headline
from exposure_bias.recording import Recording
from exposure_bias.tables import MAKERS, Table

LARGEST_SVG = 400_000


@dataclass(frozen=True)
class Picture:
    """A figure on the page: a data: URI, what it shows, and its size in CSS pixels."""

    source: str
    alt: str
    width: int
    height: int


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


Draw = Callable[..., Figure]


@dataclass(frozen=True)
class Topic:
    """What a kind of result is about, and what draws it; without space no spectrum is drawn."""

    title: str
    asks: str
    draw: tuple[Draw, ...] = ()


TOPICS = {
    "error_budget": Topic(
        "Error budget",
        "Whose fault is it? The gap between the samples' variance and the data's is split into what"
        " the start, the sampler's steps and the network are each to blame for. Bars are 95 %"
        " intervals; a part whose interval holds zero does not show.",
        (plots.budget,),
    ),
    "variance_gap": Topic(
        "Variance along the chain",
        "Do the chain's states vary as much as true noisy images do? Below zero the samples are too"
        " alike, above zero too spread; zero is right. The Gaussian reference is what the same"
        " sampler does with a perfect network on Gaussian data.",
        (plots.variance_gap,),
    ),
    "spectrum": Topic(
        "Spectra",
        "Which details are missing or too many? Power by spatial frequency: coarse shapes left,"
        " fine texture right. A ratio below one means details that the chain loses.",
        (plots.spectrum,),
    ),
    "epsilon_norm": Topic(
        "Size of the predicted noise",
        "Does the network see more or less noise in its own states than in true ones? A ratio above"
        " one is the symptom that epsilon scaling treats.",
        (plots.epsilon_norm,),
    ),
    "state_error": Topic(
        "Distance from the true chain",
        "How far is the chain from the true noisy image that it should have reached with the same"
        " noise? A perfect network has some distance as well: it cannot know the image.",
        (plots.state_error,),
    ),
    "published_delta": Topic(
        "Published variance error",
        "The literature's δ, for comparison with papers. It is not zero for a perfect model: only"
        " what lies beyond both lines could be the network's.",
        (plots.published_delta,),
    ),
    "rollouts": Topic(
        "Rollouts",
        "Started on true noisy images, are chains as uncertain as they are wrong? Spread over skill"
        " is one for a perfect sampler.",
        (plots.rollouts,),
    ),
    "telescope": Topic(
        "Where it arises",
        "Which part of the chain makes the gap? Each block's effect on the end, carried there by"
        " the model's own chain.",
        (plots.telescope,),
    ),
    "compare": Topic(
        "Comparison",
        "What does each model or remedy change, on the same images and noise? Intervals that hold"
        " zero show no difference.",
        (plots.compare,),
    ),
    "chain_length_fid": Topic(
        "Quality by chain length",
        "How many steps are worth taking? Distance of the samples' features from real ones; lower"
        " is better, the grey band is what real images show against real images.",
        (plots.chain_length_fid,),
    ),
    "chain_errors": Topic(
        "Chain errors",
        "What do chains from a noisy image miss of the clean one, by length?",
        (),
    ),
    "isotropy": Topic(
        "Shape of chain errors",
        "Are errors white noise, as some corrections assume? Then their power is 1 at every"
        " frequency; a correlation above zero means that pixels err together.",
        (plots.normality,),
    ),
}
OTHER = Topic("Result", "What this result holds.")
ORDER = (
    "error_budget",
    "variance_gap",
    "spectrum",
    "epsilon_norm",
    "state_error",
    "published_delta",
    "rollouts",
    "telescope",
    "compare",
    "chain_length_fid",
    "chain_errors",
    "isotropy",
)


def of_recording(recording: Recording) -> list[xr.Dataset]:
    """What a recording says without the network: gap, spectra, norms, state errors, δ."""
    if "chain" not in recording or recording.n < 2:
        return []
    chain = recording["chain"]
    data = "data" in recording
    found = [variance_gap(recording)] if data else []
    if data and "forward" in recording:
        if "state_spectrum" in chain:
            found.append(spectrum(recording))
        if "epsilon_norm" in chain:
            found.append(epsilon_norm(recording))
    if data and recording.paired:
        found += [state_error(recording), published_delta(recording)]
    return found


def section(result: xr.Dataset) -> Section:
    """One result's part of the page."""
    kind = str(kind_of(result))
    kind = "error_budget" if kind == "diagnose" else kind
    topic = TOPICS.get(kind, OTHER)
    sentence = headline(result)
    return Section(
        kind.replace("_", "-"),
        topic.title,
        topic.asks,
        sentence,
        [line for line in details(result) if line != sentence],
        [picture(draw(result), f"{topic.title}: {sentence}") for draw in _drawn(topic, result)],
        [shown(table, kind) for table in MAKERS[kind](result)] if kind in MAKERS else [],
    )


def _drawn(topic: Topic, result: xr.Dataset) -> tuple[Draw, ...]:
    """The figures that a result has: one that holds only a part of its kind has none."""
    if "whiteness" not in result and topic.draw == (plots.normality,):
        return ()  # vectors have no frequencies
    if "step" in result.dims and "gap" in result and "direction" not in result.dims:
        return topic.draw if "score" in result else ()
    return topic.draw


def picture(figure: Figure, alt: str) -> Picture:
    """A figure as SVG, or as PNG where that would be large."""
    buffer = io.BytesIO()
    with plots.style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        kind = "svg+xml"
        if buffer.tell() > LARGEST_SVG:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=200)
            kind = "png"
    width, height = (round(96 * inches * 1.3) for inches in figure.get_size_inches())
    plt.close(figure)
    return Picture(_uri(f"image/{kind}", buffer.getvalue()), alt, width, height)


def shown(table: Table, kind: str) -> Shown:
    """A table with its columns explained, and all of it as CSV."""
    columns = [(column.heading, _explanation(kind, column.name)) for column in table.shown]
    content = table.frame.to_csv(index=False).encode()
    return Shown(
        table.title[:1].upper() + table.title[1:],
        columns,
        table.cells if columns else [],
        tuple(table.notes),
        _uri("text/csv;charset=utf-8", content),
        f"{kind}-{table.file}.csv",
    )


def _explanation(kind: str, name: str) -> str:
    found = term(kind, name)
    if found is None:
        return ""
    return found.text or found.words


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
