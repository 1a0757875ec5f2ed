"""Each kind of diffusers model against diffusers itself: the same start and noise through its loop
and through ours.

The networks are tiny and their weights random. Stable Diffusion's and SD3's pipelines need the
package `transformers` (test_prompted_pipelines.py); here `library_loop` makes the calls that those
pipelines make, on the same embeddings.

States are float32 there and float64 here, and an untrained network lets a chain grow a hundredfold:
results agree to 1e-5 of the largest value."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import networks
import numpy as np
import pytest
import torch
from networks import POOLED, PROMPT, dit, fails, random, sd3, text_unet, unet, vae
from torch import Tensor

import exposure_bias as eb
from exposure_bias import streams
from exposure_bias.paths import Noise
from exposure_bias.samplers import DDPM, parse
from exposure_bias.statistics.collector import Collector

# diffusers 0.42.1's own use of numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

BATCH = 3
STEPS = 10
CLASSES = 5
IDS = list(range(BATCH))
# Measured: 1e-7 to 1.4e-6; 8e-6 where the network predicts x_0, from the library's float32 ᾱ at the
# cleanest level.
TOLERANCE = 1e-5

Arrange = Callable[[tuple[int, ...], bool], None]


def sdxl_unet() -> diffusers.UNet2DConditionModel:
    return text_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=4 * 6 + 6,
    )


TIME_IDS = {"add_time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
LABELS = torch.tensor([2, 0, 4])


def positive(embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in embeddings.items() if "negative" not in key}


def ours(model: eb.Denoiser, sampler: str, grid: str) -> tuple[Tensor, Tensor]:
    """Start and end of our chain from pure noise, on the noise of seed 0."""
    levels = model.schedule.levels(STEPS, grid)
    start = streams.prior(levels[0], Noise(0, "start", IDS, model.shape)(0), DDPM())
    noise = Noise(0, "chain", IDS, model.shape)
    return start, streams.rollout(model.given(LABELS), start, levels, parse(sampler), noise)


def agree(library: Tensor, end: Tensor) -> None:
    assert library.shape == end.shape
    error = float((library.double() - end).abs().max() / end.abs().max())
    assert torch.isfinite(end).all()
    assert error < TOLERANCE, error


def library_loop(
    net: Callable[[Tensor, Tensor], Tensor], scheduler: Any, x: Tensor, steps: int = STEPS
) -> Tensor:
    """The loop that every pipeline of diffusers makes around its network, from state x in the
    scheduler's own scale."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        with torch.no_grad():
            output = net(scaled, t)
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> Arrange:
    """Makes diffusers draw what our chain of that shape draws: the start, if asked, then a tensor
    for each step."""

    def arrange(shape: tuple[int, ...], start: bool) -> None:
        chain = Noise(0, "chain", IDS, shape)
        draws = iter(
            [
                *([Noise(0, "start", IDS, shape)(0)] if start else []),
                *(chain(i) for i in range(STEPS)),
            ]
        )

        def randn(*args: Any, **kwargs: Any) -> Tensor:
            return next(draws).clone()

        for module in (
            "schedulers.scheduling_ddpm",
            "schedulers.scheduling_ddim",
            "pipelines.ddpm.pipeline_ddpm",
            "pipelines.ddim.pipeline_ddim",
            "pipelines.dit.pipeline_dit",
        ):
            monkeypatch.setattr(f"diffusers.{module}.randn_tensor", randn)

    return arrange


def end_of(pipe: Any, **call: Any) -> Tensor:
    """The last state that a pipeline's scheduler returned for the batch; the images themselves are
    clamped."""
    states = []
    step = pipe.scheduler.step

    @functools.wraps(step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        states.append(result[0])
        return result

    pipe.scheduler.step = watched
    pipe.set_progress_bar_config(disable=True)
    pipe(num_inference_steps=STEPS, output_type="np", **call)
    return states[-1][:BATCH]


def test_ddpm_pipeline(same_noise: Arrange) -> None:
    pipe = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(clip_sample=False))
    same_noise((1, 8, 8), True)
    agree(end_of(pipe, batch_size=BATCH), ours(eb.adapt(pipe), "ddpm", "leading")[1])


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_ddim_pipeline(same_noise: Arrange, prediction_type: str, eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type=prediction_type)
    pipe = diffusers.DDIMPipeline(unet(), scheduler)
    same_noise((1, 8, 8), True)
    agree(
        end_of(pipe, batch_size=BATCH, eta=eta), ours(eb.adapt(pipe), f"ddim:{eta}", "leading")[1]
    )


def test_learned_range(same_noise: Arrange) -> None:
    net, scheduler = (
        unet(1, 2),
        diffusers.DDPMScheduler(clip_sample=False, variance_type="learned_range"),
    )
    model = eb.adapt(net, scheduler)
    start, end = ours(model, "ddpm:learned_range", "leading")
    same_noise((1, 8, 8), False)
    agree(library_loop(lambda x, t: net(x, t).sample, scheduler, start.float()), end)


def test_class_conditional_unet() -> None:
    net, scheduler = unet(num_class_embeds=CLASSES), diffusers.DDIMScheduler(clip_sample=False)
    model = eb.adapt(net, scheduler)
    assert model.classes == CLASSES
    start, end = ours(model, "ddim", "leading")
    agree(
        library_loop(lambda x, t: net(x, t, class_labels=LABELS).sample, scheduler, start.float()),
        end,
    )


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_pipeline(same_noise: Arrange, guidance: float) -> None:
    pipe = diffusers.DiTPipeline(dit().eval(), vae(), diffusers.DDIMScheduler(clip_sample=False))
    model = eb.adapt(pipe, guidance_scale=guidance)
    assert (model.classes, model.learned_variance) == (1000, True)
    assert model.guidance == (None if guidance == 1 else guidance)
    same_noise((4, 8, 8), True)
    end = end_of(pipe, class_labels=LABELS.tolist(), guidance_scale=guidance)
    agree(end, ours(model, "ddim", "leading")[1])


def test_guided_variance_is_that_of_the_class() -> None:
    x, level = random(BATCH, 4, 8, 8), eb.schedules.linear().level(400)
    plain, guided = (
        eb.adapt(dit(CLASSES), diffusers.DDIMScheduler(), guidance_scale=w).given(LABELS)(x, level)
        for w in (None, 3.0)
    )
    torch.testing.assert_close(guided[:, 4:], plain[:, 4:])
    assert (guided[:, :4] - plain[:, :4]).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [None, 7.5])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_stable_diffusion(scheduler: str, guidance: float | None) -> None:
    net = text_unet()
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    options = {"clip_sample": False} if scheduler == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, scheduler)(**betas, **options)
    model = eb.adapt(
        net, scheduler, guidance_scale=guidance, **(PROMPT if guidance else positive(PROMPT))
    )
    assert (model.guidance, model.classes) == (guidance, None)

    def call(x: Tensor, t: Tensor) -> Tensor:
        prompt = PROMPT["prompt_embeds"].expand(BATCH, -1, -1)
        if guidance is None:
            return net(x, t, encoder_hidden_states=prompt).sample
        both = torch.cat([PROMPT["negative_prompt_embeds"].expand(BATCH, -1, -1), prompt])
        u, c = net(torch.cat([x] * 2), t, encoder_hidden_states=both).sample.chunk(2)
        return u + guidance * (c - u)

    euler = isinstance(scheduler, diffusers.EulerDiscreteScheduler)
    start, end = ours(model, "euler" if euler else "ddim", "linspace" if euler else "leading")
    scale = 1 / model.schedule.alpha[-1] if euler else 1
    agree(library_loop(call, scheduler, (start * scale).float()), end)


def test_sdxl_conditions() -> None:
    net, scheduler = sdxl_unet(), diffusers.DDIMScheduler(clip_sample=False)
    model = eb.adapt(net, scheduler, guidance_scale=5.0, **PROMPT, **POOLED, **TIME_IDS)
    x, level = random(BATCH, 4, 8, 8), model.schedule.level(500)

    def alone(prompt: str, pooled: str) -> Tensor:
        added = {
            "text_embeds": POOLED[pooled].expand(BATCH, -1),
            "time_ids": TIME_IDS["add_time_ids"].expand(BATCH, -1),
        }
        embeds = PROMPT[prompt].expand(BATCH, -1, -1)
        with torch.no_grad():
            return net(x, 500, encoder_hidden_states=embeds, added_cond_kwargs=added).sample

    u = alone("negative_prompt_embeds", "negative_pooled_prompt_embeds")
    c = alone("prompt_embeds", "pooled_prompt_embeds")
    torch.testing.assert_close(model(x, level), u + 5 * (c - u), rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance", [None, 7.0])
def test_stable_diffusion_3(guidance: float | None) -> None:
    net, scheduler = sd3(), diffusers.FlowMatchEulerDiscreteScheduler()
    given = PROMPT | POOLED
    model = eb.adapt(
        net, scheduler, guidance_scale=guidance, **(given if guidance else positive(given))
    )
    assert (model.prediction_type, model.schedule.timestep[-1], model.schedule.alpha[-1]) == (
        "flow_prediction",
        1e3,
        0,
    )

    def branch(x: Tensor, t: Tensor, sign: str) -> Tensor:
        prompt = given[f"{sign}prompt_embeds"].expand(BATCH, -1, -1)
        pooled = given[f"{sign}pooled_prompt_embeds"].expand(BATCH, -1)
        return net(
            x, encoder_hidden_states=prompt, pooled_projections=pooled, timestep=t.expand(BATCH)
        ).sample

    def call(x: Tensor, t: Tensor) -> Tensor:
        if guidance is None:
            return branch(x, t, "")
        u = branch(x, t, "negative_")
        return u + guidance * (branch(x, t, "") - u)

    start, end = ours(model, "euler", "linspace")
    agree(library_loop(call, scheduler, start.float()), end)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_edm(prediction_type: str, name: str) -> None:
    """DPM-Solver++ of first order is Euler's step in x_0."""
    options = {} if name == "EDMEulerScheduler" else {"solver_order": 1}
    net, scheduler = unet(), getattr(diffusers, name)(prediction_type=prediction_type, **options)
    model = eb.adapt(net, scheduler)
    start, end = ours(model, "euler", "karras")
    agree(library_loop(lambda x, t: net(x, t).sample, scheduler, start.float()), end)


def test_zero_terminal_snr_is_honoured() -> None:
    options = {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    }
    net, scheduler = unet(), diffusers.DDIMScheduler(clip_sample=False, **options)
    model = eb.adapt(net, scheduler)
    start, end = ours(model, "ddim", "trailing")
    assert model.schedule.alpha[-1] == 0
    agree(library_loop(lambda x, t: net(x, t).sample, scheduler, start.float()), end)
    with fails("starts at α = 0"):
        ours(model, "heun", "trailing")
    # Sigma-based schedulers put 2⁻²⁴ in place of 0.
    assert eb.adapt(net, diffusers.EulerDiscreteScheduler(**options)).schedule.alpha[-1] == 0


VP_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)


@pytest.mark.parametrize("name", VP_SCHEDULERS)
def test_every_scheduler_with_betas_gives_the_same_schedule(name: str) -> None:
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=500, beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.02
    )
    schedule = eb.adapt(unet(), scheduler).schedule
    betas = np.linspace(0.001**0.5, 0.02**0.5, 500) ** 2
    np.testing.assert_allclose(schedule.alpha**2, np.cumprod(1 - betas), rtol=1e-5)
    # float32 betas leave 3e-8 of 1, hence 3e-5 of σ² = 0.001
    np.testing.assert_allclose(schedule.sigma**2, 1 - np.cumprod(1 - betas), rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"]
)
def test_flow_sigmas(name: str) -> None:
    scheduler = getattr(diffusers, name)(prediction_type="flow_prediction", use_flow_sigmas=True)
    model = eb.adapt(unet(), scheduler)
    assert (model.schedule.parameterisation, model.prediction_type) == ("flow", "flow_prediction")


def test_trained_betas() -> None:
    betas = [0.1, 0.2, 0.4]
    model = eb.adapt(unet(), diffusers.DDPMScheduler(num_train_timesteps=3, trained_betas=betas))
    np.testing.assert_allclose(model.schedule.alpha**2, np.cumprod(1 - np.array(betas)), rtol=1e-6)


def images(shape: tuple[int, ...], classes: int | None) -> Any:
    x = np.random.default_rng(0).normal(0, 1, (32, *shape)).astype(np.float32)
    labels = None if classes is None else np.arange(32) % classes
    return eb.load_data(x, value_range=None, labels=labels)


MODELS: dict[str, Callable[[], eb.Denoiser]] = {
    "unet": lambda: eb.adapt(unet(), diffusers.DDPMScheduler()),
    "learned": lambda: eb.adapt(unet(1, 2), diffusers.DDPMScheduler(variance_type="learned_range")),
    "classes": lambda: eb.adapt(unet(num_class_embeds=CLASSES), diffusers.DDIMScheduler()),
    "dit": lambda: eb.adapt(dit(CLASSES), diffusers.DDIMScheduler()),
    "dit guided": lambda: eb.adapt(dit(CLASSES), diffusers.DDIMScheduler(), guidance_scale=4.0),
    "sd": lambda: eb.adapt(text_unet(), diffusers.PNDMScheduler(), **positive(PROMPT)),
    "sd guided": lambda: eb.adapt(
        text_unet(), diffusers.PNDMScheduler(), guidance_scale=7.5, **PROMPT
    ),
    "sd3": lambda: eb.adapt(
        sd3(), diffusers.FlowMatchEulerDiscreteScheduler(), **positive(PROMPT | POOLED)
    ),
    "edm": lambda: eb.adapt(unet(), diffusers.EDMEulerScheduler()),
    "zero snr": lambda: eb.adapt(
        unet(), diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_record_to_spectrum(name: str) -> None:
    model = MODELS[name]()
    sampler = (
        "euler"
        if model.schedule.continuous
        else "ddpm:learned_range"
        if name == "learned"
        else "ddim"
    )
    recording = eb.record(model, images(model.shape, model.classes), sampler=sampler, steps=4)
    spectrum = eb.spectrum(recording)
    assert np.isfinite(spectrum["power_chain"]).all()
    for stream in ("forward", "chain"):
        assert np.isfinite(recording[stream]["epsilon_norm"].values[:, :-1]).all()
    assert ("gap" in spectrum.attrs) == ("guided" in name)
    assert (model.guidance is not None) == ("guided" in name)


def test_embeddings_count_in_the_identity_of_a_model() -> None:
    other = {"prompt_embeds": PROMPT["prompt_embeds"] + 1}
    scheduler, net = diffusers.DDIMScheduler(), text_unet()
    one, two, again = (
        eb.adapt(net, scheduler, **given)
        for given in (positive(PROMPT), other, {"prompt_embeds": PROMPT["prompt_embeds"].clone()})
    )
    assert one.conditions == again.conditions != two.conditions
    guided = eb.adapt(net, scheduler, guidance_scale=2.0, **PROMPT)
    assert guided.conditions != one.conditions
    assert one.weight_hash == two.weight_hash == guided.weight_hash
    assert one.net is net
    assert eb.adapt(unet(), scheduler).conditions == ""


def test_a_half_precision_network_takes_its_embeddings_along() -> None:
    model = eb.adapt(
        text_unet().bfloat16(), diffusers.DDIMScheduler(), guidance_scale=2.0, **PROMPT
    )
    assert model(random(BATCH, 4, 8, 8).double(), model.schedule.level(10)).dtype == torch.bfloat16


def folder(where: Path, pipeline: str, scheduler: Any, **network: Any) -> Path:
    """A pipeline's folder without the parts that denoising does not need."""
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
    scheduler.save_pretrained(where / "scheduler")
    for part, net in network.items():
        index[part] = ["diffusers", type(net).__name__]
        net.save_pretrained(where / part)
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (where / "model_index.json").write_text(json.dumps(index))
    return where


def test_folders(tmp_path: Path) -> None:
    x = random(BATCH, 4, 8, 8)
    saved = {
        "dit": (
            folder(
                tmp_path / "dit", "DiTPipeline", diffusers.DDIMScheduler(), transformer=dit(CLASSES)
            ),
            {},
        ),
        "sd": (
            folder(
                tmp_path / "sd",
                "StableDiffusionPipeline",
                diffusers.PNDMScheduler(),
                unet=text_unet(),
            ),
            PROMPT,
        ),
        "sd3": (
            folder(
                tmp_path / "sd3",
                "StableDiffusion3Pipeline",
                diffusers.FlowMatchEulerDiscreteScheduler(),
                transformer=sd3(),
            ),
            PROMPT | POOLED,
        ),
    }
    objects = {
        "dit": (dit(CLASSES), diffusers.DDIMScheduler()),
        "sd": (text_unet(), diffusers.PNDMScheduler()),
        "sd3": (sd3(), diffusers.FlowMatchEulerDiscreteScheduler()),
    }
    for name, (path, given) in saved.items():
        loaded = eb.adapt(str(path), **positive(given))
        direct = eb.adapt(*objects[name], **positive(given)).given(LABELS)
        assert loaded.name == name
        level = loaded.schedule.level(300)
        assert torch.equal(loaded.given(LABELS)(x, level), direct(x, level))
    assert eb.load_model(saved["dit"][0]).classes == CLASSES
    with fails("needs prompt_embeds="):
        eb.load_model(saved["sd"][0])


def test_a_saved_pipeline_loads(tmp_path: Path) -> None:
    pipe = diffusers.DDPMPipeline(
        unet(num_class_embeds=CLASSES), diffusers.DDPMScheduler(num_train_timesteps=50)
    )
    pipe.save_pretrained(tmp_path / "mine")
    model = eb.load_model(tmp_path / "mine")
    assert (model.name, model.classes, len(model.schedule)) == ("mine", CLASSES, 50)
    assert model.weight_hash == eb.adapt(pipe).weight_hash


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_ddpm_pipeline_with_a_scheduler_it_does_not_scale_for(
    tmp_path: Path, scheduler: str
) -> None:
    pipe = diffusers.DDPMPipeline(unet(), getattr(diffusers, scheduler)())
    with pytest.warns(
        UserWarning, match=f"DDPMPipeline runs with {scheduler}, but does not scale"
    ) as caught:
        model = eb.adapt(pipe)
    assert caught[0].filename == __file__
    assert model.schedule.parameterisation == "vp"
    pipe.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="does not scale") as caught:
        eb.load_model(tmp_path)
    assert caught[-1].filename == __file__
    eb.adapt(pipe.unet, pipe.scheduler)  # a warning here would be an error


def ddpm(**options: Any) -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler(**options)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no scheduler": (lambda: eb.adapt(unet()), r"needs its scheduler, got UNet2DModel"),
    "three objects": (lambda: eb.adapt(unet(), ddpm(), ddpm()), "needs its scheduler"),
    "wrong order": (
        lambda: eb.adapt(ddpm(), unet()),
        "networks of class DDPMScheduler are not supported",
    ),
    "another network": (
        lambda: eb.adapt(vae(), ddpm()),
        "AutoencoderKL are not supported .*, only UNet1DModel, ",
    ),
    "another library's network": (
        lambda: eb.adapt(torch.nn.Linear(1, 1), ddpm()),
        r"Linear .* eb.Denoiser\(net, ",
    ),
    "lcm": (
        lambda: eb.adapt(unet(), diffusers.LCMScheduler()),
        "LCMScheduler samples distilled models",
    ),
    "tcd": (lambda: eb.adapt(unet(), diffusers.TCDScheduler()), "distilled"),
    "consistency": (
        lambda: eb.adapt(unet(), diffusers.CMStochasticIterativeScheduler()),
        "distilled",
    ),
    "consistency pipeline": (
        lambda: eb.adapt(
            diffusers.ConsistencyModelPipeline(unet(), diffusers.CMStochasticIterativeScheduler())
        ),
        "ConsistencyModelPipeline holds a consistency model",
    ),
    "lcm unet": (
        lambda: eb.adapt(text_unet(time_cond_proj_dim=8), ddpm(), **positive(PROMPT)),
        "guidance scale as an input",
    ),
    "self-conditioning": (
        lambda: eb.adapt(unet(2, 1), ddpm()),
        "from 2 to 1 channels also sees another image",
    ),
    "noise level": (
        lambda: eb.adapt(unet(class_embed_type="timestep"), ddpm()),
        "conditioned on a noise level .* cascades",
    ),
    "no size": (lambda: eb.adapt(sized(None), ddpm()), "lacks sample_size"),
    "no schedule": (
        lambda: eb.adapt(unet(), diffusers.IPNDMScheduler()),
        "IPNDMScheduler states no schedule",
    ),
    "no prediction type": (
        lambda: eb.adapt(unet(), diffusers.RePaintScheduler()),
        "does not say .* one of epsilon, sample, v_prediction, flow_prediction",
    ),
    "unknown prediction type": (
        lambda: eb.adapt(unet(), ddpm(prediction_type="noise")),
        "says prediction_type='noise'.* one of epsilon",
    ),
    "unknown answer": (
        lambda: eb.adapt(unet(), diffusers.RePaintScheduler(), prediction_type="eps"),
        "one of epsilon, sample",
    ),
    "contradiction": (
        lambda: eb.adapt(unet(), ddpm(), prediction_type="sample"),
        "prediction_type='sample', but DDPMScheduler says",
    ),
    "T differs": (
        lambda: eb.adapt(unet(time_embedding_type="learned", num_train_timesteps=100), ddpm()),
        "knows 100 timesteps, but the scheduler has 1000",
    ),
    "no variance": (
        lambda: eb.adapt(unet(), ddpm(variance_type="learned_range")),
        "does not predict: variance_type",
    ),
    "log variance": (
        lambda: eb.adapt(unet(1, 2), ddpm(variance_type="learned")),
        "only 'learned_range' is",
    ),
    "edm variance": (
        lambda: eb.adapt(unet(1, 2), diffusers.EDMEulerScheduler()),
        "EDM's preconditioning",
    ),
    "continuous time": (
        lambda: eb.adapt(unet(), diffusers.EulerDiscreteScheduler(timestep_type="continuous")),
        "tells time otherwise",
    ),
    "changed ᾱ": (lambda: eb.adapt(unet(), changed()), "changes ᾱ beyond its betas"),
    "guidance as text": (
        lambda: eb.adapt(dit(), ddpm(), guidance_scale="7.5"),
        "guidance_scale is '7.5'",
    ),
    "T as text": (
        lambda: eb.adapt(unet(), changed(num_train_timesteps="1000")),
        "num_train_timesteps of DDPMScheduler is 1000: a whole number from 1 to 100,000",
    ),
    "T absurd": (
        lambda: eb.adapt(unet(), changed(num_train_timesteps=3 * 10**8)),
        "is 300000000: a whole number from 1 to",
    ),
    "σ as text": (
        lambda: eb.adapt(unet(), changed("EDMEulerScheduler", sigma_data="x")),
        "sigma_data of EDME.* is x: a number",
    ),
    "size as text": (
        lambda: eb.adapt(sized("88"), ddpm()),
        "sample_size=88: whole numbers of at least 1",
    ),
    "whole timesteps under flow": (
        lambda: eb.adapt(learned(), diffusers.FlowMatchEulerDiscreteScheduler()),
        "labels must be whole",
    ),
    "whole timesteps under EDM": (
        lambda: eb.adapt(learned(), diffusers.EDMEulerScheduler()),
        "labels must be whole",
    ),
    "guidance below 1": (
        lambda: eb.adapt(dit(), ddpm(), guidance_scale=0.5),
        "guidance_scale is 0.5",
    ),
    "no null class": (
        lambda: eb.adapt(unet(num_class_embeds=3), ddpm(), guidance_scale=2.0),
        "UNet2DModel has no null class",
    ),
    "no prompt": (lambda: eb.adapt(text_unet(), ddpm()), "without guidance needs prompt_embeds="),
    "no negative": (
        lambda: eb.adapt(text_unet(), ddpm(), guidance_scale=7.5, **positive(PROMPT)),
        "with guidance needs negative_prompt_embeds=",
    ),
    "negative without guidance": (
        lambda: eb.adapt(text_unet(), ddpm(), **PROMPT),
        "without guidance does not take negative_prompt_embeds",
    ),
    "no pooled": (
        lambda: eb.adapt(sd3(), diffusers.FlowMatchEulerDiscreteScheduler(), **positive(PROMPT)),
        "needs pooled_prompt_embeds=",
    ),
    "prompt for a UNet2DModel": (
        lambda: eb.adapt(unet(), ddpm(), **positive(PROMPT)),
        "UNet2DModel without guidance does not take prompt_embeds",
    ),
    "pooled embeddings of other prompts": (
        lambda: eb.adapt(
            sd3(),
            diffusers.FlowMatchEulerDiscreteScheduler(),
            prompt_embeds=random(3, 3, 8),
            pooled_prompt_embeds=random(2, 6),
        ),
        "pooled_prompt_embeds has 2 rows, but there are 3 prompts",
    ),
    "an embedding without rows": (
        lambda: eb.adapt(text_unet(), ddpm(), prompt_embeds=random(8)),
        r"prompt_embeds is \(8,\): give a tensor \(K, …\)",
    ),
    "a shape of other channels": (
        lambda: eb.adapt(unet(), ddpm(), shape=(3, 8, 8)),
        r"shape is \(3, 8, 8\), but this network's states have 3 axes, of which the first is 1",
    ),
    "a shape of another rank": (
        lambda: eb.adapt(unet(), ddpm(), shape=(1, 8)),
        r"shape is \(1, 8\), but",
    ),
    "a distilled Sana": (
        lambda: eb.adapt(
            networks.sana(guidance_embeds=True), diffusers.FlowMatchEulerDiscreteScheduler()
        ),
        "takes its guidance scale as an input, as distilled ones do",
    ),
    "a negative prompt that a guidance embedding does not need": (
        lambda: eb.adapt(
            networks.flux(guidance_embeds=True),
            diffusers.FlowMatchEulerDiscreteScheduler(),
            guidance_scale=3.5,
            **PROMPT | POOLED,
        ),
        "does not take negative_prompt_embeds",
    ),
    "prompts of another width": (
        lambda: eb.adapt(text_unet(), ddpm(), prompt_embeds=random(1, 3, 7)),
        r"takes \(K, tokens, 8\)",
    ),
    "prompts that are text": (
        lambda: eb.adapt(text_unet(), ddpm(), prompt_embeds="a cat"),
        "prompt_embeds is str",
    ),
    "prompts of two lengths": (
        lambda: eb.adapt(
            text_unet(),
            ddpm(),
            guidance_scale=2,
            prompt_embeds=random(1, 3, 8),
            negative_prompt_embeds=random(1, 2, 8),
        ),
        "differ in shape",
    ),
    "for another library": (
        lambda: eb.adapt(eb.load_model("digits"), guidance_scale=2.0),
        "guidance_scale are only for diffusers",
    ),
}


def changed(name: str = "DDPMScheduler", **config: Any) -> Any:
    """A scheduler whose configuration somebody wrote into, or without any, its ᾱ."""
    scheduler = getattr(diffusers, name)()
    scheduler.register_to_config(**config)
    if not config:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod * 0.9
    return scheduler


def sized(size: Any) -> diffusers.UNet2DModel:
    net = unet()
    net.register_to_config(sample_size=size)
    return net


def learned() -> diffusers.UNet2DModel:
    return unet(time_embedding_type="learned", num_train_timesteps=1000)


def test_a_learned_time_embedding_wants_whole_labels() -> None:
    model = eb.adapt(learned(), ddpm())
    x = random(BATCH, 1, 8, 8).double()
    assert model(x, model.schedule.level(300)).shape == x.shape
    with fails(
        r"answers at whole timesteps only, not at 300\.5: choose a grid and a sampler of whole ones"
    ):
        model(x, model.schedule.level(300.5))


@pytest.mark.parametrize(
    "options", [{}, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}]
)
def test_the_shifted_schedule_of_cogvideox(options: dict[str, Any]) -> None:
    """ᾱ ← ᾱ/(s + (1 − s) ᾱ): the SNR is divided by s = 3, then perhaps rescaled to end at zero."""
    scheduler = diffusers.CogVideoXDDIMScheduler(
        clip_sample=False, timestep_spacing="trailing", **options
    )
    model = eb.adapt(unet(), scheduler)
    np.testing.assert_allclose(
        model.schedule.alpha**2, scheduler.alphas_cumprod.numpy(), rtol=0, atol=1e-15
    )
    if not options:
        plain = eb.adapt(
            unet(), ddpm(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        ).schedule
        ratio = (plain.alpha / plain.sigma) ** 2 / (
            model.schedule.alpha / model.schedule.sigma
        ) ** 2
        np.testing.assert_allclose(ratio, 3, rtol=1e-4)
    start, end = ours(model, "ddim", "trailing")
    agree(library_loop(lambda x, t: net_of(model)(x, t).sample, scheduler, start.float()), end)


def net_of(model: eb.Denoiser) -> Any:
    return model.net.eval()


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    run, message = BAD[case]
    with fails(message):
        run()


def test_repaint_is_told_its_prediction_type() -> None:
    assert (
        eb.adapt(unet(), diffusers.RePaintScheduler(), prediction_type="epsilon").prediction_type
        == "epsilon"
    )


def test_a_packed_state_is_the_one_that_was_packed() -> None:
    from exposure_bias.adapters.families import pack_pairs, unpack_pairs

    x = random(2, 4, 6, 8)
    tokens = pack_pairs(x)
    assert tokens.shape == (2, 12, 16)
    # A token is 2 × 2 pixels of every channel, channel by channel.
    assert tokens[0, 5].tolist() == x[0, :, 2:4, 2:4].flatten().tolist()
    assert torch.equal(unpack_pairs(tokens, (4, 6, 8)), x)
    assert torch.equal(unpack_pairs(pack_pairs(x[..., :6]), (4, 20, 20)), x[..., :6])
    with fails(r"12, 16\), which are no packed states of shape \(4, 20, 20\): give their shape"):
        unpack_pairs(tokens, (4, 20, 20))
    with fails("latents of 5 x 8 cannot be packed in tokens of 2 x 2"):
        pack_pairs(x[:, :, :5])


def test_networks_of_any_size_work_on_states_of_the_datas_size() -> None:
    model = eb.adapt(
        networks.flux(), diffusers.FlowMatchEulerDiscreteScheduler(), **positive(PROMPT | POOLED)
    )
    assert model.shape == (4, 128, 128)
    recording = eb.record(model, images((4, 4, 6), None), sampler="euler", steps=2)
    assert recording["chain"]["kept_state"].shape[2:] == (4, 4, 6)
    assert model.shape == (4, 128, 128)
    with fails(r"the model works on states .* but array holds"):
        eb.record(model, images((3, 4, 6), None), sampler="euler", steps=2)


def test_dance_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of signals (C, T)."""
    pipe = diffusers.DanceDiffusionPipeline(
        networks.unet1d(), diffusers.DPMSolverMultistepScheduler()
    )
    pipe.set_progress_bar_config(disable=True)
    taken: list[streams.Step] = []
    update = Collector.update

    def watched(self: Collector, step: streams.Step, subjects: Any) -> None:
        taken.extend([step] if self.name == "chain" else [])
        update(self, step, subjects)

    monkeypatch.setattr(Collector, "update", watched)
    model = eb.adapt(pipe)
    assert model.shape == (2, 32)
    with eb.observe(pipe, data=images((2, 32), None)) as seen:
        pipe(batch_size=BATCH, num_inference_steps=STEPS)
    sampler: Any = seen._sampler
    noise, start = Noise(0, "", IDS, (2, 32)), taken[0].x
    agree(taken[-1].x.float(), streams.rollout(model, start, sampler.own_levels, sampler, noise))


def test_a_dit_under_its_older_name(tmp_path: Path) -> None:
    """facebook/DiT-XL-2-256 says Transformer2DModel; so do the first PixArts."""
    for net in (dit(CLASSES), networks.pixart()):
        given = {} if isinstance(net, diffusers.DiTTransformer2DModel) else positive(PROMPT)
        where = folder(
            tmp_path / type(net).__name__, "DiTPipeline", diffusers.DDIMScheduler(), transformer=net
        )
        for path in (where / "model_index.json", where / "transformer" / "config.json"):
            path.write_text(path.read_text().replace(type(net).__name__, "Transformer2DModel"))
        model = eb.adapt(where, **given)
        x, level = random(BATCH, 4, 8, 8), model.schedule.level(300)
        direct = eb.adapt(net, diffusers.DDIMScheduler(), **given)
        assert type(model.net) is type(net)
        assert torch.equal(model.given(LABELS)(x, level), direct.given(LABELS)(x, level))
    config = json.loads((where / "transformer" / "config.json").read_text())
    config["norm_type"] = "layer_norm"
    (where / "transformer" / "config.json").write_text(json.dumps(config))
    with fails("networks of class Transformer2DModel are not supported"):
        eb.adapt(where)


def test_bad_folders(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "bare")
    with fails(
        r"holds a UNet2DModel without its scheduler: load both, as in"
        r" eb.adapt\(diffusers.UNet2DModel"
    ):
        eb.load_model(tmp_path / "bare")
    (tmp_path / "empty").mkdir()
    with fails("no diffusers pipeline folder: it has no model_index.json"):
        eb.load_model(tmp_path / "empty")

    def broken(**changes: Any) -> Path:
        where = folder(tmp_path / "broken", "DDPMPipeline", ddpm(), unet=unet())
        index = json.loads((where / "model_index.json").read_text()) | changes
        (where / "model_index.json").write_text(json.dumps(index))
        return where

    for changes, message in (
        (
            {"unet": ["diffusers", "UNet3DConditionModel"]},
            "describes no UNet3DConditionModel: DownBlock2D does not exist",
        ),
        ({"unet": ["diffusers", "ChromaTransformer2DModel"]}, "class Chroma.* are not supported"),
        ({"unet": [None, None]}, "not one network under one scheduler"),
        (
            {"scheduler": ["diffusers", "UNet2DModel"]},
            "names the scheduler UNet2DModel, which diffusers does not have",
        ),
        ({"scheduler": ["diffusers", "LCMScheduler"]}, "distilled"),
        ({"prior_prior": ["diffusers", "PriorTransformer"]}, "has prior_prior.*: cascades"),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "has controlnet"),
        ({"_class_name": "LatentConsistencyModelPipeline"}, "holds a consistency model"),
        ({"unet": 3}, "not one network under one scheduler"),
    ):
        with fails(message):
            eb.load_model(broken(**changes))
    where = broken()
    (where / "model_index.json").write_text("[")
    with fails("does not list a pipeline's parts"):
        eb.load_model(where)
    weights = broken() / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with fails("is damaged, or no checkpoint: it is shorter than its header says"):
        eb.load_model(where)
