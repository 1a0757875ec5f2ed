"""What a report is made of: recordings and results, from memory or from files, that belong
together. No torch here."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from exposure_bias import files
from exposure_bias.errors import InputError
from exposure_bias.recording import RECORDING, Recording, from_tree

Has = Callable[[xr.Dataset], bool]


def _with(*names: str) -> Has:
    return lambda dataset: all(name in dataset for name in names)


# How a result is recognised, the first that fits. A diagnosis of a recording alone is its gaps.
KINDS: dict[str, Has] = {
    "compare": lambda d: "entry" in d.dims,
    "chain-fid": _with("frechet"),
    "budget": _with("discretisation", "score"),
    "telescope": _with("bracket"),
    "rollout": _with("S", "A"),
    "errors": _with("error", "x0"),
    "norms": _with("norm_forward", "norm_chain"),
    "delta": _with("delta", "root"),
    "spectrum": _with("power_chain"),
    "state-error": _with("pooled_rmse", "histogram"),
    "gap": _with("gap_pixel"),
    "gaps": lambda d: "gap" in d and "step" in d["gap"].dims,
}
# What several results of one report must agree in.
COMMON = ("model", "data")


@dataclass(frozen=True)
class Source:
    """One recording or one result. name: of its file, or its kind. said: its run in words."""

    name: str
    kind: str
    content: Any
    said: dict[str, str]
    made: dict[str, Any] = field(default_factory=dict)


def sources(given: Sequence[Any]) -> list[Source]:
    """What was given, read.

    Raises InputError for nothing, for what is no result of ours, and for results of different
    models or data, which it names.
    """
    if not given:
        raise InputError("a report needs at least one recording or result, or their files")
    found = [_source(item) for item in given]
    for one in found:
        _refuse_strangers(found[0], one)
    return found


def in_folder(folder: str | os.PathLike[str]) -> list[Path]:
    """The results in a folder that a command with `-o` wrote, and its recording."""
    names = [*(f"{kind}.nc" for kind in KINDS), "diagnosis.nc", "recording.nc"]
    return [path for name in names if (path := Path(folder) / name).is_file()]


def _source(item: Any) -> Source:
    if isinstance(item, Recording):
        return Source("recording", RECORDING, item, item.description, item.made)
    if isinstance(item, xr.Dataset):
        return _of_dataset(item, None)
    if not isinstance(item, str | os.PathLike):
        raise InputError(
            "a report takes recordings, results and their files, not"
            f" {type(item).__name__}: give what record, diagnose, … returned or wrote"
        )
    tree, known = files.read_tree(item)
    if known.get("kind") == RECORDING:
        recording = from_tree(tree, known, item)
        return Source(str(item), RECORDING, recording, recording.description, recording.made)
    dataset = tree.to_dataset()
    attributes = known.get("attributes")
    if isinstance(attributes, dict):
        dataset.attrs = {**attributes, **dataset.attrs}
    return _of_dataset(dataset, str(item))


def _of_dataset(dataset: xr.Dataset, name: str | None) -> Source:
    kind = next((kind for kind, has in KINDS.items() if has(dataset)), None)
    if kind is None:
        raise InputError(
            f"{name or 'a dataset'} is no result that a report can show: give what"
            f" {', '.join(KINDS)} wrote, or a recording"
        )
    said = {str(k): str(v) for k, v in dataset.attrs.items()}
    return Source(name or kind, kind, dataset, said)


def _refuse_strangers(one: Source, other: Source) -> None:
    for key in COMMON:
        mine, theirs = one.said.get(key), other.said.get(key)
        if mine is not None and theirs is not None and mine != theirs:
            raise InputError(
                f"{one.name} and {other.name} do not belong together: their {key} is"
                f" {mine!r:.60} and {theirs!r:.60}; make a report for each"
            )
