"""Which sampler to use instead: candidates that were walked, before one of them is advised.

Beside the chain that a user asks about, candidates of few network calls walk on the same samples
and the same Brownian paths, the cheapest first. Each is held against the limit that it tends to, so
that its discretisation error is the sampler's share of the variance gap as in an error budget. The
images fall into two halves, every other group of the jackknife:

*Chosen* on the first half: the share and its one-sided 95 % half-width stay below the margin (two
one-sided tests). *Confirmed* on the second half in the same way; what is said of a candidate is
measured there, on images and noise that did not choose it. The first candidate that passes both is
advised, and the search ends. The chain that was asked about takes part as it is.

*The guard.* Advice must not buy variance with quality. A candidate is passed over where, by more
than the interval of the paired difference over all images, it is farther than the asked chain from
the data

- in the variance or in the power at high frequencies (hf), if it also misses them by more than the
  margin;
- in the Fréchet distance of normal distributions along the data's leading directions,
  Σ [m_k² + (s_k − σ_k)²] / Σ σ_k², with m_k the mean of the samples along direction k, s_k and σ_k
  the standard deviations of samples and data; if it is also larger than by margin²/4, which is what
  a variance that is off by the margin everywhere amounts to.

The interval of a half has 7 degrees of freedom, as it rests on 8 groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.errors import InputError
from exposure_bias.experiments.bench import Bench
from exposure_bias.experiments.snippets import diffusers_code, python_code
from exposure_bias.experiments.solvers import network_calls
from exposure_bias.experiments.split import PARTS, Split, split, unit
from exposure_bias.jackknife import (
    GROUPS,
    LEVEL,
    T_QUANTILE,
    Array,
    grouped,
    jackknife,
    standard_error,
    t_quantile,
    too_few,
)
from exposure_bias.recording import Recording
from exposure_bias.results.numbers import number, percent, rounded
from exposure_bias.run import Stream
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup, prepare, varied
from exposure_bias.statistics.accumulator import Accumulator, Layout
from exposure_bias.statistics.collector import DIRECTIONS
from exposure_bias.statistics.projections import Projections

CALLS = (6, 8, 10, 12, 15, 20, 30)
MOST_CALLS = 250  # of all candidates together, for each sample
HALF = GROUPS // 2
T_BOTH, T_ONE = t_quantile((1 + LEVEL) / 2, HALF - 1), t_quantile(LEVEL, HALF - 1)
FIRST = (np.arange(GROUPS) % 2 == 0).astype(np.float64)
SECOND = 1 - FIRST
SDE = "DPMSolverMultistepScheduler:algorithm_type=sde-dpmsolver++"
# The candidates of a network, by what its schedule is.
CANDIDATES = {
    "vp": (
        "UniPCMultistepScheduler:use_exponential_sigmas=true",
        "UniPCMultistepScheduler",
        SDE,
    ),
    "flow": ("DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "dpmpp_2m_sde"),
    "edm": ("EDMDPMSolverMultistepScheduler", "dpmpp_2m", "dpmpp_2m_sde"),
}
OWN = ("dpmpp_2m", "heun", "dpmpp_2m_sde")


class Verdict:
    """What became of a candidate."""

    ADVISED = "advised"
    TOO_LARGE = "too large"
    NOT_CONFIRMED = "not confirmed"
    NOT_REACHED = "limit not reached"
    VARIANCE = "variance worse"
    HIGH = "high frequencies worse"
    FRECHET = "Fréchet distance worse"
    DEARER = "dearer"  # good enough, but another is cheaper


@dataclass(frozen=True)
class Share:
    """The sampler's share of the gap on half of the images: value, standard error, limit's error.

    slack: how far the limit may be off.
    """

    value: float
    error: float
    slack: float

    def half_width(self, t: float = T_BOTH) -> float:
        """Half of its interval."""
        return t * self.error + self.slack

    def below(self, margin: float) -> bool:
        """Whether it is below the margin by two one-sided tests."""
        return abs(self.value) + self.half_width(T_ONE) < margin


@dataclass(frozen=True)
class Trial:
    """A chain that was walked. name: the sampler's; found: its budget; ends: its recording."""

    name: str
    setup: Setup
    calls: int
    found: Split
    ends: Recording
    asked: bool = False

    def share(self, kept: Array) -> Share:
        """The sampler's share from half of the groups, weights (16,)."""
        row, part = self.found.names.index("gap"), PARTS.index("discretisation")

        def at(groups: Array) -> float:
            return float(self.found.estimate(groups)[part, row, -1])

        without = np.array([at(kept - one) for one in np.eye(GROUPS)[kept > 0]])
        check = self.found.check
        slack = 0.0 if check is None else float(check.unfinished[row, -1])
        return Share(at(kept), float(standard_error(without - without.mean())), slack)

    @cached_property
    def confirmed(self) -> Share:
        """On the half of the images that does not choose."""
        return self.share(SECOND)

    def far(self, name: str, groups: Array) -> Array:
        """How far a statistic at the end is from the data's, whatever the reason."""
        row, part = self.found.names.index(name), PARTS.index("total")
        return np.abs(self.found.estimate(groups)[part, row, -1])

    def judged(self, margin: float, asked: "Trial") -> str:
        """What becomes of the chain, beside the one that was asked about."""
        if not self.found.reached("gap"):
            return Verdict.NOT_REACHED
        if not self.share(FIRST).below(margin):
            return Verdict.TOO_LARGE
        if not self.confirmed.below(margin):
            return Verdict.NOT_CONFIRMED
        if self is not asked:
            for name, verdict in (("gap", Verdict.VARIANCE), ("hf", Verdict.HIGH)):
                if name in self.found.names and self._is_worse(name, margin, asked):
                    return verdict
            change, error = frechet_change(self.ends, asked.ends)
            if change - T_BOTH * error > 0 and change > margin**2 / 4:
                return Verdict.FRECHET
        return Verdict.ADVISED

    def _is_worse(self, name: str, margin: float, asked: "Trial") -> bool:
        """Whether a statistic is farther from the data than the asked chain's, and too far."""
        count = self.ends["chain"]["count"].values

        def change(_: float, kept: Array) -> Array:
            return np.asarray(self.far(name, kept) - asked.far(name, kept))

        found = jackknife(change, count, np.eye(GROUPS))
        most = unit(name) * np.log1p(margin) if name == "hf" else margin
        too_far = float(self.far(name, np.ones(GROUPS))) > most
        return too_far and float(found.value - T_BOTH * found.error) > 0


def advice(bench: Bench, margin: float) -> tuple[xr.Dataset, str]:
    """Walk candidates for a bench's chain, and advise the cheapest that is good enough.

    Returns what they showed, over (candidate), the asked chain first: calls; chosen and confirmed,
    the sampler's share on the two halves of the images with `_se`, `_low` and `_high`;
    network_share, in the limit that the chain tends to, with the same; verdict. Its attributes are
    the advice: `advice`, a sentence, and `advice_…`, the same in fields and as code. Or an empty
    dataset and the reason why there is no advice.
    """
    setup = bench.paired
    if setup.run.model.guided:
        return xr.Dataset(), "advice on samplers, because under guidance there is no target"
    asked = _asked(bench)
    if reason := too_few([asked.ends["chain"]["count"].values]):
        return xr.Dataset(), f"advice on samplers, because {reason}"
    trials, verdicts, spent = [asked], [asked.judged(margin, asked)], 0
    for name, calls in _ladder(setup):
        good = verdicts[0] == Verdict.ADVISED and calls >= asked.calls
        if good or spent + calls > MOST_CALLS:
            break
        found = _walked(bench, name, calls)
        if found is None:
            continue
        trials, spent = [*trials, found], spent + calls
        verdicts.append(found.judged(margin, asked))
        if verdicts[-1] == Verdict.ADVISED:
            verdicts[0] = Verdict.DEARER if verdicts[0] == Verdict.ADVISED else verdicts[0]
            break
    result = _table(trials, verdicts)
    chosen = next((t for t, v in zip(trials, verdicts, strict=True) if v == Verdict.ADVISED), None)
    return result.assign_attrs(_words(trials, chosen, margin)), ""


def _ladder(setup: Setup) -> Iterator[tuple[str, int]]:
    """Samplers and numbers of calls to try, the cheapest first."""
    schedule = setup.model.schedule
    kind = schedule.parameterisation
    known = OWN if schedule.continuous and kind == "vp" else CANDIDATES.get(kind, OWN)
    same = setup.sampler.limit
    for calls in CALLS:
        for name in known if same == "ode" else reversed(known):
            if schedule.continuous or calls < len(schedule):
                yield name, calls


def _asked(bench: Bench) -> Trial:
    """The chain that was asked about, started on the data."""
    setup = bench.paired
    found = split(bench, setup, "chain")
    ends = bench.chain(setup, "chain")
    if "state_projection_sum" not in ends["chain"]:
        ends = _recorded(bench, setup, "asked")
    calls = network_calls(setup.sampler, setup.levels)
    return Trial(setup.run.sampler, setup, calls, found, ends, asked=True)


def _walked(bench: Bench, name: str, calls: int) -> Trial | None:
    """A candidate's chain; None where the sampler cannot run it."""
    setup, run = bench.paired, bench.paired.run
    try:
        steps = (calls + 1) // 2 if name == "heun" else calls
        sampler = sampler_for(name, setup.model, steps)
        own = prepare(
            setup.model,
            setup.data,
            kind="recording",
            sampler=sampler,
            steps=steps,
            n=setup.n,
            clip=run.clip,
            seed=run.seed,
            batch_size=bench.batch_size,
            streams=(Stream.CHAIN,),
        )
        own = varied(own)
        ends = _recorded(bench, own, f"{_file(name)}-{steps}")
    except InputError:
        return None
    place = bench.folder and bench.folder / "advice"
    trial = Bench(own, bench.batch_size, place, ends, bench.limits, bench.limit_n)
    found = split(trial, own, f"{_file(name)}-{steps}", doubled=False)
    return Trial(name, own, network_calls(own.sampler, own.levels), found, ends)


def _file(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _recorded(bench: Bench, setup: Setup, name: str) -> Recording:
    """A chain with its moments along the data's leading directions."""

    def projections(layout: Layout) -> Accumulator | None:
        vectors = layout.law.vectors[:DIRECTIONS]
        wanted = layout.stream == "chain" and len(vectors)
        return Projections(layout, vectors, cross=False) if wanted else None

    path = None if bench.folder is None else bench.folder / "advice" / f"{name}.nc"
    return recorded(replace(setup, light=True), [projections], bench.batch_size, path)


def frechet_change(one: Recording, other: Recording) -> tuple[float, float]:
    """By how much one chain's Fréchet distance exceeds another's, and the standard error.

    The distance is that of the module docstring; 0 ± 0 where no directions are known.
    """
    if any("state_projection_sum" not in r["chain"] for r in (one, other)):
        return 0.0, 0.0
    sums = [
        grouped(r["chain"], f"state_projection_{part}")[:, -1]
        for r in (one, other)
        for part in ("sum", "square")
    ]
    variance = one["data"]["eigenvalue"].values[: sums[0].shape[1]]

    def distance(n: float, total: Array, square: Array) -> Array:
        mean = total / n
        spread = np.sqrt(np.maximum((square - n * mean**2) / (n - 1), 0))
        return np.asarray((mean**2 + (spread - np.sqrt(variance)) ** 2).sum() / variance.sum())

    def change(n: float, *sums: Array) -> Array:
        return distance(n, *sums[:2]) - distance(n, *sums[2:])

    found = jackknife(change, one["chain"]["count"].values, *sums)
    return float(found.value), float(found.error)


def _table(trials: Sequence[Trial], verdicts: Sequence[str]) -> xr.Dataset:
    """All trials, over (candidate)."""
    names = [f"{t.name}, {t.calls} calls" + (" (yours)" if t.asked else "") for t in trials]
    result = xr.Dataset(coords={"candidate": names})
    result["candidate_calls"] = ("candidate", [t.calls for t in trials])
    for name, kept in (("chosen_share", FIRST), ("confirmed_share", SECOND)):
        shares = [t.share(kept) for t in trials]
        result = _assigned(result, name, shares)
    network = []
    for trial in trials:
        value, error = trial.found.at("gap")["score"]
        network.append((value, T_QUANTILE * error, error))
    value, half, error = np.array(network).T
    columns = {"": value, "_se": error, "_low": value - half, "_high": value + half}
    for ending, values in columns.items():
        result[f"network_share{ending}"] = ("candidate", values)
    return result.assign(verdict=("candidate", list(verdicts)))


def _assigned(result: xr.Dataset, name: str, shares: Sequence[Share]) -> xr.Dataset:
    value, half = (np.array([s.value for s in shares]), np.array([s.half_width() for s in shares]))
    columns = {
        "": value,
        "_se": np.array([s.error for s in shares]),
        "_low": value - half,
        "_high": value + half,
    }
    return result.assign({f"{name}{k}": ("candidate", v) for k, v in columns.items()})


def _words(trials: Sequence[Trial], chosen: Trial | None, margin: float) -> dict[str, Any]:
    """The advice as attributes: a sentence, its fields, and code."""
    asked, limit = trials[0], f"{rounded(100 * margin)} %"
    if chosen is None:
        known = [t for t in trials if np.isfinite(t.confirmed.value)]
        if not known:
            return {"advice": "No sampler that was tried tends to a limit that is known."}
        best = min(known, key=lambda t: abs(t.confirmed.value))
        return {
            "advice": (
                f"None of the {len(trials)} samplers that were tried leaves less than {limit} of"
                f" the variance to the sampler without making the samples worse. {_called(best)}"
                f" comes closest, with {_told(best)}."
            )
        }
    told = f"{_called(chosen)} leaves {_told(chosen)} of the variance to the sampler"
    if chosen is asked:
        said = f"Keep your chain: {told}, and none of the cheaper chains that were tried does."
        if len(trials) == 1:
            said = f"Keep your chain: {told}."
    else:
        known = np.isfinite(asked.confirmed.value)
        said = f"On images that did not choose it, {told}" + (
            f"; your {_called(asked)} leaves {_told(asked)}." if known else "."
        )
    if chosen.setup.sampler.limit != asked.setup.sampler.limit:
        value, error = chosen.found.at("gap")["score"]
        said += (
            f" It tends to the limit of the {str(chosen.setup.sampler.limit).upper()}, where the"
            f" network's share is {percent(value, error)}."
        )
    half = chosen.confirmed.half_width()
    fields: dict[str, Any] = {
        "advice": said,
        "advice_sampler": chosen.name,
        "advice_steps": chosen.setup.run.steps,
        "advice_calls": chosen.calls,
        "advice_share": chosen.confirmed.value,
        "advice_share_low": chosen.confirmed.value - half,
        "advice_share_high": chosen.confirmed.value + half,
        "advice_python": python_code(chosen.setup),
    }
    code = diffusers_code(chosen.setup)
    return fields | ({"advice_diffusers": code} if code else {})


def _called(trial: Trial) -> str:
    return f"{trial.name} with {trial.calls} calls"


def _told(trial: Trial) -> str:
    """The share as the half of the images that did not choose has it."""
    share = trial.confirmed
    return f"{number(100 * share.value, 100 * share.half_width(), signed=True)} %"
