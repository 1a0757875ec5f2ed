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
from exposure_bias.recording import RECORDING, Recording, load_partial
from exposure_bias.results import kind_of, load_result, name_of
from exposure_bias.results.storage import saved_files

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
    return list(saved_files(folder).values())


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
    if files.read_groups(item)[1].get("kind") == RECORDING:
        recording = load_partial(item)
        return Source(str(item), RECORDING, recording, recording.description, recording.made)
    return _of_dataset(load_result(item), str(item))


def _of_dataset(dataset: xr.Dataset, name: str | None) -> Source:
    kind_of(dataset)  # whose variables it must have
    said = {str(k): str(v) for k, v in dataset.attrs.items()}
    kind = name_of(dataset)
    return Source(name or kind, kind, dataset, said)


def _refuse_strangers(one: Source, other: Source) -> None:
    for key in COMMON:
        mine, theirs = one.said.get(key), other.said.get(key)
        if mine is not None and theirs is not None and mine != theirs:
            raise InputError(
                f"{one.name} and {other.name} do not belong together: their {key} is"
                f" {mine!r:.60} and {theirs!r:.60}; make a report for each"
            )
