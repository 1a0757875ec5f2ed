"""The solver's share by sampler and steps: one budget for each chain, network calls counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_budget import LINEAR, SHAPE, images, oracle

import exposure_bias as eb
from exposure_bias.experiments.budget import Answer
from exposure_bias.experiments.solvers import network_calls


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [("ddpm", 10), ("ddim", 10), ("euler", 10), ("heun", 19)],
)
def test_a_chains_network_calls(sampler: str, calls: int) -> None:
    levels = eb.schedules.linear().levels(10)
    assert network_calls(eb.samplers.parse(sampler), levels) == calls


def test_each_chain_has_the_budget_it_has_alone() -> None:
    model, data, samplers = oracle(), images(256), ["ddpm", "ddim", "ddim:0.5"]
    found = eb.solver_curve(model, data, samplers, [4, 3], n=256)
    assert found["steps"].values.tolist() == [3, 4]
    for sampler in ("ddpm", "ddim"):
        for steps in (3, 4):
            alone = eb.error_budget(
                model, data, sampler=sampler, steps=steps, n=256, restarts=()
            ).sel(statistic="gap")
            here = found.sel(sampler=str(eb.samplers.parse(sampler)), steps=steps, statistic="gap")
            for part in ("total", "discretisation", "score", "score_se"):
                assert float(here[part]) == pytest.approx(float(alone[part]), abs=1e-9)
    unknown = found.isel(sampler=2)
    assert (unknown["answer"] == Answer.UNKNOWN).all()
    assert np.isnan(unknown["discretisation"]).all()


def test_a_curve_is_kept_in_its_folder(tmp_path: Path) -> None:
    model, data = oracle(), images(256)
    plain = eb.solver_curve(model, data, ["ddim"], [3], n=256)
    for _ in range(2):
        kept = eb.solver_curve(model, data, ["ddim"], [3], n=256, folder=tmp_path / "kept")
        assert kept.drop_attrs().identical(plain.drop_attrs())


def test_more_steps_have_less_of_an_error() -> None:
    found = eb.solver_curve(oracle(), images(256), ["ddim", "heun"], [5, 10, 20], n=256)
    error = np.abs(found["discretisation"].sel(statistic="gap"))
    assert (error.diff("steps") < 0).all()
    assert error.sel(sampler="heun", steps=20) < 0.3 * error.isel(sampler=0).sel(steps=20)


@pytest.mark.parametrize(
    ("samplers", "steps", "says"),
    [
        ([], [5], "at least one"),
        (["ddim"], [], "at least one"),
        (["ddim", "ddim:0"], [5], "must be different"),
    ],
)
def test_what_does_not_fit_is_refused(samplers: list[str], steps: list[int], says: str) -> None:
    with pytest.raises(eb.InputError, match=says):
        eb.solver_curve(oracle(), images(40), samplers, steps)


def test_a_margin_is_positive() -> None:
    with pytest.raises(eb.InputError, match="above 0"):
        eb.solver_curve(oracle(), images(40), ["ddim"], [3], margin=0.0)


class Counted:
    """A network that counts the states that it is asked about."""

    def __init__(self) -> None:
        self.exact, self.asked = oracle(), 0

    def __call__(self, x: Any, t: Any) -> Any:
        self.asked += len(x)
        return self.exact(x.double(), LINEAR.level(float(t[0])))

    def denoiser(self) -> eb.Denoiser:
        return eb.Denoiser(self, schedule=LINEAR, prediction_type="sample", shape=SHAPE)


N = 84  # steps of the finest grid on the linear schedule
LIMIT = N + N // 2 + N // 4 + 3  # calls a sample of one limit


def calls_of(run: Any) -> float:
    """How often a function of a model asks its network, by sample of 256."""
    net = Counted()
    run(net.denoiser())
    return net.asked / 256


def test_one_limit_serves_all_samplers_lengths_and_spacings(tmp_path: Path) -> None:
    """Six chains of the SDE and two of the ODE; a second call computes no limit at all."""
    data = images(256)

    def curve(samplers: list[str], steps: list[int], folder: Path | None = None) -> float:
        return calls_of(
            lambda model: eb.solver_curve(model, data, samplers, steps, n=256, folder=folder)
        )

    check = 8 / 4 + 6 * 16 / 256  # of each chain's network: eight levels, and six probes
    several = curve(["ddpm", "ddpm:fixed_large", "ddim:1"], [4, 6], tmp_path / "kept")
    assert several == pytest.approx(LIMIT + 3 * (4 + 6) + 6 * check, abs=2)
    both = curve(["ddim"], [4, 6])
    assert both == pytest.approx(LIMIT + (4 + 6) + 2 * check, abs=2)
    further = curve(["ddpm"], [9], tmp_path / "kept")
    assert further == pytest.approx(9 + check, abs=2)


def test_compare_and_fid_compute_one_limit_for_each_network_too(tmp_path: Path) -> None:
    data = images(256)

    def compared(steps: int) -> float:
        return calls_of(
            lambda model: eb.compare(
                [model, eb.remedies.epsilon_scaled(model, 1.01)],
                data,
                steps=steps,
                n=256,
                lengths=(),
                folder=tmp_path / "compared",
            )
        )

    first, second = compared(4), compared(6)
    assert first == pytest.approx(2 * (LIMIT + 2 * 4), abs=4)
    assert second == pytest.approx(2 * 2 * 6, abs=4)
    curves = calls_of(
        lambda model: eb.chain_length_fid(
            model, data, (4, 6), sampler=["ddpm", "ddim:1"], features="pixel", n=256, limit=True
        )
    )
    assert curves == pytest.approx(LIMIT + 3 + 2 * (4 + 6), abs=2)
