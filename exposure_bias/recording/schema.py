"""What a recording's file must hold. No torch here.

`check_headers` looks at every variable's name, dimensions, type and size before any values are
read, `check_values` at what the values must agree on: levels and samples with the run, counts with
the samples, all of them finite. A checksum says that a file is whole, not who wrote it."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.files.netcdf import ROOT, Header, Headers
from exposure_bias.jackknife import GROUPS, Groups
from exposure_bias.run import Run, Stream
from exposure_bias.states import axes_of, dimensions
from exposure_bias.statistics.bands import COMPONENTS
from exposure_bias.statistics.histogram import BINS

PICTURE_AXES = ("kept", "kept_step", "picture_channel", "picture_y", "picture_x")
# Every variable's dimensions; * stands for the state's axes.
POWER = "step group channel"
DIMENSIONS = {
    r"count": "group",
    r"(state|prediction|error)_(sum|square|cross)": "step *",
    r"kept_(state|prediction|truth)": "kept kept_step *",
    r"picture_(state|prediction|truth)": " ".join(PICTURE_AXES),
    r"kept_step": "kept_step",
    r"state_cell_(sum|square)": "step group cell",
    r"(state|prediction|error)_group_(sum|square|cross)": "step group pixel",
    r"state_projection_(sum|square|cross)": "step group direction",
    r"(state|prediction)_spectrum": f"{POWER} frequency",
    r"(state|prediction)_high": POWER,
    r"state_(fft|hann)": f"{POWER} fourier_frequency",
    r"state_plane": f"{POWER} plane_frequency",
    r"state_frames": f"{POWER} frames_frequency",
    r"state_(fft|hann|plane|frames)_high": POWER,
    r"state_luma": "step group component frequency",
    r"state_luma_high": "step group component",
    r"state_haar": f"{POWER} band",
    r"error_histogram": "step histogram_pixel bin",
    r"(epsilon_norm|outside|prediction_error|error_norm)": "sample step",
    r"mean|variance": "*",
    r"eigenvalue": "mode",
    r"eigenvector": "mode *",
    r"timestep|alpha|sigma|noise_power": "step",
    r"image": "sample",
    r"step": "step",
    r"sample": "sample",
    r"pixel": "pixel",
    r"histogram_pixel": "histogram_pixel",
    r"band": "band",
    r"band_modes": "band",
    r"frequency(_modes)?": "frequency",
    r"fourier_frequency(_modes)?": "fourier_frequency",
    r"plane_frequency(_modes)?": "plane_frequency",
    r"frames_frequency(_modes)?": "frames_frequency",
}
DTYPES = {
    r"step|sample|image|pixel|histogram_pixel|kept_step": ("int64",),
    r"band": ("object",),
    r"kept_(state|prediction|truth)": ("float32", "float16"),
    r"picture_(state|prediction|truth)": ("uint8",),
    r".*": ("float64", "float32"),
}
COORDINATES = ("step", "sample", "image", "timestep", "alpha", "sigma", "pixel")
LAW = ("mean", "variance", "eigenvalue", "eigenvector")
CALLS = ("forward", "chain")
DATA = "data"
ROUND_OFF, TINY = 1 + 1e-6, 1e-200
# What is a sum of squares, or a norm.
POSITIVE = re.compile(
    r".*_(square|spectrum|haar|high|fft|hann|luma|plane|frames|histogram)|variance|eigenvalue"
    r"|.*_modes|noise_power|epsilon_norm|outside|prediction_error|error_norm"
)


def check_headers(run: Run, headers: Headers) -> None:
    """Raise InputError unless these are the variables of this run's recording.

    It names the variable."""
    streams = {str(stream) for stream in run.streams}
    found = set(headers) - {ROOT}
    if headers[ROOT]:
        raise InputError(f"{next(iter(headers[ROOT]))} stands outside all streams")
    if found - {DATA} != streams or (DATA not in found and run.data.images > 0):
        raise InputError(f"it holds {', '.join(sorted(found)) or 'no streams'}, not its run's")
    shapes = {name: _state_shape(headers[name], name) for name in sorted(found)}
    if len(set(shapes.values())) > 1:
        raise InputError("its streams are not of one shape of states")
    for name in sorted(found):
        _check_stream(run, name, headers[name])


def _state_shape(stream: Mapping[str, Header], name: str) -> tuple[int, ...]:
    sums = stream.get("state_sum")
    axes = axes_of(sums.dims) if sums is not None else ()
    shape = sums.shape[1:] if sums is not None else ()
    if sums is None or sums.dims != ("step", *axes) or not 1 <= len(axes) <= 4:
        raise InputError(f"{name} has no sums of states")
    if axes != dimensions(shape) or 0 in shape:
        raise InputError(f"{name}'s states have the shape {shape}")
    return shape


def _check_stream(run: Run, name: str, stream: Mapping[str, Header]) -> None:
    axes = axes_of(stream["state_sum"].dims)
    strangers = "statistics" in run.options
    for variable, header in stream.items():
        known = _known(variable)
        if known is None and not strangers:
            raise InputError(f"{name} holds an unknown variable, {variable}")
        if known is not None and header.dims != _dims(known, axes):
            raise InputError(f"{name}'s {variable} has the dimensions {', '.join(header.dims)}")
        allowed = next(d for name, d in DTYPES.items() if re.fullmatch(name, variable))
        if known is not None and header.dtype.name not in allowed:
            raise InputError(f"{name}'s {variable} is {header.dtype}")
    required = {*_required(run, name, stream), *_companions(run, name, stream)}
    missing = sorted(required - set(stream))
    if missing:
        raise InputError(f"{name} lacks {', '.join(missing)[:80]}")
    _check_sizes(run, name, stream)


def _known(variable: str) -> str | None:
    return next((d for name, d in DIMENSIONS.items() if re.fullmatch(name, variable)), None)


def _dims(known: str, axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dim for word in known.split() for dim in (axes if word == "*" else (word,)))


def _required(run: Run, name: str, stream: Mapping[str, Header]) -> Iterator[str]:
    """What every recording of this run has in a stream."""
    space = len(stream["state_sum"].dims) > 2
    calls, errs = name in CALLS, name == Stream.CHAIN and run.paired
    yield from ("count", *COORDINATES)
    for field in ("state", *(["error"] if errs else [])):
        crossed = field == "state" and _crossed(run, name)
        for part in ("sum", "square", *(["cross"] if crossed else [])):
            yield from (f"{field}_{part}", f"{field}_group_{part}")
    for field in ("state", *(["prediction"] if calls else [])) if space else ():
        yield from (f"{field}_spectrum", f"{field}_high")
    if space:
        yield from ("frequency", "frequency_modes", "state_haar", "band", "band_modes")
    if name == DATA:
        yield from LAW
    if calls:
        yield from ("epsilon_norm", "outside")
    if errs:
        yield from ("error_norm", "error_histogram", "histogram_pixel")
    if calls and (run.paired or name == Stream.FORWARD):
        yield "prediction_error"
    yield from (f"state_{basis}" for basis in run.spectra if name not in (DATA, Stream.TEACHER))


def _crossed(run: Run, name: str) -> bool:
    """Whether a stream's states are multiplied by the images that they started from."""
    return run.paired and name in (Stream.CHAIN, Stream.TEACHER)


def _companions(run: Run, name: str, stream: Mapping[str, Header]) -> Iterator[str]:
    """What stands only beside something else that a stream has."""
    for variable, header in stream.items():
        if _known(variable) is None:
            continue
        field, _, part = variable.rpartition("_")
        if part in ("sum", "square", "cross"):
            yield from (f"{field}_sum", f"{field}_square")
        places = [dim for dim in header.dims if _known(dim) == dim]
        yield from places
        for frequency in (dim for dim in places if dim.endswith("frequency")):
            yield f"{frequency}_modes"
            if variable.startswith(("state_", "prediction_")):
                yield f"{variable.removesuffix('_spectrum')}_high"
    if "state_projection_sum" in stream and _crossed(run, name):
        yield "state_projection_cross"


def _check_sizes(run: Run, name: str, stream: Mapping[str, Header]) -> None:
    sizes = {d: n for h in stream.values() for d, n in zip(h.dims, h.shape, strict=True)}
    size = int(np.prod(_state_shape(stream, name)))
    steps = 1 if name == DATA else run.steps + 1
    allowed = {
        "group": (GROUPS, GROUPS),
        "bin": (BINS, BINS),
        "component": (len(COMPONENTS), len(COMPONENTS)),
        "step": (1, steps),
        "pixel": (1, size),
        "cell": (1, size),
        "kept": (1, 2**20),
        "kept_step": (1, steps),
        "picture_channel": (1, 3),
        "picture_y": (1, 2**12),
        "picture_x": (1, 2**12),
        "histogram_pixel": (1, size),
        "direction": (1, size),
        "mode": (0, size),
        "sample": (1, 2**40),
    }
    for dim, (least, most) in allowed.items():
        if dim in sizes and not least <= sizes[dim] <= most:
            raise InputError(f"{name} has {sizes[dim]} along {dim}")


def check_values(run: Run, streams: Mapping[str, xr.Dataset], done: int) -> None:
    """Raise InputError, naming the variable, where values contradict each other or the run."""
    first = next(iter(streams.values()))
    for name, stream in streams.items():
        _check_numbers(name, stream)
        _check_squares(name, stream)
        _check_levels(run, name, stream)
        for coordinate in ("sample", "image"):
            if not np.array_equal(stream.variables[coordinate], first.variables[coordinate]):
                raise InputError(f"its streams are of different samples ({coordinate})")
    _check_samples(run, first, done)
    count = Groups(first["image"].values).count
    for name, stream in streams.items():
        if not np.array_equal(stream.variables["count"], count):
            raise InputError(f"{name}'s count is not that of its samples")
        _check_places(name, stream)


def _check_numbers(name: str, stream: xr.Dataset) -> None:
    for variable, values in stream.variables.items():
        kept_by_sample = values.dims[:1] in (("sample",), ("kept",))  # NaN where nothing was said
        numbers = values.values
        if numbers.dtype.kind != "f" or _known(str(variable)) is None:
            continue
        wrong = np.isinf(numbers) if kept_by_sample else ~np.isfinite(numbers)
        if wrong.any():
            raise InputError(f"{name}'s {variable} holds NaN or infinity")
        if POSITIVE.fullmatch(str(variable)) and numbers.size and np.nanmin(numbers, initial=0) < 0:
            raise InputError(f"{name}'s {variable} is negative somewhere")


def _check_squares(name: str, stream: xr.Dataset) -> None:
    """(Σ d)² ≤ n Σ d², or the two are not of the same numbers."""
    known = stream.variables
    count = known["count"].values
    for variable in known:
        squares = known.get(f"{str(variable).removesuffix('_sum')}_square")
        if squares is None or not str(variable).endswith("_sum"):
            continue
        if "cell" in squares.dims:  # a cell's sum is under random signs
            continue
        samples = count[:, None] if "group" in squares.dims else count.sum()
        with np.errstate(over="ignore"):
            beyond = known[variable].values ** 2 > ROUND_OFF * samples * squares.values + TINY
        if beyond.any():
            raise InputError(f"{name}'s {variable} is more than its squares allow")


def _check_levels(run: Run, name: str, stream: xr.Dataset) -> None:
    steps = stream["step"].values
    if name == DATA:
        return
    rising = bool((np.diff(steps) > 0).all())
    if not rising or steps[0] < 0 or steps[-1] != run.steps:
        raise InputError(f"{name}'s steps are not those of its run")
    levels = np.array(run.levels)[steps]
    for column, coordinate in enumerate(("timestep", "alpha", "sigma")):
        if not np.array_equal(stream.variables[coordinate].values, levels[:, column]):
            raise InputError(f"{name}'s {coordinate} is not that of its run")


def _check_samples(run: Run, stream: xr.Dataset, done: int) -> None:
    samples, images = stream["sample"].values, stream["image"].values
    if len(samples) != done or len(np.unique(samples)) != done or samples.min() < 0:
        raise InputError(f"it has {len(np.unique(samples))} samples and says {done}")
    most = run.data.images or np.inf
    if images.min() < 0 or images.max() >= most:
        raise InputError("it has images that its data do not have")


def _check_places(name: str, stream: xr.Dataset) -> None:
    for coordinate in ("pixel", "histogram_pixel"):
        if coordinate in stream.variables and not _are_places(stream, coordinate):
            raise InputError(f"{name}'s {coordinate} are no places in a state")


def _are_places(stream: xr.Dataset, coordinate: str) -> bool:
    places = stream[coordinate].values
    size = stream["state_sum"][0].size
    return bool((np.diff(places) > 0).all()) and places[0] >= 0 and places[-1] < size
