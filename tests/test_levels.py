"""Levels that a user chose: timesteps or sigmas, in every sampler and scheduler that takes them."""

from typing import Any

import numpy as np
import pytest

import exposure_bias as eb
from exposure_bias.levels import chosen_levels
from exposure_bias.run import Spacing
from exposure_bias.schedules import Level, Schedule

LINEAR, EDM, FLOW = eb.schedules.linear(), eb.schedules.edm(), eb.schedules.flow()
TIMESTEPS = [999, 700, 400, 150, 20]


def oracle(schedule: Schedule = LINEAR) -> Any:
    return eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 1.0, schedule)


def images(n: int = 32) -> Any:
    return eb.load_data(np.random.default_rng(0).normal(size=(n, 1, 4, 4)), value_range=None)


def test_timesteps_are_the_networks_labels() -> None:
    levels = chosen_levels(LINEAR, TIMESTEPS)
    assert [level.timestep for level in levels] == [*TIMESTEPS, -1]
    assert levels[:-1] == tuple(LINEAR.level(t) for t in TIMESTEPS)
    assert chosen_levels(LINEAR, "999, 700,400,150,20") == levels
    assert chosen_levels(LINEAR, np.array(TIMESTEPS)) == levels
    assert chosen_levels(LINEAR, {"timesteps": TIMESTEPS}) == levels
    assert chosen_levels(LINEAR, levels) == levels


@pytest.mark.parametrize("schedule", [LINEAR, EDM, eb.schedules.vp(), eb.schedules.ve()])
def test_sigmas_are_noise_to_signal_ratios(schedule: Schedule) -> None:
    wanted = [30.0, 3.0, 0.3]
    levels = chosen_levels(schedule, {"sigmas": wanted})
    np.testing.assert_allclose([level.ratio for level in levels[:-1]], wanted, rtol=1e-9)
    assert chosen_levels(schedule, {"sigmas": [*wanted, 0]}) == levels
    assert chosen_levels(schedule, "sigmas:30,3,0.3") == levels


def test_sigmas_of_flow_models_are_those_of_diffusers() -> None:
    levels = chosen_levels(eb.schedules.flow(1000), "sigmas:1,0.75,0.25,0")
    assert [level.sigma for level in levels] == pytest.approx([1, 0.75, 0.25, 0])
    assert [level.timestep for level in levels] == pytest.approx([1000, 750, 250, 0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no levels"),
        ("", "no levels"),
        (None, "list of timesteps"),
        (5, "list of timesteps"),
        ([999, 500, 500], "500 does not come after 500"),
        ([20, 500], "500 does not come after 20"),
        ([1000, 500], "1000 lies outside"),
        ([500, -1], "-1 lies outside"),
        ({"sigmas": [200, 1]}, "200 lies outside .* 157"),
        ({"sigmas": [100, 1e-4]}, "0.0001 lies outside"),
        ({"sigmas": [100, -1]}, "-1 lies outside"),
        ({"sigmas": [1], "timesteps": [1]}, "one list"),
        ({"snr": [1]}, "timesteps or sigmas"),
        ("alphas:1,2", "timesteps or sigmas"),
        ([999, "x"], "finite numbers"),
        ([999, np.nan], "finite numbers"),
        ([True], "finite numbers"),
        ([Level(999, 0.5, 0.5)], "not 1: take levels from"),
    ],
)
def test_what_is_no_list_of_levels_is_refused(given: Any, says: str) -> None:
    with pytest.raises(eb.InputError, match=says):
        chosen_levels(LINEAR, given)


def test_a_recording_through_chosen_levels() -> None:
    rec = eb.record(oracle(), images(), sampler="ddim", levels=TIMESTEPS, streams=("chain",))
    assert rec["chain"]["timestep"].values.tolist() == [*TIMESTEPS, -1]
    assert rec.run.spacing is Spacing.GIVEN
    assert type(rec.run).from_json(rec.run.to_json()) == rec.run
    # The same levels as a spacing has are the same chain.
    spaced = eb.record(oracle(), images(), sampler="ddim", steps=5, streams=("chain",))
    given = [level.timestep for level in spaced.run.levels[:-1]]
    again = eb.record(oracle(), images(), sampler="ddim", levels=given, streams=("chain",))
    np.testing.assert_array_equal(again["chain"]["state_sum"], spaced["chain"]["state_sum"])


@pytest.mark.parametrize(
    ("sampler", "schedule", "levels"),
    [
        ("DDPMScheduler", LINEAR, TIMESTEPS),
        ("DPMSolverMultistepScheduler", LINEAR, TIMESTEPS),
        ("EulerDiscreteScheduler", LINEAR, {"sigmas": [100, 3.5, 0.5]}),
        ("FlowMatchEulerDiscreteScheduler", eb.schedules.flow(1000), "sigmas:1,0.8,0.3"),
    ],
)
def test_diffusers_schedulers_go_through_chosen_levels(
    sampler: str, schedule: Schedule, levels: Any
) -> None:
    """They are handed to `set_timesteps`, and what comes out is what was asked for."""
    rec = eb.record(oracle(schedule), images(), sampler=sampler, levels=levels, streams=("chain",))
    wanted = [level.ratio for level in chosen_levels(schedule, levels)]
    np.testing.assert_allclose([level.ratio for level in rec.run.levels], wanted, rtol=1e-3)


def test_churn_is_added_to_chosen_levels() -> None:
    rec = eb.record(oracle(EDM), images(), sampler="edm:1.5", levels=[40, 8, 0.4])
    assert rec["chain"]["timestep"].values == pytest.approx(np.array([40, 8, 0.4, 0]) * np.sqrt(2))


def whole_only(x: Any, t: Any) -> Any:
    if t.is_floating_point():
        raise IndexError("an embedding's table")
    return x


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": [999, 500.5]}, "500.5 falls between two whole timesteps"),
        ({"levels": "sigmas:20,3"}, "falls between two whole timesteps"),
        ({"levels": [999, 20], "grid": "karras"}, "leave karras out"),
        ({"levels": [999, 20], "sampler": "DDIMScheduler"}, "levels of your choice"),
        ({"levels": [999, 20], "start": 500}, "not on the grid"),
    ],
)
def test_what_does_not_fit_the_network_is_refused_before_it_runs(
    options: dict[str, Any], says: str
) -> None:
    model = eb.Denoiser(whole_only, schedule=LINEAR, prediction_type="epsilon", shape=(1, 4, 4))
    with pytest.raises(eb.InputError, match=says):
        eb.record(model, images(), n=32, **options)
