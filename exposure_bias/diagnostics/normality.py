"""Is e_t Gaussian? Shapiro–Wilk tests per pixel, and what their rejection rate is worth.

The talk tests 50 values a pixel at 5 % and finds few rejections. Two things are missing there: 5 %
of true Gaussians are rejected as well, and pixels are correlated, so that thousands of tests are
worth few. Here the images are split into B disjoint blocks of n; a block's rate r_b is the share of
pixels rejected in it, and the independent blocks give the interval r̄ ± t_{B−1} s/√B and the
effective number of tests r̄(1 − r̄)/s². With one block only, the range that Gaussian
errors of the same covariance would show is simulated instead.

"e_t is Gaussian" is input perturbation's assumption. It is not what a perfect sampler shows: even
its e_t is a scale mixture.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.diagnostics.shapiro import shapiro
from exposure_bias.errors import InputError
from exposure_bias.jackknife import Array
from exposure_bias.results import Column, Kind, Table, Term, returns
from exposure_bias.results.numbers import half_of, told
from exposure_bias.results.tables import tidy
from exposure_bias.results.terms import COUNT, SHARE, TEXT
from exposure_bias.states import axes_of

CLASSES = ("regular", "constant_x0", "atoms", "at_bound")
ATOM_SHARE = 0.01
BOUND_TOLERANCE = 1e-6
SIMULATIONS = 200


PER_TEST = Term("values in a test", COUNT, "How many values one normality test takes.")
REJECTED = (
    Column("chain length T′", "length"),
    Column("values in a test", "n"),
    Column("pixels rejected (%)", "rate", 100),
    Column("effective tests", "effective_tests"),
    Column("after FDR control (%)", "fdr_rate", 100),
)


def _sentence(tests: xr.Dataset) -> str:
    longest = tests[["rate", "rate_low", "rate_high"]].isel(length=-1)
    rate, alpha = told(longest, "rate", 100), 100 * float(tests.attrs["alpha"])
    lack = "" if np.isfinite(half_of(longest, "rate")) else "; one block gives no interval"
    where = f"at T′ = {int(longest['length'])}"
    return f"Of the pixels {rate} % are not Gaussian {where} ({alpha:g} % by chance){lack}."


def rejection_table(tests: Sequence[xr.Dataset], name: str, title: str) -> Table:
    """The rejection rates of tests of several numbers of values, in one table."""
    parts = [tidy(t, "length").assign(n=int(t.attrs["n_per_test"])) for t in tests]
    return Table(name, title, pd.concat(parts), REJECTED, main=True)


def _tables(tests: xr.Dataset) -> list[Table]:
    classes = (
        Column("chain length T′", "length"),
        Column("class of pixels", "pixels"),
        Column("pixels", "count"),
        Column("rejected (%)", "rate_of", 100),
    )
    label = (
        f"normality (Shapiro-Wilk, {tests.attrs['n_per_test']} values a test, level"
        f" {tests.attrs['alpha']})"
    )
    return [
        rejection_table([tests], "normality", label),
        Table("pixel_classes", "pixel classes", tidy(tests, "length", "pixels"), classes),
    ]


NORMALITY = Kind(
    name="normality",
    title="Are chain errors Gaussian?",
    question=(
        "Input perturbation assumes that errors of chains are Gaussian. How many pixels reject"
        " that? Some do by chance; where pixels err together, few tests are worth as much as many."
    ),
    variables={
        "n": PER_TEST,
        "statistic": Term("Shapiro–Wilk W", SHARE, "Near 1 for a Gaussian."),
        "pvalue": Term("p-value", SHARE, "Of the Shapiro–Wilk test of one pixel in one block."),
        "W": Term("Shapiro–Wilk W", SHARE, "Near 1 for a Gaussian."),
        "p": Term("p-value", SHARE, "Of the Shapiro–Wilk test of a pixel."),
        "block": Term("block", COUNT, "Disjoint sets of images, which are independent."),
        "block_rate": Term(
            "pixels rejected in a block", SHARE, "Share of a block's regular pixels."
        ),
        "count": Term("pixels", COUNT, "How many pixels are of a class."),
        "rate_of": Term("pixels rejected in a class", SHARE, "Share of a class's pixels."),
        "rate": Term(
            "pixels rejected",
            SHARE,
            "Share of pixels where a Shapiro–Wilk test rejects that e_t is Gaussian. It is the"
            " level of the test if all are Gaussian.",
        ),
        "effective_tests": Term(
            "effective number of tests",
            COUNT,
            "How many independent tests the correlated pixels are worth.",
        ),
        "fdr_rate": Term(
            "rejected after Benjamini–Hochberg",
            SHARE,
            "Share of pixels rejected with the false discovery rate held at the test's level.",
        ),
        "null_low": Term(
            "lower end under normality",
            SHARE,
            "Of the 95 % range of the rate for Gaussian errors of the same covariance, simulated.",
        ),
        "null_high": Term("upper end under normality", SHARE, "Of the same range."),
        "pixels": Term(
            "class of pixels",
            TEXT,
            "Regular pixels, and those whose test means nothing: constant images, equal errors"
            " (atoms), predictions at a clip bound.",
        ),
        "pixel": Term("pixel", TEXT, "Channel, row and column."),
    },
    tables=_tables,
    sentence=_sentence,
    needs={"rate": ("length",), "rate_of": ("length", "pixels")},
)


@returns(NORMALITY)
def normality(errors: xr.Dataset, n: int = 50, alpha: float = 0.05, seed: int = 0) -> xr.Dataset:
    """Shapiro–Wilk rejection rates of the errors that `chain_errors` made.

    n: values a test, 3 to 5000; the talk takes 50. alpha: level of a test. seed: how images are
    split into blocks.

    Returns, over (length): rate, the mean over blocks of the share of regular pixels rejected, with
    rate_se, rate_low and rate_high (95 %, NaN with one block); effective_tests; fdr_rate, the share
    rejected by Benjamini–Hochberg at level alpha, mean over blocks; null_low and null_high, the
    simulated 95 % range of the rate for Gaussian errors of the same covariance (with one block
    only, else NaN). Over (length, block): block_rate. Over (length, pixels): count and rate_of of
    regular pixels and of those reported apart, because the test means nothing there: x_0 constant,
    more than 1 % of errors exactly equal (atoms), more than 1 % of x̂_0 at −1 or 1 (at_bound). Over
    (length, block, *state axes): statistic and pvalue.

    Blocks are of different images, or they would not be independent: of samples that share an image
    only the first is tested, and the attribute recycled says so.

    Raises InputError if n does not fit the number of images or alpha lies outside (0, 1).
    """
    samples = errors.sizes["sample"]
    _, first = np.unique(errors["image"].values, return_index=True)
    first.sort()
    check_test(n, alpha, len(first))
    blocks = len(first) // n
    order = first[np.random.default_rng(seed).permutation(len(first))[: blocks * n]]
    recycled = (
        f"{samples} samples of {len(first)} images: one of each is tested, for blocks must not"
        " share images"
    )
    axes = axes_of(errors["error"].dims)
    error = errors["error"].transpose("length", "sample", *axes).values
    split = error[:, order].reshape(len(error), blocks, n, *error.shape[2:])
    kind = _classes(error, errors["x0"].values)
    statistic, pvalue = _tested(split)
    tests = ("length", "block", *axes)
    result = xr.Dataset(
        {"statistic": (tests, statistic), "pvalue": (tests, pvalue)},
        coords={"length": errors["length"], "pixels": list(CLASSES)},
        attrs=errors.attrs
        | {"n_per_test": str(n), "blocks": str(blocks), "alpha": str(alpha)}
        | ({"recycled": recycled} if len(first) < samples else {}),
    )
    rejected = np.where(np.isnan(pvalue), np.nan, pvalue < alpha)
    by_class = [np.where(kind[:, None] == c, rejected, np.nan) for c in range(len(CLASSES))]
    pixels = tuple(range(2, rejected.ndim))
    block_rate = _share(by_class[0], pixels)
    counts = [(kind == c).reshape(len(kind), -1).sum(1) for c in range(len(CLASSES))]
    result["block_rate"] = (("length", "block"), block_rate)
    result["count"] = (("length", "pixels"), np.stack(counts, 1))
    result["rate_of"] = (
        ("length", "pixels"),
        np.stack([_share(r, (1, *pixels)) for r in by_class], 1),
    )
    regular = [pvalue[i][:, kind[i] == 0] for i in range(len(kind))]
    result["fdr_rate"] = ("length", np.array([_benjamini_hochberg(p, alpha) for p in regular]))
    null = [
        _null_range(split[i, 0][:, kind[i] == 0], alpha, seed) if blocks == 1 else (np.nan, np.nan)
        for i in range(len(kind))
    ]
    result["null_low"], result["null_high"] = (
        ("length", np.array(side)) for side in zip(*null, strict=True)
    )
    return result.assign(
        {
            k: ("length", v)
            for k, v in _across_blocks(block_rate, [p.shape[1] for p in regular]).items()
        }
    )


POWER_DRAWS = 4000


def _tested(split: Array) -> tuple[Array, Array]:
    """W and p of every (length, block, pixel).

    From values (length, block, n, pixel); NaN where they are all the same.
    """
    n = split.shape[2]
    constant = split.min(2) == split.max(2)
    line = np.linspace(-1, 1, n).reshape(n, *(1,) * (split.ndim - 3))
    with np.errstate(all="ignore"):
        # A constant pixel has no shape to test: a line keeps `shapiro` quiet, and its result is
        # taken out again.
        statistic, pvalue = shapiro(np.where(constant[:, :, None], line, split), axis=2)
    statistic[constant], pvalue[constant] = np.nan, np.nan
    return statistic, pvalue


def check_test(n: int, alpha: float, samples: int) -> None:
    """Raise InputError unless tests of n values at level alpha can be made.

    They are made of so many samples of different images.
    """
    if not 3 <= n <= min(samples, 5000):
        raise InputError(
            f"a normality test takes 3 to {min(samples, 5000)} of {samples} samples, got n={n}"
        )
    if not 0 < alpha < 1:
        raise InputError(f"alpha is a probability between 0 and 1, got {alpha}")


def _power_tables(power: xr.Dataset) -> list[Table]:
    shown = (
        Column("values in a test", "n"),
        Column("what is tested", "alternative"),
        Column("rejected (%)", "rate", 100),
    )
    return [
        Table("power", "power of that test (simulated)", tidy(power, "n", "alternative"), shown)
    ]


POWER = Kind(
    name="power",
    title="Power of the normality test",
    question="How often does a Shapiro–Wilk test of so many values notice what is not Gaussian?",
    variables={
        "n": PER_TEST,
        "rate": Term("rejected", SHARE, "How often a test of n values rejects the alternative."),
        "alternative": Term("what is tested", TEXT, "The law of the simulated values."),
    },
    tables=_power_tables,
    needs={"rate": ("n", "alternative")},
)


@returns(POWER)
def power(sizes: Sequence[int] = (50, 100, 500), alpha: float = 0.05, seed: int = 0) -> xr.Dataset:
    """How often a Shapiro–Wilk test of n values rejects what is not Gaussian.

    The rate (n, alternative), by simulation.

    alternative: normal (the rate is alpha), Laplace, Student's t with 5 degrees of freedom, and a
    Gaussian whose standard deviation is log-normal (s = 0.4), the kind of scale mixture that a
    perfect e_t is. rate_se is binomial.
    """
    rng = np.random.default_rng(seed)
    rates = []
    for n in sizes:
        z = rng.standard_normal((POWER_DRAWS, n))
        drawn = {
            "normal": z,
            "laplace": rng.laplace(size=z.shape),
            "t5": rng.standard_t(5, size=z.shape),
            "lognormal_scale": z * np.exp(0.4 * rng.standard_normal(z.shape)),
        }
        rates.append([(shapiro(x, axis=1).pvalue < alpha).mean() for x in drawn.values()])
    rate = np.array(rates)
    return xr.Dataset(
        {
            "rate": (("n", "alternative"), rate),
            "rate_se": (("n", "alternative"), np.sqrt(rate * (1 - rate) / POWER_DRAWS)),
        },
        coords={"n": list(sizes), "alternative": list(drawn)},
    )


def _classes(error: Array, x0: Array) -> NDArray[np.int64]:
    """The index into CLASSES of every (length, *state axes)."""
    samples = error.shape[1]
    ordered = np.sort(error, axis=1)
    run = max(2, int(ATOM_SHARE * samples) + 1)
    atoms = (ordered[:, run - 1 :] == ordered[:, : samples - run + 1]).any(1)
    at_bound = (np.abs(np.abs(x0 - error) - 1) < BOUND_TOLERANCE).mean(1) > ATOM_SHARE
    constant = np.broadcast_to(np.ptp(x0, axis=0) == 0, atoms.shape)
    return np.select([constant, at_bound, atoms], [1, 3, 2], 0)


def _share(values: Array, axis: tuple[int, ...]) -> Array:
    """Mean of what is not NaN, NaN where there is nothing."""
    known = (~np.isnan(values)).sum(axis)
    share: Array = np.where(known > 0, np.nansum(values, axis) / np.maximum(known, 1), np.nan)
    return share


def _across_blocks(block_rate: Array, tests: Sequence[int]) -> dict[str, Array]:
    """Rates by block (length, blocks) in sum; tests: in each block, by length."""
    from scipy.special import stdtrit

    blocks = block_rate.shape[1]
    rate = block_rate.mean(1)
    if blocks == 1:
        nothing = np.full_like(rate, np.nan)
        return {
            "rate": rate,
            **dict.fromkeys(("rate_se", "rate_low", "rate_high", "effective_tests"), nothing),
        }
    spread = block_rate.std(1, ddof=1)
    se = spread / np.sqrt(blocks)
    half = stdtrit(blocks - 1, 0.975) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.minimum(rate * (1 - rate) / spread**2, tests)
    low, high = np.maximum(rate - half, 0), np.minimum(rate + half, 1)
    return {
        "rate": rate,
        "rate_se": se,
        "rate_low": low,
        "rate_high": high,
        "effective_tests": effective,
    }


def _benjamini_hochberg(pvalue: Array, alpha: float) -> float:
    """Share of the tests in each block that the step-up procedure rejects.

    Tests are (blocks, tests); the share is a mean over blocks.
    """
    tests = pvalue.shape[1]
    if tests == 0:
        return float("nan")
    passed = np.sort(pvalue, axis=1) <= alpha * np.arange(1, tests + 1) / tests
    last = np.where(passed.any(1), tests - np.argmax(passed[:, ::-1], axis=1), 0)
    return float(last.mean() / tests)


def _null_range(error: Array, alpha: float, seed: int) -> tuple[float, float]:
    """95 % range of the rate over SIMULATIONS Gaussian samples.

    They have the covariance of `error` (n, pixels).
    """
    n, pixels = error.shape
    if pixels == 0:
        return float("nan"), float("nan")
    deviation = error - error.mean(0)
    rng = np.random.default_rng(seed)
    # Rows of z @ deviation are Gaussian with the sample covariance, without making that matrix.
    rates = [
        (shapiro(rng.standard_normal((n, n)) @ deviation, axis=0).pvalue < alpha).mean()
        for _ in range(SIMULATIONS)
    ]
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)
