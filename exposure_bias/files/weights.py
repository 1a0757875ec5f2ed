"""Weights from files that nobody vouches for.

Read within bounds, never unpickled, and fitted to a network in full.

What a file claims is checked before anything is allocated. A safetensors file says in its header,
at most 10 MB here, what it holds; a torch file is a zip, whose records torch would also read
compressed: 260 kB became 268 MB. A network that is to be filled is built without memory (on torch's
meta device), so that names and shapes are compared first: a weight that the file lacks would
otherwise be whatever the memory held before, and one that the network lacks would be dropped.

`torch.compile` and `DataParallel` write `_orig_mod.` and `module.` into the names of weights; both
are taken off."""

import json
import os
import pickle
import stat
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exposure_bias.errors import InputError, reason

Shapes = dict[str, tuple[int, ...]]

HEADER = 10_000_000  # bytes: a hundred times what the largest published networks need
JSON = 4_000_000
NUMBERS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
}  # kinds of numbers that are weights as they stand
SHOWN = 3


def size_of(path: Path, limit: int | None = None) -> int:
    """The bytes of a regular file.

    Raises InputError for anything else (a pipe would hang), and beyond the limit.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file: give one")
    if limit is not None and status.st_size > limit:
        raise InputError(
            f"{path} has {status.st_size:,} bytes, at most {limit:,} are read: it is none of what"
            " it claims"
        )
    return status.st_size


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most 4 MB. Raises InputError for anything else."""
    size_of(path, JSON)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} as JSON: {reason(error)}") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a JSON {type(content).__name__}: an object {{name: value}} is needed"
        )
    return content


def shapes_in(path: Path) -> Shapes:
    """Names and shapes in a .safetensors file, from its header alone.

    Raises InputError for a header that is damaged or beyond 10 MB, and for numbers that are
    quantised."""
    size = size_of(path)
    damaged = f"{path} is damaged, or no checkpoint"
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise InputError(f"{damaged}: it is shorter than its header says; fetch it again")
        if length > HEADER:
            raise InputError(
                f"{path} has a header of {length:,} bytes, at most {HEADER:,} are read: no network"
                " needs more"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        shapes = {
            str(name): tuple(int(n) for n in entry["shape"]) for name, entry in header.items()
        }
        kinds = {str(name): str(entry["dtype"]) for name, entry in header.items()}
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{damaged}: its header is none of safetensors ({reason(error)}); fetch it again"
        ) from error
    odd = [
        f"{name} ({kind})" for name, kind in kinds.items() if kind not in NUMBERS and shapes[name]
    ]
    if odd:
        allowed = ", ".join(NUMBERS)
        raise InputError(
            f"{path} holds weights that are no plain numbers, {few(odd)}: allowed are {allowed};"
            " de-quantise"
        )
    return shapes


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The float32 tensors in a .safetensors file, each in memory of its own.

    The file may change afterwards."""
    from safetensors import safe_open

    shapes_in(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            names = file.keys()
            return {name: file.get_tensor(name).to(torch.float32, copy=True) for name in names}
    except Exception as error:  # safetensors' own
        raise InputError(
            f"{path} is damaged, or no checkpoint: {reason(error)}; fetch it again"
        ) from error


def read_torch(path: Path) -> Any:
    """What torch reads from a file without unpickling it; on the CPU."""
    size = size_of(path)
    if zipfile.is_zipfile(path):
        _refuse_compressed(path, size)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} cannot be read without unpickling it, which may run any code it holds: where"
            " you trust it, save its weights alone with"
            " safetensors.torch.save_file(model.state_dict(), 'model.safetensors') and give that"
        ) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is damaged, or no checkpoint: {reason(error)}") from error


def _refuse_compressed(path: Path, size: int) -> None:
    """Raise InputError where a record is compressed.

    torch stores its records as they are; a compressed one is a small file that becomes a large one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(record.file_size for record in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged, or no checkpoint: {reason(error)}") from error
    if claimed > size:
        raise InputError(
            f"{path} has {size:,} bytes and claims {claimed:,}: torch writes no compressed"
            " checkpoints"
        )


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name, and what it is without the marks of wrappers.

    Wrappers are those of torch.compile, DataParallel, DDP and AveragedModel.

    `module.` is a mark if all names begin with it, but for the counter of AveragedModel, which is
    left out."""
    plain = {name: name.replace("_orig_mod.", "") for name in names}
    while True:
        rest = {name: short for name, short in plain.items() if short != "n_averaged"}
        if not rest or not all(short.startswith("module.") for short in rest.values()):
            return plain
        plain = {name: short.removeprefix("module.") for name, short in rest.items()}


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under plain names; as it is where two weights would get one name."""
    names = plain_names(state)
    return (
        {short: state[name] for name, short in names.items()}
        if len({*names.values()}) == len(names)
        else dict(state)
    )


def common_prefix(names: Collection[str]) -> str:
    """What all names begin with, as in "model.diffusion_model.".

    "" if nothing but parts of their own."""
    first, last = min(names, default=""), max(names, default="")
    length = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    return first[: first[:length].rfind(".") + 1]


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Names and shapes of tensors."""
    return {name: tuple(value.shape) for name, value in state.items()}


def differences(came: Shapes, expected: Shapes) -> str:
    """What keeps a state dict from loading, in words; empty if nothing does."""
    missing = [name for name in expected if name not in came]
    unexpected = [name for name in came if name not in expected]
    shapes = [
        f"{k} {came[k]} instead of {expected[k]}"
        for k in expected
        if k in came and came[k] != expected[k]
    ]
    found = {"missing keys": missing, "unexpected keys": unexpected, "wrong shapes": shapes}
    words = [f"{what} {few(names)}" for what, names in found.items() if names]
    prefix = common_prefix(came)
    if words and prefix and prefix not in {common_prefix(expected)}:
        words.append(f"all its keys begin with {prefix!r}: save them without it")
    return "; ".join(words)


def few(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def check_memory(net: nn.Module, what: str) -> None:
    """Raise InputError where a network's weights are more than this machine has memory.

    The weights in float32."""
    count = sum(parameter.numel() for parameter in net.parameters())
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        memory = 2**40
    if 4 * count > memory:
        needs, has = (f"{n / 2**30:,.0f} GiB" for n in (4 * count, memory))
        raise InputError(
            f"{what} describes {count:,} weights: they need {needs}, and this machine has {has}"
        )
