"""The kind of what `telescope` returns."""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.variance_gap import GAP
from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import missing, told
from exposure_bias.results.tables import LEVEL, tidy
from exposure_bias.results.terms import DECIBELS, SHARE, TEXT


def _sentence(results: xr.Dataset) -> str:
    blocks = results[["bracket", "bracket_se"]].isel(target=-1)
    most = blocks.isel(block=int(np.abs(blocks["bracket"].values).argmax()))
    gap, lack = told(most, "bracket", 100, "%"), missing(most, "bracket")
    return f"Most of the variance gap, {gap}, arises in block {most['block'].item()}{lack}."


def _tables(results: xr.Dataset) -> list[Table]:
    titles = {"": "variance gap (relative)", "_high": "high frequencies (dB)"}
    found = []
    for suffix, title in titles.items():
        if f"gap{suffix}" not in results:
            continue
        factor, unit = (100, "%") if not suffix else (1, "dB")
        own = [k for k in results if _ends_as(str(k), suffix)]
        chosen = results[own]
        blocks = chosen.isel(target=-1).reset_coords(drop=True)
        key = "high_frequencies" if suffix else "variance_gap"
        by_block = (
            Column("block of steps (timesteps)", "block"),
            Column(f"gap that arises there ({unit})", f"bracket{suffix}", factor, True),
            Column(f"Gaussian reference ({unit})", f"bracket{suffix}_gaussian", factor, True),
        )
        by_target = (
            LEVEL,
            Column(f"gap from noise ({unit})", f"gap{suffix}", factor, True),
            Column(f"gap from data ({unit})", f"gap_data{suffix}", factor, True),
            Column(f"Gaussian reference ({unit})", f"gap{suffix}_gaussian", factor, True),
        )
        by_block_title = title.replace(" (", " by block (")
        blocks_frame = tidy(blocks, "block")
        found += [
            Table(f"{key}_by_block", by_block_title, blocks_frame, by_block, main=not suffix),
            Table(key, title, tidy(chosen, "target"), by_target),
        ]
    return found


def _ends_as(name: str, suffix: str) -> bool:
    """Whether a variable is of the whole ("") or of high frequencies ("_high")."""
    plain = name.removesuffix("_se").removesuffix("_gaussian")
    return plain in {f"{base}{suffix}" for base in ("R", "bracket", "gap", "gap_data")}


TELESCOPE = Kind(
    name="telescope",
    title="Where it arises",
    question=(
        "Which part of the chain makes the gap? Each block's effect on the end, carried there by"
        " the model's own chain."
    ),
    variables={
        "gap": GAP,
        "origin": Term("origin", TEXT, "Where chains start: noise, a timestep, t + 1 or t."),
        "block": Term("block of steps", TEXT, "From one start to the next; prior is the start's."),
        "target": Term("target", "model's own time", "The level whose gap is told apart."),
        "R": Term("gap by origin", SHARE, "The variance gap of chains from an origin."),
        "R_spectrum": Term("power gap by origin", SHARE, "Relative, by frequency."),
        "R_high": Term("high frequencies by origin", DECIBELS, "At ¼ cycle per pixel and above."),
        "bracket": Term(
            "variance gap that arises in a block",
            SHARE,
            "What model and sampler do in this block, as it arrives at the target.",
        ),
        "bracket_spectrum": Term("power gap that arises in a block", SHARE, "By frequency."),
        "bracket_high": Term(
            "high frequencies that arise in a block", DECIBELS, "At ¼ cycle per pixel and above."
        ),
        "gap_spectrum": Term("power gap", SHARE, "Of chains from noise, by frequency."),
        "gap_high": Term("high frequencies", DECIBELS, "Of chains from noise, at the target."),
        "gap_data": Term(
            "variance gap from data", SHARE, "That of chains that start on noised data."
        ),
        "gap_data_spectrum": Term("power gap from data", SHARE, "By frequency."),
        "gap_data_high": Term(
            "high frequencies from data", DECIBELS, "Of chains that start on noised data."
        ),
    },
    tables=_tables,
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:telescope"),),
    needs={"bracket": ("block", "target"), "bracket_se": ("block", "target"), "gap": ("target",)},
)
