"""The smallest faithful stand-ins for libraries that cannot be installed here: public attributes
and samplers.

Each is written from the paper's algorithm and the library's public interface (named below), and the
adapters were run
beside the originals as well: NVlabs/edm and edm2, lucidrains/denoising-diffusion-pytorch,
facebookresearch/ flow_matching and crowsonkb/k-diffusion. Samplers take their start and noise, so
that a chain can share both."""

import importlib
import importlib.util
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

SHAPE = (3, 8, 8)


def real(name: str, monkeypatch: pytest.MonkeyPatch, without: Sequence[str] = ()) -> Any:
    """A module of a library that is installed, or skip the test.

    The package's own `__init__` is not run, and libraries that are not wanted are stand-ins that
    answer anything, such as torchvision, which has no build for this torch.
    """
    package = name.partition(".")[0]
    if not hasattr(sys.modules.get(package), "is_bare"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{package} is not installed")
        for loaded in [m for m in sys.modules if m.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, loaded)
        bare: Any = ModuleType(package)
        bare.__path__, bare.is_bare = list(spec.submodule_search_locations), True
        monkeypatch.setitem(sys.modules, package, bare)
    for other in without:
        monkeypatch.setitem(sys.modules, other, MagicMock(__spec__=None))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} does not import here: {error}")


class Net(nn.Module):
    """A small random network of (x, t), and of labels if there are classes; `scale` brings its time
    to about 1."""

    def __init__(self, scale: float = 1.0, out_channels: int = 3, classes: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(out_channels + classes)
            self.head, self.tail = (
                nn.Conv2d(3, 8, 3, padding=1),
                nn.Conv2d(8, out_channels, 3, padding=1),
            )
            self.time = nn.Linear(1, 8)
            self.classes_emb = nn.Embedding(classes, 8) if classes else None
        self.scale, self.channels, self.self_condition = scale, 3, False

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, cond_drop_prob: float = 0.5
    ) -> Tensor:
        h = self.head(x) + self.time(t.to(x.dtype)[:, None] / self.scale)[:, :, None, None]
        if self.classes_emb is not None:
            assert cond_drop_prob == 0
            h = h + self.classes_emb(labels)[:, :, None, None]
        return self.tail(torch.tanh(h))


class EDMPrecond(nn.Module):
    """EDM's preconditioning (Karras et al. 2022, Table 1) around a network that sees σ and one-hot
    labels.

    known: the σ that `round_sigma` rounds to; all of them if None.
    """

    def __init__(self, label_dim: int = 0, known: Tensor | None = None) -> None:
        super().__init__()
        self.net = Net()
        self.classes = nn.Linear(label_dim, 1, bias=False) if label_dim else None
        self.img_resolution, self.img_channels, self.label_dim = 8, 3, label_dim
        self.sigma_min, self.sigma_max, self.sigma_data, self.known = 0.0, float("inf"), 0.5, known

    def round_sigma(self, sigma: Tensor) -> Tensor:
        if self.known is None:
            return sigma
        return self.known.to(sigma.dtype)[
            (sigma.reshape(-1, 1) - self.known).abs().argmin(1)
        ].reshape(sigma.shape)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        x, sigma = x.float(), sigma.float().expand(len(x)).view(-1, 1, 1, 1)
        total = sigma**2 + self.sigma_data**2
        raw = self.net(x / total.sqrt(), sigma.flatten().log() / 4)
        if self.classes is not None:
            raw = raw + self.classes(class_labels)[:, :, None, None]
        return self.sigma_data**2 / total * x + sigma * self.sigma_data / total.sqrt() * raw


def edm_sampler(
    net: Any,
    epsilon: Tensor,
    steps: int,
    labels: Tensor | None = None,
    heun: bool = True,
    churn: float = 0.0,
    between: tuple[float, float] = (0.0, math.inf),
    noise: float = 1.0,
) -> Tensor:
    """Algorithms 1 and 2 of Karras et al.

    2022 on their grid from 80 to 0.002 (eq. 5), as `generate.py`. churn, between, noise: S_churn,
    (S_tmin, S_tmax) and S_noise, drawn from torch's generator.
    """
    rounded = getattr(net, "round_sigma", lambda sigma: sigma)
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    grid = rounded((80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)
    x = epsilon * grid[0]
    for i in range(steps):
        now, then = grid[i], grid[i + 1] if i + 1 < steps else torch.zeros(())
        gamma = min(churn / steps, 2**0.5 - 1) if between[0] <= now <= between[1] else 0.0
        hat = rounded(now + gamma * now)
        x = x + (hat**2 - now**2).sqrt() * noise * torch.randn_like(x) if gamma else x
        slope = (x - net(x, hat, labels).double()) / hat
        ahead = x + (then - hat) * slope
        if heun and then > 0:
            slope = (slope + (ahead - net(ahead, then, labels).double()) / then) / 2
            ahead = x + (then - hat) * slope
        x = ahead
    return x


def restart_sampler(
    net: Any, epsilon: Tensor, steps: int, low: float, high: float, times: int, heun: bool = True
) -> Tensor:
    """Restart (Xu et al. 2023, arXiv 2306.14878, Alg. 1): at the grid's level nearest to `low`
    noise is added up to `high`, and the chain comes down again in three steps, `times` times."""
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    grid = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    place = int((grid - low).abs().argmin())

    def down(x: Tensor, now: Tensor, then: Tensor) -> Tensor:
        slope = (x - net(x, now).double()) / now
        ahead = x + (then - now) * slope
        if heun and then > 0:
            slope = (slope + (ahead - net(ahead, then).double()) / then) / 2
            ahead = x + (then - now) * slope
        return ahead

    x = epsilon * grid[0]
    for i in range(steps):
        x = down(x, grid[i], grid[i + 1] if i + 1 < steps else torch.zeros(()))
        for _ in range(times if i + 1 == place else 0):
            again = torch.linspace(high, float(grid[place]), 4, dtype=torch.float64)
            x = x + (again[0] ** 2 - again[-1] ** 2).sqrt() * torch.randn_like(x)
            for s, t in pairwise(again):
                x = down(x, s, t)
    return x


def consistency_sampler(net: Any, epsilon: Tensor, sigmas: list[float]) -> Tensor:
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, Alg. 1)."""
    x = net(epsilon * sigmas[0], torch.tensor(sigmas[0]))
    for sigma in sigmas[1:]:
        noisy = x + (sigma**2 - 0.002**2) ** 0.5 * torch.randn_like(x)
        x = net(noisy, torch.tensor(sigma))
    return x


class GaussianDiffusion(nn.Module):
    """denoising-diffusion-pytorch's: float32 buffers, images normalised from [0, 1], x̂_0 clipped
    while sampling."""

    def __init__(
        self, model: Net, objective: str = "pred_noise", steps: int = 100, normalised: bool = True
    ) -> None:
        super().__init__()
        betas = torch.linspace(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps, dtype=torch.float64)
        self.register_buffer("betas", betas.float())
        self.abar = torch.cumprod(1 - betas, 0)
        self.model, self.objective, self.image_size, self.channels = (
            model,
            objective,
            (8, 8),
            model.channels,
        )
        self.self_condition = model.self_condition
        self.normalize = (lambda x: 2 * x - 1) if normalised else (lambda x: x)

    def predict(
        self, x: Tensor, t: int, *labels: Any, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x̂_0 clipped, the ε̂ of that x̂_0, and the second half of a learned variance's output."""
        output = self.model(x, torch.full((len(x),), t), *labels, **options)
        value, variance = output[:, :3], output[:, 3:]
        a, s = self.abar[t].sqrt().float(), (1 - self.abar[t]).sqrt().float()
        x0 = {"pred_noise": (x - s * value) / a, "pred_x0": value, "pred_v": a * x - s * value}[
            self.objective
        ]
        x0 = x0.clamp(-1, 1)
        return x0, (x - a * x0) / s, variance

    @torch.no_grad()
    def p_sample_loop(
        self, x: Tensor, noise: Any, *labels: Any, learned: bool = False, **options: Any
    ) -> Tensor:
        """Ancestral sampling with the posterior variance β̃, or the learned one (Ho et al.

        2020, Alg. 2).
        """
        for i, t in enumerate(reversed(range(len(self.betas)))):
            x0, _, variance = self.predict(x, t, *labels, **options)
            beta, abar = self.betas[t].double(), self.abar[t]
            before = self.abar[t - 1] if t else torch.ones(())
            to_x0, to_x = (
                before.sqrt() * beta / (1 - abar),
                (1 - beta).sqrt() * (1 - before) / (1 - abar),
            )
            x = to_x0.float() * x0 + to_x.float() * x
            if t:
                small, large = (beta * (1 - before) / (1 - abar)).log().float(), beta.log().float()
                share = (variance + 1) / 2 if learned else 0.0
                x = x + (0.5 * (small + share * (large - small))).exp() * noise(i)
        return x

    @torch.no_grad()
    def ddim_sample(self, x: Tensor, noise: Any, steps: int, eta: float) -> Tensor:
        """DDIM at the timesteps −1 … T−1 in equal strides (Song et al. 2021, eq. 12 and 16)."""
        times = torch.linspace(-1, len(self.betas) - 1, steps + 1).int().tolist()[::-1]
        for i, (t, then) in enumerate(pairwise(times)):
            x0, epsilon, _ = self.predict(x, t)
            if then < 0:
                return x0
            a, b = self.abar[t].float(), self.abar[then].float()
            spread = eta * ((1 - a / b) * (1 - b) / (1 - a)).sqrt()
            x = b.sqrt() * x0 + (1 - b - spread**2).sqrt() * epsilon + spread * noise(i)
        return x


class Elucidated(nn.Module):
    """lucidrains' ElucidatedDiffusion: a network that is told log(σ)/4, and a sampler that
    churns."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net, self.image_size, self.channels, self.self_condition = net, 8, 3, False
        self.sigma_min, self.sigma_max, self.sigma_data = 0.002, 80.0, 0.5

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data * (self.sigma_data**2 + sigma**2) ** -0.5

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) ** -0.5

    def c_noise(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4

    def denoise(self, x: Tensor, sigma: Tensor, _: Any = None) -> Tensor:
        x, sigma = x.float(), sigma.float()
        raw = self.net(self.c_in(sigma) * x, self.c_noise(sigma).expand(len(x)))
        return self.c_skip(sigma) * x + self.c_out(sigma) * raw

    @torch.no_grad()
    def sample(self, batch_size: int) -> Tensor:
        start = torch.randn(batch_size, self.channels, 8, 8).double()
        return edm_sampler(self.denoise, start, 8, churn=80, between=(0.05, 50.0))


class TimeFirst(nn.Module):
    """A network of torchcfm's: net(t, x), with a time for all states or one for each."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(1.0)

    def forward(self, t: Tensor, x: Tensor, y: Any = None) -> Tensor:
        return self.net(x, t.expand(len(x)) if t.dim() == 0 else t)


class LearnedGaussianDiffusion(GaussianDiffusion):
    """The same with a network that also returns its variance; the adapter goes by the
    class's name."""


class Scheduler:
    """flow_matching's schedulers by name: α and σ of their time τ, 1 at the data, with derivatives
    by autograd."""

    def __init__(self, name: str = "CondOT") -> None:
        self.alpha, self.sigma = {
            "CondOT": (lambda t: t, lambda t: 1 - t),
            "Cosine": (lambda t: torch.sin(math.pi / 2 * t), lambda t: torch.cos(math.pi / 2 * t)),
            "LinearVP": (lambda t: t, lambda t: (1 - t**2).sqrt()),
            "VP": (
                lambda t: torch.exp(-0.5 * self.integral(t)),
                lambda t: (1 - torch.exp(-self.integral(t))).sqrt(),
            ),
            "Polynomial": (lambda t: t**3, lambda t: 1 - t**3),
        }[name]

    @staticmethod
    def integral(t: Tensor) -> Tensor:
        """∫β of a variance-preserving path with β from 0.1 to 20 (Song et al. 2021)."""
        return 0.5 * (1 - t) ** 2 * 19.9 + (1 - t) * 0.1

    def __call__(self, t: Tensor) -> SimpleNamespace:
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            alpha, sigma = self.alpha(t), self.sigma(t)
            (d_alpha,) = torch.autograd.grad(alpha.sum(), t, retain_graph=True)
            (d_sigma,) = torch.autograd.grad(sigma.sum(), t)
        return SimpleNamespace(
            alpha_t=alpha.detach(), sigma_t=sigma.detach(), d_alpha_t=d_alpha, d_sigma_t=d_sigma
        )

    def snr_inverse(self, snr: Tensor) -> Tensor:
        raise NotImplementedError


class AffineProbPath:
    """flow_matching's affine path: a scheduler and conversions between predictions."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def velocity_to_target(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        raise NotImplementedError


class MixtureDiscreteProbPath:
    """flow_matching's discrete path: a scheduler, but no velocity."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler


@torch.no_grad()
def ode_solver(model: Any, x: Tensor, steps: int) -> Tensor:
    """`ODESolver.sample` with method="euler": x ← x + h u(x, τ) for τ = 0, h, … in steps of h."""
    for i in range(steps):
        x = x + model(x=x, t=torch.full((len(x),), i / steps)) / steps
    return x


class Denoiser(nn.Module):
    """k-diffusion's `layers.Denoiser`, which knows no range of σ; the name is theirs."""

    def __init__(self, inner_model: Net) -> None:
        super().__init__()
        self.inner_model, self.sigma_data = inner_model, 1.0

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, ...]:
        root = (sigma**2 + self.sigma_data**2).sqrt()
        return (self.sigma_data / root) ** 2, sigma * self.sigma_data / root, 1 / root

    def label(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4

    def inner(self, x: Tensor, t: Tensor, **options: Any) -> Tensor:
        return self.inner_model(x, t)

    def forward(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        skip, out, scale = (c.view(-1, 1, 1, 1) for c in self.get_scalings(sigma))
        return self.inner(x * scale, self.label(sigma), **options) * out + x * skip


class DiscreteEpsDDPMDenoiser(Denoiser):
    """k-diffusion's wrapper of a discrete ε-model: label by interpolating log σ."""

    def __init__(self, inner_model: Net, alphas_cumprod: Tensor) -> None:
        super().__init__(inner_model)
        self.register_buffer("sigmas", ((1 - alphas_cumprod) / alphas_cumprod).sqrt().float())

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, ...]:
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt()

    def label(self, sigma: Tensor) -> Tensor:
        place = torch.searchsorted(self.sigmas, sigma.contiguous()).clamp(1, len(self.sigmas) - 1)
        low, high = self.sigmas[place - 1].log(), self.sigmas[place].log()
        return place - 1 + ((sigma.log() - low) / (high - low)).clamp(0, 1)


class CompVisDenoiser(DiscreteEpsDDPMDenoiser):
    """k-diffusion's wrapper of a latent-diffusion model, which must be called with its condition,
    None or not."""

    def inner(self, x: Tensor, t: Tensor, *, cond: Any) -> Tensor:
        return self.inner_model(x, t)


@torch.no_grad()
def k_sampler(model: Any, x: Tensor, sigmas: Tensor, heun: bool) -> Tensor:
    """`sample_euler` or `sample_heun` without churn, in the float32 of its state (Karras et al.

    2022, Alg. 1).
    """
    for now, then in pairwise(sigmas):
        slope = (x - model(x, now.expand(len(x)))) / now
        if heun and then > 0:
            ahead = x + (then - now) * slope
            slope = (slope + (ahead - model(ahead, then.expand(len(x)))) / then) / 2
        x = x + (then - now) * slope
    return x


@torch.no_grad()
def k_ancestral(model: Any, x: Tensor, sigmas: Tensor, eta: float = 1.0) -> Tensor:
    """`sample_dpm_2_ancestral`: an ancestral step by a mid-point, even in log σ."""
    for now, then in pairwise(sigmas):
        slope = (x - model(x, now.expand(len(x)))) / now
        spread = then**2 * (now**2 - then**2) / now**2
        up = min(then, eta * spread**0.5)
        down = (then**2 - up**2) ** 0.5
        if down == 0:
            x = x + (down - now) * slope
            continue
        middle = now.log().lerp(down.log(), 0.5).exp()
        at = x + slope * (middle - now)
        x = x + (at - model(at, middle.expand(len(x)))) / middle * (down - now)
        x = x + torch.randn_like(x) * up
    return x
