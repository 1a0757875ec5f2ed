"""Where along the chain its gap arises: an exact decomposition into blocks of steps.

Let R(s→t) be a statistic at level t of the chain that starts at true x_s, R(t→t) the same of true
x_t, and R(noise→t) that of the chain from pure noise. For starts T = s_0 > s_1 > … > s_m > t,

    R(noise→t) − R(t→t) = [R(noise→t) − R(T→t)]                    prior mismatch
                        + Σ_j [R(s_j→t) − R(s_{j+1}→t)]            the steps from s_j to s_{j+1}
                        + [R(s_m→t) − R(t+1→t)]                    the steps from s_m to t + 1
                        + [R(t+1→t) − R(t→t)]                      the last step,

an identity. Each bracket is the effect at t of model *and* solver in that block, carried to t by
the model's own chain; it is not split further. All starts lie on one teacher chain and all chains
meet the same noise, so that the brackets' intervals are narrow. The same brackets of a perfect
denoiser of Gaussian data stand beside them; those of an exact oracle, or of the model with smaller
steps, are the same call with the oracle, or with `refine`.

R is the variance gap Σ_i Var_i(x̂_t) / Σ_i(α_t²σ_i² + σ_t²) − 1 and, by DCT band, the power of x̂_t
− α_t μ over what is expected of x_t, less 1; at frequencies of ¼ cycle per pixel and above also in
decibels, whose sum at the clean end is HF.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.experiments.kinds.telescope import TELESCOPE
from exposure_bias.jackknife import (
    DECIBEL,
    GROUPS,
    Array,
    Estimate,
    Groups,
    jackknife,
    sums_by_group,
    why_no_interval,
    with_estimates,
)
from exposure_bias.oracles import Teacher
from exposure_bias.recording import Recording
from exposure_bias.references import Eigen, gaussian_chain, gaussian_power
from exposure_bias.results import returns
from exposure_bias.running.loop import Turn, fill
from exposure_bias.running.setup import Samples, Setup, prepare, varied, with_options
from exposure_bias.samplers import DDPM, Sampler
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.statistics.bands import Bands, dct
from exposure_bias.streams import chain, noised, prior

ROUND_OFF = 1e-12
# Besides the starts, the last two origins of a statistic at level t: true x_{t+1}, and true x_t
# itself.
BEFORE, HERE = -2, -1
NO_SPECTRUM = "vectors have no spectrum"


@returns(TELESCOPE)
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
    timestep_spacing: str | None = None,
    n: int | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """The brackets of the module's identity for several blocks and target levels t, on n images.

    starts: timesteps s_j, each moved to the nearest level; the noisiest level is always among them;
    by default five, spread evenly over the steps. targets: timesteps t, by default the starts but
    the first; the clean end is always among them. refine: this many steps in place of each, starts
    and targets staying where they are. steps, sampler, grid, clip, seed, batch_size, checkpoint: as
    in `record`. n: by default the data's, at most 1024. It takes Σ (steps from each start), all
    steps once more for the prior, and one for each target, network evaluations an image.

    Returns, with `_se` partners and, for a perfect denoiser of Gaussian data with these steps,
    `_gaussian`:

    - R (origin, target): the relative variance gap; origins are noise, the starts' timesteps, t+1,
      t;
    - bracket (block, target): differences of R between consecutive origins;
    - gap, gap_data (target): their sum R(noise→t) − R(t→t), and without the prior's R(T→t) −
      R(t→t);

    the same with `_spectrum`, over (…, frequency), as relative power, NaN where none is expected;
    and with `_high`, in dB, for frequencies of ¼ cycle per pixel and above; neither for states
    without space. A block that reaches beyond t + 1 is cut off there. Coordinates of the targets:
    timestep, alpha, sigma.

    Raises InputError for levels off the chain and for whatever else does not fit.
    """
    setup = prepare(
        model,
        data,
        kind="telescope",
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
    plan = _Plan.of(varied(setup), starts, targets)
    sums = plan.sums()
    add, calls = partial(_add, plan, sums), plan.evaluations
    fill(plan.setup, sums, add, size=batch_size, evaluations=calls, checkpoint=checkpoint)
    plan.copy_known(sums)
    result = _result(plan, sums)
    count = sums.state["count"]
    result.attrs = plan.setup.attributes | why_no_interval(count) | _notes(plan, result)
    return result


def _notes(plan: "_Plan", result: xr.Dataset) -> dict[str, str]:
    if plan.bands is None:
        return {"no_spectrum": NO_SPECTRUM}
    if result["R_spectrum"].isnull().any():
        return {"no_power": "spectra are empty where the data have no power and no noise is left"}
    return {}


@dataclass(frozen=True)
class _Plan:
    """Which chains run from where to where.

    Row 0 is noise, then come the starts, then BEFORE and HERE.
    """

    setup: Setup
    starts: list[int]
    targets: list[int]

    @classmethod
    def of(
        cls, setup: Setup, starts: Sequence[float] | None, targets: Sequence[float] | None
    ) -> "_Plan":
        """The starts, with the noisiest level, and the targets, with the clean end."""
        first = sorted({0, *setup.starts(starts)})
        last = first[1:] if targets is None else setup.starts(targets) if len(targets) else []
        if 0 in last:
            raise InputError(
                "a target must be cleaner than the noisiest level, where no step has been taken yet"
            )
        last = [*last, setup.run.steps]
        return cls(with_options(setup, {"starts": first, "targets": last}), first, last)

    @property
    def origins(self) -> int:
        """How many rows."""
        return len(self.starts) + 3

    @property
    def singles(self) -> list[int]:
        """Targets that need a step of their own from t + 1.

        Elsewhere a start's chain has taken it.
        """
        return [t for t in self.targets if t - 1 not in self.starts]

    @property
    def evaluations(self) -> int:
        """Network evaluations an image."""
        end = self.setup.run.steps
        return end + sum(end - s for s in self.starts) + len(self.singles)

    @cached_property
    def bands(self) -> Bands | None:
        """The DCT's, where there is space."""
        space = self.setup.model.shape[1:]
        return dct(*space) if space else None

    @property
    def teacher(self) -> Sampler:
        """The sampler of the teacher chain.

        Its states are exactly q(x_t | x_0) whatever the model's variance.
        """
        sampler = self.setup.sampler
        return sampler if sampler.exact_teacher else DDPM()

    def sums(self) -> Sums:
        """Zero sums by group."""
        sums = Sums()
        rows = {"group": GROUPS, "origin": self.origins, "target": len(self.targets)}
        sums.add_sum("count", group=GROUPS)
        sums.add_sum("total", **rows, pixel=int(np.prod(self.setup.model.shape)))
        sums.add_sum("square", **rows)
        if self.bands is not None:
            width = len(self.bands.count)
            sums.add_sum("power", **rows, band=width)
            sums.add_sum("power_data", group=GROUPS, band=width)
        return sums

    def copy_known(self, sums: Sums) -> None:
        """Copy what needs no chain of its own.

        One step from a start, and blocks that end before they begin.
        """
        for name in sums.state.keys() & {"total", "square", "power"}:
            for column, target in enumerate(self.targets):
                here = sums.state[name][:, :, column]
                if target - 1 in self.starts:
                    here[:, BEFORE] = here[:, 1 + self.starts.index(target - 1)]
                for row, start in enumerate(self.starts, start=1):
                    if start >= target:
                        here[:, row] = here[:, BEFORE]


class _Keeper:
    """Adds states to the sums of their origin and target."""

    def __init__(self, plan: _Plan, batch: Samples, sums: Sums) -> None:
        self.plan, self.batch, self.state = plan, batch, sums.state
        self.column = {target: k for k, target in enumerate(plan.targets)}
        self.mean = torch.from_numpy(plan.setup.law.mean).to(batch.x0.device)
        self.state["count"] += Groups(batch.images).count
        if plan.bands is not None:
            self.state["power_data"] += self._power(batch.x0 - self.mean, plan.bands)

    def keep(self, row: int, target: int, x: torch.Tensor) -> None:
        """Add the states of one origin at one target."""
        d = x - self.plan.setup.levels[target].alpha * self.mean
        place = (slice(None), row, self.column[target])
        images = self.batch.images
        self.state["total"][place] += sums_by_group(d.flatten(1), images)
        self.state["square"][place] += sums_by_group(d.square().flatten(1).sum(1), images)
        if self.plan.bands is not None:
            self.state["power"][place] += self._power(d, self.plan.bands)

    def _power(self, d: torch.Tensor, bands: Bands) -> Array:
        return sums_by_group(bands.power(d.cpu().numpy()).sum(1), self.batch.images)


def _add(plan: _Plan, sums: Sums, batch: Samples, turn: Turn) -> None:
    """Add a batch of images to the sums."""
    setup, levels, keeper = plan.setup, plan.setup.levels, _Keeper(plan, batch, sums)
    model, path = setup.conditioned(batch.images), setup.path(batch.ids)
    truth = _teacher_states(plan, batch, keeper)
    noise = prior(levels[0], setup.path(batch.ids).start(0), setup.sampler)
    origins = [(0, 0, noise)] + [(i + 1, s, truth[s]) for i, s in enumerate(plan.starts)]
    for row, first, x in origins:
        for step in chain(model, x, levels[first:], setup.sampler, path, setup.clip, first=first):
            if step.index in keeper.column and step.index > first:
                keeper.keep(row, step.index, step.x)
        turn.report(len(batch.ids) * (len(levels) - 1 - first))
    for t in plan.singles:
        tail = levels[t - 1 : t + 1]
        *_, step = chain(model, truth[t - 1], tail, setup.sampler, path, setup.clip, first=t - 1)
        keeper.keep(BEFORE, t, step.x)
        turn.report(len(batch.ids))


def _teacher_states(plan: _Plan, batch: Samples, keeper: _Keeper) -> dict[int, torch.Tensor]:
    """True states on one teacher chain, where a chain begins; those at the targets are kept."""
    setup, levels, path = plan.setup, plan.setup.levels, plan.setup.path(batch.ids)
    needed = {*plan.starts, *plan.targets, *(t - 1 for t in plan.singles)}
    truth = {}
    start = noised(batch.x0, levels[0], path.start(0))
    for step in chain(Teacher(batch.x0, setup.model.schedule), start, levels, plan.teacher, path):
        if step.index in needed:
            truth[step.index] = step.x
        if step.index in keeper.column:
            keeper.keep(HERE, step.index, step.x)
    return truth


def _result(plan: _Plan, sums: Sums) -> xr.Dataset:
    setup, levels, state = plan.setup, plan.setup.levels, sums.state
    count = state["count"]
    timestep, alpha, sigma = np.array([levels[t] for t in plan.targets]).T
    names = [f"{levels[s].timestep:g}" for s in plan.starts]
    blocks = [f"{s} to {t}" for s, t in zip(names, [*names[1:], "t+1"], strict=True)]
    result = xr.Dataset(
        coords={
            "origin": ["noise", *names, "t+1", "t"],
            "block": ["prior", *blocks, "t+1 to t"],
            "target": timestep,
            "timestep": ("target", timestep),
            "alpha": ("target", alpha),
            "sigma": ("target", sigma),
        }
    )
    variance = setup.law.variance
    expected = alpha**2 * variance.sum() + sigma**2 * variance.size

    def gaps(n: float, total: Array, square: Array) -> Array:
        spread = (square - np.square(total).sum(-1) / n) / (n - 1)
        return _telescoped(spread / expected - 1)

    result = _assigned(
        result, "", ("target",), jackknife(gaps, count, state["total"], state["square"])
    )
    if plan.bands is not None:
        result = _with_spectra(result, plan, plan.bands, sums)
    if not setup.has_reference:
        return result
    return _with_gaussian(result, plan)


def _with_spectra(result: xr.Dataset, plan: _Plan, bands: Bands, sums: Sums) -> xr.Dataset:
    """The same by frequency, and in decibels for the high ones."""
    alpha, sigma = result["alpha"].values[:, None], result["sigma"].values[:, None]
    noise = sigma**2 * bands.count * plan.setup.model.shape[0]

    def ratios(n: float, power: Array, data: Array) -> Array:
        return _ratio(power, alpha**2 * data + n * noise)

    def spectra(n: float, power: Array, data: Array) -> Array:
        return _telescoped(ratios(n, power, data)[..., :-1] - 1)

    def high(n: float, power: Array, data: Array) -> Array:
        return _telescoped(_decibel(ratios(n, power, data)[..., -1]))

    powers = sums.state["count"], sums.state["power"], sums.state["power_data"]
    result = result.assign_coords(frequency=bands.label)
    result = _assigned(result, "_spectrum", ("target", "frequency"), jackknife(spectra, *powers))
    return _assigned(result, "_high", ("target",), jackknife(high, *powers))


def _decibel(ratio: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Array = DECIBEL * np.log(ratio)
    return value


def _ratio(power: Array, expected: Array) -> Array:
    """NaN in bands without power, but for round-off."""
    visible = expected > ROUND_OFF * expected.max(-1, keepdims=True)
    return np.divide(
        power,
        expected,
        out=np.full_like(power, np.nan),
        where=np.broadcast_to(visible, power.shape),
    )


def _telescoped(r: Array) -> Array:
    """R, its brackets, and the gaps from noise and from data, one after another.

    R: (origin, …); the brackets: (origin − 1, …).
    """
    brackets = r[:-1] - r[1:]
    return np.concatenate([r, brackets, r[[0]] - r[[HERE]], r[[1]] - r[[HERE]]])


def _parts(origins: int, telescoped: Array) -> dict[str, Array]:
    """What `_telescoped` put together, by name."""
    return {
        "R": telescoped[:origins],
        "bracket": telescoped[origins : 2 * origins - 1],
        "gap": telescoped[-2],
        "gap_data": telescoped[-1],
    }


LEADING: dict[str, tuple[str, ...]] = {
    "R": ("origin",),
    "bracket": ("block",),
    "gap": (),
    "gap_data": (),
}


def _assigned(
    result: xr.Dataset, suffix: str, dims: tuple[str, ...], estimate: Estimate
) -> xr.Dataset:
    """The dataset with the parts of a telescoped estimate."""
    origins = result.sizes["origin"]
    values, errors = _parts(origins, estimate.value), _parts(origins, estimate.error)
    for name, leading in LEADING.items():
        part = Estimate(values[name], errors[name])
        result = with_estimates(result, (*leading, *dims), **{f"{name}{suffix}": part})
    return result


def _with_gaussian(result: xr.Dataset, plan: _Plan) -> xr.Dataset:
    """The same of a perfect denoiser of Gaussian data with the data's mean and covariance."""
    r = _gaussian_ratios(plan)
    found: dict[str, tuple[tuple[str, ...], Array]] = {"": (("target",), r[..., 0] - 1)}
    if plan.bands is not None:
        found["_spectrum"] = (("target", "frequency"), r[..., 1:-1] - 1)
        found["_high"] = (("target",), _decibel(r[..., -1]))
    for suffix, (dims, values) in found.items():
        for name, part in _parts(plan.origins, _telescoped(values)).items():
            result[f"{name}{suffix}_gaussian"] = ((*LEADING[name], *dims), part)
    return result


def _gaussian_ratios(plan: _Plan) -> Array:
    """Variance over what is expected of x_t, by origin and target.

    Where there are bands, power by band as well.
    """
    setup, levels, end = plan.setup, plan.setup.levels, len(plan.setup.levels)
    eigen = Eigen(setup.law.values, setup.law.vectors)
    recording = Recording({"data": setup.law.to_dataset()}, setup.run, 0)

    def ratio(first: int, last: int, start: str = "data") -> Array:
        """At levels first … last − 1."""
        reference = gaussian_chain(setup.law.mean, eigen, levels[first:last], setup.sampler, start)
        curves: Array = reference["gap"].values[:, None] + 1
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
    return r
