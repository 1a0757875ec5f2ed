"""What a run leaves behind: sums by stream, step and group, and where they came from. No torch here.

One netCDF file with a group for each stream:

    /data               the data's law: mean, variance, eigenvalues, eigenvectors; and the recorded images' own sums
    /forward            at x_t ~ q(x_t | x_0)
    /chain              at the model's own states
    /teacher            the teacher chain

Dimensions: step, group (of images, for the jackknife), channel, y, x, frequency, band, direction, pixel, sample.
Every variable with a `step` dimension has the coordinates timestep, alpha and sigma. `statistics/` says what each
variable is. Two recordings of different samples merge by adding sums and concatenating samples.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias import files
from exposure_bias.errors import InputError

SCHEMA = 2  # 1 had other noise
# A guided field is no denoiser of q, so that what its chain shows is not exposure bias alone.
GUIDED_GAP = "guidance + bias"
PROBE, PROBE_FLOOR = "probe", 1e-3


@dataclass(frozen=True, eq=False)
class Recording:
    """The result of `record` or `observe`.

    streams: a dataset for each of data, forward, chain, teacher that was recorded. provenance: JSON values; its `run`
    is what defines the run (model, data, sampler, levels, seed, …), the rest is how it came about.
    """

    streams: dict[str, xr.Dataset]
    provenance: dict[str, Any]

    def __getitem__(self, stream: str) -> xr.Dataset:
        """One stream's dataset. Raises InputError if it was not recorded."""
        if stream not in self.streams and self.provenance["run"]["data"]["images"] == 0:
            raise InputError(f"this recording has no {stream} stream: it was observed without data, observe(…, data=…)")
        if stream not in self.streams:
            raise InputError(
                f"this recording has no {stream} stream, only {', '.join(self.streams)}: record again with "
                f"streams=(…, {stream!r})"
            )
        return self.streams[stream]

    def __contains__(self, stream: str) -> bool:
        return stream in self.streams

    def __repr__(self) -> str:
        run = self.provenance["run"]
        return f"Recording({run['model']['name']}, {run['sampler']}, {run['steps']} steps, n={self.n})"

    @property
    def n(self) -> int:
        """Number of samples recorded."""
        return int(next(iter(self.streams.values()))["count"].sum())

    @property
    def paired(self) -> bool:
        """Whether each chain was started on its own x_0, so that chain and data can be compared image by image."""
        return bool(self.provenance["run"]["start"] != "noise")

    @property
    def description(self) -> dict[str, str]:
        """What was measured, in words: attributes for a diagnostic's dataset."""
        run = self.provenance["run"]
        described = {
            "model": run["model"]["name"],
            "data": " ".join(filter(None, (run["data"]["name"], run["data"]["split"]))),
            "sampler": run["sampler"],
            "steps": str(run["steps"]),
            "start": str(run["start"]),
            "clip": run["clip"],
            "n": str(self.n),
            "seed": str(run["seed"]),
        }
        described |= guidance_attributes(run["model"].get("guidance"))
        return described | ({"note": run["data"]["note"]} if run["data"]["note"] else {})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one netCDF file, atomically. Raises InputError if it cannot be written; the old file survives."""
        tree = xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in self.streams.items()})
        files.write_tree(path, tree, {"schema": SCHEMA, **self.provenance})


def is_guided(guidance: float | str | None) -> bool:
    """Whether a guidance scale (or words about an unknown one) makes another field than a denoiser of q.

    ε̂ = ε_∅ + w (ε_c − ε_∅) is the conditional denoiser at w = 1 and the unconditional one at w = 0.
    """
    return guidance not in (None, 0, 1)


def no_reference(guidance: float | str | None) -> str:
    """Why a guided model has no reference."""
    return f"guidance {guidance} aims at another distribution than the data's: there is no excess"


def guidance_attributes(guidance: float | str | None) -> dict[str, str]:
    """What a dataset's attributes say of guidance."""
    said = {} if guidance is None else {"guidance": str(guidance)}
    return said | ({"gap": GUIDED_GAP} if is_guided(guidance) else {})


def load(path: str | os.PathLike[str]) -> Recording:
    """Read a recording, whole. Raises InputError if it is missing, corrupt, unfinished or of another schema."""
    recording = load_partial(path)
    done, planned = recording.provenance["done"], recording.provenance["n"]
    if done < planned:
        raise InputError(f"{path} holds {done} of {planned} samples: run the same record command again to finish it")
    return recording


def load_partial(path: str | os.PathLike[str]) -> Recording:
    """Read a recording or the checkpoint of one."""
    tree, provenance = files.read_tree(path)
    schema = provenance.pop("schema", None)
    if schema != SCHEMA:
        found = "no recording" if schema is None else f"a recording of schema {schema}"
        raise InputError(f"{path} is {found}: this version reads recordings of schema {SCHEMA}")
    return Recording({name: node.to_dataset(inherit=False) for name, node in tree.children.items()}, provenance)


def merge(recordings: Sequence[Recording]) -> Recording:
    """One recording of all samples of several recordings of the same run.

    Raises InputError if there is none, if their runs differ (it names the settings), or if samples occur twice.
    """
    if not recordings:
        raise InputError("merge needs at least one recording")
    first = recordings[0]
    for other in recordings[1:]:
        refuse_differences(first.provenance["run"], other.provenance["run"], "recordings cannot be merged")
    ids = np.concatenate([next(iter(r.streams.values()))["sample"].values for r in recordings])
    if len(np.unique(ids)) < len(ids):
        raise InputError(f"recordings cannot be merged: {len(ids) - len(np.unique(ids))} samples occur more than once")
    streams = {name: _add([r[name] for r in recordings]) for name in first.streams}
    total = {key: sum(r.provenance[key] for r in recordings) for key in ("done", "n")}
    return Recording(streams, {**first.provenance, **total})


def refuse_differences(one: dict[str, Any], other: dict[str, Any], what: str) -> None:
    """Raise InputError naming the settings in which two runs differ, if there are any.

    A `probe` (`denoisers.probe`) is compared up to its tolerance, and only where both runs have one: loops that were
    observed have none.
    """
    different = sorted(key for key in one.keys() | other.keys() if key != PROBE and one.get(key) != other.get(key))
    if different:
        listed = "; ".join(f"{key}: {_short(one.get(key))} against {_short(other.get(key))}" for key in different)
        raise InputError(f"{what}: they differ in {listed}")
    said, also = one.get(PROBE), other.get(PROBE)
    if said is not None and also is not None and not _same_answer(said, also):
        raise InputError(
            f"{what}: they are of different models that bear one name, because they answer one fixed noise differently "
            f"({_short(said['values'])} against {_short(also['values'])}): give the same function and call="
        )


def _same_answer(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = (np.array(probe["values"]) for probe in (one, other))
    if a.shape != b.shape:
        return False
    size = max(np.sqrt(np.mean(v**2)) for v in (a, b))
    # Answers smaller than the floor are round-off themselves.
    return bool(np.sqrt(np.mean((a - b) ** 2)) <= max(one["tolerance"], other["tolerance"]) * max(size, PROBE_FLOOR))


def _add(datasets: list[xr.Dataset]) -> xr.Dataset:
    """Sums add, samples concatenate, constants (marked so) stay."""
    result = datasets[0].copy()
    samples = xr.concat([d[["sample", "image"]] for d in datasets], dim="sample")
    order = np.argsort(samples["sample"].values, kind="stable")
    result = result.drop_dims("sample") if "sample" in result.dims else result
    for name, variable in datasets[0].data_vars.items():
        if "sample" in variable.dims:
            joined = np.concatenate([d[name].values for d in datasets])[order]
            result[name] = (variable.dims, joined)
        elif not variable.attrs.get("constant"):
            result[name] = (variable.dims, sum(d[name].values for d in datasets), variable.attrs)
    return result.assign_coords(samples.isel(sample=order).coords)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
