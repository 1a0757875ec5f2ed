"""An injected bias is measured: its size, known in closed form, lies within the intervals as often as they say."""

import numpy as np
import pytest

import exposure_bias as eb

SHAPE, STEPS, N, REPETITIONS = (1, 4, 4), 8, 1024, 12
VARIANCE = np.linspace(0.05, 0.6, 16)


@pytest.mark.parametrize("scale", [0.98, 1.02, "the last three calls"])
def test_the_size_of_an_injected_bias_is_covered(scale):
    """Pooled over repetitions, levels and directions: 92 to 98 % of the 95 % intervals hold the closed form's gap."""
    schedule = eb.schedules.linear(1000)
    levels = schedule.levels(STEPS)
    scales = np.full(STEPS + 1, scale) if isinstance(scale, float) else np.where(np.arange(STEPS + 1) > 4, 0.97, 1.0)
    by_label = {level.timestep: float(s) for level, s in zip(levels, scales, strict=True)}
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), VARIANCE, schedule)
    model = eb.remedies.epsilon_scaled(oracle, lambda level: by_label.get(level.timestep, 1.0))
    truth = eb.references.gaussian(np.zeros(SHAPE), VARIANCE, schedule, steps=STEPS, epsilon_scale=scales)
    variance, target = truth["variance"].values, truth["forward_variance"].values
    inside = []
    for repetition in range(REPETITIONS):
        images = np.random.default_rng(repetition).normal(size=(N, *SHAPE)) * np.sqrt(VARIANCE).reshape(SHAPE)
        data = eb.load_data(images, value_range=None)
        gaps = eb.variance_gap(eb.record(model, data, steps=STEPS, n=N, seed=repetition, streams=("chain",)))
        # The gap is against this sample's own variance: put the population's in its place.
        sample = images.var(0)
        known = schedule_target(levels, sample)
        measured = (gaps["gap_pixel"].values + 1) * known / target - 1
        half = 2.131449545559323 * gaps["gap_pixel_se"].values * known / target
        inside.append(np.abs(measured - (variance / target - 1)) <= half)
    checks = np.array(inside)
    assert checks.size >= 1000
    assert 0.92 < checks.mean() < 0.98


def schedule_target(levels, variance):
    return np.stack([level.alpha**2 * variance + level.sigma**2 for level in levels])
