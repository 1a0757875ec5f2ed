"""What a stranger wrote, a multistep sampler, a statistic, a remedy and a model, through everything
there is."""

import json
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.clipping import UNCLIPPED
from exposure_bias.jackknife import GROUPS
from exposure_bias.remedies import Remedied
from exposure_bias.samplers import OneStep
from exposure_bias.statistics.accumulator import Accumulator

SHAPE = (1, 4, 4)
VARIANCES = np.linspace(0.4, 0.05, 16)


@dataclass(frozen=True)
class Multistep(OneStep):
    """DPM-Solver++(2M) with a weight on its correction: 1 is the published one."""

    weight: float = 1.0

    exact_teacher = True
    limit = "ode"

    def step(self, *_):
        raise NotImplementedError

    def begin(self, levels):
        return History(self.weight)

    def transition(self, levels):
        return None


class History:
    def __init__(self, weight):
        self.weight, self.last = weight, None

    def step(self, x, now, s, t, z, predict):
        x0, before, self.last = now.x0, self.last, (now.x0, s)
        if t.sigma == 0 or s.alpha == 0:
            return t.alpha * x0 + t.sigma * now.epsilon
        h = log(s.ratio / t.ratio)
        if before is not None and before[1].alpha:
            x0 = x0 + self.weight * (x0 - before[0]) / (2 * log(before[1].ratio / s.ratio) / h)
        return t.sigma / s.sigma * x + t.alpha * (1 - exp(-h)) * x0


class Midpoint(OneStep):
    """A linear one-step sampler with a call of its own half-way in log σ/α, and noise."""

    stochastic = True

    def step(self, x, now, s, t, z, predict):
        if t.sigma == 0:
            return now.x0
        middle = eb.schedules.Level(
            (s.timestep + t.timestep) / 2, (s.alpha + t.alpha) / 2, (s.sigma + t.sigma) / 2
        )
        then = predict(middle.alpha * now.x0 + middle.sigma * now.epsilon, middle)
        return t.alpha * then.x0 + t.sigma * (0.8 * then.epsilon + 0.6 * z)


class Fourth(Accumulator):
    def __init__(self, layout):
        super().__init__()
        self.add_sum("fourth", step=layout.steps, group=GROUPS)
        self.add_rows("largest", layout.samples, step=layout.steps)

    def update(self, rows, batch):
        self.state["fourth"][rows] += (
            batch.groups.sum(batch.state.pow(4).sum(2), axis=1).cpu().numpy()
        )
        self.state["largest"][batch.samples, rows] = batch.state.abs().amax(2).T.cpu().numpy()


class TakesAName(Accumulator):
    def __init__(self, layout):
        super().__init__()
        self.add_sum("state_sum", step=layout.steps)


class Shrunk(Remedied):
    def __init__(self, model, share=0.02):
        super().__init__(model, f"shrunk:{share}")
        self.share = share

    def predict(self, x, level, clip=UNCLIPPED):
        said = super().predict(x, level, clip)
        x0 = (1 - self.share) * said.x0
        return said._replace(x0=x0, epsilon=(x - level.alpha * x0) / level.sigma)


def model():
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), VARIANCES, eb.schedules.linear(1000))


def images(n=256):
    x = np.sqrt(VARIANCES) * np.random.default_rng(0).standard_normal((n, 16))
    return eb.load_data(x.reshape(n, *SHAPE).astype(np.float32), value_range=None)


SAMPLERS = [Multistep(), Multistep(0.5), Midpoint()]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_strangers_sampler_records_the_same_in_any_batch(sampler, tmp_path):
    one, other = (
        eb.record(model(), images(), sampler=sampler, steps=6, batch_size=size, statistics=[Fourth])
        for size in (256, 50)
    )
    for name in one["chain"]:
        np.testing.assert_allclose(
            one["chain"][name], other["chain"][name], rtol=1e-6, atol=1e-6, err_msg=name
        )
    for diagnostic in (
        eb.variance_gap,
        eb.spectrum,
        eb.epsilon_norm,
        eb.state_error,
        eb.published_delta,
    ):
        assert isinstance(diagnostic(one), xr.Dataset)
    one.save(tmp_path / "run.nc")
    again = eb.load(tmp_path / "run.nc")
    assert again["chain"].identical(one["chain"])
    assert again.run == one.run


def test_multistep_is_what_it_says():
    """Its affine probe: the state after k steps on x̂_0 = c_k is the closed form of the
    recursion."""
    levels = eb.schedules.linear(1000).levels(5, "karras")
    steps = Multistep().begin(levels)
    x = torch.tensor([[1.0]], dtype=torch.float64)
    x0 = [0.3, -0.2, 0.5, 0.1, 0.4]
    expected = 1.0
    for k, (s, t) in enumerate(pairwise(levels)):
        now = eb.samplers.Prediction(x0[k], (float(x) - s.alpha * x0[k]) / s.sigma)
        x = steps.step(x, now, s, t, None, None)
        if t.sigma == 0:
            expected = x0[k]
            break
        h, d = log(s.ratio / t.ratio), x0[k]
        if k:
            d += (x0[k] - x0[k - 1]) * h / (2 * log(levels[k - 1].ratio / s.ratio))
        expected = t.sigma / s.sigma * expected + t.alpha * (1 - exp(-h)) * d
    assert float(x) == pytest.approx(expected, rel=1e-12)


def test_a_linear_strangers_reference_is_its_own():
    """Recorded moments of the Gaussian oracle's chain agree with the reference made from `step`
    alone."""
    rec = eb.record(model(), images(4096), sampler=Midpoint(), steps=8, n=4096, batch_size=4096)
    gaps = eb.variance_gap(rec)
    z = (gaps["excess_over_gaussian"] / gaps["excess_over_gaussian_se"]).values[1:]
    assert (abs(z) < 5).all()
    assert abs(gaps["gap_gaussian"].values[-1]) > 20 * gaps["excess_over_gaussian_se"].values[-1]


@pytest.mark.parametrize("sampler", SAMPLERS[:1] + SAMPLERS[2:], ids=str)
def test_every_experiment_takes_a_strangers_sampler(sampler, tmp_path):
    options = {"sampler": sampler, "n": 256}
    assert float(eb.chain_errors(model(), images(), (3, 9), **options)["pooled_rmse"][0]) > 0
    rolled = eb.rollouts(model(), images(), steps=5, replicates=1, **options)
    assert np.isfinite(rolled["A"]).all()
    told = eb.telescope(model(), images(), steps=5, **options)
    np.testing.assert_allclose(told["bracket"].sum("block"), told["gap"], atol=1e-12)
    curve = eb.chain_length_fid(model(), images(), (3, 6), features="pixel", **options)
    assert curve.attrs["measure"] != "FID"
    compared = eb.compare([model(), Shrunk(model())], images(), steps=5, lengths=(3,), **options)
    assert np.isfinite(compared["gap_difference_se"].values[1, 1:]).all()
    budget = eb.error_budget(model(), images(), steps=8, **options)
    answer = str(budget["answer"].sel(statistic="gap").values)
    assert (answer == "limit unknown") is (sampler.limit is None)
    eb.record(model(), images(), steps=5, checkpoint=tmp_path / "c.nc", **options)
    with pytest.raises(eb.InputError, match=r"differ in .*sampler"):
        eb.record(model(), images(), steps=5, checkpoint=tmp_path / "c.nc", sampler="ddim", n=256)


def test_what_a_statistic_keeps_is_merged_and_resumed(tmp_path):
    options = {"steps": 4, "statistics": [Fourth], "batch_size": 32}
    whole = eb.record(model(), images(), n=128, **options)
    parts = [eb.record(model(), images(), n=64, first=k, **options) for k in (0, 64)]
    joined = eb.merge(parts)
    for name in ("fourth", "largest"):
        np.testing.assert_allclose(joined["chain"][name], whole["chain"][name], rtol=1e-6)
    path = tmp_path / "run.nc"

    class Killed(Fourth):
        calls = 0

        def update(self, rows, batch):
            Killed.calls += 1
            if Killed.calls > 12:
                raise KeyboardInterrupt
            super().update(rows, batch)

    Killed.__module__, Killed.__qualname__ = Fourth.__module__, Fourth.__qualname__
    with pytest.raises(KeyboardInterrupt):
        eb.record(model(), images(), n=128, checkpoint=path, **(options | {"statistics": [Killed]}))
    resumed = eb.record(model(), images(), n=128, checkpoint=path, **options)
    assert resumed["chain"].identical(whole["chain"])
    with pytest.raises(eb.InputError, match="statistics"):
        eb.record(model(), images(), n=128, checkpoint=path, steps=4, batch_size=32)


def test_bad_strangers(tmp_path, monkeypatch):
    with pytest.raises(eb.InputError, match="'state_sum', a name that is taken"):
        eb.record(model(), images(), steps=2, statistics=[TakesAName])
    with pytest.raises(eb.InputError, match="made int"):
        eb.record(model(), images(), steps=2, statistics=[lambda layout: 3])

    class Half:
        stochastic = ancestral = exact_teacher = False

        def begin(self, levels):
            return self

    with pytest.raises(eb.InputError, match="lacks limit, levels, transition, prior_scale"):
        eb.record(model(), images(), steps=2, sampler=Half())
    with pytest.raises(eb.InputError, match="is a class"):
        eb.record(model(), images(), steps=2, sampler=Multistep)
    for wrong, message in (
        ("test_strangers:Nobody", "cannot import"),
        ("no_such_module:X", "cannot import"),
        ("test_strangers:Multistep:wait=1", "cannot make"),
        ("test_strangers:Multistep:weight", "key=value"),
    ):
        with pytest.raises(eb.InputError, match=message):
            eb.record(model(), images(), steps=2, sampler=wrong)
    with pytest.raises(eb.InputError, match="returned int"):
        eb.remedies.remedied(model(), "test_strangers:number")
    with pytest.raises(eb.InputError, match="called with GaussianOracle"):
        eb.remedies.remedied(model(), "test_strangers:images_twice")


def number(_):
    return 3


def images_twice():
    return None


OURS = [
    "--model",
    "test_strangers:model",
    "--data",
    "test_strangers:images",
    "--steps",
    "4",
    "-n",
    "64",
]


@pytest.mark.parametrize("command", ["spectrum", "gap", "delta", "norms", "state-error"])
def test_commands_that_record(command, capsys):
    given = [
        "--sampler",
        "test_strangers:Multistep:weight=0.5",
        "--statistic",
        "test_strangers:Fourth",
    ]
    assert main([command, *OURS, *given, "--remedy", "test_strangers:Shrunk", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "test_strangers:Multistep:weight=0.5" in json.dumps(said)
    assert "shrunk:0.02" in json.dumps(said)


@pytest.mark.parametrize(
    "command",
    [
        ["rollouts", "--replicates", "1"],
        ["telescope"],
        ["budget", "--restarts"],
        ["diagnose", "--restarts"],
        [
            "compare",
            "test_strangers:model",
            "test_strangers:model + test_strangers:Shrunk",
            "--lengths",
        ],
    ],
    ids=lambda c: c[0],
)
def test_commands_that_run(command, capsys):
    given = OURS if command[0] != "compare" else OURS[2:]
    assert main([*command, *given, "--sampler", "test_strangers:Multistep", "--json"]) == 0
    assert "Multistep" in capsys.readouterr().out


def test_chain_length_fid_takes_them(capsys):
    given = [a for a in OURS if a not in ("--steps", "4")]
    options = ["--features", "pixel", "--lengths", "2", "4", "--sampler", "test_strangers:Midpoint"]
    assert (
        main(["chain-length-fid", *given, *options, "--remedy", "test_strangers:Shrunk", "--json"])
        == 0
    )
    assert "shrunk:0.02" in capsys.readouterr().out
