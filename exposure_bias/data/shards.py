"""Shards of webdataset: .tar files, whose samples are files of one name with several endings.

    00001.jpg  00001.cls  00001.txt        a picture, its class as a number, its caption
    00002.npy  00002.json                  an array, and {"label": 3}

A sample's name is the path up to the first dot of the last part, as webdataset has it. A shard's
headers are read once; after that a picture is read where it lies, without unpacking.
https://github.com/webdataset/webdataset describes the format."""

import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias import files
from exposure_bias.data.arrays import array_in
from exposure_bias.data.dataset import Data, Labels, Range, unreadable
from exposure_bias.data.pictures import SUFFIXES
from exposure_bias.data.sources import Pictures, held
from exposure_bias.errors import InputError
from exposure_bias.files.limits import JSON, PICTURES, Limit

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Member:
    """Where a file lies in a shard."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self, limit: Limit, share: int = PICTURES) -> bytes:
        """Its bytes, if the limit allows so many."""
        limit.check(self.size, self.name, self.shard, share)
        with files.opened(self.shard) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise InputError(f"{self.shard} ends within {self.name}: fetch it again")
        return content


Sample = dict[str, Member]


def expanded(text: str) -> list[Path]:
    """The shards that a name stands for: data-{000..003}.tar are four.

    Raises InputError for one that is not there."""
    match = BRACES.search(text)
    if match is None:
        return [Path(text)]
    first, last, width = int(match[1]), int(match[2]), len(match[1])
    if not first <= last < first + MOST_SHARDS:
        raise InputError(
            f"{text} stands for no shards: write the first and the last, as in {{0..9}}"
        )
    paths = [
        Path(f"{text[: match.start()]}{i:0{width}d}{text[match.end() :]}")
        for i in range(first, last + 1)
    ]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(f"there is no shard {missing[0]} ({len(missing)} of {len(paths)} missing)")
    return paths


def from_shards(paths: Sequence[Path], name: str, value_range: Range | None, limit: Limit) -> Data:
    """The pictures or arrays of shards, with their classes and captions if all have one."""
    samples = [sample for path in paths for sample in _samples(path, limit)]
    limit.check_files(len(samples), paths[0].parent)
    found = [(sample, _state(sample)) for sample in samples]
    states = [(sample, ending) for sample, ending in found if ending]
    if not states:
        endings = sorted({ending for sample in samples for ending in sample})[:8]
        raise InputError(
            f"no images in {paths[0]}: looked for {', '.join(SUFFIXES)}, .npy among its samples,"
            f" which have {', '.join(endings) or 'no files'}"
        )
    members = [sample[ending] for sample, ending in states]
    arrays = {ending == "npy" for _, ending in states}
    if len(arrays) > 1:
        raise InputError(f"{name} holds pictures and arrays: keep them in shards of their own")
    source: Any = _Arrays(members, limit) if True in arrays else _pictures(members, limit)
    images = held(source, name, value_range, limit)
    bounded: Range | None = (-1.0, 1.0) if images.dtype == np.uint8 else value_range
    return Data(
        images,
        name,
        labels=_labels([sample for sample, _ in states], limit),
        note="; ".join(sorted(getattr(source, "notes", ()))),
        value_range=bounded,
        names=tuple(member.name for member in members),
    )


def _samples(path: Path, limit: Limit) -> list[Sample]:
    """The samples of one shard, in its order, by their endings."""
    samples: dict[str, Sample] = {}
    try:
        with files.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for count, member in enumerate(archive, 1):
                limit.check_files(count, path)
                if not member.isreg() or member.issparse():
                    continue
                key, ending = _parted(member.name)
                place = Member(path, member.name, member.offset_data, member.size)
                if ending and ending in samples.setdefault(key, {}):
                    raise InputError(
                        f"{path} holds several files called {member.name}: pack it anew"
                    )
                samples[key][ending] = place
            end = os.fstat(file.fileno()).st_size
    except InputError:
        raise
    except Exception as error:  # tarfile raises a dozen kinds for damaged or compressed archives
        raise unreadable(path, "an uncompressed .tar", error) from error
    cut = [m for sample in samples.values() for m in sample.values() if m.offset + m.size > end]
    if cut:
        raise InputError(f"{path} ends within {cut[0].name}: fetch it again")
    return [sample for key, sample in samples.items() if not key.rpartition("/")[2].startswith(".")]


def _parted(name: str) -> tuple[str, str]:
    """A sample's name and a file's ending, which begins at the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    key, _, ending = last.partition(".")
    return (f"{folder}{slash}{key}", ending.lower()) if key else (name, "")


def _state(sample: Sample) -> str | None:
    """The ending of a sample's picture or array."""
    return next((e for e in sample if f".{e}" in SUFFIXES or e == "npy"), None)


def _pictures(members: Sequence[Member], limit: Limit) -> Pictures:
    def content(i: int) -> tuple[str, bytes]:
        return members[i].name, members[i].read(limit)

    return Pictures(len(members), content, members[0].shard, limit)


class _Arrays:
    """Arrays in numpy's format, each of one state."""

    def __init__(self, members: Sequence[Member], limit: Limit) -> None:
        self.members, self.limit = members, limit
        self.shape = self._array(members[0]).shape

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        arrays = [self._array(self.members[int(i)]) for i in ids]
        odd = next((k for k, a in enumerate(arrays) if a.shape != self.shape), None)
        if odd is not None:
            member = self.members[int(ids[odd])]
            raise InputError(
                f"{member.name} in {member.shard} is {arrays[odd].shape} where the first is"
                f" {self.shape}: all must be alike"
            )
        return np.stack(arrays)

    def _array(self, member: Member) -> NDArray[Any]:
        content = io.BytesIO(member.read(self.limit))
        return array_in(content, member.shard / member.name, self.limit, kinds="uf")


def _labels(samples: Sequence[Sample], limit: Limit) -> Labels:
    """The classes, where every sample has one."""
    classes = [_label(sample, limit) for sample in samples]
    return None if None in classes else np.array(classes, dtype=np.int64)


def _label(sample: Sample, limit: Limit) -> int | None:
    member = sample.get("cls") or sample.get("json")
    if member is None:
        return None
    content = member.read(limit, JSON)
    try:
        if "cls" in sample:
            return int(content.decode())
        label = json.loads(content).get("label")
        return label if isinstance(label, int) and not isinstance(label, bool) else None
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{member.name} in {member.shard} holds no class: a whole number is needed"
        ) from error
