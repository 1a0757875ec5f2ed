"""`observe` against the chains that we drive ourselves: on diffusers' pipelines and schedulers, and on other loops.

States are float32 there and float64 here: they agree to 1e-5 of the largest value. transformers is not installed, so
that Stable Diffusion's and SD3's own pipelines cannot be built: `TextPipeline` makes the calls that they make around
network and scheduler, on embeddings that are given.
"""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import diffusers
import libraries
import numpy as np
import pytest
import torch
from libraries import SHAPE, AffineProbPath, EDMPrecond, GaussianDiffusion, Net, Scheduler
from torch import Tensor
from torch.overrides import TorchFunctionMode

import exposure_bias as eb
from exposure_bias.adapters.schedulers import SUPPORTED, sampler_for
from exposure_bias.noise import Noise
from exposure_bias.samplers import parse
from exposure_bias.statistics.collector import Collector
from exposure_bias.streams import Step, chain, prior

# What diffusers does with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BATCH, STEPS = 4, 6
IDS = list(range(BATCH))
IMAGES = (1, 8, 8)
LATENTS = (4, 8, 8)


def fails(message: str) -> Any:
    return pytest.raises(eb.InputError, match=message)


def unet(channels: int = 1, out_channels: int | None = None, **options: Any) -> Any:
    torch.manual_seed(1)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=out_channels or channels, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"), mid_block_type=None, **options,
    )  # fmt: skip


def text_unet() -> Any:
    torch.manual_seed(2)
    return diffusers.UNet2DConditionModel(
        in_channels=4, out_channels=4, cross_attention_dim=8, sample_size=8, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


def dit() -> Any:
    torch.manual_seed(3)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        norm_num_groups=4, num_embeds_ada_norm=1000,
    )  # fmt: skip


def sd3() -> Any:
    torch.manual_seed(4)
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=6, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip


def vae() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PROMPT = {"prompt_embeds": random(1, 3, 8), "negative_prompt_embeds": random(1, 3, 8, seed=1)}
POOLED = {"pooled_prompt_embeds": random(1, 6, seed=2), "negative_pooled_prompt_embeds": random(1, 6, seed=3)}


class TextPipeline(diffusers.DiffusionPipeline):
    """The denoising loop of StableDiffusionPipeline and StableDiffusion3Pipeline: one network call for both halves."""

    def __init__(self, scheduler: Any, unet: Any = None, transformer: Any = None) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler, unet=unet, transformer=transformer)

    @torch.no_grad()
    def __call__(self, batch_size: int, num_inference_steps: int, guidance_scale: float = 1.0, stop: int = -1) -> Tensor:
        net, scheduler, guided = self.unet or self.transformer, self.scheduler, guidance_scale > 1
        scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(batch_size, *LATENTS) * getattr(scheduler, "init_noise_sigma", 1)
        names = ("negative_", "") if guided else ("",)
        prompt = torch.cat([PROMPT[f"{n}prompt_embeds"].expand(batch_size, -1, -1) for n in names])
        pooled = torch.cat([POOLED[f"{n}pooled_prompt_embeds"].expand(batch_size, -1) for n in names])
        for i, t in enumerate(scheduler.timesteps):
            if i == stop:
                raise RuntimeError("out of memory")
            both = torch.cat([x] * len(names))
            if self.unet is not None:
                both = scheduler.scale_model_input(both, t)
                output = net(both, t, encoder_hidden_states=prompt, return_dict=False)[0]
            else:
                output = net(
                    hidden_states=both, timestep=t.expand(len(both)), encoder_hidden_states=prompt,
                    pooled_projections=pooled, return_dict=False,
                )[0]  # fmt: skip
            if guided:
                u, c = output.chunk(2)
                output = u + guidance_scale * (c - u)
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim_pipeline(**options: Any) -> Any:
    return quiet(diffusers.DDIMPipeline(unet(), diffusers.DDIMScheduler(**{"clip_sample": False} | options)))


def images(shape: tuple[int, ...], n: int = 32, classes: int | None = None) -> Any:
    x = np.random.default_rng(0).normal(0, 0.5, (n, *shape)).astype(np.float32)
    return eb.load_data(x, value_range=None, labels=None if classes is None else np.arange(n) % classes)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that reach the statistics of the chain, in order."""
    taken: list[Step] = []
    update = Collector.update

    def watched(self: Collector, step: Step, subjects: Any) -> None:
        if self.name == "chain":
            taken.append(step)
        update(self, step, subjects)

    monkeypatch.setattr(Collector, "update", watched)
    return taken


def agree(seen: list[Step], driven: Iterator[Step], tolerance: float = 1e-5) -> None:
    expected = list(driven)
    assert [s.index for s in seen] == [s.index for s in expected]
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_allclose(a.level, b.level, rtol=1e-12)
        scale = float(b.x.abs().max())
        assert (a.x - b.x).abs().max() <= tolerance * scale, a.index
        assert (a.prediction is None) == (b.prediction is None)
        if a.prediction is not None and b.prediction is not None:
            for said, ours in zip(a.prediction[:2], b.prediction[:2], strict=True):
                assert (said - ours).abs().max() <= 10 * tolerance * ours.abs().max(), a.index


class SameNoise(TorchFunctionMode):
    """Lets a loop draw what our chain of seed 0 draws: the start, if asked, then a tensor for each step that draws."""

    def __init__(self, shape: tuple[int, ...], start: bool) -> None:
        super().__init__()
        noise = Noise(0, "chain", IDS, shape)
        self.draws = iter([*([Noise(0, "start", IDS, shape)(0)] if start else []), *(noise(i) for i in range(STEPS))])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return next(self.draws).to(kwargs["dtype"]) if func is torch.randn else func(*args, **kwargs)


def driven(model: eb.Denoiser, sampler: Any, levels: Any = None) -> Iterator[Step]:
    levels = levels or sampler.levels
    start = prior(model, levels[0], Noise(0, "start", IDS, model.shape)(0), sampler)
    return chain(model, start, levels, sampler, Noise(0, "chain", IDS, model.shape))


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_pipelines(kind: str, return_dict: bool, steps: list[Step]) -> None:
    scheduler = getattr(diffusers, f"{kind}Scheduler")(clip_sample=False)
    pipe = quiet(getattr(diffusers, f"{kind}Pipeline")(unet(), scheduler))
    options = {"eta": 0.5} if kind == "DDIM" else {}
    with SameNoise(IMAGES, start=True), eb.observe(pipe, data=images(IMAGES)) as seen:
        pipe(batch_size=BATCH, num_inference_steps=STEPS, output_type="np", return_dict=return_dict, **options)
    model = eb.adapt(pipe)
    agree(steps, driven(model, parse("ddim:0.5" if options else "ddpm"), model.schedule.levels(STEPS, "leading")))
    rec = seen.recording()
    assert (rec.n, rec.paired, rec.provenance["run"]["steps"]) == (BATCH, False, STEPS)
    assert rec.provenance["run"]["sampler"] == f"{kind}Scheduler" + (":eta=0.5" if options else "")
    assert np.isfinite(eb.spectrum(rec)["hf"]) and np.isfinite(eb.variance_gap(rec)["gap"]).all()


SCHEDULES = {"vp": eb.schedules.linear(), "edm": eb.schedules.edm(), "flow": eb.schedules.flow(1000)}
TYPES = {"vp": "epsilon", "edm": "sample", "flow": "flow_prediction"}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in SUPPORTED.items() for path in paths])
def test_every_scheduler(name: str, path: str, steps: list[Step]) -> None:
    """Steps and calls of each class, in a loop of our own around it; EDM's networks are preconditioned in the loop."""
    net = Net(1000)
    model = eb.Denoiser(
        EDMPrecond() if path == "edm" else net, schedule=SCHEDULES[path], prediction_type=TYPES[path], shape=SHAPE  # type: ignore[arg-type]
    )
    sampler: Any = sampler_for(name, model, STEPS)
    scheduler = copy.deepcopy(sampler.scheduler)
    x = (Noise(0, "start", IDS, SHAPE)(0) * sampler.prior_scale(sampler.levels[0], path)).float()
    with SameNoise(SHAPE, start=False), eb.observe(scheduler, model=model) as seen:
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            with torch.no_grad():
                output = (model.net.net if path == "edm" else net)(scaled, t.expand(BATCH))
            x = scheduler.step(output, t, x, return_dict=False)[0]
    assert seen.n == BATCH
    agree(steps, driven(model, sampler), 1e-4 if "SDE" in name else 2e-5)
