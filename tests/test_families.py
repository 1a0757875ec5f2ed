"""Every model family against its own sampler, in `libraries`: the same start and noise give the
same x̂_0."""

import json
from collections.abc import Callable
from typing import Any

import libraries
import numpy as np
import pytest
import torch
from libraries import SHAPE, AffineProbPath, EDMPrecond, GaussianDiffusion, Net, Scheduler
from torch import Tensor

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.samplers import parse
from exposure_bias.schedules import PREDICTION_TYPES
from exposure_bias.streams import rollout

BATCH = 4
ABAR = torch.from_numpy(eb.schedules.linear(1000).alpha ** 2)
CURVED = "on Scheduler's path ODESolver's Euler steps are straight in x"
KNOWN = torch.logspace(-3, 2.5, 60, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


START = normal(BATCH, *SHAPE)
NOISE = normal(100, BATCH, *SHAPE, seed=1)


def ours(model: eb.Denoiser, sampler: str, steps: int, grid: str, clip: bool = False) -> Tensor:
    """x̂_0 of our chain from START, with the noise of NOISE."""
    levels = model.schedule.levels(steps, grid)
    start = START.double() * (levels[0].sigma if model.schedule.parameterisation == "edm" else 1)
    return rollout(model, start, levels, parse(sampler), lambda i: NOISE[i].double(), clip)  # type: ignore[arg-type]


def close(ours: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    assert theirs.std() > 0.05
    assert (ours - theirs).abs().max() <= bound * theirs.abs().max()


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("known", [None, KNOWN], ids=["any σ", "rounded σ"])
@pytest.mark.parametrize("classes", [0, 5])
def test_edm(sampler: str, known: Tensor | None, classes: int) -> None:
    net = EDMPrecond(classes, known).requires_grad_(False)
    labels = torch.tensor([0, 4, 2, 2])
    one_hot = torch.eye(5)[labels] if classes else None
    theirs = libraries.edm_sampler(net, START.double(), 18, one_hot, heun=sampler == "heun")
    close(ours(eb.adapt(net).given(labels), sampler, 18, "karras"), theirs, 1e-6)


def test_edm_without_a_range_and_with_a_narrow_one() -> None:
    net = EDMPrecond()
    net.sigma_min, net.sigma_max = 0.02, 50.0
    schedule = eb.adapt(net).schedule
    assert (schedule.sigma[0], schedule.sigma[-1]) == pytest.approx((0.02, 50))
    del net.sigma_min, net.sigma_max
    schedule = eb.adapt(net).schedule
    assert (schedule.sigma[0], schedule.sigma[-1]) == pytest.approx((0.002, 80))


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_ddpm_pytorch(objective: str) -> None:
    diffusion = GaussianDiffusion(Net(100), objective)
    model = eb.adapt(diffusion)
    theirs = diffusion.p_sample_loop(START, lambda i: NOISE[i])
    close(ours(model, "ddpm", 100, "linspace", clip=True), theirs)
    for eta in (0, 0.5, 1):
        theirs = diffusion.ddim_sample(START, lambda i: NOISE[i], 20, eta)
        close(ours(model, f"ddim:{eta}", 20, "trailing", clip=True), theirs)


def test_ddpm_pytorch_with_learned_variance() -> None:
    diffusion = libraries.LearnedGaussianDiffusion(Net(100, out_channels=6))
    theirs = diffusion.p_sample_loop(START, lambda i: NOISE[i], learned=True)
    close(ours(eb.adapt(diffusion), "ddpm:learned_range", 100, "linspace", clip=True), theirs)


def test_ddpm_pytorch_with_classes() -> None:
    diffusion = GaussianDiffusion(Net(100, classes=3))
    labels = torch.tensor([2, 0, 1, 1])
    theirs = diffusion.p_sample_loop(START, lambda i: NOISE[i], labels, cond_drop_prob=0.0)
    close(ours(eb.adapt(diffusion).given(labels), "ddpm", 100, "linspace", clip=True), theirs)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [("offset_noise_strength", 0.1, "offset noise"), ("immiscible", True, "immiscible noise")],
)
def test_ddpm_pytorch_trained_on_other_noise_is_said(
    attribute: str, value: Any, words: str
) -> None:
    diffusion = GaussianDiffusion(Net())
    setattr(diffusion, attribute, type(value)(0))
    assert eb.adapt(diffusion).note == ""
    setattr(diffusion, attribute, value)
    with pytest.warns(
        UserWarning, match=f"trained on {words}.*forward stream is not what its training saw"
    ) as caught:
        model = eb.adapt(diffusion)
    assert caught[0].filename == __file__
    assert model.note.startswith(f"trained on {words}")
    assert eb.remedies.epsilon_scaled(model, 1.01).note == model.note


def test_both_kinds_of_noise_and_a_weight_of_the_loss() -> None:
    diffusion = GaussianDiffusion(Net())
    diffusion.min_snr_loss_weight = True  # another weight of the loss, whose optimum is the same
    assert eb.adapt(diffusion).note == ""
    diffusion.offset_noise_strength, diffusion.immiscible = 0.1, True
    with pytest.warns(UserWarning, match="trained on immiscible noise .* and offset noise"):
        eb.adapt(diffusion)


def test_ddpm_pytorch_on_another_range_is_said() -> None:
    with pytest.warns(UserWarning, match="auto_normalize=False"):
        eb.adapt(GaussianDiffusion(Net(), normalised=False))


@pytest.mark.parametrize("name", ["VP", "Cosine", "LinearVP"])
def test_flow_matching_off_condot_promises_no_chain(name: str) -> None:
    """There our Euler is another chain than ODESolver's, and `adapt` says so; watched, theirs is
    what is recorded."""
    net, scheduler = Net().requires_grad_(False), Scheduler(name)
    with pytest.warns(UserWarning, match=CURVED) as caught:
        model = eb.adapt(net, scheduler, SHAPE)
    assert caught[0].filename == __file__
    assert model.note == f"{CURVED}, and those here in x/alpha"
    theirs = libraries.ode_solver(net, START, 20)
    apart = (ours(model, "euler", 20, "trailing") - theirs).norm() / theirs.norm()
    assert apart > 0.03  # not round-off, which is 1e-7

    with eb.observe(model) as chain:
        chain.finish(libraries.ode_solver(net, START, 20))
    seen = chain.recording()["chain"]["state_sum"].values[-1]
    np.testing.assert_allclose(seen, theirs.double().sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [10, 25])
def test_flow_matching(steps: int) -> None:
    net = Net().requires_grad_(False)
    model = eb.adapt(net, AffineProbPath(Scheduler()), SHAPE)
    close(ours(model, "euler", steps, "trailing"), libraries.ode_solver(net, START, steps))


@pytest.mark.filterwarnings(f"ignore:{CURVED}")
@pytest.mark.parametrize("name", ["CondOT", "VP", "Cosine", "LinearVP"])
def test_a_known_velocity_gives_back_data_and_noise(name: str) -> None:
    """With u = a′ x_1 + b′ x_0 for known x_1, x_0 the predictions are these two, whatever
    the path."""
    scheduler = Scheduler(name)
    data, noise = normal(BATCH, *SHAPE, seed=2).double(), START.double()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        at = scheduler(t.double())
        return at.d_alpha_t.view(-1, 1, 1, 1) * data + at.d_sigma_t.view(-1, 1, 1, 1) * noise

    model = eb.adapt(velocity, scheduler, SHAPE)
    for i in (0, 30, 500, 990, 999):
        level = model.schedule.level(i)
        tau = 1 - (level.timestep if name == "CondOT" else (i + 0.5) / 1000)
        at = scheduler(torch.tensor(tau, dtype=torch.float64))
        assert (float(at.alpha_t), float(at.sigma_t)) == pytest.approx(
            (level.alpha, level.sigma), rel=1e-9, abs=1e-9
        )
        prediction = model.predict(level.alpha * data + level.sigma * noise, level)
        # The network's time is float32, and near the data b′ of LinearVP changes quickly with it.
        close(prediction.x0, data, 1e-4)
        close(prediction.epsilon, noise, 1e-4)


def k_wrappers() -> dict[str, tuple[Any, ...]]:
    return {
        "DiscreteEpsDDPMDenoiser": (libraries.DiscreteEpsDDPMDenoiser(Net(1000), ABAR), SHAPE),
        "CompVisDenoiser": (libraries.CompVisDenoiser(Net(1000), ABAR), SHAPE),
        "Denoiser": (libraries.Denoiser(Net()), eb.schedules.edm(0.01, 80), SHAPE),
    }


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("name", list(k_wrappers()))
def test_k_diffusion(name: str, sampler: str) -> None:
    objects = k_wrappers()[name]
    wrapper = objects[0]
    low, high = (
        (float(wrapper.sigmas[i]) for i in (0, -1)) if hasattr(wrapper, "sigmas") else (0.01, 80.0)
    )
    sigmas = torch.linspace(high ** (1 / 7), low ** (1 / 7), 20) ** 7

    def call(x: Tensor, sigma: Tensor) -> Tensor:
        return wrapper(x, sigma, cond=None) if name == "CompVisDenoiser" else wrapper(x, sigma)

    theirs = libraries.k_sampler(
        call, START * sigmas[0], torch.cat([sigmas, torch.zeros(1)]), sampler == "heun"
    )
    close(ours(eb.adapt(*objects), sampler, 20, "karras"), theirs)


def test_k_diffusion_keeps_the_models_own_levels() -> None:
    model = eb.adapt(*k_wrappers()["DiscreteEpsDDPMDenoiser"])
    sigmas = [level.sigma for level in model.schedule.levels(1000, "linspace")]
    np.testing.assert_allclose(sigmas[:-1], ((1 - ABAR) / ABAR).sqrt().numpy()[::-1], rtol=1e-6)


ADAPTED: dict[str, tuple[Callable[[], eb.Denoiser], dict[str, Any]]] = {
    "EDM": (lambda: eb.adapt(EDMPrecond()), {"sampler": "heun", "grid": "karras"}),
    "EDM with classes": (lambda: eb.adapt(EDMPrecond(2)), {"sampler": "euler", "grid": "karras"}),
    "denoising-diffusion-pytorch": (lambda: eb.adapt(GaussianDiffusion(Net(100))), {"clip": True}),
    "flow_matching": (
        lambda: eb.adapt(Net(), Scheduler(), SHAPE),
        {"sampler": "euler", "grid": "trailing"},
    ),
    "flow_matching, curved": (
        lambda: eb.adapt(Net(), Scheduler("Cosine"), SHAPE),
        {"sampler": "ddim"},
    ),
    "k-diffusion": (
        lambda: eb.adapt(*k_wrappers()["Denoiser"]),
        {"sampler": "heun", "grid": "karras"},
    ),
    "function": (
        lambda: eb.Denoiser(
            lambda x, t: 0.1 * x,
            schedule=eb.schedules.linear(),
            prediction_type="epsilon",
            shape=SHAPE,
        ),
        {},
    ),
}


@pytest.mark.filterwarnings(f"ignore:{CURVED}")
@pytest.mark.parametrize("family", list(ADAPTED))
def test_from_the_library_to_a_spectrum(family: str) -> None:
    make, options = ADAPTED[family]
    data = eb.load_data(np.tanh(NOISE[:10].reshape(40, *SHAPE).numpy()), labels=np.arange(40) % 2)
    model = make()
    recording = eb.record(model, data, steps=5, batch_size=16, **options)
    spectrum = eb.spectrum(recording)
    assert np.isfinite(spectrum["hf"])
    assert spectrum["sigma"].values.tolist() == [
        x.sigma for x in model.schedule.levels(5, options.get("grid", "linspace"))
    ]


def self_conditioned_inside() -> tuple[Any, ...]:
    wrapper = libraries.Denoiser(Net())
    wrapper.inner_model.self_condition = True
    return wrapper, eb.schedules.edm(0.01, 80), SHAPE


def odd_edm(**attributes: Any) -> tuple[EDMPrecond]:
    net = EDMPrecond()
    for name, value in attributes.items():
        setattr(net, name, value)
    return (net,)


def odd_sigmas(*sigmas: float) -> tuple[Any, ...]:
    wrapper = libraries.DiscreteEpsDDPMDenoiser(Net(1000), ABAR)
    wrapper.sigmas = torch.tensor(sigmas)
    return wrapper, SHAPE


def self_conditioned_edm() -> EDMPrecond:
    net = EDMPrecond()
    net.self_cond = True
    return net


def self_conditioned() -> GaussianDiffusion:
    net = Net()
    net.self_condition = True
    return GaussianDiffusion(net)


def elucidated() -> Net:
    """denoising-diffusion-pytorch's EDM, known by its module alone."""
    return type(
        "ElucidatedDiffusion",
        (Net,),
        {"__module__": "denoising_diffusion_pytorch.elucidated_diffusion"},
    )()


def weighted() -> GaussianDiffusion:
    return type("WeightedObjectiveGaussianDiffusion", (GaussianDiffusion,), {})(Net())


def conditional() -> libraries.CompVisDenoiser:
    wrapper = libraries.CompVisDenoiser(Net(), ABAR)
    wrapper.inner_model.model = torch.nn.Module()
    wrapper.inner_model.model.conditioning_key = "crossattn"
    return wrapper


REFUSALS: dict[str, tuple[Callable[[], tuple[Any, ...]], str]] = {
    "nothing": (lambda: (), "cannot adapt nothing"),
    "a module alone": (
        lambda: (Net(),),
        r"cannot adapt Net: known are diffusers.*k-diffusion.*Denoiser\(net.*v_pred",
    ),
    "a function alone": (lambda: (lambda x, t: x,), r"cannot adapt function.*prediction_type="),
    "two EDM networks": (lambda: (EDMPrecond(), EDMPrecond()), "EDMPrecond, EDMPrecond: guidance"),
    "other diffusions": (
        lambda: (elucidated(),),
        "one diffusion is supported.*got ElucidatedDiffusion",
    ),
    "self-conditioning": (
        lambda: (self_conditioned(),),
        "self-conditioning is not supported.*not a function",
    ),
    "self-conditioning of k-diffusion": (
        self_conditioned_inside,
        "self-conditioning is not supported",
    ),
    "self-conditioning of EDM": (
        lambda: (self_conditioned_edm(),),
        "self-conditioning is not supported",
    ),
    "σ as text": (
        lambda: odd_edm(sigma_min="0.1"),
        "sigma_min of this EDMPrecond is '0.1': give a number",
    ),
    "classes as text": (
        lambda: odd_edm(label_dim="10"),
        "label_dim of this EDMPrecond is '10': a number of classes",
    ),
    "falling σ": (
        lambda: odd_sigmas(2.0, 1.0),
        "sigmas of this DiscreteEpsDDPMDenoiser are no increasing positive",
    ),
    "σ that is no number": (
        lambda: odd_sigmas(1.0, float("nan")),
        "no increasing positive numbers",
    ),
    "σ of zero": (lambda: odd_sigmas(0.0, 1.0), "no increasing positive numbers"),
    "no σ": (odd_sigmas, "no increasing positive numbers"),
    "weighted": (lambda: (weighted(),), "mixes two predictions"),
    "unknown objective": (
        lambda: (GaussianDiffusion(Net(), "pred_w"),),
        r"'pred_w'.*pred_noise, pred_x0, pred_v",
    ),
    "learned, not of ε": (
        lambda: (libraries.LearnedGaussianDiffusion(Net(), "pred_x0"),),
        "allowed are pred_noise$",
    ),
    "diffusion and net": (
        lambda: (GaussianDiffusion(Net()), Net()),
        "one diffusion is supported.*got Gauss",
    ),
    "path without shape": (
        lambda: (Net(), Scheduler()),
        r"its path and its shape, got Net, Scheduler",
    ),
    "path without model": (
        lambda: (Scheduler(), SHAPE),
        r"got Scheduler, tuple: give adapt\(model, path",
    ),
    "polynomial path": (
        lambda: (Net(), Scheduler("Polynomial"), SHAPE),
        "Scheduler is not supported.*CondOT",
    ),
    "discrete path": (
        lambda: (Net(), libraries.MixtureDiscreteProbPath(Scheduler()), SHAPE),
        "needs an AffineProbP",
    ),
    "no shape": (lambda: k_wrappers()["Denoiser"][:2], r"its images' shape: give adapt\(wrapper"),
    "no range": (
        lambda: (libraries.Denoiser(Net()), SHAPE),
        "does not know its noise levels.*sigma_min",
    ),
    "two ranges": (
        lambda: (conditional(), eb.schedules.edm(), SHAPE),
        "knows its noise levels: leave",
    ),
    "wrong path": (
        lambda: (libraries.Denoiser(Net()), eb.schedules.flow(), SHAPE),
        "give eb.schedules.edm, not flow",
    ),
    "latent diffusion": (lambda: (conditional(), SHAPE), "is conditional, and no embedding"),
    "distilled": (lambda: (type("ConsistencyModel", (Net,), {})(),), r"distilled.*no E\[x_0"),
}


@pytest.mark.parametrize("case", list(REFUSALS))
def test_refusals(case: str) -> None:
    objects, message = REFUSALS[case]
    with pytest.raises(eb.InputError, match=message) as error:
        eb.adapt(*objects())
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_network_is_told_all_four_prediction_types() -> None:
    with pytest.raises(eb.InputError) as error:
        eb.adapt(Net())
    assert all(name in str(error.value) for name in PREDICTION_TYPES)


def test_adapting_twice_changes_nothing() -> None:
    model = eb.adapt(EDMPrecond())
    assert eb.adapt(model) is model


def test_a_function_is_a_model_like_its_module() -> None:
    net = Net(1000).eval()
    options: dict[str, Any] = {
        "schedule": eb.schedules.linear(),
        "prediction_type": "epsilon",
        "shape": SHAPE,
    }

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t)

    module, function = eb.Denoiser(net, **options), eb.Denoiser(predict, **options)
    assert torch.equal(ours(module, "ddpm", 10, "linspace"), ours(function, "ddpm", 10, "linspace"))
    assert (function.name, function.weight_hash, function.device.type) == (
        "predict",
        "unhashed",
        "cpu",
    )
    assert module.weight_hash != "unhashed"
    assert eb.Denoiser(predict, **options, device="meta")._parameter.device.type == "meta"


@pytest.mark.parametrize(
    ("net", "extra", "message"),
    [
        ("digits", {}, "a torch module or a function .* got 'digits'"),
        (Net(), {"device": "cpu"}, r"net\.to\('cpu'\)"),
        (lambda x, t: x, {"device": "nowhere"}, "cannot use device 'nowhere'"),
        (lambda x, t: (x,), {}, "returned tuple where a tensor was expected"),
    ],
)
def test_what_is_no_model(net: Any, extra: dict[str, Any], message: str) -> None:
    def call() -> None:
        model = eb.Denoiser(
            net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE, **extra
        )
        model(START, model.schedule.level(0))

    with pytest.raises(eb.InputError, match=message):
        call()


def test_pickles_are_refused_unopened(tmp_path: Any) -> None:
    path = tmp_path / "edm-cifar10-32x32-uncond-vp.pkl"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(
        eb.InputError, match=r"runs the code inside it.*eb\.adapt\(net\).*architecture is code"
    ):
        eb.load_model(path)


def test_what_else_lies_on_disk(tmp_path: Any) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(
        eb.InputError, match=r"model\.onnx cannot be loaded.*digits.*model_index\.json"
    ):
        eb.load_model(tmp_path / "model.onnx")


def test_the_list_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"model": "digits"} in listed["tables"]["bundled"]
    families = listed["tables"]["families"]
    assert {row["family"]: "--" in row["command_line"] for row in families}.items() >= {
        "diffusers": True,
        "EDM, EDM2": False,
        "flow_matching": False,
    }.items()
    assert main(["models"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert all(row["python"] in told for row in families)
