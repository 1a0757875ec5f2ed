"""The one command: whose fault, and what would help.

The error budget of a chain, how its rollouts are calibrated, and a remedy to try.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.data import Data, bundled, load_data
from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.diagnostics.spectra import spectrum
from exposure_bias.diagnostics.variance_gap import PooledGap, pooled_gap, variance_gap
from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.advice import advice
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.budget import (
    MARGIN,
    STEPS,
    Answer,
    budget_of,
    checked_limit_n,
    planned,
)
from exposure_bias.experiments.kinds.budgets import DIAGNOSE, remedy, restarts_in_words
from exposure_bias.experiments.kinds.rollouts import calibration
from exposure_bias.experiments.rollouts import rollouts
from exposure_bias.jackknife import (
    MINIMUM_PER_GROUP,
    T_QUANTILE,
    Array,
    Estimate,
    jackknife,
    with_estimates,
)
from exposure_bias.oracles import EmpiricalOracle
from exposure_bias.recording import Recording
from exposure_bias.remedies import epsilon_scaled
from exposure_bias.results import returns
from exposure_bias.run import Stream
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup, identities
from exposure_bias.samplers import wants_variance

PROBE_SCALE = 1.01
PLAUSIBLE_SCALE = (0.9, 1.1)  # a proportion is a linear one
FARTHEST = 4.0
BLOW_UP = 10.0
EIGHT_GROUPS = 2.364624251592784  # the 97.5 % quantile of Student's t with 7 degrees of freedom


def plan(model: Any, data: Any, margin: float = MARGIN, **settings: Any) -> Setup:
    """The setup of a diagnosis; settings: as in `record`.

    Raises InputError for what does not fit.
    """
    return planned(model, data, margin, (Stream.CHAIN, Stream.FORWARD), **settings)


@returns(DIAGNOSE)
def diagnose(
    model: Any,
    data: Any = None,
    *,
    sampler: Any = "ddpm",
    steps: int = STEPS,
    n: int | None = None,
    margin: float = MARGIN,
    restarts: Sequence[float] | None = None,
    starts: Sequence[float] | None = None,
    images: Any = None,
    start: str = "data",
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    limit_n: int | None = None,
    limit_steps: int = 0,
    quick: bool = False,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """What is wrong with this model's samples: `error_budget`, with rollouts and a remedy to try.

    model: a `Denoiser`, or what `adapt` takes; or a `Recording`, whose gaps are told without a
    network and not split. data: held-out images. n: by default the data's, at most 512. margin,
    restarts, limit_n, limit_steps: as in `error_budget`. starts: timesteps of the rollouts, by
    default five. quick: leave out the advice, for which other samplers are tried. images: what the
    exact denoiser beside the model knows, by default the train split
    where `data` is the test split of bundled data, else there is none. folder: where the chains are
    kept; the same call goes on there. The rest as in `record`.

    Returns what `error_budget` does, and: gaussian and oracle over (statistic), the same of a
    perfect denoiser of Gaussian data and of the exact denoiser of `images`, as context that decides
    nothing; what `rollouts` returns of W_over_U and U_minus_S_relative, over (start); es_scale and
    es_scale_score, the uniform epsilon scalings that would close the whole gap and the network's
    share of it, by proportion, with `_se`; NaN, with the attribute `reason`, where a proportion
    says nothing. Where there is a gap, es_trial is a scaling that half of the images chose, and
    es_trial_before, es_trial_after and es_trial_gain are the gap of the other half without it and
    with it, and by how much it narrows. Unless it is quick, over (candidate): what other samplers
    of few calls showed that were tried in place of this one (`experiments.advice`), and the
    attributes advice, a sentence; advice_sampler, advice_steps, advice_calls; advice_share, the
    sampler's share that it leaves on images that did not choose it, with `_low` and `_high`;
    advice_python and advice_diffusers, the code of it. Attributes: answer, the first line, and
    restarts, calibration, remedy and left_out, a sentence each.

    It takes T′ evaluations more than the budget for the forward stream and for the probe of the
    remedy and its trial each, and twice the rollouts' lengths; the advice takes at most about 400
    more, and often half of that. Raises InputError for whatever does not fit.
    """
    if isinstance(model, Recording):
        return of_recording(model)
    if data is None:
        raise InputError("diagnose needs data: held-out images, as load_data takes them")
    setup = plan(
        model,
        data,
        margin,
        sampler=sampler,
        steps=steps,
        n=n,
        start=start,
        grid=grid,
        timestep_spacing=timestep_spacing,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
    )
    return diagnosed(
        setup,
        margin=margin,
        restarts=restarts,
        starts=starts,
        images=images,
        batch_size=batch_size,
        limit_n=limit_n,
        limit_steps=limit_steps,
        quick=quick,
        folder=folder,
    )[0]


def diagnosed(
    setup: Setup,
    *,
    margin: float = MARGIN,
    restarts: Sequence[float] | None = None,
    starts: Sequence[float] | None = None,
    images: Any = None,
    batch_size: int = 256,
    limit_n: int | None = None,
    limit_steps: int = 0,
    quick: bool = False,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[xr.Dataset, Recording]:
    """The diagnosis of a setup that `plan` made, and the recording that it is made from."""
    place = None if folder is None else Path(folder)
    desk = _Desk(setup, batch_size, place)
    limits = Limits(batch_size, place, whole_number(limit_steps, "limit_steps", 0))
    few = checked_limit_n(limit_n)
    base = desk.recorded(setup, "recording")
    bench = Bench(setup, batch_size, place, recording=base, limits=limits, limit_n=few)
    result = budget_of(bench, margin, restarts)
    left_out: list[str] = []
    if str(result["answer"].values[0]) != Answer.NO_DENOISER:
        result = _with_context(result, desk, base, images, left_out)
        result = _with_rollouts(result, desk, starts, left_out)
        result = _with_remedy(result, desk, base)
        if not quick:
            result = _with_advice(result, bench, margin, left_out)
    words = {
        "restarts": restarts_in_words(result),
        "calibration": calibration(result),
        "remedy": remedy(result),
        "left_out": f"not measured: {'; '.join(left_out)}" if left_out else "",
    }
    return result.assign_attrs({k: v for k, v in words.items() if v}), base


def _with_advice(
    result: xr.Dataset, bench: Bench, margin: float, left_out: list[str]
) -> xr.Dataset:
    tried, why_not = advice(bench, margin)
    if why_not:
        left_out.append(why_not)
        return result
    return result.merge(tried).assign_attrs(result.attrs | tried.attrs)


class _Desk:
    """What all parts of a diagnosis are made with."""

    def __init__(self, setup: Setup, batch_size: int, folder: Path | None) -> None:
        self.setup, self.batch_size, self.folder = setup, batch_size, folder

    def path(self, name: str) -> Path | None:
        """Where a part is kept."""
        return None if self.folder is None else self.folder / f"{name}.nc"

    def recorded(self, setup: Setup, name: str, statistics: Sequence[Any] = ()) -> Recording:
        """A recording, kept under a name."""
        return recorded(setup, statistics, self.batch_size, self.path(name))

    def with_model(self, model: Denoiser, streams: tuple[Stream, ...]) -> Setup:
        """The same chain of another model on the same data and paths."""
        run = replace(
            self.setup.run,
            **identities(model, self.setup.data),
            streams=streams,
            options={},
            probe=None,
        )
        return replace(self.setup, run=run, model=model, light=True)


def _with_context(
    result: xr.Dataset, desk: _Desk, base: Recording, images: Any, left_out: list[str]
) -> xr.Dataset:
    """The same statistics of perfect denoisers, as context.

    Gaussian in closed form, and of given images.
    """
    reference, reasons = reference_of(base)
    if reference is None:
        left_out.append(f"the Gaussian reference, because {reasons['no_reference']}")
    else:
        result["gaussian"] = (
            "statistic",
            _context(result, base, float(reference["gap"].values[-2])),
        )
    known = _known_images(desk.setup.data) if images is None else load_data(images)
    if known is None or desk.setup.run.model.guided:
        return result
    if desk.setup.sampler.limit is None or wants_variance(desk.setup.sampler):
        left_out.append(
            f"the exact denoiser, which has no variance of its own for {desk.setup.run.sampler}"
        )
        return result
    oracle = EmpiricalOracle(known.batch(np.arange(len(known))), desk.setup.model.schedule)
    perfect = desk.recorded(desk.with_model(oracle, (Stream.CHAIN,)), "oracle")
    result["oracle"] = ("statistic", _context(result, base, float(pooled_gap(perfect).value[-2])))
    return result


def _context(result: xr.Dataset, base: Recording, gap: float) -> Array:
    """A reference's number for the gap, NaN for the other statistics."""
    return np.where(result["statistic"].values == "gap", gap, np.nan)


def _with_rollouts(
    result: xr.Dataset, desk: _Desk, starts: Sequence[float] | None, left_out: list[str]
) -> xr.Dataset:
    setup = desk.setup
    if not setup.sampler.ancestral:
        left_out.append(f"rollouts, because {setup.run.sampler} does not draw from p(x_0 | x_s)")
        return result
    found = rollouts(
        setup.model,
        setup.data,
        starts=starts,
        sampler=setup.sampler,
        steps=setup.run.steps,
        grid="linspace" if setup.run.spacing == "sampler" else setup.run.spacing.value,
        n=setup.n,
        clip=setup.run.clip,
        seed=setup.run.seed,
        batch_size=desk.batch_size,
        checkpoint=desk.path("calibration"),
    )
    names = [k for k in found.data_vars if str(k).startswith(("W_over_U", "U_minus_S_relative"))]
    chosen = found[names].rename({k: f"start_{k}" for k in ("timestep", "alpha", "sigma")})
    if "W_gaussian" in found:
        # The last step adds no noise, so that W is 0 for any model where one step is left.
        perfect = (found["W_gaussian"] / found["U_gaussian"]).where(found["length"] > 1)
        chosen = chosen.assign(W_over_U_gaussian=("start", perfect.values))
    return result.merge(chosen.drop_vars("length")).assign_attrs(result.attrs)


def _with_remedy(result: xr.Dataset, desk: _Desk, base: Recording) -> xr.Dataset:
    """The epsilon scalings that would close the gap, by proportion.

    The whole gap, and the network's share of it.
    """
    setup = desk.setup
    if setup.run.model.guided:
        return result
    scaled = epsilon_scaled(setup.model, PROBE_SCALE)
    probe = desk.recorded(desk.with_model(scaled, (Stream.CHAIN,)), "probe")
    here, there = pooled_gap(base), pooled_gap(probe)
    gap = result.sel(statistic="gap")
    estimates = {
        "es_scale": _scaling(here, there),
        "es_scale_score": _scaling(here, there, float(gap["score"]), float(gap["score_se"])),
    }
    for name, found in estimates.items():
        reason = _not_straight(setup, float(found.value), float(found.error))
        said = Estimate(found.value * np.nan, found.error * np.nan) if reason else found
        result = with_estimates(result, (), **{name: said})
        result[name].attrs |= {"reason": reason} if reason else {}
    if "reason" in result["es_scale"].attrs or here.count.min() < MINIMUM_PER_GROUP:
        return result
    if abs(float(gap["total"])) <= T_QUANTILE * float(gap["total_se"]):
        return result
    return _with_trial(result, desk, here, there)


def _with_trial(result: xr.Dataset, desk: _Desk, here: PooledGap, there: PooledGap) -> xr.Dataset:
    """The gap with a scaling that every other group of images chose, on the groups in between."""
    level, chooses, confirms = -2, slice(0, None, 2), slice(1, None, 2)

    def gap_of(found: PooledGap, groups: slice) -> Array:
        sums = [total[groups].sum(0) for total in found.sums]
        return np.asarray(found.estimate(found.count[groups].sum(), *sums)[level])

    own, probed = (gap_of(found, chooses) for found in (here, there))
    scale = float(1 - (PROBE_SCALE - 1) * own / (probed - own))
    if reason := _not_straight(desk.setup, scale, np.inf, probe=scale):
        result["es_scale"].attrs["reason"] = reason
        return result
    model = epsilon_scaled(desk.setup.model, scale)
    tried = pooled_gap(desk.recorded(desk.with_model(model, (Stream.CHAIN,)), "trial"))
    sums = [total[confirms] for total in (*here.sums[:2], *tried.sums[:2], *here.sums[2:])]

    def both(n: float, *totals: Array) -> Array:
        data = totals[4:]
        before = here.estimate(n, *totals[:2], *data)[level]
        after = tried.estimate(n, *totals[2:4], *data)[level]
        return np.stack([before, after, np.abs(before) - np.abs(after)])

    found = jackknife(both, here.count[confirms], *sums)
    names = ("es_trial_before", "es_trial_after", "es_trial_gain")
    estimates = {
        name: Estimate(found.value[k], found.error[k] * EIGHT_GROUPS / T_QUANTILE)
        for k, name in enumerate(names)
    }
    return with_estimates(result.assign(es_trial=scale), (), **estimates)


def _scaling(
    here: PooledGap, there: PooledGap, target: float | None = None, error: float = 0.0
) -> Estimate:
    """λ at which the gap at the last noisy level, or a part of it, would close.

    A probe's effect is taken to be proportional.
    """
    level = -2

    def closing(own: Array, probed: Array) -> Array:
        part = own if target is None else np.asarray(target)
        return np.asarray(1 - (PROBE_SCALE - 1) * part / (probed - own))

    def estimate(n: float, *sums: Array) -> Array:
        data = sums[4:]
        own = here.estimate(n, *sums[:2], *data)[level]
        probed = there.estimate(n, *sums[2:4], *data)[level]
        return closing(own, probed)

    sums = (*here.sums[:2], *there.sums[:2], *here.sums[2:])
    found = jackknife(estimate, here.count, *sums)
    slope = (PROBE_SCALE - 1) / (there.value[level] - here.value[level])
    return found.beside(closing(here.value[level], there.value[level]), slope * error)


def _not_straight(setup: Setup, scale: float, error: float, probe: float = PROBE_SCALE) -> str:
    """Why the probe's proportion says nothing about the λ that it leads to, or ""."""
    farthest = max((level.ratio for level in setup.levels if level.alpha), default=0.0) * abs(
        1 - 1 / probe
    )
    if not setup.run.clip and farthest > BLOW_UP:
        return (
            f"epsilon scaling by {probe:.4g} moves x0 by {farthest:.3g} epsilon where the chain"
            " is noisiest, so that its effect is not proportional: sample with clipping"
        )
    steps = (PROBE_SCALE - 1) / abs(scale - 1) if scale != 1 else np.inf
    if steps >= FARTHEST and abs(scale - 1) > T_QUANTILE * error:
        return (
            f"the probe at {PROBE_SCALE} moved the gap {steps:.3g} times as far as it would have"
            " to go"
        )
    if not PLAUSIBLE_SCALE[0] < scale < PLAUSIBLE_SCALE[1]:
        return f"it would take a scale of {scale:.3g}, far beyond what a proportion holds for"
    return ""


def _known_images(data: Data) -> Data | None:
    """The train split of bundled data's test split."""
    known = data.split == "test" and data.name in bundled.DATA
    return load_data(data.name, "train") if known else None


def of_recording(recording: Recording) -> xr.Dataset:
    """The gaps of a recording, which cannot be split without the network."""
    gaps = variance_gap(recording)
    result = gaps[[k for k in gaps.data_vars if str(k).startswith(("gap", "excess"))]]
    if "state_spectrum" in recording["chain"] and "forward" in recording:
        spectra = spectrum(recording)
        high = [k for k in ("hf", "hf_se", "hf_low", "hf_high", "hf_gaussian") if k in spectra]
        result = result.merge(spectra[high])
    return result.assign_attrs(gaps.attrs)
