"""Quality against chain length: closed form, resuming, common noise, checkpoints, and the
command."""

import gc
import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.data import bundled
from exposure_bias.experiments.chain_length_fid import (
    checkpoints,
    fid_by_iteration,
    load_curve,
    save_curve,
    speed_up,
)
from exposure_bias.experiments.kinds.chain_length_fid import details as curve
from exposure_bias.jackknife import T_QUANTILE

SHAPE = (1, 2, 2)
VARIANCES = np.array([0.05, 0.1, 0.2, 0.4])


@pytest.fixture(scope="module")
def gaussian():
    """An exact denoiser of Gaussian images, and images of that law."""
    rng = np.random.default_rng(0)
    model = eb.oracles.GaussianOracle(np.full(SHAPE, 0.2), VARIANCES, eb.schedules.linear(1000))
    images = (
        (0.2 + rng.standard_normal((1024, 4)) * np.sqrt(VARIANCES))
        .astype(np.float32)
        .reshape(-1, *SHAPE)
    )
    return model, eb.load_data(images, value_range=None)


@pytest.fixture
def digits():
    data = eb.load_data("digits", split="test")
    return eb.load_data(data.images[:64])


def test_curve_of_a_gaussian_is_the_closed_form(gaussian):
    """The distance of the chain's exact law to the data's lies within every interval; without
    correction in few."""
    model, data = gaussian
    lengths = (2, 3, 5, 10)
    curve = eb.chain_length_fid(model, data, lengths, features="pixel", n=2048)
    assert curve.attrs["quantised"] == "no"
    for length in lengths:
        law = eb.references.gaussian(
            np.full(SHAPE, 0.2), VARIANCES, model.schedule, steps=length, start="noise"
        )
        last = law.isel(step=-1)
        spread = np.sqrt(last["variance"].values.reshape(-1))
        true = (
            np.square(last["mean"].values - 0.2).sum()
            + np.square(spread - np.sqrt(VARIANCES)).sum()
        )
        here = curve.sel(length=length)
        assert (
            abs(here["frechet_corrected"] - true) <= 1.3 * T_QUANTILE * here["frechet_corrected_se"]
        )
        assert here["frechet_corrected_se"] < 0.05
    values = curve["frechet_corrected"].values
    assert values[0] > 4 * values[-1]
    assert (
        abs(curve["floor_frechet_corrected"])
        <= 1.3 * T_QUANTILE * curve["floor_frechet_corrected_se"]
    )
    assert int(curve["floor_n"]) == 512


def test_batch_size_does_not_matter(digits):
    one, other = (
        eb.chain_length_fid("digits", digits, (3,), n=40, batch_size=size) for size in (40, 7)
    )
    assert np.allclose(one["frechet"], other["frechet"], rtol=1e-3)
    assert np.allclose(one["kid"], other["kid"], rtol=1e-3)


@pytest.mark.slow
def test_common_noise_sharpens_differences():
    data = eb.load_data("digits", split="test")
    models = ["digits", "digits-ip", "digits"]
    curve = eb.chain_length_fid(models, data, (6, 8), sampler=["ddim"], n=320)
    assert curve["frechet"].dims == ("model", "sampler", "length")
    assert curve["model"].values.tolist() == ["digits", "digits-ip", "digits (3)"]
    apart = curve.sel(model="digits-ip").squeeze()
    assert (apart["against_first_se"] < 0.6 * apart["frechet_corrected_se"]).all()
    difference = (
        apart["frechet_corrected"] - curve.sel(model="digits").squeeze()["frechet_corrected"]
    )
    assert np.allclose(apart["against_first"], difference)
    assert (curve.sel(model="digits (3)")["against_first"] == 0).all()
    change = curve["frechet_corrected"].diff("length").squeeze()
    assert np.allclose(curve["change"].squeeze().isel(length=1), change.squeeze())
    assert np.isnan(curve["change"].isel(length=0)).all()


def test_a_killed_sweep_goes_on(digits, tmp_path):
    model = eb.load_model("digits")
    calls = []
    model.net.register_forward_hook(lambda *_: calls.append(1))

    def run(lengths, **options):
        calls.clear()
        curve = eb.chain_length_fid(model, digits, lengths, n=40, checkpoint=tmp_path, **options)
        return curve, len(calls)

    whole, made = run((2, 3))
    assert made == 2 + 3 + 2  # and one probe for each length
    again, made = run((2, 3))
    assert made == 2
    xr.testing.assert_identical(again, whole)
    next(tmp_path.glob("3-*.nc")).unlink()
    again, made = run((2, 3))
    assert made == 2 + 3
    assert np.array_equal(again["frechet_jackknife"], whole["frechet_jackknife"], equal_nan=True)
    assert run((2, 3), seed=1)[1] == 2 + 2 + 3
    assert run((2, 3), features="random-conv")[1] == 2 + 2 + 3
    other = eb.load_model("digits")
    with torch.no_grad():
        next(other.net.parameters()).mul_(1.5)
    other.name, model.net = "digits", other.net
    assert len(list(tmp_path.glob("*.nc"))) == 6
    run((2, 3))
    assert len(list(tmp_path.glob("*.nc"))) == 8


def test_kept_points_of_a_remedy_that_kept_the_name_are_refused(digits, tmp_path):
    model = eb.load_model("digits")
    eb.chain_length_fid(model, digits, (2,), n=32, checkpoint=tmp_path)
    same = {
        "schedule": model.schedule,
        "prediction_type": "epsilon",
        "shape": model.shape,
        "name": model.name,
    }
    scaled = eb.Denoiser(model.net, call=lambda net, x, t: net(x, t).sample * 1.005, **same)
    with pytest.raises(eb.InputError, match="answer one fixed noise differently"):
        eb.chain_length_fid(scaled, digits, (2,), n=32, checkpoint=tmp_path)


def test_kept_points_against_other_statistics_of_one_name_are_measured_anew(gaussian, tmp_path):
    from exposure_bias.fidelity import frechet

    model, data = gaussian
    values = []
    for folder, mean in (("a", 0.2), ("b", 0.7)):
        path = tmp_path / folder / "ref.npz"
        path.parent.mkdir()
        eb.fidelity.write_statistics(path, frechet.normal(np.full(4, mean), np.diag(VARIANCES)))
        options = {"features": "pixel", "n": 64, "reference": path, "checkpoint": tmp_path / "kept"}
        values.append(float(eb.chain_length_fid(model, data, (2,), **options)["frechet"][0]))
    assert values[1] > values[0] + 0.3


def test_a_split_of_ones_own_data_has_no_other_split(digits):
    """`train` divides any data into "train" and "held out"; only the bundled ones can be loaded as
    "test"."""
    divided = replace(digits, split="train")
    curve = eb.chain_length_fid("digits", divided, (2,), n=32)
    assert int(curve["floor_n"]) == 32


@pytest.mark.slow
def test_images_are_let_go(digits):
    seen = []

    def watching(images):
        gc.collect()
        assert sum(ref() is not None for ref in seen) <= 1
        seen.append(weakref.ref(images))
        assert len(images) <= 10
        assert images.dtype == torch.uint8
        return images.float().flatten(1)[:, ::4] / 255

    eb.chain_length_fid("digits", digits, (2,), features=watching, n=60, batch_size=10)
    assert len(seen) == 1 + 7 + 6


@pytest.mark.slow
def test_reconstruction_curve(gaussian):
    """From true x_t: the RMSE is that of `chain_errors`, and short chains give the images back."""
    model, data = gaussian
    options = {"sampler": "ddim", "n": 512}
    curve = eb.chain_length_fid(
        model, data, (1, 100, 900), features="pixel", start="data", **options
    )
    errors = eb.chain_errors(model, data, (1, 100, 900), **options)
    # Both start on the same paths, which other levels between the anchors bridge otherwise.
    assert (abs(curve["rmse"] - errors["pooled_rmse"]) <= 3 * errors["pooled_rmse_se"]).all()
    assert np.allclose(curve["rmse_se"], errors["pooled_rmse_se"], rtol=0.5)
    assert curve["frechet"][0] < curve["frechet"][2]


def test_given_statistics(gaussian, tmp_path):
    """Distances are then to the file's law, taken as exact; other features are refused."""
    model, data = gaussian
    from exposure_bias.fidelity import frechet

    law = frechet.normal(np.full(4, 0.2), np.diag(VARIANCES))
    path = tmp_path / "reference.npz"
    eb.fidelity.write_statistics(path, law, about={"features": "pixel", "image_shape": list(SHAPE)})
    curve = eb.chain_length_fid(model, data, (10,), features="pixel", n=1024, reference=path)
    free = eb.chain_length_fid(model, data, (10,), features="pixel", n=1024)
    assert curve.attrs["reference"] == "reference.npz"
    assert curve["frechet_corrected_se"].item() < free["frechet_corrected_se"].item()
    with pytest.raises(eb.InputError, match="random-conv"):
        eb.chain_length_fid(
            model, data, (10,), features="random-conv", n=64, reference=path, quantise=False
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (10, 1001)}, r"1001.*1000"),
        ({"lengths": (10, 1001), "start": "data"}, r"1001.*1000"),
        ({"lengths": ()}, "none"),
        ({"lengths": (2, 2)}, "different"),
        ({"lengths": (0,)}, "at least 1"),
        ({"n": 1}, "at least 2 samples, got n=1"),
        ({"start": "middle"}, r"'middle'.*noise and data"),
        ({"features": "vgg"}, "unknown features"),
        ({"sampler": ["ddpm", "plms"]}, "plms"),
        ({"sampler": []}, "at least one"),
        ({"real": np.zeros((9, 1, 4, 4), np.float32)}, r"\(1, 4, 4\).*\(1, 8, 8\)"),
        ({"device": "nowhere"}, "cannot use device 'nowhere'"),
    ],
)
def test_bad_input(digits, options, message):
    with pytest.raises(eb.InputError, match=message):
        eb.chain_length_fid("digits", digits, **({"lengths": (2,)} | options))


def test_latents_are_not_quantised(gaussian):
    with pytest.raises(eb.InputError, match="quantise=False"):
        eb.chain_length_fid(*gaussian, (2,), features="pixel", quantise=True)


def test_checkpoints_by_iteration(digits, tmp_path):
    for name in ("step-200", "step-1000"):
        shutil.copytree(bundled.FOLDER / "digits", tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert list(checkpoints(tmp_path)) == [200, 1000]
    curve = fid_by_iteration(tmp_path, digits, (3,), n=40)
    assert curve["iteration"].values.tolist() == [200, 1000]
    assert curve["frechet"][0] == curve["frechet"][1]
    with pytest.raises(TypeError, match="sampel"):
        fid_by_iteration(tmp_path, digits, (3,), sampel="ddim")
    shutil.copytree(tmp_path / "step-200", tmp_path / "other-200")
    with pytest.raises(eb.InputError, match=r"other-200 and step-200"):
        checkpoints(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(eb.InputError, match="no checkpoint"):
        checkpoints(tmp_path / "empty")
    with pytest.raises(eb.InputError, match="no folder"):
        checkpoints(tmp_path / "missing")


def curve_of(values, along="iteration"):
    places = [100, 200, 400, 800][: len(values)]
    values = xr.DataArray(values, coords={along: places}, dims=along)
    return xr.Dataset(
        {"frechet": values, "frechet_corrected": values * np.nan},
        attrs={"measure": "FID", "n": "2"},
    )


def test_speed_up():
    baseline, candidate = curve_of([9.0, 6.0, 5.0, 4.0]), curve_of([7.0, 3.9, 3.0, 3.5])
    found = speed_up(candidate, baseline)
    assert [float(found[k]) for k in ("best", "baseline_at", "candidate_at", "factor")] == [
        4,
        800,
        200,
        4,
    ]
    assert np.isnan(speed_up(curve_of([9.0, 8.0, 7.0, 6.0]), baseline)["factor"])
    with pytest.raises(eb.InputError, match="'length'"):
        speed_up(candidate, baseline, "length")


def test_a_rise_is_described_not_explained():
    (rising,) = curve(curve_of([9.0, 4.0, 5.5], "length"))
    assert "lowest at T′ = 200 (4)" in rising
    assert "1.5 higher at T′ = 400" in rising
    assert "diagnose" in rising
    (falling,) = curve(curve_of([9.0, 5.0, 4.0], "length"))
    assert "longest" in falling
    assert "higher" not in falling


def test_command(tmp_path, capsys):
    arguments = ["chain-fid", "--lengths", "2", "4", "-n", "64", "--against", "digits-ip", "--json"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    table = json.loads(capsys.readouterr().out)
    rows = table["tables"]["quality"]
    assert [(r["model"], r["length"]) for r in rows] == [
        (m, k) for m in ("digits", "digits-ip") for k in (2, 4)
    ]
    assert "uint8" in table["attributes"]["quantised"]
    assert len(list((tmp_path / "work" / "cells").glob("*.nc"))) == 4
    assert {p.suffix for p in tmp_path.iterdir() if p.is_file()} == {
        ".png",
        ".pdf",
        ".csv",
        ".nc",
        ".html",
        ".txt",
    }
    saved = str(tmp_path / "chain-fid.nc")
    assert main(["chain-fid", saved, "--baseline", saved]) == 0
    out = capsys.readouterr().out
    assert "times" in out
    assert "FID" not in out.replace("chain-fid", "")
    assert "lowest at" in out
    assert main(["chain-fid", "--weights", "x.pth", "--lengths", "2"]) == 2
    assert main(["chain-fid", "--checkpoints", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["chain-fid", "--checkpoints", str(tmp_path / "empty")]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_save_and_load(digits, tmp_path):
    curve = eb.chain_length_fid("digits", digits, (2,), n=40)
    save_curve(curve, tmp_path / "c.nc")
    xr.testing.assert_equal(load_curve(tmp_path / "c.nc"), curve)
    assert load_curve(tmp_path / "c.nc").attrs == curve.attrs
    assert "40 samples give no interval" in curve.attrs["no_interval"]


def test_a_conditional_model_gets_the_images_labels(digits):
    data = eb.load_data(digits.images, labels=np.arange(64) % 3)
    base = eb.load_model("digits")
    asked = []

    def call(net, x, timestep, labels):
        asked.append(labels)
        return net(x, timestep).sample

    model = eb.Denoiser(
        base.net,
        schedule=base.schedule,
        prediction_type="epsilon",
        shape=base.shape,
        call=call,
        classes=3,
    )
    eb.chain_length_fid(model, data, (1,), n=70, batch_size=35)
    assert torch.equal(torch.cat(asked[-2:]), torch.arange(70) % 64 % 3)
    with pytest.raises(eb.InputError, match="class-conditional"):
        eb.chain_length_fid(model, eb.load_data(digits.images), (1,), n=40)


@pytest.mark.parametrize("start", ["noise", "data"])
def test_a_diffusers_scheduler_is_a_sampler(gaussian, start):
    """DDIMScheduler on its trailing grid against the closed form of ours: both near the
    data's law."""
    model, data = gaussian
    names = ["ddim", "DDIMScheduler:timestep_spacing=trailing"]
    curve = eb.chain_length_fid(
        model, data, (50,), sampler=names, features="pixel", n=256, start=start
    )
    assert curve["sampler"].values[0] == "ddim:0"
    assert curve["sampler"].values[1].startswith("DDIMScheduler:timestep_spacing")
    one, other = curve["frechet"].values.ravel()
    assert abs(one - other) < 0.02


def test_the_limit_splits_a_point_into_the_solvers_part_and_the_networks(gaussian):
    """An exact network's limit is the data's law: all of its distance is the solver's, and that is
    sharper than the distance itself, because both walk the same paths."""
    model, data = gaussian
    found = eb.chain_length_fid(model, data, (4, 16), features="pixel", n=1024, limit=True)
    assert abs(found["limit"]) <= 1.3 * T_QUANTILE * found["limit_se"]
    total = found["frechet_corrected"]
    assert np.allclose(found["discretisation"], total - found["limit"])
    assert (found["discretisation"] > T_QUANTILE * found["discretisation_se"]).any()
    assert abs(found["limit_bias"]) < 0.02 * float(total.max())
    assert float(found["limit_steps"]) == 84
