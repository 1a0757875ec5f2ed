"""The Shapiro–Wilk test: against scipy on every kind of sample, and against what the test
must be."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exposure_bias.diagnostics import shapiro as module
from exposure_bias.diagnostics.shapiro import ShapiroResult, shapiro
from exposure_bias.errors import InputError

# Users are promised 1e-8 and 1e-6; this much closer, a slip in the last digit of any of Royston's
# coefficients fails.
W_TOLERANCE, P_TOLERANCE = 1e-10, 1e-7

DISTRIBUTIONS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "uniform": lambda rng, size: rng.uniform(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "left-skewed": lambda rng, size: -(rng.exponential(size=size) ** 3),
    "t2": lambda rng, size: rng.standard_t(2, size=size),
    "beta, two modes": lambda rng, size: rng.beta(0.2, 0.2, size=size),
    "ties": lambda rng, size: np.round(rng.normal(size=size), 1),
    "heavy ties": lambda rng, size: np.round(rng.normal(size=size)),
    "integers": lambda rng, size: rng.integers(-100, 100, size=size),
    "float32": lambda rng, size: rng.normal(size=size).astype(np.float32),
    "large offset": lambda rng, size: 1e9 + rng.normal(size=size),
    "offset near resolution": lambda rng, size: 1 + 1e-14 * rng.normal(size=size),
    "tiny": lambda rng, size: 1e-15 * rng.normal(size=size),
    "huge": lambda rng, size: 1e200 * rng.normal(size=size),
}


def by_scipy(x: np.ndarray, axis: int = -1) -> ShapiroResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant samples
        return ShapiroResult(*scipy.stats.shapiro(x, axis=axis))


def ours(x: np.ndarray, axis: int = -1) -> ShapiroResult:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*constant")
        return shapiro(x, axis=axis)


def assert_same(a: ShapiroResult, b: ShapiroResult) -> None:
    np.testing.assert_allclose(a.statistic, b.statistic, rtol=0, atol=W_TOLERANCE)
    np.testing.assert_allclose(a.pvalue, b.pvalue, rtol=0, atol=P_TOLERANCE)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_agrees_with_scipy(name: str) -> None:
    rng = np.random.default_rng(1)
    for n in [*range(3, 61), 99, 100, 501, 1000, 2047, 4999, 5000]:
        x = DISTRIBUTIONS[name](rng, (20 if n < 100 else 3, n))
        assert_same(ours(x), by_scipy(x))


def test_small_pvalues_agree_relatively() -> None:
    x = np.random.default_rng(2).exponential(size=(40, 200))
    expected = by_scipy(x).pvalue
    assert expected.max() < 1e-6
    np.testing.assert_allclose(shapiro(x).pvalue, expected, rtol=1e-6)


def test_published_example() -> None:
    """Weights of eleven men, Shapiro & Wilk (1965): W = 0.79."""
    result = shapiro([148, 154, 158, 160, 161, 162, 166, 170, 182, 195, 236])
    assert result.statistic == pytest.approx(0.79, abs=0.005)
    assert result.pvalue < 0.01


def test_three_values_have_the_exact_distribution() -> None:
    x = np.random.default_rng(3).normal(size=(20_000, 3))
    assert scipy.stats.kstest(shapiro(x).pvalue, "uniform").pvalue > 0.01


@pytest.mark.parametrize("middle", [0.0, 0.3, 0.5, 1.0])
def test_three_values_in_closed_form(middle: float) -> None:
    w = 0.5 / np.var([0, middle, 1]) / 3
    result = shapiro([0, middle, 1])
    assert result.statistic == pytest.approx(w, abs=1e-14)
    assert result.pvalue == pytest.approx(6 / np.pi * np.arcsin(np.sqrt(w)) - 2, abs=1e-7)


@pytest.mark.parametrize("n", [4, 5, 6, 11, 12, 50, 500])
def test_rejects_a_twentieth_of_normal_samples(n: int) -> None:
    tests = 10_000 if n <= 50 else 2000
    rejected = shapiro(np.random.default_rng(4).normal(size=(tests, n))).pvalue < 0.05
    assert abs(rejected.mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / tests)


def test_rejects_what_is_not_normal() -> None:
    rng = np.random.default_rng(5)
    assert (shapiro(rng.exponential(size=(500, 50))).pvalue < 0.05).mean() > 0.99
    assert (shapiro(rng.uniform(size=(500, 200))).pvalue < 0.05).mean() > 0.99


@settings(deadline=None, max_examples=60)
@given(
    x=arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(3, 40)),
        elements=st.integers(-1000, 1000),
    ),
    shift=st.integers(-1000, 1000),
    power=st.integers(-600, 600),  # a power of two scales without rounding, so that ties stay ties
    sign=st.sampled_from([-1, 1]),
)
def test_invariant_under_shift_and_scale(x: np.ndarray, shift: int, power: int, sign: int) -> None:
    assert_same(ours(np.ldexp(sign * (x + shift), power)), ours(x))


@settings(deadline=None, max_examples=60)
@given(
    x=arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(3, 40)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_bounds_permutation_and_scipy(x: np.ndarray, seed: int) -> None:
    given_x, result = x.copy(), ours(x)
    np.testing.assert_array_equal(x, given_x)
    assert np.all((result.statistic > 0) & (result.statistic <= 1))
    assert np.all((result.pvalue >= 0) & (result.pvalue <= 1))
    assert_same(ours(np.random.default_rng(seed).permuted(x, axis=-1)), result)
    if np.ptp(x, axis=-1).min() > 1e-18:  # scipy calls less a constant sample
        assert_same(result, by_scipy(x))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_axis(axis: int, order: str) -> None:
    x = np.asarray(np.random.default_rng(6).normal(size=(5, 6, 7)), order=order)
    result = shapiro(x, axis=axis)
    expected = by_scipy(x, axis=axis)
    assert result.statistic.shape == expected.statistic.shape
    assert_same(result, expected)


def test_one_sample_gives_scalars() -> None:
    result = shapiro([1.0, 2.0, 4.0, 8.0])
    assert isinstance(result, ShapiroResult)
    assert isinstance(result.statistic, np.float64)
    assert isinstance(result.pvalue, np.float64)
    assert_same(result, by_scipy(np.array([1.0, 2.0, 4.0, 8.0])))


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.int8, np.uint64, ">f8", np.longdouble]
)
def test_every_real_dtype_is_computed_in_float64(dtype: type | str) -> None:
    x = np.random.default_rng(7).uniform(0, 100, size=(3, 20)).astype(dtype)
    result = shapiro(x)
    assert result.statistic.dtype == result.pvalue.dtype == np.float64
    assert_same(result, shapiro(x.astype(np.float64)))


@pytest.mark.parametrize("values", [1, 100, 250])
def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    x = np.random.default_rng(8).normal(size=(7, 20, 11))
    expected = shapiro(x, axis=1)
    monkeypatch.setattr(module, "CHUNK_VALUES", values)
    result = shapiro(x, axis=1)
    np.testing.assert_allclose(result.statistic, expected.statistic, rtol=1e-13)
    np.testing.assert_allclose(result.pvalue, expected.pvalue, rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [3, 8, 50])
def test_a_value_that_is_not_finite_spoils_its_own_sample_only(bad: float, n: int) -> None:
    x = np.random.default_rng(9).normal(size=(6, n))
    expected = by_scipy(x)
    x[1, n // 2] = x[4] = bad
    result = shapiro(x)
    spoilt = np.isin(np.arange(6), [1, 4])
    np.testing.assert_array_equal(np.isnan(result.statistic), spoilt)
    np.testing.assert_array_equal(np.isnan(result.pvalue), spoilt)
    assert_same(
        ShapiroResult(*(r[~spoilt] for r in result)), ShapiroResult(*(r[~spoilt] for r in expected))
    )


@pytest.mark.parametrize("n", [3, 8, 50])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e300])
def test_constant_samples_warn_once(n: int, value: float) -> None:
    x = np.random.default_rng(10).normal(size=(5, n))
    x[[0, 3]] = value
    with pytest.warns(UserWarning, match="2 of 5 samples are constant") as caught:
        result = shapiro(x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(result.statistic == 1, [True, False, False, True, False])
    np.testing.assert_array_equal(result.pvalue == 1, [True, False, False, True, False])
    assert_same(result, by_scipy(x))


@pytest.mark.parametrize(
    ("x", "axis", "message"),
    [
        ([1.0, 2.0], -1, "2 values along axis -1, but the test needs at least 3"),
        (np.zeros((2, 9)), 0, "2 values along axis 0, but the test needs at least 3"),
        ([], -1, "0 values"),
        (np.zeros(5001), -1, "5001 values .* only up to 5000; test a random subset"),
        (np.zeros((0, 9)), 1, "empty"),
        (3.0, -1, "single number"),
        (np.zeros((4, 4)), 2, "axis is 2, .* from -2 to 1"),
        (np.zeros((4, 4)), 1.5, "axis is 1.5"),
        (np.zeros((4, 4)), None, "axis is None.* x.ravel()"),
        (np.zeros((4, 4)), (0, 1), "axis is"),
        (["a", "b", "c"], -1, "dtype <U1"),
        ([1j, 2j, 3j], -1, "dtype complex128"),
        ([True, False, True], -1, "dtype bool"),
        ([None, 1.0, 2.0], -1, "dtype object"),
        ([[1.0, 2.0, 3.0], [1.0]], -1, "cannot convert"),
        (np.ma.masked_equal([1.0, 2.0, 3.0, 4.0], 2), -1, "masked"),
    ],
)
def test_bad_input(x: object, axis: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shapiro(x, axis=axis)


def test_import_is_light() -> None:
    code = (
        "import sys, exposure_bias.diagnostics.shapiro; assert not {'torch', 'scipy.stats'} &"
        " set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
