"""What tells models apart whose weights cannot: functions, and modules that are called
differently."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.denoisers import probe
from exposure_bias.experiments.fit import fitted_scaling
from exposure_bias.recording import merge
from exposure_bias.run import Probe

SHAPE = (1, 4, 4)
SCHEDULE = eb.schedules.linear(100)


def function(scale, name="f", **options):
    call = (
        (lambda x, t: scale * x)
        if "classes" not in options
        else (lambda x, t, c: scale * x + c.view(-1, 1, 1, 1))
    )
    given = {"schedule": SCHEDULE, "prediction_type": "epsilon", "shape": SHAPE, "name": name}
    return eb.Denoiser(call, **given, **options)


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(0).normal(0, 0.3, (32, *SHAPE)).astype(np.float32)
    return eb.load_data(images, value_range=None, labels=np.arange(32) % 3)


RUNS = {
    "record": lambda model, data, path: eb.record(model, data, steps=2, checkpoint=path),
    "chain_errors": lambda model, data, path: eb.chain_errors(model, data, (2,), checkpoint=path),
    "rollouts": lambda model, data, path: eb.rollouts(
        model, data, steps=3, starts=[50], checkpoint=path
    ),
    "telescope": lambda model, data, path: eb.telescope(model, data, steps=3, checkpoint=path),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("options", [{}, {"classes": 3}], ids=["unconditional", "conditional"])
def test_another_function_does_not_go_on_with_a_run(data, tmp_path, run, options):
    path = tmp_path / "run.nc"
    first = run(function(0.9, **options), data, path)
    # Another device or number of threads gives other round-off, and is the same model.
    again = run(function(0.9 * (1 + 1e-4), **options), data, path)
    one, other = (r["chain"] if isinstance(r, eb.Recording) else r for r in (first, again))
    assert one.identical(other)
    with pytest.raises(eb.InputError, match=r"another run.*answer one fixed noise differently"):
        run(function(0.9 * 1.005, **options), data, path)


def test_modules_that_are_called_differently_are_told_apart(data, tmp_path):
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    options = {"schedule": SCHEDULE, "prediction_type": "epsilon", "shape": SHAPE}
    plain = eb.Denoiser(net, call=lambda net, x, t: net(x), **options)
    scaled = eb.Denoiser(net, call=lambda net, x, t: 1.01 * net(x), **options)
    assert plain.weight_hash == scaled.weight_hash
    eb.record(plain, data, steps=2, checkpoint=tmp_path / "run.nc")
    with pytest.raises(eb.InputError, match="answer one fixed noise differently"):
        eb.record(scaled, data, steps=2, checkpoint=tmp_path / "run.nc")


def test_recordings_of_different_functions_are_not_joined(data):
    one, other = (
        eb.record(function(s), data, steps=2, n=16, first=f) for s, f in ((0.9, 0), (0.5, 16))
    )
    with pytest.raises(
        eb.InputError, match=r"cannot be merged.*answer one fixed noise differently"
    ):
        merge([one, other])
    with pytest.raises(eb.InputError, match="answer one fixed noise differently"):
        fitted_scaling(function(0.5), one)
    # A recording without a probe, of a loop that was observed, is compared in everything else.
    unknown = replace(other, run=replace(other.run, probe=None))
    assert merge([one, unknown]).n == 32


def test_half_precision_is_compared_more_loosely():
    one, near, far = (
        replace(probe(function(s)), tolerance=t)
        for s, t in ((0.9, 5e-2), (0.92, 2e-3), (0.99, 2e-3))
    )
    assert one.agrees(near)
    assert not one.agrees(far)
    assert not one.agrees(Probe(one.values[:-1], 1.0))
    half = eb.Denoiser(
        lambda x, t: x.half(), schedule=SCHEDULE, prediction_type="epsilon", shape=SHAPE
    )
    assert probe(half).tolerance > probe(function(1.0)).tolerance
