"""Comparisons: paired differences and their standard errors, seeds, and notes."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
from test_budget import images

import exposure_bias as eb
from exposure_bias import plots
from exposure_bias.data.bundled import FOLDER as BUNDLED
from exposure_bias.experiments.compare import ONE_SEED

QUICK = {"steps": 5, "lengths": (4,)}


def gaussian(variance, scale=1.0):
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), variance, eb.schedules.linear(1000))
    model.name = f"variance {variance}"
    return eb.remedies.epsilon_scaled(model, scale) if scale != 1 else model


def data(n, seed=0):
    images = np.random.default_rng(seed).normal(0, 0.3, (n, 1, 4, 4)).astype(np.float32)
    return eb.load_data(images, value_range=None)


def test_values_are_those_of_the_diagnostics():
    models, images = [gaussian(0.09), gaussian(0.09, 1.02)], data(512)
    compared = eb.compare(models, images, **QUICK)
    for i, model in enumerate(models):
        recording = eb.record(model, images, steps=5)
        here = compared.isel(entry=i)
        spectrum, gaps, norms = (
            eb.spectrum(recording),
            eb.variance_gap(recording),
            eb.epsilon_norm(recording),
        )
        hf = {"hf": spectrum["hf"], "hf_se": spectrum["hf_se"]}
        for name, theirs in (hf | {"gap": gaps["gap"], "gap_se": gaps["gap_se"]}).items():
            np.testing.assert_allclose(here[name], theirs, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(here["epsilon_ratio"][:-1], norms["ratio"], rtol=1e-9)
        np.testing.assert_allclose(
            here["state_rmse"], eb.state_error(recording)["pooled_rmse"], rtol=1e-9
        )
        errors = eb.chain_errors(model, images, (4,), n=512)
        np.testing.assert_allclose(here["error_rmse"], errors["pooled_rmse"], rtol=1e-5)
    np.testing.assert_allclose(
        compared["gap_difference"][1], compared["gap"][1] - compared["gap"][0], rtol=1e-9
    )
    assert compared["note"].values.tolist() == [
        "the others differ from this one",
        "the same weights: the difference is the remedy's",
    ]


@pytest.mark.slow
def test_a_subset_of_grouped_pixels_changes_only_the_errors(monkeypatch):
    models, images = [gaussian(0.09), gaussian(0.12)], data(512)
    whole = eb.compare(models, images, **QUICK)
    monkeypatch.setattr("exposure_bias.statistics.collector.GROUPED_BYTES", 0)
    monkeypatch.setattr("exposure_bias.statistics.moments.LEAST_PIXELS", 3)
    part = eb.compare(models, images, **QUICK)
    for name in ("gap", "gap_difference", "state_rmse", "state_rmse_difference"):
        np.testing.assert_allclose(part[name], whole[name], rtol=1e-9)
    assert (part["gap_se"] != whole["gap_se"]).all()


def test_a_model_does_not_differ_from_itself_and_pairing_narrows():
    compared = eb.compare([gaussian(0.09), gaussian(0.09), gaussian(0.12)], data(512), **QUICK)
    assert (compared["gap_difference"][1] == 0).all()
    assert (compared["gap_difference_se"][1] == 0).all()
    last = compared.isel(step=-1)
    apart = np.hypot(last["gap_se"][0], last["gap_se"][2])
    assert 0 < last["gap_difference_se"][2] < 0.5 * apart
    assert last["note"].values[2] == ONE_SEED


@pytest.mark.slow
def test_paired_standard_errors_cover():
    """The difference over 60 fresh data sets: its spread is what one comparison says,
    within 30 %."""
    found = [
        eb.compare(
            [gaussian(0.09), gaussian(0.2)],
            data(256, seed),
            steps=2,
            lengths=(),
            seed=seed,
            budget=False,
        )
        for seed in range(60)
    ]
    for name, ratio in (("hf", 0.3), ("gap", 0.3)):
        values = np.array([f[f"{name}_difference"].values[1].ravel()[-1] for f in found])
        said = np.array([f[f"{name}_difference_se"].values[1].ravel()[-1] for f in found])
        assert np.std(values, ddof=1) == pytest.approx(np.sqrt((said**2).mean()), rel=ratio)


def runs(tmp_path, objective, seeds, base="digits"):
    """Folders as `train` leaves them, of a bundled model's weights moved a little by the seed."""
    from safetensors.torch import load_file, save_file

    paths = []
    for seed in seeds:
        path = tmp_path / f"{objective}-{seed}"
        shutil.copytree(BUNDLED / base, path / "last")
        weights = path / "last" / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({k: v * (1 + 0.003 * seed) for k, v in load_file(weights).items()}, weights)
        said = {"run": {"objective": objective, "seed": seed, "iterations": 5}}
        (path / "last" / "training.json").write_text(json.dumps(said))
        paths.append(str(path))
    return paths


@pytest.mark.slow
def test_seeds_form_groups(tmp_path):
    ddpm, ip = runs(tmp_path, "ddpm", (0, 1, 2)), runs(tmp_path, "ip", (0, 1, 2), "digits-ip")
    compared = eb.compare([*ddpm, *ip], "digits", steps=2, n=256, lengths=(), budget=False)
    assert compared.sizes["entry"] == 2
    assert compared["seeds"].values.tolist() == [3, 3]
    assert compared["note"].values[1] == ""
    alone = [
        eb.compare([a, b], "digits", steps=2, n=256, lengths=(), budget=False)
        for a, b in zip(ddpm, ip, strict=True)
    ]
    each = np.array([float(a["hf_difference"][1]) for a in alone])
    assert float(compared["hf_difference"][1]) == pytest.approx(each.mean())
    # Equal seeds saw equal draws: they are subtracted pair by pair.
    assert float(compared["hf_difference_se_seeds"][1]) == pytest.approx(
        each.std(ddof=1) / np.sqrt(3)
    )
    total = np.hypot(compared["hf_difference_se"][1], compared["hf_difference_se_seeds"][1])
    assert float(compared["hf_difference_se_total"][1]) == pytest.approx(float(total))
    assert alone[0]["note"].values[1] == ONE_SEED
    assert np.isnan(alone[0]["hf_difference_se_seeds"][1])
    with pytest.raises(eb.InputError, match="give it once"):
        eb.compare([ddpm[0], ddpm[0], ip[0]], "digits", steps=2, n=16)


def test_seeds_under_different_remedies_are_different_entries(tmp_path):
    a, b = runs(tmp_path, "ddpm", (0, 1))
    models = [
        f"{a} + es:1.005 + ts:20,300",
        f"{b} + es:1.02 + ts:20,300",
        f"{a} + es:1.02 + ts:20,300",
    ]
    compared = eb.compare(models, "digits", steps=2, n=16, lengths=(), budget=False)
    assert compared["seeds"].values.tolist() == [1, 2]
    other = eb.compare([models[0], a], "digits", steps=2, n=16, lengths=(), budget=False)
    assert other["note"].values[1] == "the same weights: the difference is the remedy's"


def function(scale, levels=50):
    schedule = eb.schedules.linear(levels)
    return eb.Denoiser(
        lambda x, t: scale * x, schedule=schedule, prediction_type="epsilon", shape=(1, 4, 4)
    )


def test_functions_stay_where_they_are_and_share_no_weights():
    compared = eb.compare(
        [function(0.9, 1000), function(0.8, 1000)], data(16), steps=1, lengths=(), device="meta"
    )
    assert compared["note"].values[1] == ONE_SEED


def injected(oracle, factor):
    """The oracle with its ε̂ multiplied by a factor."""

    def epsilon(x, t):
        level = oracle.schedule.level(float(t[0]))
        return factor * (x - level.alpha * oracle(x, level)) / level.sigma

    options = {"schedule": oracle.schedule, "prediction_type": "epsilon", "shape": oracle.shape}
    return eb.Denoiser(epsilon, name=f"times {factor}", **options)


def test_what_mends_the_network_and_what_pays_for_the_sampler():
    """ε/λ undoes ε̂ × λ; on an exact denoiser the same λ closes the sampler's gap with an error of
    the network's."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.5, (4, 1, 4, 4))
    oracle = eb.oracles.MixtureOracle(np.ones(4), means, 0.03, eb.schedules.linear(1000))
    x = means[rng.integers(4, size=1024)] + np.sqrt(0.03) * rng.normal(size=(1024, 1, 4, 4))
    images = eb.load_data(x.astype(np.float32), value_range=None)
    wrong, exact = injected(oracle, 1.05), injected(oracle, 1.0)
    options = {"sampler": "ddim", "lengths": (), "n": 1024, "batch_size": 1024}
    mended = eb.compare(
        [wrong, eb.remedies.epsilon_scaled(wrong, 1.05)], images, steps=50, **options
    )
    assert mended.attrs["answer"].endswith("it mends the network.")
    assert abs(float(mended["gap_score"][1])) < abs(float(mended["gap_score"][0]))
    paid = eb.compare([exact, eb.remedies.epsilon_scaled(exact, 1.03)], images, steps=20, **options)
    assert "it only compensates the sampler" in paid.attrs["answer"], paid.attrs["answer"]
    total = paid["gap_score"] + paid["gap_discretisation"]
    np.testing.assert_allclose(total, paid["gap"].isel(step=-2), atol=1e-12)
    alone = eb.compare([exact, wrong], images, steps=5, budget=False, **options)
    assert "gap_score" not in alone
    assert alone.attrs["no_budget"] == "it was not asked for"


def test_what_is_no_denoiser_is_not_compared():
    with pytest.raises(eb.InputError, match=r"lambda.*no denoiser of these data.*check the sign"):
        eb.compare([gaussian(0.09), function(0.9, 1000)], data(64), steps=10, lengths=())


def test_what_does_not_fit_is_said_before_anything_runs(monkeypatch):
    compared = eb.compare(
        [gaussian(0.09), gaussian(0.1)], data(16), steps=2, sampler="DDIMScheduler"
    )
    assert "error_rmse" not in compared
    assert "does not visit" in compared.attrs["no_error_rmse"]
    monkeypatch.setattr(
        "exposure_bias.experiments.compare.recorded", lambda *_, **__: pytest.fail("it ran")
    )
    with pytest.raises(eb.InputError, match="from 1 to 50, got 100, 300"):
        eb.compare([function(0.9), function(0.8)], data(16), steps=2)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["digits"], "at least two"),
        (["digits", "fashion"], "nothing to compare"),
        (["digits", "digits + es:0"], "must be positive"),
        (["digits", "nowhere"], "nowhere"),
    ],
)
def test_bad_comparisons(models, message):
    with pytest.raises(eb.InputError, match=message):
        eb.compare(models, "digits", steps=2, n=16)
    other = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 0.1, eb.schedules.cosine(1000))
    with pytest.raises(eb.InputError, match="different schedules"):
        eb.compare([gaussian(0.09), other], data(16), **QUICK)


def test_a_newcomer_gets_from_images_to_a_table_and_a_figure_in_two_commands(tmp_path, capsys):
    from PIL import Image

    from exposure_bias.cli import main

    images = eb.load_data("digits", split="train").batch(np.arange(40))
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(((image[0] + 1) * 127.5).round().astype(np.uint8)).save(
            tmp_path / "images" / f"{i:03}.png"
        )
    where, quick = (
        str(tmp_path / "runs"),
        ["--net", "unet-tiny", "--iterations", "2", "--batch-size", "4"],
    )
    assert (
        main(
            [
                "train",
                "--objective",
                "ddpm",
                "ip",
                "--data",
                str(tmp_path / "images"),
                "-o",
                where,
                *quick,
            ]
        )
        == 0
    )
    arguments = [
        "--data",
        str(tmp_path / "images"),
        "--steps",
        "2",
        "--lengths",
        "2",
        "-o",
        str(tmp_path / "table"),
    ]
    capsys.readouterr()
    assert main(["compare", f"{where}/ddpm", f"{where}/ip", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "one seed each" in printed
    assert {"compare.png", "compare.pdf", "compare.nc", "compare-comparison.csv"} <= {
        p.name for p in (tmp_path / "table").iterdir()
    }
    assert main(["train", "--objective", "ip", "--gamma", "-1", "-o", where + "2", *quick]) == 2
    assert main(["train", "--objective", "ddpm", "ip", "-o", where, *quick]) == 2


def test_the_figure_draws_every_entry():
    compared = eb.compare([gaussian(0.09), gaussian(0.12)], data(256), **QUICK)
    figure = plots.compare(compared)
    assert isinstance(compared, xr.Dataset)
    assert len(figure.axes) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "variance 0.09",
        "variance 0.12",
    ]


def test_a_remedy_of_the_step_compensates_the_sampler():
    """It has the limit of the sampler that it corrects, and so leaves the network as it was."""
    given = ["test_budget:oracle", "test_budget:oracle + dcw:0.1"]
    compared = eb.compare(given, images(512), sampler="ddim", steps=5, lengths=())
    assert compared["entry"].values[1].endswith(" + dcw:0.1")
    assert float(compared["gap_score_difference"][1]) == pytest.approx(0, abs=1e-9)
    assert float(compared["gap_discretisation_difference"][1]) > 0.01
    assert "compensates the sampler" in compared.attrs["answer"]
