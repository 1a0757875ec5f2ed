"""Spectra in every basis: exact on known signals, the same expectations, and recordings that hold
several."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.jackknife import Groups
from exposure_bias.statistics.bands import (
    LUMA,
    BandPower,
    fourier_matrix,
    haar,
    hann_window,
    spectrum_bands,
)

BASES = ("dct", "hann", "fft", "luma")  # those of images
SIZES = [(4, 4), (8, 8), (7, 5), (9, 16)]
SCHEDULE = eb.schedules.linear(1000)
EXTRA = ("hann", "fft", "luma")


def radial_sums(power, height, width):
    """The bands of `Bands`, summed the plain way: Fourier power (…, H, W) at |f| in ((k − 1)/N,
    k/N], then f ≥ ¼."""
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    edges = np.arange(0, 2 * max(height, width)) / max(height, width)
    sums = [power[..., f == 0].sum(-1)]
    for low, high in pairwise(edges):
        here = (f > low + 1e-12) & (f <= high + 1e-12)
        sums += [power[..., here].sum(-1)] if here.any() else []
    return np.stack([*sums, power[..., f >= 0.25 - 1e-12].sum(-1)], -1)


@pytest.mark.parametrize("size", SIZES)
def test_real_rows_give_the_power_of_the_complex_fft(size):
    x = np.random.default_rng(0).standard_normal((3, *size))
    window = np.outer(*(hann_window(n) for n in size))
    for basis, weight in (("fft", 1), ("hann", window)):
        expected = radial_sums(np.abs(np.fft.fft2(x * weight, norm="ortho")) ** 2, *size)
        np.testing.assert_allclose(
            spectrum_bands(basis, (1, *size)).power(x), expected, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("basis", BASES)
def test_parseval_and_white_noise(size, basis):
    bands, x = (
        spectrum_bands(basis, (3, *size)),
        np.random.default_rng(0).standard_normal((3, *size)),
    )
    weight = np.outer(*(hann_window(n) for n in size)) if basis == "hann" else 1
    np.testing.assert_allclose(
        bands.power(x)[..., :-1].sum(), ((weight * x) ** 2).sum(), rtol=1e-12
    )
    assert bands.count[:-1].sum() == np.prod(size)
    # The expected power of unit white noise is what the transform makes of each pixel alone.
    each = np.eye(3 * size[0] * size[1]).reshape(-1, 3, *size)
    np.testing.assert_allclose(bands.power(each).sum(0), np.tile(bands.count, (3, 1)), rtol=1e-12)


@pytest.mark.parametrize("n", [4, 5, 8, 9])
def test_fourier_rows_are_orthonormal(n):
    np.testing.assert_allclose(fourier_matrix(n) @ fourier_matrix(n).T, np.eye(n), atol=1e-13)
    np.testing.assert_allclose(np.square(hann_window(n)).mean(), 1)


def test_a_blur_is_read_in_full_by_the_dct_and_not_by_the_raw_fft():
    x = eb.load_data("patches").batch(range(520)).astype(np.float64)
    x -= x.mean(0)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    blurred = convolve1d(convolve1d(x, kernel, -1, mode="reflect"), kernel, -2, mode="reflect")
    loss = {}
    for basis in BASES:
        bands = spectrum_bands(basis, x.shape[1:])
        after, before = (bands.power(v)[..., -1].sum() for v in (blurred, x))
        loss[basis] = 10 * np.log10(after / before)
    # Mirrored at the border, the blur multiplies DCT mode k by cos⁴(π k/2N).
    bands = spectrum_bands("dct", x.shape[1:])
    transfer = np.cos(np.pi * np.arange(16) / 32) ** 4
    c = bands.matrices[0] @ x @ bands.matrices[1].T
    high = bands.bins[:, -1].reshape(16, 16)
    exact = 10 * np.log10(
        (np.square(c * np.outer(transfer, transfer)) * high).sum() / (c**2 * high).sum()
    )
    assert loss["dct"] == pytest.approx(exact, abs=1e-9)
    assert loss["luma"] == pytest.approx(exact, abs=1e-9)
    assert loss["fft"] > exact + 9
    assert abs(loss["hann"] - exact) < abs(loss["fft"] - exact) / 2


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    shape, n = (3, 6, 5), 512
    d = int(np.prod(shape))
    covariance = 0.2 * np.eye(d) + 0.3 / d * np.ones((d, d))
    mean = 0.3 * rng.standard_normal(shape)
    x = rng.multivariate_normal(mean.ravel(), covariance, n).reshape(n, *shape).astype(np.float32)
    return eb.oracles.GaussianOracle(mean, covariance, SCHEDULE), eb.load_data(x, value_range=None)


@pytest.fixture(scope="module")
def recording(case):
    return eb.record(*case, steps=5, spectra=EXTRA)


@pytest.mark.parametrize("basis", BASES)
def test_recorded_spectra_have_their_expectation_and_reference(case, recording, basis):
    spectra = eb.spectrum(recording, basis)
    assert spectra.attrs["basis"] == basis
    expected, se = spectra["power_expected"], spectra["power_forward_se"]
    assert (
        np.abs(spectra["power_forward"] - expected)[:-1] < 5 * (se[:-1] + 0.02 * expected[:-1])
    ).all()
    # Both streams start from the law of all the images: there the reference is the expectation
    # itself.
    np.testing.assert_allclose(spectra["power_gaussian"][0], expected[0], rtol=1e-5)
    error = np.sqrt(
        4 / (512 * spectra["modes"])
    )  # of log ratio, if only one of three components had power
    assert (np.abs(np.log(spectra["ratio"] / spectra["ratio_gaussian"])) < 5 * error).all()
    bands = spectrum_bands(basis, (3, 6, 5))
    images = case[1].batch(range(512)).astype(np.float64)
    direct = (
        bands.power(images - images.mean(0)).mean((0, 1))[: len(bands.label)]
        / bands.count[: len(bands.label)]
    )
    np.testing.assert_allclose(spectra["power_data"], direct, rtol=1e-9)


def test_luminance_and_chroma_add_up_to_the_channels(recording):
    np.testing.assert_allclose(LUMA @ LUMA.T, np.eye(3), atol=1e-15)
    dct, luma = eb.spectrum(recording), eb.spectrum(recording, "luma")
    np.testing.assert_allclose(luma["power_chain"], dct["power_chain"], rtol=1e-10)
    assert float(luma["hf"]) == pytest.approx(float(dct["hf"]), abs=1e-10)
    assert list(luma["channel"].values) == ["luminance", "red-blue", "magenta-green"]
    # The common part of all pixels, 0.3 in variance, is luminance and nothing else.
    constant = recording["data"]["state_luma"].sum("group").isel(step=0, frequency=0) / recording.n
    np.testing.assert_allclose(constant, [0.5, 0.2, 0.2], rtol=0.3)


def test_nothing_is_added_unless_asked_for(case, recording):
    plain = eb.record(*case, n=32, steps=2)
    assert plain.run.spectra == ()
    assert not any("hann" in str(k) or "luma" in str(k) for k in plain["chain"].variables)
    assert "fourier_frequency" not in plain["chain"].variables
    with pytest.raises(eb.InputError, match=r"no hann spectra, only dct: record again"):
        eb.spectrum(plain, "hann")
    with pytest.raises(eb.InputError, match=r"unknown basis 'haar'.*dct, hann, fft, luma"):
        eb.spectrum(plain, "haar")
    shared = [k for k in plain["chain"].data_vars if k not in ("count",)]
    assert set(shared) <= set(recording["chain"].data_vars)


def test_merge_save_and_resume(case, recording, tmp_path):
    halves = [eb.record(*case, n=256, first=f, steps=5, spectra=EXTRA) for f in (256, 0)]
    merged = eb.merge(halves)
    merged.save(tmp_path / "merged.nc")
    merged = eb.load(tmp_path / "merged.nc")
    for basis in BASES:
        one, other = eb.spectrum(recording, basis), eb.spectrum(merged, basis)
        for name in one.data_vars:
            np.testing.assert_allclose(
                one[name], other[name], rtol=1e-6, atol=1e-9, err_msg=f"{basis} {name}"
            )
    with pytest.raises(eb.InputError, match=r"spectra: \(\) against \('hann',\)"):
        eb.merge(
            [
                eb.record(*case, n=32, steps=2),
                eb.record(*case, n=32, first=32, steps=2, spectra=("hann",)),
            ]
        )
    # A checkpoint of the first half of the samples is continued, to the same sums.
    path = tmp_path / "c.nc"
    settings = {"n": 64, "batch_size": 32, "steps": 5, "spectra": ("luma", "hann")}
    whole = eb.record(*case, **settings)
    half = eb.record(*case, **{**settings, "n": 32}, checkpoint=path)
    replace(half, planned=64).save(path)
    resumed = eb.record(*case, **settings, checkpoint=path)
    for stream in whole.streams:
        assert whole[stream].equals(resumed[stream])
    with pytest.raises(eb.InputError, match=r"belongs to another run.*spectra"):
        eb.record(*case, **{**settings, "spectra": ("luma",)}, checkpoint=path)


def test_bad_spectra(case):
    with pytest.raises(eb.InputError, match=r"unknown basis 'hanning'"):
        eb.record(*case, n=16, steps=2, spectra=("hanning",))
    model = eb.oracles.GaussianOracle(np.zeros((1, 8, 8)), 0.3, SCHEDULE)
    with pytest.raises(eb.InputError, match=r"three channels, not of 1"):
        eb.record(model, "digits", n=16, steps=2, spectra=("luma",))


def test_command_line(capsys, tmp_path):
    quick = ["--steps", "3", "-n", "32"]
    path = tmp_path / "run.nc"
    assert main(["record", *quick, "--spectra", "hann,fft", "-o", str(path)]) == 0
    for basis in ("hann", "fft"):
        capsys.readouterr()
        assert main(["spectrum", str(path), "--basis", basis, "--json"]) == 0
        read = json.loads(capsys.readouterr().out)
        assert (
            main(["spectrum", *quick, "--basis", basis, "--json", "-o", str(tmp_path / basis)]) == 0
        )
        assert json.loads(capsys.readouterr().out) == read
        assert read["attributes"]["basis"] == basis
    assert main(["spectrum", str(path), "--basis", "luma"]) == 2
    assert "no luma spectra, only dct, fft, hann" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(5, 5), (5, 8), (7, 4), (6, 6)])
def test_the_power_of_white_noise_in_haar_bands_of_odd_sides(shape):
    """Dense trace of T Tᵀ by band; at step 0 of a chain every reference ratio is 1."""
    bands = haar(*shape)
    dense = np.kron(*bands.matrices)
    np.testing.assert_allclose(bands.count, (dense @ dense.T).diagonal() @ bands.bins, rtol=1e-9)
    if shape == (5, 5):
        assert bands.count.tolist() == [16, 8, 8, 4]
    images = np.random.default_rng(0).normal(0, 0.3, (16, 1, *shape)).astype(np.float32)
    model = eb.oracles.GaussianOracle(np.zeros((1, *shape)), 0.09, eb.schedules.linear(1000))
    recording = eb.record(model, eb.load_data(images, value_range=None), steps=3)
    np.testing.assert_allclose(eb.spectrum(recording).haar_ratio_gaussian[0], 1, atol=1e-3)


@pytest.mark.parametrize("samples", [5, 32])
@pytest.mark.parametrize(
    ("basis", "shape"),
    [
        ("dct", (2, 80, 61)),
        ("dct", (1, 5000)),
        ("dct", (1, 5, 30, 40)),
        ("luma", (3, 70, 64)),
        ("hann", (1, 80, 61)),
        ("fft", (1, 80, 61)),
        ("plane", (1, 5, 30, 40)),
        ("frames", (1, 5, 30, 40)),
        ("dct", (2, 20, 24)),
        ("haar", (2, 80, 61)),
        ("haar", (1, 5, 30, 41)),
        ("haar", (1, 1, 5001)),
    ],
)
def test_power_of_large_states_is_that_of_the_matrices(basis, shape, samples):
    """Fast transforms, and sums mode by mode, against one product for each axis."""
    bands = haar(*shape[1:]) if basis == "haar" else spectrum_bands(basis, shape)
    states = np.random.default_rng(0).standard_normal((samples, *shape))
    found = BandPower(SimpleNamespace(shape=shape, steps=1), "state", bands)
    batch = SimpleNamespace(
        field=lambda name: torch.from_numpy(states.reshape(1, samples, -1)),
        precision=torch.float64,
        groups=Groups(range(samples)),
    )
    found.update(slice(0, 1), batch)
    expected = bands.power(states)
    total = found.state[f"state_{bands.key}"].sum((0, 1))
    assert np.allclose(total, expected.sum(0)[:, : len(bands.label)], rtol=1e-10)
    if bands.upper is not None:
        assert np.allclose(found.state[f"state_{bands.high}"].sum((0, 1)), expected.sum(0)[:, -1])
