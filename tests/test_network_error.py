"""`eb.network_error` against closed forms: linear networks, exact networks, wrong ones."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.diagnostics.orthogonality import family_wise, orthogonality
from exposure_bias.diagnostics.predicted_share import (
    CostSums,
    Where,
    cost,
    quadrature,
    where_it_arises,
)
from exposure_bias.diagnostics.strict_exposure import Restarts, strict_exposure
from exposure_bias.jackknife import GROUPS
from exposure_bias.schedules import Level
from exposure_bias.true_states.plan import differentiable, planned
from exposure_bias.true_states.value_function import (
    Coupling,
    LinearLaw,
    Measured,
    Modes,
    measured,
    pullbacks,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from network_worlds import SHAPE, Function, laws, wrong

SIZE = int(np.prod(SHAPE))
LINEAR = eb.schedules.linear()


# The share of a linear network on Gaussian data, in closed form.


def vp(h: float) -> Level:
    """The variance-preserving level of ln(α/σ) = h."""
    ratio = np.exp(-h)
    alpha = 1 / np.sqrt(1 + ratio**2)
    return Level(0.0, alpha, ratio * alpha)


def gaussian(seed: int) -> tuple[np.ndarray, LinearLaw]:
    """A covariance whose directions are no DCT modes, and its law."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    values = np.sort(0.3 * np.exp(-np.arange(SIZE) / 5))
    covariance = (q * values) @ q.T
    vectors = torch.from_numpy(q.T.copy())
    law = LinearLaw(
        torch.zeros(SIZE, dtype=torch.float64),
        torch.from_numpy(values),
        vectors,
        torch.from_numpy(np.diag(covariance).copy()),
    )
    return covariance, law


def network(covariance: np.ndarray, error: np.ndarray, size: float) -> Any:
    """h -> the matrix of a linear x̂_0: the exact one, and an error that is largest near h = 1."""

    def matrix(h: float) -> np.ndarray:
        level = vp(h)
        total = level.alpha**2 * covariance + level.sigma**2 * np.eye(SIZE)
        exact = level.alpha * np.linalg.solve(total, covariance)
        return exact + size * error / np.cosh(h - 1)

    return matrix


def end_covariance(covariance: np.ndarray, matrix: Any, first: float, last: float) -> np.ndarray:
    """That of the SDE dy = f dλ + dW at the last level, for a linear f = K x, by an ODE solver.

    With y = αx/σ² and C its covariance, dC/dλ = M C + C Mᵀ + 1, M = K σ²/α."""

    def slope(h: float, flat: np.ndarray) -> np.ndarray:
        level, c = vp(h), flat.reshape(SIZE, SIZE)
        m = matrix(h) * level.sigma**2 / level.alpha
        change: np.ndarray = 2 * level.snr * (m @ c + c @ m.T + np.eye(SIZE))
        return change.ravel()

    start = vp(first)
    scale = start.alpha / start.sigma**2
    total = start.alpha**2 * covariance + start.sigma**2 * np.eye(SIZE)
    solved = solve_ivp(
        slope, (first, last), (scale**2 * total).ravel(), method="DOP853", rtol=1e-12, atol=1e-12
    )
    end = vp(last)
    final: np.ndarray = solved.y[:, -1].reshape(SIZE, SIZE) * (end.sigma**2 / end.alpha) ** 2
    return final


def quadratic_forms(
    law: LinearLaw, modes: Modes, level: Level, end: Level, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `measured` gives of (x_0, ε), as quadratic forms: matrices (K, 2D, 2D) and constants.

    They are read off unit vectors and sums of two of them, so that the estimator's own code is what
    is tested."""
    k = torch.from_numpy(matrix)
    eye = np.eye(2 * SIZE)
    pairs = [(i, j) for i in range(2 * SIZE) for j in range(i)]
    rows = np.concatenate(
        [np.zeros((1, 2 * SIZE)), eye, np.stack([eye[i] + eye[j] for i, j in pairs])]
    )
    x0, noise = torch.from_numpy(rows[:, :SIZE]), torch.from_numpy(rows[:, SIZE:])
    coupling = Coupling.of(level, end)
    x = modes.inverse(level.alpha * x0 + level.sigma * noise)
    said, pulled = pullbacks(
        modes,
        coupling,
        x,
        torch.zeros_like(x0),
        level.alpha,
        lambda states: modes.inverse(modes_of(modes, states) @ k.T),
    )
    found = measured(law, modes, level, coupling, x0, noise, said, pulled)
    values = everything(found).numpy()
    constant = values[0]
    values = values - constant
    forms = np.zeros((values.shape[1], 2 * SIZE, 2 * SIZE))
    single = values[1 : 1 + 2 * SIZE]
    forms[:, np.arange(2 * SIZE), np.arange(2 * SIZE)] = single.T
    for (i, j), row in zip(pairs, values[1 + 2 * SIZE :], strict=True):
        forms[:, i, j] = forms[:, j, i] = (row - single[i] - single[j]) / 2
    return forms, constant


def modes_of(modes: Modes, states: torch.Tensor) -> torch.Tensor:
    return modes(states)


def everything(found: Measured) -> torch.Tensor:
    """[1, φ, S, C, Z] and then contraction and control by band of the error."""
    parts = [found.vector, found.contraction.flatten(1), found.control.flatten(1)]
    return torch.cat(parts, 1)


def population(covariance: np.ndarray, law: LinearLaw, matrix: Any, h: np.ndarray) -> CostSums:
    """The sums of infinitely many samples, one unit in each group, by Isserlis' theorem."""
    modes = Modes.of(SHAPE)
    j, p = len(modes.names), len(modes.names) + len(modes.parts)
    width = 1 + 2 * p + 2 * j
    root = np.zeros((2 * SIZE, 2 * SIZE))
    root[:SIZE, :SIZE], root[SIZE:, SIZE:] = covariance, np.eye(SIZE)
    moments, contraction, control = [], [], []
    for at in h:
        forms, constant = quadratic_forms(law, modes, vp(at), vp(h[-1]), matrix(at))
        spread = forms @ root
        mean = constant + np.trace(spread, axis1=1, axis2=2)
        few = spread[:width]
        both = 2 * np.einsum("aij,bji->ab", few, few) + np.outer(mean[:width], mean[:width])
        moments.append(both)
        contraction.append(mean[width : width + p * j].reshape(p, j))
        control.append(mean[width + p * j :].reshape(j, j))
    each = [
        np.broadcast_to(np.stack(v), (GROUPS, *np.stack(v).shape))
        for v in (moments, contraction, control)
    ]
    step = 2 * np.array([vp(at).alpha for at in h]) * quadrature(h)
    return CostSums(np.ones((GROUPS, len(h))), *each, step)


def test_the_predicted_share_of_a_linear_network_is_the_derivative_of_its_limit() -> None:
    """Gaussian data, any linear error: to first order in it the predicted share is what an ODE
    solver finds for the covariance at the end of the chain. To 1e-6 of the error's size."""
    covariance, law = gaussian(0)
    error = 0.3 * np.random.default_rng(10).normal(size=(SIZE, SIZE)) / 4
    first, last, small = -4.0, 3.0, 1e-4
    h = np.linspace(first, last, 161)
    target = np.trace(vp(last).alpha ** 2 * covariance) + SIZE * vp(last).sigma ** 2
    ends = [
        np.trace(end_covariance(covariance, network(covariance, error, size), first, last)) / target
        for size in (small, -small)
    ]
    derivative = (ends[0] - ends[1]) / (2 * small)
    sums = population(covariance, law, network(covariance, error, 1.0), h)
    value, deviations = cost(sums).of(np.ones(sums.bands))
    assert abs(value.sum() - derivative) < 1e-6
    assert abs(derivative) > 0.05
    np.testing.assert_allclose(deviations, 0, atol=1e-12)


def test_an_exact_linear_network_costs_nothing_in_any_band() -> None:
    """Without an error every entry of the cost map is zero, whatever the features."""
    covariance, law = gaussian(2)
    sums = population(
        covariance, law, network(covariance, np.zeros((SIZE, SIZE)), 1.0), np.linspace(-4, 3, 9)
    )
    value, _ = cost(sums).of(np.ones(sums.bands))
    np.testing.assert_allclose(value, 0, atol=1e-9)


# The pieces.


def oracle(name: str = "mixture") -> eb.Denoiser:
    found = wrong("exact", laws()[name], LINEAR)
    assert found is not None
    return found


def test_a_pulled_gradient_is_the_derivative_of_the_power_that_the_network_expects() -> None:
    """Against central differences of a float64 network, in every direction at once."""
    modes, level, end = Modes.of(SHAPE), LINEAR.level(300), LINEAR.level(0)
    coupling, network = Coupling.of(level, end), oracle()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.full((3, SIZE), 0.1, dtype=torch.float64)

    def expected(states: torch.Tensor) -> torch.Tensor:
        c = coupling.state * (modes(states) - level.alpha * mean)
        c = c + coupling.prediction * (modes(network(states, level)) - mean)
        return modes.by_band(c.square()) @ modes.parts.T

    with eb.denoisers.differentiating():
        _, pulled = pullbacks(modes, coupling, x, mean, level.alpha, lambda s: network(s, level))
    direction = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-5
    difference = (expected(x + step * direction) - expected(x - step * direction)) / (2 * step)
    along = torch.stack([(g * modes(direction)).sum(1) for g in pulled], 1)
    torch.testing.assert_close(along, difference, rtol=1e-6, atol=1e-8)
    assert not network(x, level).requires_grad


def test_the_control_has_mean_zero_given_each_image() -> None:
    """Over 20,000 draws of the noise of two images, for a law that is not theirs."""
    modes, level = Modes.of(SHAPE), LINEAR.level(400)
    _, law = gaussian(3)
    g = torch.Generator().manual_seed(0)
    draws = 20000
    x0 = torch.randn(2, SIZE, generator=g, dtype=torch.float64)
    noise = torch.randn(draws, SIZE, generator=g, dtype=torch.float64)
    for image in x0:
        x = image.expand(draws, SIZE)
        coupling = Coupling.of(level, LINEAR.level(0))
        control = measured(law, modes, level, coupling, x, noise, x, []).control.flatten(1)
        error = control.std(0) / draws**0.5
        assert (control.mean(0).abs() <= 4.5 * error + 1e-12).all()
        assert (error > 0).all()


def test_simpsons_rule_is_exact_for_parabolas_on_uneven_levels() -> None:
    """∫ h² over levels of any spacing, an odd and an even number of them."""
    for count in (7, 8):
        h = np.sort(np.random.default_rng(count).uniform(0.9, 1.1, count).cumsum())
        assert quadrature(h) @ h**2 == pytest.approx((h[-1] ** 3 - h[0] ** 3) / 3, rel=1e-10)
        assert (quadrature(h) > 0).all()


def test_the_maximum_over_a_table_is_flagged_in_one_table_in_twenty() -> None:
    """300 tables of 30 correlated scores of 256 images without an error: 5 %, ± 2.5 standard
    errors. The smallest single p-values would flag most of them."""
    rng, tables = np.random.default_rng(0), 300
    mixing = rng.normal(size=(10, 30))
    smallest = []
    for _ in range(tables):
        scores = (rng.normal(size=(256, 10)) @ mixing) * rng.normal(size=(256, 1))
        smallest.append(family_wise(scores, flips=400, seed=1).min())
    share = np.mean(np.array(smallest) < 0.05)
    assert 0.05 - 2.5 * 0.0126 <= share <= 0.05 + 2.5 * 0.0126


def test_samples_of_one_image_count_as_one() -> None:
    """Every image twice: twice the samples, the same p-value and the same error."""
    rng = np.random.default_rng(1)
    scores = rng.normal(0.1, 1, (256, 1, 3))
    weights = np.ones((GROUPS, 1, 3)) * 16
    once = orthogonality(scores, weights, np.arange(256), 1.0)
    twice = orthogonality(np.tile(scores, (2, 1, 1)), 2 * weights, np.tile(np.arange(256), 2), 1.0)
    assert twice.p_value == once.p_value
    np.testing.assert_allclose(twice.slope.error, once.slope.error, rtol=1e-12)


def test_scores_that_few_images_carry_are_not_asked() -> None:
    """One score of a few large values, one of round-off, one as it should be."""
    rng = np.random.default_rng(2)
    few = np.where(np.arange(512) % 100 == 0, 5.0, 1e-3)
    scores = np.stack([few, 1e-12 * rng.normal(size=512), rng.normal(size=512)], 1)[:, None]
    found = orthogonality(scores, np.full((GROUPS, 1, 3), 32.0), np.arange(512), 1.0)
    assert np.isnan(found.adjusted[0, :2]).all()
    assert np.isfinite(found.adjusted[0, 2])


def test_exposure_is_slope_times_shift_and_the_parts_add_up() -> None:
    """A loss that is linear in one feature, and a chain whose states are shifted in it: the
    exposure is their product. Without a slope or without a shift it is not said."""
    rng, n = np.random.default_rng(3), 1024
    true = rng.normal(1, 1, (n, 1, 2))
    truth = rng.normal(4, 0.1, n)
    noise = 0.02 * rng.normal(size=n)
    for slope, shift, said in ((0.4, 0.3, True), (0.4, 0.0, False), (0.0, 0.3, False)):
        own = true + np.array([shift, 0])
        restart = truth - 0.1 + slope * (true[:, 0, 0] - 1) + noise
        end = truth - 0.1 + slope * (own[:, 0, 0] - 1) + noise
        states = Restarts(np.arange(n) % GROUPS, truth, end, restart[:, None], true, own)
        found = strict_exposure(states)
        expected = slope * shift / truth.mean()
        assert found.exposure[0][0] == pytest.approx(expected, abs=4e-4 + 0.02 * expected)
        parts = found.exposure[0] + found.restart[0] + found.above[0]
        assert parts[0] == pytest.approx(found.total[0], abs=1e-12)
        assert bool(found.beyond[0]) is said


# The whole.


def states(name: str, n: int, seed: int = 0) -> eb.data.Data:
    drawn = laws()[name].draw(n, np.random.default_rng(seed))
    return eb.load_data(drawn.astype(np.float32), value_range=None)


@pytest.mark.parametrize("name", ["white", "mixture", "signs"])
def test_an_exact_network_is_not_flagged_and_small_errors_are(name: str) -> None:
    """512 images. The error rates over many runs stand in docs/network-error.md."""
    data = states(name, 512)
    for error, flagged in (("exact", 0), ("eps x 1.01", 1), ("region x 1.03", 1)):
        found = eb.network_error(wrong(error, laws()[name], LINEAR), data, costs=False, cuts=())
        assert int(found["flagged"]) == flagged, error
        assert (float(found["p_value"]) < 0.05) == bool(flagged)


def test_a_dropped_mode_is_flagged() -> None:
    data = states("mixture", 512)
    found = eb.network_error(
        wrong("dropped", laws()["mixture"], LINEAR), data, costs=False, cuts=()
    )
    assert int(found["flagged"]) == 1


def test_the_predicted_share_is_what_the_samples_lose() -> None:
    """x̂_0 × 0.995 on white data. Its share in closed form: variance d(1 + ρ) = 4α(k − κ)(1 + ρ) −
    2ρ/(1 + λv) per log SNR, −6.8 % to first order. The images' own deviation from their law is in
    the exact network's share too, and is subtracted."""
    data = states("white", 1024, seed=4)
    shares = [
        eb.network_error(wrong(error, laws()["white"], LINEAR), data, cuts=())
        for error in ("x0 x 0.995", "exact")
    ]
    exact, lost = float(shares[1]["predicted_share"]), float(shares[0]["predicted_share"])
    h = np.linspace(-5, 4.6, 2001)
    alpha, snr = 1 / np.sqrt(1 + np.exp(-2 * h)), np.exp(2 * h)
    kappa = alpha * 0.25 / (alpha**2 * 0.25 + 1 - alpha**2)
    first_order = np.trapezoid(-4 * alpha * 0.005 * kappa * 0.25 * snr / (1 + 0.25 * snr), h)
    assert lost - exact == pytest.approx(first_order, abs=0.004)
    assert abs(exact) < 3 * float(shares[1]["predicted_share_se"])
    np.testing.assert_allclose(shares[0]["cost"].sum(), lost, rtol=1e-12)
    assert float(shares[0]["share"].sel(statistic="variance")) == lost


def test_a_share_beyond_first_order_is_withheld() -> None:
    found = eb.network_error(
        wrong("x0 x 0.98", laws()["white"], LINEAR), states("white", 256), cuts=(), levels=8
    )
    assert np.isnan(found["predicted_share"])
    assert float(found["first_order_sum"][0]) < -0.1
    assert int(found["first_order"][0]) == 0


def test_batches_and_interruptions_change_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """In batches of another size, and killed and gone on with."""
    network, data = wrong("eps x 1.01", laws()["mixture"], LINEAR), states("mixture", 256)
    options = {"levels": 5, "seed": 3}
    whole = eb.network_error(network, data, **options)
    for name, variable in eb.network_error(network, data, batch_size=100, **options).items():
        np.testing.assert_allclose(variable, whole[name], rtol=1e-5, atol=1e-8, err_msg=str(name))
    eb.network_error(network, data, folder=tmp_path, **options)
    calls = []
    own = eb.oracles.MixtureOracle.__call__
    monkeypatch.setattr(
        eb.oracles.MixtureOracle, "__call__", lambda *a: calls.append(len(a[1])) or own(*a)
    )
    again = eb.network_error(network, data, folder=tmp_path, **options)
    assert max(calls) < 16  # probes of a few states, no batch
    np.testing.assert_allclose(again["cost"], whole["cost"])


def test_a_recording_that_kept_predictions_is_tested_without_a_call() -> None:
    """The slopes of its own levels are those of a pass: ε × 1.02 leaves out −2 % of the noise."""
    network, data = wrong("eps x 1.02", laws()["white"], LINEAR), states("white", 512)
    recording = eb.record(network, data, steps=6, n=512, streams=("forward",), keep=512)
    found = eb.network_error(recording, data)
    assert int(found["flagged"]) == 1
    ratio = found["alpha"] / found["sigma"]
    slope, error = (ratio * found[name].sel(test="noise") for name in ("slope", "slope_se"))
    assert (np.abs(slope - 0.02 / 1.02) < 3.5 * error).all()
    assert (slope > 3 * error).any()
    with pytest.raises(eb.InputError, match="keep=512"):
        eb.network_error(eb.record(network, data, steps=3, n=256, streams=("forward",)), data)
    with pytest.raises(eb.InputError, match="same ones"):
        eb.network_error(recording, states("white", 512, seed=9))


def test_fewer_than_256_images_give_no_verdict() -> None:
    found = eb.network_error(oracle(), states("mixture", 100), levels=4, cuts=())
    assert np.isnan(found["p_value"])
    assert "256" in found.attrs["no_verdict"]
    assert np.isnan(found["slope_se"]).all()


def test_rare_images_give_no_verdict() -> None:
    found = eb.network_error(oracle("rare"), states("rare", 512), levels=4, cuts=(), costs=False)
    assert np.isnan(found["p_value"])
    assert "carry the variance" in found.attrs["no_verdict"]


FUNCTIONS: dict[str, Any] = {
    "another shape": lambda x, level, f: x[:, 0],
    "not finite": lambda x, level, f: x * float("nan"),
    "the images": lambda x, level, f: torch.arange(x.numel()).view(x.shape),
    "random numbers": lambda x, level, f: torch.randn(x.shape),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_is_none_of_the_state_is_refused(name: str) -> None:
    with pytest.raises(eb.InputError, match=name):
        eb.network_error(
            oracle(), states("mixture", 256), functions={name: FUNCTIONS[name]}, levels=4, cuts=()
        )


def test_a_strangers_function_is_a_test_like_ours() -> None:
    """Its slope is found, at the same error rate, and its name may not be ours."""
    network, data = wrong("eps x 1.02", laws()["white"], LINEAR), states("white", 256)
    own = {"cube": lambda x, level, f: f.numpy() ** 3}
    found = eb.network_error(network, data, functions=own, levels=6, cuts=(), costs=False)
    assert "cube" in found["test"].values
    with pytest.raises(eb.InputError, match="noise"):
        eb.network_error(network, data, functions={"noise": own["cube"]}, cuts=())
    with pytest.raises(eb.InputError, match="mapping"):
        eb.network_error(network, data, functions=[own["cube"]], cuts=())


BAD: dict[str, dict[str, Any]] = {
    "levels": {"levels": 3},
    "restarts": {"restarts": 1000},
    "inside the chain": {"cuts": (1e6,)},
    "farther apart": {"cuts": (0.5, 0.5)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_are_refused_before_anything_is_computed(message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        eb.network_error(oracle(), states("mixture", 256), **BAD[message])


def test_a_guided_field_is_refused() -> None:
    network = oracle()
    network.guidance = 2.0
    with pytest.raises(eb.InputError, match="guided"):
        eb.network_error(network, states("mixture", 256))


def test_training_images_are_warned_of() -> None:
    data = states("mixture", 256)
    seen = eb.data.Data(data.images, "seen", "train", value_range=None)
    with pytest.warns(UserWarning, match="--split test"):
        found = eb.network_error(oracle(), seen, levels=4, cuts=(), costs=False)
    assert "training split" in found.attrs["warning"]


def test_a_network_that_hides_its_gradient_gets_no_costs() -> None:
    """A part without a gradient would bias the costs silently."""

    def half(x: torch.Tensor, level: Level) -> torch.Tensor:
        said = oracle()(x, level)
        return said.detach() / 2 + said / 2

    network = Function(half, LINEAR)
    found = eb.network_error(network, states("mixture", 256), levels=4, cuts=())
    assert "cost" not in found
    assert "differentiated" in found.attrs["no_costs"]


def test_a_monitor_logs_slope_share_and_where() -> None:
    """x̂_0 × 0.995 on white data: a share of −6.8 %, most of it where signal and noise are alike."""
    logged: list[dict[str, float]] = []
    monitor = eb.Monitor(
        every=1,
        data=states("white", 512),
        n=512,
        steps=2,
        what=("forward_loss", "network_error"),
        log=lambda step, values: logged.append(values),
    )
    monitor.check(1, wrong("x0 x 0.995", laws()["white"], LINEAR))
    values = logged[0]
    assert list(values) == monitor.columns
    assert values["network_share"] == pytest.approx(-0.068, abs=3 * values["network_share_se"])
    assert abs(values["network_slope"]) > 3 * values["network_slope_se"]
    assert 0.1 < values["network_share_ratio"] < 3


def test_most_of_a_share_is_found_where_it_was_put() -> None:
    """By level and by half of the frequencies; of one without a place, everywhere."""
    high = np.array([0, 0, 1, 1])
    value = np.full((10, 4), -1e-4)
    value[3:5, 2:] = -0.01
    assert where_it_arises(value, high) == Where(3, 4, "high")
    assert where_it_arises(np.full((10, 4), 0.01), high) == Where(0, 5, "all")
    value = np.zeros((10, 4))
    value[7, 0] = 0.02
    assert where_it_arises(value, high) == Where(7, 7, "low")


def test_the_command_says_what_python_says(tmp_path: Path, capsys: Any) -> None:
    """On the bundled digits, with files for everything, and read again from them."""
    out = str(tmp_path / "out")
    main(["network-error", "-n", "256", "--levels", "4", "--restarts", "256", "-o", out, "-q"])
    said = capsys.readouterr().out
    assert "true states" in said
    assert {"network-error.nc", "network-error.png", "network-error-slopes.csv"} <= {
        path.name for path in Path(out).iterdir()
    }
    main(["network-error", f"{out}/network-error.nc", "--json"])
    assert json.loads(capsys.readouterr().out)
    for wrong_options in (["--sampler", "ddim"], ["--levels", "2"], ["--cuts", "1e9"]):
        assert main(["network-error", "-n", "256", *wrong_options]) == 2


def test_gradients_reach_through_a_network_of_torch() -> None:
    """Costs need them; elsewhere a prediction holds no graph."""
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    model = eb.Denoiser(
        net,
        schedule=eb.schedules.linear(),
        prediction_type="epsilon",
        shape=(1, 4, 4),
        call=lambda net, x, t: torch.tanh(net(x)),
    )
    data = eb.load_data(np.random.default_rng(0).normal(size=(64, 1, 4, 4)), value_range=None)
    options = {"n": 64, "clip": False, "seed": 0, "batch_size": 64}
    plan = planned(model, data, 6, None, True, **options)
    assert differentiable(plan.setup)
    level = model.schedule.level(500)
    assert not model(torch.ones(2, 1, 4, 4).requires_grad_(), level).requires_grad
