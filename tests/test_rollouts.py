"""Rollouts against closed forms, an exact mixture, `record`, and models with injected bias."""

import warnings

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.denoisers import Denoiser
from exposure_bias.experiments.kinds.rollouts import calibration as said
from exposure_bias.experiments.rollouts import _ranks
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.references import gaussian_rollout
from exposure_bias.samplers import parse

SCHEDULE = eb.schedules.linear(1000)
SHAPE = (1, 2, 2)
D = 4
N = 2048
MEAN = np.array([0.3, -0.1, 0.0, 0.2]).reshape(SHAPE)
VARIANCE = 0.25


class Biased(Denoiser):
    """A denoiser whose ε is scaled by a factor from timestep `low` on."""

    def __init__(self, base, factor, low=0):
        super().__init__(
            base.net, schedule=base.schedule, prediction_type="epsilon", shape=base.shape
        )
        self.base, self.factor, self.low = base, factor, low

    def __call__(self, x, level):
        epsilon = (x - level.alpha * self.base(x, level)) / level.sigma
        return epsilon * (self.factor if level.timestep >= self.low else 1.0)


def images(n, seed=0, covariance=VARIANCE, mean=MEAN):
    d = np.prod(np.shape(mean))
    covariance = (
        np.broadcast_to(covariance, (d, d)) if np.ndim(covariance) == 2 else covariance * np.eye(d)
    )
    x = np.random.default_rng(seed).multivariate_normal(np.ravel(mean), covariance, size=n)
    return eb.load_data(x.reshape(n, *np.shape(mean)).astype(np.float32), value_range=None)


@pytest.fixture(scope="module")
def law():
    a = np.random.default_rng(3).standard_normal((D, D)) / 2
    return MEAN, 0.3 * a @ a.T + 0.01 * np.eye(D)


@pytest.fixture(scope="module")
def oracle(law):
    return eb.oracles.GaussianOracle(*law, SCHEDULE)


def worst(model, law, names, levels, **options):
    """Largest |z| of a rollout's estimates against the closed form of the exact denoiser."""
    data = images(N, 1, law[1])
    r = eb.rollouts(model, data, n=N, seed=2, batch_size=N, **options)
    expected = [
        gaussian_rollout(*law, levels[len(levels) - 1 - int(k) :], r.attrs["sampler"])
        for k in r["length"]
    ]
    z = [abs(r[k][i] - e[k]) / r[f"{k}_se"][i] for i, e in enumerate(expected) for k in names]
    return float(max(z))


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm:fixed_large", "ddim:1"])
def test_gaussian_oracle_agrees_with_its_closed_form_and_the_test_has_teeth(oracle, law, sampler):
    levels, options = SCHEDULE.levels(12), {"steps": 12, "sampler": sampler, "replicates": 3}
    # 20 statistics of |t_15|: beyond 5.5 once in 800 runs.
    assert worst(oracle, law, "SAUW", levels, **options) < 5.5
    if sampler == "ddpm":
        assert worst(Biased(oracle, 0.97), law, "SAUW", levels, **options) > 5.5


def test_deterministic_samplers_have_errors_but_no_calibration(oracle, law):
    assert (
        worst(oracle, law, "SA", SCHEDULE.levels(12), steps=12, sampler="heun", replicates=1) < 5.5
    )
    r = eb.rollouts(oracle, images(64), steps=4, sampler="euler", replicates=1)
    assert not {"U", "W", "ranks", "W_over_U", "U_minus_S"} & set(r)


@pytest.mark.slow
def test_intervals_cover():
    """Isotropic Gaussian data, every level a start; 1050 checks of each statistic."""
    steps, repetitions = 7, 150
    oracle = eb.oracles.GaussianOracle(MEAN, VARIANCE, SCHEDULE)
    levels = SCHEDULE.levels(steps)
    exact = [gaussian_rollout(MEAN, np.full(D, VARIANCE), levels[i:]) for i in range(steps)]
    truth = {k: np.array([float(e[k]) for e in exact]) for k in "SAUW"}
    truth |= {"U_minus_S": np.zeros(steps), "U_minus_S_relative": np.zeros(steps)}
    # x_0 lies below both chains with the orthant probability of two normals of correlation U/A.
    outer = 0.25 + np.arcsin(truth["U"] / truth["A"]) / (2 * np.pi)
    inside = {name: [] for name in (*truth, "W_over_U", "ranks")}
    starts = [level.timestep for level in levels[:-1]]
    z = []
    for seed in range(repetitions):
        data = images(256, 1000 + seed)
        r = eb.rollouts(oracle, data, starts=starts, steps=steps, seed=seed, batch_size=512)
        assert r["bounded"].all()
        for name, value in truth.items():
            inside[name] += list(
                (abs(r[name] - value) <= T_QUANTILE * r[f"{name}_se"] + 1e-15).values
            )
        ratio = truth["W"] / truth["U"]
        inside["W_over_U"] += list(
            ((r["W_over_U_low"] <= ratio + 1e-9) & (ratio - 1e-9 <= r["W_over_U_high"])).values
        )
        inside["ranks"] += list(
            (abs(r["ranks"][:-1, 0] - outer[:-1]) <= T_QUANTILE * r["ranks_se"][:-1, 0]).values
        )
        z.append((r["U_minus_S"] / r["U_minus_S_se"]).values[:-1])
    for name, covered in inside.items():
        # Where no noise is left (the last start) W is 0 exactly.
        share = (
            np.mean(covered)
            if name not in ("W", "W_over_U")
            else np.mean(np.delete(covered, np.s_[6::7]))
        )
        assert 0.92 <= share <= 0.98, (name, share)
    # U − S pooled at every level: the mean of 150 t_15 values has standard deviation √(15/13/150).
    assert (abs(np.mean(z, axis=0)) < 3.5 * np.sqrt(15 / 13 / repetitions)).all()


def test_one_step_left_has_no_calibration():
    """The last step is noise-free: W = 0 for a perfect denoiser too, which is no fault of its
    spread."""
    oracle, last = (
        eb.oracles.GaussianOracle(MEAN, VARIANCE, SCHEDULE),
        SCHEDULE.levels(7)[-2].timestep,
    )
    r = eb.rollouts(oracle, images(256), starts=(500, last), steps=7)
    assert r["length"].values[-1] == 1
    assert np.isnan([r[f"W_over_U{k}"].values[-1] for k in ("", "_se", "_low", "_high")]).all()
    assert np.isfinite(r["W_over_U_se"].values[0])
    assert float(r["W"][-1]) == 0
    assert "one step is left" in r.attrs["one_step"]
    alone = eb.rollouts(oracle, images(256), starts=(last,), steps=7)
    assert said(alone) == ""


@pytest.fixture(scope="module")
def mixture():
    means = np.array([[-0.6, -0.5], [0.6, -0.2], [0.1, 0.7]]).reshape(3, 1, 1, 2)
    weights, variances = np.array([0.5, 0.3, 0.2]), np.array([0.02, 0.05, 0.01])
    rng = np.random.default_rng(0)
    k = rng.choice(3, size=4096, p=weights)
    x = means[k] + np.sqrt(variances[k])[:, None, None, None] * rng.standard_normal((4096, 1, 1, 2))
    return eb.oracles.MixtureOracle(weights, means, variances, SCHEDULE), eb.load_data(
        x.astype(np.float32), value_range=None
    )


def test_exact_mixture_is_calibrated_with_many_steps_but_not_with_few(mixture):
    oracle, data = mixture
    options = {"starts": (600, 300), "n": 4096, "batch_size": 8192}

    def calibration(steps):
        r = eb.rollouts(oracle, data, steps=steps, **options)
        spread = (np.log(r["W_over_U"]) / r["W_over_U_se"]).values
        # Shares of ranks add up to 1: with three, two are free, and of the symmetric ones one.
        ranks = ((r["ranks"] - 1 / 3) / r["ranks_se"]).values[:, :2].ravel()
        directions = ((r["ranks_direction"][:, 1] - 1 / 3) / r["ranks_direction_se"][:, 1]).values
        return (r["U_minus_S"] / r["U_minus_S_se"]).values, np.concatenate(
            [spread, ranks, directions]
        )

    excess, calibrated = calibration(250)
    assert (abs(excess) < 4).all()
    assert (abs(calibrated) < 4).all()
    assert (abs(calibration(15)[1]) > 4).any()


def test_scaled_noise_shows_in_the_spread_with_the_right_sign():
    """ε × 0.98 leaves noise in the state and widens the chain, ε × 1.02 narrows it; U − S hardly
    changes."""
    mean, values = np.zeros((1, 4, 4)), np.linspace(0.6, 0.01, 16)
    oracle = eb.oracles.GaussianOracle(mean, np.diag(values), SCHEDULE)
    data = images(4096, 1, np.diag(values), mean)
    levels = SCHEDULE.levels(20)
    z, excess = [], []
    for factor in (0.98, 1, 1.02):
        model = Biased(oracle, factor)
        r = eb.rollouts(
            model, data, n=4096, starts=(levels[9].timestep,), steps=20, batch_size=8192
        )
        exact = gaussian_rollout(mean, np.diag(values), levels[9:])
        z.append(float((r["W"][0] - exact["W"]) / r["W_se"][0]))
        excess.append(float(r["U_minus_S_relative"][0]))
    assert z[0] > 5
    assert abs(z[1]) < 4
    assert z[2] < -5
    assert max(abs(e) for e in excess) < 0.03


def test_agrees_with_record_on_the_same_noise():
    mean = np.full((1, 4, 4), 0.1)
    oracle, data = eb.oracles.GaussianOracle(mean, 0.2, SCHEDULE), images(300, 1, 0.2, mean)
    r = eb.rollouts(oracle, data, starts=(999, 555), steps=10, replicates=1, seed=7)
    states = eb.state_error(eb.record(oracle, data, steps=10, seed=7))
    assert float(r["A"][0]) == pytest.approx(float(states["pooled_rmse"][-1]) ** 2, rel=1e-12)
    assert r["depth"].values.tolist() == [1, 2, 5]
    for name, rtol in {"": 1e-12, "_se": 1e-9, "_gaussian": 1e-5}.items():
        recorded = states[f"pooled_rmse{name}"].isel(step=[1, 2, 5])
        np.testing.assert_allclose(r[f"state_error{name}"][0], recorded, rtol=rtol)
    np.testing.assert_array_equal(r["depth_timestep"][0], states["timestep"].isel(step=[1, 2, 5]))
    assert r["length"].values.tolist() == [10, 6]


def test_state_error_in_depth_agrees_with_its_closed_form(oracle, law):
    r = eb.rollouts(oracle, images(N, 1, law[1]), steps=12, n=N, batch_size=N)
    z = abs(r["state_error"] - r["state_error_gaussian"]) / r["state_error_se"]
    assert float(z.max()) < 5.5
    assert int(z.notnull().sum()) == int((r["depth"] <= r["length"]).sum())


@pytest.mark.slow
def test_independent_of_batches(oracle, law):
    data = images(90, 1, law[1])
    one, other = (eb.rollouts(oracle, data, steps=6, replicates=3, batch_size=b) for b in (7, 1000))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(one["A"], one["U"] + one["W"], rtol=1e-12)
    np.testing.assert_allclose(one["ranks"].sum("rank"), 1, rtol=1e-12)


def test_refinement_keeps_the_starts_and_restores_spread(oracle, law):
    data = images(N, 1, law[1])
    coarse, fine = (
        eb.rollouts(oracle, data, starts=(400,), steps=10, refine=k, n=N, batch_size=2 * N)
        for k in (1, 8)
    )
    assert float(coarse["timestep"][0]) == float(fine["timestep"][0]) == 444
    assert (int(coarse["length"][0]), int(fine["length"][0])) == (5, 33)
    assert float(coarse["W_over_U_high"][0]) < float(fine["W_over_U_low"][0]) < 1


def test_a_killed_run_goes_on(oracle, tmp_path, monkeypatch):
    path, data = tmp_path / "c.nc", images(64)
    options = {"steps": 4, "batch_size": 32}
    whole = eb.rollouts(oracle, data, **options)
    calls = 0
    evaluate = type(oracle).__call__

    def killed(self, x, level):
        nonlocal calls
        calls += 1
        if calls > 31:  # three batches of four, and a probe
            raise KeyboardInterrupt
        return evaluate(self, x, level)

    with monkeypatch.context() as patch:
        patch.setattr(type(oracle), "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            eb.rollouts(oracle, data, checkpoint=path, **options)
    assert path.exists()
    with monkeypatch.context() as patch:
        calls = 0
        patch.setattr(type(oracle), "__call__", killed)  # the rest takes fewer calls than the whole
        resumed = eb.rollouts(oracle, data, checkpoint=path, **options)
    assert resumed.identical(whole)
    with pytest.raises(eb.InputError, match=r"another run.*seed"):
        eb.rollouts(oracle, data, checkpoint=path, seed=1, **options)
    with pytest.raises(
        eb.InputError, match=r"belongs to another run.*kind: rollouts against telescope"
    ):
        eb.telescope(oracle, data, checkpoint=path, **options)


def test_ranks_of_hand_made_values():
    x0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    chains = torch.tensor([[[-1.0, 1.0 + 1e-12]], [[1.0, 1.0]]], dtype=torch.float64)
    # The first pixel lies above one chain, the second ties with both up to round-off.
    assert torch.allclose(_ranks(x0, chains), torch.tensor([[1 / 6, 1 / 6 + 1 / 2, 1 / 6]]))


def test_what_is_withheld_says_why(oracle):
    r = eb.rollouts(Biased(oracle, 1.5, low=900), images(64), steps=6)
    assert not r["bounded"][0]
    assert np.isnan(r["U_minus_S"][0])
    assert "worse than the mean image" in r.attrs["unbounded"]
    assert "64 samples give no interval" in r.attrs["no_interval"]
    assert np.isnan(r["A_se"]).all()
    assert np.isfinite(r["A"]).all()


def test_training_images_and_guidance_are_named():
    data = eb.load_data("digits", split="train")
    oracle = eb.oracles.GaussianOracle(np.zeros(data.shape), 0.3, SCHEDULE)
    with pytest.warns(UserWarning, match="training split"):
        r = eb.rollouts(oracle, data, steps=2, n=4)
    assert "training split" in r.attrs["warning"]
    oracle.guidance = 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            eb.rollouts(oracle, eb.load_data("digits"), steps=2, n=4).attrs["gap"]
            == "guidance + bias"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "ddim"}, r"ddim:0 is no ancestral.*ddpm.*replicates=1"),
        ({"sampler": "heun"}, r"heun is no ancestral"),
        ({"sampler": "ddim:0.5"}, r"ddim:0.5 is no ancestral"),
        ({"sampler": "EulerDiscreteScheduler"}, "is no ancestral"),
        (
            {"sampler": "DDPMScheduler", "replicates": 1, "refine": 2},
            "cannot be refined or replaced: give it more steps",
        ),
        ({"replicates": 0}, "at least 1, got 0"),
        ({"starts": ()}, "none"),
        ({"starts": (1000,)}, "from 0 to 999"),
        ({"starts": (500, 501)}, r"different steps.*500, 501"),
        ({"starts": (float("nan"),)}, "each item a finite number"),
        ({"refine": 0}, "at least 1, got 0"),
        ({"steps": 800, "refine": 2}, "cannot be refined 2 times"),
        ({"n": 0}, "at least 1"),
        ({"data": np.zeros((4, 1, 3, 3), np.float32)}, "1×2×2.*1×3×3"),
        ({"data": np.zeros((4, *SHAPE), np.float32)}, "all the same"),
    ],
)
def test_bad_input(oracle, options, message):
    options = {"data": images(8), "steps": 4, **options}
    with pytest.raises(eb.InputError, match=message):
        eb.rollouts(oracle, **options)


def test_a_diffusers_scheduler_has_errors(oracle):
    data, options = images(64), {"steps": 5, "starts": (800, 400), "replicates": 1}
    theirs = eb.rollouts(oracle, data, sampler="DDIMScheduler", **options)  # its grid is `leading`
    ours = eb.rollouts(oracle, data, sampler="ddim", grid="leading", **options)
    assert "S_gaussian" not in theirs
    for name in "SA":
        # The scheduler works in float32.
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-3)
    assert np.isfinite(
        eb.telescope(oracle, data, sampler="DPMSolverMultistepScheduler", steps=5)["gap"]
    ).all()


def test_learned_variance_has_no_gaussian_reference(oracle):
    class Learned(Denoiser):
        def __init__(self):
            super().__init__(
                oracle.net,
                schedule=SCHEDULE,
                prediction_type="sample",
                shape=SHAPE,
                learned_variance=True,
            )

        def __call__(self, x, level):
            return torch.cat([oracle(x, level), torch.zeros_like(x)], 1)

    r = eb.rollouts(Learned(), images(32), steps=4, sampler="ddpm:learned_range")
    assert not [name for name in r if name.endswith("_gaussian")]
    assert (r["W"][:-1] > 0).all()
    assert parse(r.attrs["sampler"]).variance == "learned_range"
