"""`report`: recordings and results as one self-contained HTML page. No torch here.

Nothing is fetched: figures and tables stand in the page as data: URIs, and its Content-Security-
Policy allows nothing else but the one style sheet and the one script in it, by their hashes. Every
text from a result is escaped."""

import base64
import hashlib
import json
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from exposure_bias import files
from exposure_bias.errors import InputError, harmless
from exposure_bias.recording import RECORDING, Recording
from exposure_bias.reporting.pictures import Slider, slider
from exposure_bias.reporting.sections import Section, of_recording, section
from exposure_bias.reporting.sources import Source, in_folder, sources
from exposure_bias.results import every_kind, find, name_of
from exposure_bias.results.storage import saved_files
from exposure_bias.run import Spacing, Start

LARGEST = 5_000_000
# The kinds of results that one model and one chain tell all of, and so their command.
REMADE = (
    RECORDING,
    "error_budget",
    "variance_gap",
    "spectrum",
    "epsilon_norm",
    "state_error",
    "published_delta",
)
# Results that say already whose fault it is, or of which `diagnose` cannot tell more.
SPLIT = ("error-budget", "solver-curve", "diagnose", "drift-budget", "drift")
PACKAGES = ("exposure-bias", "numpy", "xarray", "matplotlib")


def report(
    *results: Any, path: str | os.PathLike[str] = "report.html", commands: Sequence[str] = ()
) -> Path:
    """Recordings and results as one HTML page that opens anywhere, offline, in under 5 MB.

    results: what `record`, `diagnose`, `rollouts`, … returned, or the files that they wrote.
    commands: what reproduces them, to be shown; by default as far as the results tell.

    Returns the path. Raises InputError, before anything is computed, for a place that cannot be
    written, for what is no result, and for results of different models or data.
    """
    files.check_writable(path, folder=False)
    files.write_bytes(path, page(sources(results), commands).content)
    return Path(path)


def report_folder(
    folder: str | os.PathLike[str], commands: Sequence[str], made: Sequence[Any]
) -> Path:
    """Write `report.html` of what a command has just made, and of what else its folder holds.

    made: results and recordings in memory, whose files are not read.
    """
    kinds = [RECORDING if isinstance(one, Recording) else name_of(one) for one in made]
    others = saved_files(folder, but=kinds).values()
    return report(*made, *others, path=Path(folder) / "report.html", commands=commands)


class Page(NamedTuple):
    """A page, and its first sentence."""

    answer: str
    content: bytes


def page(given: Sequence[Source], commands: Sequence[str] = ()) -> Page:
    """The page of these sources."""
    from jinja2 import Environment, StrictUndefined

    shown = _sections(given)
    recording = next((s.content for s in given if isinstance(s.content, Recording)), None)
    along = None if recording is None else slider(recording)
    style, script = (_resource(name) for name in ("page.css", "page.js"))
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_harmless
    ).from_string(_resource("page.html"))
    answer = (
        shown[0].sentence if shown else "This recording holds nothing to tell yet: no interval."
    )
    content = template.render(
        title=_title(given),
        answer=answer,
        more=_more(shown),
        sections=shown,
        slider=along,
        frames="" if along is None else _json(along),
        facts=_facts(given),
        commands=list(commands) or _commands(given),
        versions=_versions(given),
        style=style,
        script=script,
        policy=_policy(style, script),
    ).encode(errors="backslashreplace")  # a command may name a file whose name is no text
    if len(content) > LARGEST:
        raise InputError(
            f"the report would have {len(content) / 1e6:.1f} MB, more than {LARGEST / 1e6:g}: give"
            " it fewer results"
        )
    return Page(answer, content)


def _sections(given: Sequence[Source]) -> list[Section]:
    """One for each kind, the most telling first; a result stands before what a recording gives."""
    results = [s.content for s in given if isinstance(s.content, xr.Dataset)]
    for source in given:
        if isinstance(source.content, Recording):
            results += of_recording(source.content, but={name_of(r) for r in results})
    found: dict[str, Section] = {}
    for result in results:
        made = section(result)
        name = made.name
        if name not in found or len(made.pictures) > len(found[name].pictures):
            found[name] = made
    places = {kind.hyphened: place for place, kind in enumerate(every_kind())}
    return sorted(found.values(), key=lambda s: places.get(s.name, len(places)))


def _more(shown: Sequence[Section]) -> list[str]:
    """What else the first result says; without a budget, how to come by one."""
    told = list(shown[0].details) if shown else []
    if any(section.name in SPLIT for section in shown):
        return told
    return [*told, "Whose fault it is, eb-analyze diagnose tells: it runs the network once more."]


def _title(given: Sequence[Source]) -> str:
    said = given[0].said
    model = said.get("model", "this model")
    return f"What is wrong with the samples of {model}?"


def _facts(given: Sequence[Source]) -> list[tuple[str, str]]:
    """What was measured, in words; what several sources say is said once."""
    names = (
        "model",
        "data",
        "sampler",
        "steps",
        "timestep_spacing",
        "start",
        "clip",
        "n",
        "seed",
        "guidance",
        "note",
    )
    found = []
    for name in names:
        values = list(dict.fromkeys(s.said[name] for s in given if s.said.get(name)))
        if values:
            found.append((name.replace("_", " "), "; ".join(values)))
    return [*found, ("files", ", ".join(dict.fromkeys(s.name for s in given)))]


def _commands(given: Sequence[Source]) -> list[str]:
    """The commands that make these sources again, as far as the recording among them tells."""
    recording = next((s.content for s in given if isinstance(s.content, Recording)), None)
    if recording is None or recording.run.spacing is Spacing.OBSERVED:
        return []
    line = _options(recording)
    kinds = [find(source.kind) for source in given if source.kind in REMADE]
    names = [kind.names[0] if kind else "record" for kind in kinds]
    return [shlex.join(["eb-analyze", name, *line]) for name in dict.fromkeys(names)]


def _options(recording: Recording) -> list[str]:
    """The options of the command line under which a recording was made."""
    run = recording.run
    start = f"{run.levels[0].timestep:g}" if run.start is Start.LEVEL else run.start.value
    said: dict[str, Any] = {"--model": run.model.name, "--data": run.data.name}
    said |= {"--split": run.data.split or ""}
    said |= {"--sampler": run.sampler, "--steps": run.steps // run.refine, "--start": start}
    said |= {"-n": recording.n, "--seed": run.seed}
    pairs = [str(word) for pair in said.items() if pair[1] != "" for word in pair]
    return [*pairs, "--clip"] if run.clip else pairs


def _versions(given: Sequence[Source]) -> list[tuple[str, str]]:
    made = next((s.made for s in given if s.made), {})
    own = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return [(str(k), str(v)) for k, v in (own | made).items()]


def _harmless(value: Any) -> Any:
    """What a page shows: texts of a file may turn a line around. Resources are ours."""
    return harmless(value) if type(value) is str else value


def _json(along: Slider) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(asdict(along), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(style: str, script: str) -> str:
    """Nothing from outside; the one style sheet and the one script, by their hashes."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)};"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _resource(name: str) -> str:
    return (resources(__name__) / name).read_text(encoding="utf-8")


__all__ = ["in_folder", "page", "report", "report_folder", "sources"]
