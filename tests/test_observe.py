"""`observe` against the chains that we drive ourselves: on diffusers' pipelines and schedulers, and
on other loops.

States are float32 there and float64 here: they agree to 1e-5 of the largest value. transformers is
not installed, so that Stable Diffusion's and SD3's own pipelines cannot be built: `TextPipeline`
makes the calls that they make around network and scheduler, on embeddings that are given."""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import libraries
import numpy as np
import pytest
import torch
from libraries import SHAPE, AffineProbPath, EDMPrecond, GaussianDiffusion, Net, Scheduler
from networks import POOLED, PROMPT, dit, fails, random, sd3, text_unet, told, unet, vae
from torch import Tensor
from torch.overrides import TorchFunctionMode

import exposure_bias as eb
from exposure_bias.adapters.schedulers import SUPPORTED, sampler_for
from exposure_bias.paths import Noise
from exposure_bias.samplers import parse
from exposure_bias.statistics.collector import Collector
from exposure_bias.streams import Step, chain, prior

# What diffusers does with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BATCH, STEPS = 4, 6
IDS = list(range(BATCH))
IMAGES = (1, 8, 8)
LATENTS = (4, 8, 8)


class TextPipeline(diffusers.DiffusionPipeline):
    """The denoising loop of StableDiffusionPipeline and, with a transformer, of
    StableDiffusion3Pipeline."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.net = unet

    @torch.no_grad()
    def __call__(
        self, batch_size: int, num_inference_steps: int, guidance_scale: float = 1.0, stop: int = -1
    ) -> Tensor:
        net, scheduler, guided = self.net, self.scheduler, guidance_scale > 1
        scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(batch_size, *LATENTS) * getattr(scheduler, "init_noise_sigma", 1)
        names = ("negative_", "") if guided else ("",)
        prompt = torch.cat([PROMPT[f"{n}prompt_embeds"].expand(batch_size, -1, -1) for n in names])
        pooled = torch.cat(
            [POOLED[f"{n}pooled_prompt_embeds"].expand(batch_size, -1) for n in names]
        )
        for i, t in enumerate(scheduler.timesteps):
            if i == stop:
                raise RuntimeError("out of memory")
            both = torch.cat([x] * len(names))
            if isinstance(net, diffusers.UNet2DConditionModel):
                both = scheduler.scale_model_input(both, t)
                output = net(both, t, encoder_hidden_states=prompt, return_dict=False)[0]
            else:
                output = net(
                    hidden_states=both,
                    timestep=t.expand(len(both)),
                    encoder_hidden_states=prompt,
                    pooled_projections=pooled,
                    return_dict=False,
                )[0]
            if guided:
                u, c = output.chunk(2)
                output = u + guidance_scale * (c - u)
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x


class TransformerPipeline(TextPipeline):
    """The same with its network under the other name."""

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        diffusers.DiffusionPipeline.__init__(self)
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.net = transformer


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim_pipeline(**options: Any) -> Any:
    return quiet(
        diffusers.DDIMPipeline(unet(), diffusers.DDIMScheduler(**{"clip_sample": False} | options))
    )


def images(shape: tuple[int, ...], n: int = 32, classes: int | None = None) -> Any:
    x = np.random.default_rng(0).normal(0, 0.5, (n, *shape)).astype(np.float32)
    return eb.load_data(
        x, value_range=None, labels=None if classes is None else np.arange(n) % classes
    )


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
        np.testing.assert_allclose(
            a.level, b.level, rtol=1e-4, atol=1e-12
        )  # diffusers' own ᾱ is float32
        scale = float(b.x.abs().max())
        assert (a.x - b.x).abs().max() <= tolerance * scale, a.index
        assert (a.prediction is None) == (b.prediction is None)
        if a.prediction is not None and b.prediction is not None:
            # x̂_0 = (x − σ ε̂)/α: each is as uncertain as the states, over its own coefficient.
            for said, ours, part in zip(
                a.prediction[:2], b.prediction[:2], a.level[1:], strict=True
            ):
                assert (said - ours).abs().max() * part <= 10 * tolerance * scale, a.index


def assert_analysed(rec: eb.Recording) -> None:
    assert np.isfinite(eb.variance_gap(rec)["gap"]).all()
    spectrum = eb.spectrum(rec)
    assert np.isfinite(spectrum["power_chain"]).all()
    assert np.isfinite(spectrum["hf"])


class SameNoise(TorchFunctionMode):
    """Lets a loop draw what our chain of seed 0 draws: the start, if asked, then a tensor for each
    step that draws."""

    def __init__(self, shape: tuple[int, ...], start: bool) -> None:
        super().__init__()
        noise = Noise(0, "chain", IDS, shape)
        self.draws = iter(
            [
                *([Noise(0, "start", IDS, shape)(0)] if start else []),
                *(noise(i) for i in range(STEPS)),
            ]
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return (
            next(self.draws).to(kwargs.get("dtype"))
            if func is torch.randn
            else func(*args, **kwargs)
        )


def driven(model: eb.Denoiser, sampler: Any, levels: Any = None) -> Iterator[Step]:
    levels = levels or sampler.own_levels
    start = prior(levels[0], Noise(0, "start", IDS, model.shape)(0), sampler)
    return chain(model, start, levels, sampler, Noise(0, "chain", IDS, model.shape))


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_pipelines(kind: str, return_dict: bool, steps: list[Step]) -> None:
    scheduler = getattr(diffusers, f"{kind}Scheduler")(clip_sample=False)
    pipe = quiet(getattr(diffusers, f"{kind}Pipeline")(unet(), scheduler))
    options = {"eta": 0.5} if kind == "DDIM" else {}
    with SameNoise(IMAGES, start=True), eb.observe(pipe, data=images(IMAGES)) as seen:
        pipe(
            batch_size=BATCH,
            num_inference_steps=STEPS,
            output_type="np",
            return_dict=return_dict,
            **options,
        )
    model = eb.adapt(pipe)
    agree(
        steps,
        driven(
            model, parse("ddim:0.5" if options else "ddpm"), model.schedule.levels(STEPS, "leading")
        ),
    )
    rec = seen.recording()
    assert (rec.n, rec.paired, rec.run.steps) == (BATCH, False, STEPS)
    assert rec.provenance["run"]["sampler"] == f"{kind}Scheduler" + (":eta=0.5" if options else "")
    assert_analysed(rec)


SCHEDULES = {
    "vp": eb.schedules.linear(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(1000),
}
TYPES = {"vp": "epsilon", "edm": "sample", "flow": "flow_prediction"}


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, paths in SUPPORTED.items() for path in paths]
)
def test_every_scheduler(name: str, path: str, steps: list[Step]) -> None:
    """Steps and calls of each class, in a loop of our own around it; EDM's networks are
    preconditioned in the loop."""
    net = Net(1000)
    model = eb.Denoiser(
        EDMPrecond() if path == "edm" else net,
        schedule=SCHEDULES[path],
        prediction_type=TYPES[path],
        shape=SHAPE,  # type: ignore[arg-type]
    )
    sampler: Any = sampler_for(name, model, STEPS)
    scheduler = copy.deepcopy(sampler.scheduler)
    x = (Noise(0, "start", IDS, SHAPE)(0) * sampler.prior_scale(sampler.own_levels[0])).float()
    with SameNoise(SHAPE, start=False), eb.observe(scheduler, model=model) as seen:
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            scaled = (
                scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            )
            with torch.no_grad():
                output = (model.net.net if path == "edm" else net)(scaled, t.expand(BATCH))
            x = scheduler.step(output, t, x, return_dict=False)[0]
    assert seen.n == BATCH
    agree(steps, driven(model, sampler), 1e-4 if "SDE" in name else 2e-5)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_stable_diffusion(scheduler: str, guidance: float, steps: list[Step]) -> None:
    """The guided output is what is recorded, and what the model says at the same state."""
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    pipe = TextPipeline(text_unet(), getattr(diffusers, scheduler)(**betas))
    if scheduler == "DDIMScheduler":
        pipe.scheduler.register_to_config(clip_sample=False)
    given = PROMPT if guidance > 1 else {"prompt_embeds": PROMPT["prompt_embeds"]}
    model = eb.adapt(pipe, guidance_scale=guidance, **given)
    with (
        SameNoise(LATENTS, start=True),
        eb.observe(pipe, data=images(LATENTS), model=model) as seen,
    ):
        pipe(BATCH, STEPS, guidance)
    agree(steps, driven(model, sampler_for(pipe.scheduler, model, STEPS)), 2e-5)
    rec = seen.recording()
    assert eb.variance_gap(rec).attrs.get("gap") == ("guidance + bias" if guidance > 1 else None)
    assert_analysed(rec)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_hands_over_a_doubled_batch(guidance: float, steps: list[Step]) -> None:
    pipe = quiet(
        diffusers.DiTPipeline(dit().eval(), vae(), diffusers.DDIMScheduler(clip_sample=False))
    )
    model = eb.adapt(pipe, guidance_scale=guidance)
    labels = [2, 0, 4, 4]
    with (
        SameNoise(LATENTS, start=True),
        eb.observe(pipe, data=images(LATENTS, classes=5), model=model) as seen,
    ):
        pipe(labels, num_inference_steps=STEPS, guidance_scale=guidance, output_type="np")
    sampler = sampler_for(pipe.scheduler, model, STEPS)
    agree(steps, driven(model.given(torch.tensor(labels)), sampler))
    rec = seen.recording()
    assert rec.n == BATCH
    assert eb.variance_gap(rec).attrs.get("gap") == ("guidance + bias" if guidance > 1 else None)
    assert_analysed(rec)


@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_flow_matching_transformer(guidance: float, steps: list[Step]) -> None:
    pipe = TransformerPipeline(sd3(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    given = (
        PROMPT | POOLED
        if guidance > 1
        else {k: v for k, v in (PROMPT | POOLED).items() if "negative" not in k}
    )
    model = eb.adapt(pipe, guidance_scale=guidance, **given)
    with (
        SameNoise(LATENTS, start=True),
        eb.observe(pipe, data=images(LATENTS), model=model) as seen,
    ):
        pipe(BATCH, STEPS, guidance)
    agree(steps, driven(model, sampler_for(pipe.scheduler, model, STEPS)))
    rec = seen.recording()
    assert_analysed(rec)


def test_learned_variance(steps: list[Step]) -> None:
    scheduler = diffusers.DDPMScheduler(clip_sample=False, variance_type="learned_range")
    pipe = quiet(diffusers.DDPMPipeline(unet(1, 2), scheduler))
    with SameNoise(IMAGES, start=True), eb.observe(pipe, data=images(IMAGES)) as seen:
        pipe(batch_size=BATCH, num_inference_steps=STEPS, output_type="np")
    model = eb.adapt(pipe)
    agree(steps, driven(model, sampler_for(scheduler, model, STEPS)))
    assert np.isfinite(eb.spectrum(seen.recording())["prediction_ratio"][:-1]).all()


def test_clipping_is_said_and_predictions_are_as_they_were_before_it(steps: list[Step]) -> None:
    pipe = ddim_pipeline(clip_sample=True)
    with eb.observe(pipe) as seen:
        pipe(batch_size=BATCH, num_inference_steps=STEPS, output_type="np")
    assert seen.recording().run.clip.convention == "loop"
    said = steps[0].prediction
    assert said is not None
    assert said.x0.abs().max() > 1
    assert steps[-1].x.abs().max() <= 1


# The loops of other libraries, in `libraries`, watched at the network.
START = random(BATCH, *SHAPE, seed=5)
NOISE = random(100, BATCH, *SHAPE, seed=6)


def loops() -> dict[str, tuple[eb.Denoiser, Callable[[], Tensor], str, int, str]]:
    """A model, its library's loop, and our sampler, steps and grid for the same chain."""
    edm = EDMPrecond().requires_grad_(False)
    diffusion = GaussianDiffusion(Net(100)).requires_grad_(False)
    velocity = Net().requires_grad_(False)
    abar = torch.from_numpy(eb.schedules.linear(1000).alpha ** 2)
    wrapper = libraries.DiscreteEpsDDPMDenoiser(Net(1000), abar).requires_grad_(False)
    k_model = eb.adapt(wrapper, SHAPE)
    sigmas = torch.tensor([level.sigma for level in k_model.schedule.levels(STEPS, "karras")])
    fraction = Net().requires_grad_(False)
    fractional = eb.Denoiser(
        fraction,
        schedule=eb.schedules.linear(),
        prediction_type="epsilon",
        shape=SHAPE,
        call=lambda net, x, t: net(x, t=t / 1000),
    )
    return {
        "EDM": (
            eb.adapt(edm),
            lambda: libraries.edm_sampler(edm, START.double(), STEPS),
            "heun",
            STEPS,
            "karras",
        ),
        "DDPM": (
            eb.adapt(diffusion),
            lambda: diffusion.p_sample_loop(START, lambda i: NOISE[i]),
            "ddpm",
            100,
            "linspace",
        ),
        "flow": (
            eb.adapt(velocity, AffineProbPath(Scheduler()), SHAPE),
            lambda: libraries.ode_solver(velocity, START, STEPS),
            "euler",
            STEPS,
            "trailing",
        ),
        "k-diffusion": (
            k_model,
            lambda: libraries.k_sampler(wrapper, START * sigmas[0], sigmas, True),
            "heun",
            STEPS,
            "karras",
        ),
        "own call": (fractional, lambda: own_loop(fraction, fractional), "ddim", STEPS, "trailing"),
    }


def own_loop(net: Any, model: eb.Denoiser) -> Tensor:
    """A DDIM loop in place, on a network that wants t/1000 by keyword."""
    x, levels = START.clone(), model.schedule.levels(STEPS, "trailing")
    for s, t in pairwise(levels):
        epsilon = net(x=x, t=torch.tensor([s.timestep / 1000]))
        x.sub_(epsilon, alpha=s.sigma).mul_(t.alpha / s.alpha).add_(epsilon, alpha=t.sigma)
    return x


@pytest.mark.parametrize("name", ["EDM", "DDPM", "flow", "k-diffusion", "own call"])
def test_other_loops(name: str, steps: list[Step]) -> None:
    model, loop, sampler, count, grid = loops()[name]
    levels = model.schedule.levels(count, grid)
    clip: Any = name == "DDPM"
    with eb.observe(model, data=images(SHAPE)) as seen:
        end = loop()
    start = START.double() * (levels[0].sigma if model.schedule.parameterisation == "edm" else 1)
    ours = list(chain(model, start, levels, parse(sampler), lambda i: NOISE[i].double(), clip))  # type: ignore[arg-type]
    if not clip:
        agree(steps, iter(ours), 2e-5)
        assert (steps[-1].x - end).abs().max() < 1e-5 * end.abs().max()
    for a, b in zip(steps[:-1], ours, strict=False):
        assert (a.x - b.x).abs().max() < 2e-5 * b.x.abs().max()
    rec = seen.recording()
    assert rec.provenance["run"]["sampler"] == "observed loop"
    assert "observed loop has no Gaussian reference" in eb.variance_gap(rec).attrs["no_reference"]
    assert_analysed(rec)


def test_our_own_loop_and_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """`record` from noise, watched, leaves the same numbers as `record` itself: all of its
    streams."""
    model, data = loops()["own call"][0], images(SHAPE)
    options: dict[str, Any] = {"sampler": "ddim", "steps": STEPS, "n": 20, "start": "noise"}
    expected = eb.record(model, data, batch_size=10, **options)
    # A probe calls the network once outside the loop, which no hook can know.
    monkeypatch.setattr("exposure_bias.running.setup.probe", lambda _: None)
    with eb.observe(model, data=data) as seen:
        eb.record(model, data, batch_size=10, streams=("chain",), **options)
    rec = seen.recording()
    for stream in ("data", "forward", "chain"):
        seen_alone = {"noise_power"} if stream == "chain" else set()
        assert set(rec[stream].variables) - seen_alone == set(expected[stream].variables)
        for key in expected[stream].variables:
            if expected[stream][key].dtype.kind == "f":
                scale = float(np.nanmax(np.abs(expected[stream][key].values), initial=1e-9))
                # Kept samples are rounded, and one may fall to the other side.
                step = expected[stream][key].encoding.get("scale_factor", 0.0)
                np.testing.assert_allclose(
                    rec[stream][key],
                    expected[stream][key],
                    rtol=0,
                    atol=2e-5 * scale + step,
                    err_msg=key,
                )
            else:
                np.testing.assert_array_equal(rec[stream][key], expected[stream][key])


def test_finish_gives_the_end(steps: list[Step]) -> None:
    net = Net(1000).requires_grad_(False)
    model = eb.Denoiser(net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE)
    end = random(BATCH, *SHAPE, seed=9)
    with eb.observe(model) as seen:
        for t in (900, 500, 100):
            net(START, torch.tensor([t]))
        seen.finish(end)
        with fails("no batch is under way"):
            seen.finish(end)
    assert torch.equal(steps[-1].x, end.double())
    assert [s.level.timestep for s in steps] == [900, 500, 100, -1]


@pytest.mark.parametrize("kind", ["scheduler", "network"])
def test_batches_add_up(kind: str) -> None:
    """Three batches of different sizes, in one `with` or in two recordings, are one run."""
    data, sizes = images(SHAPE), (3, 5, 2)

    def observed(sizes: tuple[int, ...], first: int = 0, starts: int = 0) -> eb.Recording:
        net = Net(1000).requires_grad_(False)
        scheduler = diffusers.DDIMScheduler(clip_sample=False)
        model = eb.Denoiser(
            net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE
        )
        target = scheduler if kind == "scheduler" else model
        with eb.observe(target, data=data, model=model, first=first) as seen:
            for i, n in enumerate(sizes, start=starts):
                plain_loop(net, scheduler, random(n, *SHAPE, seed=i))
        assert seen.n == sum(sizes)
        return seen.recording()

    whole = observed(sizes)
    merged = eb.merge([observed(sizes[:1]), observed(sizes[1:], first=3, starts=1)])
    for stream in ("data", "forward", "chain"):
        for key, value in whole[stream].variables.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(
                    merged[stream][key], value, rtol=1e-5, atol=1e-5, err_msg=str(key)
                )
    assert whole["chain"].sizes["sample"] == 10
    assert whole["chain"]["count"].values.tolist() == [1.0] * 10 + [0.0] * 6


def plain_loop(net: Any, scheduler: Any, x: Tensor, steps: int = STEPS) -> Tensor:
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.expand(len(x))), t, x).prev_sample
    return x


def test_save_load_and_merge(tmp_path: Path) -> None:
    pipe = ddim_pipeline()
    parts = []
    for first, data in ((0, None), (4, None), (0, images(IMAGES))):
        with eb.observe(pipe, data=data, first=first) as seen:
            pipe(batch_size=4, num_inference_steps=3, output_type="np")
        path = tmp_path / "run.nc"
        seen.recording().save(path)
        parts.append(eb.load(path))
        assert parts[-1].run.spacing == "observed"
    assert eb.merge(parts[:2]).n == 8
    assert ["forward" in part for part in parts] == [False, False, True]
    for diagnostic in (eb.spectrum, eb.variance_gap, eb.epsilon_norm):
        with fails("observed without data"):
            diagnostic(parts[0])
    with fails("starts from noise"):
        eb.state_error(parts[2])


def state_of(pipe: Any) -> dict[str, Any]:
    """Everything that an observer could leave behind."""
    net = pipe.unet
    hooks = {k: list(v) for k, v in vars(net).items() if "hooks" in k}
    modes = [m.training for m in net.modules()]
    return {
        "scheduler": sorted(vars(pipe.scheduler)),
        "hooks": hooks,
        "modes": modes,
        "net": sorted(vars(net)),
    }


@pytest.mark.parametrize("training", [False, True])
def test_everything_is_left_as_it_was(training: bool) -> None:
    pipe = quiet(diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()))
    pipe.unet.train(training)
    call: dict[str, Any] = {"batch_size": 2, "num_inference_steps": 3, "output_type": "np"}
    pipe.scheduler.set_timesteps(3)
    before, weights = state_of(pipe), copy.deepcopy(pipe.unet.state_dict())
    torch.manual_seed(7)
    expected = pipe(**call).images
    torch.manual_seed(7)
    with eb.observe(pipe, data=images(IMAGES)) as seen:
        signature = inspect.signature(pipe.scheduler.step)
        watched = pipe(**call).images
    assert np.array_equal(watched, expected)
    assert signature == inspect.signature(pipe.scheduler.step)
    assert before == state_of(pipe)
    seen.recording()
    assert before == state_of(pipe)
    assert all(torch.equal(v, weights[k]) for k, v in pipe.unet.state_dict().items())
    torch.manual_seed(7)
    assert np.array_equal(pipe(**call).images, expected)


def test_a_loop_that_raises() -> None:
    """What was finished is kept, what was not is left out; the pipeline is restored, and can be
    observed again."""
    pipe = TextPipeline(text_unet(), diffusers.PNDMScheduler())
    before = state_of(pipe)
    observation = eb.observe(pipe)

    def evening() -> None:
        with observation:
            pipe(3, STEPS)
            with pytest.raises(RuntimeError, match="out of memory"):
                pipe(5, STEPS, stop=4)
            pipe(2, STEPS)
            pipe(4, STEPS, stop=2)

    with pytest.raises(RuntimeError, match="out of memory"):
        evening()
    assert state_of(pipe) == before
    assert observation.recording().n == 5
    with observation:
        pipe(1, STEPS)
    assert observation.recording().n == 6

    with pytest.raises(RuntimeError, match="out of memory"), eb.observe(pipe) as seen:
        pipe(4, STEPS, stop=2)
    with fails("run the loop|stopped|never"):
        seen.recording()


def test_two_observers() -> None:
    pipe = ddim_pipeline()
    pipe.unet.eval()
    before = state_of(pipe)
    with eb.observe(pipe, data=images(IMAGES)) as outer:
        with eb.observe(pipe) as inner, eb.observe(eb.adapt(pipe)) as network:
            pipe(batch_size=2, num_inference_steps=3, output_type="np")
        pipe(batch_size=3, num_inference_steps=3, output_type="np")
    assert (outer.n, inner.n, network.n) == (5, 2, 2)
    assert state_of(pipe) == before
    a, b = (o.recording()["chain"]["epsilon_norm"].values for o in (inner, network))
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    "context", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16), nullcontext]
)
def test_contexts_of_a_loop(context: Callable[[], Any]) -> None:
    """Inference mode, autocast and gradients: the statistics are float64 sums of what was seen in
    any of them."""
    net = unet(3)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    model = eb.adapt(net, scheduler)
    rates = []
    for target in (scheduler, model):
        with eb.observe(target, model=model, data=images((3, 8, 8))) as seen, context():
            for seed in (0, 1):
                plain_loop(
                    lambda x, t: net(x, t).sample, scheduler, random(4, 3, 8, 8, seed=seed), 4
                )
        rec = seen.recording()
        power = rec["chain"]["state_spectrum"].values.sum((1, 3))
        np.testing.assert_allclose(power, rec["chain"]["state_haar"].values.sum((1, 3)), rtol=1e-5)
        rates.append(power)
    np.testing.assert_allclose(rates[0][:-1], rates[1][:-1], rtol=1e-5)


def test_a_half_precision_pipeline() -> None:
    pipe = quiet(
        diffusers.DDIMPipeline(unet().bfloat16(), diffusers.DDIMScheduler(clip_sample=False))
    )
    with eb.observe(pipe, data=images(IMAGES)) as seen:
        pipe(batch_size=BATCH, num_inference_steps=4, output_type="pt")
    assert np.isfinite(eb.spectrum(seen.recording())["power_chain"]).all()


def test_more_than_a_hundred_steps_are_thinned_out() -> None:
    net = Net(1000).requires_grad_(False)
    model = eb.Denoiser(net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    for target in (scheduler, model):
        with eb.observe(target, model=model) as seen:
            for _ in range(2):
                plain_loop(net, scheduler, random(1, *SHAPE), 250)
        rec = seen.recording()
        assert (rec["chain"].sizes["step"], rec.run.steps) == (101, 250)
        assert rec["chain"]["step"].values[[0, -1]].tolist() == [0, 250]


def test_never_called() -> None:
    pipe = ddim_pipeline()
    for target, word in (
        (pipe, "step of this DDIMScheduler"),
        (eb.adapt(pipe), "network UNet2DModel"),
    ):
        with (
            pytest.warns(UserWarning, match=f"{word} was never called"),
            eb.observe(target) as seen,
        ):
            pass
        with fails("was never called"):
            seen.recording()


def test_a_loop_that_stops_early() -> None:
    pipe = ddim_pipeline()
    pipe.scheduler.set_timesteps(4)
    with pytest.warns(UserWarning, match="stopped after 1 of 4 calls"), eb.observe(pipe) as seen:
        pipe.scheduler.step(random(2, *IMAGES), pipe.scheduler.timesteps[0], random(2, *IMAGES))
    with fails("stopped after 1 of 4 calls"):
        seen.recording()


def loop(scheduler: Any, shape: tuple[int, ...], places: Any, steps: int = 4) -> None:
    scheduler.set_timesteps(steps)
    for place in places:
        scheduler.step(random(*shape), scheduler.timesteps[place], random(*shape))


def test_what_a_loop_may_not_do() -> None:
    """It is told, the loop ends as it would have, and `recording` says it again."""
    pipe, data = ddim_pipeline(), images(IMAGES)
    shape = (2, *IMAGES)
    cases = {
        "begin in the middle": (shape, [2, 3]),
        "leave out steps": (shape, [0, 2]),
        r"packed latents are not supported": ((2, 16, 4), [0, 1]),
        "but array holds": ((2, 1, 4, 4), [0, 1]),
    }
    for message, (states, places) in cases.items():
        with told(message), eb.observe(pipe, data=data) as seen:
            loop(pipe.scheduler, states, places)
        assert "step" not in vars(pipe.scheduler)
        with fails(message):
            seen.recording()


def test_a_batch_that_fails_is_left_out_and_those_around_it_are_kept() -> None:
    pipe = ddim_pipeline()
    shape = (2, *IMAGES)
    with told("on other levels than the batch before"), eb.observe(pipe) as seen:
        loop(pipe.scheduler, shape, range(4))
        loop(pipe.scheduler, shape, range(5), 5)
        loop(pipe.scheduler, shape, range(6), 6)
        loop(pipe.scheduler, shape, range(4))
    with pytest.warns(
        UserWarning, match="2 batches are not in this recording of 4 samples: .*5 st"
    ):
        rec = seen.recording()
    assert rec.n == 4
    assert rec.made["left_out"] == 2
    assert rec.made["left_out_because"].startswith("this batch takes 5 steps")
    with told("NaN or Inf at timestep"), eb.observe(pipe) as seen:
        loop(pipe.scheduler, shape, range(4))
        pipe.scheduler.set_timesteps(4)
        for t in pipe.scheduler.timesteps:
            pipe.scheduler.step(random(*shape) * np.nan, t, random(*shape))
    with pytest.warns(UserWarning, match="1 batch is not in this recording of 2 samples"):
        assert seen.recording().n == 2


def test_what_is_broken_of_ours_does_not_stop_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised, and where warnings are errors."""
    net, scheduler = Net(1000).requires_grad_(False), diffusers.DDIMScheduler(clip_sample=False)
    model = eb.Denoiser(net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE)
    x = random(BATCH, *SHAPE)
    expected = plain_loop(net, scheduler, x)

    def breaks(*_: Any) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(Collector, "update", breaks)
    for target in (scheduler, model):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with eb.observe(target, model=model) as seen:
                assert torch.equal(plain_loop(net, scheduler, x), expected)
        with fails(r"failed where it should not \(ZeroDivisionError: of ours\): please report"):
            seen.recording()


def test_guidance_that_the_model_does_not_have() -> None:
    pipe, data = TextPipeline(text_unet(), diffusers.DDIMScheduler()), images(LATENTS)
    with fails(r"needs prompt_embeds=.*observe\(…, model=eb.adapt\(…\)\)"):
        eb.observe(pipe, data=data)
    plain = eb.adapt(pipe, prompt_embeds=PROMPT["prompt_embeds"])
    guided = eb.adapt(pipe, guidance_scale=3.0, **PROMPT)
    with (
        told("the loop is guided .*but the model is not"),
        eb.observe(pipe, data=data, model=plain),
    ):
        pipe(2, 2, 3.0)
    with (
        told("the model is guided .*but the loop is not"),
        eb.observe(pipe, data=data, model=guided),
    ):
        pipe(2, 2, 1.0)
    with eb.observe(pipe, data=data, model=guided) as seen:
        pipe(2, 2, 9.0)
    with pytest.warns(UserWarning, match="differ by .* guidance scale"):
        seen.recording()
    with eb.observe(pipe) as seen:
        pipe(2, 2, 9.0)
    assert seen.recording().description["gap"] == "guidance + bias"


def test_networks_that_cannot_be_observed() -> None:
    net = Net(1000).requires_grad_(False)
    model = eb.Denoiser(net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE)
    x = random(2, *SHAPE)
    cases: dict[str, list[tuple[Tensor, Any]]] = {
        "saw the same states twice at timestep 900": [(x, [900]), (x, [900])],
        "different states twice at timestep 900": [(x, [900]), (x.flip(0), [900])],
        "several noise levels at once": [(x, [900, 800])],
        "but knows 0 to 999": [(x, [1200])],
        "where states of": [(x[:, :, :4], [900])],
        "a batch of 2 states went on with 1": [(x, [900]), (x[:1], [500]), (x[:1], [400])],
        "step 1 of this batch is at timestep 600": [
            (x, [900]),
            (x, [500]),
            (x, [900]),
            (x, [600]),
            (x, [500]),
        ],
    }
    for message, calls in cases.items():
        with told(message), eb.observe(model):
            for states, t in calls:
                net(states, torch.tensor(t))
        assert not net._forward_hooks
    with fails("plain function"):
        eb.observe(
            eb.Denoiser(
                lambda x, t: x,
                schedule=eb.schedules.linear(),
                prediction_type="epsilon",
                shape=SHAPE,
            )
        )
    with fails("before torch.compile"):
        compiled = torch.compile(Net(1000), backend="eager")
        eb.observe(
            eb.Denoiser(
                compiled, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE
            )
        )
    with fails("distilled"):
        eb.observe(unet(), diffusers.LCMScheduler())
    for name, why in {
        "CMStochasticIterativeScheduler": "distilled or consistency",
        "DPMSolverMultistepInverseScheduler": "from the data to the noise",
        "DDIMInverseScheduler": "from the data to the noise",
    }.items():
        with fails(f"{name} is not supported: it .*{why}"):
            eb.observe(getattr(diffusers, name)(), model=model)
    with eb.observe(model) as again:
        for message, call in {
            "under way already": again.__enter__,
            "still being observed": again.recording,
        }.items():
            with fails(message):
                call()
        net(x, torch.tensor([100]))
    with fails("at least 0"):
        eb.observe(model, first=-1)


def test_a_model_from_files_is_watched() -> None:
    """Its call renames whatever goes wrong in its network."""
    model, data = eb.load_model("digits"), eb.load_data("digits")
    with eb.observe(model, data=data) as chain:
        for label in (999, 500, 0):
            model.net(torch.zeros(2, 1, 8, 8), torch.full((2,), label))
    assert [level.timestep for level in chain.recording().run.levels[:3]] == [999, 500, 0]
