"""The same chain with smaller steps, and of a perfect denoiser: recordings that stand beside one of the model.

A gap that comes from the steps' size shrinks when each step is cut into several; one that comes from the model stays.
`refined` runs the model's chain so, keeping its levels, and `sampled_oracle` runs the exact denoiser of given images in
the model's place (design §4.4b and c). Both return a `Recording` at the levels of the one they are compared with, so
that every diagnostic reads them as it reads that one. The forward stream does not depend on the chain's steps: it is
taken over, not run again.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from exposure_bias.adapters import adapt
from exposure_bias.data import load_data
from exposure_bias.denoisers import CLIP_CONVENTIONS, probe
from exposure_bias.errors import InputError
from exposure_bias.oracles import EmpiricalOracle
from exposure_bias.recorder import record
from exposure_bias.recording import PROBE, Recording, refuse_differences

CLIPS: dict[str, Any] = {words: clip for clip, words in CLIP_CONVENTIONS.items()}


def refined(
    model: Any,
    data: Any,
    recording: Recording,
    factor: int,
    *,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Recording:
    """The recording again with `factor` steps in place of each: same model, data, samples, seed, and levels recorded.

    It has the recording's forward stream and a new chain. checkpoint: as in `record`. Raises InputError if model or
    data are not the recording's, if it is refined itself or of part of a chain, or if the schedule has too few levels.
    """
    model, data = adapt(model), load_data(data)
    run = recording.provenance["run"]
    for what, hash_, recorded in (
        ("model", model.weight_hash, run["model"]["weights"]),
        ("data", data.hash, run["data"]["hash"]),
    ):
        if hash_ != recorded:
            raise InputError(f"the {what} is not the recording's: {hash_} against {recorded}; give the same {what}")
    refuse_differences({PROBE: run.get(PROBE)}, {PROBE: probe(model)}, "the recording and the model given do not fit")
    return _again(model, data, recording, factor, batch_size, checkpoint)


def sampled_oracle(
    model: Any,
    data: Any,
    images: Any,
    recording: Recording,
    *,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Recording:
    """The recording again with the exact denoiser of `images` (the training images) in the model's place.

    It has forward and chain streams of its own. Raises InputError as `refined` does.
    """
    oracle_of, data = load_data(images), load_data(data)
    schedule = adapt(model).schedule
    oracle = EmpiricalOracle(oracle_of.batch(np.arange(len(oracle_of))), schedule)
    return _again(oracle, data, recording, 1, batch_size, checkpoint, ("forward", "chain"))


def _again(
    model: Any,
    data: Any,
    recording: Recording,
    factor: int,
    batch_size: int,
    checkpoint: str | os.PathLike[str] | None,
    streams: Sequence[str] = ("chain",),
) -> Recording:
    run, samples = recording.provenance["run"], recording["data"]["sample"].values
    if run.get("refine", 1) != 1 or run["start"] not in ("data", "noise") or np.any(np.diff(samples) != 1):
        raise InputError(
            "this recording cannot be refined: give one of a whole, unrefined chain, of consecutive samples"
        )
    again = record(
        model, data, sampler=run["sampler"], steps=run["steps"], n=len(samples), start=run["start"], grid=run["grid"],
        refine=factor, clip=CLIPS[run["clip"]], streams=streams, seed=run["seed"], batch_size=batch_size,
        first=int(samples[0]), checkpoint=checkpoint,
    )  # fmt: skip
    if "forward" in streams or "forward" not in recording:
        return again
    forward = recording["forward"].assign_coords(step=again["chain"]["step"].values)
    return Recording({**again.streams, "forward": forward}, again.provenance)
