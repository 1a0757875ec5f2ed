"""Weights from files that nobody vouches for.

Read within bounds, never unpickled, and fitted to a network in full.

What a file claims is checked before anything is allocated. A safetensors file says in its header,
at most 10 MB here, what it holds; a torch file is a zip, whose records torch would also read
compressed: 260 kB became 268 MB. A network that is to be filled is built without memory (on torch's
meta device), so that names and shapes are compared first: a weight that the file lacks would
otherwise be whatever the memory held before, and one that the network lacks would be dropped.

`torch.compile` and `DataParallel` write `_orig_mod.` and `module.` into the names of weights; both
are taken off."""

import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Collection, Container, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from exposure_bias.errors import InputError, reason
from exposure_bias.files import reading
from exposure_bias.files.reading import opened, size_of

Shapes = dict[str, tuple[int, ...]]

HEADER = 10_000_000  # bytes: a hundred times what the largest published networks need
JSON = 4_000_000
NUMBERS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
}  # kinds of numbers that are weights as they stand
# The others that safetensors knows, and their bytes.
OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SHOWN = 3
PICKLE = 8_000_000  # bytes of the pickle in a torch file that names its weights
PICKLES = 5  # of torch's older format: magic number, version, system, weights, keys
# What the pickle of a torch file may call. torch itself would also let it make a bytearray of
# gigabytes, a sparse tensor, or one without a memory.
CALLED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
    *(f"torch._utils _rebuild_{name}" for name in ("parameter", "tensor", "tensor_v2")),
}


def read_json(path: Path, constants: Container[str] = ()) -> dict[str, Any]:
    """The object in a JSON file of at most 4 MB. Raises InputError for anything else.

    constants: which of NaN, Infinity and -Infinity are read as numbers."""
    return reading.read_json(path, JSON, constants)


def shapes_in(path: Path) -> Shapes:
    """Names and shapes in a .safetensors file, from its header alone.

    Raises InputError for a header that is damaged or beyond 10 MB, or whose tensors are not in the
    file, and for numbers that are quantised."""
    damaged = f"{path} is damaged, or no checkpoint"
    with opened(path) as file:
        size = reading.checked_size(file, path, None)
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
        header = reading.parsed(text)
        header.pop("__metadata__", None)
        kinds = {name: str(entry["dtype"]) for name, entry in header.items()}
        shapes = {name: _shape(entry, size - 8 - length) for name, entry in header.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
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


def _shape(entry: Mapping[str, Any], room: int) -> tuple[int, ...]:
    """A tensor's shape, whose numbers lie within the file. Raises ValueError."""
    shape, (first, last) = entry["shape"], entry["data_offsets"]
    if any(type(n) is not int or n < 0 for n in (*shape, first, last)):
        raise ValueError(f"{entry} has numbers that are no sizes")
    width = (NUMBERS | OTHERS).get(entry["dtype"])
    if not first <= last <= room or (width and prod(shape) * width != last - first):
        raise ValueError(f"{entry} is not in the file")
    return tuple(shape)


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


def read_torch(path: Path, limit: int | None = None) -> Any:
    """What torch reads from a file without unpickling it; on the CPU.

    The tensors lie in the file, not in memory, until they are copied; those of torch's older format
    are read. limit: the most bytes that the file may have.

    Raises InputError for what is no such file, or calls for more than weights."""
    size = size_of(path, limit)
    with opened(path) as file:
        zipped = zipfile.is_zipfile(file)
        called = _called(_pickle_of(file, path, size)) if zipped else _called_older(file)
    if called - CALLED and not all(map(_is_kind_of_number, called - CALLED)):
        raise InputError(_refusal(path, called - CALLED))
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, called)) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{path} is damaged, or no checkpoint: {reason(error)}") from error


def _refusal(path: Path, called: set[str]) -> str:
    names = few(sorted(name.replace(" ", ".") for name in called - CALLED))
    return (
        f"{path} cannot be read without unpickling it{f' ({names})' if names else ''}, which may"
        " run any code it holds: where you trust it, save its weights alone with"
        " safetensors.torch.save_file(model.state_dict(), 'model.safetensors') and give that"
    )


def _is_kind_of_number(name: str) -> bool:
    """Whether a pickle's global is one of torch's types of numbers, or of storages of them."""
    module, _, last = name.partition(" ")
    return module == "torch" and (
        isinstance(getattr(torch, last, None), torch.dtype) or last.endswith("Storage")
    )


def _pickle_of(file: BinaryIO, path: Path, size: int) -> bytes:
    """The pickle of a torch file, which is a zip of uncompressed records.

    Raises InputError where a record is compressed: a small file could become a large one."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            names = [record.filename for record in records if record.filename.endswith("data.pkl")]
            packed = any(r.compress_type or r.compress_size != r.file_size for r in records)
            claimed = sum(record.file_size for record in records)
            if packed or claimed > size:
                raise InputError(
                    f"{path} has {size:,} bytes and claims {claimed:,}: torch writes no compressed"
                    " checkpoints"
                )
            doubled = len({record.filename for record in records}) < len(records)
            if len(names) != 1 or doubled or archive.getinfo(names[0]).file_size > PICKLE:
                raise InputError(f"{path} is damaged, or no checkpoint: it has no list of weights")
            return archive.read(names[0])
    except InputError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for damaged archives
        raise InputError(f"{path} is damaged, or no checkpoint: {reason(error)}") from error


def _called(content: bytes) -> set[str]:
    """The names that a pickle calls for."""
    return _names_in(io.BytesIO(content))


def _called_older(file: BinaryIO) -> set[str]:
    """The same of torch's older format, several pickles that stand before the numbers."""
    file.seek(0)
    stream = io.BytesIO(file.read(PICKLE))
    return {name for _ in range(PICKLES) for name in _names_in(stream)}


def _names_in(stream: io.BytesIO) -> set[str]:
    names = set()
    try:
        for code, argument, _ in pickletools.genops(stream):
            if code.name == "GLOBAL":  # torch reads no other way to name one
                names.add(str(argument))
    except Exception:  # damaged: torch says in which way
        return names
    return names


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


def check_memory(net: nn.Module, what: str, copies: int = 1) -> None:
    """Raise InputError where a network's weights are more than this machine has memory.

    The weights in float32. copies: how many numbers are kept for each."""
    count = sum(parameter.numel() for parameter in net.parameters())
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        memory = 2**40
    if 4 * count * copies > memory:
        needs, has = (f"{n / 2**30:,.0f} GiB" for n in (4 * count * copies, memory))
        raise InputError(
            f"{what} describes {count:,} weights: they need {needs}, and this machine has {has}"
        )
