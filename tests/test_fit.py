"""Epsilon scaling fitted to a recording: what recovers an injected scale, and what the published
recipe makes of it."""

import re

import numpy as np
import pytest

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.experiments.fit import KINDS, fitted_scaling, forward_scale


@pytest.fixture(scope="module")
def case():
    rng, d = np.random.default_rng(0), 36
    root = rng.normal(size=(d, d)) / 6
    covariance = 0.3 * root @ root.T + 0.01 * np.eye(d)
    x = (
        rng.multivariate_normal(np.zeros(d), covariance, 1024)
        .reshape(-1, 1, 6, 6)
        .astype(np.float32)
    )
    oracle = eb.oracles.GaussianOracle(np.zeros((1, 6, 6)), covariance, eb.schedules.linear(1000))
    return oracle, eb.load_data(x, value_range=None)


@pytest.fixture(scope="module")
def recorded(case):
    """Oracles with ε̂ = factor · ε*, and their recordings, by factor."""
    models = {
        factor: eb.remedies.epsilon_scaled(case[0], 1 / factor) for factor in (0.98, 1.0, 1.02)
    }
    return {
        factor: (model, eb.record(model, case[1], steps=20)) for factor, model in models.items()
    }


@pytest.mark.parametrize("factor", [0.98, 1.0, 1.02])
def test_the_forward_fit_recovers_an_injected_scale(recorded, factor):
    model, recording = recorded[factor]
    value, se = forward_scale(recording)
    assert abs(value - factor) < 3.3 * se
    assert se < 0.002
    healed, words = fitted_scaling(model, recording, "forward")
    assert f"{value:.4f}" in words
    assert healed._scale(model.schedule.level(500)) == pytest.approx(value)


def test_the_published_recipe_reads_the_growth_of_norms_and_not_the_scale(recorded):
    """Too large an ε̂ costs the chain variance, so that its norms fall: the recipe's λ moves away
    from the scale."""
    uniform = [float(eb.epsilon_norm(recorded[c][1])["scale_uniform"]) for c in (0.98, 1.0, 1.02)]
    assert uniform[0] > uniform[1] > uniform[2]
    assert abs(uniform[1] - 1) < 1e-3


def test_every_kind_is_what_epsilon_norm_suggests(recorded):
    model, recording = recorded[1.02]
    norms = eb.epsilon_norm(recording)
    linear, _ = fitted_scaling(model, recording, "linear")
    # Call i of the recorded chain is divided by k i + b.
    for call, step in zip(norms["call_index"].values[:3], norms["step"].values, strict=False):
        level = eb.schedules.Level(*recording.provenance["run"]["levels"][step])
        expected = float(norms["scale_slope"]) * call + float(norms["scale_offset"])
        assert linear._scale(level) == pytest.approx(expected, abs=2e-4)
    levels, _ = fitted_scaling(model, recording, "levels")
    for step in (3, 11):
        level = eb.schedules.Level(*recording.provenance["run"]["levels"][step])
        assert levels._scale(level) == pytest.approx(float(norms["scale"][step]), abs=1e-3)
    assert {fitted_scaling(model, recording, kind)[0].weight_hash for kind in KINDS}.isdisjoint(
        {model.weight_hash}
    )


def test_what_cannot_be_fitted(case, recorded):
    model, recording = recorded[1.02]
    with pytest.raises(eb.InputError, match="not of Gaussian oracle"):
        fitted_scaling(case[0], recording)
    with pytest.raises(
        eb.InputError, match=r"unknown fit 'cubic'.*uniform, linear, levels, forward"
    ):
        fitted_scaling(model, recording, "cubic")
    unpaired = eb.record(model, case[1], steps=2, n=16, start="noise")
    digits, images = eb.load_model("digits"), eb.load_data("digits")
    for clip in (True, "keep_epsilon"):
        clipped = eb.record(digits, images, steps=2, n=16, clip=clip)
        with pytest.raises(eb.InputError, match=r"x0 clipped .* record it with clip=False"):
            fitted_scaling(digits, clipped, "forward")
    # The forward stream has its own x_0 wherever the chains began.
    assert "lambda" in fitted_scaling(model, unpaired, "forward")[1]


def test_command_line(capsys):
    quick = ["--steps", "3", "-n", "256"]
    assert main(["norms", *quick, "--remedy", "es:fit:forward"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"es:fit:forward is lambda = \d\.\d+ ± 0\.\d+", err)
    assert "digits + es:" in out
    assert main(["norms", *quick, "--remedy", "es:fit:x"]) == 2
    assert main(["rollout", *quick, "--remedy", "es:fit"]) == 2
    assert "needs a recording to fit to" in capsys.readouterr().err
