"""Whiteness and centring of errors against constructed laws; the power of Shapiro–Wilk against the
literature's."""

import json

import numpy as np
import pytest
import xarray as xr

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.diagnostics.normality import power
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.statistics.bands import dct_matrix, radial_frequency

N, SIDE = 1024, 6


def dataset(error):
    """Errors (N, H, W) of one length, as `chain_errors` labels them."""
    return xr.Dataset(
        {"error": (("length", "sample", "channel", "y", "x"), error[None, :, None])},
        coords={"length": [10], "image": ("sample", np.arange(len(error)))},
    )


def test_white_errors():
    """Null values, with intervals that hold them in 92–98 % of 1000 checks."""
    hits = []
    for seed in range(125):
        error = np.random.default_rng(seed).standard_normal((256, SIDE, SIDE))
        shape = eb.isotropy(dataset(error)).isel(length=0)
        assert abs(float(shape.correlation)) < 6 * np.sqrt(2) / 256 / np.sqrt(SIDE**4 / 2)
        for name, null in (
            ("autocorrelation_x", 0),
            ("autocorrelation_y", 0),
            ("skewness", 0),
            ("whiteness", 1),
        ):
            hits.append(np.ravel(np.abs(shape[name] - null) <= T_QUANTILE * shape[f"{name}_se"]))
        assert abs(float(shape.bias)) < 6 * float(shape.bias_se)
    hits = np.concatenate(hits)
    assert len(hits) >= 1000
    assert 0.92 <= hits.mean() <= 0.98


@pytest.mark.slow
def test_the_error_of_the_correlation():
    """Its intervals hold r²'s mean of known correlated errors in 92–98 %, and are wide rather than
    narrow for white."""
    expected = 2 * SIDE * (SIDE - 1) * 0.25 / (SIDE**2 * (SIDE**2 - 1))
    hits = []
    for seed in range(150):
        z = np.random.default_rng(seed).standard_normal((256, SIDE, SIDE + 1))
        for error, truth in ((z[..., 1:] + z[..., :-1], expected), (z[..., 1:], 0.0)):
            shape = eb.isotropy(dataset(error)).isel(length=0)
            hits.append(
                abs(float(shape.correlation) - truth) <= T_QUANTILE * float(shape.correlation_se)
            )
    correlated, white = np.mean(np.reshape(hits, (-1, 2)), 0)
    assert 0.92 <= correlated <= 0.985
    assert white >= 0.94
    assert np.isnan(eb.isotropy(dataset(z[:100, :, 1:])).correlation_se).all()


def test_blocks_do_not_share_images():
    """Four copies of 128 images are 128 values a pixel, not 512."""
    error = np.random.default_rng(0).standard_normal((128, SIDE, SIDE))
    once, four = dataset(error), dataset(np.tile(error, (4, 1, 1)))
    once, four = (d.assign(x0=d["error"][0]) for d in (once, four))
    four = four.assign_coords(image=("sample", np.tile(np.arange(128), 4)))
    single, recycled = eb.normality(once, n=50), eb.normality(four, n=50)
    assert recycled.sizes["block"] == 2
    np.testing.assert_array_equal(single.block_rate, recycled.block_rate)
    assert recycled.attrs["recycled"].startswith("512 samples of 128 images")
    assert "recycled" not in single.attrs
    with pytest.raises(eb.InputError, match=r"128 of 128"):
        eb.normality(four, n=129)


def test_known_correlation_bias_and_spectrum():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((N * 4, SIDE, SIDE + 1))
    blurred = (z[..., 1:] + z[..., :-1]) / np.sqrt(
        2
    )  # neighbours along x share half their variance
    shape = eb.isotropy(dataset(blurred + 0.5)).isel(length=0)
    assert float(shape.autocorrelation_x) == pytest.approx(
        0.5, abs=5 * float(shape.autocorrelation_x_se)
    )
    assert float(shape.autocorrelation_y) == pytest.approx(
        0, abs=5 * float(shape.autocorrelation_y_se)
    )
    assert float(shape.autocorrelation_x_se) < 0.01
    pairs = 2 * SIDE * (SIDE - 1)  # ordered pairs with r = ½
    expected = pairs * 0.25 / (SIDE**2 * (SIDE**2 - 1))
    assert float(shape.correlation) == pytest.approx(expected, rel=0.05)
    assert float(shape.bias) == pytest.approx(0.25, rel=0.05)
    scale = np.where(radial_frequency(SIDE, SIDE) > 0.3, 0.5, 1.0)
    coloured = (
        dct_matrix(SIDE).T @ (scale * rng.standard_normal((N * 4, SIDE, SIDE))) @ dct_matrix(SIDE)
    )
    white = eb.isotropy(dataset(coloured)).isel(length=0).whiteness.values
    assert white[-1] / white[0] == pytest.approx(0.25, rel=0.15)
    skewed = eb.isotropy(dataset(rng.exponential(size=(N * 4, SIDE, SIDE)))).isel(length=0)
    assert float(skewed.skewness) == pytest.approx(2, abs=6 * float(skewed.skewness_se))


def test_power_is_the_literatures():
    """literature.md §1.3: 0.53, 0.34, 0.36 at n = 50; 0.81, 0.58, 0.57 at 100; above 0.99
    at 500."""
    rate = power()["rate"]
    np.testing.assert_allclose(rate.sel(alternative="normal"), 0.05, atol=0.015)
    names = ["laplace", "t5", "lognormal_scale"]
    np.testing.assert_allclose(rate.sel(n=50, alternative=names), [0.53, 0.34, 0.36], atol=0.05)
    np.testing.assert_allclose(rate.sel(n=100, alternative=names), [0.81, 0.58, 0.57], atol=0.05)
    assert (rate.sel(n=500, alternative=names) > 0.98).all()


def test_command(tmp_path, capsys):
    assert (
        main(["normality", "--lengths", "3", "8", "-n", "100", "--json", "-o", str(tmp_path)]) == 0
    )
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert {row["n"] for row in tables["gaussian"]} == {50, 100}
    assert len(tables["perfect_sampler"]) == 2
    assert {p.suffix for p in tmp_path.iterdir()} == {
        ".png",
        ".pdf",
        ".csv",
        ".nc",
        ".html",
        ".txt",
    }
    with pytest.raises(eb.InputError, match="3 samples"):
        eb.isotropy(dataset(np.zeros((2, SIDE, SIDE))))
