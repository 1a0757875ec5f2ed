"""Levels that are chosen on one half of the images and certified on the other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.experiments.choice import RULES, choice_of, half, ruled, variance_is_wide
from exposure_bias.levels import chosen_levels
from exposure_bias.samplers import parse
from exposure_bias.statistics.bands import dct_matrix

SHAPE = (1, 4, 4)
LINEAR = eb.schedules.linear()
# Variances of the DCT modes, which fall with frequency as images' do.
SPECTRUM = 1 / (1 + np.add.outer(np.arange(4), np.arange(4))).ravel() ** 2
BASIS = np.kron(dct_matrix(4), dct_matrix(4))
COVARIANCE = BASIS.T @ np.diag(SPECTRUM) @ BASIS


def oracle(schedule: Any = LINEAR) -> Any:
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), COVARIANCE, schedule)


def images(n: int = 512, seed: int = 0) -> Any:
    modes = np.sqrt(SPECTRUM) * np.random.default_rng(seed).normal(size=(n, 16))
    return eb.load_data((modes @ BASIS).reshape(n, *SHAPE), value_range=None)


def closed_form(levels: Any, sampler: str = "ddpm") -> float:
    chain = eb.references.gaussian_chain(np.zeros(SHAPE), COVARIANCE, levels, sampler)
    return float(chain["gap"][-1])


@pytest.fixture(scope="module")
def found() -> Any:
    return eb.optimise_levels(oracle(), images(), calls=6, n=256)


def test_chosen_levels_are_better_than_every_rule(found: Any) -> None:
    """In the closed form of the law itself, not of the images that they were chosen with."""
    levels = chosen_levels(LINEAR, found["timestep"])
    assert len(levels) == 7
    assert levels[0] == LINEAR.level(999)
    setup = choice_of(oracle(), images(), "gap", 256, None, sampler="ddpm", batch_size=256).setup
    for rule in RULES:
        other = ruled(setup, rule, 6)
        assert other is not None
        assert abs(closed_form(levels)) < abs(closed_form(other)) - 0.01, rule


def test_prediction_and_certificate_agree_with_the_closed_form(found: Any) -> None:
    exact = closed_form(chosen_levels(LINEAR, found["timestep"]))
    assert exact < -0.1
    assert abs(float(found["predicted"]) - exact) < 0.03
    assert float(found["certified_low"]) < exact < float(found["certified_high"])
    assert float(found["certified_high"] - found["certified_low"]) < 0.2
    assert found["predicted_se"] > 0
    assert (found["predicted_by_rule"] < found["predicted"]).all()


def test_the_levels_can_be_recorded_and_pasted(found: Any) -> None:
    rec = eb.record(oracle(), images(32), levels=found["timestep"], streams=("chain",))
    assert rec.run.levels == chosen_levels(LINEAR, found["timestep"])
    text = found.attrs["diffusers"]
    timesteps = text.partition("timesteps=[")[2].partition("]")[0]
    assert chosen_levels(LINEAR, timesteps) == rec.run.levels
    for form in ("k_diffusion", "comfyui"):
        sigmas = found.attrs[form].partition("[")[2].partition("]")[0] or found.attrs[form][14:]
        again = chosen_levels(LINEAR, f"sigmas:{sigmas}")
        ratios = [level.ratio for level in rec.run.levels]
        assert [level.ratio for level in again] == pytest.approx(ratios, rel=1e-5)


def test_a_choice_is_kept_in_its_folder(tmp_path: Path, found: Any) -> None:
    options = {"calls": 6, "n": 256, "folder": tmp_path / "kept"}
    first = eb.optimise_levels(oracle(), images(), **options)
    again = eb.optimise_levels(oracle(), images(), **options)
    assert again.identical(first)
    assert first.drop_attrs().identical(found.drop_attrs())


def test_an_objective_of_ones_own_has_the_certificate_of_its_name() -> None:
    """The mean square about zero, which is the data's mean, is the total variance."""

    def square(x: np.ndarray) -> np.ndarray:
        return np.square(x).sum((1, 2, 3))

    own = eb.optimise_levels(oracle(), images(), calls=5, n=256, objective=square)
    exact = closed_form(chosen_levels(LINEAR, own["timestep"]))
    assert own.attrs["objective"].endswith("square")
    assert abs(float(own["certified"]) - exact) < 4 * float(own["certified_se"]) + 0.005
    assert abs(float(own["predicted"]) - exact) < 0.04


def test_high_frequencies_are_in_decibels_and_get_other_levels() -> None:
    options = {"calls": 5, "n": 256}
    high = eb.optimise_levels(oracle(), images(), objective="hf", **options)
    gap = eb.optimise_levels(oracle(), images(), certify=False, **options)
    assert high.attrs["unit"] == "dB"
    assert np.isnan(gap["certified"])
    assert high["timestep"].values.tolist() != gap["timestep"].values.tolist()
    agreed = abs(float(high["predicted"] - high["certified"]))
    assert agreed < 3 * float(high["certified_se"]) + 0.1


@pytest.mark.parametrize(
    "schedule", [eb.schedules.edm(), eb.schedules.flow()], ids=lambda s: s.name
)
def test_continuous_schedules(schedule: Any) -> None:
    found = eb.optimise_levels(oracle(schedule), images(), calls=5, n=64, certify=False)
    levels = chosen_levels(schedule, found["timestep"])
    exact = closed_form(levels)
    assert abs(float(found["predicted"]) - exact) < 0.08  # of 64 images' own variances
    assert abs(exact) < abs(closed_form(schedule.levels(5))) - 0.02
    assert "sigmas=" in found.attrs["diffusers"]
    assert np.isnan(found["predicted_se"])


def whole_only(x: Any, t: Any) -> Any:
    """The exact ε̂ of white data of variance ½ at whole timesteps, and nothing between them."""
    if t.is_floating_point():
        raise IndexError("an embedding's table")
    alpha, sigma = (torch.from_numpy(v)[t].view(-1, 1, 1, 1) for v in (LINEAR.alpha, LINEAR.sigma))
    return sigma / (alpha**2 / 2 + sigma**2) * x


def test_networks_that_know_whole_timesteps_only() -> None:
    model = eb.Denoiser(whole_only, schedule=LINEAR, prediction_type="epsilon", shape=SHAPE)
    data = eb.load_data(
        np.sqrt(0.5) * np.random.default_rng(0).normal(size=(128, *SHAPE)), value_range=None
    )
    found = eb.optimise_levels(model, data, calls=8, n=64, certify=False)
    assert (found["timestep"] % 1 == 0).all()
    assert {"linspace", "quadratic"} <= set(found["rule"].values)


def test_a_curve_over_calls_and_rules() -> None:
    curve = eb.level_curve(oracle(), images(), calls=(6, 3), rules=("linspace",), n=256)
    assert curve["calls"].values.tolist() == [3, 6]
    assert curve["rule"].values.tolist() == ["chosen", "linspace"]
    assert (curve["advantage"].sel(rule="chosen") == 0).all()
    assert (curve["advantage_low"].sel(rule="linspace") > 0).all()
    alone = eb.optimise_levels(oracle(), images(), calls=6, n=256)
    here = curve.sel(calls=6, rule="chosen")
    for name in ("predicted", "certified", "certified_se"):
        assert float(here[name]) == pytest.approx(float(alone[name]), abs=1e-12)


def test_which_samplers_are_understood() -> None:
    for name, wide in (("ddpm", False), ("ddim:1", False), ("ddpm:fixed_large", True)):
        assert variance_is_wide(parse(name), LINEAR) is wide
    for name in ("ddim", "ddim:0.5", "heun", "dpmpp_2m_sde", "dpm_2_ancestral"):
        with pytest.raises(eb.InputError, match="that ask once a step"):
            variance_is_wide(parse(name), LINEAR)


def test_halves_have_every_image_once() -> None:
    data = images(65)
    both = [half(data, which) for which in (0, 1)]
    assert [len(part) for part in both] == [33, 32]
    np.testing.assert_array_equal(both[1].batch([3])[0], data.batch([7])[0])


def nan(x: np.ndarray) -> np.ndarray:
    return np.full(len(x), np.nan)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"calls": 1}, "at least 2"),
        ({"calls": 2.5}, "whole number"),
        ({"calls": 1001}, "2 to 128 calls"),
        ({"objective": "fid"}, "allowed are gap, hf"),
        ({"objective": nan}, "NaN or Inf"),
        ({"sampler": "ddim"}, "ask once a step"),
        ({"sampler": "DDPMScheduler"}, "choose for ddpm|levels of your choice|takes no"),
        ({"n": 5}, "at least 32"),
        ({"data": images(40)}, "at least 64"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_network_runs(options: Any, says: str) -> None:
    asked = []

    def network(x: Any, t: Any) -> Any:
        asked.append(len(x))
        return x

    model = eb.Denoiser(network, schedule=LINEAR, prediction_type="epsilon", shape=SHAPE)
    data = options.pop("data", images(128))
    with pytest.raises(eb.InputError, match=says):
        eb.optimise_levels(model, data, **options)
    assert max(asked, default=1) == 1  # the probe alone, which names a plain function


def test_guided_fields_and_networks_that_do_not_denoise_are_refused() -> None:
    guided = eb.Denoiser(
        lambda x, t: x, schedule=LINEAR, prediction_type="epsilon", shape=SHAPE, guidance=3.0
    )
    with pytest.raises(eb.InputError, match="guided field"):
        eb.optimise_levels(guided, images(128))
    wrong = eb.Denoiser(lambda x, t: -x, schedule=LINEAR, prediction_type="epsilon", shape=SHAPE)
    with pytest.raises(eb.InputError, match="no denoiser of these data"):
        eb.optimise_levels(wrong, images(512), n=256)
    with pytest.raises(eb.InputError, match="unknown rule"):
        eb.level_curve(oracle(), images(128), rules=("cubic",))


def test_the_command_ends_with_levels_to_paste(tmp_path: Path, capsys: Any) -> None:
    from exposure_bias.cli import main
    from exposure_bias.results import load_result

    given = ["levels", "--model", "test_optimise_levels:oracle"]
    given += ["--data", "test_optimise_levels:images", "-o", str(tmp_path)]
    assert main([*given, "--calls", "4", "--no-certificate"]) in (None, 0)
    timesteps = load_result(tmp_path / "optimise-levels.nc")["timestep"].values
    printed = capsys.readouterr().out
    listed = ", ".join(f"{t:.0f}" for t in timesteps)
    assert f"scheduler.set_timesteps(timesteps=[{listed}])" in printed
    assert printed.rstrip().rpartition("\n")[2].startswith("ManualSigmas")
    assert main([*given[:1], str(tmp_path / "optimise-levels.nc")]) in (None, 0)
    for wrong in (
        ["--calls", "1"],
        ["--calls", "3", "4", "--no-certificate"],
        ["--sampler", "ddim"],
    ):
        assert main([*given, *wrong]) == 2
    assert main([*given, "--objective", "test_optimise_levels:nothing"]) == 2


def nothing(images: Any) -> Any:
    """An objective that is no number."""
    return np.full(len(images), np.nan)
