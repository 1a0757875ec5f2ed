"""The one command: record a chain, refine it, put an exact denoiser in the model's place, and say what was found."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from exposure_bias.adapters import adapt
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import Clip, Denoiser
from exposure_bias.diagnostics.diagnosis import PROBE, diagnosis
from exposure_bias.errors import InputError
from exposure_bias.experiments.refinement import refined, sampled_oracle
from exposure_bias.experiments.rollouts import rollouts
from exposure_bias.recorder import chain_levels, record, refined_levels
from exposure_bias.recording import Recording
from exposure_bias.remedies import epsilon_scaled
from exposure_bias.samplers import Sampler
from exposure_bias.streams import AnySampler

STEPS, SAMPLES, REFINEMENTS = 50, 512, (2, 4)


def diagnose(
    model: Any,
    data: Any = None,
    *,
    sampler: Any = "ddpm",
    steps: int = STEPS,
    n: int | None = None,
    refinements: Sequence[int] | None = None,
    starts: Sequence[float] | None = None,
    images: Any = None,
    start: str = "data",
    grid: str = "linspace",
    clip: Clip = False,
    seed: int = 0,
    batch_size: int = 256,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Does this model suffer from exposure bias: `diagnosis` with everything it can be given.

    model: a `Denoiser`, or what `adapt` takes; or a `Recording`, which is diagnosed as it is, without a network. data:
    held-out images. n: by default the data's, at most 512. refinements: factors by which the steps are cut, by default
    2 and 4 as far as the schedule has levels for them; none for diffusers' schedulers, which choose their own. starts:
    timesteps of the rollouts, at most five by default. images: what the exact denoiser knows, by default the train
    split where `data` is the test split of bundled data, else there is none. folder: where the recordings are kept; the
    same call continues there. The rest as in `record`.

    The forward stream runs at the base levels only. In units of n network evaluations the cost is
    T′ (2 + Σ refinements + 1) and, for ancestral samplers, 2 Σ of the rollouts' lengths.

    What of this was left out, and why, is in the attribute `left_out`. Raises InputError for whatever does not fit.
    """
    if isinstance(model, Recording):
        return diagnosis(model)
    if data is None:
        raise InputError("diagnose needs data: held-out images, as load_data takes them")
    model, data = adapt(model), load_data(data)
    n = min(len(data), SAMPLES) if n is None else n
    common: dict[str, Any] = {"sampler": sampler, "steps": steps, "n": n, "grid": grid, "clip": clip, "seed": seed}

    def kept(name: str) -> str | None:
        return None if folder is None else str(Path(folder) / f"{name}.nc")

    own = sampler_for(sampler, model, steps, grid)
    factors, left_out = _possible(model, own, steps, grid, start, refinements)
    base = record(model, data, start=start, batch_size=batch_size, checkpoint=kept("recording"), **common)
    finer = [
        refined(model, data, base, k, batch_size=batch_size, checkpoint=kept(f"refined-{k}")) for k in sorted(factors)
    ]
    known = _known_images(data) if images is None else load_data(images)
    oracle = None
    if known is not None and isinstance(own, Sampler) and own.variance == "learned_range":
        left_out.append(f"the exact denoiser, which has no variance of its own for {own}")
    elif known is not None and isinstance(own, Sampler):
        oracle = sampled_oracle(model, data, known, base, batch_size=batch_size, checkpoint=kept("oracle"))
    calibration = None
    if isinstance(own, Sampler) and own.ancestral:
        calibration = rollouts(model, data, starts=starts, batch_size=batch_size, checkpoint=kept("rollouts"), **common)
    probe = record(
        epsilon_scaled(model, PROBE), data, start=start, streams=("chain",), batch_size=batch_size,
        checkpoint=kept("probe"), **common,
    )  # fmt: skip
    result = diagnosis(base, finer, oracle, calibration, probe)
    return result.assign_attrs({"left_out": "; ".join(left_out)} if left_out else {})


def _possible(
    model: Denoiser, sampler: AnySampler, steps: int, grid: str, start: str, refinements: Sequence[int] | None
) -> tuple[list[int], list[str]]:
    """The refinements that the schedule has levels for, and words for those of the default that it has none for.

    Raises InputError for one that was asked for and is not possible.
    """
    if not isinstance(sampler, Sampler):
        return [], []
    if any(factor < 2 for factor in refinements or ()):
        raise InputError(f"refinements cut steps by 2 or more, got {', '.join(map(str, refinements or ()))}")
    levels, possible, left_out = chain_levels(model, steps, grid, start, sampler), [], []
    for factor in sorted(REFINEMENTS if refinements is None else refinements):
        try:
            refined_levels(model, levels, sampler, factor)
        except InputError as error:
            if refinements is not None:
                raise InputError(f"{error}; give other refinements, or fewer steps") from error
            left_out.append(f"refinement, because {error}")
        else:
            possible.append(factor)
    return possible, left_out


def _known_images(data: Data) -> Data | None:
    """The train split of bundled data's test split."""
    return load_data(data.name, "train") if data.split == "test" and data.name in ("digits", "patches") else None
