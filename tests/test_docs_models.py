"""docs/models.md: every snippet runs as it stands, on small stand-ins for what its reader holds."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libraries
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from libraries import SHAPE, Net
from test_hub import files_of, lay_out

import exposure_bias as eb
from exposure_bias.adapters import adm
from exposure_bias.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
SECTIONS = dict(re.findall(r"^#+ (.*?)\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL))
# The published preset has 57 million parameters; the page's name stands for this one while its
# snippets run.
NARROW = adm.Preset(8, 32, 1, (4,), channel_mult=(1, 1))
LANGUAGES = ("python", "sh")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def introduction(folder: Path) -> dict[str, Any]:
    return {
        "model": eb.Denoiser(
            Net(1000), schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE
        )
    }


def diffusers(folder: Path) -> dict[str, Any]:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    pipeline = DDPMPipeline(unet, DDPMScheduler(clip_sample=False, timestep_spacing="linspace"))
    pipeline.save_pretrained(folder / "FOLDER")
    text_unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return {
        "unet": unet,
        "scheduler": pipeline.scheduler,
        "pipeline": pipeline,
        "folder": folder / "FOLDER",
        "text_unet": text_unet,
        "embeddings": torch.randn(1, 3, 8),
        "empty_embeddings": torch.zeros(1, 3, 8),
        "latents": eb.load_data(3 * images((4, 8, 8)), value_range=None),
    }


def prompted(folder: Path) -> dict[str, Any]:
    """A tiny Stable Diffusion with its encoders."""
    import networks
    from diffusers import DDIMScheduler
    from test_prompts import whole

    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="linspace", steps_offset=1)
    parts = {"unet": networks.text_unet(sample_size=4), "vae": networks.vae()}
    whole("SD", scheduler=scheduler, **parts).save_pretrained(folder / "TEXT_FOLDER")
    (folder / "prompts.txt").write_text("a red dog\n")
    return {"vae": parts["vae"], "pictures": images((3, 8, 8))}


def hub(folder: Path) -> dict[str, Any]:
    """A cache of huggingface_hub's that holds the page's name, and no network."""
    diffusers(folder)
    lay_out(folder / "hub", "google/ddpm-cifar10-32", "0" * 40, files_of(folder / "FOLDER"), "main")
    return {}


def wrapped(folder: Path) -> dict[str, Any]:
    """What is compiled runs without a compiler, which takes minutes; test_unwrap.py compiles."""
    torch.compiler.set_stance("force_eager")
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Net(1000).eval(),
        (torch.zeros(2, *SHAPE), torch.zeros(2)),
        dynamic_shapes=({0: batch}, {0: batch}),
    )
    torch.export.save(program, str(folder / "net.pt2"))
    return {"torch": torch} | diffusers(folder)


def lucidrains(folder: Path) -> dict[str, Any]:
    return {
        "diffusion": libraries.GaussianDiffusion(Net(100)),
        "elucidated": libraries.Elucidated(Net()),
    }


def adm_checkpoint(folder: Path) -> dict[str, Any]:
    torch.save(adm.build(NARROW).state_dict(), folder / "ADM_IP.pt")
    return {}


def guided_diffusion(folder: Path) -> dict[str, Any]:
    diffusion = SimpleNamespace(
        betas=np.linspace(1e-4, 0.02, 1000),
        model_mean_type=SimpleNamespace(name="EPSILON"),
        model_var_type=SimpleNamespace(name="LEARNED_RANGE"),
    )
    return {"network": adm.build(NARROW), "diffusion": diffusion}


def flow_matching(folder: Path) -> dict[str, Any]:
    unet = libraries.TimeFirst()

    @torch.no_grad()
    def integrate(net: Any) -> torch.Tensor:
        x = torch.randn(2, *SHAPE)
        for i in range(4):
            x = x + net(torch.tensor(i / 4), x) / 4
        return x

    path = libraries.AffineProbPath(libraries.Scheduler())
    return {"velocity_model": Net(), "path": path, "unet": unet, "integrate": integrate}


def k_diffusion(folder: Path) -> dict[str, Any]:
    abar = torch.from_numpy(eb.schedules.linear(1000).alpha ** 2)
    wrapper = libraries.DiscreteEpsDDPMDenoiser(Net(1000), abar)
    return {"wrapper": wrapper, "denoiser": libraries.Denoiser(Net())}


def observed(folder: Path) -> dict[str, Any]:
    held = diffusers(folder)
    held["pipeline"].set_progress_bar_config(disable=True)

    @torch.no_grad()
    def sample(network: Any, scheduler: Any, guidance_scale: float) -> None:
        scheduler.set_timesteps(3)
        x, prompts = (
            torch.randn(2, 4, 8, 8),
            torch.cat([held["empty_embeddings"]] * 2 + [held["embeddings"]] * 2),
        )
        for t in scheduler.timesteps:
            u, c = network(torch.cat([x, x]), t, encoder_hidden_states=prompts).sample.chunk(2)
            x = scheduler.step(u + guidance_scale * (c - u), t, x).prev_sample

    @torch.no_grad()
    def my_sampler(net: Any) -> torch.Tensor:
        x = torch.randn(2, *SHAPE)
        for t in (900, 500, 100):
            x = x - 0.3 * net(x, torch.tensor([t]))
        return x

    @torch.no_grad()
    def one_step(net: Any) -> torch.Tensor:
        return net(80 * torch.randn(2, *SHAPE), torch.tensor(80.0))

    own = {"my_sampler": my_sampler, "net": Net(1000)}
    return held | own | {"sample": sample, "one_step": one_step, "edm_net": libraries.EDMPrecond()}


HELD: dict[str, Callable[[Path], dict[str, Any]]] = {
    "Models: from what you have to a recording": introduction,
    "Bundled": lambda folder: {},
    "diffusers": diffusers,
    "Prompts": prompted,
    "The hub": hub,
    "Wrapped networks": wrapped,
    "ADM checkpoints": adm_checkpoint,
    "guided-diffusion": guided_diffusion,
    "EDM and EDM2": lambda folder: {"net": libraries.EDMPrecond()},
    "denoising-diffusion-pytorch": lucidrains,
    "flow_matching": flow_matching,
    "k-diffusion": k_diffusion,
    "Any other network": lambda folder: {"unet": Net(1000)},
    "A loop that somebody else wrote": observed,
}


def images(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).uniform(-1, 1, (32, *shape)).astype(np.float32)


def test_every_snippet_has_its_reader() -> None:
    """A new section with code needs an entry in HELD, and every model on the page is run to a
    recording."""
    assert {
        t for t, text in SECTIONS.items() if any(blocks(text, k) for k in LANGUAGES)
    } == HELD.keys()


@pytest.fixture
def any_stance() -> Iterator[None]:
    """Lets a test change how torch treats what is compiled."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("default")


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method:DeprecationWarning"
)  # torch.compile's own
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own, with numpy 2
@pytest.mark.parametrize("title", list(HELD))
def test_snippets(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_stance: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPOSURE_BIAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(adm.PRESETS, "adm-cifar10", NARROW)
    held = {"eb": eb, "data": eb.load_data(images(SHAPE)), **HELD[title](tmp_path)}
    for block in blocks(SECTIONS[title], "python"):
        exec(block, held)
        if "rec" not in held:
            held["rec"] = eb.record(
                held["model"], images(held["model"].shape), steps=3, sampler="ddim"
            )
        rec = held.pop("rec")
        assert np.isfinite(eb.spectrum(rec)["hf"])
    np.savez(tmp_path / "images.npz", arr_0=(images((8, 8, 3)) * 127 + 128).astype(np.uint8))
    for block in blocks(SECTIONS[title], "sh"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "eb-analyze"
            assert main(arguments) == 0
