"""What commands print and write: sentences, tables, figures, and the dataset itself."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias import files
from exposure_bias.cli import formats
from exposure_bias.diagnostics.variance_gap import variance_gap
from exposure_bias.errors import InputError
from exposure_bias.glossary import kind_of
from exposure_bias.headlines import details, headline
from exposure_bias.recording import Recording
from exposure_bias.running.parallel import team
from exposure_bias.sentences import number
from exposure_bias.tables import Column, Table, listed, tables

Pixel = tuple[int, int, int]


def message(text: str) -> None:
    """A line for the person at the terminal."""
    if team().first:
        print(text, file=sys.stderr)


def run_folder(options: argparse.Namespace, objective: str, seed: int) -> Path:
    """Where a training run goes.

    -o itself, or a folder in it named after what differs between several runs."""
    parts = [objective] * (len(options.objective) > 1) + [f"seed{seed}"] * (len(options.seed) > 1)
    return Path(options.out) / "-".join(parts)


def show(
    options: argparse.Namespace, name: str, dataset: xr.Dataset, *extra: Any, **beside: Any
) -> None:
    """With -o write the tables, the figures and the dataset; then say what the dataset says.

    extra: for the figure; beside: for the tables and the sentence (`tables.tables`).
    """
    if not team().first:
        return
    kind = kind_of(dataset) or name
    found = tables(dataset, **beside)
    if options.out:
        _write(options.out, name, dataset, found, *extra)
        if not options.quiet:
            message(f"wrote {options.out}/{name}.*")
    sentence, attributes = headline(dataset, **beside), dict(dataset.attrs)
    say(options, kind, sentence, found, details(dataset), attributes)


def say(
    options: argparse.Namespace,
    kind: str,
    sentence: str,
    found: Sequence[Table] = (),
    more: Sequence[str] = (),
    attributes: dict[str, Any] | None = None,
    also: dict[str, Any] | None = None,
) -> None:
    """Print one sentence, the tables and what else there is, in the format that was asked for.

    also: further keys of the JSON.
    """
    said = formats.Said(
        options.name,
        kind,
        sentence,
        found,
        more,
        attributes or {},
        options.wide,
        options.explain,
        options.quiet,
        also or {},
    )
    if team().first:
        print(formats.FORMATS[options.format](said))


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
    say(options, "variance_gap", recorded(recording), found, (), recording.description)


def recorded(recording: Recording) -> str:
    """The gap that a recording's chain ends with, in words; or that it has none."""
    if "chain" not in recording or "data" not in recording or recording.n < 2:
        return f"{recording.n} samples are recorded: no chain's variance to tell, so no interval."
    return headline(variance_gap(recording))


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
    say(options, "training", sentence, [listed("networks", rows, columns, main=True)])


def unfinished(options: argparse.Namespace) -> str | None:
    """From where the same command goes on after an interrupt; gone once all is written."""
    return f"{options.out}/unfinished.nc" if options.out else None


def _write(
    folder: str, name: str, dataset: xr.Dataset, found: Sequence[Table], *extra: Any
) -> None:
    from exposure_bias import plots

    figures: dict[str, dict[str, Any]] = {
        "spectrum": {"": plots.spectrum},
        "state-error": {"": plots.state_error},
        "gap": {"": plots.variance_gap},
        "delta": {"": plots.published_delta},
        "norms": {"": plots.epsilon_norm},
        "normality": {"": plots.normality},
        "rollout": (
            {"": plots.rollouts} | ({"-ranks": plots.rank_histogram} if "ranks" in dataset else {})
        ),
        "telescope": {"": plots.telescope},
        "compare": {"": plots.compare},
        "errors": {"": plots.error_histograms, "-std": plots.error_std},
        "chain-fid": {"": plots.chain_length_fid},
        "budget": {"": plots.budget},
        "diagnosis": {"": plots.diagnosis},
    }
    for suffix, function in figures[name].items():
        figure = function(dataset, *(extra if not suffix else ()))
        for kind in ("png", "pdf"):
            buffer = io.BytesIO()
            metadata = {"CreationDate": None} if kind == "pdf" else None
            plots.save(figure, buffer, format=kind, metadata=metadata)
            files.write_bytes(f"{folder}/{name}{suffix}.{kind}", buffer.getvalue())
    for table in found:
        content = table.frame.to_csv(index=False).encode()
        files.write_bytes(f"{folder}/{name}-{table.file}.csv", content)
    kind = "chain errors" if name == "errors" else name
    files.write_tree(
        f"{folder}/{name}.nc", xr.DataTree(dataset), {"kind": kind, "attributes": dataset.attrs}
    )


def spread_pixels(shape: tuple[int, ...]) -> list[Pixel]:
    """Three pixels (c, y, x) of a (C, H, W) image.

    At a quarter, the middle and three quarters of both sides."""
    channels, height, width = shape
    return [(i % channels, (i + 1) * height // 4, (i + 1) * width // 4) for i in range(3)]


def pixels(shape: tuple[int, ...], given: Sequence[str] | None) -> list[Pixel]:
    """Pixels (c, y, x) of a (C, H, W) image from flat indices or "c,y,x".

    Three spread over it by default."""
    channels, height, width = shape
    if not given:
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
