"""Models as files: every layout of a repository, every mark on a weight's name, and files that want
to do harm."""

import json
import re
import shlex
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from networks import PROMPT, dit, fails, sd3, text_unet
from safetensors.torch import load_file, save_file
from test_diffusers_adapter import folder, positive

import exposure_bias as eb
from exposure_bias.adapters import adm, pipelines
from exposure_bias.files import weights

# diffusers 0.42.1's own use of numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

NAME = "diffusion_pytorch_model"
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def attending() -> diffusers.UNet2DModel:
    """A UNet with attention, whose names of 2022 were others."""
    torch.manual_seed(1)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def ddpm_folder(where: Path) -> Path:
    return folder(where, "DDPMPipeline", diffusers.DDPMScheduler(), unet=attending())


def same(model: eb.Denoiser, net: Any = None) -> None:
    """The model answers as the network of the folder does."""
    level = model.schedule.level(300)
    with torch.no_grad():
        expected = (net or attending()).eval()(X, 300).sample
    torch.testing.assert_close(model(X, level), expected, rtol=0, atol=0)


def rewrite(
    where: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Path:
    """The folder with other weights in its file."""
    path = where / "unet" / f"{NAME}.safetensors"
    save_file(change(load_file(path)), path)
    return where


# What is missing, too much or misshapen.


def test_a_missing_weight_is_never_what_the_memory_held(tmp_path: Path) -> None:
    rewrite(
        ddpm_folder(tmp_path), lambda state: {k: v for k, v in state.items() if k != "conv_in.bias"}
    )
    with fails(
        r"weights of .* are not those of its unet/config\.json: missing keys conv_in\.bias$"
    ):
        eb.load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {f"extra.{i}": torch.zeros(1) for i in range(5)},
            r"unexpected keys extra\.0, extra\.1, .* 2 more",
        ),
        (
            lambda s: s | {"conv_in.bias": torch.zeros(3)},
            r"wrong shapes conv_in\.bias \(3,\) instead of \(8,\)",
        ),
        (
            lambda s: {f"model.inner.{k}": v for k, v in s.items()},
            "begin with 'model.inner.': save them without it",
        ),
        (
            lambda s: {k: v.to(torch.int8) for k, v in s.items()},
            r"no plain numbers.*\(I8\).* and \d+ more: allowed are F64",
        ),
        (
            lambda s: s | {"_orig_mod.conv_in.bias": torch.ones(8)},
            "conv_in.bias are there twice, with and without",
        ),
        (lambda s: dict(list(s.items())[:5]), r"missing keys .* and [\d,]+ more"),
    ],
)
def test_weights_that_are_not_the_networks(change: Any, message: str, tmp_path: Path) -> None:
    rewrite(ddpm_folder(tmp_path), change)
    with fails(message) as caught:
        eb.load_model(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


MARKS = ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "module.module."]


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_wrappers_are_taken_off(mark: str, tmp_path: Path) -> None:
    rewrite(ddpm_folder(tmp_path), lambda state: {mark + k: v for k, v in state.items()})
    same(eb.load_model(tmp_path))


def test_marks_inside_a_name_and_the_counter_of_an_average(tmp_path: Path) -> None:
    inside = {"mid_block.resnets": "mid_block._orig_mod.resnets"}
    rewrite(
        ddpm_folder(tmp_path),
        lambda s: {k.replace(*next(iter(inside.items()))): v for k, v in s.items()},
    )
    same(eb.load_model(tmp_path))
    average = torch.optim.swa_utils.AveragedModel(attending()).state_dict()
    assert "n_averaged" in average
    save_file({k: v.clone() for k, v in average.items()}, tmp_path / "unet" / f"{NAME}.safetensors")
    same(eb.load_model(tmp_path))


def test_a_network_whose_own_names_begin_with_module_keeps_them() -> None:
    names = ["module.weight", "other.weight"]
    assert weights.plain_names(names) == dict(zip(names, names, strict=True))
    state = {"a.weight": torch.zeros(1), "_orig_mod.a.weight": torch.ones(1)}
    assert weights.plain_state(state).keys() == state.keys()


TINY = adm.Preset(32, 32, 1, (16,), channel_mult=(1, 2), learn_sigma=False)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("mark", ["", *MARKS])
def test_adm_checkpoints_with_marks(suffix: str, mark: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = adm.build(TINY)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state, path = {mark + k: v for k, v in net.state_dict().items()}, tmp_path / f"m{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert (
        eb.load_model(path, TINY).weight_hash
        == eb.Denoiser(
            net, schedule=TINY.schedule, prediction_type="epsilon", shape=(3, 32, 32)
        ).weight_hash
    )


def test_adm_checkpoints_inside_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adm, "PRESETS", {"adm-one": TINY})
    state = adm.build(TINY).state_dict()
    torch.save({f"diffusion.net.{k}": v for k, v in state.items()}, "prefixed.pt")
    with fails(
        f"begin with 'diffusion.net.'.*nearest: adm-one, {len(state)} of .* fit without"
        " 'diffusion.net.'"
    ):
        eb.load_model("prefixed.pt", "adm-one")
    torch.save({"state_dict": state, "epoch": 3}, "lightning.ckpt")
    with fails(
        r"holds state_dict \(.*\), epoch \(int\); save the state dict alone, (torch\.save.*), and"
    ) as caught:
        eb.load_model("lightning.ckpt", "adm-one")
    cure = re.search(r"alone, (torch\.save.*'weights\.pt'\))", str(caught.value))
    assert cure is not None
    exec(cure[1], {"torch": torch})
    assert eb.load_model("weights.pt", "adm-one").name == "weights"
    torch.save({k: v.long() for k, v in state.items()}, "integer.pt")
    with fails(r"no plain numbers, .*torch\.int64"):
        eb.load_model("integer.pt", "adm-one")


def test_training_goes_on_from_marked_weights_too(tmp_path: Path) -> None:
    rewrite(
        ddpm_folder(tmp_path / "m"),
        lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    )
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    trained = eb.train(
        eb.load_data(images),
        net=eb.load_model(tmp_path / "m"),
        iterations=1,
        batch_size=8,
        warmup=1,
    )
    moved = {
        k: float((v - attending().state_dict()[k]).abs().max())
        for k, v in trained.net.state_dict().items()
    }
    assert max(moved.values()) < 1e-2  # one step from these weights, not from others
    rewrite(tmp_path / "m", lambda state: dict(list(state.items())[1:]))
    with fails("missing keys"):
        eb.train(eb.load_data(images), net=eb.load_model(tmp_path / "m"), iterations=1)


# Layouts.


def at_the_root(where: Path, index: bool = True) -> Path:
    """A repository of 2022: configuration, weights and scheduler side by side."""
    attending().save_pretrained(where)
    diffusers.DDPMScheduler(num_train_timesteps=400).save_pretrained(where)
    if index:
        parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
        (where / "model_index.json").write_text(
            json.dumps({"_class_name": "DDPMPipeline", **parts})
        )
    return where


@pytest.mark.parametrize("index", [True, False])
def test_everything_at_the_root(index: bool, tmp_path: Path) -> None:
    model = eb.load_model(at_the_root(tmp_path / "root", index))
    assert (model.name, len(model.schedule)) == ("root", 400)
    same(model)


def test_attention_under_its_names_of_2022(tmp_path: Path) -> None:
    new = {v: k for k, v in pipelines.RENAMED.items()}

    def old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {
            re.sub(r"\.(to_q|to_k|to_v|to_out\.0)\.", lambda m: f".{new[m[1]]}.", k): v
            for k, v in state.items()
        }
        assert "mid_block.attentions.0.query.weight" in renamed
        return renamed

    where = rewrite(ddpm_folder(tmp_path), old)
    same(eb.load_model(where))
    theirs = diffusers.UNet2DModel.from_pretrained(where / "unet", low_cpu_mem_usage=False)
    same(eb.load_model(where), theirs)


def test_half_precision_variants(tmp_path: Path) -> None:
    where = ddpm_folder(tmp_path / "half")
    attending().half().save_pretrained(where / "unet", variant="fp16")
    same(eb.load_model(where))
    assert eb.load_model(where).note == ""
    (where / "unet" / f"{NAME}.safetensors").unlink()
    model = eb.load_model(where)
    assert (model.note, next(model.net.parameters()).dtype) == (
        "weights of the variant fp16",
        torch.float32,
    )
    same(model, attending().half().float())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(variant: str | None, tmp_path: Path) -> None:
    where = ddpm_folder(tmp_path)
    (where / "unet" / f"{NAME}.safetensors").unlink()
    attending().save_pretrained(where / "unet", max_shard_size="20KB", variant=variant)
    shards = sorted((where / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    same(eb.load_model(where))
    shards[0].rename(where / "elsewhere")
    with fails(rf"names {re.escape(shards[0].name)}, not there: fetch all its files"):
        eb.load_model(where)
    index = next((where / "unet").glob("*.index*.json"))
    for place in ("../../weights.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin"):
        index.write_text(json.dumps({"weight_map": {"conv_in.bias": place}}))
        with fails(r"names no \.safetensors files beside it"):
            eb.load_model(where)


def test_pickled_weights_are_refused_with_a_cure_that_works(tmp_path: Path) -> None:
    where = ddpm_folder(tmp_path)
    (where / "unet" / f"{NAME}.safetensors").unlink()
    with fails(rf"has no unet/{NAME}\.safetensors$"):
        eb.load_model(where)
    torch.save(attending().state_dict(), where / "unet" / f"{NAME}.bin")
    with fails(
        r"in unet/.*\.bin only, a pickle, .* convert it, (python -c .*) in its folder$"
    ) as caught:
        eb.load_model(where)
    command = re.search(r"python (-c .*) in its folder", str(caught.value))
    assert command is not None
    subprocess.run([sys.executable, *shlex.split(command[1])], cwd=where, check=True)
    same(eb.load_model(where))


@pytest.mark.parametrize("name", ["dit", "sd", "sd3"])
def test_positions_that_no_file_holds_are_computed(name: str, tmp_path: Path) -> None:
    """DiT and SD3 compute embeddings of positions when they are made; as from_pretrained
    has them."""
    part = "unet" if name == "sd" else "transformer"
    net = {"dit": lambda: dit(5), "sd": text_unet, "sd3": sd3}[name]()
    scheduler = (
        diffusers.FlowMatchEulerDiscreteScheduler() if name == "sd3" else diffusers.DDIMScheduler()
    )
    where = folder(tmp_path, "Pipeline", scheduler, **{part: net})
    read = pipelines.read(pipelines.local(where), lambda *_: None)
    theirs = type(net).from_pretrained(where / part, low_cpu_mem_usage=False)
    ours = dict(read.net.named_buffers())
    assert ours.keys() == dict(theirs.named_buffers()).keys()
    for key, value in [*theirs.named_buffers(), *theirs.named_parameters()]:
        mine = dict(read.net.named_parameters()).get(key, ours.get(key))
        assert torch.equal(mine, value)
    assert not read.net.training


def test_subclasses_of_known_networks(tmp_path: Path) -> None:
    class Mine(diffusers.UNet2DModel):
        """A class of somebody's own, which diffusers does not know."""

    class Prompted(diffusers.UNet2DConditionModel):
        pass

    net = Mine.from_config(attending().config)
    net.load_state_dict(attending().state_dict())
    same(eb.adapt(net, diffusers.DDPMScheduler()))
    prompted = Prompted.from_config(text_unet().config)
    assert eb.adapt(prompted, diffusers.DDIMScheduler(), **positive(PROMPT)).shape == (4, 8, 8)
    with fails("without guidance needs prompt_embeds="):
        eb.adapt(prompted, diffusers.DDIMScheduler())


# Files that want to do harm: refused in one line, before anything is allocated.


def config(where: Path, **changes: Any) -> Path:
    path = where / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return where


def scheduler_config(where: Path, **changes: Any) -> Path:
    path = where / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return where


HUGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "width": (
        lambda f: config(f, block_out_channels=[2**20, 2**20], norm_num_groups=4),
        "weights: they need .* GiB, and",
    ),
    "width beyond int64": (
        lambda f: config(f, block_out_channels=[2**40, 2**40]),
        "describes no UNet2DModel",
    ),
    "layers": (
        lambda f: config(f, layers_per_block=10**6),
        r"describes 2,000,000 layers.* at most 1,000 are built",
    ),
    "blocks": (
        lambda f: config(f, down_block_types=["DownBlock2D"] * 10**5),
        "layers.* at most 1,000",
    ),
    "pixels": (lambda f: config(f, sample_size=10**9), "beyond 65,536 pixels"),
    "embedding": (lambda f: config(f, num_class_embeds=10**12), "weights: they need"),
    "T": (
        lambda f: scheduler_config(f, num_train_timesteps=3 * 10**8),
        "is 300000000: a whole number from 1 to 100,000",
    ),
    "betas": (
        lambda f: scheduler_config(f, trained_betas=[0.1] * 150_000),
        "no list of at most 100,000",
    ),
}


@pytest.mark.parametrize("case", HUGE)
def test_absurd_sizes(case: str, tmp_path: Path) -> None:
    change, message = HUGE[case]
    change(ddpm_folder(tmp_path))
    tracemalloc.start()
    with fails(message) as caught:
        eb.load_model(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**28
    assert len(str(caught.value).splitlines()) == 1


def test_absurd_positions(tmp_path: Path) -> None:
    where = folder(tmp_path, "DiTPipeline", diffusers.DDIMScheduler(), transformer=dit(5))
    path = where / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 8000}))
    with fails(r"describes 256,000,000 numbers of positions: at most 25,000,000 are computed"):
        eb.load_model(where)


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ({}, {}, r"clip x_0 to ±1 .*, space its timesteps by leading"),
        ({"clip_sample_range": 2.0}, {"clip": True, "timestep_spacing": "leading"}, ""),
        ({"clip_sample": False, "timestep_spacing": "trailing"}, {}, "by trailing"),
        ({"clip_sample": False, "timestep_spacing": "linspace"}, {}, ""),
        (
            {"thresholding": True, "timestep_spacing": "linspace"},
            {"clip": True},
            "would clip x_0 by dynamic thresholding, which no sampler does here:",
        ),
        (
            {"variance_type": "fixed_large", "timestep_spacing": "linspace"},
            {"clip": True},
            "would use the variance fixed_large ",
        ),
        (
            {"variance_type": "fixed_large", "timestep_spacing": "linspace"},
            {"clip": True, "sampler": "ddpm:fixed_large"},
            "",
        ),
        ({"timestep_spacing": "leading"}, {"clip": True, "sampler": "DDIMScheduler"}, ""),
    ],
)
def test_what_a_scheduler_would_do_is_done_or_said_to_be_left_out(
    options: dict[str, Any], given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder(tmp_path, "DDPMPipeline", diffusers.DDPMScheduler(**options), unet=attending())
    model = eb.load_model(tmp_path)
    data = eb.load_data(np.zeros((2, *model.shape), np.float32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eb.record(model, data, steps=2, n=2, streams=("chain",), **given)
    found = [str(w.message) for w in caught if "follows its own options" in str(w.message)]
    assert len(found) == bool(said)
    assert not said or re.search(said, found[0])


def test_a_network_that_builds_and_does_not_compute(tmp_path: Path) -> None:
    """diffusers takes the number; torch does not."""
    config(ddpm_folder(tmp_path), freq_shift=[0])
    model = eb.load_model(tmp_path)
    with fails(r"the network of .* fails when it is called \(TypeError: .*config.json"):
        model(X, model.schedule.level(300))


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "layers as text": (
        lambda f: config(f, layers_per_block="2"),
        "config.json describes no UNet2DModel: ",
    ),
    "size as text": (lambda f: config(f, sample_size="88"), "sample_size=88: whole numbers"),
    "three sides": (lambda f: config(f, sample_size=[8, 8, 8]), r"sample_size=\[8, 8, 8\]"),
    "negative size": (lambda f: config(f, sample_size=-8), "sample_size=-8"),
    "channels as list": (lambda f: config(f, in_channels=[1]), "describes no UNet2DModel"),
    "unknown block": (
        lambda f: config(f, down_block_types=["Rm", "-rf"]),
        "describes no UNet2DModel: Rm does not exist",
    ),
    # diffusers says so on a later line of its message
    "indivisible": (lambda f: config(f, norm_num_groups=3), "divisible by num_groups"),
    "a list": (lambda f: (f / "unet" / "config.json").write_text("[1]"), "JSON list: an object"),
    "deep": (
        lambda f: (f / "unet" / "config.json").write_text('{"a":' + "[" * 10**5),
        "cannot read .* as JSON",
    ),
    "large": (
        lambda f: (f / "unet" / "config.json").write_text(" " * 5_000_000),
        "5,000,000 bytes, at most 4,000,000",
    ),
    "not UTF-8": (
        lambda f: (f / "unet" / "config.json").write_bytes(b"{\xff}"),
        "cannot read .* as JSON",
    ),
    "no config": (
        lambda f: (f / "unet" / "config.json").unlink(),
        "has no config.json: save the whole pipeline",
    ),
    "a pipe": (lambda f: pipe(f / "unet" / "config.json"), "a device or a pipe"),
    "T as text": (
        lambda f: scheduler_config(f, num_train_timesteps="1000"),
        "is 1000: a whole number",
    ),
    "an unknown variance": (
        lambda f: scheduler_config(f, variance_type="fixed_medium"),
        "variance_type='fixed_medium': allowed are fixed_small",
    ),
    "an unknown spacing": (
        lambda f: scheduler_config(f, timestep_spacing="even"),
        "timestep_spacing='even': allowed are linspace, leading, trailing",
    ),
    "not a number": (lambda f: config(f, norm_eps=float("nan")), "NaN is no JSON number"),
    "T zero": (lambda f: scheduler_config(f, num_train_timesteps=0), "is 0: a whole number"),
    "beta as text": (lambda f: scheduler_config(f, beta_start="x"), "diffusers makes nothing"),
    "beta above 1": (
        lambda f: scheduler_config(f, beta_end=7.0),
        "has betas from 0.0001 to 7: numbers in",
    ),
    "betas": (lambda f: scheduler_config(f, trained_betas=["x"]), "diffusers makes nothing"),
    "schedule": (
        lambda f: scheduler_config(f, beta_schedule="mine"),
        "diffusers makes nothing: mine is not implemented",
    ),
    "no scheduler": (
        lambda f: (f / "scheduler" / "scheduler_config.json").unlink(),
        "has no scheduler_config.json",
    ),
    "a part of three": (
        lambda f: index(f, unet=["diffusers", "UNet2DModel", 1]),
        "does not list a pipeline's parts",
    ),
    "a part of numbers": (
        lambda f: index(f, unet=["diffusers", 5]),
        "does not list a pipeline's parts",
    ),
    "a scheduler of code": (
        lambda f: index(f, scheduler=["os", "a.b Scheduler"]),
        "which diffusers does not have",
    ),
}


def pipe(path: Path) -> None:
    import os

    path.unlink()
    os.mkfifo(path)


def index(where: Path, **changes: Any) -> None:
    path = where / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("case", WRONG)
def test_fields_of_the_wrong_kind(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    change(ddpm_folder(tmp_path))
    with fails(message) as caught:
        eb.load_model(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def header(path: Path, text: bytes, length: int | None = None, rest: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + rest)
    return path


HEADERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "four million keys": (
        lambda p: header(
            p, b"{" + b'"0123456":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 200_000
        ),
        "a header of 11,800,001 bytes, at most 10,000,000",
    ),
    "length beyond the file": (lambda p: header(p, b"{}", 2**62), "shorter than its header says"),
    "empty": (lambda p: p.write_bytes(b""), "shorter than its header says"),
    "deep": (lambda p: header(p, b"[" * 10**6), "none of safetensors"),
    "a list": (lambda p: header(p, b"[]"), "none of safetensors"),
    "shape of text": (
        lambda p: header(p, b'{"a":{"dtype":"F32","shape":"x","data_offsets":[0,0]}}'),
        "none of safetensors",
    ),
    "no shape": (lambda p: header(p, b'{"a":3}'), "none of safetensors"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(case: str, tmp_path: Path) -> None:
    write, message = HEADERS[case]
    where = ddpm_folder(tmp_path)
    write(where / "unet" / f"{NAME}.safetensors")
    tracemalloc.start()
    with fails(message):
        eb.load_model(where)
    path = tmp_path / "adm.safetensors"
    write(path)
    with fails(message):
        eb.load_model(path, "adm-cifar10")
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


def test_a_claim_without_its_bytes(tmp_path: Path) -> None:
    """A header that fits the network, and nothing behind it."""
    where = ddpm_folder(tmp_path)
    path = where / "unet" / f"{NAME}.safetensors"
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    path.write_bytes(path.read_bytes()[: 8 + length])
    with fails("is damaged, or no checkpoint: .*; fetch it again"):
        eb.load_model(where)


def test_compressed_checkpoints_are_refused_before_they_are_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record.filename))
    assert (tmp_path / "m.pt").stat().st_size < 10_000
    with fails(r"claims 4,\d+,\d+: torch writes no compressed checkpoints"):
        eb.load_model(tmp_path / "m.pt", "adm-cifar10")


def test_weights_do_not_follow_their_file(tmp_path: Path) -> None:
    """Loaded weights are not a view of the file, which somebody may write to."""
    where = ddpm_folder(tmp_path)
    model = eb.load_model(where)
    before, path = model.weight_hash, where / "unet" / f"{NAME}.safetensors"
    with open(path, "r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\0" * 1000)
    assert model.weight_hash == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/dev/zero", "/dev/zero is no folder and no regular file"),
        ("nothing\0here", "there is no model"),
        ("x" * 5000, "there is no model"),
        ("~nobody-of-this-name/x.pt", "there is no model"),
        ("", "there is no model ''"),
        ("a/b/c", "there is no model 'a/b/c'"),
        ("./model", "there is no model './model'"),
        ("runs/ADM_IP.pt", "there is no model 'runs/ADM_IP.pt'"),
        (3, "a model's name or path is text, got int"),
        (None, "a model's name or path is text, got NoneType"),
    ],
)
def test_names_that_are_no_model(name: Any, message: str) -> None:
    with fails(re.escape(message).replace(r"\ ", " ")) as caught:
        eb.load_model(name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_named_like_a_bundled_model_is_not_hidden_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ddpm_folder(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        UserWarning, match=r"'digits' is the bundled model, not \./digits: write \./digits"
    ) as caught:
        bundled = eb.load_model("digits")
    assert caught[0].filename == __file__
    same(eb.load_model("./digits"))
    assert bundled.weight_hash != eb.load_model("./digits").weight_hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "",
            (
                r"/diffusers\.py is not the library diffusers, but is what Python finds first:"
                r" rename it"
            ),
        ),
        (
            "from diffusers import DDPMPipeline",
            r"importing diffusers from .*/diffusers\.py failed: .*rename it",
        ),
        (
            "import nothing_like_this",
            r"importing diffusers from .*/diffusers\.py failed: No module named",
        ),
    ],
)
def test_a_script_called_diffusers_is_named(content: str, message: str, tmp_path: Path) -> None:
    ddpm_folder(tmp_path / "mine")
    (tmp_path / "diffusers.py").write_text(content)
    code = (
        "import exposure_bias as eb\ntry:\n  eb.load_model('mine')\nexcept eb.InputError as"
        " error:\n  print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert re.search(message, done.stdout)
    assert len(done.stdout.splitlines()) == 1


def environment() -> dict[str, str]:
    """This environment, in which the package is found wherever a process starts."""
    import os

    return os.environ | {"PYTHONPATH": str(Path(eb.__file__).parents[1])}


def test_presets_that_make_no_network() -> None:
    from dataclasses import replace

    for changes, message in (
        ({"num_channels": 33}, "makes no network: num_channels .33. must be divisible"),
        (
            {"num_channels": "32"},
            "num_channels of a preset is a whole number from 1 to 65,536, got '32'",
        ),
        ({"num_res_blocks": 10**7}, "num_res_blocks of a preset is a whole number from 1 to 100"),
        ({"steps": 0}, "steps of a preset"),
        ({"num_channels": 65_536, "channel_mult": (1, 64)}, "weights: they need"),
    ):
        with fails(message):
            adm.build(replace(TINY, **changes))
