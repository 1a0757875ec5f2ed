"""Pipelines of diffusers that take prompts, their own loops watched by `observe`.

Their networks are tiny and random, and so are the text encoders. They need the library
transformers.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import diffusers
import networks
import numpy as np
import pytest
import torch
from networks import random
from torch import Tensor

import exposure_bias as eb
from exposure_bias.statistics.collector import Collector
from exposure_bias.streams import Step, chain

pytest.importorskip("transformers")
# What diffusers does with numpy 2, and with what it deprecates itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

BATCH, STEPS, TOKENS = 3, 4, 3
LATENTS = (4, 8, 12)
SQUARE = (4, 8, 8)
VIDEO = (4, 3, 4, 6)
PIXELS = {"height": 64, "width": 96}
FRAMES = {"height": 32, "width": 48, "num_frames": 9}


class Case(NamedTuple):
    """A pipeline's class and parts, the shape of its states, how it is called, what it is told."""

    pipeline: str
    parts: Callable[[], dict[str, Any]]
    shape: tuple[int, ...]
    call: dict[str, Any]
    told: tuple[str, ...]
    guidance: float = 4.0
    scale: str = "guidance_scale"


def flow(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **options)


def multistep(**options: Any) -> Any:
    """As Sana and Wan bring it."""
    return diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, **options
    )


def ddim() -> Any:
    return diffusers.DDIMScheduler(clip_sample=False)


TEXT = ("prompt_embeds",)
POOLED = ("prompt_embeds", "pooled_prompt_embeds")
MASKED = ("prompt_embeds", "prompt_attention_mask")
CASES = {
    "SD": Case(
        "StableDiffusionPipeline",
        lambda: {"unet": networks.text_unet(), "scheduler": ddim()},
        SQUARE,
        {},
        TEXT,
    ),
    "SDXL": Case(
        "StableDiffusionXLPipeline",
        lambda: {
            "unet": networks.text_unet(
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=30,
            ),
            "scheduler": ddim(),
        },
        SQUARE,
        {},
        POOLED,
    ),
    "SD3": Case(
        "StableDiffusion3Pipeline",
        lambda: {"transformer": networks.sd3(), "scheduler": flow()},
        SQUARE,
        {},
        POOLED,
    ),
    "FLUX.1-dev": Case(
        "FluxPipeline",
        lambda: {
            "transformer": networks.flux(guidance_embeds=True),
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        },
        LATENTS,
        PIXELS,
        POOLED,
    ),
    "FLUX with two passes": Case(
        "FluxPipeline",
        lambda: {"transformer": networks.flux(), "scheduler": flow()},
        LATENTS,
        PIXELS,
        POOLED,
        scale="true_cfg_scale",
    ),
    "PixArt": Case(
        "PixArtAlphaPipeline",
        lambda: {
            "transformer": networks.pixart(),
            "scheduler": diffusers.DPMSolverMultistepScheduler(),
        },
        SQUARE,
        {"use_resolution_binning": False},
        MASKED,
    ),
    "PixArt at 1024": Case(
        "PixArtAlphaPipeline",
        lambda: {
            # Its size says that it is told the size and the ratio of sides.
            "transformer": networks.pixart(
                sample_size=128, attention_head_dim=24, cross_attention_dim=48
            ),
            "scheduler": diffusers.DPMSolverMultistepScheduler(),
        },
        LATENTS,
        PIXELS | {"use_resolution_binning": False},
        MASKED,
    ),
    "Sana": Case(
        "SanaPipeline",
        lambda: {"transformer": networks.sana(timestep_scale=0.5), "scheduler": multistep()},
        LATENTS,
        {"height": 256, "width": 384, "use_resolution_binning": False},
        MASKED,
    ),
    "AuraFlow": Case(
        "AuraFlowPipeline",
        lambda: {"transformer": networks.auraflow(), "scheduler": flow()},
        LATENTS,
        PIXELS,
        TEXT,
    ),
    "Lumina2": Case(
        "Lumina2Pipeline",
        lambda: {"transformer": networks.lumina(), "scheduler": flow()},
        LATENTS,
        PIXELS,
        MASKED,
    ),
    "Wan": Case(
        "WanPipeline",
        lambda: {
            "transformer": networks.wan(),
            "scheduler": diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        },
        VIDEO,
        FRAMES,
        TEXT,
    ),
    "CogVideoX": Case(
        "CogVideoXPipeline",
        lambda: {
            "transformer": networks.cogvideox(),
            "scheduler": diffusers.CogVideoXDDIMScheduler(
                clip_sample=False, timestep_spacing="trailing"
            ),
        },
        (4, 3, 6, 8),
        {"height": 48, "width": 64, "num_frames": 9},
        TEXT,
    ),
    "CogVideoX with rotary places": Case(
        "CogVideoXPipeline",
        lambda: {
            "transformer": networks.cogvideox(use_rotary_positional_embeddings=True),
            "scheduler": diffusers.CogVideoXDDIMScheduler(
                clip_sample=False, timestep_spacing="trailing"
            ),
        },
        (4, 3, 4, 8),
        {"height": 32, "width": 64, "num_frames": 9},
        TEXT,
    ),
    "CogVideoX 1.5": Case(
        "CogVideoXPipeline",
        lambda: {
            "transformer": networks.cogvideox(
                use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False
            ),
            "scheduler": diffusers.CogVideoXDDIMScheduler(
                clip_sample=False, timestep_spacing="trailing"
            ),
        },
        (4, 4, 4, 8),
        {"height": 32, "width": 64, "num_frames": 13},
        TEXT,
    ),
    "LTX": Case(
        "LTXPipeline",
        lambda: {"transformer": networks.ltx(), "scheduler": flow()},
        (4, 2, 2, 3),
        {"height": 64, "width": 96, "num_frames": 9},
        MASKED,
    ),
    "UNet3D": Case(
        "TextToVideoSDPipeline",
        lambda: {"unet": networks.unet3d(), "scheduler": ddim()},
        (4, 3, 8, 8),
        {"num_frames": 3},
        TEXT,
    ),
}


def pipeline(case: Case, **parts: Any) -> Any:
    """The real pipeline, of which nothing but network and scheduler is there."""
    cls = getattr(diffusers, case.pipeline)
    takes = inspect.signature(cls.__init__).parameters
    required = {
        name: None
        for name, p in takes.items()
        if name != "self" and p.default is inspect.Parameter.empty
    }
    pipe = cls(**required | case.parts() | parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(case: Case, guided: bool) -> dict[str, Tensor]:
    """A row for each of `BATCH` prompts, and as many for what guidance leads away from."""
    sizes = {"prompt_embeds": (TOKENS, 8), "pooled_prompt_embeds": (6,)}
    given: dict[str, Tensor] = {}
    for k, sign in enumerate(("", "negative_") if guided else ("",)):
        for name in case.told:
            if name == "prompt_attention_mask":
                lengths = torch.arange(BATCH)[:, None] % TOKENS + 1 - k
                given[sign + name] = (torch.arange(TOKENS) < lengths.clamp(1)).long()
            else:
                given[sign + name] = random(BATCH, *sizes[name], seed=len(given))
    return given


def called(case: Case, pipe: Any, given: dict[str, Tensor], guidance: float) -> None:
    """The pipeline's own loop. AuraFlow wants masks that its network never sees."""
    masks = {}
    if case.pipeline == "AuraFlowPipeline":
        ones = torch.ones(BATCH, TOKENS, dtype=torch.int64)
        masks = {"prompt_attention_mask": ones, "negative_prompt_attention_mask": ones}
    own_text = case.pipeline in ("PixArtAlphaPipeline", "SanaPipeline")
    extra = {"negative_prompt": None} if own_text else {}
    pipe(
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
        **case.call | extra | given | masks | {case.scale: guidance},
    )


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps of the watched loop that reach the statistics."""
    taken: list[Step] = []
    update = Collector.update

    def watched(self: Collector, step: Step, subjects: Any) -> None:
        if self.name == "chain":
            taken.append(step)
        update(self, step, subjects)

    monkeypatch.setattr(Collector, "update", watched)
    return taken


def agree(seen: list[Step], driven: Iterator[Step], tolerance: float = 2e-5) -> None:
    """States and predictions of the two are equal to the round-off of float32."""
    expected = list(driven)
    assert [s.index for s in seen] == [s.index for s in expected]
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_allclose(a.level, b.level, rtol=1e-4, atol=1e-12)
        scale = float(b.x.abs().max())
        assert (a.x - b.x).abs().max() <= tolerance * scale, a.index
        assert (a.prediction is None) == (b.prediction is None)
        if a.prediction is not None and b.prediction is not None:
            pairs = zip(a.prediction[:2], b.prediction[:2], a.level[1:], strict=True)
            for said, ours, part in pairs:
                assert (said - ours).abs().max() * part <= 10 * tolerance * scale, a.index


def data(shape: tuple[int, ...], labels: bool = True) -> eb.data.Data:
    x = np.random.default_rng(0).normal(0, 0.5, (12, *shape)).astype(np.float32)
    return eb.load_data(x, value_range=None, labels=np.arange(12) % BATCH if labels else None)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_pipelines_own_loop(name: str, guided: bool, steps: list[Step]) -> None:
    case = CASES[name]
    embedded = name == "FLUX.1-dev"
    guidance = case.guidance if guided else 1.0
    given = embeddings(case, guided and not embedded)
    pipe = pipeline(case)
    model = eb.adapt(pipe, guidance_scale=guidance, shape=case.shape, **given)
    assert (model.classes, model.chosen_by, model.shape) == (BATCH, "prompt", case.shape)
    with eb.observe(pipe, data=data(case.shape), model=model) as seen:
        called(case, pipe, given, guidance)
    assert len(steps) == STEPS + 1
    bound = model.given(torch.arange(BATCH))
    sampler: Any = seen._sampler  # of the pipeline's own scheduler, with the steps that it set
    start = steps[0].x
    assert float(start.std()) > 0.5
    levels = sampler.own_levels
    agree(steps, chain(bound, start, levels, sampler, lambda i: torch.zeros_like(start)))
    recording = seen.recording()
    assert recording.run.model.conditions == model.conditions
    assert (eb.variance_gap(recording).attrs.get("gap") is not None) == guided
