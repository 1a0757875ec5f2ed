"""Rollouts from true states: how far and how wide a chain goes from x_s ~ q(x_s | x_0), x_0 held out.

From x_s = α_s x_0 + σ_s ε run R chains y with independent noise down to the clean end. With f the x_0-prediction at
x_s, V the posterior variance E Var(x_0 | x_s), b = E‖f − E[x_0 | x_s]‖² and B = E‖E[y | x_s] − E[x_0 | x_s]‖², per
pixel,

    S = E‖x_0 − f(x_s)‖² = V + b                    training error: one step
    A = E‖x_0 − y‖² = U + W                         generation error: all steps
    U = E⟨x_0 − y, x_0 − y′⟩ = V + B                what two chains have in common
    W = ½ E‖y − y′‖²                                spread of the chains

so that U − S = B − b, the mean error that the chain adds to a single prediction's, needs no exact denoiser (design
§4.8). A perfect sampler has S = U = W = V and A = 2V: A − S is not exposure bias. Its W/U (spread over skill, as in
ensemble forecasts; Fortin et al. 2014, J. Hydrometeor. 15, 1708) is 1, and the rank of x_0 among R chains is uniform
(Hamill 2001, Mon. Wea. Rev. 129, 550), on any data. U − S misses pure errors of spread; read it beside W/U and the
variance gap. With few steps a perfect *denoiser* shows W/U < 1 and, unless the data are Gaussian, U − S ≠ 0: the
Gaussian reference, an oracle's rollouts and refinement stand for that.

The estimators are unbiased: W is the sample variance among the R chains, A the mean over them, U = A − W.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.denoisers import Clip
from exposure_bias.diagnostics.jackknife import T_QUANTILE, jackknife, why_no_interval, with_errors
from exposure_bias.errors import InputError
from exposure_bias.experiments.setting import Array, Setting, grouping, prepare, resumable
from exposure_bias.references import Eigen, gaussian_rollout
from exposure_bias.samplers import Sampler
from exposure_bias.statistics.accumulator import GROUPS
from exposure_bias.streams import chain, noised

DEPTHS = (1, 2, 5)
DIRECTIONS = 16
# The mean image misses x_0 by the data's variance; a prediction clearly worse than it is not bounded by the data.
UNBOUNDED = 1.1


def rollouts(
    model: Any,
    data: Any,
    *,
    starts: Sequence[float] | None = None,
    steps: int = 100,
    refine: int = 1,
    sampler: Any = "ddpm",
    grid: str = "linspace",
    n: int | None = None,
    replicates: int = 2,
    clip: Clip = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Errors and calibration of `replicates` chains from each of several levels, on the same n held-out images.

    starts: timesteps, each moved to the nearest level of the chain; by default five, spread evenly over its steps.
    steps, sampler, grid, clip, seed, batch_size, checkpoint: as in `record`. refine: this many steps in place of each,
    the starts staying where they are. n: by default the data's, at most 1024. replicates: R ≥ 2; with 1, for any
    sampler, S and A only. It takes R · Σ (steps from each start) network evaluations an image.

    Returns over (start), noisiest first, with coordinates timestep, alpha, sigma and length (steps to the end), in the
    data's units squared, mean over pixels, with `_se` partners:

        S, A, U, W, U_minus_S, U_minus_S_relative = (U − S)/S
        W_over_U                with W_over_U_low and _high (95 %); its `_se` is of the logarithm. NaN at length 1:
                                the last step is noise-free, so that W is 0 for any model
        S_gaussian (= V), A_gaussian, U_gaussian, W_gaussian
                                a perfect denoiser of Gaussian data with these steps
        bounded                 0 where S exceeds the data's variance by 10 %: f is worse there than the mean image, and
                                U_minus_S, which then says nothing, is NaN

    over (start, rank):

        ranks                   the share of pixels at which x_0 is above `rank` of the R chains; ties are split and
                                constant pixels left out; an atom of the data, such as black, shows there
        ranks_direction         the same along the data's 16 leading eigen-directions; both signs count, so that
                                the histogram is symmetric

    and over (start, depth), NaN where a rollout is shorter:

        state_error             RMSE of x̂ − x against the teacher chain after `depth` steps
        state_error_gaussian, depth_timestep

    Raises InputError for a sampler that is not ancestral with R ≥ 2, for levels off the chain, and for whatever else
    does not fit. Warns where the images were in the training split.
    """
    setting = prepare(model, data, sampler, steps, refine, grid, n, clip, seed, batch_size)
    if replicates < 1 or replicates != int(replicates):
        raise InputError(f"replicates must be a whole number of at least 1, got {replicates}")
    if replicates > 1 and not setting.ancestral:
        raise InputError(
            f"U, W and ranks compare chains with the posterior p(x_0 | x_s), but {setting.sampler} is no ancestral "
            "sampler and does not draw from it: use ddpm or ddim:1, or replicates=1 for S and A alone"
        )
    indices = setting.starts(starts)
    attributes = setting.attributes | {"replicates": str(replicates)} | _split(setting)
    longest = len(setting.levels) - 1 - indices[0]
    depths = [k * 10**p for p in range(len(str(longest))) for k in DEPTHS if k * 10**p < longest] or [1]
    sums = {
        "count": np.zeros(GROUPS),
        **{k: np.zeros((GROUPS, len(indices))) for k in ("S", "A", "W")},
        **{k: np.zeros((GROUPS, len(indices), replicates + 1)) for k in ("ranks", "ranks_direction")},
        "state": np.zeros((GROUPS, len(indices), len(depths))),
    }
    identity = attributes | {"starts": str(indices)}
    size = max(1, batch_size // replicates)
    evaluations = replicates * sum(len(setting.levels) - 1 - i for i in indices)
    for rows, report in resumable("rollout", setting.n, size, evaluations, sums, identity, checkpoint, setting.model):
        _add(setting, rows, indices, depths, replicates, sums, report)
    return _result(setting, indices, depths, replicates, sums, attributes)


def _split(setting: Setting) -> dict[str, str]:
    if setting.data.split != "train":
        return {}
    warning = "the images are of the training split: rollouts say how the model treats images that it has seen"
    warnings.warn(f"{warning}; give held-out ones", stacklevel=3)
    return {"warning": warning}


def _add(
    setting: Setting,
    rows: slice,
    indices: Sequence[int],
    depths: Sequence[int],
    replicates: int,
    sums: dict[str, Array],
    report: Callable[[int], Any],
) -> None:
    """Add a batch of images to the sums: all starts, all replicates."""
    ids, images, x0 = setting.samples(rows)
    model, by_group = setting.conditioned(np.tile(images, replicates)), grouping(images)
    epsilon = setting.noise("start", ids)(0)
    copies = [setting.noise(f"chain {r}" if r else "chain", ids) for r in range(replicates)]
    truth = x0.repeat(replicates, 1, 1, 1)
    varying = torch.from_numpy(setting.law.variance.ravel() > 0).to(x0.device)
    leading = setting.law.vectors[:DIRECTIONS][setting.law.values[:DIRECTIONS] > 0]
    directions = torch.from_numpy(leading.T.copy()).to(x0.device)
    sums["count"] += by_group(torch.ones(len(ids)))

    def noise(index: int) -> Tensor:
        return torch.cat([copy(index) for copy in copies])

    for row, first in enumerate(indices):
        x = noised(x0, setting.levels[first], epsilon).repeat(replicates, 1, 1, 1)
        tail = setting.levels[first:]
        for step in chain(model, x, tail, setting.sampler, noise, setting.clip, truth, first):
            if step.index == first and step.prediction is not None:
                sums["S"][:, row] += by_group((x0 - step.prediction.x0[: len(x0)]).square().flatten(1).mean(1))
            if step.index - first in depths and step.truth is not None:
                square = (step.x - step.truth).square().view(replicates, len(x0), -1).mean((0, 2))
                sums["state"][:, row, depths.index(step.index - first)] += by_group(square)
        y = step.x.view(replicates, len(x0), -1)
        sums["A"][:, row] += by_group((x0.flatten(1) - y).square().mean((0, 2)))
        if replicates > 1:
            sums["W"][:, row] += by_group(y.var(0).mean(1))
            flat = x0.flatten(1)
            sums["ranks"][:, row] += by_group(_ranks(flat[:, varying], y[..., varying]))
            along = _ranks(flat @ directions, y @ directions)
            sums["ranks_direction"][:, row] += by_group((along + along.flip(1)) / 2)
        report(len(x) * (len(tail) - 1))


def _ranks(x0: Tensor, y: Tensor) -> Tensor:
    """The share (B, R + 1) of pixels at which x0 (B, D) has each rank among y (R, B, D)."""
    # In the data's own precision: what differs by round-off is a tie.
    x0, y = x0.float(), y.float()
    below, ties = (y < x0).sum(0), (y == x0).sum(0)
    ranks = torch.arange(len(y) + 1, device=y.device)[:, None, None]
    share = ((ranks >= below) & (ranks <= below + ties)) / (ties + 1)
    return share.mean(2).T


def _result(
    setting: Setting,
    indices: Sequence[int],
    depths: Sequence[int],
    replicates: int,
    sums: dict[str, Array],
    attributes: dict[str, str],
) -> xr.Dataset:
    levels, count, end = setting.levels, sums["count"], len(setting.levels) - 1
    timestep, alpha, sigma = np.array([levels[i] for i in indices]).T
    coords = {
        "start": timestep,
        "timestep": ("start", timestep),
        "alpha": ("start", alpha),
        "sigma": ("start", sigma),
        "length": ("start", [end - i for i in indices]),
        "depth": depths,
        "rank": range(replicates + 1),
    }
    result = with_errors(xr.Dataset(coords=coords), ("start",), **{k: jackknife(_mean, count, sums[k]) for k in "SA"})
    rmse = jackknife(lambda n, total: np.sqrt(total / n), count, sums["state"])
    reached = np.array(depths) <= result["length"].values[:, None]
    result = with_errors(result, ("start", "depth"), state_error=_where(reached, rmse))
    labels = np.array([level.timestep for level in levels])
    places = np.minimum(np.array(indices)[:, None] + depths, end)
    result["depth_timestep"] = (("start", "depth"), np.where(reached, labels[places], np.nan))
    bounded = result["S"].values <= UNBOUNDED * setting.law.variance.mean()
    result["bounded"] = ("start", bounded.astype(np.int8))
    if replicates > 1:
        result = _calibration(result, count, sums, bounded)
    if setting.gaussian_sampler is not None:
        result = result.assign(_reference(setting, setting.gaussian_sampler, indices, depths, replicates, reached))
    if not bounded.all():
        attributes |= {"unbounded": "f is worse than the mean image where bounded = 0: U - S says nothing there"}
    if replicates > 1 and (result["length"] == 1).any():
        attributes |= {"one_step": "W/U is empty where one step is left: that step is noise-free, W = 0 for any model"}
    if not reached.all():
        attributes |= {"depth": "state_error is empty where a rollout has fewer steps than depth"}
    result.attrs = attributes | why_no_interval(count)
    return result


def _calibration(result: xr.Dataset, count: Array, sums: dict[str, Array], bounded: NDArray[np.bool_]) -> xr.Dataset:
    s, a, w = (sums[k] for k in "SAW")
    masked = {
        "U_minus_S": jackknife(lambda n, s, a, w: (a - w - s) / n, count, s, a, w),
        "U_minus_S_relative": jackknife(lambda n, s, a, w: (a - w) / s - 1, count, s, a, w),
    }
    result = with_errors(
        result,
        ("start",),
        W=jackknife(_mean, count, w),
        U=jackknife(_mean, count, a - w),
        **{k: _where(bounded, pair) for k, pair in masked.items()},
    )
    # The last step adds no noise: W = 0 with one step left, whatever the model.
    noisy = result["length"] > 1
    result["W_over_U"] = (result["W"] / result["U"]).where(noisy)
    result["W_over_U_se"] = ("start", np.where(noisy, jackknife(_log_ratio, count, w, a - w)[1], np.nan))
    for name, t in {"W_over_U_low": -T_QUANTILE, "W_over_U_high": T_QUANTILE}.items():
        result[name] = result["W_over_U"] * np.exp(t * result["W_over_U_se"])
    ranks = {k: jackknife(_mean, count, sums[k]) for k in ("ranks", "ranks_direction")}
    return with_errors(result, ("start", "rank"), **ranks)


def _where(valid: NDArray[np.bool_], pair: tuple[Array, Array]) -> tuple[Array, Array]:
    value, error = (np.where(valid, v, np.nan) for v in pair)
    return value, error


def _mean(n: float, total: Array) -> Array:
    return total / n


def _log_ratio(_: float, above: Array, below: Array) -> Array:
    # Chains that all end alike, as on one noise-free step, have W = 0.
    tiny = np.finfo(float).tiny
    return np.log(np.maximum(above, tiny) / np.maximum(below, tiny))


def _reference(
    setting: Setting,
    sampler: Sampler,
    indices: Sequence[int],
    depths: Sequence[int],
    replicates: int,
    reached: NDArray[np.bool_],
) -> dict[str, Any]:
    """S, A, U, W and the state error of a perfect denoiser of Gaussian data."""
    mean, _, values, vectors = setting.law
    path = setting.model.schedule.path
    each = [gaussian_rollout(mean, Eigen(values, vectors), setting.levels[i:], path, sampler) for i in indices]
    names = ("S", "A", "U", "W") if replicates > 1 else ("S", "A")
    curves: dict[str, Any] = {f"{k}_gaussian": ("start", [float(r[k]) for r in each]) for k in names}
    error = np.full(reached.shape, np.nan)
    for row, reference in enumerate(each):
        error[row, reached[row]] = reference["state_error"].values[np.array(depths)[reached[row]]]
    return curves | {"state_error_gaussian": (("start", "depth"), error)}
