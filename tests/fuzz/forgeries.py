"""Forged recordings: an honest one, changed in one place and signed again.

`structures` uses what HDF5 can do beyond plain arrays, `shapes` and `values` change variables,
`stories` what the file says about itself. All are seeded by nothing but their order, so that a
number names one."""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

MARK = b"\nexposure_bias sha256 "
TRAILER = len(MARK) + 64

Change = Callable[[h5py.File], Any]
Forgery = tuple[str, Callable[[], bytes]]  # a name, and what makes it


def signed(body: bytes) -> bytes:
    """With the trailer that a checksum test accepts."""
    return body + MARK + hashlib.sha256(body).hexdigest().encode()


def changed(content: bytes, change: Change) -> Callable[[], bytes]:
    """What makes a file of ours after a change through h5py."""
    return lambda: _changed(content, change)


def _changed(content: bytes, change: Change) -> bytes:
    memory = io.BytesIO(content[:-TRAILER])
    with h5py.File(memory, "r+") as file:
        change(file)
    return signed(memory.getvalue())


def without(name: str) -> Change:
    return lambda file: file.__delitem__(name)


def instead(name: str, make: Callable[[h5py.File, str], Any]) -> Change:
    """Another object in a variable's place, with its netCDF attributes."""

    def change(file: h5py.File) -> None:
        kept = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        made = make(file, name)
        for key in ("_Netcdf4Coordinates", "_Netcdf4Dimid", "CLASS"):
            if key in kept and isinstance(made, h5py.Dataset):
                made.attrs[key] = kept[key]

    return change


def _external(file: h5py.File, name: str) -> h5py.Dataset:
    return file.create_dataset(name, (5, 1), "u1", external=[("/etc/passwd", 0, 5)])


def _virtual(file: h5py.File, name: str) -> h5py.Dataset:
    layout = h5py.VirtualLayout((16,), "f8")
    layout[:] = h5py.VirtualSource("/etc/hosts.h5", "x", (16,))
    return file.create_virtual_dataset(name, layout)


def _loop(file: h5py.File, name: str) -> None:
    group = file.create_group(name)
    group["again"] = group


def structures(content: bytes) -> Iterator[Forgery]:
    """What HDF5 can do and this package does not."""
    makers: dict[str, Callable[[h5py.File, str], Any]] = {
        "external storage": _external,
        "virtual": _virtual,
        "soft link": lambda f, n: f.__setitem__(n, h5py.SoftLink("/chain/count")),
        "dangling link": lambda f, n: f.__setitem__(n, h5py.SoftLink("/nowhere")),
        "external link": lambda f, n: f.__setitem__(n, h5py.ExternalLink("/etc/x.h5", "/")),
        "group in itself": _loop,
        "root in a group": lambda f, n: f.__setitem__(n, f["/"]),
        "unallocated 3 GB": lambda f, n: f.create_dataset(n, (3 * 2**27,), "f8"),
        "unallocated exabyte": lambda f, n: f.create_dataset(n, (2**57,), "f8"),
        "chunked": lambda f, n: f.create_dataset(n, data=np.zeros(16), chunks=(8,)),
        "compressed": lambda f, n: f.create_dataset(n, data=np.zeros(2**20), compression="gzip"),
        "resizable": lambda f, n: f.create_dataset(n, data=np.zeros(16), maxshape=(None,)),
        "compound": lambda f, n: f.create_dataset(n, data=np.zeros(16, [("a", "f8"), ("b", "i4")])),
        "complex": lambda f, n: f.create_dataset(n, data=np.zeros(16, complex)),
        "opaque": lambda f, n: f.create_dataset(n, data=np.zeros(16, "V8")),
        "boolean": lambda f, n: f.create_dataset(n, data=np.zeros(16, bool)),
        "references": lambda f, n: f.create_dataset(
            n, data=np.array([f["/"].ref] * 16, h5py.ref_dtype), dtype=h5py.ref_dtype
        ),
        "lists": lambda f, n: f.create_dataset(n, (16,), h5py.vlen_dtype(np.float64)),
        "fixed texts": lambda f, n: f.create_dataset(n, data=np.array([b"abc"] * 16)),
        "texts": lambda f, n: f.create_dataset(n, data=["abc"] * 16, dtype=h5py.string_dtype()),
        "empty": lambda f, n: f.create_dataset(n, data=h5py.Empty("f8")),
        "scalar": lambda f, n: f.create_dataset(n, data=1.0),
        "nothing along": lambda f, n: f.create_dataset(n, (0,), "f8"),
        "ten axes": lambda f, n: f.create_dataset(n, data=np.zeros((1,) * 10)),
        "a named type": lambda f, n: f.__setitem__(n, np.dtype("f8")),
    }
    for place in ("chain/count", "chain/state_sum", "data/mean", "chain/unknown", "unknown"):
        for name, make in makers.items():
            yield f"{name} at {place}", changed(content, instead(place, make))
    yield "no groups", changed(content, lambda f: [f.__delitem__(name) for name in list(f)])
    yield "3000 variables", changed(content, _many_variables)
    yield "3000 attributes", changed(content, _many_attributes)
    yield "a large attribute", changed(content, _large_attribute)
    yield (
        "names of two lines",
        changed(content, lambda f: f.create_dataset("chain/a\nb\x1b[31m", data=np.zeros(3))),
    )
    yield (
        "a long name",
        changed(content, lambda f: f.create_dataset("chain/" + "x" * 5000, (1,), "f8")),
    )
    yield "an empty file", lambda: signed(b"")
    yield "text", lambda: signed(b"#!/bin/sh\nexit\n" * 100)
    yield "half a file", lambda: signed(content[: len(content) // 2])


def _many_variables(file: h5py.File) -> None:
    for i in range(3000):
        file["chain"][f"x{i}"] = file["chain/count"]


def _many_attributes(file: h5py.File) -> None:
    with_room = file.create_group("chain/room", track_order=True)
    for i in range(3000):
        with_room.attrs[f"x{i}"] = i


def _large_attribute(file: h5py.File) -> None:
    file["chain/count"].attrs["words"] = ["x" * 1000] * 50


def damaged(content: bytes, count: int, seed: int) -> Iterator[Forgery]:
    """Bytes flipped, zeroed or cut within, and signed again."""
    for i in range(count):
        yield f"damage {seed}/{i}", partial(_damaged, content, i, seed)


def _damaged(content: bytes, number: int, seed: int) -> bytes:
    rng = np.random.default_rng([seed, number])
    copy = np.frombuffer(content[:-TRAILER], np.uint8).copy()
    # Half of them in the first 4 KiB, where few bytes are numbers.
    where = int(rng.integers(len(copy) if number % 2 else min(4096, len(copy))))
    length = int(rng.choice([1, 1, 2, 4, 8, 64]))
    patch = [rng.integers(0, 256, length), np.zeros(length), np.full(length, 255)][number % 3]
    copy[where : where + length] = patch[: len(copy) - where]
    return signed(copy.tobytes())


def variables(content: bytes) -> list[str]:
    """Every variable of a file, `group/name`."""
    names: list[str] = []
    with h5py.File(io.BytesIO(content[:-TRAILER]), "r") as file:
        file.visititems(lambda name, o: names.append(name) if isinstance(o, h5py.Dataset) else None)
    return names


def shapes(content: bytes) -> Iterator[Forgery]:
    """Variables gone, of another type, or of another shape."""
    makers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "longer": lambda v: np.concatenate([v, v]),
        "shorter": lambda v: v[:-1],
        "transposed": lambda v: v.T.copy(),
        "deeper": lambda v: v[..., None],
        "as integers": lambda v: np.nan_to_num(v).astype(np.int16),
        "as floats": lambda v: v.astype(">f2"),
    }
    for name in variables(content):
        yield f"{name} gone", changed(content, without(name))
        yield f"{name} of other dimensions", changed(content, _other_dimensions(name))
        for what, make in makers.items():
            yield f"{name} {what}", changed(content, instead(name, _remade(content, name, make)))


def _other_dimensions(name: str) -> Change:
    def change(file: h5py.File) -> None:
        numbers = file[name].attrs.get("_Netcdf4Coordinates", np.array([0], np.int32))
        file[name].attrs["_Netcdf4Coordinates"] = np.asarray(numbers + 1, np.int32)

    return change


def _remade(content: bytes, name: str, make: Callable[[np.ndarray], np.ndarray]) -> Any:
    def create(file: h5py.File, place: str) -> h5py.Dataset:
        with h5py.File(io.BytesIO(content[:-TRAILER]), "r") as honest:
            before = honest[name][...]
        numbers = before.dtype.kind in "if" and before.shape
        return file.create_dataset(place, data=make(before) if numbers else np.zeros(3))

    return create


def values(content: bytes) -> Iterator[Forgery]:
    """One number of a variable changed."""
    for name in variables(content):
        for number in (np.nan, np.inf, -1e300, -1.0, 0.5, 1e18):
            yield f"{name} holds {number:g}", changed(content, _set(name, number))


def _set(name: str, number: float) -> Change:
    def change(file: h5py.File) -> None:
        variable = file[name]
        if variable.dtype.kind == "O":
            variable[0] = str(number)
        elif variable.shape:
            most = 2 ** (8 * variable.dtype.itemsize - 2)
            whole = int(np.clip(np.nan_to_num(number), -most, most))
            with np.errstate(over="ignore"):
                variable[(0,) * variable.ndim] = whole if variable.dtype.kind == "i" else number

    return change


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**18, -(10**18), 1e308, float("nan"), float("inf")),
    *("", "x", "a\nb", "x" * 20_000, "\ud800", [], {}, [[]], [1, "a"], {"a": 1}),
)


def stories(content: bytes) -> Iterator[Forgery]:
    """What the file says about itself, one field at a time: gone, or odd."""
    with h5py.File(io.BytesIO(content[:-TRAILER]), "r") as file:
        known = json.loads(file.attrs["provenance"])
    for path in _paths(known):
        yield f"{path} gone", _told(content, _deleted(known, path))
        for i, odd in enumerate(ODD):
            yield f"{path} is odd {i}", _told(content, _replaced(known, path, odd))
    yield "more fields", _told(content, known | {"more": 1})
    yield "a list", _told(content, [known])
    for text in ("", "{", "[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "\x01"):
        yield f"no JSON, {text[:5]!r}", changed(content, _say(text))
    for value in (b"\xff\xfe", 3, np.zeros(3)):
        yield f"no text, {value!r}", changed(content, _say(value))


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for key, inner in items:
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*above, key))


def _copy(known: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    copy = json.loads(json.dumps(known))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    return copy, inner


def _deleted(known: Any, path: tuple[Any, ...]) -> Any:
    copy, inner = _copy(known, path)
    del inner[path[-1]]
    return copy


def _replaced(known: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy, inner = _copy(known, path)
    inner[path[-1]] = value
    return copy


def _told(content: bytes, known: Any) -> bytes:
    return changed(content, _say(json.dumps(known)))


def _say(value: Any) -> Change:
    return lambda file: file.attrs.__setitem__("provenance", value)


def everything(content: bytes, damages: int, seed: int) -> list[Forgery]:
    """All kinds, in an order of the seed's."""
    kinds = (structures, shapes, values, stories)
    found = [forgery for kind in kinds for forgery in kind(content)]
    found += damaged(content, damages, seed)
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def tried(
    forged: bytes, folder: Path, load: Callable[[Path], Any], uses: Sequence[Callable[[Any], Any]]
) -> bool:
    """Whether a forgery is read, and then used in every way; whatever else is raised than
    InputError, or in more than one line, is a finding."""
    path = folder / "forged.nc"
    path.write_bytes(forged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recording = _one_line(load, path)
        if recording is None:
            return False
        for use in (*uses, repr, lambda r: r.description, lambda r: r.save(folder / "again.nc")):
            _one_line(use, recording)
    return True


def _one_line(use: Callable[[Any], Any], given: Any) -> Any:
    try:
        return use(given)
    except ValueError as error:
        if type(error).__name__ != "InputError" or "\n" in str(error):
            raise
        return None
