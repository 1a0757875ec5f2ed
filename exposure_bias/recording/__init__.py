"""What a run leaves behind: sums by stream, step and group, and where they came from; no torch.

One netCDF file with a group for each stream:

    /data    the data's law: mean, variance, eigenvalues, eigenvectors; the images' own sums
    /forward at x_t ~ q(x_t | x_0)
    /chain   at the model's own states
    /teacher the teacher chain

Dimensions: step, group (of images, for the jackknife), the state's axes (channel, z, y, x, the last
ones of them), frequency, band, direction, pixel, cell, sample; kept and kept_step, of a few samples
kept for pictures. Every variable with a `step` dimension has
the coordinates timestep, alpha and sigma. `statistics/` says what each variable is. Two recordings
of different samples merge by adding sums and concatenating samples."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from exposure_bias import files
from exposure_bias.checking import check_arguments
from exposure_bias.clipping import UNCLIPPED, Clipping, Convention
from exposure_bias.errors import InputError, whole_number
from exposure_bias.files.netcdf import ROOT, Headers
from exposure_bias.recording import schema
from exposure_bias.results.storage import RECORDING, result_of, saved_files
from exposure_bias.results.tables import facts
from exposure_bias.run import UNKNOWN_GUIDANCE, Run, Start

SCHEMA = 3  # 1 and 2 had other noise and described a run in other words


@dataclass(frozen=True, eq=False)
class Recording:
    """The result of `record` or `observe`.

    streams: a dataset for each of data, forward, chain, teacher that was recorded. run: what
    defines the run. planned: how many samples it was to have; a finished run has them. made: how it
    came about."""

    streams: dict[str, xr.Dataset]
    run: Run
    planned: int
    made: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, stream: str) -> xr.Dataset:
        """One stream's dataset. Raises InputError if it was not recorded."""
        if stream not in self.streams and self.run.data.images == 0:
            raise InputError(
                f"this recording has no {stream} stream: it was observed without data, observe(…,"
                " data=…)"
            )
        if stream not in self.streams:
            raise InputError(
                f"this recording has no {stream} stream, only {', '.join(self.streams)}: record"
                f" again with streams=(…, {stream!r})"
            )
        return self.streams[stream]

    def __contains__(self, stream: str) -> bool:
        return stream in self.streams

    def __repr__(self) -> str:
        run = self.run
        return f"Recording({run.model.name}, {run.sampler}, {run.steps} steps, n={self.n})"

    def _repr_html_(self) -> str:
        """Show in a notebook what was run and what is kept."""
        words = {name.replace("_", " "): value for name, value in self.description.items()}
        kept = {
            f"{name} stream": f"{', '.join(f'{d} {size}' for d, size in stream.sizes.items())}"
            for name, stream in self.streams.items()
        }
        return facts("Recording", words | kept)

    @property
    def n(self) -> int:
        """Number of samples recorded."""
        return int(next(iter(self.streams.values()))["count"].sum())

    @property
    def paired(self) -> bool:
        """Whether each chain was started on its own x_0: chain and data compare image by image."""
        return self.run.paired

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the numbers came from, as JSON values: what stands in a file."""
        first = int(next(iter(self.streams.values()))["sample"].values.min(initial=0))
        return provenance(self.run, self.planned, self.n, first, self.made)

    @property
    def description(self) -> dict[str, str]:
        """What was measured, in words: attributes for a diagnostic's dataset."""
        return self.run.describe() | {"n": str(self.n)}

    @property
    def tree(self) -> xr.DataTree:
        """All streams as one tree."""
        return xr.DataTree.from_dict(
            {f"/{name}": dataset for name, dataset in self.streams.items()}
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one netCDF file, atomically.

        Raises InputError if it cannot be written; the old file survives.
        """
        files.write_groups(path, self.streams, self.provenance)


def provenance(run: Run, n: int, done: int, first: int, made: dict[str, Any]) -> dict[str, Any]:
    """What stands in a file beside the numbers.

    Of a run of `n` samples from number `first` on `done` are in."""
    return {
        "schema": SCHEMA,
        "kind": run.kind,
        "run": run.to_json(),
        "n": n,
        "done": done,
        "first": first,
        "made": made,
    }


def load(path: str | os.PathLike[str]) -> Any:
    """Read what this package wrote: a recording, or the result of any kind.

    Parameters
    ----------
    path
        A file, or a folder that a command with `-o` wrote. Of a folder with several results it is
        the first in the order of the report: a diagnosis before a budget before a recording.

    Returns
    -------
    A `Recording`, or for all other files the `xarray.Dataset` that the function of its name
    returned.

    Raises
    ------
    InputError
        If the file is missing, corrupt, unfinished or of an unknown schema.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> eb.record("digits", "digits", steps=5, n=32).save("recording.nc")
    >>> rec = eb.load("recording.nc")
    """
    check_arguments(load, locals())
    if os.path.isdir(path):
        held = saved_files(path)
        if not held:
            raise InputError(f"{path} holds no result: give a file, or a folder that -o wrote")
        path = next(iter(held.values()))
    groups, known = files.read_groups(path, _check_any)
    if _is_result(known):
        return result_of(path, groups, known)
    return _whole(path, _recording(path, groups, known))


def load_recording(path: str | os.PathLike[str]) -> Recording:
    """Read a recording, whole.

    Raises InputError if it is missing, corrupt, unfinished or of an unknown schema.
    """
    return _whole(path, load_partial(path))


def _whole(path: str | os.PathLike[str], recording: Recording) -> Recording:
    if recording.n < recording.planned:
        raise InputError(
            f"{path} holds {recording.n} of {recording.planned} samples: run the same record"
            " command again to finish it"
        )
    return recording


def _is_result(known: dict[str, Any]) -> bool:
    """Whether a file says that it holds a result and no recording."""
    kind = known.get("kind")
    return isinstance(kind, str) and kind != RECORDING and "run" not in known


def _check_any(known: dict[str, Any], headers: Headers) -> None:
    if not _is_result(known):
        _check(known, headers)


def load_partial(path: str | os.PathLike[str]) -> Recording:
    """Read a recording or the checkpoint of one.

    Raises InputError for whatever `schema` does not know."""
    return _recording(path, *files.read_groups(path, _check))


def _recording(
    path: str | os.PathLike[str], groups: dict[str, xr.Dataset], known: dict[str, Any]
) -> Recording:
    stated = _stated(known)
    streams = {name: dataset for name, dataset in groups.items() if name != ROOT}
    try:
        schema.check_values(stated.run, streams, stated.done)
    except InputError as error:
        raise InputError(f"cannot use {path}: {error}") from error
    return Recording(streams, stated.run, stated.planned, stated.made)


def _check(known: dict[str, Any], headers: Headers) -> None:
    schema.check_headers(_stated(known).run, headers)


class _Stated(NamedTuple):
    """What a file says of itself."""

    run: Run
    planned: int
    done: int
    made: dict[str, Any]


def _stated(known: dict[str, Any]) -> _Stated:
    """The provenance of a recording, read. Raises InputError if it is none."""
    number = known.get("schema")
    if number == 2:
        known = _converted(known)
    elif number != SCHEMA or known.get("kind") != RECORDING:
        kind = known.get("kind")
        found = (
            f"a recording of schema {number!r:.40}"
            if kind == RECORDING
            else f"no recording but {kind or 'another file'!r:.40}"
        )
        raise InputError(f"it is {found}: this version reads recordings of schema 2 and {SCHEMA}")
    made = known.get("made", {})
    if not isinstance(made, dict):
        raise InputError("it does not say how it was made")
    planned = whole_number(known.get("n"), "its number of samples")
    done = whole_number(known.get("done", planned), "its number of finished samples")
    whole_number(known.get("first", 0), "its first sample's number", 0)
    if done > planned:
        raise InputError(f"it holds {done} of {planned} samples")
    return _Stated(Run.from_json(known.get("run")), planned, done, made)


def merge(recordings: Sequence[Recording]) -> Recording:
    """One recording of all samples of several recordings of the same run.

    Raises InputError if there is none, if their runs differ (it names the settings), or if samples
    occur twice."""
    check_arguments(merge, locals())
    if not recordings:
        raise InputError("merge needs at least one recording")
    first = recordings[0]
    for other in recordings[1:]:
        first.run.refuse_differences(other.run, "recordings cannot be merged")
    ids = np.concatenate([next(iter(r.streams.values()))["sample"].values for r in recordings])
    if len(np.unique(ids)) < len(ids):
        raise InputError(
            f"recordings cannot be merged: {len(ids) - len(np.unique(ids))} samples occur more than"
            " once"
        )
    streams = {name: _add([r[name] for r in recordings]) for name in first.streams}
    return replace(first, streams=streams, planned=sum(r.planned for r in recordings))


def _add(datasets: list[xr.Dataset]) -> xr.Dataset:
    """Sums add, samples concatenate, constants (marked so) stay."""
    result = datasets[0].copy()
    samples = xr.concat([d[["sample", "image"]] for d in datasets], dim="sample")
    order = np.argsort(samples["sample"].values, kind="stable")
    result = result.drop_dims("sample") if "sample" in result.dims else result
    unshared = [name for name in result if any(name not in d for d in datasets)]  # pictures
    result = result.drop_vars(unshared)
    for name, variable in datasets[0].data_vars.items():
        if name in unshared:
            continue
        if "sample" in variable.dims:
            joined = np.concatenate([d[name].values for d in datasets])[order]
            result[name] = (variable.dims, joined)
        elif not variable.attrs.get("constant"):
            total = sum(d[name].values for d in datasets)
            result[name] = (variable.dims, total, variable.attrs, variable.encoding)
    return result.assign_coords(samples.isel(sample=order).coords)


def _converted(known: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a recording of schema 2 in the words of this one.

    Raises InputError if it has none.
    """
    try:
        old = known["run"]
        start = old["start"] if old["start"] in ("data", "noise") else Start.LEVEL.value
        guidance = old["model"].get("guidance")
        unknown = isinstance(guidance, str)
        run = {
            "model": old["model"] | {"guidance": None if unknown else guidance},
            "data": old["data"] | {"labels": old["labels"]},
            "schedule": old["schedule"],
            "parameterisation": old["path"],
            "levels": old["levels"],
            "sampler": old["sampler"],
            "exact_teacher": old["exact_teacher"],
            "spacing": {"scheduler": "sampler"}.get(old["grid"], old["grid"]),
            "refine": old.get("refine", 1),
            "start": start,
            "clip": _clip_of_words(old["clip"]),
            "seed": old["seed"],
            "streams": old["streams"],
            "spectra": old.get("spectra", []),
            "probe": old.get("probe"),
            "prior": 1.0 if old["path"] == "vp" else old["levels"][0][2],
            "guidance_unknown": unknown,
        }
        return {**known, "kind": RECORDING, "run": run}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError("this recording of schema 2 does not say how it was made") from error


def _clip_of_words(words: str) -> dict[str, Any]:
    """The clipping that schema 2 described in these words."""
    known = {
        "x0 unclipped": UNCLIPPED,
        "x0 clipped to [-1, 1], epsilon re-derived (guided-diffusion)": Clipping(
            Convention.REDERIVE
        ),
        "x0 clipped to [-1, 1], epsilon kept (diffusers' DDIM)": Clipping(Convention.KEEP_EPSILON),
    }
    found = known.get(words, Clipping(Convention.LOOP))
    return {"convention": found.convention.value, "bound": found.bound}


__all__ = [
    "RECORDING",
    "SCHEMA",
    "UNKNOWN_GUIDANCE",
    "Recording",
    "load",
    "load_partial",
    "load_recording",
    "merge",
]
