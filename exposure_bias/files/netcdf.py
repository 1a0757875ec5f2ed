"""Labelled data as the bytes of a netCDF-4 file and back, by h5py alone. No torch here.

netCDF-4 is HDF5 with conventions, which any netCDF tool reads: a dimension is a dataset that is an
HDF5 dimension scale, with a number (`_Netcdf4Dimid`); a variable names its dimensions by reference
(`DIMENSION_LIST`) and by number (`_Netcdf4Coordinates`); `coordinates` names the variables that are
coordinates (CF 1.11, 5.7). A variable whose encoding has a scale_factor is stored as multiples of
it in two bytes each (CF 1.11, 8.1). xarray's own writer does the same in ten times the time.

What is read is hostile until it has been looked at. HDF5 can name other files (external storage,
virtual datasets, soft and external links), load filters from the disk, promise terabytes in a
header and point at itself; nothing of that is followed. A file holds variables and at most one
floor of groups, every value of them within it."""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import h5py
import numpy as np
import xarray as xr
from h5py import h5a, h5d, h5ds, h5f, h5g, h5l, h5o, h5p, h5s, h5t
from numpy.typing import NDArray

from exposure_bias.errors import InputError

NOT_A_VARIABLE = "This is a netCDF dimension but not a netCDF variable."
TEXT = h5py.string_dtype()
# HDF5's own, netCDF's and CF's: not a variable's attributes for whoever reads it.
OURS = {"DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid", "_NCProperties"}
OURS |= {"_Netcdf4Coordinates", "_FillValue", "coordinates", "dtype", "scale_factor"}
MOST_NAMES, MOST_ATTRIBUTES, MOST_AXES = 2000, 200, 8
MOST_TEXTS, MOST_NUMBERS = 16, 1000
ON_DISK = 16  # bytes of a text's place in a variable
ROOT = ""
HEAP = b"GCOL"
# netCDF has neither of these: its library crashes over a half.
STORED_AS: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(bool): np.dtype(np.int8),
    np.dtype(np.float16): np.dtype(np.float32),
}
SCALED = np.dtype(np.int16)
MOST_SCALED, MISSING = 32767, -32768

Values = NDArray[Any]
Spend = Callable[[int, str], None]  # so many bytes are about to be read, and of what


class Header(NamedTuple):
    """What a file says about a variable before its values are read."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: dict[str, Any]
    coordinate: bool
    scale: float | None = None  # of whose multiples it is stored


Headers = dict[str, dict[str, Header]]  # by group, the root's name empty, and by variable


# Writing ------------------------------------------------------------------------------------------


def packed(groups: Mapping[str, xr.Dataset]) -> bytes:
    """Datasets by group, the root's name empty, as the bytes of a netCDF file."""
    with h5py.File(_memory()) as file:
        file.attrs["_NCProperties"] = f"version=2,h5py={h5py.__version__}"
        scales = _Scales()
        for name, dataset in groups.items():
            group = h5py.Group(_group(file, name)) if name else file
            _write_group(group, dataset, scales)
        scales.close()
        file.flush()
        return bytes(file.id.get_file_image())


# netCDF numbers dimensions and variables in the order in which they were made.
IN_ORDER = h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED


def _memory() -> Any:
    """A new file that is never on a disk."""
    how, where = h5p.create(h5p.FILE_CREATE), h5p.create(h5p.FILE_ACCESS)
    how.set_link_creation_order(IN_ORDER)
    where.set_fapl_core(backing_store=False)
    return h5f.create(b"memory", h5f.ACC_TRUNC, how, where)


def _group(file: h5py.File, name: str) -> Any:
    how = h5p.create(h5p.GROUP_CREATE)
    how.set_link_creation_order(IN_ORDER)
    return h5g.create(file.id, name.encode(), gcpl=how)


class _Scales:
    """The dimensions of a file: their numbers, and which variables' axes lie along them."""

    def __init__(self) -> None:
        self.count = 0
        self.used: list[tuple[h5py.Dataset, list[tuple[Any, int]]]] = []

    def add(self, scale: h5py.Dataset, name: str) -> "_Scale":
        scale.attrs.create("_Netcdf4Dimid", np.int32(self.count))
        h5ds.set_scale(scale.id, name.encode())
        self.used.append((scale, []))
        self.count += 1
        return _Scale(self.count - 1, scale.ref, self.used[-1][1])

    def close(self) -> None:
        """Write which variables use each dimension: HDF5's tools want it from both sides."""
        kind = np.dtype([("dataset", h5py.ref_dtype), ("dimension", np.uint32)])
        for scale, used in self.used:
            if used:
                scale.attrs.create("REFERENCE_LIST", np.array(used, dtype=kind), dtype=kind)


class _Scale(NamedTuple):
    number: int
    reference: Any
    used: list[tuple[Any, int]]


def _write_group(group: h5py.Group, dataset: xr.Dataset, all_: _Scales) -> None:
    written, scales = {}, {}
    for dim, size in dataset.sizes.items():
        own = dim in dataset.variables
        if own:
            scale = _written(group, str(dim), dataset.variables[dim])
        else:
            scale = group.create_dataset(str(dim), (size,), ">f4")
        scales[dim] = all_.add(scale, str(dim) if own else f"{NOT_A_VARIABLE}{size:10d}")
    for name, variable in dataset.variables.items():
        if name not in dataset.sizes:
            written[name] = _written(group, str(name), variable)
    for name, variable in dataset.variables.items():
        if variable.dims and name not in dataset.sizes:
            _attach(written[name], [scales[dim] for dim in variable.dims])
    others = [str(name) for name in dataset.coords if name not in dataset.sizes]
    if others:
        group.attrs["coordinates"] = " ".join(others)
    _write_attributes(group, dataset.attrs)


def _written(group: h5py.Group, name: str, variable: xr.Variable) -> h5py.Dataset:
    values = np.asarray(variable.values)
    if values.dtype.kind in "UO":
        stored = group.create_dataset(name, data=values.astype(object), dtype=TEXT)
    elif "scale_factor" in variable.encoding:
        scale = np.float32(variable.encoding["scale_factor"])
        stored = group.create_dataset(name, data=_multiples(values, scale))
        stored.attrs["scale_factor"] = scale
        stored.attrs["_FillValue"] = SCALED.type(MISSING)
    elif values.dtype in STORED_AS:
        stored = group.create_dataset(name, data=values.astype(STORED_AS[values.dtype]))
        stored.attrs["dtype"] = values.dtype.name
    else:
        stored = group.create_dataset(name, data=values)
    _write_attributes(stored, variable.attrs)
    return stored


def _multiples(values: Values, scale: np.float32) -> Values:
    """The nearest multiples of `scale`, as far as int16 goes."""
    nearest = np.clip(np.round(values / scale), -MOST_SCALED, MOST_SCALED)
    return np.where(np.isnan(nearest), MISSING, nearest).astype(SCALED)


def _write_attributes(where: h5py.HLObject, attrs: Mapping[Any, Any]) -> None:
    """Names of files may hold bytes that are no text; they are escaped, as JSON does too."""
    for name, value in attrs.items():
        text = isinstance(value, str)
        where.attrs[str(name)] = (
            value.encode("utf-8", "backslashreplace").decode() if text else value
        )


def _attach(variable: h5py.Dataset, scales: list[_Scale]) -> None:
    """Name a variable's dimensions, by number and by reference."""
    lists = np.empty(len(scales), dtype=object)
    for axis, scale in enumerate(scales):
        lists[axis] = np.array([scale.reference], dtype=h5py.ref_dtype)
        scale.used.append((variable.ref, axis))
    numbers = np.array([scale.number for scale in scales], dtype=np.int32)
    variable.attrs.create("_Netcdf4Coordinates", numbers)
    variable.attrs.create("DIMENSION_LIST", lists, dtype=h5py.vlen_dtype(h5py.ref_dtype))


# Reading ------------------------------------------------------------------------------------------


class Stored:
    """A netCDF file in memory: what its headers say, and its values on request.

    attrs: the root's. Raises InputError, naming the variable, for whatever this package does not
    write."""

    def __init__(self, content: bytes) -> None:
        self._budget = len(content)
        _check_heaps(content)
        try:
            self._file = h5f.open_file_image(content)
            self._groups = dict(self._found())
            self.attrs = self._groups[ROOT].attrs
        except InputError:
            raise
        except Exception as error:  # h5py raises a dozen kinds for a damaged file
            raise InputError(f"it is damaged within ({type(error).__name__})") from error

    @property
    def headers(self) -> Headers:
        """Every variable by group and name."""
        return {name: group.headers for name, group in self._groups.items()}

    def datasets(self) -> dict[str, xr.Dataset]:
        """The values by group, all read into memory."""
        try:
            return {name: group.dataset() for name, group in self._groups.items()}
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"it is damaged within ({type(error).__name__})") from error

    def _found(self) -> "Iterator[tuple[str, _Group]]":
        root = h5g.open(self._file, b"/")
        children: list[tuple[str, Any]] = []
        yield ROOT, _Group(ROOT, root, children, self._spend)
        for name, child in children:
            deeper: list[tuple[str, Any]] = []
            yield name, _Group(name, child, deeper, self._spend)
            if deeper:
                raise InputError(f"the group {name} has groups in it")

    def _spend(self, size: int, what: str) -> None:
        """What is read must be there: all together no more than the file holds."""
        self._budget -= size
        if self._budget < 0:
            raise InputError(f"{what} and those before it claim more bytes than the file has")


def _check_heaps(content: bytes) -> None:
    """Raise InputError for a heap of texts whose free space is said to have no size.

    HDF5 would walk over it for ever. See *Disk Format: Level 1E - Global Heap* of its file format.
    """
    start, seen = content.find(HEAP), set[int]()
    while start >= 0:
        size = int.from_bytes(content[start + 8 : start + 16], "little")
        place, end = start + 16, min(start + size, len(content))
        while place + 16 <= end and place not in seen:
            seen.add(place)
            index = int.from_bytes(content[place : place + 2], "little")
            length = int.from_bytes(content[place + 8 : place + 16], "little")
            if index == 0 and length < 16:
                raise InputError("it is damaged within (a heap without an end)")
            place += length if index == 0 else 16 + -(-length // 8) * 8
        start = content.find(HEAP, start + 4)


class _Group:
    """A group's variables and dimensions; its groups are appended to `children`."""

    def __init__(self, name: str, id_: Any, children: list[tuple[str, Any]], spend: Spend) -> None:
        self.id, self.name = id_, name
        self.stored: dict[str, Any] = {}
        if id_.get_num_objs() > MOST_NAMES:
            raise InputError(f"{name or 'it'} has more than {MOST_NAMES} variables")
        for link in id_:
            text = _text(link)
            if id_.links.get_info(link).type != h5l.TYPE_HARD:
                raise InputError(f"{text} is a link to somewhere else")
            found = h5o.open(id_, link)
            if isinstance(found, h5g.GroupID):
                children.append((text, found))
            elif isinstance(found, h5d.DatasetID):
                self.stored[text] = found
            else:
                raise InputError(f"{text} is neither a variable nor a group")
        self.spend = spend
        self.headers = self._headers()
        self.attrs = _attributes(id_, name or "the file", spend)

    def _headers(self) -> dict[str, Header]:
        shapes = {name: _shape(stored, name) for name, stored in self.stored.items()}
        numbers = {name: _number(stored) for name, stored in self.stored.items()}
        dims = {number: name for name, number in numbers.items() if number is not None}
        lone = {
            name for name in dims.values() if _is_no_variable(self.stored[name], name, self.spend)
        }
        coordinates = set(_words(self.id, self.name or "the file", self.spend))
        for name, stored in self.stored.items():
            coordinates.update(_words(stored, name, self.spend))
        headers = {}
        for name, stored in self.stored.items():
            if name in lone:
                continue
            dtype = _dtype(stored, shapes[name], name, self.spend)
            own = (name,) if numbers[name] is not None and len(shapes[name]) == 1 else None
            along = own or tuple(
                dims.get(number, "") for number in _numbers(stored, "_Netcdf4Coordinates")
            )
            lengths = tuple(shapes[dim][0] if dim in shapes else -1 for dim in along)
            if lengths != shapes[name]:
                raise InputError(f"the dimensions of {name} are not those of its values")
            attrs = _attributes(stored, name, self.spend)
            is_coordinate = own is not None or name in coordinates
            meant, scale = _meant(stored, dtype, name, self.spend)
            headers[name] = Header(along, shapes[name], meant, attrs, is_coordinate, scale)
        return headers

    def dataset(self) -> xr.Dataset:
        """The values."""
        variables: dict[bool, dict[str, xr.Variable]] = {False: {}, True: {}}
        for name, header in self.headers.items():
            values = _values(self.stored[name], header, name, self.spend)
            encoding = {} if header.scale is None else {"scale_factor": header.scale}
            made = xr.Variable(header.dims, values, header.attrs, encoding)
            variables[header.coordinate][name] = made
        return xr.Dataset(variables[False], variables[True], self.attrs)


def _text(name: bytes) -> str:
    text = name.decode("utf-8", errors="strict")
    if len(text) > 200:
        raise InputError("it has a variable whose name is over 200 characters long")
    return text


def _shape(stored: Any, name: str) -> tuple[int, ...]:
    space = stored.get_space()
    if space.get_simple_extent_type() not in (h5s.SIMPLE, h5s.SCALAR):
        raise InputError(f"{name} has no shape")
    shape: tuple[int, ...] = space.shape
    if len(shape) > MOST_AXES:
        raise InputError(f"{name} has more than {MOST_AXES} axes")
    return shape


def _dtype(stored: Any, shape: tuple[int, ...], name: str, spend: Spend) -> np.dtype[Any]:
    """The type of a variable whose values lie within the file, uncompressed."""
    how = stored.get_create_plist()
    if how.get_layout() not in (h5d.CONTIGUOUS, h5d.COMPACT) or how.get_external_count():
        raise InputError(f"{name} is not stored whole in the file itself")
    kind = stored.get_type()
    dtype = kind.dtype
    if not isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID) and not _is_text(kind):
        raise InputError(f"{name} holds neither numbers nor texts")
    size = prod(shape) * (ON_DISK if _is_text(kind) else kind.get_size())
    if size and stored.get_storage_size() != size:
        raise InputError(f"the values of {name} are not in the file")
    spend(size, name)
    return dtype


def _is_text(kind: Any) -> bool:
    return isinstance(kind, h5t.TypeStringID) and bool(kind.is_variable_str())


def _values(stored: Any, header: Header, name: str, spend: Spend) -> Values:
    if header.dtype.kind == "O":
        return _texts(stored, header.shape, name, spend)
    kept = np.dtype(np.int8) if header.dtype == bool else header.dtype.newbyteorder("=")
    kept = kept if header.scale is None else SCALED
    values = np.empty(header.shape, kept)
    if values.size:
        stored.read(h5s.ALL, h5s.ALL, values)  # HDF5 converts what it finds
    if header.scale is not None:
        return np.where(values == MISSING, np.float32(np.nan), values * np.float32(header.scale))
    return values.astype(bool) if header.dtype == bool else values


def _meant(
    stored: Any, dtype: np.dtype[Any], name: str, spend: Spend
) -> tuple[np.dtype[Any], float | None]:
    """What a variable was before it was written, and of what it is stored as multiples."""
    if not h5a.exists(stored, b"scale_factor"):
        return _named(stored, dtype, name, spend), None
    scale = _attribute(stored, "scale_factor", name, spend)
    if dtype != SCALED or not isinstance(scale, np.floating) or not 0 < scale < np.inf:
        raise InputError(f"{name} is not scaled as this package does it")
    return np.dtype(np.float32), float(scale)


def _named(stored: Any, dtype: np.dtype[Any], name: str, spend: Spend) -> np.dtype[Any]:
    """The type that an attribute names, where it stands for the one on disk."""
    if not h5a.exists(stored, b"dtype"):
        return dtype
    said = _attribute(stored, "dtype", name, spend)
    return next((d for d, s in STORED_AS.items() if (d.name, s) == (said, dtype)), dtype)


def _texts(stored: Any, shape: tuple[int, ...], name: str, spend: Spend) -> Values:
    """Texts one by one: many may point at one and the same, and be too much together."""
    dataset, texts = h5py.Dataset(stored), []
    for index in np.ndindex(*shape):
        value = dataset[index]
        texts.append(value.decode() if isinstance(value, bytes) else str(value))
        spend(len(value), name)
    return np.array(texts, dtype=str).reshape(shape)


def _attributes(where: Any, name: str, spend: Spend) -> dict[str, Any]:
    """A group's or variable's own attributes: numbers, lists of them, and texts."""
    count = h5a.get_num_attrs(where)
    if count > MOST_ATTRIBUTES:
        raise InputError(f"{name} has more than {MOST_ATTRIBUTES} attributes")
    found = {}
    for index in range(count):
        text = _text(h5a.open(where, index=index).name)
        if text not in OURS:
            found[text] = _attribute(where, text, name, spend)
    return found


def _attribute(where: Any, name: str, of: str, spend: Spend) -> Any:
    """One attribute's value, looked at before it is read."""
    attribute = h5a.open(where, name.encode())
    kind, shape = attribute.get_type(), attribute.shape
    texts = isinstance(kind, h5t.TypeStringID)
    numbers = isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID)
    if not (texts or numbers) or prod(shape) > (MOST_TEXTS if texts else MOST_NUMBERS):
        raise InputError(f"the attribute {name} of {of} is neither a few numbers nor a text")
    holder = (h5py.Dataset if isinstance(where, h5d.DatasetID) else h5py.Group)(where)
    value = holder.attrs[name]
    if not texts:
        return value.ravel()[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    found = [v.decode() if isinstance(v, bytes) else str(v) for v in np.ravel(value).tolist()]
    spend(sum(map(len, found)), f"the attribute {name} of {of}")
    return found[0] if len(found) == 1 else found


def _number(stored: Any) -> int | None:
    """A dimension's number; None of what is no dimension, though writers may number it too."""
    numbers = _numbers(stored, "_Netcdf4Dimid")
    return numbers[0] if numbers and h5a.exists(stored, b"CLASS") else None


def _numbers(where: Any, name: str) -> tuple[int, ...]:
    """Whole numbers of netCDF's own; none where there is no such attribute."""
    if not h5a.exists(where, name.encode()):
        return ()
    attribute = h5a.open(where, name.encode())
    whole = isinstance(attribute.get_type(), h5t.TypeIntegerID)
    if not whole or prod(attribute.shape) > MOST_AXES:
        raise InputError(f"{name} is not what netCDF says")
    values = np.zeros(attribute.shape, np.int64)
    attribute.read(values)
    return tuple(values.ravel().tolist())


def _words(where: Any, name: str, spend: Spend) -> list[str]:
    """The names in `coordinates`."""
    if not h5a.exists(where, b"coordinates"):
        return []
    return str(_attribute(where, "coordinates", name, spend)).split(" ")


def _is_no_variable(stored: Any, name: str, spend: Spend) -> bool:
    """Whether a dataset is there for a dimension's length alone."""
    if not h5a.exists(stored, b"NAME"):
        return False
    return str(_attribute(stored, "NAME", name, spend)).startswith(NOT_A_VARIABLE)
