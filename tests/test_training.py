"""Objectives against their closed-form minimiser, the loop's determinism, and the bundled weights."""

import csv
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from safetensors import safe_open
from torch import Tensor, nn

import exposure_bias
from exposure_bias.data import load_data
from exposure_bias.errors import InputError
from exposure_bias.schedules import linear
from exposure_bias.training.loop import Settings, batches, learning_rate_factor, noise_error_by_level, train
from exposure_bias.training.objectives import Objective, ddpm_loss, ip_loss, objective

FOLDER = Path(exposure_bias.__file__).parent / "models"
BUNDLED = ("digits", "digits-ip")
SCHEDULE = linear(1000)
BRIEF = Settings(iterations=12, batch_size=8, learning_rate=1e-2, warmup=3, ema=0.5, log_every=5, evaluate_every=10)


class Small(nn.Module):
    """A network with dropout, so that every source of randomness is in play."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.SiLU(), nn.Dropout(0.2), nn.Linear(32, 16))

    def forward(self, y: Tensor, timestep: Tensor) -> Tensor:
        return self.layers(y).reshape(y.shape)


class Affine(nn.Module):
    """w (y − α μ) + b, in float64: its loss is a parabola whose minimum is one linear solve away."""

    def __init__(self, centre: float) -> None:
        super().__init__()
        self.centre = centre
        self.wb = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, y: Tensor, timestep: Tensor) -> Tensor:
        return self.wb[0] * (y - self.centre) + self.wb[1]


def small_run(name: str = "ddpm", gamma: float = 0.0, seed: int = 0, log: Path | None = None) -> tuple[Small, list]:
    torch.manual_seed(0)
    images = torch.randn(20, 1, 4, 4)
    settings = Settings(**vars(BRIEF) | {"seed": seed})
    return train(Small(), images, SCHEDULE, objective(name, gamma), settings, log, evaluate=lambda net: 1.0)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def a_batch() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    t = torch.tensor([0, 10, 500, 999])
    alpha, sigma = (torch.from_numpy(a).float()[t] for a in (SCHEDULE.alpha, SCHEDULE.sigma))
    x0, eps, xi = (torch.randn(4, 1, 4, 4, generator=generator) for _ in range(3))
    return x0, alpha, sigma, t, eps, xi


def test_ip_without_perturbation_is_ddpm() -> None:
    *batch, xi = a_batch()
    net = Small().eval()
    assert ip_loss(net, *batch, xi, gamma=0.0) == ddpm_loss(net, *batch)
    assert ip_loss(net, *batch, xi, gamma=0.1) != ddpm_loss(net, *batch)


def test_ddpm_loss_is_the_mean_squared_noise_error() -> None:
    x0, alpha, sigma, t, eps, _ = a_batch()
    expected = np.mean([((alpha[i] * x0[i] + sigma[i] * eps[i] - eps[i]) ** 2).mean().item() for i in range(4)])
    assert ddpm_loss(lambda y, _: y, x0, alpha, sigma, t, eps).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [-0.1, math.nan])
def test_impossible_perturbations_are_refused(gamma: float) -> None:
    with pytest.raises(InputError, match="gamma must be at least 0"):
        ip_loss(Small(), *a_batch(), gamma=gamma)
    with pytest.raises(InputError, match="gamma must be at least 0"):
        objective("ip", gamma)


def test_unknown_objectives_are_refused() -> None:
    with pytest.raises(InputError, match="allowed are ddpm, ip"):
        objective("ddpmm")
    with pytest.raises(InputError, match="no perturbation"):
        objective("ddpm", 0.1)


def minimiser(loss: Objective, draws: tuple[Tensor, ...], centre: float) -> Tensor:
    """Where the quadratic loss of an affine network is least: one Newton step from zero is exact."""
    net = Affine(centre)
    (gradient,) = torch.autograd.grad(loss(net, *draws), net.wb, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(g, net.wb, retain_graph=True)[0] for g in gradient])
    return -torch.linalg.solve(hessian, gradient.detach())


@pytest.mark.parametrize(("gamma", "alpha"), [(0.1, 0.3), (0.5, 0.3), (0.5, 0.7), (0.5, 0.95)])
def test_the_ip_minimiser_is_a_level_shift(gamma: float, alpha: float) -> None:
    """Design 4.5 on x_0 ~ N(μ, λ): ε_IP has slope σ/(α²λ+σ²(1+γ²)), within 4 standard errors of 10⁶ draws."""
    n, mu, lam, sigma = 1_000_000, 0.4, 0.8, math.sqrt(1 - alpha**2)
    generator = torch.Generator().manual_seed(0)
    z, eps, xi = (torch.randn(n, 1, 1, 1, generator=generator, dtype=torch.float64) for _ in range(3))
    level = [torch.full((n,), v, dtype=torch.float64) for v in (alpha, sigma, 0.0)]
    draws = (mu + math.sqrt(lam) * z, *level, eps, xi)

    def theory(noise: float) -> tuple[float, float, float]:
        """Best slope at the input's noise level, its standard error and the intercept's."""
        variance = alpha**2 * lam + noise**2
        best = sigma / variance  # Cov(ε, y) / Var(y), which is ε*(y at `noise`) / (noise / σ)
        residual = 1 - best**2 * variance
        return best, math.sqrt(residual / (n * variance)), math.sqrt(residual / n)

    for name, g in (("ddpm", 0.0), ("ip", gamma)):
        slope, intercept = minimiser(objective(name, g), draws, centre=alpha * mu).tolist()
        best, slope_error, intercept_error = theory(sigma * math.sqrt(1 + g**2))
        assert abs(slope - best) < 4 * slope_error
        assert abs(intercept) < 4 * intercept_error
    assert abs(slope - theory(sigma)[0]) > 8 * slope_error


def test_a_seed_fixes_the_weights() -> None:
    first, again, other = weights(small_run()[0]), weights(small_run()[0]), weights(small_run(seed=1)[0])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    images, net = torch.randn(20, 1, 4, 4), Small()
    before = torch.get_rng_state()
    train(net, images, SCHEDULE, objective("ddpm"), BRIEF)
    assert torch.equal(before, torch.get_rng_state())


def test_objectives_of_one_seed_see_the_same_draws() -> None:
    seen: dict[str, list[Tensor]] = {"ddpm": [], "ip": []}

    def spy(name: str, gamma: float) -> Objective:
        loss = objective(name, gamma)

        def spied(net: nn.Module, *draws: Tensor) -> Tensor:
            seen[name].extend(draws)
            return loss(net, *draws)

        return spied

    for name, gamma in (("ddpm", 0.0), ("ip", 0.1)):
        train(Small(), torch.arange(320.0).reshape(20, 1, 4, 4) / 320, SCHEDULE, spy(name, gamma), BRIEF)
    assert len(seen["ddpm"]) == 6 * BRIEF.iterations
    assert all(torch.equal(a, b) for a, b in zip(seen["ddpm"], seen["ip"], strict=True))
    assert not torch.equal(seen["ddpm"][4], seen["ddpm"][5])  # ε and ξ are different draws


def test_every_image_is_seen_once_before_any_is_seen_again() -> None:
    order = batches(10, 4, torch.Generator().manual_seed(0))
    ids = torch.cat([next(order) for _ in range(5)])
    assert sorted(ids[:10].tolist()) == sorted(ids[10:].tolist()) == list(range(10))
    assert ids[:10].tolist() != ids[10:].tolist()


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(i, Settings(iterations=100, warmup=10)) for i in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == max(factors) == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)


def test_the_log_is_on_disk(tmp_path: Path) -> None:
    _, rows = small_run(log=tmp_path / "log.csv")
    with (tmp_path / "log.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["iteration"] for row in written] == ["5", "10", "12"]
    assert [row["heldout_loss"] for row in written] == ["nan", "1", "1"]
    assert float(written[-1]["loss"]) == pytest.approx(rows[-1]["loss"], rel=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


def test_training_learns_and_averages() -> None:
    """White Gaussian data: the best loss at a level is α²λ/(α²λ+σ²); half of that is out of reach, twice is not."""
    torch.manual_seed(0)
    images, heldout = torch.randn(2, 400, 1, 4, 4) * 0.1
    settings = Settings(iterations=300, batch_size=64, learning_rate=1e-2, warmup=10, ema=0.9)
    net = Small()
    ema, _ = train(net, images, SCHEDULE, objective("ddpm"), settings)
    power = 0.01 * SCHEDULE.alpha**2
    best = (power / (power + SCHEDULE.sigma**2)).mean()
    assert 0.5 * best < noise_error_by_level(ema, heldout, SCHEDULE).mean() < 2 * best + 0.1
    assert not torch.equal(weights(ema), weights(net))


def test_loss_by_level_is_exact_for_a_known_error() -> None:
    class Zero(nn.Module):
        def forward(self, y: Tensor, timestep: Tensor) -> Tensor:
            return torch.where((timestep < 300).reshape(-1, 1, 1, 1), 0.0 * y, math.inf)

    errors = noise_error_by_level(Zero(), torch.zeros(500, 1, 4, 4), SCHEDULE)
    assert errors.shape == (10,)
    assert errors[:3] == pytest.approx(1, abs=4 * math.sqrt(2 / 8000))  # E ε² = 1 within 4 standard errors
    assert np.isinf(errors[3:]).all()


def test_the_script_makes_a_folder_diffusers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[1] / "analyses" / "train_bundled.py"
    spec = importlib.util.spec_from_file_location("train_bundled", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "images", lambda data: torch.from_numpy(data.batch(np.arange(32))))  # fast
    script.make("digits-ip", tmp_path, script.SMOKE)
    assert json.loads((tmp_path / "training.json").read_text())["gamma"] == 0.1
    pipe = DDPMPipeline.from_pretrained(tmp_path)
    assert len(pipe.scheduler.timesteps) == 1000


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_model_is_what_its_provenance_says(name: str) -> None:
    folder = FOLDER / name
    said = json.loads((folder / "training.json").read_text())
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 600_000
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as tensors:
        assert {tensors.get_tensor(key).dtype for key in tensors.keys()} == {torch.float16}  # noqa: SIM118
    pipe = DDPMPipeline.from_pretrained(folder)
    assert np.allclose(pipe.scheduler.alphas_cumprod, SCHEDULE.alpha**2, rtol=1e-5)
    assert 150_000 < sum(p.numel() for p in pipe.unet.parameters()) == said["parameters"] < 250_000

    heldout = load_data("digits", split="test")
    assert said["data"]["heldout_hash"] == heldout.hash
    assert said["data"]["hash"] == load_data("digits", split="train").hash
    images = torch.from_numpy(heldout.batch(np.arange(len(heldout))))
    errors = noise_error_by_level(pipe.unet.float(), images, SCHEDULE)
    assert errors.mean() == pytest.approx(said["heldout_loss"], rel=0.01)
    assert errors == pytest.approx(said["heldout_loss_by_level"], rel=0.01)
    with (folder / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["iteration"]) == said["iterations"]
    assert len(rows) <= 200


def test_bundled_models_differ_in_the_objective_only() -> None:
    said = [json.loads((FOLDER / name / "training.json").read_text()) for name in BUNDLED]
    assert [(s["objective"], s["gamma"]) for s in said] == [("ddpm", 0.0), ("ip", 0.1)]
    for key in ("seed", "iterations", "batch_size", "learning_rate", "ema", "dropout", "parameters", "data"):
        assert said[0][key] == said[1][key]
    # Where the image is all but gone, ε* is the input and ε_IP the input over 1 + γ²: hence this much more ddpm loss.
    ddpm, ip = (s["heldout_loss_by_level"][-1] for s in said)
    assert ip - ddpm == pytest.approx((0.1**2 / (1 + 0.1**2)) ** 2, rel=0.1)
