"""Does the budget decide, and rightly? Networks whose truth is known, by the hundred.

    python benchmarks/verdict.py run --minutes 45      # CPU minutes; goes on where it stopped
    python benchmarks/verdict.py table                 # docs/verdict.md, of what is there

A *problem* is a law, a schedule and a network: the exact denoiser, or one with a known error. Its
*cells* are data sets of 512 or 2,048 images of the law's own. In each cell the budget is taken with
ddpm (SDE) and ddim (ODE), in 5, 10, 20 and 50 steps. Problems come in a random order, so that
whatever has been run is a fair sample.

The *truth* is measured by brute force, on other images and other noise: a stochastic Heun sampler
(SDE) or Heun's (ODE) of 240 steps walks with the wrong network and with the exact one on the same
paths. The difference of their variances is the score error; that of an exact network is 0."""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from textwrap import wrap
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from network_worlds import SHAPE, SIZE, Wrong, laws, scaled, wrong

import exposure_bias as eb
from exposure_bias.diagnostics.denoising import denoising_check
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.budget import (
    MARGIN,
    RESTART_MARGIN,
    Candidate,
    judged,
    planned,
    restart_places,
    tail,
    unit_of_margin,
)
from exposure_bias.experiments.limits import limit_grid
from exposure_bias.experiments.split import split
from exposure_bias.jackknife import GROUPS, T_QUANTILE, jackknife
from exposure_bias.paths import Paths
from exposure_bias.samplers import OneStep, Prediction, parse
from exposure_bias.schedules import Level, Schedule
from exposure_bias.streams import rollout

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "verdict"
PAGE = ROOT / "docs" / "verdict.md"

SCHEDULES = {
    "linear": eb.schedules.linear(),
    "cosine": eb.schedules.cosine(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}
SAMPLERS = {"sde": "ddpm", "ode": "ddim"}
STEPS = (5, 10, 20, 50)
RESTARTED = 20  # the number of steps at which all rows of the table are taken
TRUTH_SAMPLES, TRUTH_STEPS, BATCH = 4096, 240, 2048
SEED_OF_TRUTH = 10**6
NOT_REACHED = "limit not reached"


@dataclass(frozen=True)
class Heun(OneStep):
    """Heun's rule for the SDE or the ODE of a network; two calls a step.

    SDE, in y = αx/σ² and λ = SNR: dy = f dλ + dW. ODE, in u = x/α and r = σ/α: du = (u − f) dr/r.
    """

    limit: Any = "sde"

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether a step uses noise."""
        return self.limit == "sde"

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Any) -> Any:
        """x_t from x_s."""
        if self.limit == "sde":
            y, length = s.alpha * x / s.sigma**2, t.snr - s.snr
            scale = t.sigma**2 / t.alpha
            noise = np.sqrt(length) * z
            after = predict(scale * (y + length * now.x0 + noise), t).x0
            return scale * (y + length * (now.x0 + after) / 2 + noise)
        if s.alpha == 0:
            return t.alpha * now.x0 + t.sigma / s.sigma * x
        u, change = x / s.alpha, t.ratio - s.ratio
        slope = (u - now.x0) / s.ratio
        v = u + change * slope
        after = (v - predict(t.alpha * v, t).x0) / t.ratio
        return t.alpha * (u + change * (slope + after) / 2)


def of_x0(factor: Any) -> Any:
    """x̂_0 times a number, a tensor of the state's shape, or a function of the level."""

    def change(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        return m * (factor(level) if callable(factor) else factor)

    return change


def preconditioned(spread: float, factor: float) -> Any:
    """EDM's network, trained with σ_data = √spread and sampled with `factor` times that.

    Karras et al. 2022, arXiv 2206.00364, Table 1.
    """

    def scalings(ratio: float, data: float) -> tuple[float, float]:
        total = ratio**2 + data**2
        return data**2 / total, ratio * data / np.sqrt(total)

    def change(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        skip, out = scalings(level.ratio, np.sqrt(spread))
        other_skip, other_out = scalings(level.ratio, factor * np.sqrt(spread))
        u = x / level.alpha
        return other_skip * u + other_out / out * (m - skip * u)

    return change


def in_region(amount: float) -> torch.Tensor:
    """`amount` in a quarter of the image, 1 elsewhere."""
    factor = torch.ones(SHAPE, dtype=torch.float64)
    factor[:, :2, :2] = amount
    return factor


OWN_ERRORS = ("x0 x 0.95", "x0 x 0.9", "far x0 x 0.9", "region x0 x 0.9", "sigma_data x 0.8")
OWN_ERRORS += ("last eps x 1.05", "clipped")
SHARED_ERRORS = ("eps x 1.01", "eps x 1.02", "eps x 0.98", "high x 1.03", "region x 1.03")
SHARED_ERRORS += ("bias 0.02", "level + 5 %", "spread x 0.95", "weights x 0.3", "dropped")
ERRORS = (*OWN_ERRORS, *SHARED_ERRORS)


def network(error: str, law: Any, schedule: Schedule, spread: float) -> eb.Denoiser | None:
    """The network with an error; None where the law has no such error."""
    if error not in OWN_ERRORS:
        return at_signal(wrong(error, law, schedule))
    bound = 1.5 * np.sqrt(spread)
    changes = {
        "x0 x 0.95": of_x0(0.95),
        "x0 x 0.9": of_x0(0.9),
        "far x0 x 0.9": of_x0(lambda level: 0.9 if level.ratio > 2 * np.sqrt(spread) else 1.0),
        "region x0 x 0.9": of_x0(in_region(0.9)),
        "sigma_data x 0.8": preconditioned(spread, 0.8),
        "last eps x 1.05": scaled(lambda level: 1.05 if level.ratio < 0.3 else 1.0),
        "clipped": lambda m, x, level: m.clamp(-bound, bound),
    }
    return at_signal(Wrong(law.denoiser(schedule), changes[error], error))


def at_signal(model: eb.Denoiser | None) -> eb.Denoiser | None:
    """The network, right where a state is pure noise: an error of ε̂ would be infinite there."""
    if isinstance(model, Wrong):
        change = model.change
        model.change = lambda m, x, level: m if level.alpha == 0 else change(m, x, level)
    return model


def problems() -> list[tuple[str, str, str]]:
    """(law, schedule, error) in a random order: a third are exact."""
    rng = np.random.default_rng(7)
    everything = list(product(laws(), SCHEDULES, ERRORS))
    bad = [everything[i] for i in rng.permutation(len(everything))]
    good = list(product(laws(), SCHEDULES, ["exact"]))
    good = [good[i] for i in rng.permutation(len(good))]
    found = []
    for k, problem in enumerate(bad):
        found.append(problem)
        if k % 3 == 2 and k // 3 < len(good):
            found.append(good[k // 3])
    return found


def cells(error: str, index: int) -> list[tuple[int, int]]:
    """(n, seed) of a problem: exact ones get more, for they tell the rate of false alarms."""
    if error == "exact":
        return [(512, seed) for seed in range(5)] + [(2048, seed) for seed in range(5, 7)]
    return [(512, 0), (512, 1)] if index % 4 else [(512, 0), (2048, 1)]


def budgets(
    model: eb.Denoiser, law: Any, where: dict[str, Any], n: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The budget of one data set, by kind and number of steps."""
    rng = np.random.default_rng([seed, n, crc32(" ".join(where.values()).encode())])
    data = eb.load_data(law.draw(n, rng).astype(np.float32), value_range=None)
    limits = Limits(BATCH)
    for (kind, sampler), steps in product(SAMPLERS.items(), STEPS):
        setup = planned(model, data, MARGIN, sampler=sampler, steps=steps, n=n, seed=seed)
        bench = Bench(setup, BATCH, limits=limits)
        found = split(bench, setup, "chain")
        candidates = [
            Candidate(found, name, name, MARGIN * unit_of_margin(name, MARGIN))
            for name in found.names
        ]
        if steps == RESTARTED:
            for place in restart_places(setup, None)[0]:
                own = split(bench, tail(bench.paired, place), f"restart-{place}", own_images=True)
                candidates.append(Candidate(own, "gap", f"restart {place}", RESTART_MARGIN))
        rows = judged(candidates, setup)
        others = [row for row in rows[1:] if row.answer.startswith("score error")]
        head = rows[0]
        yield {
            **where,
            "n": n,
            "seed": seed,
            "kind": kind,
            "steps": steps,
            **{k: v[0] for k, v in head.parts.items()},
            **{f"{k}_se": v[1] for k, v in head.parts.items()},
            "slack": head.slack,
            "grid": found.steps,
            "answer": head.answer,
            "others": ";".join(row.name for row in others),
            "unreached": sum(row.answer == "limit not reached" for row in rows[1:]),
            "why": found.why,
            "denoises": denoising_check(bench.forward).attrs["passes"],
        }


def truths(
    model: eb.Denoiser, exact: eb.Denoiser, law: Any, where: dict[str, Any], spread: float
) -> Iterator[dict[str, Any]]:
    """The score error and each chain's discretisation error, by kind, by brute force."""
    largest = largest_variance(law)
    schedule = model.schedule
    for kind, sampler in SAMPLERS.items():
        start = schedule.levels(RESTARTED)[0]
        fine = limit_grid(schedule, start, largest, steps=TRUTH_STEPS)
        chains = {"wrong": (model, Heun(kind), fine)}
        if where["error"] != "exact":
            chains["right"] = (exact, Heun(kind), fine)
        for steps in STEPS:
            levels = schedule.levels(steps)[:-1]
            chains[str(steps)] = (model, parse(sampler), levels)
        ends = brute_force(chains, law, SEED_OF_TRUTH + (kind == "ode"))
        wanted = fine[-1].alpha ** 2 * spread * SIZE + fine[-1].sigma ** 2 * SIZE
        pairs = {"score": ("wrong", "right")} | {str(k): (str(k), "wrong") for k in STEPS}
        for name, (one, other) in pairs.items():
            value = error = 0.0
            if other in ends:
                value, error = difference(ends[one], ends[other], wanted)
            yield {**where, "kind": kind, "of": name, "true": value, "true_se": error}


def largest_variance(law: Any) -> float:
    """The law's largest variance along any direction."""
    states = law.draw(20000, np.random.default_rng(2)).reshape(-1, SIZE)
    return float(np.linalg.eigvalsh(np.cov(states.T))[-1])


def brute_force(chains: dict[str, Any], law: Any, seed: int) -> dict[str, np.ndarray]:
    """The states at the end of chains on common paths, (sample, D)."""
    rng = np.random.default_rng(seed)
    ends: dict[str, list[Any]] = {name: [] for name in chains}
    for first in range(0, TRUTH_SAMPLES, BATCH):
        x0 = torch.from_numpy(np.asarray(law.draw(BATCH, rng), np.float64))
        for name, (model, sampler, levels) in chains.items():
            paths = Paths(seed, range(first, first + BATCH), SHAPE).on(levels)
            x = levels[0].alpha * x0 + levels[0].sigma * paths.start(0)
            ends[name].append(rollout(model, x, levels, sampler, paths).flatten(1).numpy())
    return {name: np.concatenate(end) for name, end in ends.items()}


def difference(one: np.ndarray, other: np.ndarray, wanted: float) -> tuple[float, float]:
    """The difference of two relative variances, and its error."""
    groups = [part.reshape(GROUPS, -1, SIZE) for part in (one, other)]
    sums = [part for end in groups for part in (end.sum(1), np.square(end).sum(1))]

    def gap(n: float, *sums: Any) -> Any:
        variance = [
            (square / n - (total / n) ** 2).sum() * n / (n - 1)
            for total, square in zip(sums[::2], sums[1::2], strict=True)
        ]
        return np.asarray((variance[0] - variance[1]) / wanted)

    found = jackknife(gap, np.full(GROUPS, len(one) / GROUPS), *sums)
    return float(found.value), float(found.error)


def run(minutes: float, out: Path) -> None:
    """Measure problems until the CPU time is over; those that are in the files are passed over."""
    out.mkdir(parents=True, exist_ok=True)
    done = set()
    if (out / "problems.csv").exists():
        done = set(pd.read_csv(out / "problems.csv").itertuples(index=False, name=None))
    known, end = laws(), time.process_time() + 60 * minutes
    for index, (name, schedule, error) in enumerate(problems()):
        if time.process_time() > end:
            break
        if (name, schedule, error) in done:
            continue
        law, where = known[name], {"law": name, "schedule": schedule, "error": error}
        states = law.draw(400_000, np.random.default_rng(1)).reshape(-1, SIZE)
        spread = float(states.var(0).mean())
        model = network(error, law, SCHEDULES[schedule], spread)
        if model is None:
            continue
        exact = law.denoiser(SCHEDULES[schedule])
        true = list(truths(model, exact, law, where, spread))
        rows = [
            row for n, seed in cells(error, index) for row in budgets(model, law, where, n, seed)
        ]
        for table, file in ((true, "truth"), (rows, "cells"), ([where], "problems")):
            path = out / f"{file}.csv"
            pd.DataFrame(table).to_csv(
                path, mode="a", header=not path.exists(), index=False, float_format="%.6g"
            )
        print(f"{time.process_time():.0f} s", name, schedule, error, len(rows), flush=True)


KEY = ["law", "schedule", "error", "kind"]
CLASSES = (
    [0, 0.01, 0.02, 0.05, 0.1, np.inf],
    ["below 1 %", "1-2 %", "2-5 %", "5-10 %", "above 10 %"],
)


@dataclass(frozen=True)
class Rates:
    """What was measured: `limits`, one row for each limit, and `chains`, one for each chain."""

    limits: pd.DataFrame
    chains: pd.DataFrame
    truth: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Rates":
        """Those of a folder's files."""
        chains, truth = (pd.read_csv(folder / f"{name}.csv") for name in ("cells", "truth"))
        true = ["true", "true_se"]
        score = truth[truth["of"] == "score"].set_index(KEY)[true]
        chains = chains.join(score, on=KEY)
        chains["held"] = within(chains, "score", chains["true"], chains["true_se"])
        own = truth[truth["of"] != "score"]
        own = own.assign(steps=own["of"].astype(int)).set_index([*KEY, "steps"])[true]
        chains = chains.join(own.add_suffix("_solver"), on=[*KEY, "steps"])
        chains["solver_held"] = within(
            chains, "discretisation", chains["true_solver"], chains["true_se_solver"]
        )
        chains["exact"] = chains["error"] == "exact"
        return cls(chains[chains["steps"] == RESTARTED], chains, truth)

    def page(self) -> str:
        """The page."""
        limits, exact = self.limits, self.limits[self.limits["exact"]]
        wrong = limits[~limits["exact"]]
        accused = exact["answer"].str.startswith("score error")
        lines = [
            "# How often the budget is right",
            "",
            "Made by `python benchmarks/verdict.py table` from `results/verdict/`; do not edit.",
            "",
            *self._setting(),
            "",
            *self._goals(exact, wrong),
            "",
            "## Exact networks: false alarms",
            "",
            "An exact network has no score error. A false alarm is an answer `score error`; 5 %",
            "are",
            "expected. All samplers and numbers of steps of a data set that tend to one limit",
            "get the",
            "same score error, so that each limit counts once.",
            "",
            "| images | limit | false alarms of the headline | z: standard deviation |",
            "|---|---|---|---|",
        ]
        for (n, kind), here in exact.groupby(["n", "kind"]):
            z = (here["score"] / here["score_se"]).std()
            lines.append(f"| {n} | {kind.upper()} | {share(accused[here.index])} | {z:.2f} |")
        others = exact["others"].notna()
        lines += [
            "",
            "Standard deviation of score over standard error: 1.07 is right (t, 15 degrees of",
            "freedom).",
            "",
            "All other rows of the table (high frequencies, bands, the mean's shift, three",
            "restarts)",
            "are judged together, at one error rate. Some row but the headline is wrong in",
            f"{share(others)} of the tables with 20 steps.",
            "",
            "## Coverage of the 95 % intervals",
            "",
            "An interval holds where estimate and truth differ by less than 2.13 of their standard",
            "errors together. Limits that are not reached give no interval; they have a row of",
            "their own.",
            "",
            "| part | limit | networks | steps | holds |",
            "|---|---|---|---|---|",
        ]
        reached = limits[limits["answer"] != NOT_REACHED]
        chains = self.chains[self.chains["answer"] != NOT_REACHED]
        for kind, here in reached.groupby("kind"):
            lines.append(_row("score error", kind, "exact", "any", here[here["exact"]]["held"]))
            lines.append(_row("score error", kind, "wrong", "any", here[~here["exact"]]["held"]))
        for (kind, steps), here in chains.groupby(["kind", "steps"]):
            lines.append(_row("discretisation error", kind, "all", steps, here["solver_held"]))
        rest = limits[limits["answer"] == NOT_REACHED]["held"]
        lines.append(f"| score error, limit not reached | both | all | any | {share(rest)} |")
        lines += ["", "| by | score error holds | discretisation error holds |", "|---|---|---|"]
        for by in ("n", "schedule", "law", "error"):
            for name, here in reached.groupby(by):
                solver = chains[chains[by] == name]["solver_held"]
                lines.append(f"| {by} {name} | {share(here['held'])} | {share(solver)} |")
        lines += ["", *self._answers(wrong), "", *self._reached(), "", *self._steps(), ""]
        return "\n".join(filled(lines))

    def _setting(self) -> list[str]:
        problems = self.limits.drop_duplicates(["law", "schedule", "error"])
        refused = self.chains["denoises"] == "no"
        which = self.chains[refused].drop_duplicates(["law", "schedule", "error"])
        return [
            f"{len(problems)} networks, {problems['exact'].sum()} of them exact, on ten laws:",
            "white,",
            "correlated (1/f, rotated), a mixture, lumps, a ring of atoms, pixels of ±1, heavy",
            "tails, a",
            "rare part that carries the variance, and a subspace. Errors are of ε̂ (a factor at",
            "all",
            "levels, at the last ones, at high frequencies, in a region), of x̂_0 (shrunk",
            "everywhere,",
            "far from the data, in a region; a bias; clipped; EDM's σ_data too small), of the",
            "level, of",
            "the law's spread and weights, or a part is dropped. Schedules are linear, cosine,",
            "edm and",
            "flow; samplers ddpm and ddim in 5, 10, 20 and 50 steps; 512 or 2,048 images.",
            "Problems come",
            f"in random order. {len(self.limits)} limits and {len(self.chains)} chains were",
            "measured.",
            "",
            "The truth comes from 4,096 other images and other noise: a stochastic Heun sampler",
            "(SDE)",
            "or Heun's (ODE) in 240 steps, with the wrong network and with the exact one on the",
            "same",
            "paths. Numbers of the split are taken whether or not the first check passes;",
            f"the check refused {refused.sum()} of the chains, of {len(which)} networks. (It",
            "asked at",
            "the chain's own levels then. What it does at its own is in",
            "`benchmarks/wrappings.py`.)",
        ]

    def _goals(self, exact: pd.DataFrame, wrong: pd.DataFrame) -> list[str]:
        """What was aimed at, and what was measured."""
        reached = self.limits[self.limits["answer"] != NOT_REACHED]
        chains = self.chains[self.chains["answer"] != NOT_REACHED]
        held = [
            [100 * here[flag].mean() for _, here in rows.groupby(by)]
            for rows, by, flag in (
                (reached, ["exact", "kind"], "held"),
                (chains, ["kind", "steps"], "solver_held"),
            )
        ]
        accused = exact["answer"].str.startswith("score error")
        alarms = [share(accused[here.index]) for _, here in exact.groupby("n")]
        missed = self.limits["answer"] == NOT_REACHED
        return [
            "| goal | measured |",
            "|---|---|",
            "| score error's interval holds in 92 to 98 % (exact and wrong, SDE and ODE) |"
            f" {min(held[0]):.1f} to {max(held[0]):.1f} % |",
            "| discretisation error's interval holds in 92 to 98 % (at 5, 10, 20, 50 steps) |"
            f" {min(held[1]):.1f} to {max(held[1]):.1f} % |",
            f"| false alarms of the headline 2 to 8 %, 512 images | {alarms[0]} |",
            f"| the same, 2,048 images | {alarms[1]} |",
            f"| some other row wrong in at most 8 % | {share(exact['others'].notna())} |",
            f"| limit not reached in at most 10 % | {share(missed)} |",
        ]

    def _answers(self, wrong: pd.DataFrame) -> list[str]:
        known = wrong["true"].abs() > T_QUANTILE * wrong["true_se"]
        said = wrong["answer"].map({"score error +": 1, "score error -": -1}).fillna(0)
        signs = known & (said != 0)
        opposite = signs & (said * np.sign(wrong["true"]) < 0)
        answers = sorted(wrong["answer"].unique())
        lines = [
            "## Wrong networks: what is answered",
            "",
            f"The answer names a sign and the truth's sign is known for {signs.sum()} limits; it",
            "is the",
            f"opposite one for {opposite.sum()}. The margin is 5 %: an answer `none larger than",
            "margin`",
            "is right up to there.",
            "",
            f"| true score error | images | limits | {' | '.join(answers)} |",
            "|" + "---|" * (len(answers) + 3),
        ]
        size = pd.cut(wrong["true"].abs(), CLASSES[0], labels=CLASSES[1], include_lowest=True)
        for (name, n), here in wrong.groupby([size, "n"], observed=True):
            counts = " | ".join(str((here["answer"] == a).sum()) for a in answers)
            lines.append(f"| {name} | {n} | {len(here)} | {counts} |")
        return lines

    def _reached(self) -> list[str]:
        by = self.chains.groupby(["kind", "steps"])
        solver = [100 * here["solver_held"].mean() for _, here in by]
        lines = [
            "## Limits that are not reached",
            "",
            "The answer is then `limit not reached`. It does not depend on the number of",
            "steps. On the flow schedule an ODE has no limit from pure noise where the error",
            "of x̂_0 grows with the noise. The others are of the SDE, whose three grids did",
            "not settle.",
            "",
            "The rule about pure noise was made because of this study: among its first",
            "hundred networks the intervals of these cells missed. It was then applied to all",
            "of them, so that the coverage above is not independent of it. With every limit",
            "counted, also those that are not",
            f"reached, the score error's interval holds in {share(self.limits['held'])}, and",
            f"the discretisation error's in {min(solver):.1f} to {max(solver):.1f} %, by kind",
            "and steps.",
            "",
            "| networks | limit | not reached | doubled grids |",
            "|---|---|---|---|",
        ]
        for (exact, kind), here in self.limits.groupby(["exact", "kind"]):
            missed = here["answer"] == NOT_REACHED
            usual = here.groupby("schedule")["grid"].transform("min")
            lines.append(
                f"| {'exact' if exact else 'wrong'} | {kind.upper()} | {share(missed)}"
                f" | {(here['grid'] > 1.5 * usual).sum()} of {len(here)} |"
            )
        return lines

    def _steps(self) -> list[str]:
        """Whether the number of steps that a power law leads to suffices."""
        own = self.truth[self.truth["of"] != "score"]
        own = own.assign(steps=own["of"].astype(int))
        by = own.pivot_table(index=KEY, columns="steps", values=["true", "true_se"])
        lines = [
            "## Advice on the number of steps",
            "",
            "With an error of d at T′ steps, a first-order sampler needs N = T′ |d|/goal steps.",
            "The goal here is the error that was measured at a longer chain, whose length",
            "is",
            "then right. `diagnose` says a range from N to 3 N where no other sampler was tried.",
            "",
            "| sampler | from | to | networks | N suffices | 3 N suffices | right / N, 95 % |",
            "|" + "---|" * 7,
        ]
        for (kind, sampler), (first, last) in product(
            SAMPLERS.items(), ((5, 20), (10, 20), (10, 50), (20, 50))
        ):
            here = by.xs(kind, level="kind")
            value, error = here["true"], here["true_se"]
            known = value[last].abs() > 4 * error[last]
            known &= value[first].abs() > value[last].abs()
            value = value[known]
            ratio = last / (first * value[first].abs() / value[last].abs())
            lines.append(
                f"| {sampler} | {first} | {last} | {len(ratio)} | {100 * (ratio <= 1).mean():.0f} %"
                f" | {100 * (ratio <= 3).mean():.0f} % | {ratio.quantile(0.95):.1f} |"
            )
        return lines


def filled(lines: Sequence[str]) -> Iterator[str]:
    """The lines with those of prose filled to the page's width."""
    for prose, group in groupby(lines, lambda line: bool(line) and line[0] not in "|#"):
        block = list(group)
        yield from wrap(" ".join(block), 120) if prose else block


def within(rows: pd.DataFrame, part: str, true: Any, error: Any) -> "pd.Series[bool]":
    """Whether the interval of a part holds the truth, itself known to ± error."""
    held: pd.Series[bool] = (rows[part] - true).abs() <= T_QUANTILE * np.hypot(
        rows[f"{part}_se"], error
    )
    return held


def share(flags: "pd.Series[bool]") -> str:
    """A share with its 95 % interval (Wilson) and number."""
    n, z = max(len(flags), 1), 1.96
    p = float(flags.mean()) if len(flags) else 0.0
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = 100 * max(middle - half, 0), 100 * min(middle + half, 1)
    return f"{100 * p:.1f} % of {len(flags)} ({low:.1f} to {high:.1f})"


def _row(part: str, kind: Any, which: str, steps: Any, held: "pd.Series[bool]") -> str:
    return f"| {part} | {str(kind).upper()} | {which} | {steps} | {share(held)} |"


def main() -> None:
    """Run problems, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--minutes", type=float, default=10, help="CPU minutes")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "run":
        run(given.minutes, given.out)
    else:
        PAGE.write_text(Rates.read(given.out).page())


if __name__ == "__main__":
    main()
