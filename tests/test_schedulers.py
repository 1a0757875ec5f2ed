"""diffusers' schedulers driven from our loop, against plain diffusers loops and against our own
samplers."""

import copy
import inspect
import sys
import warnings
from itertools import product

import diffusers
import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.adapters.schedulers import REFUSED, SUPPORTED, sampler_for
from exposure_bias.paths import Noise
from exposure_bias.references import gaussian_of
from exposure_bias.samplers import DDPM
from exposure_bias.schedules import Level
from exposure_bias.streams import chain, forward, noised, prior, rollout

SHAPE = (1, 4, 4)
STEPS = 10
SCHEDULES = {
    "vp": eb.schedules.linear(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(1000),
}
TYPES = {"vp": "epsilon", "edm": "sample", "flow": "flow_prediction"}
# NumPy 2 deprecates what diffusers does to build its tables.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Net(torch.nn.Module):
    """Not linear, and different at every level."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) / 4
        )

    def forward(self, x, t):
        t = t.float().view(-1, 1, 1, 1) / 1000
        return torch.tanh((x.flatten(1) @ self.weight).view_as(x) + t) + 0.3 * x


class Preconditioned(torch.nn.Module):
    """EDM's D(x; σ) = c_skip x + c_out F(c_in x, c_noise) with σ_data = 0.5."""

    def __init__(self):
        super().__init__()
        self.inner = Net()

    def forward(self, x, sigma):
        s = sigma.view(-1, 1, 1, 1)
        total = s**2 + 0.25
        inner = self.inner(x / total.sqrt(), 0.25 * s.log())
        return 0.25 / total * x + s * 0.5 / total.sqrt() * inner


def model_of(path="vp", prediction_type=None):
    net = Preconditioned() if path == "edm" else Net()
    return eb.Denoiser(
        net, schedule=SCHEDULES[path], prediction_type=prediction_type or TYPES[path], shape=SHAPE
    )


@pytest.fixture(scope="module")
def x0():
    return torch.randn(
        5, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).clamp(-1, 1)


def plain(scheduler, net, x, z, steps=STEPS, **extra):
    """The loop of a diffusers pipeline; the k-th noise that the scheduler draws is z(k)."""
    draws = iter(range(steps))
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        module = sys.modules[type(scheduler).__module__]
        draw = lambda *a, dtype=None, **k: z(next(draws)).to(dtype)  # noqa: E731
        patch.setattr(module, "randn_tensor", draw, raising=False)
        for t in scheduler.timesteps:
            scaled = (
                scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            )
            output = net(scaled.float(), t.expand(len(x))).to(x.dtype)
            x = scheduler.step(output, t, x, return_dict=False, **extra)[0]
    return x


def driven(sampler, model, x, clip=False, ids=range(5)):
    return rollout(model, x, sampler.own_levels, sampler, Noise(0, "chain", ids, SHAPE), clip)


def close(a, b, tolerance=1e-5):
    return float((a - b).abs().max() / b.abs().max()) < tolerance


def classes():
    """Every scheduler class that diffusers exports, by name; those without their dependency as
    well."""
    names = [n for n in dir(diffusers) if n.endswith("Scheduler")]
    names += [
        n
        for group in diffusers.schedulers._import_structure.values()
        for n in group
        if n.endswith("Scheduler")
    ]
    return sorted(set(names))


def test_the_class_list_is_complete():
    known = set(SUPPORTED) | set(REFUSED)
    assert not SUPPORTED.keys() & REFUSED.keys()
    assert set(classes()) - known == set()
    assert len(SUPPORTED) >= 22


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_with_the_reason(name):
    with pytest.raises(eb.InputError, match=f"{name} is not supported: (it|its) "):
        sampler_for(name, model_of(), STEPS)


COMMON = {"DPMSolverSinglestepScheduler": {"lower_order_final": True}}
VARIANTS = [
    ("DDPMScheduler", "vp", {"variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    ("DDPMScheduler", "vp", {"timestep_spacing": "linspace"}),
    ("DDIMScheduler", "vp", {"eta": 0.7}),
    ("DDIMScheduler", "vp", {"set_alpha_to_one": False, "steps_offset": 1}),
    ("PNDMScheduler", "vp", {"skip_prk_steps": True, "steps_offset": 1}),
    ("EulerDiscreteScheduler", "vp", {"use_karras_sigmas": True}),
    (
        "EulerDiscreteScheduler",
        "vp",
        {"timestep_spacing": "leading", "final_sigmas_type": "sigma_min"},
    ),
    ("HeunDiscreteScheduler", "vp", {"use_karras_sigmas": True}),
    ("KDPM2DiscreteScheduler", "vp", {"timestep_spacing": "trailing"}),
    ("KDPM2AncestralDiscreteScheduler", "vp", {"timestep_spacing": "leading"}),
    ("LMSDiscreteScheduler", "vp", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", "vp", {"use_karras_sigmas": True, "solver_order": 3}),
    ("DPMSolverMultistepScheduler", "vp", {"algorithm_type": "sde-dpmsolver++"}),
    (
        "DPMSolverMultistepScheduler",
        "vp",
        {"solver_type": "heun", "final_sigmas_type": "sigma_min"},
    ),
    (
        "DPMSolverSinglestepScheduler",
        "vp",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    ),
    ("UniPCMultistepScheduler", "vp", {"solver_order": 3, "timestep_spacing": "trailing"}),
    ("EDMDPMSolverMultistepScheduler", "edm", {"algorithm_type": "sde-dpmsolver++"}),
    ("EDMEulerScheduler", "edm", {"sigma_schedule": "exponential"}),
    ("FlowMatchEulerDiscreteScheduler", "flow", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", "flow", {"stochastic_sampling": True}),
    ("DPMSolverMultistepScheduler", "flow", {"flow_shift": 3.0}),
]
EVERY = [(name, path, {}) for name, paths in SUPPORTED.items() for path in paths]


def text(name, options):
    return f"{name}:" + ",".join(
        f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items()
    )


def plain_scheduler(name, path, options, prediction_type):
    """The class set up as its users do, on the schedule of SCHEDULES[path]."""
    cls = getattr(diffusers, name)
    given = {
        "prediction_type": prediction_type,
        "clip_sample": False,
        "beta_start": 1e-4,
        "beta_end": 0.02,
    }
    given |= {"beta_schedule": "linear", "snr_shift_scale": 1.0} | COMMON.get(name, {})
    given |= {"use_flow_sigmas": True} if path == "flow" else {}
    if path == "edm":
        given["prediction_type"] = "epsilon"
    allowed = inspect.signature(cls.__init__).parameters
    return cls(**{k: v for k, v in (given | options).items() if k in allowed})


@pytest.mark.parametrize(("name", "path", "options"), EVERY + VARIANTS)
def test_driven_chain_equals_the_plain_loop(name, path, options, x0):
    model = model_of(path)
    sampler = sampler_for(text(name, options), model, STEPS)
    step_options = {k: v for k, v in options.items() if k == "eta"}
    config = {k: v for k, v in options.items() if k != "eta"}
    noise = Noise(0, "chain", range(5), SHAPE)
    start = noised(x0, sampler.own_levels[0], Noise(0, "start", range(5), SHAPE)(0))
    net = model.net.inner if path == "edm" else model.net
    scheduler = plain_scheduler(name, path, config, model.prediction_type)
    expected = plain(scheduler, net, start, noise, **step_options)
    assert close(driven(sampler, model, start), expected)
    assert len(sampler.own_levels) == STEPS + 1
    # The same by the object, which stays as it was.
    if not step_options:
        scheduler = plain_scheduler(name, path, config, model.prediction_type)
        before = copy.deepcopy(vars(scheduler))
        assert close(driven(sampler_for(scheduler, model, STEPS), model, start), expected)
        assert vars(scheduler).keys() == before.keys()
        assert scheduler.config == before["_internal_dict"]
        assert str(sampler_for(scheduler, model, STEPS)).partition(":")[0] == name
    again = sampler_for(str(sampler), model, STEPS)
    assert again.own_levels == sampler.own_levels
    assert str(again) == str(sampler)


NO_SAMPLE = {
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
}


@pytest.mark.parametrize(
    ("name", "prediction_type"),
    list(
        product([n for n, paths in SUPPORTED.items() if "vp" in paths], ["sample", "v_prediction"])
    ),
)
def test_prediction_types(name, prediction_type, x0):
    model = model_of("vp", prediction_type)
    scheduler = plain_scheduler(name, "vp", {}, prediction_type)
    start = x0 + torch.randn(
        x0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    try:
        expected = plain(scheduler, model.net, start, Noise(0, "chain", range(5), SHAPE))
    except (NotImplementedError, ValueError):
        expected = None
    if (name, prediction_type) == ("PNDMScheduler", "v_prediction"):
        # It averages v of several levels as if they were of one.
        with pytest.raises(eb.InputError, match="other noise levels"):
            sampler_for(name, model, STEPS)
    elif expected is None:
        with pytest.raises(eb.InputError, match=f"{name} cannot .* predicts {prediction_type}: "):
            sampler_for(name, model, STEPS)
    else:
        assert close(driven(sampler_for(name, model, STEPS), model, start), expected)


def drawn_teacher(sampler, path, shape=(1, 16, 16), n=64):
    """(a, v) of a x_0 + N(0, v) at every level, regressed from n·256 draws of the teacher chain."""
    schedule, ids = SCHEDULES[path], range(n)
    x0 = (
        2 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        - 1
    )
    knows = eb.oracles.Teacher(x0, schedule)
    start = noised(x0, sampler.own_levels[0], Noise(5, "start", ids, shape)(0))
    for step in chain(
        knows, start, sampler.own_levels, sampler, Noise(5, "chain", ids, shape), x0=x0
    ):
        a = float((step.truth * x0).sum() / x0.square().sum())
        yield a, float((step.truth - a * x0).square().mean())


EXACT = [(n, p, o) for n, p, o in EVERY + VARIANTS if o.get("variance_type") != "fixed_large"]
INEXACT = [
    ("DDPMScheduler", "vp", {"variance_type": "fixed_large"}),
]


@pytest.mark.parametrize(
    ("name", "path", "options", "exact"),
    [(*c, True) for c in EXACT] + [(*c, False) for c in INEXACT],
)
def test_the_teacher_chain_is_as_rehearsed(name, path, options, exact):
    sampler = sampler_for(text(name, options), model_of(path), 10)
    assert sampler.exact_teacher is exact, sampler.teacher_error
    draws = 64 * 256
    for level, (a, v), (mean, variance) in zip(
        sampler.own_levels, sampler.teacher, drawn_teacher(sampler, path), strict=True
    ):
        assert abs(variance - v) < 5 * np.sqrt(2 / draws) * v + 1e-8
        assert abs(mean - a) < 5 * np.sqrt(3 * v / draws) + 1e-4
        if exact:
            assert abs(variance - level.sigma**2) < 0.06 * level.sigma**2 + 1e-8


def test_the_teacher_law_has_teeth():
    """PNDM's Runge-Kutta half-steps are rounded to whole timesteps, which an odd stride shows."""
    assert sampler_for("PNDMScheduler", model_of(), 10).teacher_error < 1e-3
    assert 0.05 < sampler_for("PNDMScheduler", model_of(), 8).teacher_error < 0.2
    # β in place of β̃: v_t = (σ_t²/σ_s²)² (α_s/α_t)² v_s + β, with x_0's coefficient as it should
    # be.
    sampler = sampler_for("DDPMScheduler:variance_type=fixed_large", model_of(), 10)
    (_, a_s, s_s), (_, a_t, s_t) = sampler.own_levels[:2]
    r = (a_s / a_t * s_t / s_s) ** 2
    assert sampler.teacher[1][1] == pytest.approx(s_t**2 * r + s_s**2 * (1 - r), rel=1e-5)
    assert sampler.teacher[1][0] == pytest.approx(a_t, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        *(("DDPMScheduler", spacing) for spacing in ("leading", "linspace", "trailing")),
        *(("DDIMScheduler", spacing) for spacing in ("leading", "trailing")),
    ],
)
def test_equals_our_own_sampler(name, spacing, x0):
    model, own = model_of(), "ddpm" if name == "DDPMScheduler" else "ddim"
    theirs = sampler_for(f"{name}:timestep_spacing={spacing}", model, 10)
    levels = SCHEDULES["vp"].levels(10, spacing)
    np.testing.assert_allclose(np.array(theirs.own_levels), np.array(levels), rtol=1e-4)
    start = noised(x0, levels[0], Noise(0, "start", range(5), SHAPE)(0))
    noise = Noise(0, "chain", range(5), SHAPE)
    ours = rollout(model, start, levels, eb.samplers.parse(own), noise)
    assert close(driven(theirs, model, start), ours, 3e-4)


def test_states_in_other_coordinates(x0):
    """Euler on x/α is DDIM: each state over √(1 + σ²) is DDIM's at the same levels, and so is what
    the network says."""
    model = model_of()
    theirs = sampler_for("EulerDiscreteScheduler:use_karras_sigmas=true", model, STEPS)
    scale = [np.hypot(level.alpha, level.sigma) for level in theirs.own_levels]
    levels = tuple(
        Level(t, a / c, s / c) for (t, a, s), c in zip(theirs.own_levels, scale, strict=True)
    )
    assert any(level.timestep % 1 for level in levels)
    start = noised(x0, levels[0], Noise(0, "start", range(5), SHAPE)(0))
    noise = Noise(0, "chain", range(5), SHAPE)
    ours = chain(model, start, levels, eb.samplers.parse("ddim"), noise, x0=x0)
    for a, b, c in zip(
        chain(model, start * scale[0], theirs.own_levels, theirs, noise, x0=x0),
        ours,
        scale,
        strict=True,
    ):
        assert close(a.x / c, b.x)
        assert close(a.truth / c, b.truth)
        assert a.prediction is None or close(a.prediction.x0, b.prediction.x0)
    mine = forward(model, x0, levels, Noise(0, "forward", range(5), SHAPE))
    for a, b in zip(
        forward(model, x0, theirs.own_levels, Noise(0, "forward", range(5), SHAPE)),
        mine,
        strict=True,
    ):
        assert a.prediction is None or close(a.prediction.epsilon, b.prediction.epsilon)


@pytest.mark.parametrize(
    ("name", "extra", "convention"),
    [("DDPMScheduler", {}, "rederive"), ("DDIMScheduler", {"eta": 0.0}, "keep_epsilon")],
)
@pytest.mark.parametrize("bound", [1.0, 0.7])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_an_object_clips_as_it_does_in_diffusers(
    name, extra, convention, bound, prediction_type, x0
):
    """clip_sample and clip_sample_range; DDIM keeps ε̂ after the clip, DDPM derives it again."""
    model, noise = model_of(prediction_type=prediction_type), Noise(0, "chain", range(5), SHAPE)
    options = {
        "prediction_type": prediction_type,
        "clip_sample_range": bound,
    }
    scheduler = getattr(diffusers, name)(clip_sample=True, **options)
    sampler = sampler_for(scheduler, model, STEPS)
    assert scheduler.config.clip_sample
    assert (sampler.clip.convention, sampler.clip.bound) == (convention, bound)
    start = noised(x0, sampler.own_levels[0], Noise(0, "start", range(5), SHAPE)(0))
    clipped = plain(copy.deepcopy(scheduler), model.net, start, noise, **extra)
    free = plain(getattr(diffusers, name)(clip_sample=False, **options), model.net, start, noise)
    assert not close(clipped, free, 1e-2)
    assert close(driven(sampler, model, start, sampler.clip), clipped)
    own = sampler_for(getattr(diffusers, name)(clip_sample=False, **options), model, STEPS)
    assert own.clip is None
    assert close(driven(own, model, start), free)
    recording = eb.record(model, x0.numpy(), sampler=scheduler, steps=STEPS)
    assert (recording.run.clip.convention, recording.run.clip.bound) == (convention, bound)


def test_what_clips_twice_is_refused(x0):
    model, data = model_of(), x0.numpy()
    for clip in ("keep_epsilon", True):
        scheduler = diffusers.DDPMScheduler(clip_sample=True, clip_sample_range=0.5)
        with pytest.raises(eb.InputError, match="leave clip out, or turn its clip_sample off"):
            eb.record(model, data, sampler=scheduler, steps=STEPS, clip=clip)
    with pytest.raises(eb.InputError, match="keep_epsilon"):
        eb.record(model, data, sampler="DDIMScheduler", steps=STEPS, clip="keep_epsilon")


def test_learned_variance(x0):
    class Two(Net):
        def forward(self, x, t):
            return torch.cat([super().forward(x, t), torch.tanh(x)], 1)

    model = eb.Denoiser(
        Two(),
        schedule=SCHEDULES["vp"],
        prediction_type="epsilon",
        shape=SHAPE,
        learned_variance=True,
    )
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    start, noise = x0 + 1.0, Noise(0, "chain", range(5), SHAPE)
    expected = plain(scheduler, model.net, start, noise)
    sampler = sampler_for(scheduler, model, STEPS)
    assert close(driven(sampler, model, start), expected)
    assert not sampler.exact_teacher
    with pytest.raises(eb.InputError, match="variance_type=learned_range does not fit"):
        sampler_for(scheduler, model_of(), STEPS)


@pytest.mark.parametrize(
    "name", ["SASolverScheduler", "KDPM2AncestralDiscreteScheduler", "DDPMScheduler"]
)
def test_noise_belongs_to_the_sample_and_chains_to_themselves(name, x0):
    model = model_of()
    sampler = sampler_for(name, model, STEPS)
    start = noised(x0, sampler.own_levels[0], Noise(0, "start", range(5), SHAPE)(0))
    whole = driven(sampler, model, start)
    state = torch.get_rng_state()
    parts = [driven(sampler, model, start[rows], ids=rows) for rows in ([3, 4], [0], [1, 2])]
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(torch.cat(parts)[[2, 3, 4, 0, 1]], whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(driven(sampler, model, start), whole)


@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "HeunDiscreteScheduler",
        "DDPMScheduler",
        "FlowMatchEulerDiscreteScheduler",
    ],
)
def test_starting_in_mid_chain(name, x0):
    model = model_of(SUPPORTED[name][0])
    sampler = sampler_for(name, model, STEPS)
    steps = list(
        chain(
            model,
            x0 + 1,
            sampler.own_levels[5:],
            sampler,
            Noise(0, "chain", range(5), SHAPE),
            x0=x0,
        )
    )
    assert [step.level for step in steps] == list(sampler.own_levels[5:])
    assert close(steps[-1].truth, x0, 1e-4)
    with pytest.raises(eb.InputError, match="levels of its own"):
        rollout(
            model, x0, model.schedule.levels(STEPS), sampler, Noise(0, "chain", range(5), SHAPE)
        )


def test_start_from_pure_noise(x0):
    z = torch.ones(1, *SHAPE)
    model = model_of()
    for spacing, expected in (("linspace", 157.407272), ("leading", np.hypot(1, 0))):
        scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(STEPS)
        sampler = sampler_for(scheduler, model, STEPS)
        expected = float(scheduler.init_noise_sigma)
        assert prior(sampler.own_levels[0], z, sampler).max() == pytest.approx(expected)
    assert prior(SCHEDULES["vp"].levels(5)[0], z, DDPM()).max() == 1


@pytest.mark.parametrize("start", ["data", "noise"])
def test_record(start):
    data = eb.load_data("digits")
    mean = data.batch(np.arange(len(data))).mean(0)
    oracle = eb.oracles.GaussianOracle(mean, 0.1, eb.schedules.linear())
    common = {"steps": 6, "n": 256, "start": start, "batch_size": 100}
    recording = eb.record(oracle, data, sampler="EulerDiscreteScheduler", **common)
    run = recording.provenance["run"]
    assert run["sampler"] == "EulerDiscreteScheduler"
    assert run["exact_teacher"] is True
    assert gaussian_of(recording) is None
    levels = recording["chain"]
    assert (levels["alpha"] == 1).all()
    assert levels["sigma"][0] > 100
    assert levels["sigma"][-1] == 0
    # Euler on x/α is DDIM, so the clean ends have the same law as our own sampler's on the same
    # grid.
    own = eb.record(oracle, data, sampler="ddim", **common)
    for name in ("state_sum", "state_square"):
        ours, theirs = (r["chain"][name].isel(step=-1, drop=True) for r in (own, recording))
        np.testing.assert_allclose(theirs, ours, rtol=2e-2, atol=1.0)
    eb.spectrum(recording)
    if start == "data":
        eb.state_error(recording)


def test_record_starts_at_a_timestep_of_the_scheduler():
    data = eb.load_data("digits")
    oracle = eb.oracles.GaussianOracle(np.zeros((1, 8, 8)), 0.3, eb.schedules.linear())
    scheduler = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    whole = eb.record(oracle, data, sampler=scheduler, steps=5, n=16)
    middle = float(whole["chain"]["timestep"][2])
    part = eb.record(oracle, data, sampler=scheduler, steps=5, n=16, start=middle)
    assert part["chain"].sizes["step"] == 4
    assert "use_karras_sigmas=true" in part.provenance["run"]["sampler"]
    with pytest.raises(eb.InputError, match="cannot start in mid-chain"):
        eb.record(oracle, data, sampler="PNDMScheduler", steps=10, n=16, start=400)


@pytest.mark.parametrize(
    ("sampler", "path", "message"),
    [
        ("DPMSolver", "vp", "unknown sampler 'DPMSolver'"),
        (
            "MyScheduler",
            "vp",
            "unknown diffusers scheduler 'MyScheduler': supported are DDPMScheduler",
        ),
        ("DDIMScheduler:eta=2", "vp", "0 ≤ eta ≤ 1, got 2"),
        ("DDIMScheduler:ETA=0.5", "vp", "no option 'ETA': allowed are eta, "),
        ("DDIMScheduler:eta", "vp", "cannot read the option 'eta'"),
        ("PNDMScheduler:eta=1", "vp", "no option 'eta'"),
        ("DDPMScheduler:clip_sample=true", "vp", "clip_sample is no option .*: use --clip"),
        ("DDPMScheduler:beta_end=0.5", "vp", "beta_end is decided by the model"),
        (
            "EDMEulerScheduler",
            "vp",
            "does not sample from linear .vp. models: give one of DDPMScheduler",
        ),
        ("EulerDiscreteScheduler", "flow", "from flow .flow. models: give one of DPMSolver"),
        ("DDPMScheduler", "edm", "edm .edm. models: give one of EDMEulerScheduler"),
        (
            lambda: diffusers.DDPMScheduler(num_train_timesteps=500),
            "vp",
            "500 training timesteps.*trained with 1000",
        ),
        (
            lambda: diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            "vp",
            "betas are not the model's",
        ),
        (
            lambda: diffusers.DDIMScheduler(rescale_betas_zero_snr=True),
            "vp",
            "betas are not the model's",
        ),
        (
            lambda: diffusers.DDIMScheduler(prediction_type="sample"),
            "vp",
            "expects sample, but the model pred",
        ),
        (lambda: diffusers.DDPMScheduler(thresholding=True), "vp", "thresholding is not supported"),
        (lambda: diffusers.LCMScheduler(), "vp", "distilled or consistency"),
        (
            lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            "flow",
            "use_dynamic_shif",
        ),
        (
            lambda: diffusers.UniPCMultistepScheduler(),
            "flow",
            "expects epsilon, but the model predicts flow",
        ),
        (
            lambda: diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True),
            "vp",
            "use_flow_sigmas is for flow",
        ),
        (
            lambda: diffusers.EulerDiscreteScheduler(
                timestep_type="continuous", prediction_type="v_prediction"
            ),
            "vp",
            "expects v_prediction",
        ),
        (3, "vp", "named by a string, got int"),
    ],
)
def test_bad_input(sampler, path, message):
    with pytest.raises(eb.InputError, match=message):
        sampler_for(sampler() if callable(sampler) else sampler, model_of(path), STEPS)


def test_bad_settings():
    with pytest.raises(eb.InputError, match="makes its own grid: set timestep_spacing=trailing"):
        sampler_for("DDPMScheduler", model_of(), STEPS, "trailing")
    with pytest.raises(eb.InputError, match="at least 1, got 0"):
        sampler_for("DDPMScheduler", model_of(), 0)
    with pytest.raises(eb.InputError, match="DDPMScheduler cannot take 1001 steps"):
        sampler_for("DDPMScheduler", model_of(), 1001)


def test_rescaled_betas_are_honoured(x0):
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    abar = scheduler.alphas_cumprod.double().numpy().clip(1e-12)
    model = eb.Denoiser(
        Net(),
        schedule=eb.schedules.from_alphas_cumprod(abar),
        prediction_type="v_prediction",
        shape=SHAPE,
    )
    sampler = sampler_for(scheduler, model, 10)
    assert sampler.own_levels[0] == (999.0, 0.0, 1.0)
    noise = Noise(0, "chain", range(5), SHAPE)
    assert close(driven(sampler, model, x0), plain(scheduler, model.net, x0, noise))


def test_an_exact_denoiser_answers_in_any_type():
    """What diffusers refuses of a network that predicts x_0 it can take from an oracle, as
    its ε."""
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.3, SCHEDULES["vp"])
    for name in sorted(SUPPORTED):
        if "vp" in SUPPORTED[name]:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert sampler_for(name, oracle, 10).own_levels
