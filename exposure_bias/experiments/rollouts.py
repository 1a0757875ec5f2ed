"""Rollouts from true states: how far and wide a chain goes from x_s ~ q(x_s | x_0), x_0 held out.

From x_s = α_s x_0 + σ_s ε run R chains y with independent noise down to the clean end. With f the
x_0-prediction at x_s, V the posterior variance E Var(x_0 | x_s), b = E‖f − E[x_0 | x_s]‖² and B =
E‖E[y | x_s] − E[x_0 | x_s]‖², per pixel,

    S = E‖x_0 − f(x_s)‖² = V + b                    training error: one step
    A = E‖x_0 − y‖² = U + W                         generation error: all steps
    U = E⟨x_0 − y, x_0 − y′⟩ = V + B                what two chains have in common
    W = ½ E‖y − y′‖²                                spread of the chains

so that U − S = B − b, the mean error that the chain adds to a single prediction's, needs no exact
denoiser. A perfect sampler has S = U = W = V and A = 2V: A − S is not exposure bias.
Its W/U (spread over skill, as in ensemble forecasts; Fortin et al. 2014, J. Hydrometeor. 15, 1708)
is 1, and the rank of x_0 among R chains is uniform (Hamill 2001, Mon. Wea. Rev. 129, 550), on any
data. U − S misses pure errors of spread; read it beside W/U and the variance gap. With few steps a
perfect *denoiser* shows W/U < 1 and, unless the data are Gaussian, U − S ≠ 0: the Gaussian
reference, an oracle's rollouts and refinement stand for that.

The estimators are unbiased: W is the sample variance among the R chains, A the mean over them, U =
A − W.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.kinds.rollouts import ROLLOUTS
from exposure_bias.jackknife import (
    GROUPS,
    Array,
    Estimate,
    Groups,
    jackknife,
    mean_of,
    ratio_of,
    sums_by_group,
    why_no_interval,
    with_estimates,
    with_interval,
)
from exposure_bias.references import Eigen, gaussian_rollout
from exposure_bias.results import returns
from exposure_bias.running.loop import Turn, fill
from exposure_bias.running.setup import Samples, Setup, prepare, varied, with_options
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import chain, noised

DEPTHS = (1, 2, 5)
DIRECTIONS = 16
# The mean image misses x_0 by the data's variance; a prediction clearly worse than it is not
# bounded by the data.
UNBOUNDED = 1.1
START = ("start",)


@returns(ROLLOUTS)
def rollouts(
    model: Any,
    data: Any,
    *,
    starts: Sequence[float] | None = None,
    steps: int = 100,
    refine: int = 1,
    sampler: Any = "ddpm",
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    n: int | None = None,
    replicates: int = 2,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Errors and calibration of `replicates` chains from each of several levels.

    All are of the same n held-out images.

    starts: timesteps, each moved to the nearest level of the chain; by default five, spread evenly
    over its steps. steps, sampler, grid, clip, seed, batch_size, checkpoint: as in `record`.
    refine: this many steps in place of each, the starts staying where they are. n: by default the
    data's, at most 1024. replicates: R ≥ 2; with 1, for any sampler, S and A only. It takes R · Σ
    (steps from each start) network evaluations an image.

    Returns over (start), noisiest first, with coordinates timestep, alpha, sigma and length (steps
    to the end), in the data's units squared, mean over pixels, with `_se` partners:

    - S, A, U, W, U_minus_S, U_minus_S_relative = (U − S)/S;
    - W_over_U with W_over_U_low and _high (95 %); its `_se` is of the logarithm. NaN at length 1:
      the
      last step is noise-free, so that W is 0 for any model;
    - S_gaussian (= V), A_gaussian, U_gaussian, W_gaussian: of a perfect denoiser of Gaussian data
      with these steps;
    - bounded: 0 where S exceeds the data's variance by 10 %. There f is worse than the mean image,
      and U_minus_S, which then says nothing, is NaN;

    over (start, rank):

    - ranks: the share of pixels at which x_0 is above `rank` of the R chains. Ties are split and
      constant pixels left out; an atom of the data, such as black, shows there;
    - ranks_direction: the same along the data's 16 leading eigen-directions. Both signs count, so
      that the histogram is symmetric;

    and over (start, depth), NaN where a rollout is shorter:

    - state_error: RMSE of x̂ − x against the teacher chain after `depth` steps;
    - state_error_gaussian, depth_timestep.

    Raises InputError for a sampler that is not ancestral with R ≥ 2, for levels off the chain, and
    for whatever else does not fit. Warns where the images were in the training split.
    """
    setup = prepare(
        model,
        data,
        kind="rollouts",
        sampler=sampler,
        steps=steps,
        refine=refine,
        grid=grid,
        timestep_spacing=timestep_spacing,
        n=n,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
    )
    plan = _Plan.of(varied(setup), starts, whole_number(replicates, "replicates"))
    attributes = plan.setup.attributes | {"replicates": str(replicates)} | _split(setup)
    sums = plan.sums()
    add, size = partial(_add, plan, sums), max(1, batch_size // replicates)
    fill(plan.setup, sums, add, size=size, evaluations=plan.evaluations, checkpoint=checkpoint)
    result = _result(plan, sums)
    result.attrs = attributes | why_no_interval(sums.state["count"]) | _notes(plan, result)
    return result


def _split(setup: Setup) -> dict[str, str]:
    if setup.data.split != "train":
        return {}
    warning = (
        "the images are of the training split: rollouts say how the model treats images that it has"
        " seen"
    )
    warnings.warn(f"{warning}; give held-out ones", stacklevel=3)
    return {"warning": warning}


@dataclass(frozen=True)
class _Plan:
    """Which chains run: from the levels `indices`, `replicates` of each.

    depths: after how many steps the state is compared.
    """

    setup: Setup
    indices: list[int]
    replicates: int
    depths: list[int]

    @classmethod
    def of(cls, setup: Setup, starts: Sequence[float] | None, replicates: int) -> "_Plan":
        if replicates > 1 and not setup.sampler.ancestral:
            raise InputError(
                "U, W and ranks compare chains with the posterior p(x_0 | x_s), but"
                f" {setup.sampler} is no ancestral sampler and does not draw from it: use ddpm or"
                " ddim:1, or replicates=1 for S and A alone"
            )
        indices = setup.starts(starts)
        longest = setup.run.steps - indices[0]
        powers = range(len(str(longest)))
        depths = [k * 10**p for p in powers for k in DEPTHS if k * 10**p < longest] or [1]
        options = {"starts": indices, "replicates": replicates}
        return cls(with_options(setup, options), indices, replicates, depths)

    @property
    def lengths(self) -> list[int]:
        """Steps to the end from each start."""
        return [self.setup.run.steps - i for i in self.indices]

    @property
    def evaluations(self) -> int:
        """Network evaluations an image."""
        return self.replicates * sum(self.lengths)

    @cached_property
    def varying(self) -> NDArray[np.bool_]:
        """The pixels that vary in the data."""
        return self.setup.law.variance.ravel() > 0

    @cached_property
    def directions(self) -> Array:
        """The data's leading eigen-directions, (D, K)."""
        law = self.setup.law
        leading: Array = law.vectors[:DIRECTIONS][law.values[:DIRECTIONS] > 0].T.copy()
        return leading

    def sums(self) -> Sums:
        """Zero sums by group."""
        sums, starts = Sums(), len(self.indices)
        sums.add_sum("count", group=GROUPS)
        for name in ("S", "A", "W"):
            sums.add_sum(name, group=GROUPS, start=starts)
        for name in ("ranks", "ranks_direction"):
            sums.add_sum(name, group=GROUPS, start=starts, rank=self.replicates + 1)
        sums.add_sum("state", group=GROUPS, start=starts, depth=len(self.depths))
        return sums


def _add(plan: _Plan, sums: Sums, batch: Samples, turn: Turn) -> None:
    """Add a batch of images to the sums: all starts, all replicates."""
    setup, replicates, x0 = plan.setup, plan.replicates, batch.x0
    groups, state = Groups(batch.images), sums.state
    model = setup.conditioned(np.tile(batch.images, replicates))
    paths = [setup.path(batch.ids, f"path {r}" if r else "path") for r in range(replicates)]
    truth = x0.repeat(replicates, *(1,) * (x0.dim() - 1))

    def noise(index: int) -> Tensor:
        return torch.cat([path(index) for path in paths])

    def by_group(values: Tensor) -> Array:
        return sums_by_group(values, batch.images)

    state["count"] += groups.count
    for row, first in enumerate(plan.indices):
        x = noised(x0, setup.levels[first], paths[0].start(first))
        x = x.repeat(replicates, *(1,) * (x0.dim() - 1))
        tail = setup.levels[first:]
        for step in chain(model, x, tail, setup.sampler, noise, setup.clip, truth, first):
            if step.index == first and step.prediction is not None:
                missed = (x0 - step.prediction.x0[: len(x0)]).square().flatten(1).mean(1)
                state["S"][:, row] += by_group(missed)
            if step.index - first in plan.depths and step.truth is not None:
                apart = (step.x - step.truth).square().view(replicates, len(x0), -1).mean((0, 2))
                state["state"][:, row, plan.depths.index(step.index - first)] += by_group(apart)
        _add_ends(plan, row, x0.flatten(1), step.x.view(replicates, len(x0), -1), sums, by_group)
        turn.report(len(x) * (len(tail) - 1))


def _add_ends(plan: _Plan, row: int, x0: Tensor, y: Tensor, sums: Sums, by_group: Any) -> None:
    """What the ends y (R, B, D) of the chains from one start say of x0 (B, D)."""
    state = sums.state
    state["A"][:, row] += by_group((x0 - y).square().mean((0, 2)))
    if plan.replicates == 1:
        return
    state["W"][:, row] += by_group(y.var(0).mean(1))
    varying = torch.from_numpy(plan.varying).to(x0.device)
    state["ranks"][:, row] += by_group(_ranks(x0[:, varying], y[..., varying]))
    directions = torch.from_numpy(plan.directions).to(x0.device)
    along = _ranks(x0 @ directions, y @ directions)
    state["ranks_direction"][:, row] += by_group((along + along.flip(1)) / 2)


def _ranks(x0: Tensor, y: Tensor) -> Tensor:
    """The share (B, R + 1) of pixels at which x0 (B, D) has each rank among y (R, B, D)."""
    # In the data's own precision: what differs by round-off is a tie.
    x0, y = x0.float(), y.float()
    below, ties = (y < x0).sum(0), (y == x0).sum(0)
    ranks = torch.arange(len(y) + 1, device=y.device)[:, None, None]
    share = ((ranks >= below) & (ranks <= below + ties)) / (ties + 1)
    return share.mean(2).T


def _result(plan: _Plan, sums: Sums) -> xr.Dataset:
    setup, state = plan.setup, sums.state
    count, levels = state["count"], setup.levels
    timestep, alpha, sigma = np.array([levels[i] for i in plan.indices]).T
    coords = {
        "start": timestep,
        "timestep": ("start", timestep),
        "alpha": ("start", alpha),
        "sigma": ("start", sigma),
        "length": ("start", plan.lengths),
        "depth": plan.depths,
        "rank": range(plan.replicates + 1),
    }
    result = xr.Dataset(coords=coords)
    errors = {k: jackknife(mean_of, count, state[k]) for k in "SA"}
    result = with_estimates(result, START, **errors)
    reached = np.array(plan.depths) <= np.array(plan.lengths)[:, None]
    rmse = jackknife(lambda n, total: np.sqrt(total / n), count, state["state"])
    result = with_estimates(result, ("start", "depth"), state_error=_where(reached, rmse))
    labels = np.array([level.timestep for level in levels])
    places = np.minimum(np.array(plan.indices)[:, None] + plan.depths, setup.run.steps)
    result["depth_timestep"] = (("start", "depth"), np.where(reached, labels[places], np.nan))
    bounded = result["S"].values <= UNBOUNDED * setup.law.spread
    result["bounded"] = ("start", bounded.astype(np.int8))
    if plan.replicates > 1:
        result = _calibration(result, count, state, bounded)
    if setup.has_reference:
        result = result.assign(_reference(plan, reached))
    return result


def _notes(plan: _Plan, result: xr.Dataset) -> dict[str, str]:
    """Attributes that say where something is empty, and why."""
    notes = {}
    if not result["bounded"].values.all():
        notes["unbounded"] = (
            "f is worse than the mean image where bounded = 0: U - S says nothing there"
        )
    if plan.replicates > 1 and (result["length"] == 1).any():
        notes["one_step"] = (
            "W/U is empty where one step is left: that step is noise-free, W = 0 for any model"
        )
    if result["state_error"].isnull().any():
        notes["depth"] = "state_error is empty where a rollout has fewer steps than depth"
    return notes


def _calibration(
    result: xr.Dataset, count: Array, state: dict[str, Array], bounded: NDArray[np.bool_]
) -> xr.Dataset:
    s, a, w = (state[k] for k in "SAW")
    excess = jackknife(lambda n, s, a, w: (a - w - s) / n, count, s, a, w)
    share = jackknife(lambda n, s, a, w: (a - w) / s - 1, count, s, a, w)
    result = with_estimates(
        result,
        START,
        W=jackknife(mean_of, count, w),
        U=jackknife(mean_of, count, a - w),
        U_minus_S=_where(bounded, excess),
        U_minus_S_relative=_where(bounded, share),
    )
    # The last step adds no noise: W = 0 with one step left, whatever the model.
    noisy = result["length"].values > 1
    spread = jackknife(ratio_of, count, w, a - w, scale="log")
    result = with_interval(result, START, W_over_U=_where(noisy, spread))
    ranks = {k: jackknife(mean_of, count, state[k]) for k in ("ranks", "ranks_direction")}
    return with_estimates(result, ("start", "rank"), **ranks)


def _where(valid: NDArray[np.bool_], estimate: Estimate) -> Estimate:
    value, error = (np.where(valid, v, np.nan) for v in (estimate.value, estimate.error))
    return Estimate(value, error, estimate.scale)


def _reference(plan: _Plan, reached: NDArray[np.bool_]) -> dict[str, Any]:
    """S, A, U, W and the state error of a perfect denoiser of Gaussian data."""
    setup = plan.setup
    mean, eigen = setup.law.mean, Eigen(setup.law.values, setup.law.vectors)
    each = [gaussian_rollout(mean, eigen, setup.levels[i:], setup.sampler) for i in plan.indices]
    names = [k for k in ("S", "A", "U", "W") if k in each[0] and (plan.replicates > 1 or k in "SA")]
    curves: dict[str, Any] = {
        f"{k}_gaussian": ("start", [float(r[k]) for r in each]) for k in names
    }
    error = np.full(reached.shape, np.nan)
    for row, reference in enumerate(each):
        error[row, reached[row]] = reference["state_error"].values[
            np.array(plan.depths)[reached[row]]
        ]
    return curves | {"state_error_gaussian": (("start", "depth"), error)}
