"""What a report is made of: recordings and results, from memory or files, that belong together.

No torch here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from exposure_bias import files
from exposure_bias.errors import InputError
from exposure_bias.glossary import kind_of
from exposure_bias.recording import RECORDING, Recording, load_partial
from exposure_bias.tables import MAKERS

# What several results of one report must agree in.
COMMON = ("model", "data")
# What commands call the files that a report is made of, in its order.
FILES = (
    "diagnosis",
    "budget",
    "compare",
    "gap",
    "spectrum",
    "norms",
    "delta",
    "state-error",
    "rollout",
    "telescope",
    "errors",
    "normality",
    "chain-fid",
    "recording",
)


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
    return [path for name in FILES if (path := Path(folder) / f"{name}.nc").is_file()]


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
        recording = load_partial(item)
        return Source(str(item), RECORDING, recording, recording.description, recording.made)
    dataset = tree.to_dataset()
    attributes = known.get("attributes")
    if isinstance(attributes, dict):
        dataset.attrs = {**attributes, **dataset.attrs}
    return _of_dataset(dataset, str(item))


def _of_dataset(dataset: xr.Dataset, name: str | None) -> Source:
    kind = kind_of(dataset)
    if kind not in MAKERS:
        raise InputError(
            f"{name or 'a dataset'} is no result that a report can show: give what"
            f" {', '.join(MAKERS)} returned or wrote, or a recording"
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
