"""Variance gap, published δ and ε-norms: closed forms of linear denoisers, coverage, injected bias,
bad input."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from runs import run
from scipy.fft import dctn
from scipy.stats import binom, chi2

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.target import optimism
from exposure_bias.diagnostics.variance_gap import pooled_gap
from exposure_bias.jackknife import T_QUANTILE, max_t_quantile
from exposure_bias.paths import Noise, Paths
from exposure_bias.recording import Recording
from exposure_bias.statistics.bands import dct_matrix, haar, radial_frequency
from exposure_bias.streams import chain, forward, noised

SCHEDULE = eb.schedules.linear(1000)
SHAPE = (1, 4, 4)
D = 16
STEPS = 10
POPULATION = 8192  # all of which the law's covariance sees
RNG = np.random.default_rng(4)
BASIS = np.kron(
    dct_matrix(4), dct_matrix(4)
)  # rows: DCT modes, which are the data's eigen-directions
FREQUENCY = radial_frequency(4, 4).ravel()
SPREAD = 0.4 * np.exp(-3 * FREQUENCY) * RNG.uniform(0.8, 1.2, D)
MEAN = RNG.uniform(-0.3, 0.3, D)


@pytest.fixture(scope="module")
def data():
    x = MEAN + RNG.standard_normal((POPULATION, D)) * np.sqrt(SPREAD) @ BASIS
    return eb.load_data(x.reshape(-1, *SHAPE).astype(np.float32), value_range=None)


class Scaled(Denoiser):
    """The exact denoiser of the data's own law, its ε̂ multiplied by factor(level) (D,) per DCT
    mode."""

    def __init__(self, data, factor=lambda level: np.ones(D)):
        images = data.images.reshape(len(data), -1).astype(np.float64)
        self.mean, self.covariance = images.mean(0), np.cov(images.T, bias=True)
        super().__init__(
            torch.nn.Identity(), schedule=SCHEDULE, prediction_type="epsilon", shape=data.shape
        )
        self.factor = factor

    def matrix(self, level):
        """ε̂ = matrix @ (x − αμ)."""
        exact = level.sigma * np.linalg.inv(
            level.alpha**2 * self.covariance + level.sigma**2 * np.eye(D)
        )
        return BASIS.T @ (self.factor(level)[:, None] * BASIS) @ exact

    def __call__(self, x, level):
        d = x.double().flatten(1) - torch.from_numpy(level.alpha * self.mean)
        return (d @ torch.from_numpy(self.matrix(level)).T).view(x.shape)


def closed_form(model, steps=STEPS):
    """Per level: the ddpm chain's covariance, its covariance with x_0 and ε̂'s covariance in both
    streams, dense.

    Independent of `references`: the step is Ho et al.'s equations 7 and 11 on matrices.
    """
    levels, one = SCHEDULE.levels(steps), np.eye(D)
    transfer, own = levels[0].alpha * one, levels[0].sigma ** 2 * one
    out = []
    for s, t in pairwise((*levels, None)):
        covariance, cross = (
            transfer @ model.covariance @ transfer.T + own,
            transfer @ model.covariance,
        )
        e = model.matrix(s) if t is not None else None
        true = s.alpha**2 * model.covariance + s.sigma**2 * one
        norms = (
            (np.full((D, D), np.nan),) * 2 if e is None else (e @ covariance @ e.T, e @ true @ e.T)
        )
        out.append((s, covariance, cross, *norms))
        if t is not None:
            a, beta = s.alpha / t.alpha, 1 - (s.alpha / t.alpha) ** 2
            p = one / a - beta / (a * s.sigma) * e  # x_t = (x_s − β ε̂ / σ_s) / a
            transfer = p @ transfer
            own = p @ own @ p.T + (beta * (t.sigma / s.sigma) ** 2 if t.sigma else 0.0) * one
    return out


def expected(model, steps=STEPS):
    """gap, root of δ, ε-norm ratio per level from `closed_form`; and gap per direction (step, D) in
    the law's order."""
    gap, root, ratio, directions = [], [], [], []
    values, vectors = np.linalg.eigh(model.covariance)
    order = values.argsort()[::-1]
    for s, covariance, cross, chain_norm, forward_norm in closed_form(model, steps):
        target = s.alpha**2 * model.covariance + s.sigma**2 * np.eye(D)
        gap.append(np.trace(covariance) / np.trace(target) - 1)
        residual = covariance + s.alpha**2 * model.covariance - s.alpha * (cross + cross.T)
        root.append(np.sqrt(residual.diagonal()).mean() - s.sigma)
        ratio.append(mean_norm(chain_norm) / mean_norm(forward_norm))
        directions.append(
            ((vectors.T @ covariance @ vectors).diagonal() / (s.alpha**2 * values + s.sigma**2))[
                order
            ]
            - 1
        )
    return np.array(gap), np.array(root), np.array(ratio[:-1]), np.array(directions)


def mean_norm(covariance):
    """E‖y‖ for y ~ N(0, covariance), to second order; the relative error stays below 2e-4 for these
    D = 16 modes."""
    m, v = np.trace(covariance), 2 * np.sum(covariance**2)
    return np.sqrt(m) * (1 - v / (8 * m**2))


def record(model, data, n=4096, **options):
    return eb.record(
        model,
        data,
        **{"n": n, "steps": STEPS, "batch_size": n, "streams": ("forward", "chain")} | options,
    )


def biased(data, factor):
    return Scaled(data, lambda level: factor)


UNIFORM = np.full(D, 1.02)
HIGH = np.where(FREQUENCY >= 0.25, 1.02, 1.0)


@pytest.fixture(scope="module")
def perfect(data):
    return record(Scaled(data), data)


def test_null(data, perfect):
    """The reference is the dense closed form, and a perfect denoiser's recording is consistent with
    it."""
    gap, root, ratio, directions = expected(Scaled(data))
    gaps, deltas, norms = (
        eb.variance_gap(perfect),
        eb.published_delta(perfect),
        eb.epsilon_norm(perfect),
    )
    np.testing.assert_allclose(gaps.gap_gaussian, gap, atol=1e-6)
    np.testing.assert_allclose(gaps.gap_direction_gaussian, directions, atol=1e-5)
    np.testing.assert_allclose(deltas.root_gaussian, root, atol=1e-6)
    np.testing.assert_allclose(norms.ratio_gaussian, ratio, rtol=1e-4)
    for dataset, name, truth in (
        (gaps, "gap", gap),
        (gaps, "gap_forward", gap),
        (gaps, "mean_shift", 0 * gap),
        (deltas, "root", root),
        (norms, "ratio", ratio),
        (norms, "excess_over_gaussian", np.zeros_like(ratio)),
    ):
        assert (dataset[f"{name}_band_low"] <= truth).all(), name
        assert (dataset[f"{name}_band_high"] >= truth).all(), name
        assert (dataset[f"{name}_band_high"] >= dataset[f"{name}_high"]).all()
    z = ((gaps.gap_direction - directions) / gaps.gap_direction_se).values
    given = z[-1][np.isfinite(z[-1])]
    assert len(given) >= 8
    assert 1e-3 < chi2.sf(np.square(given).sum() * 13 / 15, len(given)) < 1 - 1e-3


def test_the_perfect_samplers_line_is_what_independent_draws_show(data):
    """δ of x̂_t = a fresh draw of q(x_t), independent of x_0, at every level of a long chain."""
    recording = record(Scaled(data), data, n=16, steps=1000)
    deltas = eb.published_delta(recording)
    alpha, sigma = (deltas[k].values[:, None] for k in ("alpha", "sigma"))
    exact = (
        np.sqrt(sigma**2 + 2 * alpha**2 * Scaled(data).covariance.diagonal()).mean(1) - sigma[:, 0]
    )
    assert np.abs(deltas.root_perfect - exact).max() < 2e-4
    # A perfect denoiser's ancestral chain comes near it as its steps become many.
    assert np.abs(deltas.root_perfect - deltas.root_gaussian).max() < 0.1 * float(
        deltas.root_perfect.max()
    )


def states(model, data, n, seed=0):
    """x_0, the chain's states and ε̂ of both streams, (levels, n, D), drawn without the
    recorder."""
    ids = range(n)
    x0 = torch.from_numpy(data.batch(np.arange(n))).double()
    levels = SCHEDULE.levels(STEPS)
    path = Paths(seed, ids, SHAPE).on(levels)
    running = list(
        chain(model, noised(x0, levels[0], path.start(0)), levels, eb.samplers.parse("ddpm"), path)
    )
    true = list(forward(model, x0, levels, Noise(seed, "forward", ids, SHAPE)))
    flat = [[s.x.flatten(1).numpy() for s in steps] for steps in (running, true)]
    said = [
        [s.prediction.epsilon.flatten(1).numpy() for s in steps[:-1]] for steps in (running, true)
    ]
    return (x0.flatten(1).numpy(), *map(np.array, flat), *map(np.array, said))


def test_equals_numpy_on_raw_states(data):
    model, n = biased(data, HIGH), 300
    recording = record(model, data, n=n)
    gaps, deltas, norms = (
        eb.variance_gap(recording),
        eb.published_delta(recording),
        eb.epsilon_norm(recording),
    )
    x0, x, true, said, said_true = states(model, data, n)
    images = data.images.reshape(len(data), -1).astype(np.float64)
    alpha, sigma = gaps["alpha"].values, gaps["sigma"].values
    target = alpha[:, None] ** 2 * images.var(0) + sigma[:, None] ** 2
    variance = x.var(1, ddof=1)
    np.testing.assert_allclose(gaps.gap, variance.sum(1) / target.sum(1) - 1, atol=1e-6)
    np.testing.assert_allclose(gaps.gap_channel[:, 0], gaps.gap, atol=1e-12)
    np.testing.assert_allclose(
        gaps.gap_pixel.values.reshape(-1, D), variance / target - 1, atol=1e-6
    )
    np.testing.assert_allclose(gaps.gap_absolute, (variance - target).mean(1), atol=1e-6)
    np.testing.assert_allclose(
        gaps.gap_forward, variance.sum(1) / true.var(1, ddof=1).sum(1) - 1, atol=1e-6
    )
    np.testing.assert_allclose(gaps.std_chain, np.sqrt(variance).mean(1), atol=1e-6)
    np.testing.assert_allclose(gaps.std_reference, np.sqrt(target).mean(1), atol=1e-6)
    shift = (x.mean(1) - alpha[:, None] * images.mean(0)) ** 2 - variance / n
    np.testing.assert_allclose(gaps.mean_shift, shift.mean(1), atol=1e-6)
    # Ning et al.: np.std per pixel (divisor n) of x̂ − α x_0, plain mean over pixels, less σ,
    # squared.
    residual = x - alpha[:, None, None] * x0
    np.testing.assert_allclose(deltas.delta, (residual.std(1).mean(1) - sigma) ** 2, atol=1e-6)
    lengths, true_lengths = np.linalg.norm(said, axis=2), np.linalg.norm(said_true, axis=2)
    np.testing.assert_allclose(norms.norm_chain, lengths.mean(1), rtol=1e-6)
    np.testing.assert_allclose(norms.ratio, lengths.mean(1) / true_lengths.mean(1), rtol=1e-6)
    np.testing.assert_allclose(
        norms.quantile_forward.sel(quantile=0.5), np.median(true_lengths, 1), rtol=1e-6
    )
    # The standard error is Efron's delete-one-group formula on images modulo 16, which go from the
    # target as well, ...
    a2, s2, all_images = alpha**2, sigma**2, len(images)
    groups = [np.arange(g, n, 16) for g in range(16)]
    less = [a2 * np.delete(images, g, 0).var(0).sum() + s2 * D for g in groups]
    without = [
        np.delete(x, g, 1).var(1, ddof=1).sum(1) / t for g, t in zip(groups, less, strict=True)
    ]
    # ... and the 7892 images that are not recorded have their part in the error of the target.
    own = np.std([np.delete(images[:n], g, 0).var(0).sum() for g in groups]) * np.sqrt(15)
    rest = (
        np.sqrt(n / all_images * (1 - n / all_images))
        * own
        * a2
        * variance.sum(1)
        / target.sum(1) ** 2
    )
    np.testing.assert_allclose(
        gaps.gap_se, np.hypot(np.std(without, axis=0) * np.sqrt(15), rest), rtol=1e-6
    )


@pytest.mark.slow
def test_coverage(data):
    """95 % intervals of 102 recordings of 256 images hold the truth in 92–98 % of at least 1020
    checks of each kind."""
    hits: dict[str, list] = {}
    bands: dict[str, list] = {}
    base = expected(Scaled(data))
    for model in (Scaled(data), biased(data, UNIFORM)):
        gap, root, ratio, directions = expected(model)
        for k in range(51):
            recording = record(model, data, n=256, first=256 * (k % 32), seed=1000 + k // 32)
            gaps, deltas, norms = (
                eb.variance_gap(recording),
                eb.published_delta(recording),
                eb.epsilon_norm(recording),
            )
            for dataset, name, truth in (
                (gaps, "gap", gap),
                (gaps, "gap_forward", gap),
                (gaps, "mean_shift", 0 * gap),
                (deltas, "root", root),
                (deltas, "delta", root**2),
                (norms, "ratio", ratio),
                (norms, "excess_over_gaussian", ratio - base[2]),
            ):
                for kind, found in (("", hits), ("_band", bands)):
                    low, high = (
                        dataset[f"{name}{kind}_low"].values,
                        dataset[f"{name}{kind}_high"].values,
                    )
                    found.setdefault(name, []).append((low <= truth) & (truth <= high))
            half = T_QUANTILE * gaps.gap_direction_se.values
            found, given = np.abs(gaps.gap_direction.values - directions) <= half, np.isfinite(half)
            hits.setdefault("gap_direction", []).append(np.where(given, found, np.nan))
            half = T_QUANTILE * gaps.excess_over_gaussian_se.values
            found = np.abs(gaps.excess_over_gaussian.values - (gap - base[0])) <= half
            hits.setdefault("gap excess", []).append(found)
    coverage = {name: float(np.nanmean(found)) for name, found in hits.items()}
    assert all(np.size(found) >= 1020 for found in hits.values())
    assert all(0.92 <= c <= 0.98 for name, c in coverage.items() if name != "mean_shift"), coverage
    # The square of a mean that is zero is no normal estimate; its interval errs on the wide side
    # (97.8 % of 2816).
    assert 0.92 <= coverage["mean_shift"] <= 0.99
    for name, found in bands.items():
        whole = np.all(found, axis=1)
        assert binom.cdf(whole.sum(), len(whole), 0.95) > 0.001, (name, whole.mean())


def drawn(x0, images, state, pixels=slice(None)):
    """The little of a recording that the pooled gap reads: x0 (N, P), sample i's image and state
    (n, P), clean end."""
    group, held = images % 16, x0[images] - x0.mean(0)
    both = [
        np.stack([np.stack([v[group == g].sum(0) for g in range(16)]) for v in (d, d**2)])
        for d in (state, held)
    ]
    image, count = ("sample", images), ("group", np.bincount(group, minlength=16).astype(float))
    streams = {}
    for name, sums, kept in (("chain", both[0], pixels), ("data", both[1], slice(None))):
        streams[name] = xr.Dataset(
            {"count": count},
            {
                "image": image,
                "pixel": np.arange(x0.shape[1])[kept],
                "alpha": ("step", [1.0]),
                "sigma": ("step", [0.0]),
            },
        )
        for k, v in zip(PARTS, sums, strict=True):
            streams[name][f"state_group_{k}"] = (("step", "group", "pixel"), v[None, :, kept])
            streams[name][f"state_{k}"] = (
                ("step", "channel", "y", "x"),
                v.sum(0)[None, None, None],
            )
    streams["data"]["variance"] = (("channel", "y", "x"), x0.var(0)[None, None])
    return Recording(streams, run(len(x0)), len(images))


PARTS = ("sum", "square")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "n", "memory"), [(512, 512, 0.0), (512, 256, 0.9), (256, 512, 0.9)]
)
def test_intervals_of_the_gap_are_for_the_population(images, n, memory):
    """A perfect sampler of the law that few images were drawn from: 95 % intervals hold 0 in 92–98
    % of 300.

    Taking the images' variance for the law's gives 86 % for N = n. memory: the correlation of x̂_0
    with its own x_0."""
    hits, spread = [], np.sqrt(SPREAD)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x0, fresh = (rng.standard_normal((k, D)) * spread for k in (images, n))
        sample = np.arange(n) % images
        state = memory * x0[sample] + np.sqrt(1 - memory**2) * fresh - memory * x0.mean(0)
        low, high = pooled_gap(drawn(x0, sample, state)).estimated().ends()
        hits.append((low <= 0) & (high >= 0))
    assert 0.92 <= np.mean(hits) <= 0.98


def test_directions_whose_target_is_biased_have_no_gap(perfect):
    """White data: eigenvalues of 512 images are 28–51 % above the variance along their vectors, and
    say nothing."""
    shape = (1, 8, 8)
    x = np.random.default_rng(0).normal(0, 0.5, (512, *shape)).astype(np.float32)
    white = eb.record(
        eb.oracles.GaussianOracle(np.zeros(shape), 0.25, SCHEDULE),
        eb.load_data(x, value_range=None),
    )
    gaps = eb.variance_gap(white)
    assert np.isnan(gaps.gap_direction[-1]).all()
    assert np.isfinite(gaps.gap_direction[0]).all()  # next to no data in the state, hence no bias
    given = (gaps.gap_direction - gaps.gap_direction_gaussian) / gaps.gap_direction_se
    assert np.nanmean(given**2) < 1.6
    assert gaps.attrs["no_direction"].startswith(
        "16 of 16 directions have no gap at some level (16 at the last)"
    )
    well = eb.variance_gap(perfect)  # 8192 images in 16 directions of distinct variance
    assert np.isfinite(well.gap_direction[-1]).sum() >= 8


def test_the_optimism_of_eigenvalues():
    """λ_k less the true variance along v_k over 200 sets of images, in a spectrum with gaps: as
    predicted."""
    truth, found, said = 0.5 ** np.arange(6), [], []
    for seed in range(200):
        x = np.random.default_rng(seed).standard_normal((300, 6)) * np.sqrt(truth)
        values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
        values, vectors = values[::-1], vectors[:, ::-1]
        found.append(1 - (vectors[:, 0] ** 2 @ truth) / values[0])
        data = xr.Dataset(
            {
                "eigenvalue": ("mode", values),
                "mean": ("pixel", np.zeros(6)),
                "count": ("group", np.full(16, 300 / 16)),
                **{
                    f"state_projection_{k}": (("step", "group", "direction"), np.zeros((1, 16, 6)))
                    for k in PARTS
                },
            },
            {"image": ("sample", np.arange(300))},
        )
        said.append(optimism(Recording({"data": data}, run(300), 300))[0])
    # The mean of λ_1 has the relative error √(2/300/200) = 0.6 %.
    assert np.mean(said) == pytest.approx(np.mean(found), abs=0.015)
    assert np.mean(said) > 0.008


LEVELS = SCHEDULE.levels(STEPS)
AT_LEVELS = [level.timestep for level in LEVELS[7:9]]


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize("where", ["uniform", "high frequencies", "some levels"])
def test_injected_bias_is_found_where_it_is(data, where, factor):
    """ε̂ scaled by 2 % at n = 4096: sign, level, direction and size."""
    band = FREQUENCY >= 0.25 if where == "high frequencies" else np.ones(D, bool)

    def scale(level):
        on = where != "some levels" or level.timestep in AT_LEVELS
        return np.where(band & on, factor, 1.0)

    model, exact = Scaled(data, scale), Scaled(data)
    truth = [a - b for a, b in zip(expected(model), expected(exact), strict=True)]
    recording = record(model, data, seed=3)
    gaps, deltas, norms = (
        eb.variance_gap(recording),
        eb.published_delta(recording),
        eb.epsilon_norm(recording),
    )
    band_half = (gaps.gap_band_high - gaps.gap).values
    assert (np.abs(gaps.excess_over_gaussian - truth[0]) <= 1.5 * band_half).all()
    assert (
        np.abs(deltas.root - deltas.root_gaussian - truth[1])
        <= 1.5 * (deltas.root_band_high - deltas.root)
    ).all()
    assert (norms.excess_over_gaussian_band_low - 0.005 <= truth[2]).all()
    assert (norms.excess_over_gaussian_band_high + 0.005 >= truth[2]).all()
    if where == "high frequencies":
        # The weak directions are the high frequencies: the bias shows there and not in the strong
        # ones.
        excess = (gaps.gap_direction - gaps.gap_direction_gaussian).isel(step=-3).values
        se = gaps.gap_direction_se.isel(step=-3).values
        assert np.sign(np.nansum(excess[8:])) == np.sign(truth[3][-3][8:].sum())
        assert abs(np.nansum(excess[8:])) > 3 * np.sqrt(np.nansum(np.square(se[8:])))
        assert abs(excess[0]) < 4 * se[0]
        return
    significant = np.abs(gaps.excess_over_gaussian) > band_half
    visible = np.abs(truth[0]) > 2 * band_half
    assert visible.any()
    assert significant.values[visible].all()
    assert (np.sign(gaps.excess_over_gaussian.values[visible]) == np.sign(truth[0][visible])).all()
    if where == "some levels":
        assert not significant.values[:8].any()  # the first biased call shows in the state after it


def test_the_growth_of_an_injected_ratio_is_fitted_back(data, perfect):
    """Norms that grow as the schedules say give the schedules back: uniform, linear and per level,
    ADM-ES's index."""
    steps = np.arange(STEPS)
    index = STEPS - 1 - steps
    for scale in (np.full(STEPS, 1.011), 0.0025 * index + 1.0):
        changed = with_chain_norm(perfect, np.cumprod(scale))
        norms = eb.epsilon_norm(changed, relative_to="none")
        np.testing.assert_allclose(norms.scale, scale, rtol=1e-5)
        assert (norms.call_index == index).all()
        if scale[0] == scale[-1]:
            assert float(norms.scale_uniform) == pytest.approx(1.011, abs=1e-5)
            assert float(norms.scale_slope) == pytest.approx(0, abs=1e-5)
        else:
            assert float(norms.scale_slope) == pytest.approx(0.0025, rel=0.03)
            assert float(norms.scale_offset) == pytest.approx(1.0, abs=1e-3)
        assert (norms.scale_se < 1e-5).all()
    reference = eb.epsilon_norm(perfect)
    assert float(reference.scale_uniform) == pytest.approx(
        1, abs=4 * float(reference.scale_uniform_se)
    )


def with_chain_norm(recording, growth):
    """The recording with the chain's norms replaced by the forward stream's times growth
    (steps,)."""
    norm = recording["forward"]["epsilon_norm"] * xr.DataArray(
        np.append(growth, np.nan), dims="step"
    )
    streams = recording.streams | {
        "chain": recording["chain"].assign(epsilon_norm=norm.astype(np.float64))
    }
    return replace(recording, streams=streams)


def test_few_samples_have_no_interval_and_say_so(data):
    few = record(Scaled(data), data, n=64)
    for dataset, name in (
        (eb.variance_gap(few), "gap"),
        (eb.published_delta(few), "delta"),
        (eb.epsilon_norm(few), "ratio"),
    ):
        assert "64 samples give no interval: 256" in dataset.attrs["no_interval"]
        assert np.isfinite(dataset[name]).all()
        assert np.isnan(dataset[f"{name}_low"]).all()
        assert np.isnan(dataset[f"{name}_band_high"]).all()
    with pytest.raises(eb.InputError, match="256"):
        eb.variance_gap(record(Scaled(data), data, n=1))


def test_pure_noise(data):
    recording = record(Scaled(data), data, n=256, start="noise")
    with pytest.raises(eb.InputError, match=r"rollouts"):
        eb.published_delta(recording)
    gaps = eb.variance_gap(recording)
    assert np.abs(gaps.excess_over_gaussian / gaps.excess_over_gaussian_se).max() < 5
    assert np.isfinite(eb.epsilon_norm(recording).ratio).all()


def test_guidance_and_learned_variances_have_no_excess(data, perfect):
    known = perfect.run
    guided = replace(perfect, run=replace(known, model=replace(known.model, guidance=4.0)))
    learned = replace(perfect, run=replace(known, sampler="ddpm:learned_range"))
    for recording, reason in ((guided, "guidance 4"), (learned, "learned_range")):
        for diagnostic in (eb.variance_gap, eb.published_delta, eb.epsilon_norm):
            dataset = diagnostic(recording)
            assert reason in dataset.attrs["no_reference"]
            assert not [k for k in dataset if "gaussian" in k or "excess" in k]
        assert "scale" not in dataset
        assert "relative_to='none'" in dataset.attrs["no_schedule"]
        assert "scale" in eb.epsilon_norm(recording, relative_to="none")
    assert "delta_perfect" in eb.published_delta(learned)
    assert "delta_perfect" not in eb.published_delta(guided)
    with pytest.raises(eb.InputError, match=r"gaussian, none"):
        eb.epsilon_norm(perfect, relative_to="reference")


def test_a_missing_stream_is_named(data):
    with pytest.raises(eb.InputError, match=r"no chain stream"):
        eb.variance_gap(record(Scaled(data), data, n=16, streams=("forward",)))
    alone = record(Scaled(data), data, n=16, streams=("chain",))
    assert "gap_forward" not in eb.variance_gap(alone)
    with pytest.raises(eb.InputError, match=r"no forward stream"):
        eb.epsilon_norm(alone)


def test_constant_pixels_have_absolute_gaps_only():
    x = np.random.default_rng(0).normal(0, 0.3, (256, *SHAPE)).astype(np.float32)
    x[:, :, 0] = -1
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.1, SCHEDULE)
    gaps = eb.variance_gap(record(oracle, eb.load_data(x, value_range=None), n=256))
    assert gaps.attrs["no_ratio"].startswith("4 of 16 pixels are constant")
    assert np.isnan(gaps.gap_pixel[:, 0, 0]).all()
    assert np.isfinite(gaps.gap_pixel[:, 0, 1:]).all()
    assert np.isfinite(gaps.gap_absolute_pixel).all()
    assert np.isfinite(gaps.gap).all()
    x[:] = 0.25
    none = eb.variance_gap(record(oracle, eb.load_data(x), n=256))
    assert np.isnan(none.gap[-1])
    assert float(none.gap_absolute[-1]) > 0


def test_a_subset_of_grouped_pixels_changes_only_the_errors(data, perfect):
    """A large recording keeps groups of some pixels: values stay those of all of them."""
    subset = np.array([1, 4, 7, 8, 13])
    chain_ = perfect["chain"].isel(pixel=subset)
    forward_ = perfect["forward"].isel(pixel=subset)
    thinned = replace(perfect, streams=perfect.streams | {"chain": chain_, "forward": forward_})
    for diagnostic, name in (
        (eb.variance_gap, "gap"),
        (eb.variance_gap, "gap_forward"),
        (eb.published_delta, "root"),
    ):
        whole, part = diagnostic(perfect), diagnostic(thinned)
        np.testing.assert_allclose(part[name], whole[name], rtol=1e-9)
        assert (part[f"{name}_se"] > 0.8 * whole[f"{name}_se"])[1:].mean() > 0.8
    assert np.isfinite(eb.variance_gap(thinned).gap_pixel_se.values.reshape(-1, D)[0]).sum() == len(
        subset
    )


def test_max_t_quantile():
    """One point: Student's; many independent ones: no more than Šidák's; copies of one point count
    once."""
    rng = np.random.default_rng(0)
    one, many = rng.standard_normal((16, 1)), rng.standard_normal((16, 100))
    one, many = one - one.mean(0), many - many.mean(0)
    assert max_t_quantile(one) <= T_QUANTILE + 1e-9
    assert max_t_quantile(np.tile(one, 50)) == pytest.approx(max_t_quantile(one), rel=0.15)
    assert 3.5 < max_t_quantile(many) <= 4.42
    assert np.isnan(max_t_quantile(np.zeros((16, 3))))


def test_spectra_by_channel_and_haar(perfect, data):
    """Against scipy's DCT and 2×2 sums on raw states; the reference against dense traces."""
    rng = np.random.default_rng(2)
    images = rng.normal(0, [[[[0.1]], [[0.3]], [[0.2]]]], (300, 3, 6, 6)).astype(np.float32)
    colour = eb.load_data(images, value_range=None)
    model = eb.oracles.GaussianOracle(np.zeros((3, 6, 6)), 0.05, SCHEDULE)
    spectra = eb.spectrum(eb.record(model, colour, steps=3, streams=("forward", "chain")))
    x0 = images.astype(np.float64)
    levels = SCHEDULE.levels(3)
    path = Paths(0, range(300), (3, 6, 6)).on(levels)
    x = noised(torch.from_numpy(x0), levels[0], path.start(0))
    *_, last = chain(model, x, levels, eb.samplers.parse("ddpm"), path)
    high = radial_frequency(6, 6) >= 0.25
    power = [
        (dctn(d - x0.mean(0), axes=(2, 3), norm="ortho") ** 2)[..., high].sum((0, 2))
        for d in (last.x.numpy(), x0)
    ]
    np.testing.assert_allclose(spectra.hf_channel, 10 * np.log10(power[0] / power[1]), atol=1e-6)
    np.testing.assert_allclose(
        spectra.hf, 10 * np.log10(power[0].sum() / power[1].sum()), atol=1e-6
    )
    assert (spectra.hf_channel_low < spectra.hf_channel).all()
    detail = []
    for d in (last.x.numpy() - x0.mean(0), x0 - x0.mean(0)):
        a, b, c, e = d[..., ::2, ::2], d[..., ::2, 1::2], d[..., 1::2, ::2], d[..., 1::2, 1::2]
        parts = (a + b + c + e, a - b + c - e, a + b - c - e, a - b - c + e)
        detail.append(np.array([np.sum(part**2) for part in parts]))
    np.testing.assert_allclose(spectra.haar, 10 * np.log10(detail[0] / detail[1]), atol=1e-6)

    null = eb.spectrum(perfect)
    z = np.log(null.haar_ratio / null.haar_ratio_gaussian)[-1] / null.haar_ratio_se[-1]
    assert np.abs(z).max() < 4
    *_, (_, covariance, *_) = closed_form(Scaled(data))
    bands = haar(4, 4)
    to_haar = np.kron(*bands.matrices)
    exact = [
        ((to_haar @ m @ to_haar.T).diagonal() @ bands.bins)
        for m in (covariance, Scaled(data).covariance)
    ]
    np.testing.assert_allclose(null.haar_gaussian, 10 * np.log10(exact[0] / exact[1]), atol=1e-4)
    np.testing.assert_allclose(null.hf_channel_gaussian[0], null.hf_gaussian, atol=1e-12)


def test_commands(data, perfect, tmp_path, capsys):
    """Each command reads a recording, prints what Python says and writes figure, tables and
    dataset."""
    perfect.save(tmp_path / "run.nc")
    for command, diagnostic, table, name in (
        ("gap", eb.variance_gap, "variance_gap", "gap"),
        ("delta", eb.published_delta, "published_delta", "delta"),
        ("norms", eb.epsilon_norm, "epsilon_norm", "ratio"),
    ):
        assert (
            main([command, str(tmp_path / "run.nc"), "--json", "-o", str(tmp_path / command)]) == 0
        )
        printed = json.loads(capsys.readouterr().out)
        assert printed["tables"][table][-1][name] == pytest.approx(
            float(diagnostic(perfect)[name][-1]), rel=1e-9
        )
        assert {p.suffix for p in (tmp_path / command).iterdir()} == {
            ".png",
            ".pdf",
            ".csv",
            ".nc",
            ".html",
            ".txt",
        }
    assert main(["norms", str(tmp_path / "run.nc"), "--relative-to", "none"]) == 0
    assert "relative to: none" in capsys.readouterr().out
    assert main(["delta", "--start", "noise", "--steps", "2", "-n", "8"]) == 2
    assert "pairs nothing" in capsys.readouterr().err
    assert main(["gap", "--steps", "3", "-n", "32"]) == 0
    assert "32 samples give no interval" in capsys.readouterr().out
