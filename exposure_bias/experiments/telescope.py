"""Where along the chain its gap arises: an exact decomposition into blocks of steps (design §4.9).

Let R(s→t) be a statistic at level t of the chain that starts at true x_s, R(t→t) the same of true x_t, and R(noise→t)
that of the chain from pure noise. For starts T = s_0 > s_1 > … > s_m > t,

    R(noise→t) − R(t→t) = [R(noise→t) − R(T→t)]                    prior mismatch
                        + Σ_j [R(s_j→t) − R(s_{j+1}→t)]            the steps from s_j to s_{j+1}
                        + [R(s_m→t) − R(t+1→t)]                    the steps from s_m to t + 1
                        + [R(t+1→t) − R(t→t)]                      the last step,

an identity. Each bracket is the effect at t of model *and* solver in that block, carried to t by the model's own chain;
it is not split further. All starts lie on one teacher chain and all chains meet the same noise, so that the brackets'
intervals are narrow. The same brackets of a perfect denoiser of Gaussian data stand beside them; those of an exact
oracle, or of the model with smaller steps, are the same call with the oracle, or with `refine`.

R is the variance gap Σ_i Var_i(x̂_t) / Σ_i(α_t²σ_i² + σ_t²) − 1 and, by DCT band, the power of x̂_t − α_t μ over what
is expected of x_t, less 1; at frequencies of ¼ cycle per pixel and above also in decibels, whose sum at the clean end
is HF.
"""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr

from exposure_bias.denoisers import Clip
from exposure_bias.diagnostics.jackknife import jackknife, why_no_interval, with_errors
from exposure_bias.errors import InputError
from exposure_bias.experiments.setting import Array, Setting, grouping, prepare, resumable
from exposure_bias.oracles import Teacher
from exposure_bias.recording import Recording
from exposure_bias.references import Eigen, gaussian_chain, gaussian_power
from exposure_bias.samplers import Sampler, parse
from exposure_bias.statistics.accumulator import GROUPS
from exposure_bias.statistics.bands import MINIMUM_SIZE, Bands, dct
from exposure_bias.streams import chain, noised, prior

DECIBEL = 10 / np.log(10)
ROUND_OFF = 1e-12
# Besides the starts, the last two origins of a statistic at level t: true x_{t+1}, and true x_t itself.
BEFORE, HERE = -2, -1


def telescope(
    model: Any,
    data: Any,
    *,
    starts: Sequence[float] | None = None,
    targets: Sequence[float] | None = None,
    steps: int = 100,
    refine: int = 1,
    sampler: Any = "ddpm",
    grid: str = "linspace",
    n: int | None = None,
    clip: Clip = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """The brackets of the module's identity for several blocks and target levels t, on n images.

    starts: timesteps s_j, each moved to the nearest level; the noisiest level is always among them; by default five,
    spread evenly over the steps. targets: timesteps t, by default the starts but the first; the clean end is always
    among them. refine: this many steps in place of each, starts and targets staying where they are. steps, sampler,
    grid, clip, seed, batch_size, checkpoint: as in `record`. n: by default the data's, at most 1024. It takes Σ (steps
    from each start), all steps once more for the prior, and one for each target, network evaluations an image.

    Returns, with `_se` partners and, for a perfect denoiser of Gaussian data with these steps, `_gaussian`:

        R (origin, target)         the relative variance gap; origin: noise, the starts' timesteps, t+1, t
        bracket (block, target)    differences of R between consecutive origins
        gap, gap_data (target)     their sum R(noise→t) − R(t→t), and without the prior's R(T→t) − R(t→t)

    the same with `_spectrum`, over (…, frequency), as relative power, NaN where none is expected; and with `_high`, in
    dB, for frequencies of ¼ cycle per pixel and above; neither for images smaller than 4 pixels a side. A block that
    reaches beyond t + 1 is cut off there. Coordinates of the targets: timestep, alpha, sigma.

    Raises InputError for levels off the chain and for whatever else does not fit.
    """
    setting = prepare(model, data, sampler, steps, refine, grid, n, clip, seed, batch_size)
    plan = _Plan(setting, *_levels(setting, starts, targets))
    count, shape = np.zeros(GROUPS), (GROUPS, plan.origins, len(plan.targets))
    sums = {"count": count, "total": np.zeros((*shape, int(np.prod(setting.model.shape)))), "square": np.zeros(shape)}
    if plan.bands is not None:
        width = len(plan.bands.count)
        sums |= {"power": np.zeros((*shape, width)), "power_data": np.zeros((GROUPS, width))}
    attributes = setting.attributes | ({"no_spectrum": _too_small()} if plan.bands is None else {})
    identity = attributes | {"starts": str(plan.starts), "targets": str(plan.targets)}
    for rows, report in resumable(
        "telescope", setting.n, batch_size, plan.evaluations, sums, identity, checkpoint, setting.model
    ):
        _add(plan, rows, sums, report)
    plan.fill(sums)
    result = _result(plan, sums)
    result.attrs = attributes | why_no_interval(count) | _guard(result)
    return result


def _too_small() -> str:
    return f"spectra need images of at least {MINIMUM_SIZE}x{MINIMUM_SIZE} pixels"


def _guard(result: xr.Dataset) -> dict[str, str]:
    if "R_spectrum" in result and result["R_spectrum"].isnull().any():
        return {"no_power": "spectra are empty where the data have no power and no noise is left"}
    return {}


def _levels(
    setting: Setting, starts: Sequence[float] | None, targets: Sequence[float] | None
) -> tuple[list[int], list[int]]:
    """Indices of the starts, with the noisiest, and of the targets, with the clean end."""
    first = sorted({0, *setting.starts(starts)})
    last = first[1:] if targets is None else setting.starts(targets) if len(targets) else []
    if 0 in last:
        raise InputError("a target must be cleaner than the noisiest level, where no step has been taken yet")
    return first, [*last, len(setting.levels) - 1]


class _Plan:
    """Which chains run from where to where. Row 0 is noise, then come the starts, then BEFORE and HERE."""

    def __init__(self, setting: Setting, starts: list[int], targets: list[int]) -> None:
        self.setting, self.starts, self.targets = setting, starts, targets
        self.origins = len(starts) + 3
        # Where the level before a target is a start, its chain's first step will do.
        self.singles = [t for t in targets if t - 1 not in starts]
        small = min(setting.model.shape[1:]) < MINIMUM_SIZE
        self.bands: Bands | None = None if small else dct(*setting.model.shape[1:])

    @property
    def evaluations(self) -> int:
        """Network evaluations an image."""
        end = len(self.setting.levels) - 1
        return end + sum(end - s for s in self.starts) + len(self.singles)

    @cached_property
    def path(self) -> Sampler:
        """The sampler of the teacher chain, whose states are exactly q(x_t | x_0) whatever the model's variance."""
        sampler = self.setting.sampler
        return sampler if isinstance(sampler, Sampler) and sampler.exact_teacher else parse("ddpm")

    def fill(self, sums: dict[str, Array]) -> None:
        """Copy what needs no chain of its own: one step from a start, and blocks that end before they begin."""
        for name in sums.keys() & {"total", "square", "power"}:
            for column, target in enumerate(self.targets):
                here = sums[name][:, :, column]
                if target - 1 in self.starts:
                    here[:, BEFORE] = here[:, 1 + self.starts.index(target - 1)]
                for row, start in enumerate(self.starts, start=1):
                    if start >= target:
                        here[:, row] = here[:, BEFORE]


def _add(plan: _Plan, rows: slice, sums: dict[str, Array], report: Callable[[int], Any]) -> None:
    """Add a batch of images to the sums."""
    setting, levels = plan.setting, plan.setting.levels
    ids, images, x0 = setting.samples(rows)
    model, by_group = setting.conditioned(images), grouping(images)
    epsilon, noise = setting.noise("start", ids)(0), setting.noise("chain", ids)
    mean = torch.from_numpy(setting.law.mean).to(x0.device)
    column = {target: k for k, target in enumerate(plan.targets)}

    def power(d: torch.Tensor) -> torch.Tensor:
        assert plan.bands is not None
        return torch.from_numpy(plan.bands.power(d.cpu().numpy()).sum(1))

    def keep(row: int, target: int, x: torch.Tensor) -> None:
        d = x - levels[target].alpha * mean
        place = (slice(None), row, column[target])
        sums["total"][place] += by_group(d.flatten(1))
        sums["square"][place] += by_group(d.square().flatten(1).sum(1))
        if plan.bands is not None:
            sums["power"][place] += by_group(power(d))

    sums["count"] += by_group(torch.ones(len(ids)))
    if plan.bands is not None:
        sums["power_data"] += by_group(power(x0 - mean))
    truth = {}
    needed = {*plan.starts, *plan.targets, *(t - 1 for t in plan.singles)}
    start = noised(x0, levels[0], epsilon)
    for step in chain(Teacher(x0, model.schedule), start, levels, plan.path, noise):
        if step.index in needed:
            truth[step.index] = step.x
        if step.index in column:
            keep(HERE, step.index, step.x)
    origins = [(0, 0, prior(model, levels[0], epsilon, setting.sampler))] + [
        (i + 1, s, truth[s]) for i, s in enumerate(plan.starts)
    ]
    for row, first, x in origins:
        for step in chain(model, x, levels[first:], setting.sampler, noise, setting.clip, first=first):
            if step.index in column and step.index > first:
                keep(row, step.index, step.x)
        report(len(ids) * (len(levels) - 1 - first))
    for t in plan.singles:
        *_, step = chain(model, truth[t - 1], levels[t - 1 : t + 1], setting.sampler, noise, setting.clip, first=t - 1)
        keep(BEFORE, t, step.x)
        report(len(ids))


def _result(plan: _Plan, sums: dict[str, Array]) -> xr.Dataset:
    setting, levels, count = plan.setting, plan.setting.levels, sums["count"]
    timestep, alpha, sigma = np.array([levels[t] for t in plan.targets]).T
    names = [f"{levels[s].timestep:g}" for s in plan.starts]
    result = xr.Dataset(
        coords={
            "origin": ["noise", *names, "t+1", "t"],
            "block": ["prior", *(f"{s} to {t}" for s, t in zip(names, [*names[1:], "t+1"], strict=True)), "t+1 to t"],
            "target": timestep,
            "timestep": ("target", timestep),
            "alpha": ("target", alpha),
            "sigma": ("target", sigma),
        }
    )
    variance = setting.law.variance
    expected = alpha**2 * variance.sum() + sigma**2 * variance.size

    def gaps(n: float, total: Array, square: Array) -> Array:
        return _telescoped((square - np.square(total).sum(-1) / n) / (n - 1) / expected - 1)

    result = _assigned(result, "", ("target",), jackknife(gaps, count, sums["total"], sums["square"]))
    if plan.bands is not None:
        modes, channels = plan.bands.count, setting.model.shape[0]
        scale, added = alpha[:, None] ** 2, sigma[:, None] ** 2 * modes * channels

        def ratios(n: float, power: Array, data: Array) -> Array:
            unscaled = scale * data + n * added
            return _ratio(power, unscaled)

        def spectra(n: float, power: Array, data: Array) -> Array:
            return _telescoped(ratios(n, power, data)[..., :-1] - 1)

        def high(n: float, power: Array, data: Array) -> Array:
            return _telescoped(DECIBEL * np.log(ratios(n, power, data)[..., -1]))

        powers = count, sums["power"], sums["power_data"]
        result = result.assign_coords(frequency=plan.bands.label)
        result = _assigned(result, "_spectrum", ("target", "frequency"), jackknife(spectra, *powers))
        result = _assigned(result, "_high", ("target",), jackknife(high, *powers))
    return result if setting.gaussian_sampler is None else _with_gaussian(result, plan, setting.gaussian_sampler)


def _ratio(power: Array, expected: Array) -> Array:
    """NaN in bands without power, but for round-off."""
    visible = expected > ROUND_OFF * expected.max(-1, keepdims=True)
    return np.divide(power, expected, out=np.full_like(power, np.nan), where=np.broadcast_to(visible, power.shape))


def _telescoped(r: Array) -> Array:
    """R (origin, …), its brackets (origin − 1, …), and the gaps from noise and from data, one after another."""
    return np.concatenate([r, r[:-1] - r[1:], r[[0]] - r[[HERE]], r[[1]] - r[[HERE]]])


def _assigned(
    result: xr.Dataset, suffix: str, dims: tuple[str, ...], estimate: tuple[Array, ...], reference: bool = False
) -> xr.Dataset:
    """The dataset with the parts of `_telescoped`'s (value, standard error), or (value,) of a reference."""
    origins = result.sizes["origin"]
    parts = [(v[:origins], v[origins : 2 * origins - 1], v[-2], v[-1]) for v in estimate]
    every = (("R", ("origin", *dims)), ("bracket", ("block", *dims)), ("gap", dims), ("gap_data", dims))
    if reference:
        return result.assign({f"{k}{suffix}_gaussian": (d, v) for (k, d), v in zip(every, parts[0], strict=True)})
    for (name, d), value, error in zip(every, *parts, strict=True):
        result = with_errors(result, d, **{f"{name}{suffix}": (value, error)})
    return result


def _with_gaussian(result: xr.Dataset, plan: _Plan, sampler: Sampler) -> xr.Dataset:
    """The same of a perfect denoiser of Gaussian data with the data's mean and covariance."""
    setting, levels, end = plan.setting, plan.setting.levels, len(plan.setting.levels)
    mean, _, values, vectors = setting.law
    recording = Recording({"data": setting.law.to_dataset()}, {})

    def ratio(first: int, last: int, start: str = "data") -> Array:
        """Over what is expected of x_t, at levels first … last − 1: variance, and power by band."""
        path = setting.model.schedule.path
        reference = gaussian_chain(mean, Eigen(values, vectors), levels[first:last], path, sampler, start)
        curves = reference["gap"].values[:, None] + 1
        if plan.bands is None:
            return curves
        power, expected = gaussian_power(reference, recording, plan.bands)
        return np.hstack([curves, _ratio(power.sum(1), expected.sum(1))])

    starts = {s: ratio(s, end) for s in plan.starts}
    noise = ratio(0, end, "noise")
    r = np.ones((plan.origins, len(plan.targets), noise.shape[1]))
    for column, t in enumerate(plan.targets):
        r[0, column] = noise[t]
        r[BEFORE, column] = ratio(t - 1, t + 1)[-1]
        for row, s in enumerate(plan.starts, start=1):
            r[row, column] = starts[s][t - s] if s < t else r[BEFORE, column]
    result = _assigned(result, "", ("target",), (_telescoped(r[..., 0] - 1),), reference=True)
    if plan.bands is None:
        return result
    result = _assigned(result, "_spectrum", ("target", "frequency"), (_telescoped(r[..., 1:-1] - 1),), reference=True)
    return _assigned(result, "_high", ("target",), (_telescoped(DECIBEL * np.log(r[..., -1])),), reference=True)
