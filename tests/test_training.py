"""Objectives against closed forms, the trainer's exactness (resume, kill, processes), and the
bundled weights."""

import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from safetensors import safe_open
from torch import Tensor, nn

import exposure_bias as eb
from exposure_bias.data import load_data
from exposure_bias.errors import InputError
from exposure_bias.schedules import cosine, from_alphas_cumprod, linear, prediction_coefficients
from exposure_bias.training import checkpoints, trainer
from exposure_bias.training.objectives import (
    Draw,
    jacobian_norm,
    objective,
    target,
    variational_bits,
)
from exposure_bias.training.trainer import Settings, learning_rate_factor, loss_by_level

FOLDER = Path(eb.__file__).parent / "models"
BUNDLED = ("digits", "digits-ip")
SCHEDULE = linear(1000)
BRIEF: dict[str, Any] = {
    "iterations": 12,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "warmup": 3,
    "ema": 0.5,
    "log_every": 5,
}


class Small(nn.Module):
    """A network with dropout, so that every source of randomness is in play."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 32), nn.SiLU(), nn.Dropout(dropout), nn.Linear(32, 16)
        )

    def forward(self, y: Tensor, timestep: Tensor) -> Tensor:
        return self.layers(y).reshape(y.shape)


class Slopes(nn.Module):
    """w_t y: the best linear denoiser of white data, a number for each level."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(levels))

    def forward(self, y: Tensor, timestep: Tensor) -> Tensor:
        return self.w[timestep].view(-1, 1, 1, 1) * y


def images(n: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 1, 4, 4)).astype(np.float32)


def small(seed: int = 0, dropout: float = 0.2) -> Small:
    torch.manual_seed(seed)
    return Small(dropout)


def run(**settings: Any) -> eb.Denoiser:
    net = settings.pop("net", None) or small()
    return eb.train(images(), net=net, **{"sample_every": 0} | BRIEF | settings)


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in getattr(model, "net", model).parameters()])


def a_draw(n: int = 4, dtype: torch.dtype = torch.float32, schedule: Any = SCHEDULE) -> Draw:
    generator = torch.Generator().manual_seed(3)
    t = torch.linspace(0, len(schedule) - 1, n).long()
    alpha, sigma = (
        torch.from_numpy(a)[t].to(dtype).view(-1, 1, 1, 1) for a in (schedule.alpha, schedule.sigma)
    )
    x0, eps, xi = (torch.randn(n, 1, 4, 4, generator=generator, dtype=dtype) for _ in range(3))
    return Draw(x0, t, alpha, sigma, t, eps, xi)


@pytest.mark.parametrize("name", ["ddpm", "ip", "ddpm-y"])
def test_a_trained_linear_network_finds_the_optimum_of_its_objective(name: str) -> None:
    """White data of variance λ, five levels, γ = ½: slopes within 2 %, where the three optima lie 6
    % to 25 % apart."""
    schedule = from_alphas_cumprod([0.9, 0.7, 0.5, 0.3, 0.1])
    x = images(512)
    power, gamma = float((x**2).mean()), 0.5
    signal, noise, wide = schedule.alpha**2 * power, schedule.sigma**2, 1 + gamma**2
    optimum = {
        "ddpm": schedule.sigma / (signal + noise),
        "ip": schedule.sigma / (signal + noise * wide),
        "ddpm-y": schedule.sigma * math.sqrt(wide) / (signal + noise * wide),
    }
    settings = {
        "iterations": 800,
        "batch_size": 128,
        "learning_rate": 2e-2,
        "warmup": 20,
        "ema": 0.98,
        "held_out": 0,
    }
    given = {} if name == "ddpm" else {"gamma": gamma}
    model = eb.train(x, net=Slopes(5), schedule=schedule, objective=name, **settings, **given)
    for other, slope in optimum.items():
        error = np.abs(weights(model).numpy() / slope - 1)
        assert (error.max() < 0.02) == (other == name), (other, error)


def test_a_schedule_of_perturbations_is_used_level_by_level() -> None:
    draw = replace(a_draw(), xi=torch.full((4, 1, 4, 4), 2.0))
    seen = []

    def net(y: Tensor, timestep: Tensor) -> Tensor:
        seen.append((y - draw.x) / draw.sigma / 2)
        return y

    objective("ip", SCHEDULE, gamma=(0.1, 0.4))(net, draw)
    expected = 0.1 + 0.3 * draw.index / 999
    assert torch.allclose(seen[0].mean((1, 2, 3)), expected, atol=1e-5)
    by_level = objective("ip", SCHEDULE, gamma=np.linspace(0.1, 0.4, 1000)).gamma
    assert np.allclose(by_level, objective("ip", SCHEDULE, gamma=(0.1, 0.4)).gamma)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
def test_targets_are_what_the_prediction_types_say(kind: str) -> None:
    draw = a_draw(dtype=torch.float64)
    for i, t in enumerate(draw.index.tolist()):
        a, b = prediction_coefficients(kind, SCHEDULE.level(t))
        assert torch.allclose(target(kind, draw)[i], a * draw.x0[i] + b * draw.eps[i], rtol=1e-12)
    loss = objective("ddpm", SCHEDULE, kind)(lambda y, t: torch.zeros_like(y), draw)
    assert loss == target(kind, draw).square().mean()


def test_without_perturbation_all_are_ddpm() -> None:
    net, draw = small().eval(), a_draw()
    plain = objective("ddpm", SCHEDULE)(net, draw)
    for name, off in {
        "ip": {"gamma": 0},
        "ddpm-y": {"gamma": 0},
        "gp": {"strength": 0},
        "wd": {"strength": 0},
    }.items():
        assert objective(name, SCHEDULE, **off)(net, draw, list(net.parameters())) == plain
        assert objective(name, SCHEDULE)(net, draw, list(net.parameters())) != plain


def test_the_gradient_penalty_is_the_jacobian_norm() -> None:
    """The rows of a Hadamard matrix are probes over which the estimate's mean is exact, for every
    image."""
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    net, draw = small().eval().double(), a_draw(dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: net(y[None], None)[0]))(draw.x)
    exact = jacobian.flatten(1).square().sum(1)
    estimates = torch.stack(
        [
            jacobian_norm(net, draw.x, draw.timestep, v.expand(4, 16).reshape(4, 1, 4, 4))[1]
            for v in hadamard
        ]
    )
    assert torch.allclose(estimates.mean(0), exact.float(), rtol=1e-6)
    assert estimates.std(0).min() > 0.01 * exact.min()
    loss = objective("gp", SCHEDULE, strength=0.5)(net, draw)
    _, norm = jacobian_norm(net, draw.x, draw.timestep, draw.xi.sign())  # type: ignore[union-attr]
    assert torch.allclose(loss, objective("ddpm", SCHEDULE)(net, draw) + 0.5 * norm.mean())
    grad = torch.autograd.grad(loss, net.layers[1].weight)[0]
    step = 1e-6 * grad / grad.norm()
    with torch.no_grad():
        net.layers[1].weight += step
    change = objective("gp", SCHEDULE, strength=0.5)(net, draw) - loss
    # The norm is accumulated in float32.
    assert change.item() == pytest.approx((grad * step).sum().item(), rel=0.5)


def test_the_gradient_penalty_runs_through_attention() -> None:
    options = {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    model = eb.train(
        images(), net=options, objective="gp", sample_every=0, **BRIEF | {"iterations": 1}
    )
    assert torch.isfinite(weights(model)).all()


def test_coupled_decay_adds_twice_lambda_theta_to_the_gradient() -> None:
    net, draw = small().eval(), a_draw()
    parameters = list(net.parameters())
    plain, decayed = (
        torch.autograd.grad(loss(net, draw, parameters), parameters)
        for loss in (objective("ddpm", SCHEDULE), objective("wd", SCHEDULE, strength=0.3))
    )
    for p, a, b in zip(parameters, plain, decayed, strict=True):
        assert torch.allclose(b, a + 0.6 * p, atol=1e-6)


def test_the_variational_term_against_torch_distributions() -> None:
    """KL between two normals written by torch, and a likelihood that sums to one over the 256 grey
    values."""
    draw = a_draw(8, torch.float64)
    epsilon, between = draw.eps + 0.1 * draw.xi, torch.tanh(draw.xi)  # type: ignore[operator]
    bits = variational_bits(SCHEDULE, draw, draw.x, epsilon, between)
    betas = np.linspace(1e-4, 0.02, 1000)
    for i, t in enumerate(draw.index.tolist()[1:], start=1):
        now, before = SCHEDULE.alpha[t] ** 2, SCHEDULE.alpha[t - 1] ** 2
        tilde = (1 - before) / (1 - now) * betas[t]
        c0, ct = (
            math.sqrt(before) * betas[t] / (1 - now),
            math.sqrt(1 - betas[t]) * (1 - before) / (1 - now),
        )
        x = draw.x[i]
        guess = (x - math.sqrt(1 - now) * epsilon[i]) / math.sqrt(now)
        fraction = (between[i] + 1) / 2
        q = torch.distributions.Normal(c0 * draw.x0[i] + ct * x, math.sqrt(tilde))
        p = torch.distributions.Normal(
            c0 * guess + ct * x,
            (fraction * math.log(betas[t]) + (1 - fraction) * math.log(tilde)).exp().sqrt(),
        )
        assert bits[i].item() == pytest.approx(
            torch.distributions.kl_divergence(q, p).mean().item() / math.log(2), rel=1e-8
        )
    grey = torch.linspace(-1, 1, 256, dtype=torch.float64).view(-1, 1, 1, 1)
    level = [
        torch.full((256, 1, 1, 1), v[0], dtype=torch.float64)
        for v in (SCHEDULE.alpha, SCHEDULE.sigma)
    ]
    zero = torch.zeros(256, dtype=torch.int64)
    x = torch.full_like(grey, 0.2)
    one = Draw(grey, zero, *level, zero, (x - level[0] * grey) / level[1])
    bits = variational_bits(SCHEDULE, one, x, (x - level[0] * 0.21) / level[1], torch.zeros_like(x))
    assert (2.0**-bits).sum().item() == pytest.approx(1, abs=1e-6)


def test_a_hybrid_network_learns_its_variance() -> None:
    model = eb.train("digits", net="unet-tiny", objective="hybrid", sample_every=0, **BRIEF)
    assert model.learned_variance
    data = load_data("digits")
    assert eb.record(model, data, sampler="ddpm:learned_range", steps=3, n=8).n == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ddpmm"}, "allowed are ddpm, ip, ddpm-y"),
        ({"objective": "ip", "gamma": -0.1}, "gamma must be at least 0"),
        ({"objective": "ip", "gamma": math.nan}, "gamma must be at least 0"),
        ({"objective": "ip", "gamma": (0.1, 0.2, 0.3)}, r"one number for each of 1000 levels.*3"),
        ({"objective": "ddpm", "gamma": 0.1}, "no perturbation"),
        ({"objective": "gp", "strength": -1}, "lambda must be at least 0"),
        ({"objective": "ip", "strength": 1}, "no lambda"),
        ({"objective": "ip", "prediction_type": "v_prediction"}, "predicts v_prediction"),
        ({"objective": "hybrid"}, "does not learn its variance"),
        ({"net": "resnet"}, r"no network 'resnet'.*unet-small"),
        ({"net": "unet-ddpm"}, "8-fold"),
        ({"net": {"block_out_channels": (8,), "norm_num_groups": 3}}, "does not configure"),
        ({"net": {"block_out_channels": (8, 8), "in_channels": 3}}, "in_channels = 3.*need 1"),
        ({"net": nn.Identity()}, "no weights"),
        ({"schedule": "square"}, r"square.*cosine"),
        ({"iterations": 0}, "iterations must be a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\)"),
        ({"precision": "fp16"}, r"fp16.*bf16"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"on_write_error": "retry"}, r"retry.*go-on"),
        ({"device": "nowhere"}, "nowhere"),
        ({"resume": True}, "give out="),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**settings)


def test_bad_data_and_typos() -> None:
    with pytest.raises(InputError, match="no images"):
        eb.train(np.zeros((0, 1, 4, 4)))
    with pytest.raises(InputError, match=r"shape \(1, 8, 8\).*\(1, 4, 4\)"):
        run(net=eb.load_model("digits"))
    with pytest.raises(TypeError, match="gama"):
        run(objective="ip", gama=0.1)


def test_a_seed_fixes_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before, net = torch.get_rng_state(), small()
    torch.set_rng_state(before)
    first = run(net=net)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights(first), weights(run()))
    assert not torch.equal(weights(first), weights(run(seed=1)))
    assert not torch.equal(weights(first), weights(net))  # EMA and network


def test_objectives_of_one_seed_see_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Draw]] = {}
    draw = trainer._Run._draw

    def spy(self: Any, i: int) -> Any:
        drawn = draw(self, i)
        seen.setdefault(self.settings.objective, []).append(drawn[0])
        return drawn

    monkeypatch.setattr(trainer._Run, "_draw", spy)
    for name in ("ddpm", "ip", "gp"):
        run(objective=name, flips=name == "gp")
    for one, ip, gp in zip(*seen.values(), strict=True):
        for name in ("index", "eps", "timestep"):
            assert torch.equal(getattr(one, name), getattr(ip, name))
            assert torch.equal(getattr(one, name), getattr(gp, name))
        assert torch.equal(one.x0, ip.x0)
        mirrored = (gp.x0 != one.x0).flatten(1).any(1)
        assert torch.equal(gp.x0[mirrored], one.x0[mirrored].flip(-1))
        assert one.xi is None
        assert not torch.equal(ip.xi, ip.eps)  # type: ignore[arg-type]
    assert (
        sum(
            int((g.x0 != o.x0).flatten(1).any(1).sum())
            for g, o in zip(seen["gp"], seen["ddpm"], strict=True)
        )
        > 20
    )


def test_every_image_is_seen_once_before_any_is_seen_again() -> None:
    order = trainer._Order(10, Settings(batch_size=4))
    ids = np.concatenate([order.batch(i) for i in range(5)])
    assert sorted(ids[:10].tolist()) == sorted(ids[10:].tolist()) == list(range(10))
    assert ids[:10].tolist() != ids[10:].tolist()
    assert (trainer._Order(10, Settings(batch_size=4)).batch(3) == order.batch(3)).all()
    assert sorted(trainer._Order(3, Settings(batch_size=9)).batch(1).tolist()) == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
    ]


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(i, Settings(iterations=100, warmup=10)) for i in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == max(factors) == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)


def test_held_out_images_are_apart_and_the_same_for_every_seed() -> None:
    training, heldout = trainer.divide(images(50), 0.2)
    assert heldout is not None
    rows = {x.tobytes() for x in training.images}, {x.tobytes() for x in heldout.images}
    assert (len(rows[0]), len(rows[1]), len(rows[0] & rows[1])) == (40, 10, 0)
    assert trainer.divide("digits", 0.5)[0].hash == load_data("digits", split="train").hash
    assert trainer.divide(images(50), 0)[1] is None


def test_a_run_on_disk(tmp_path: Path) -> None:
    out = tmp_path / "run"
    model = eb.train(
        "digits",
        net="unet-tiny",
        objective="ip",
        out=out,
        checkpoint_every=5,
        sample_every=12,
        **BRIEF,
    )
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith("iteration")) == [
        "best",
        "last",
        "samples",
        "training.csv",
    ]
    with (out / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["5", "10", "12"]
    said = json.loads((out / "last" / "training.json").read_text())
    assert (said["run"]["objective"], said["run"]["gamma"], said["iteration"]) == ("ip", 0.1, 12)
    heldout = [float(row["heldout_loss"]) for row in rows]
    assert json.loads((out / "best" / "training.json").read_text())[
        "heldout_loss"
    ] == pytest.approx(min(heldout), rel=1e-6)
    assert heldout[-1] == pytest.approx(loss_by_level(model, load_data("digits")).mean(), rel=1e-5)
    loaded = eb.load_model(out)
    assert loaded.name == "run"
    assert torch.equal(weights(loaded), weights(model))
    assert np.allclose(loaded.schedule.alpha, SCHEDULE.alpha, rtol=1e-5)
    assert len(list((out / "samples").iterdir())) == 1
    with pytest.raises(InputError, match="holds a run already"):
        eb.train("digits", net="unet-tiny", out=out, **BRIEF)
    differing = BRIEF | {"learning_rate": 2e-2, "batch_size": 4}
    with pytest.raises(
        InputError,
        match=r"batch_size: 8 against 4; gamma.*learning_rate: 0.01 against 0.02; objective",
    ):
        eb.train("digits", net="unet-tiny", out=out, resume=True, **differing)


@pytest.mark.parametrize("schedule", [SCHEDULE, cosine(1000), linear(50, 1e-3, 0.3)])
def test_schedules_survive_the_way_through_diffusers(schedule: Any, tmp_path: Path) -> None:
    """To 1e-4 in σ/α: diffusers keeps betas in float32."""
    scheduler = checkpoints.scheduler(schedule, "v_prediction")
    alphas = np.cumprod(1 - scheduler.betas.double().numpy())
    assert np.allclose(np.sqrt(1 / alphas - 1), schedule.sigma / schedule.alpha, rtol=1e-4)
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
def test_fine_tuning_starts_from_the_model_and_leaves_it(tmp_path: Path) -> None:
    model = eb.load_model("digits")
    before = model.weight_hash
    tuned = eb.train(
        "digits", net=model, objective="ip", out=tmp_path / "t", **BRIEF | {"learning_rate": 1e-7}
    )
    assert model.weight_hash == before != tuned.weight_hash
    assert torch.allclose(weights(model), weights(tuned), atol=1e-5)
    assert (
        json.loads((tmp_path / "t/last/training.json").read_text())["run"]["fine_tuned"] == before
    )
    with pytest.raises(InputError, match="remedy"):
        eb.train("digits", net=eb.remedies.ip_equivalent(model, 0.1), **BRIEF)


class Explodes(Small):
    """NaN from the 8th call on."""

    calls = 0

    def forward(self, y: Tensor, timestep: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(y, timestep) * (math.nan if self.calls >= 8 else 1)


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="became nan at iteration 8"):
        run(net=Explodes(), out=tmp_path, checkpoint_every=3)
    state, said, _ = checkpoints.read(tmp_path)
    assert state["iteration"] == said["iteration"] == 6
    assert all(torch.isfinite(v).all() for v in state["net"].values())


def test_a_full_disk_keeps_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def full(*arguments: Any) -> None:
        calls.append(0)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"iteration 8.*No space left.*earlier one is kept"):
        run(out=tmp_path / "stop", checkpoint_every=4)
    assert checkpoints.read(tmp_path / "stop")[0]["iteration"] == 4
    calls.clear()
    with pytest.warns(UserWarning, match="No space left"):
        run(out=tmp_path / "on", checkpoint_every=4, on_write_error="go-on")
    assert checkpoints.read(tmp_path / "on")[0]["iteration"] == 12
    monkeypatch.undo()
    resumed = run(out=tmp_path / "stop", checkpoint_every=4, resume=True)
    assert torch.equal(weights(resumed), weights(run()))
    (tmp_path / "stop" / "last" / "trainer.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        run(out=tmp_path / "stop", resume=True)


def drive(code: str, *arguments: Any) -> list[str]:
    """The lines printed by code in a new process, which may fork: torch is loaded once, on one
    thread."""
    setup = """
        import os, signal, sys, time, traceback
        import numpy as np, torch
        torch.set_num_threads(1)
        sys.path.insert(0, sys.argv[1])
        import exposure_bias as eb
        from tests.test_training import BRIEF, Small, images, small, weights
        from exposure_bias.training import checkpoints
        def forked(function):
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                signal.alarm(100)
                code = 99
                try:
                    code = function() or 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            return pid
    """
    script = textwrap.dedent(setup) + textwrap.dedent(code)
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", script, root, *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    lines = drive(
        """
        out = sys.argv[2]
        def run(folder, resume):
            often = {"iterations": 60, "net": small(), "sample_every": 0, "checkpoint_every": 3}
            settings = BRIEF | often
            return eb.train(images(), out=folder, resume=resume, **settings)
        straight = weights(run(out + "/straight", False))
        start = time.monotonic()
        run(out + "/again", False)
        took = time.monotonic() - start
        rng, kills = np.random.default_rng(0), 0
        while kills < 8:
            pid = forked(lambda: run(out + "/killed", os.path.exists(out + "/killed/last")) and 0)
            time.sleep(rng.uniform(0.1, 0.3) * took)
            if os.waitpid(pid, os.WNOHANG)[0]:
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            if os.path.exists(out + "/killed/last"):
                print(checkpoints.read(__import__("pathlib").Path(out + "/killed"))[0]["iteration"])
        resumed = run(out + "/killed", os.path.exists(out + "/killed/last"))
        print("same" if torch.equal(weights(resumed), straight) else "different")
        """,
        tmp_path,
    )
    assert lines[-1] == "same"
    assert len(lines) > 1  # how many kills find a checkpoint depends on the machine
    rest = {p.name for p in (tmp_path / "killed").iterdir()} - {"last", "best", "training.csv"}
    assert {name for name in rest if not name.startswith((".", "iteration"))} == set()


PROCESSES = """
    import json
    def together(function, size=2):
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3]}
        os.environ |= {"WORLD_SIZE": str(size)}
        def begin(rank):
            os.environ["RANK"] = str(rank)
            return function(rank)
        pids = [forked(lambda rank=rank: begin(rank)) for rank in range(size)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        for name in ("RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
        return codes
"""


def a_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    """Batches of 7 (uneven) and 1 (one process empty), losses to 1e-5."""
    lines = drive(
        textwrap.dedent(PROCESSES)
        + textwrap.dedent("""
        out = sys.argv[2]
        def run(batch):
            brief = {"iterations": 6, "batch_size": batch, "log_every": 1, "sample_every": 0}
            settings = BRIEF | brief
            folder = f"{out}/train-{batch}-{os.environ.get('WORLD_SIZE', 1)}"
            eb.train(images(), net=small(dropout=0.0), out=folder, objective="ip", **settings)
        def work(rank=0):
            for batch in (7, 1):
                run(batch)
        print(*together(work, 1), *together(work))
        """),
        tmp_path,
        a_port(),
    )
    assert lines == ["0 0 0"]
    for batch in (7, 1):
        one, two = (
            csv.DictReader((tmp_path / f"train-{batch}-{k}/training.csv").read_text().splitlines())
            for k in (1, 2)
        )
        assert [float(r["loss"]) for r in one] == pytest.approx(
            [float(r["loss"]) for r in two], rel=1e-5
        )


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path: Path) -> None:
    lines = drive(
        textwrap.dedent(PROCESSES)
        + textwrap.dedent("""
        class Dies(Small):
            def forward(self, y, t):
                late = time.monotonic() > started + 1
                if os.environ["RANK"] == "1" and y.shape[0] and self.training and late:
                    os._exit(3)
                return super().forward(y, t)
        started = time.monotonic()
        def work(rank):
            try:
                forever = {"iterations": 10**6, "log_every": 10**6}
                eb.train(images(), net=Dies(), sample_every=0, **BRIEF | forever)
            except eb.InputError as error:
                print(error, flush=True)
                return 7
        print(*together(work))
        """),
        tmp_path,
        a_port(),
    )
    assert lines[-1] == "7 3"
    assert "process 0 of 2: another process of this run is gone" in lines[0]


@pytest.mark.slow
def test_the_script_makes_a_folder_diffusers_loads(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "analyses" / "train_bundled.py"
    spec = importlib.util.spec_from_file_location("train_bundled", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.make(
        "digits-ip",
        "digits",
        tmp_path / "run",
        tmp_path / "frozen",
        script.SMOKE | {"iterations": 3},
        False,
    )
    assert json.loads((tmp_path / "frozen" / "training.json").read_text())["run"]["gamma"] == 0.1
    pipe = DDPMPipeline.from_pretrained(tmp_path / "frozen", low_cpu_mem_usage=False)
    assert len(pipe.scheduler.timesteps) == 1000


def recipe(said: dict[str, Any]) -> dict[str, Any]:
    """What a bundled model's provenance says of its run; the digits' is older and flat."""
    return said.get("run", said)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_model_is_what_its_provenance_says(name: str) -> None:
    folder = FOLDER / name
    said = json.loads((folder / "training.json").read_text())
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 1_000_000
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as tensors:
        assert {tensors.get_tensor(key).dtype for key in tensors.keys()} == {torch.float16}  # noqa: SIM118
    model, data = eb.load_model(name), name.removesuffix("-ip")
    assert np.allclose(model.schedule.alpha, SCHEDULE.alpha, rtol=1e-5)
    assert 150_000 < sum(p.numel() for p in model.net.parameters()) == said["parameters"] < 350_000
    training, heldout = (load_data(data, split=split) for split in ("train", "test"))
    assert recipe(said)["data"]["hash"] == training.hash
    hashes = said["split"]["held_out"]["hash"] if "split" in said else said["data"]["heldout_hash"]
    assert hashes == heldout.hash
    errors = loss_by_level(model, heldout)
    assert errors.mean() == pytest.approx(said["heldout_loss"], rel=0.01)
    assert errors == pytest.approx(said["heldout_loss_by_level"], rel=0.01)
    with (folder / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["iteration"]) == recipe(said)["iterations"]
    assert len(rows) <= 200


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_bundled_models_differ_in_the_objective_only(data: str) -> None:
    said = [
        json.loads((FOLDER / name / "training.json").read_text()) for name in (data, f"{data}-ip")
    ]
    assert [(recipe(s)["objective"], recipe(s)["gamma"] or 0.0) for s in said] == [
        ("ddpm", 0.0),
        ("ip", 0.1),
    ]
    for key in ("seed", "iterations", "batch_size", "learning_rate", "ema", "data"):
        assert recipe(said[0])[key] == recipe(said[1])[key]
    if data == "digits":
        # Where the image is gone, ε* is the input and ε_IP the input over 1 + γ²: hence this much
        # more ddpm loss.
        ddpm, ip = (s["heldout_loss_by_level"][-1] for s in said)
        assert ip - ddpm == pytest.approx((0.1**2 / (1 + 0.1**2)) ** 2, rel=0.1)


def test_the_loss_of_a_schedule_with_few_levels_has_a_range_for_each() -> None:
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    model = eb.Denoiser(
        net,
        schedule=eb.schedules.linear(4),
        prediction_type="epsilon",
        shape=(1, 8, 8),
        call=lambda net, x, t: net(x),
    )
    assert trainer.loss_by_level(model, eb.load_data("digits"), limit=8).shape == (4,)
