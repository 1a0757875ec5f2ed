"""The ADM UNet against the original, and guided-diffusion's objects against a loop of their own.

The original's code is not here. What stands below of it are numbers that openai/guided-diffusion
and forever208/DDPM-IP gave when they ran beside this package: digests of their parameter lists, and
outputs of networks with the weights of `filled`. The sampling loop is the smallest one that follows
their public interface."""

import enum
import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import exposure_bias as eb
from exposure_bias.adapters import adm
from exposure_bias.cli import main
from exposure_bias.samplers import parse
from exposure_bias.streams import chain

ABAR = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
COSINE = np.minimum(1 - ABAR[1:] / ABAR[:-1], 0.999)
TINY = adm.Preset(32, 32, 1, (16,), channel_mult=(1, 2), learn_sigma=False)
IMPROVED = replace(
    TINY, resblock_updown=False, scale_shift_norm=False, learn_sigma=True, rescale_timesteps=True
)


def filled(net: torch.nn.Module) -> torch.nn.Module:
    """The network with weights that any version of torch and numpy makes alike, none of
    them zero."""
    rng = np.random.default_rng(7)
    for key, value in sorted(net.state_dict().items()):
        shape = tuple(value.shape)
        scale = (12 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.5
        offset = float(len(shape) == 1 and key.endswith("weight"))
        value.copy_(torch.from_numpy((rng.random(shape) - 0.5) * scale + offset))
    return net.eval()


def images(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).random((batch, 3, size, size)) * 4 - 2
    ).float()


@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "digest"),
    [
        ("adm-cifar10", 57094662, 494, "0733ab8df120de74"),
        ("adm-imagenet32", 57094662, 494, "0733ab8df120de74"),
        ("adm-lsun-tower64", 295136454, 540, "8951a1944eefc440"),
        ("adm-celeba64", 295136454, 540, "8951a1944eefc440"),
        ("adm-ffhq128", 542811398, 638, "6afc5f236b4b9912"),
        ("adm-imagenet64", 295904454, 541, "c64d29bfa6a2c3d0"),
        ("adm-imagenet128", 421529606, 493, "b5b578e2234923ba"),
    ],
)
def test_names_shapes_and_counts_are_the_originals(name, parameters, tensors, digest):
    with torch.device("meta"):
        state = adm.build(name).state_dict()
    lines = sorted(f"{key}:{tuple(value.shape)}" for key, value in state.items())
    assert (sum(v.numel() for v in state.values()), len(lines)) == (parameters, tensors)
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest
    assert {"input_blocks.0.0.weight", "time_embed.0.weight", "out.0.weight"} <= state.keys()


@pytest.mark.parametrize("name", adm.PRESETS)
def test_presets_fix_all_that_a_state_dict_leaves_out(name):
    preset = adm.PRESETS[name]
    betas = np.linspace(1e-4, 0.02, 1000) if name == "adm-imagenet128" else COSINE
    np.testing.assert_allclose(preset.schedule.alpha**2, np.cumprod(1 - betas), rtol=1e-13)
    assert preset.schedule.timestep.tolist() == list(range(1000))
    assert preset.classes == (1000 if name in ("adm-imagenet64", "adm-imagenet128") else None)
    assert preset.new_attention_order == (name != "adm-imagenet128")
    assert preset.image_size == int(re.search(r"\d+$", name.replace("cifar10", "32"))[0])
    assert preset.learn_sigma


GOLDEN = {
    "legacy order": (TINY, [-0.608259, 0.107346, 0.593695, -0.37729, 0.120338], 49.11981),
    "new order": (
        replace(TINY, new_attention_order=True),
        [-0.812235, 1.150751, -0.031528, -0.401439, 0.802821],
        49.46246,
    ),
    "classes": (
        replace(TINY, classes=10, num_head_channels=32, new_attention_order=True),
        [0.121699, 0.156532, -1.127207, 0.200304, -1.256632],
        48.70116,
    ),
    "improved-diffusion": (
        IMPROVED,
        [-0.552912, 0.044904, 0.432905, -0.300243, -0.195293],
        64.62465,
    ),
    "narrow adm-imagenet128": (
        replace(
            adm.PRESETS["adm-imagenet128"],
            num_channels=32,
            image_size=64,
            attention_resolutions=(16, 8),
            classes=10,
        ),
        [0.14953, -1.112616, 0.66787, 0.24063, -0.318864],
        137.87949,
    ),
    "adm-cifar10": (
        adm.PRESETS["adm-cifar10"],
        [0.004396, 0.02239, -0.207759, 0.153669, 0.094499],
        59.13091,
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_are_the_originals(name):
    preset, expected, norm = GOLDEN[name]
    got = outputs(adm.build(preset), preset)
    np.testing.assert_allclose(
        got.flatten()[:: got.numel() // 5][:5], expected, rtol=1e-4, atol=1e-5
    )
    assert float(got.norm()) == pytest.approx(norm, rel=1e-5)
    assert got.dtype == torch.float32


def outputs(net: torch.nn.Module, preset: adm.Preset) -> torch.Tensor:
    """Two images at a whole and at a fractional timestep, with labels where there are classes."""
    labels = [torch.tensor([1, 9])] if preset.classes else []
    with torch.no_grad():
        return filled(net)(images(2, preset.image_size), torch.tensor([3.0, 986.25]), *labels)


def test_an_untrained_network_says_nothing_yet():
    net = adm.build("adm-cifar10")
    assert not net(images(1, 32), torch.tensor([5])).any()


def test_half_torso():
    preset = replace(TINY, classes=10, channel_mult=(1, 1))
    net = adm.build(preset)
    full = outputs(net, preset)
    half = outputs(net.half_torso(), preset)
    kinds = {key: value.dtype for key, value in net.state_dict().items()}
    inside = ("input_blocks", "middle_block", "output_blocks")
    for key, kind in kinds.items():
        linear_or_norm = "emb_layers" in key or "norm" in key or re.search(r"_layers\.0\.", key)
        assert kind == (
            torch.float16 if key.startswith(inside) and not linear_or_norm else torch.float32
        ), key
    assert half.dtype == torch.float32
    assert 1e-5 < float((half - full).norm() / full.norm()) < 1e-2


def test_group_norm_computes_in_float32():
    """Squares of 3000 overflow float16, and 32 groups of equal numbers leave nothing but the
    offset."""
    norm = adm.GroupNorm32(32)
    x = torch.full((1, 32, 4, 4), 3000.0).half()
    x[..., 0] = -3000
    out = norm(x)
    assert out.dtype == torch.float16
    torch.testing.assert_close(
        out[..., 0].float().unique(), torch.tensor([-(3**0.5)]), rtol=1e-3, atol=0
    )


class Mean(enum.Enum):
    PREVIOUS_X = enum.auto()
    START_X = enum.auto()
    EPSILON = enum.auto()


class Variance(enum.Enum):
    LEARNED = enum.auto()
    FIXED_SMALL = enum.auto()
    FIXED_LARGE = enum.auto()
    LEARNED_RANGE = enum.auto()


class Diffusion:
    """The public attributes of GaussianDiffusion, of SpacedDiffusion where a timestep map is given,
    and its loop."""

    def __init__(
        self, betas, variance="LEARNED_RANGE", mean="EPSILON", kept=None, rescale_timesteps=False
    ):
        self.model_mean_type, self.model_var_type = Mean[mean], Variance[variance]
        self.rescale_timesteps, self.total = rescale_timesteps, len(betas)
        if kept is not None:
            self.timestep_map, self.original_num_steps = list(kept), len(betas)
            kept_product = np.cumprod(1 - betas)[kept]
            betas = 1 - kept_product / np.append(1, kept_product[:-1])
        self.betas = betas

    def loop(self, net, x, noises, clip, eta=None, **labels):
        """(state, x̂_0 there) from the noisiest level down, then the last state: p_sample, or with
        eta ddim_sample."""
        abar = np.cumprod(1 - self.betas)
        before = np.append(1, abar[:-1])
        posterior = self.betas * (1 - before) / (1 - abar)
        for i, z in zip(reversed(range(len(abar))), noises, strict=True):
            t = torch.full((len(x),), getattr(self, "timestep_map", range(len(abar)))[i])
            t = t.float() * (1000 / self.total) if self.rescale_timesteps else t
            with torch.no_grad():
                output = net(x.float(), t, **labels).double()
            value, fraction = output[:, :3], (output[:, 3:] + 1) / 2
            x0 = (
                value
                if self.model_mean_type is Mean.START_X
                else (x - (1 - abar[i]) ** 0.5 * value) / abar[i] ** 0.5
            )
            x0 = x0.clamp(-1, 1) if clip else x0
            yield x, x0
            if eta is None:
                log_variance = np.log(posterior[i] if i else 1.0), np.log(self.betas[i])
                low, high = log_variance
                share = {"FIXED_SMALL": 0.0, "FIXED_LARGE": 1.0}.get(
                    self.model_var_type.name, fraction
                )
                mean = self.betas[i] * before[i] ** 0.5 / (1 - abar[i]) * x0
                mean = mean + (1 - before[i]) * (1 - self.betas[i]) ** 0.5 / (1 - abar[i]) * x
                sigma = torch.as_tensor((share * high + (1 - share) * low) / 2).exp()
            else:
                epsilon = (x - abar[i] ** 0.5 * x0) / (1 - abar[i]) ** 0.5
                sigma = eta * ((1 - before[i]) / (1 - abar[i]) * (1 - abar[i] / before[i])) ** 0.5
                mean = before[i] ** 0.5 * x0 + (1 - before[i] - sigma**2) ** 0.5 * epsilon
            x = mean + sigma * z if i else mean
        yield x, None


EVERY_50TH = np.linspace(0, 999, 21).round().astype(int)


@pytest.mark.parametrize(
    ("diffusion", "sampler", "clip", "eta"),
    [
        (Diffusion(COSINE, kept=EVERY_50TH), "ddpm:learned_range", True, None),
        (Diffusion(COSINE, kept=EVERY_50TH), "ddpm:learned_range", False, None),
        (
            Diffusion(np.linspace(1e-4, 0.02, 1000), "FIXED_SMALL", kept=EVERY_50TH),
            "ddpm",
            True,
            None,
        ),
        (Diffusion(np.linspace(1e-3, 0.2, 20), "FIXED_LARGE"), "ddpm:fixed_large", False, None),
        (
            Diffusion(COSINE, "FIXED_LARGE", "START_X", kept=EVERY_50TH),
            "ddpm:fixed_large",
            True,
            None,
        ),
        (Diffusion(COSINE, kept=range(0, 1000, 40)), "ddim", True, 0.0),
        (Diffusion(COSINE, "FIXED_LARGE", kept=EVERY_50TH), "ddim:0.5", True, 0.5),
        (
            Diffusion(
                np.linspace(3e-4, 0.07, 300),
                "FIXED_SMALL",
                kept=range(4, 300, 17),
                rescale_timesteps=True,
            ),
            "ddpm",
            True,
            None,
        ),
    ],
    ids=["learned", "unclipped", "small", "unspaced", "sample", "ddim", "eta", "rescaled"],
)
def test_chain_is_the_librarys_loop(diffusion, sampler, clip, eta):
    """State by state, from one start and the same noise; float64 but for the network, hence far
    below 1e-5."""
    learned = diffusion.model_var_type is Variance.LEARNED_RANGE
    net = filled(adm.build(replace(TINY, learn_sigma=learned, classes=10)))
    model, labels = eb.adapt(net, diffusion), torch.tensor([3, 8])
    assert (model.shape, model.learned_variance, model.classes) == ((3, 32, 32), learned, 10)
    levels = model.schedule.levels(len(diffusion.betas))
    rng = np.random.default_rng(1)
    x, *noises = torch.from_numpy(rng.standard_normal((len(levels), 2, 3, 32, 32)))
    ours = chain(model.given(labels), x, levels, parse(sampler), lambda i: noises[i], clip)
    theirs = diffusion.loop(net, x, noises, clip, eta, y=labels)
    for step, (state, x0) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(step.x, state, rtol=1e-9, atol=1e-9 * float(state.abs().max()))
        if x0 is not None:
            torch.testing.assert_close(
                step.prediction.x0, x0, rtol=1e-9, atol=1e-9 * float(x0.abs().max())
            )


def test_labels_between_respaced_levels_are_interpolated():
    diffusion = Diffusion(COSINE, kept=[0, 100, 400, 999])
    schedule = eb.adapt(adm.build(replace(TINY, learn_sigma=True)), diffusion).schedule
    assert [schedule.level(i).timestep for i in (0, 1, 1.5, 2, 3)] == [0, 100, 250, 400, 999]
    assert [level.timestep for level in schedule.levels(4)] == [999, 400, 100, 0, -1]
    with pytest.raises(eb.InputError, match=r"5 steps.*at most 4"):
        schedule.levels(5)


def test_adapting_twice_changes_nothing():
    model = eb.adapt(adm.build(replace(TINY, learn_sigma=True)), Diffusion(COSINE))
    assert eb.adapt(model) is model
    assert len(model.schedule) == 1000


class Unlike(torch.nn.Conv2d):
    """A network of improved-diffusion's kind, which does not know its image size; or one that
    enlarges."""

    def __init__(self):
        super().__init__(3, 3, 1)
        self.in_channels = 3

    def forward(self, x, timesteps):
        return super().forward(x)


class Enlarging(Unlike):
    def forward(self, x, timesteps, low_res=None):
        return super().forward(x, timesteps)


def test_the_size_may_be_given():
    assert eb.adapt(Unlike(), Diffusion(COSINE, "FIXED_SMALL"), (3, 16, 16)).shape == (3, 16, 16)


def scaling(value):
    diffusion = Diffusion(COSINE, "FIXED_LARGE")
    diffusion.sampling_scaler = [value] * 1000
    return diffusion


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ((Unlike(), Diffusion(COSINE, mean="PREVIOUS_X")), r"PREVIOUS_X.*EPSILON, START_X"),
        ((Unlike(), Diffusion(COSINE, "LEARNED")), r"LEARNED is not supported.*LEARNED_RANGE"),
        (
            (Unlike(), Diffusion(COSINE)),
            r"Unlike does not say.*adapt\(model, diffusion, \(3, 32, 32\)\)",
        ),
        ((Enlarging(), Diffusion(COSINE)), "cascades are not supported"),
        ((Unlike(), scaling(1.017)), r"1\.017.*epsilon_scaled"),
        ((Diffusion(COSINE),), r"adapt\(model, diffusion\).*got Diffusion"),
        ((Unlike(), Diffusion(COSINE), (3, 32, 32), (3, 8, 8)), r"adapt\(model, diffusion\)"),
        ((Unlike(), Diffusion(COSINE), "digits"), r"got Unlike, Diffusion, str"),
    ],
)
def test_what_cannot_be_adapted(objects, message):
    with pytest.raises(eb.InputError, match=message):
        eb.adapt(*objects)


def test_no_scaling_is_no_obstacle():
    assert eb.adapt(Unlike(), scaling(1.0), (3, 8, 8)).prediction_type == "epsilon"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_checkpoints_load_as_they_were_saved(suffix, tmp_path):
    net = filled(adm.build(replace(TINY, classes=10)))
    path = tmp_path / f"mine{suffix}"
    half = {key: value.half() for key, value in net.state_dict().items()}
    save_file(half, path) if suffix == ".safetensors" else torch.save(half, path)
    model = eb.load_model(path, preset=replace(TINY, classes=10))
    assert (model.name, model.classes, model.learned_variance) == ("mine", 10, False)
    for key, value in model.net.state_dict().items():
        torch.testing.assert_close(value, half[key].float(), rtol=0, atol=0)
    x, labels = images(2, 32).double(), torch.tensor([1, 2])
    level = model.schedule.level(500)
    with torch.no_grad():
        expected = model.net(x.float(), torch.tensor([500, 500]), labels)
    torch.testing.assert_close(model.given(labels)(x, level), expected, rtol=0, atol=0)


def test_timesteps_are_rescaled_to_a_thousand(tmp_path):
    preset = replace(IMPROVED, steps=4000)
    torch.save(filled(adm.build(preset)).state_dict(), tmp_path / "m.pt")
    model = eb.load_model(tmp_path / "m.pt", preset=preset)
    level = model.schedule.level(3945)
    assert level.timestep == 986.25
    assert level.alpha**2 == pytest.approx(
        np.cos((3946 / 4000 + 0.008) / 1.008 * np.pi / 2) ** 2, rel=1e-3
    )
    # The golden numbers of the second image, at the fractional timestep, stand 1227 and 3684 after
    # its first.
    got = model(images(2, 32), level)[1].flatten()[[1227, 3684]]
    np.testing.assert_allclose(got, GOLDEN["improved-diffusion"][1][3:], rtol=1e-4, atol=1e-5)


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("the checkpoint was unpickled",))


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


def test_checkpoints_that_do_not_fit(tmp_path, monkeypatch):
    wide = replace(TINY, channel_mult=(2, 2))
    monkeypatch.setattr(
        adm, "PRESETS", {"adm-one": TINY, "adm-two": replace(TINY, steps=10), "adm-wide": wide}
    )
    state = filled(adm.build("adm-one")).state_dict()
    first = "input_blocks.0.0.weight"
    saved = {
        "good": state,
        "narrow": {**state, first: state[first][:16]},
        "short": without(state, *list(state)[:5]),
        "long": {**state, "ema.decay": torch.zeros(())},
        "nested": {"model": dict(state), "step": 3},
        "list": [1, 2],
        "harmful": {**state, "config": Harmful()},
    }
    for name, content in saved.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "broken.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:5000])
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    (tmp_path / "text.pth").write_text("no tensors")
    save_file({"conv_in.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    near = "nearest: adm-one or adm-two, {} of the file's {} tensors fit"
    n = len(state)
    for name, preset, message in [
        (
            "narrow.pt",
            "adm-one",
            r"wrong shapes.*0\.weight \(16, 3, 3, 3\) instead of \(32, 3, 3, 3\)",
        ),
        ("narrow.pt", "adm-one", near.format(n - 1, n)),
        (
            "short.pt",
            "adm-one",
            r"missing keys time_embed\.0\.weight, .* and 2 more.*" + near.format(n - 5, n - 5),
        ),
        ("long.pt", "adm-one", r"unexpected keys ema\.decay \(.*" + near.format(n, n + 1)),
        ("good.pt", "adm-wide", "does not fit adm-wide.*" + near.format(n, n)),
        ("good.pt", wide, "does not fit the preset.*" + near.format(n, n)),
        ("good.pt", "adm-mnist", r"unknown preset 'adm-mnist'.*adm-one, adm-two, adm-wide"),
        (
            "good.pt",
            None,
            r"needs a preset.*--preset, one of adm-one, adm-two, adm-wide \(" + near.format(n, n),
        ),
        ("other.safetensors", "adm-one", "fits no preset"),
        ("nested.pt", "adm-one", r"model \(dict\), step \(int\).*save the state dict alone"),
        ("list.pt", "adm-one", "a list"),
        ("harmful.pt", "adm-one", r"unpickling.*safetensors\.torch\.save_file"),
        ("broken.pt", "adm-one", "damaged, or no checkpoint"),
        ("broken.safetensors", "adm-one", "damaged, or no checkpoint"),
        ("text.pth", "adm-one", "text.pth"),
        ("missing.pt", "adm-one", "no model"),
    ]:
        with pytest.raises(eb.InputError, match=message) as caught:
            eb.load_model(tmp_path / name, preset=preset)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(eb.InputError, match="a preset is for checkpoints"):
        eb.load_model("digits", preset="adm-one")
    with pytest.raises(eb.InputError, match="no usual channel_mult"):
        adm.build(replace(TINY, channel_mult=None, image_size=48))


def test_labels_are_asked_for():
    conditional, unconditional = adm.build(replace(TINY, classes=10)), adm.build(TINY)
    x, t = images(1, 32), torch.tensor([1])
    with pytest.raises(eb.InputError, match="10 classes"):
        conditional(x, t)
    with pytest.raises(eb.InputError, match="unconditional"):
        unconditional(x, t, torch.tensor([1]))


@pytest.mark.slow
def test_from_a_checkpoint_to_a_recording_in_one_command(tmp_path, capsys):
    torch.save(filled(adm.build("adm-cifar10")).state_dict(), tmp_path / "ADM_IP.pt")
    np.savez(
        tmp_path / "images.npz",
        arr_0=(np.random.default_rng(0).random((2, 32, 32, 3)) * 255).astype(np.uint8),
    )
    command = [
        "record",
        "--model",
        f"{tmp_path}/ADM_IP.pt",
        "--data",
        f"{tmp_path}/images.npz",
        "-n",
        "2",
    ]
    command += [
        "--steps",
        "2",
        "--sampler",
        "ddpm:learned_range",
        "--clip",
        "-o",
        f"{tmp_path}/run.nc",
    ]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert re.search(
        "--preset.*nearest: adm-cifar10 or adm-imagenet32, 494 of the file's 494 tensors fit", error
    )
    assert len(error.splitlines()) == 1
    assert main([*command, "--preset", "adm-cifar10"]) == 0
    run = eb.load(tmp_path / "run.nc")
    assert run.provenance["run"]["model"]["name"] == "ADM_IP"
    assert run["chain"]["timestep"].values.tolist() == [999, 0, -1]
    assert main(["models"]) == 0
    assert "adm-ffhq128" in capsys.readouterr().out
