"""Does the first check refuse networks that are called wrongly, and only those?

    python benchmarks/wrappings.py          # about three minutes; writes results/wrappings.csv

The exact denoiser of each of eight laws is called in twelve wrong ways, which are those that users
of a toolkit commit; and rightly, under four schedules and three seeds. A model that is *refused*
gets no verdict. Bars: of the 96 wrong ones at least 90 refused, of the 96 exact ones none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from network_worlds import SHAPE, laws

import exposure_bias as eb
from exposure_bias.experiments.bench import Bench
from exposure_bias.experiments.budget import checked, planned
from exposure_bias.schedules import Schedule, conversion

OUT = Path(__file__).parents[1] / "results" / "wrappings.csv"
SCHEDULES: dict[str, Schedule] = {
    "linear": eb.schedules.linear(),
    "cosine": eb.schedules.cosine(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}
CORRELATED = ("1/f", "rotated", "lumps", "tails")
LAWS = (*CORRELATED, "white", "mixture", "signs", "ring")
SAMPLES, SEEDS = 512, 3
STEPS = 6  # so few that none of the chain's own levels may be a middle one


class Network:
    """A law's exact denoiser as a function of states and timesteps, on the linear schedule."""

    def __init__(self, exact: eb.Denoiser, returns: str, time: Callable[[float], float]) -> None:
        self.exact, self.returns, self.time = exact, returns, time

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        schedule = self.exact.schedule
        level = schedule.level(min(max(self.time(float(t[0])), 0.0), len(schedule) - 1.0))
        states = x.double()
        said = self.exact.predict(states, level)
        if self.returns == "score":
            return -said.epsilon / level.sigma
        p, q = conversion("epsilon", self.returns, level)
        return p * states + q * said.epsilon


def wrapped(
    exact: eb.Denoiser,
    returns: str = "epsilon",
    declared: str = "epsilon",
    sign: float = 1.0,
    time: Callable[[float], float] = float,
) -> eb.Denoiser:
    """A model that returns one thing and is declared to return another."""
    net = Network(exact, returns, time)
    return eb.Denoiser(
        lambda x, t: sign * net(x, t),
        schedule=exact.schedule,
        prediction_type=declared,
        shape=SHAPE,
    )


WRONG: dict[str, dict[str, Any]] = {
    "wrong sign": {"sign": -1.0},
    "score, declared epsilon": {"returns": "score"},
    "v, declared epsilon": {"returns": "v_prediction"},
    "x_0, declared epsilon": {"returns": "sample"},
    "epsilon, declared v": {"declared": "v_prediction"},
    "time in [0, 1]": {"time": lambda t: t / 1000},
    "time halved": {"time": lambda t: t / 2},
    "time stuck": {"time": lambda t: 500.0},
    "time reversed": {"time": lambda t: 999 - t},
    "data times 2": {"scale": 2.0},
    "data halved": {"scale": 0.5},
    "data in [0, 255]": {"scale": 127.5},
}


def asked() -> Iterator[dict[str, Any]]:
    """One row for each model."""
    for name in LAWS:
        law = laws()[name]
        exact = law.denoiser(SCHEDULES["linear"])
        for wrong, options in WRONG.items():
            how = dict(options)
            scale = how.pop("scale", 1.0)
            yield row(name, wrong, "linear", wrapped(exact, **how), scale * states(law, 0), 0)
        for schedule, noise in SCHEDULES.items():
            for seed in range(SEEDS):
                model = law.denoiser(noise)
                yield row(name, "exact", schedule, model, states(law, seed), seed)


def states(law: Any, seed: int) -> np.ndarray:
    """A data set of a law's."""
    drawn: np.ndarray = law.draw(SAMPLES, np.random.default_rng([seed, 11]))
    return drawn.astype(np.float32)


def row(
    law: str, how: str, schedule: str, model: eb.Denoiser, x: np.ndarray, seed: int
) -> dict[str, Any]:
    """What the check says of a model and data."""
    data = eb.load_data(x, value_range=None)
    setup = planned(model, data, 0.05, sampler="ddpm", steps=STEPS, n=SAMPLES, seed=seed)
    passes, sentence = checked(Bench(setup, SAMPLES))
    return {
        "law": law,
        "wrapping": how,
        "schedule": schedule,
        "seed": seed,
        "passes": passes,
        "sentence": sentence,
    }


def main() -> None:
    """Ask all models, and print how many were refused."""
    torch.set_num_threads(1)
    rows = pd.DataFrame(list(asked()))
    rows.to_csv(OUT, index=False)
    refused = rows["passes"] == "no"
    for what, here in (
        ("wrong", rows["wrapping"] != "exact"),
        ("exact", rows["wrapping"] == "exact"),
    ):
        print(f"{what}: {(refused & here).sum()} of {here.sum()} refused")
    wrong = rows[(rows["wrapping"] != "exact") != refused]
    print(wrong[["law", "wrapping", "schedule"]].to_string())


if __name__ == "__main__":
    main()
