"""Files of prompts: a text for all images, or one for each.

    prompts.txt        one a line, for all images or in their order
    captions.csv       columns file_name and text (or prompt, caption), as the library datasets has
                       it; without file_name in the images' order
    metadata.jsonl     the same, an object a line

A file's name is that inside the folder or archive; its last part will do where it is the only one
of that name."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias import files
from exposure_bias.data.dataset import Data
from exposure_bias.errors import InputError, reason

MOST_BYTES = 2**28
TEXTS = ("text", "prompt", "caption")
NAMES = ("file_name", "filename", "file", "image", "path", "name")

Rows = list[dict[str, Any]]


def read_prompts(path: Path | str, data: Data) -> list[str]:
    """Read the prompts of a file.

    Parameters
    ----------
    path
        A .txt, .csv, .tsv or .jsonl file.
    data
        The images that the prompts belong to.

    Returns
    -------
    list of str
        One prompt, for all images, or one for each in their order.

    Raises
    ------
    InputError
        For a file that cannot be read, that holds no prompts, or as many as are neither one nor
        those of the images; and for an image without a prompt."""
    path = Path(path)
    text = _content(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _of_rows(_csv(path, text, suffix), path, data)
    if suffix == ".jsonl":
        return _of_rows(_jsonl(path, text), path, data)
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _in_order(lines, path, data)


def distinct(prompts: Sequence[str], count: int) -> tuple[list[str], NDArray[np.int64]]:
    """The different prompts, and which of them each of `count` images has."""
    texts = list(dict.fromkeys(prompts))
    place = {text: i for i, text in enumerate(texts)}
    index = np.array([place[text] for text in prompts], dtype=np.int64)
    return texts, np.broadcast_to(index, count).copy()


def _content(path: Path) -> str:
    with files.opened(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is no file of prompts: it has more than {MOST_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text (UTF-8): save it as one") from error


def _csv(path: Path, text: str, suffix: str) -> Rows:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True,
                                delimiter="\t" if suffix == ".tsv" else ",")  # fmt: skip
        return [dict(row) for row in reader]
    except csv.Error as error:
        raise InputError(f"cannot read {path} as a table: {reason(error)}") from error


def _jsonl(path: Path, text: str) -> Rows:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"line {number} of {path} is no JSON: {reason(error)}") from error
            if not isinstance(row, dict):
                raise InputError(f"line {number} of {path} is no JSON object {{name: value}}")
            rows.append(row)
    return rows


def _of_rows(rows: Rows, path: Path, data: Data) -> list[str]:
    if not rows:
        raise InputError(f"{path} holds no prompts: give one, or one for each image")
    text = next((name for name in TEXTS if name in rows[0]), None)
    if text is None:
        raise InputError(
            f"{path} has no column of prompts: name it one of {', '.join(TEXTS)} (it has"
            f" {', '.join(map(str, rows[0]))})"
        )
    odd = next((i for i, row in enumerate(rows, 1) if not isinstance(row.get(text), str)), None)
    if odd is not None:
        raise InputError(f"row {odd} of {path} has no text in {text!r}: give every image one")
    name = next((name for name in NAMES if name in rows[0]), None)
    if name is None:
        return _in_order([row[text] for row in rows], path, data)
    return _by_name({str(row.get(name)): row[text] for row in rows}, path, data)


def _in_order(prompts: list[str], path: Path, data: Data) -> list[str]:
    if len(prompts) not in (1, len(data)):
        raise InputError(
            f"{path} holds {len(prompts)} prompts, but {data.name} has {len(data)} images: give one"
            " prompt for all of them, or one for each"
        )
    return prompts


def _by_name(prompts: dict[str, str], path: Path, data: Data) -> list[str]:
    if data.names is None:
        raise InputError(
            f"{path} names files, but the images of {data.name} have no names: give the prompts in"
            " the images' order, without the column of files"
        )
    counts = Counter(name.rpartition("/")[2] for name in data.names)
    last = {name: name.rpartition("/")[2] for name in data.names}
    known = [
        prompts.get(name, prompts.get(last[name]) if counts[last[name]] == 1 else None)
        for name in data.names
    ]
    missing = [name for name, text in zip(data.names, known, strict=True) if text is None]
    if missing:
        raise InputError(
            f"{path} has no prompt for {len(missing)} of the {len(data)} images of {data.name},"
            f" {missing[0]} first: give every image one"
        )
    return [text for text in known if text is not None]
