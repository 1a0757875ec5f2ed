"""Samples kept along the chain, and what a recording weighs."""

import io
from dataclasses import replace

import diffusers
import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias.diagnostics.target import Pooling
from exposure_bias.files import _TRAILER as TRAILER
from exposure_bias.files.netcdf import Stored
from exposure_bias.schedules import Level
from exposure_bias.statistics.kept import MOST_LEVELS, kept_rows, spacing
from exposure_bias.statistics.law import Law

# Images in [-1, 1] under a variance-preserving schedule are kept to 1/4096, x_0 more closely.
HALF_STEP = 2.0**-13


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
    from exposure_bias.running.setup import prepare
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
            np.testing.assert_allclose(kept, value.numpy(), rtol=0, atol=HALF_STEP)
    assert np.isnan(chain["kept_prediction"].values[:, -1]).all()
    assert np.isfinite(chain["kept_prediction"].values[:, :-1]).all()
    x0 = data.batch(range(8))
    np.testing.assert_allclose(rec["data"]["kept_state"].values[:, 0], x0, atol=HALF_STEP)


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
    assert again["chain"]["kept_state"].dtype == np.float32
    again.save(tmp_path / "b.nc")
    third = eb.load(tmp_path / "b.nc")["chain"]["kept_state"]
    np.testing.assert_array_equal(third, whole["chain"]["kept_state"])
    assert third.encoding == whole["chain"]["kept_state"].encoding == {"scale_factor": 2.0**-12}


@pytest.mark.parametrize(("engine", "library"), [("h5netcdf",) * 2, ("netcdf4", "netCDF4")])
def test_netcdf_tools_read_kept_states(tmp_path, engine, library):
    """Two bytes a number on disk, the numbers themselves for whoever follows the CF conventions."""
    model, data = setting()
    rec = eb.record(model, data, n=8, steps=3)
    rec.save(tmp_path / "a.nc")
    with h5py.File(tmp_path / "a.nc") as file:
        assert file["chain/kept_prediction"].dtype == np.int16
        assert file["chain/kept_prediction"].attrs["_FillValue"] == -32768
    pytest.importorskip(library)
    with xr.open_dataset(tmp_path / "a.nc", group="chain", engine=engine) as chain:
        for name in ("kept_state", "kept_truth", "kept_prediction"):
            np.testing.assert_array_equal(chain[name], rec["chain"][name])


def test_recordings_with_kept_states_of_half_precision_still_load(tmp_path):
    """What version 3 files held at first: float16, stored as float32."""
    model, data = setting()
    rec = eb.record(model, data, n=8, steps=3)
    streams = {name: stream.copy() for name, stream in rec.streams.items()}
    for stream in streams.values():
        for name in [k for k in stream if str(k).startswith("kept_")]:
            stream[name] = (stream[name].dims, stream[name].values.astype(np.float16))
    old = replace(rec, streams=streams)
    old.save(tmp_path / "old.nc")
    again = eb.load(tmp_path / "old.nc")
    assert again["chain"]["kept_state"].dtype == np.float16
    np.testing.assert_array_equal(again["chain"]["kept_state"], old["chain"]["kept_state"])
    later = eb.record(model, data, n=8, first=8, steps=3)
    eb.merge([again, later]).save(tmp_path / "both.nc")
    both = eb.load(tmp_path / "both.nc")["chain"]["kept_state"]
    np.testing.assert_allclose(both, rec["chain"]["kept_state"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [np.float32(0), np.float32(np.nan), np.int16(2), "a", [1.0, 2.0]])
def test_a_scale_that_is_none_is_refused(tmp_path, scale):
    model, data = setting()
    eb.record(model, data, n=8, steps=3).save(tmp_path / "a.nc")
    content = (tmp_path / "a.nc").read_bytes()[:-TRAILER]
    with h5py.File(io.BytesIO(content), "r+") as file:
        file["chain/kept_state"].attrs["scale_factor"] = scale
        file.flush()
        changed = file.id.get_file_image()
    with pytest.raises(eb.InputError, match="kept_state"):
        Stored(changed)


def test_kept_numbers_reach_as_far_as_the_states():
    """A variance-exploding run keeps its noisy end, if less finely; what is beyond is cut off."""
    law = Law(np.zeros((1, 2, 2)), np.ones((1, 2, 2)), np.ones(0), np.ones((0, 4)))
    assert spacing(law, [Level(999, 0.01, 1.0), Level(0, 1, 0)]) == 2**-12
    step = spacing(law, [Level(999, 1.0, 50.0), Level(0, 1, 0)])
    assert step == 2**-7
    assert 32767 * step > 5 * 50


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
    """3×32×32, n = 256, 20 steps: at most 15 MB, of which the states of 8 samples are 2."""
    model, data = setting((3, 32, 32), images=256)
    rec = eb.record(model, data, steps=20, n=256)
    rec.save(tmp_path / "a.nc")
    assert (tmp_path / "a.nc").stat().st_size <= 15e6


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
