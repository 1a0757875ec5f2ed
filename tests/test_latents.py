"""Latents: what an autoencoder makes of images, once, and pictures of latents again."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import networks
import numpy as np
import pytest
import torch
from networks import dit, fails, vae
from test_diffusers_adapter import CLASSES, ddpm, folder

import exposure_bias as eb
from exposure_bias.adapters import latents
from exposure_bias.adapters.diffusers import encode
from exposure_bias.adapters.opening import open_pair

# diffusers 0.42.1's own use of numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


def test_encode() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (5, 3, 16, 16)).astype(np.float32)
    coder = vae(scaling_factor=0.5, shift_factor=0.1)
    coder.quant_conv.bias.data[4:] += 1.0  # the log-variance
    mean = encode(coder, x, batch_size=2, labels=np.arange(5))
    posterior = coder.encode(torch.from_numpy(x)).latent_dist
    np.testing.assert_allclose(mean.images, (posterior.mean.detach() - 0.1) * 0.5, atol=1e-6)
    assert (mean.value_range, mean.note, mean.shape) == (
        None,
        "latents (posterior mean)",
        (4, 8, 8),
    )
    assert mean.labels.tolist() == [0, 1, 2, 3, 4]

    drawn, again = (encode(coder, x, sample=True, batch_size=b) for b in (2, 5))
    np.testing.assert_allclose(drawn.images, again.images, atol=1e-6)
    assert np.abs(encode(coder, x, sample=True, seed=1).images - drawn.images).max() > 0.1
    # 1280 standard normal numbers: 0.1 is five standard deviations of their mean and standard
    # deviation
    z = (drawn.images - mean.images) / (0.5 * posterior.std.detach().numpy())
    assert abs(z.mean()) < 0.14
    assert abs(z.std() - 1) < 0.1
    assert drawn.note == "latents (posterior sample)"

    each = encode(
        vae(latents_mean=[1.0, 2, 3, 4], latents_std=[1.0, 2, 4, 8], scaling_factor=0.5), x
    ).images
    shift, spread = (v[:, None, None] for v in (np.arange(1, 5), 2.0 ** np.arange(4)))
    expected = 0.5 * (posterior.mean.detach().numpy() - shift) / spread
    np.testing.assert_allclose(each, expected, atol=1e-6)
    recording = eb.record(
        eb.adapt(dit(CLASSES), ddpm()), mean, sampler="ddpm:learned_range", steps=3
    )
    assert recording.description["note"] == mean.note
    with fails("latents are never clipped"):
        eb.record(
            eb.adapt(dit(CLASSES), ddpm()),
            replace(mean, images=mean.images * 9),
            steps=3,
            clip=True,
        )
    torch.manual_seed(6)
    quantised = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, scaling_factor=0.5)
    expected = 0.5 * quantised.encode(torch.from_numpy(x)).latents.detach().numpy()
    np.testing.assert_allclose(encode(quantised, x).images, expected, atol=1e-6)
    with fails("no distribution to sample from"):
        encode(quantised, x, sample=True)
    with fails("takes 3 channels"):
        encode(coder, x[:, :1])


def test_latents_that_are_not_finite() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (5, 3, 16, 16)).astype(np.float32)
    coder = vae()
    coder.encoder.conv_in.weight.data.mul_(
        1e5
    )  # weights that half precision holds, and sums that it does not
    with fails(
        r"the autoencoder, in float16, made NaN or Inf of some of images 0 to 1: encode in float32,"
        r" encode\(vae"
    ):
        encode(coder.half(), x, batch_size=2)
    assert np.isfinite(encode(coder.float(), x).images).all()
    for size in (0, 1.5, "2"):
        with fails("batch_size is a whole number of at least 1"):
            encode(coder, x, batch_size=size)


def test_an_autoencoder_is_left_in_its_mode() -> None:
    coder = vae().train()
    encode(coder, np.zeros((1, 3, 16, 16), np.float32))
    assert all(module.training for module in coder.modules())


def images(*shape: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, *shape)).astype(np.float32)


VAES: dict[str, Callable[[], Any]] = {
    "AutoencoderKL": lambda: vae(scaling_factor=0.5, shift_factor=0.1),
    "VQModel": lambda: diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4).eval(),
    **{
        kind: lambda kind=kind: networks.video_vae(kind)
        for kind in (
            "AutoencoderDC",
            "AutoencoderKLWan",
            "AutoencoderKLCogVideoX",
            "AutoencoderKLLTXVideo",
        )
    },
}


# What tests/networks.py states in each configuration, or in LTX's buffers.
WAN = [0.1, 0.2, -0.3, 0.0], [1.5, 2.0, 0.5, 1.0]
SCALINGS: dict[str, tuple[Any, Any, float]] = {
    "AutoencoderKL": ([0.1], [1.0], 0.5),
    "VQModel": ([0.0], [1.0], 0.18215),
    "AutoencoderDC": ([0.0], [1.0], 0.4),
    "AutoencoderKLWan": (*WAN, 1.0),
    "AutoencoderKLCogVideoX": ([0.0], [1.0], 0.7),
    "AutoencoderKLLTXVideo": (*WAN, 1.0),
}


@pytest.mark.parametrize("kind", VAES)
def test_latents_of_every_autoencoder_become_its_pictures_again(kind: str) -> None:
    """`decode` undoes `encode`'s scaling: its pictures are those of the autoencoder alone."""
    coder = VAES[kind]()
    shape = (3, 9, 32, 48) if latents.of_video(coder) else (3, 16, 24)
    x = images(*shape, count=2)
    data = encode(coder, x)
    assert np.isfinite(data.images).all()
    with torch.no_grad():
        made = coder.encode(torch.from_numpy(x))
        raw = (
            made.latent_dist.mean
            if hasattr(made, "latent_dist")
            else made.latents
            if hasattr(made, "latents")
            else made.latent
        )
        whole = coder.decode(raw).sample
    frame = whole[:, :, whole.shape[2] // 2] if whole.dim() == 5 else whole
    expected = ((frame.clamp(-1, 1) + 1) * 127.5).round().numpy()
    pictures = data.decode(data.images)
    assert (pictures.dtype, pictures.shape) == (np.uint8, expected.shape)
    assert np.abs(pictures - expected).max() <= 1
    shift, spread, scale = SCALINGS[kind]
    one = [1, 4] + [1] * (raw.dim() - 2) if kind != "VQModel" else [1] * raw.dim()
    shift, spread = (torch.tensor(v).expand(one[1]).view(one) for v in (shift, spread))
    np.testing.assert_allclose(data.images, (raw - shift) / spread * scale, atol=1e-6)


def test_an_image_is_a_video_of_one_frame() -> None:
    coder = networks.video_vae("AutoencoderKLWan")
    x = images(3, 32, 48, count=2)
    one = encode(coder, x)
    assert one.shape == (4, 1, 4, 6)
    np.testing.assert_array_equal(one.images, encode(coder, x[:, :, None]).images)
    lazy = encode(coder, eb.load_data(Source(x), limit=10))
    np.testing.assert_array_equal(one.images, lazy.images)
    with fails(
        r"the autoencoder takes images \(C, H, W\), but array holds states \(3, 2, 16, 16\)"
    ):
        encode(vae(), images(3, 2, 16, 16))


class Source:
    def __init__(self, states: Any) -> None:
        self.states, self.shape = states, states.shape[1:]

    def __len__(self) -> int:
        return len(self.states)

    def batch(self, ids: Any) -> Any:
        return self.states[ids]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("EXPOSURE_BIAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_images_are_encoded_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coder, x = vae(), images(3, 16, 16)
    encoded: list[int] = []
    original = type(coder).encode

    def watched(self: Any, batch: Any, *given: Any, **options: Any) -> Any:
        encoded.append(len(batch))
        return original(self, batch, *given, **options)

    monkeypatch.setattr(type(coder), "encode", watched)
    first, second = (encode(coder, x, keep=True, batch_size=b, labels=range(6)) for b in (4, 5))
    assert encoded == [4, 2]
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_allclose(first.images, encode(coder, x).images, atol=1e-6)
    assert (second.labels.tolist(), second.note) == ([*range(6)], "latents (posterior mean)")
    assert isinstance(second.images, np.memmap)
    encoded.clear()
    # Everything that latents depend on.
    for options in ({"sample": True}, {"sample": True, "seed": 1}):
        encode(coder, x, keep=True, **options)
    encode(coder, x[::-1].copy(), keep=True)
    encode(vae(scaling_factor=0.3), x, keep=True)
    coder.quant_conv.bias.data[0] += 1
    encode(coder, x, keep=True)
    assert len(encoded) == 5
    encode(coder, x, keep=True)
    assert len(encoded) == 5
    files = sorted(kept.iterdir())
    assert len(files) == 6
    for file in files:
        file.write_bytes(b"damaged")
    np.testing.assert_allclose(
        encode(coder, x, keep=True).images, encode(coder, x).images, atol=1e-6
    )
    assert len(sorted(kept.iterdir())) == 6


def test_a_cache_that_cannot_be_written_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXPOSURE_BIAS_CACHE", str(tmp_path / "file"))
    x = images(3, 16, 16)
    with pytest.warns(UserWarning, match="latents are not kept for the next time"):
        data = encode(vae(), x, keep=True, batch_size=4)
    np.testing.assert_allclose(data.images, encode(vae(), x).images, atol=1e-6)


def test_what_breaks_off_leaves_nothing_behind(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coder, x = vae(), images(3, 16, 16)
    x[5] = np.nan
    data = replace(eb.load_data(images(3, 16, 16)), images=x)
    with fails("made NaN or Inf of some of images 4 to 5"):
        encode(coder, data, keep=True, batch_size=2)
    assert os.listdir(kept) == []


def latent_folder(where: Path, **parts: Any) -> Path:
    """A DiT's folder with its autoencoder."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="linspace")
    found = folder(where, "DiTPipeline", scheduler, transformer=dit(CLASSES))
    index = json.loads((found / "model_index.json").read_text())
    for part, net in {"vae": vae(), **parts}.items():
        if net is not None:
            net.save_pretrained(found / part)
            index[part] = ["diffusers", type(net).__name__]
    (found / "model_index.json").write_text(json.dumps(index))
    return found


def test_a_latent_models_images_are_encoded(kept: Path, tmp_path: Path) -> None:
    place = latent_folder(tmp_path / "m")
    x = eb.load_data(images(3, 16, 16, count=16), labels=np.arange(16) % CLASSES)
    model, data = open_pair(place, x)
    assert (data.shape, data.note, data.name) == ((4, 8, 8), "latents (posterior sample)", "array")
    np.testing.assert_array_equal(data.images, encode(vae(), x, sample=True).images)
    assert data.labels.tolist() == x.labels.tolist()
    recording = eb.record(model, data, sampler="ddim", steps=2)
    assert recording.run.data.note == data.note
    again, same = open_pair(place, data)
    assert same.images is data.images
    guided, _ = open_pair(place, data, guidance_scale=2.0)
    assert (again.guidance, guided.guidance) == (None, 2.0)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "images of another size": (
        lambda f: open_pair(latent_folder(f), eb.load_data(images(3, 32, 32))),
        r"makes of array, .*32.*, .*16.*, but the model works on .*8.*: give images of 16 x 16"
        " pixels, or a model of another size",
    ),
    "another model's autoencoder": (
        lambda f: open_pair(
            latent_folder(f, vae=networks.vae(latent_channels=6)), eb.load_data(images(3, 16, 16))
        ),
        "but the model works on .*: it is another model's autoencoder",
    ),
    "no autoencoder": (
        lambda f: open_pair(latent_folder(f, vae=None), eb.load_data(images(3, 16, 16))),
        "has no autoencoder that images could be encoded with .*it has none; known are Auto",
    ),
    "grey images": (
        lambda f: open_pair(latent_folder(f), eb.load_data(images(1, 16, 16))),
        "the autoencoder takes 3 channels, but array has 1",
    ),
    "sides that do not fit": (
        lambda f: open_pair(
            latent_folder(f, vae=networks.video_vae("AutoencoderDC")),
            eb.load_data(images(3, 15, 15)),
        ),
        "the autoencoder cannot encode array, states .*multiples of 2 pixels|another size",
    ),
    "prompts that are not as many as images": (
        lambda f: open_pair(latent_folder(f), eb.load_data(images(3, 16, 16)), prompts=["a", "b"]),
        "2 prompts were given for the 6 images of array: give one for all of them, or one for each",
    ),
    "prompts of a model without": (
        lambda f: open_pair(latent_folder(f), eb.load_data(images(3, 16, 16)), prompts=["a"]),
        "has no encoders of text: leave prompts out|this needs the library transformers",
    ),
    "guidance of a model of ours": (
        lambda f: open_pair("digits", eb.load_data("digits"), guidance_scale=2.0),
        "UNet2DModel has no null class to guide away from",
    ),
    "a preset and guidance": (
        lambda f: open_pair("digits", eb.load_data("digits"), preset="x", guidance_scale=2.0),
        "a preset and guidance_scale are never for one model",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pairs(case: str, tmp_path: Path, kept: Path) -> None:
    run, message = BAD[case]
    with fails(message) as caught:
        run(tmp_path / "m")
    assert len(str(caught.value).splitlines()) == 1
    assert not kept.exists()


def latent_recording(place: Path, **options: Any) -> tuple[eb.Recording, eb.data.Data]:
    x = eb.load_data(images(3, 16, 16, count=16), labels=np.arange(16) % CLASSES)
    model, data = open_pair(place, x)
    return eb.record(model, data, sampler="ddim", steps=3, **options), data


def test_kept_samples_are_decoded(kept: Path, tmp_path: Path) -> None:
    place, path = latent_folder(tmp_path / "m"), tmp_path / "r.nc"
    recording, data = latent_recording(place, keep=3, checkpoint=path)
    chain = recording["chain"]
    assert chain["picture_state"].shape == (3, 4, 3, 16, 16)
    # Kept numbers are rounded for the file, and the pictures are made of what is in it.
    expected = data.decode(chain["kept_state"].values[:, 2])
    np.testing.assert_array_equal(chain["picture_state"].values[:, 2], expected)
    assert chain["picture_state"].values.std() > 5
    assert not chain["picture_prediction"].values[:, -1].any()  # nothing is predicted there
    assert {"picture_truth", "picture_prediction"} <= {*chain}
    assert "picture_prediction" in recording["forward"]
    loaded = eb.load(path)
    assert loaded.run == recording.run
    for name in chain:
        np.testing.assert_array_equal(loaded["chain"][name].values, chain[name].values)
    again, _ = latent_recording(place, keep=3, checkpoint=path)  # gone on with: all is there
    np.testing.assert_array_equal(again["chain"]["picture_state"], chain["picture_state"])
    assert (
        "picture_state"
        not in eb.record(
            open_pair(place, data)[0], replace(data, decode=None), sampler="ddim", steps=3
        )["chain"]
    )


def test_pictures_are_what_is_drawn(kept: Path, tmp_path: Path) -> None:
    from exposure_bias.plots.strips import bounds, limits
    from exposure_bias.reporting.pictures import slider

    recording, _ = latent_recording(latent_folder(tmp_path / "m"), keep=2)
    assert (limits(recording), bounds(recording).tolist()) == (1.0, [1.0] * 4)
    figure = eb.plots.strip(recording, samples=1, levels=4)
    drawn = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    pictures = recording["chain"]["picture_truth"].values[0, 0] / 255
    np.testing.assert_allclose(drawn[0], np.moveaxis(pictures, 0, -1), atol=1e-6)
    assert len(drawn) == 4 * 3 - 1  # x̂_0 at the clean end is nothing
    shown = slider(recording)
    assert shown is not None
    assert len(shown.frames) == 4
    page = eb.report(recording, path=tmp_path / "report.html")
    assert page.stat().st_size > 10_000


def test_recordings_of_latents_merge(kept: Path, tmp_path: Path) -> None:
    place = latent_folder(tmp_path / "m")
    whole, _ = latent_recording(place, n=10, keep=4)
    parts = [latent_recording(place, n=n, first=f, keep=4)[0] for f, n in ((0, 3), (3, 7))]
    merged = eb.merge(parts)
    difference = np.abs(
        merged["chain"]["picture_state"].values.astype(int) - whole["chain"]["picture_state"]
    )
    assert difference.max() <= 1
    plain = replace(
        parts[1],
        streams={
            name: stream.drop_vars([v for v in stream if str(v).startswith("picture")])
            for name, stream in parts[1].streams.items()
        },
    )
    assert "picture_state" not in eb.merge([parts[0], plain])["chain"]


def test_large_pictures_are_made_small() -> None:
    from exposure_bias.running.decoding import _smaller

    x = np.arange(2 * 3 * 256 * 384).reshape(2, 3, 256, 384) % 251
    small = _smaller(x.astype(np.uint8))
    assert small.shape == (2, 3, 85, 128)
    assert small[1, 2, 4, 5] == round(x[1, 2, 12:15, 15:18].mean())
