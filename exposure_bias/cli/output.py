"""What commands print and write: sentences, tables, figures, and the dataset itself."""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias import files
from exposure_bias.diagnostics.variance_gap import variance_gap
from exposure_bias.errors import InputError, harmless
from exposure_bias.recording import Recording
from exposure_bias.results import Column, Table, drawings, every_kind, name_of, save, tables
from exposure_bias.results.formats import FORMATS, View, view_of
from exposure_bias.results.numbers import number
from exposure_bias.results.tables import listed
from exposure_bias.running.parallel import team

Pixel = tuple[int, int, int]
CONTENTS = "README.txt"
OTHER_FILES = {
    "report.html": "everything on one page: open it in a browser",
    "work": (
        "what the same command goes on from after an interrupt; work/recording.nc, where there is"
        " one, is the recording, which other commands read; the rest can be removed"
    ),
}


def message(text: str) -> None:
    """A line for the person at the terminal."""
    if team().first:
        print(harmless(text), file=sys.stderr)


def show(
    options: argparse.Namespace,
    result: xr.Dataset,
    *,
    beside: Sequence[Table] = (),
    before: Sequence[Table] = (),
    further: Sequence[xr.Dataset] = (),
    sentence: str | None = None,
    **drawn: Any,
) -> None:
    """With -o write the tables, the figures and the dataset; then say what the result says.

    before, beside: further tables, before or after its own. further: results that are written as
    well. sentence: that of one of them, in place of its own. drawn: for its first figure.
    """
    if not team().first:
        return
    own = view_of(result, options.name, **_how(options))
    found = [*before, *own.tables, *beside]
    if options.out:
        _write(options, result, found, drawn)
        for one in further:
            _write(options, one, tables(one), {})
    said = replace(own, tables=found)
    _print(options, replace(said, sentence=sentence) if sentence else said)


def _how(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("wide", "explain", "quiet")}


def say(
    options: argparse.Namespace,
    sentence: str,
    found: Sequence[Table] = (),
    more: Sequence[str] = (),
    **fields: Any,
) -> None:
    """Print a sentence, tables and what else there is, in the format that was asked for.

    fields: further ones of `View`.
    """
    if team().first:
        said = View(options.name, sentence, found, more, **_how(options), **fields)
        _print(options, said)


def _print(options: argparse.Namespace, said: View) -> None:
    """Print a view; what no terminal should obey, and what is no text, is an escape."""
    print(harmless(FORMATS[options.format](said)))


def say_recorded(options: argparse.Namespace, recording: Recording) -> None:
    """What a new recording holds, and the gap that its chain ends with."""
    rows = [
        {
            "stream": name,
            "samples": int(stream["count"].sum()),
            "levels": stream.sizes["step"],
            "noisiest": f"{float(stream['timestep'][0]):g}",
        }
        for name, stream in recording.streams.items()
        if name != "data"
    ]
    columns = (
        Column("stream", "stream"),
        Column("samples", "samples"),
        Column("levels kept", "levels"),
        Column("noisiest timestep", "noisiest"),
    )
    found = [listed("streams", rows, columns, main=True)]
    say(options, recorded(recording), found, attributes=recording.description)


def recorded(recording: Recording) -> str:
    """The gap that a recording's chain ends with, in words; or that it has none."""
    if "chain" not in recording or "data" not in recording or recording.n < 2:
        return f"{recording.n} samples are recorded: no chain's variance to tell, so no interval."
    return str(variance_gap(recording).attrs["answer"])


def say_trained(options: argparse.Namespace, folders: Sequence[Path]) -> None:
    """The losses that training ended with."""
    logs = {folder: pd.read_csv(folder / "training.csv") for folder in folders}
    rows = [{"network": str(folder), **log.iloc[-1].to_dict()} for folder, log in logs.items()]
    columns = (
        Column("network", "network"),
        Column("iterations", "iteration"),
        Column("loss", "loss"),
        Column("held-out loss", "heldout_loss"),
        Column("iterations per s", "it_per_s"),
    )
    last = rows[-1]
    known = "heldout_loss" if np.isfinite(last["heldout_loss"]) else "loss"
    loss = number(last[known])
    many = len(rows) > 1
    who = f"{len(rows)} networks are trained; the last has" if many else "The network has"
    what = "a held-out loss" if known == "heldout_loss" else "a training loss"
    sentence = f"{who} {what} of {loss} (one run, so no interval)."
    say(options, sentence, [listed("networks", rows, columns, main=True)])


def _write(
    options: argparse.Namespace,
    result: xr.Dataset,
    found: Sequence[Table],
    drawn: dict[str, Any],
) -> None:
    """Write the numbers, and then the figures, which an environment may not be able to draw."""
    folder, name = options.out, name_of(result).replace("_", "-")
    for table in found:
        content = table.frame.to_csv(index=False).encode()
        files.write_bytes(f"{folder}/{table.csv(name)}", content)
    save(result, f"{folder}/{name}.nc")
    from exposure_bias import plots
    from exposure_bias.plots.style import or_warn

    for drawing in drawings(result):
        for kind in ("png", "pdf"):
            buffer = io.BytesIO()
            with or_warn():
                figure = drawing(result, **({} if drawing.suffix else drawn))
                metadata = {"CreationDate": None} if kind == "pdf" else None
                plots.save(figure, buffer, format=kind, metadata=metadata)
                files.write_bytes(f"{folder}/{name}{drawing.suffix}.{kind}", buffer.getvalue())
    if not options.quiet:
        message(f"wrote {folder}/{name}.*")


def write_contents(folder: str) -> None:
    """Write README.txt, which says of each file of a folder of results what it is."""
    from exposure_bias import __version__

    kinds = sorted(every_kind(), key=lambda kind: -len(kind.hyphened))  # drift after drift-budget
    rows = []
    for path in sorted(Path(folder).iterdir()):
        name = path.name
        kind = next(
            (k for k in kinds if name.startswith((f"{k.hyphened}.", f"{k.hyphened}-"))), None
        )
        words = OTHER_FILES.get(name) or (kind and _what_it_is(path, kind.title))
        if words:
            rows.append((name, words))
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"Written by eb-analyze, exposure_bias {__version__}.", ""]
    lines += [f"{name.ljust(width)}  {words}" for name, words in rows]
    files.write_bytes(f"{folder}/{CONTENTS}", ("\n".join(lines) + "\n").encode())


def _what_it_is(path: Path, title: str) -> str:
    said = {
        ".nc": "the result with everything: exposure_bias.load, or any reader of netCDF",
        ".csv": "a table, in full",
        ".png": "a figure",
        ".pdf": "the same figure for a paper",
    }
    return f"{title}: {said[path.suffix]}" if path.suffix in said else ""


def pixels(shape: tuple[int, ...], given: Sequence[str] | None) -> list[Pixel]:
    """Pixels (c, y, x) of a (C, H, W) image from flat indices or "c,y,x".

    Three spread over it by default."""
    channels, height, width = shape
    if not given:
        from exposure_bias.plots.errors import spread_pixels

        return spread_pixels(shape)
    chosen = []
    for text in given:
        try:
            numbers = [int(part) for part in text.split(",")]
            place = (
                numbers
                if len(numbers) == 3
                else [int(i) for i in np.unravel_index(numbers[0], shape)]
            )
            if len(numbers) not in (1, 3) or not all(
                0 <= p < s for p, s in zip(place, shape, strict=True)
            ):
                raise ValueError
        except ValueError:
            size = f"{channels}×{height}×{width}"
            allowed = f"an index from 0 to {np.prod(shape) - 1}, or c,y,x"
            raise InputError(f"pixel {text!r} is none of a {size} image: give {allowed}") from None
        chosen.append((place[0], place[1], place[2]))
    return chosen
