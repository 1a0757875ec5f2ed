"""The loops of libraries themselves, at a tiny size, where the library is installed.

What is recorded is what the loop saw, to 10⁻⁶: k-diffusion, denoising-diffusion-pytorch, azula and
torchcfm, none of which is a dependency. The stand-ins in `libraries` are tested everywhere."""

import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from libraries import SHAPE, Net, real
from test_observe_loops import BATCH, START, Calls, agree, edm_images, steps
from torch import Tensor, nn

import exposure_bias as eb
from exposure_bias.streams import Step

assert steps  # a fixture

TORCHVISION = [
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.models",
    "pytorch_fid",
    "pytorch_fid.fid_score",
    "pytorch_fid.inception",
]
K_DIFFUSION = (
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Should have t"),  # torchsde's, of its own round-off
]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Shrinking(nn.Module):
    """A network that denoises a little: an adaptive solver goes on with it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(1000)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * (t / 1000).clamp(max=0.9).view(-1, 1, 1, 1) + 0.05 * self.net(x, t)


@pytest.mark.parametrize("churn", [0.0, 6.0])
@pytest.mark.parametrize("name", K_DIFFUSION)
def test_k_diffusion(
    name: str, churn: float, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sampler, with churn where it has some, and two batches in a row."""
    sampling = real("k_diffusion.sampling", monkeypatch, TORCHVISION)
    external = real("k_diffusion.external", monkeypatch, TORCHVISION)
    sample = getattr(sampling, f"sample_{name}")
    takes = inspect.signature(sample).parameters
    if churn and "s_churn" not in takes:
        churn = 0.0
    abar = torch.from_numpy(eb.schedules.linear(1000).alpha ** 2).float()
    wrapper = external.DiscreteEpsDDPMDenoiser(Shrinking().requires_grad_(False), abar, False)
    calls, model = Calls(wrapper), eb.adapt(wrapper, SHAPE)
    options: dict[str, Any] = {"disable": True} | ({"s_churn": churn} if churn else {})
    sigmas = sampling.get_sigmas_karras(9, 0.03, 140.0)
    low_high = (0.03, 140.0)

    def loop(net: Any) -> Tensor:
        torch.manual_seed(3)
        x = 140.0 * START.float()
        if "sigmas" in takes:
            return sample(net, x, sigmas, **options)
        n = {"n": 9} if "n" in takes else {}
        return sample(net, x, *low_high, **n, **options)

    with eb.observe(model, data=edm_images()) as seen:
        end = loop(calls)
        first = calls.steps()
        seen.finish(end)
        loop(Calls(wrapper))
    rec = seen.recording()
    assert rec.n == 2 * BATCH
    agree(rec, steps[: len(first) + 1], first)
    assert torch.equal(steps[len(first)].x, end.double())


def unet(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    library = real(
        "denoising_diffusion_pytorch.denoising_diffusion_pytorch", monkeypatch, TORCHVISION
    )
    torch.manual_seed(0)
    net = library.Unet(dim=8, dim_mults=(1, 2), channels=3, flash_attn=False, **options)
    return net.requires_grad_(False).eval()


@pytest.fixture
def float64() -> Iterator[None]:
    """A library that computes in float64, so that its round-off hides nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
def test_elucidated_diffusion(steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    """With its defaults, which churn; the network inside is told log(σ)/4."""
    net = unet(monkeypatch, learned_sinusoidal_cond=True)
    library = real("denoising_diffusion_pytorch.elucidated_diffusion", monkeypatch, TORCHVISION)
    asked: list[tuple[Tensor, float]] = []

    class Watched(library.ElucidatedDiffusion):  # type: ignore[misc, name-defined]
        def preconditioned_network_forward(self, x: Any, sigma: Any, *a: Any, **k: Any) -> Any:
            asked.append((x.double().clone(), float(torch.as_tensor(sigma).flatten()[0])))
            return super().preconditioned_network_forward(x, sigma, *a, **k)

    diffusion = Watched(net, image_size=8, num_sample_steps=10)
    model = eb.adapt(diffusion)
    assert (model.shape, model.schedule.at(160.0).sigma) == (SHAPE, 160.0)
    said: list[Tensor] = []
    handle = net.register_forward_hook(lambda *a: said.append(a[2].double()))
    with eb.observe(model, data=edm_images()) as seen:
        torch.manual_seed(2)
        diffusion.sample(BATCH)
        one = len(asked)
        diffusion.sample(BATCH)
    handle.remove()
    calls = Calls(None)
    for (x, sigma), raw in zip(asked[:one], said, strict=False):
        skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25) ** 0.5
        calls.asked.append((x, sigma, skip * x + out * raw))
    first = calls.steps()
    rec = seen.recording()
    assert rec.n == 2 * BATCH
    agree(rec, steps[: len(first) + 1], first)
    levels = rec.run.levels
    assert sum(a.snr > b.snr for a, b in pairwise(levels)) >= 5


@pytest.mark.parametrize(
    ("module", "name", "schedule"),
    [
        ("continuous_time", "ContinuousTimeGaussianDiffusion", "linear"),
        ("continuous_time", "ContinuousTimeGaussianDiffusion", "cosine"),
        ("continuous_time", "ContinuousTimeGaussianDiffusion", "learned"),
        ("v_param_continuous_time", "VParamContinuousTimeGaussianDiffusion", None),
    ],
)
@pytest.mark.usefixtures("float64")
def test_diffusion_in_continuous_time(
    module: str, name: str, schedule: str | None, steps: list[Step], monkeypatch: Any
) -> None:
    """log SNR(t) of the library, at its own t; states and x̂_0 of its loop."""
    net = unet(monkeypatch, learned_sinusoidal_cond=True)
    library = real(f"denoising_diffusion_pytorch.{module}_gaussian_diffusion", monkeypatch)
    options = {} if schedule is None else {"noise_schedule": schedule}
    diffusion = getattr(library, name)(net, image_size=8, num_sample_steps=7, **options)
    model = eb.adapt(diffusion)
    kind = "v_prediction" if schedule is None else "epsilon"
    assert (model.prediction_type, model.shape, model.schedule.name) == (kind, SHAPE, name)
    asked: list[tuple[Tensor, float, Tensor]] = []

    def write_down(_: Any, args: Any, output: Tensor) -> None:
        asked.append((args[0].double().clone(), float(args[1][0]), output.double().clone()))

    net.register_forward_hook(write_down)
    with eb.observe(model, data=edm_images()) as seen:
        torch.manual_seed(2)
        diffusion.sample(BATCH)
    assert len(asked) == 7
    rec = seen.recording()
    norms = rec["chain"]["epsilon_norm"].transpose("step", "sample").values
    for i, (step, norm, (x, log_snr, said)) in enumerate(
        zip(steps[:-1], norms, asked, strict=False)
    ):
        alpha, sigma = (torch.tensor(v).sigmoid().sqrt().item() for v in (log_snr, -log_snr))
        assert step.level.timestep == pytest.approx(1 - i / 7, abs=1e-6)
        np.testing.assert_allclose(step.level[1:], (alpha, sigma), rtol=1e-9, atol=1e-12)
        assert (step.x - x).abs().max() <= 1e-6 * x.abs().max()
        epsilon = said if schedule else alpha * said + sigma * x
        np.testing.assert_allclose(norm, epsilon.flatten(1).norm(dim=1), rtol=1e-6)


def test_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """GaussianDiffusion1D: its schedule and its own loop."""
    library = real(
        "denoising_diffusion_pytorch.denoising_diffusion_pytorch_1d", monkeypatch, TORCHVISION
    )
    torch.manual_seed(0)
    net = library.Unet1D(dim=8, dim_mults=(1, 2), channels=2).requires_grad_(False).eval()
    diffusion = library.GaussianDiffusion1D(net, seq_length=16, timesteps=20, objective="pred_v")
    model = eb.adapt(diffusion)
    assert (model.shape, model.prediction_type, len(model.schedule)) == (
        (2, 16),
        "v_prediction",
        20,
    )
    np.testing.assert_allclose(model.schedule.alpha**2, diffusion.alphas_cumprod, rtol=1e-4)
    data = eb.load_data(np.random.default_rng(0).uniform(-1, 1, (32, 2, 16)).astype(np.float32))
    with eb.observe(model, data=data) as seen:
        diffusion.sample(4)
    rec = seen.recording()
    assert (rec.n, rec.run.steps) == (4, 20)
    assert np.isfinite(eb.variance_gap(rec)["gap"]).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sampler", ["DDPM", "DDIM", "Euler", "Heun"])
def test_azula(sampler: str, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Rectified schedule, whose ends are levels, under its denoisers and samplers."""
    noise = real("azula.noise", monkeypatch)
    denoise, sample = (real(f"azula.{name}", monkeypatch) for name in ("denoise", "sample"))
    schedule = noise.RectifiedSchedule()
    net = Net(1.0).requires_grad_(False)
    denoiser = denoise.KarrasDenoiser(net, schedule)

    def call(net: Any, x: Tensor, t: Tensor) -> Tensor:
        mean: Tensor = denoise.KarrasDenoiser(net, schedule)(x, t).mean
        return mean

    model = eb.Denoiser(
        net,
        schedule=eb.schedules.from_functions(schedule.alpha, schedule.sigma),
        prediction_type="sample",
        shape=SHAPE,
        call=call,
    )
    asked: list[tuple[Tensor, float, Tensor]] = []
    forward = denoiser.forward

    def write_down(x: Tensor, t: Tensor, **options: Any) -> Any:
        said = forward(x, t.expand(len(x)) if t.dim() == 0 else t, **options)
        asked.append((x.double().clone(), float(t.flatten()[0]), said.mean.double()))
        return said

    monkeypatch.setattr(denoiser, "forward", write_down)
    solver = getattr(sample, f"{sampler}Sampler")(denoiser, steps=5, silent=True)
    with eb.observe(model, data=edm_images()) as seen:
        end = solver(START)
        seen.finish(end)
    rec = seen.recording()
    calls = [
        one
        for one, then in zip(asked, [*asked[1:], None], strict=True)
        if then is None or one[1] != then[1]
    ]
    norms = rec["chain"]["epsilon_norm"].transpose("step", "sample").values
    assert len(steps) == len(calls) + 1
    for step, norm, (x, t, x0) in zip(steps[:-1], norms, calls, strict=False):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        np.testing.assert_allclose(step.level, (t, alpha, sigma), rtol=2e-6, atol=1e-7)
        assert (step.x - x).abs().max() <= 1e-6 * x.abs().max()
        epsilon = (x - alpha * x0) / sigma
        np.testing.assert_allclose(norm, epsilon.flatten(1).norm(dim=1), rtol=1e-6)
    assert torch.equal(steps[-1].x, end.double())
    if sampler == "Heun":  # its corrector is called at t = 0
        assert rec.run.levels[-2] == (0.0, 1.0, 0.001)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
def test_torchcfm(method: str, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its UNet as torchdiffeq calls it, net(t, x)."""
    models = real("torchcfm.models.unet", monkeypatch)
    torchdiffeq = pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    net = models.UNetModel(
        dim=(3, 8, 8), num_channels=32, num_res_blocks=1, channel_mult=(1,), num_heads=1
    )
    for parameter in net.parameters():  # its last layer starts at zero
        parameter.add_(0.05 * torch.randn_like(parameter))
    net = net.requires_grad_(False).eval()
    model = eb.Denoiser(
        net,
        schedule=eb.schedules.flow(),
        prediction_type="flow_prediction",
        shape=SHAPE,
        call=lambda net, x, t: -net(1 - t, x),
    )
    asked: list[tuple[Tensor, float, Tensor]] = []

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        said: Tensor = net(t, x)
        asked.append((x.double().clone(), float(t), said.double().clone()))
        return said

    with eb.observe(model, data=edm_images()) as seen:
        times = torch.linspace(0, 1, 2 if method == "dopri5" else 5)
        path = torchdiffeq.odeint(
            velocity, START.float(), times, method=method, rtol=1e-3, atol=1e-3
        )
        seen.finish(path[-1])
    rec = seen.recording()
    calls = [
        one
        for one, then in zip(asked, [*asked[1:], None], strict=True)
        if one[1] < 1 and (then is None or abs((1 - one[1]) / (1 - then[1] + 1e-30) - 1) > 1e-6)
    ]
    assert len(steps) == len(calls) + 1
    norms = rec["chain"]["epsilon_norm"].transpose("step", "sample").values
    for step, norm, (x, tau, said) in zip(steps[:-1], norms, calls, strict=False):
        assert step.level.sigma == pytest.approx(1 - tau, rel=1e-6)
        assert (step.x - x).abs().max() <= 1e-6 * x.abs().max()
        epsilon = (x - tau * said).flatten(1).norm(dim=1)  # x_τ = τ x_1 + (1 − τ) ε, u = x_1 − ε
        np.testing.assert_allclose(norm, epsilon, rtol=2e-6)
