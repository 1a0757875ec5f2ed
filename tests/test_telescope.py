"""The telescope against `record`, closed forms and biases injected at known levels; refined
levels."""

import numpy as np
import pytest

import exposure_bias as eb
from exposure_bias.denoisers import Denoiser
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.references import gaussian_chain

SCHEDULE = eb.schedules.linear(1000)
SHAPE = (1, 4, 4)
D = 16
N = 1024
MEAN = np.linspace(-0.3, 0.3, D).reshape(SHAPE)
VARIANCES = np.linspace(0.5, 0.02, D)


class Biased(Denoiser):
    """A denoiser whose ε is scaled by a factor at timesteps in [low, high]."""

    def __init__(self, base, factor, low=0, high=np.inf):
        super().__init__(
            base.net, schedule=base.schedule, prediction_type="epsilon", shape=base.shape
        )
        self.base, self.factor, self.low, self.high = base, factor, low, high

    def __call__(self, x, level):
        epsilon = (x - level.alpha * self.base(x, level)) / level.sigma
        return epsilon * (self.factor if self.low <= level.timestep <= self.high else 1.0)


def images(n, seed=0):
    x = MEAN + np.sqrt(VARIANCES).reshape(SHAPE) * np.random.default_rng(seed).standard_normal(
        (n, *SHAPE)
    )
    return eb.load_data(x.astype(np.float32), value_range=None)


@pytest.fixture(scope="module")
def oracle():
    return eb.oracles.GaussianOracle(MEAN, VARIANCES, SCHEDULE)


@pytest.fixture(scope="module")
def data():
    return images(N, 1)


@pytest.fixture(scope="module")
def measured(oracle, data):
    return eb.telescope(oracle, data, steps=10, n=N, batch_size=N)


def test_brackets_add_up(measured):
    for suffix in ("", "_spectrum", "_high"):
        total, r = measured[f"gap{suffix}"], measured[f"R{suffix}"]
        np.testing.assert_allclose(
            measured[f"bracket{suffix}"].sum("block"), total, rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            r.sel(origin="noise") - r.sel(origin="t"), total, rtol=0, atol=1e-12
        )
        without = (
            measured[f"bracket{suffix}"].sel(block="prior").drop_vars("block")
            + measured[f"gap_data{suffix}"]
        )
        np.testing.assert_allclose(without, total, rtol=0, atol=1e-12)
        reference = measured[f"bracket{suffix}_gaussian"].sum("block")
        np.testing.assert_allclose(reference, measured[f"gap{suffix}_gaussian"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", ["data", "noise"])
def test_whole_chains_are_those_of_record(oracle, data, start):
    options = {"steps": 6, "n": 300, "seed": 3}
    t = eb.telescope(oracle, data, **options)
    rec = eb.record(oracle, data, start=start, **options)
    law, chain, n = (
        rec["data"],
        rec["chain"].swap_dims(step="timestep").sel(timestep=t["target"].values),
        300,
    )
    pixels = ("channel", "y", "x")
    variance = (chain["state_square"] - chain["state_sum"] ** 2 / n).sum(pixels) / (n - 1)
    expected = chain["alpha"] ** 2 * float(law["variance"].sum()) + D * chain["sigma"] ** 2
    origin = "noise" if start == "noise" else "999"
    np.testing.assert_allclose(t["R"].sel(origin=origin), variance / expected - 1, rtol=1e-9)
    hf = eb.spectrum(rec)["hf"]
    np.testing.assert_allclose(t["R_high"].sel(origin=origin)[-1], hf, rtol=1e-9)
    assert float(t["R_high"].sel(origin="t")[-1]) == pytest.approx(0, abs=1e-12)


def z_scores(t, name):
    """(measured − Gaussian reference) / s.e. where the bracket is not empty."""
    z = (t[name] - t[f"{name}_gaussian"]) / t[f"{name}_se"]
    return z.where(t[f"{name}_se"] > 1e-12)


def test_gaussian_oracle_agrees_with_its_closed_form_and_the_test_has_teeth(oracle, data, measured):
    # Some 30 values of |t_15| each, of which the largest passes 6 once in a thousand runs.
    for name in ("bracket", "gap", "gap_data", "bracket_high", "gap_high"):
        assert float(abs(z_scores(measured, name)).max()) < 6, name
    assert float(abs(z_scores(measured, "bracket_spectrum")).max()) < 8
    biased = eb.telescope(Biased(oracle, 1.03), data, steps=10, n=N, batch_size=N)
    assert float(abs(z_scores(biased, "gap")).max()) > 6


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_bias_is_found_in_its_block_with_its_sign(oracle, factor):
    n = 4 * N
    t = eb.telescope(
        Biased(oracle, factor, 400, 600),
        images(n, 1),
        starts=(650, 350),
        steps=20,
        n=n,
        batch_size=n,
    )
    assert t["block"].values.tolist() == [
        "prior",
        "999 to 631",
        "631 to 368",
        "368 to t+1",
        "t+1 to t",
    ]
    assert t["timestep"].values.tolist() == [631, 368, -1]
    z = z_scores(t, "bracket")
    at = {"block": "631 to 368", "target": 368}
    sign = np.sign(1 - factor)  # too little noise removed leaves variance
    assert sign * float(z.sel(at)) > 6
    assert sign * float(z_scores(t, "bracket_high").sel(at)) > 6
    assert abs(float(z.sel(block="999 to 631", target=631))) < 5
    assert float(abs(z.sel(block=["368 to t+1", "t+1 to t"], target=-1)).max()) < 5
    # The bias is carried to the clean end by the rest of the chain, and shrinks on the way.
    assert (
        sign * float((t["bracket"] - t["bracket_gaussian"]).sel(block="631 to 368", target=-1)) > 0
    )


@pytest.mark.slow
def test_intervals_cover(oracle):
    """1000 and more checks of brackets against the closed form of the true law, and of the gaps
    that they add up to."""
    levels = SCHEDULE.levels(6)
    starts = [0, 1, 2, 3, 4]
    targets = [1, 2, 3, 4, 6]
    r = np.ones((8, 5))
    for column, target in enumerate(targets):
        noise = gaussian_chain(MEAN, VARIANCES, levels, start="noise")
        for row, start in enumerate((None, *starts, target - 1)):
            first = 0 if start is None else start if start < target else target - 1
            chain = noise if start is None else gaussian_chain(MEAN, VARIANCES, levels[first:])
            expected = levels[target].alpha ** 2 * VARIANCES.sum() + D * levels[target].sigma ** 2
            r[row, column] = float(chain["variance"][target - first].sum()) / expected
    exact = {"bracket": r[:-1] - r[1:], "gap": r[0] - r[-1], "gap_data": r[1] - r[-1]}
    inside = {name: [] for name in exact}
    for seed in range(75):
        data = images(256, 100 + seed)
        t = eb.telescope(
            oracle, data, steps=6, starts=[levels[i].timestep for i in starts], seed=seed
        )
        for name, value in exact.items():
            # The prior's brackets are tiny and far from Gaussian; empty ones are exact.
            rows = slice(1, None) if name == "bracket" else slice(None)
            se = t[f"{name}_se"].values[rows]
            hit = abs(t[name].values[rows] - value[rows]) <= T_QUANTILE * se
            inside[name] += hit[se > 1e-12].tolist()
    assert len(inside["bracket"]) >= 1000
    for name, hits in inside.items():
        assert 0.92 <= np.mean(hits) <= 0.98, (name, np.mean(hits), len(hits))


def test_prior_mismatch(data):
    """A schedule that ends at α_T = 0.6 starts its chains from too wide a prior: known in closed
    form."""
    schedule = eb.schedules.linear(100)
    oracle = eb.oracles.GaussianOracle(MEAN, VARIANCES, schedule)
    t = eb.telescope(oracle, data, steps=10, n=N, starts=(99,), targets=(50,), batch_size=N)
    assert abs(float(t["bracket_gaussian"][0, 0])) > 0.05
    assert float(abs(z_scores(t, "bracket")).max()) < 6


def test_independent_of_batches(oracle):
    data = images(30)
    one, other = (eb.telescope(oracle, data, steps=6, batch_size=b) for b in (7, 1000))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("sampler", ["ddpm:fixed_large", "ddim:0.5", "heun"])
def test_other_samplers(oracle, data, sampler):
    t = eb.telescope(oracle, data, steps=8, n=1024, starts=(500,), sampler=sampler, batch_size=1024)
    # Whatever the sampler, R(t→t) is that of the forward process.
    assert float(abs(t["R"].sel(origin="t") / t["R_se"].sel(origin="t")).max()) < 5
    assert float(abs(z_scores(t, "bracket")).max()) < 7


def test_refinement_keeps_the_levels(oracle, data):
    coarse, fine = (eb.telescope(oracle, data, steps=8, refine=k, n=512) for k in (1, 4))
    assert coarse["origin"].values.tolist() == fine["origin"].values.tolist()
    assert coarse["target"].equals(fine["target"])
    assert fine.attrs["steps"] == "8, each in 4"
    assert float(coarse["gap"][-1]) < 2 * float(fine["gap"][-1]) < 0


def test_the_smallest_images_have_spectra_and_vectors_have_none():
    for shape, spectra in (((1, 2, 2), True), ((4,), False)):
        oracle = eb.oracles.GaussianOracle(np.zeros(shape), 0.2, SCHEDULE)
        rows = np.random.default_rng(0).normal(0, 0.4, (16, *shape)).astype(np.float32)
        t = eb.telescope(oracle, eb.load_data(rows, value_range=None), steps=3)
        assert bool([name for name in t if "spectrum" in name or "high" in name]) is spectra
        assert ("no_spectrum" in t.attrs) is not spectra
        assert "16 samples give no interval" in t.attrs["no_interval"]


def test_bands_without_power_are_empty_with_a_reason(oracle):
    rows = np.random.default_rng(0).normal(0, 0.4, (16, 1, 4, 1)).repeat(4, 3)
    t = eb.telescope(oracle, eb.load_data(rows.astype(np.float32), value_range=None), steps=3)
    assert "no power" in t.attrs.get("no_power", "")
    assert np.isfinite(t["gap"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": (999,)}, "cleaner than the noisiest"),
        ({"targets": (1200,)}, "from 0 to 999"),
        ({"starts": (10, 11)}, "different steps"),
        ({"sampler": "plms"}, "plms"),
        ({"refine": 1.5}, "whole number"),
        ({"clip": "yes"}, "unknown clip"),
    ],
)
def test_bad_input(oracle, options, message):
    with pytest.raises(eb.InputError, match=message):
        eb.telescope(oracle, images(8), **{"steps": 4, **options})


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, eb.schedules.edm(), eb.schedules.flow()], ids=lambda s: s.name
)
@pytest.mark.parametrize("grid", ["linspace", "leading", "trailing", "karras"])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_refined_levels_hold_the_given_ones(schedule, grid, factor):
    if schedule.alpha[-1] == 0 and grid == "karras":
        pytest.skip("karras needs a finite σ/α")
    levels = schedule.levels(9, grid)
    finer, places = schedule.refined(levels, factor)
    assert tuple(finer[i] for i in places) == levels
    ratio = np.array([np.inf if level.alpha == 0 else level.sigma / level.alpha for level in finer])
    assert (np.diff(ratio[1:]) < 0).all()
    assert 8 * factor + 1 <= len(finer) - 1 <= 9 * factor
    if grid == "trailing" and schedule is not SCHEDULE:
        np.testing.assert_allclose(finer, schedule.levels(9 * factor, grid), rtol=1e-3, atol=1e-3)
