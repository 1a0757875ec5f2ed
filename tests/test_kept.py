"""Samples kept along the chain, and what a recording weighs."""

import diffusers
import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.diagnostics.target import Pooling
from exposure_bias.statistics.kept import MOST_LEVELS, kept_rows


def setting(shape=(1, 4, 4), images=32):
    x = np.random.default_rng(0).normal(0, 0.3, (images, *shape)).astype(np.float32)
    oracle = eb.oracles.GaussianOracle(np.zeros(shape), 0.09, eb.schedules.linear(1000))
    return oracle, eb.load_data(x, value_range=None)


def test_kept_samples_are_the_streams_own():
    """Against a plain loop over the chain."""
    model, data = setting()
    rec = eb.record(model, data, steps=20, n=32, batch_size=5, streams=("forward", "chain"))
    chain, rows = rec["chain"], kept_rows(21, 8 * 16)
    assert len(rows) == MOST_LEVELS
    assert chain["kept_step"].values.tolist() == rows
    from exposure_bias.setup import prepare
    from exposure_bias.streams import chain as stream
    from exposure_bias.streams import noised

    setup = prepare(model, data, kind="recording", steps=20, n=32)
    path = setup.path(np.arange(8))
    x0 = torch.from_numpy(data.batch(range(8))).double()
    start = noised(x0, setup.levels[0], path.start(0))
    steps = list(stream(model, start, setup.levels, setup.sampler, path, x0=x0))
    for column, row in enumerate(rows):
        step = steps[row]
        for name, value in (("state", step.x), ("truth", step.truth)):
            kept = chain[f"kept_{name}"].values[:, column]
            np.testing.assert_allclose(kept, value.numpy(), rtol=1e-3, atol=1e-6)
    assert np.isnan(chain["kept_prediction"].values[:, -1]).all()
    assert np.isfinite(chain["kept_prediction"].values[:, :-1]).all()
    x0 = data.batch(range(8))
    np.testing.assert_allclose(rec["data"]["kept_state"].values[:, 0], x0, rtol=1e-3, atol=1e-6)


def test_kept_samples_merge_resume_and_survive_a_file(tmp_path):
    model, data = setting()
    common = {"steps": 5, "batch_size": 3}
    whole = eb.record(model, data, n=12, **common)
    parts = [eb.record(model, data, n=6, first=k, **common) for k in (6, 0)]
    merged = eb.merge(parts)
    merged.save(tmp_path / "a.nc")
    again = eb.load(tmp_path / "a.nc")
    for name in ("kept_state", "kept_truth", "kept_prediction"):
        for other in (merged, again):
            np.testing.assert_array_equal(whole["chain"][name], other["chain"][name])
    assert again["chain"]["kept_state"].dtype == np.float16


def test_keep_is_a_number_that_belongs_to_the_run():
    model, data = setting()
    assert "kept_state" not in eb.record(model, data, steps=2, n=4, keep=0)["chain"]
    two = eb.record(model, data, steps=2, n=4, keep=2)
    assert two["chain"].sizes["kept"] == 2
    with pytest.raises(eb.InputError, match=r"keep: 2 against None"):
        eb.merge([two, eb.record(model, data, steps=2, n=4, first=4)])
    with pytest.raises(eb.InputError, match="keep, the number of samples kept,"):
        eb.record(model, data, steps=2, n=4, keep=-1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_observed_loop_keeps_its_first_samples():
    """Of two batches of 5, the first 8 of all."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
    )
    pipe = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    made = []
    with eb.observe(pipe) as observed:
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            made += list(pipe(5, generator, num_inference_steps=3, output_type="np").images)
    kept = observed.recording()["chain"]["kept_state"].values[:, -1]
    images = np.clip(kept / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images, made[:8], atol=1e-3)


def test_a_recording_of_colour_images_is_small(tmp_path):
    """3×32×32, n = 256, 20 steps: at most 17 MB, of which the states of 8 samples are 2."""
    model, data = setting((3, 32, 32), images=256)
    rec = eb.record(model, data, steps=20, n=256)
    rec.save(tmp_path / "a.nc")
    assert (tmp_path / "a.nc").stat().st_size <= 17e6


def test_cells_give_the_pooled_gap_its_own_error(monkeypatch):
    """Signed sums over cells stand for all pixels, where a few pixels would overstate the error."""
    model, data = setting((2, 12, 12), images=256)
    options = {"steps": 4, "n": 256, "streams": ("forward", "chain")}
    whole = eb.variance_gap(eb.record(model, data, **options))
    monkeypatch.setattr("exposure_bias.statistics.collector.GROUPED_BYTES", 0)
    small = eb.record(model, data, **options)
    assert small["chain"].sizes["pixel"] == 64
    assert Pooling.of(small).pixels is None
    part = eb.variance_gap(small)
    for name in ("gap", "gap_forward", "gap_channel"):
        np.testing.assert_allclose(part[name], whole[name], rtol=1e-9)
        ratio = part[f"{name}_se"].values / whole[f"{name}_se"].values
        assert np.nanmax(np.abs(ratio - 1)) < 0.3, name
        assert np.nanmean(np.abs(ratio - 1)) < 0.1, name
