"""Nothing wrong in silence: what once gave wrong numbers without a word, each with its right value.

Missing weights, wrappers and modes have their tests in test_pipelines, test_adm and test_unwrap;
other training laws in test_families."""

import argparse
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import exposure_bias as eb
from exposure_bias import cli, files
from exposure_bias.adapters.schedulers import observed, sampler_for
from exposure_bias.cli import commands, main
from exposure_bias.clipping import Convention
from exposure_bias.data import Data
from exposure_bias.fidelity import features
from exposure_bias.fidelity.moments import Moments
from exposure_bias.recording import Recording
from exposure_bias.running.setup import source_of
from exposure_bias.training import checkpoints
from exposure_bias.training.objectives import DEFAULT_GAMMA, Draw, objective
from exposure_bias.training.trainer import ema_in_words

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # diffusers' own, of NumPy 2

SHAPE = (1, 4, 4)
SCHEDULE = eb.schedules.linear(1000)


def images(n: int = 64) -> Data:
    """Draws of N(0, 0.09 I), but for the few beyond ±1."""
    x = np.random.default_rng(0).normal(0, 0.3, (n, *SHAPE)).astype(np.float32)
    return eb.load_data(x.clip(-1, 1))


def model() -> eb.Denoiser:
    """The exact denoiser of `images`' law."""
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.09, SCHEDULE)


def of(net: Any, schedule: Any = SCHEDULE, **options: Any) -> eb.Denoiser:
    """A denoiser of an ε-network."""
    options = {"prediction_type": "epsilon", "shape": SHAPE} | options
    return eb.Denoiser(net, schedule=schedule, **options)


def same(one: Recording, other: Recording) -> bool:
    """Whether two recordings hold the same numbers, bit for bit."""
    pairs = ((one[s][v].values, other[s][v].values) for s in one.streams for v in one[s].data_vars)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


class Tenth(nn.Module):
    """ε̂ = x/10, in float64, so that an input could share its storage with a state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.1, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * self.weight


class Spoils(Tenth):
    """Writes into what it is given."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        output = super().forward(x, t)
        x.fill_(7.0)
        t.fill_(3)
        return output


class Reuses(Tenth):
    """Gives the same storage at every call, as CUDA graphs do."""

    kept: Tensor | None = None

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.kept is None or self.kept.shape != x.shape:
            self.kept = torch.empty_like(x)
        return self.kept.copy_(super().forward(x, t))


class Dropping(Tenth):
    """Half of its output is dropped in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.drop(super().forward(x, t))


@pytest.mark.filterwarnings("ignore:.*no denoiser")
@pytest.mark.parametrize("sampler", ["ddpm", "heun"])
@pytest.mark.parametrize("net", [Spoils, Reuses, Dropping])
def test_storage_and_mode_of_a_network(net: Any, sampler: str) -> None:
    given = net().train()
    got = eb.record(of(given), images(), sampler=sampler, steps=5, n=16)
    assert same(got, eb.record(of(Tenth()), images(), sampler=sampler, steps=5, n=16))
    assert all(module.training for module in given.modules())


class InPlace(eb.samplers.DDIM):
    """DDIM that writes into its state and its noise."""

    def step(self, x: Any, now: Any, s: Any, t: Any, z: Any, predict: Any) -> Any:
        done = super().step(x, now, s, t, z, predict)
        x[...] = 7.0
        if z is not None:
            z[...] = 7.0
        return done


def test_storage_of_a_sampler() -> None:
    options: dict[str, Any] = {"steps": 5, "n": 16, "streams": ("forward", "chain", "teacher")}
    got, expected = (
        eb.record(model(), images(), sampler=sampler, **options)
        for sampler in (InPlace(1.0), "ddim:1")
    )
    assert same(got, expected)


# Schedulers


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("DDIMScheduler:timestep_spacing=linspace", "leading"),
        ("DDIMScheduler:timestep_spacing=trailing", "leading"),
        ("PNDMScheduler:timestep_spacing=linspace", "leading"),
    ],
)
def test_states_at_other_levels_than_the_grid_says(given: str, cure: str) -> None:
    """Their α is off by 0.7 to 3 % at 23 steps; with the cure by nothing."""
    with pytest.raises(eb.InputError, match=f'other noise levels.*set timestep_spacing="{cure}"'):
        sampler_for(given, model(), 23)
    cured = sampler_for(f"{given.partition('=')[0]}={cure}", model(), 23)
    assert cured.level_error < 1e-4  # type: ignore[attr-defined]


def test_a_loop_at_other_levels_is_not_observed() -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(10)
    with pytest.raises(eb.InputError, match="other noise levels"):
        observed(scheduler, of(Tenth()))


class Elsewhere(diffusers.EulerAncestralDiscreteScheduler):  # type: ignore[misc]
    """Adds noise that it draws as `draw` does, as large as one in a hundred."""

    draw: Any = staticmethod(torch.randn_like)

    def step(self, *given: Any, **options: Any) -> Any:
        done = super().step(*given, **options)
        return (done[0] + 0.01 * self.draw(done[0]), *done[1:])


class Quiet(diffusers.EulerDiscreteScheduler):  # type: ignore[misc]
    """A step of Euler's and noise of one in a hundred, drawn as `draw` does."""

    draw: Any = staticmethod(torch.randn_like)

    def step(self, *given: Any, **options: Any) -> Any:
        done = super().step(*given, **options)
        return (done[0] + 0.01 * self.draw(done[0]), *done[1:])


DRAWS = {
    "randn": lambda x: torch.randn(x.shape, dtype=x.dtype),
    "randn of numbers": lambda x: torch.randn(*x.shape, dtype=x.dtype),
    "randn_like": torch.randn_like,
    "normal": lambda x: torch.normal(0.0, 1.0, x.shape, dtype=x.dtype),
    "normal of tensors": lambda x: torch.normal(torch.zeros_like(x), torch.ones_like(x)),
    "normal_": lambda x: torch.empty_like(x).normal_(),
}


@pytest.mark.parametrize("way", DRAWS)
def test_noise_belongs_to_the_sample_however_it_is_drawn(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quiet, "draw", staticmethod(DRAWS[way]))
    scheduler = Quiet(beta_schedule="linear", timestep_spacing="leading")
    assert sampler_for(scheduler, of(Tenth()), 4).stochastic
    runs = []
    for size in (16, 5):
        torch.manual_seed(size)
        runs.append(
            eb.record(
                model_of_epsilon(), images(), sampler=scheduler, steps=4, n=16, batch_size=size
            )
        )
    values = [run["chain"]["epsilon_norm"].transpose("sample", "step").values for run in runs]
    np.testing.assert_allclose(*values, rtol=1e-5)
    other = eb.record(model_of_epsilon(), images(), sampler=scheduler, steps=4, n=16, seed=1)
    assert not np.allclose(
        other["chain"]["epsilon_norm"], runs[0]["chain"]["epsilon_norm"], rtol=1e-5
    )


def model_of_epsilon() -> eb.Denoiser:
    """`model`, answering in ε: (x − α E[x_0 | x])/σ = σ x/(0.09 α² + σ²)."""
    alpha, sigma = (torch.from_numpy(v) for v in (SCHEDULE.alpha, SCHEDULE.sigma))

    def net(x: Tensor, t: Tensor) -> Tensor:
        a, s = (v[t.long()].view(-1, 1, 1, 1) for v in (alpha, sigma))
        return (s * x.double() / (0.09 * a**2 + s**2)).to(x.dtype)

    return of(net)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.from_numpy(np.random.default_rng().normal(size=x.shape)),
        torch.rand_like,
        lambda x: torch.empty_like(x).uniform_(),
    ],
)
def test_noise_by_other_means_is_refused(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiet, "draw", staticmethod(draw))
    with pytest.raises(eb.InputError, match=r"draws noise by other means than torch\.randn"):
        sampler_for(Quiet(beta_schedule="linear"), of(Tenth()), 4)
    with pytest.raises(eb.InputError, match="draws noise 2 times a step"):
        sampler_for(Elsewhere(beta_schedule="linear"), of(Tenth()), 4)


def test_clipping_of_schedulers() -> None:
    """What clips says its range; CogVideoX's has the option and never reads it."""
    for cls, convention in (
        (diffusers.DDPMScheduler, Convention.REDERIVE),
        (diffusers.DDIMScheduler, Convention.KEEP_EPSILON),
        (diffusers.HeunDiscreteScheduler, Convention.REDERIVE),
    ):
        scheduler = cls(
            clip_sample=True,
            clip_sample_range=2.0,
            beta_schedule="linear",
            beta_start=1e-4,
            beta_end=0.02,
        )
        clip = sampler_for(scheduler, of(Tenth()), 5).clip  # type: ignore[attr-defined]
        assert (clip.convention, clip.bound) == (convention, 2.0)
    options = {
        "snr_shift_scale": 1.0,
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
    }
    cog = diffusers.CogVideoXDDIMScheduler(clip_sample=True, **options)
    assert sampler_for(cog, of(Tenth()), 5).clip is None  # type: ignore[attr-defined]
    with pytest.raises(eb.InputError, match=r"clip_sample.*use --clip.*clip_sample_range="):
        sampler_for("DDIMScheduler:clip_sample_range=2", model(), 5)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_the_advice_on_variances_is_a_value_that_the_class_has(name: str) -> None:
    with pytest.raises(eb.InputError) as error:
        sampler_for(f"{name}:variance_type=learned_range", of(Tenth()), 5)
    cured = f"{name}:variance_type=fixed_small" if "use fixed_small" in str(error.value) else name
    assert ("leave variance_type out" in str(error.value)) == (name != "DDPMScheduler")
    assert sampler_for(cured, of(Tenth()), 5).stochastic == (name == "DDPMScheduler")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("EulerDiscreteScheduler", "rescale_betas_zero_snr=true"),
        ("DPMSolverMultistepScheduler", "rescale_betas_zero_snr=true"),
        ("LMSDiscreteScheduler", 'timestep_spacing="leading"'),
    ],
)
def test_zero_terminal_snr_names_an_option_that_helps(name: str, cure: str) -> None:
    given = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    abar = given.alphas_cumprod.double().numpy().copy()
    abar[-1] = 0.0
    zero = of(Tenth(), eb.schedules.from_alphas_cumprod(abar), prediction_type="v_prediction")
    with pytest.raises(eb.InputError) as error:
        sampler_for(name, zero, 10)
    assert str(error.value).endswith(f"; set {cure}")
    assert np.isfinite(sampler_for(f"{name}:{cure}", zero, 10).teacher).all()  # type: ignore[attr-defined]


def test_cogvideox_is_adapted_with_its_own_schedule() -> None:
    options: dict[str, Any] = {
        "sample_size": 4,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "add_attention": False,
    }
    scheduler = diffusers.CogVideoXDDIMScheduler()
    adapted = eb.adapt(diffusers.UNet2DModel(**options), scheduler)
    expected = scheduler.alphas_cumprod.double().sqrt().numpy()
    np.testing.assert_allclose(adapted.schedule.alpha, expected, rtol=1e-3)
    assert sampler_for(scheduler, adapted, 5).own_levels  # type: ignore[attr-defined]


# Samplers, norms, moments


def test_heun_where_alpha_begins_near_zero() -> None:
    with pytest.warns(UserWarning, match="heun works in x/α.*use ddim"):
        eb.samplers.parse("heun").levels(eb.schedules.cosine(1000), 10, "linspace")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in (SCHEDULE, eb.schedules.flow(), eb.schedules.edm()):
            eb.samplers.parse("heun").levels(schedule, 10, "linspace")


def test_norms_are_of_what_the_network_said() -> None:
    """Under clipping too: ‖x/10‖ of the states that were recorded, in both streams."""
    recording = eb.record(of(lambda x, t: 0.1 * x), images(), steps=5, n=32, clip=True)
    assert float(recording["chain"]["outside"].max()) > 0
    for stream in ("forward", "chain"):
        square = recording[stream]["state_square"].sum(("channel", "y", "x"))
        norm = recording[stream]["epsilon_norm"].isel(step=slice(-1)) ** 2
        mean = recording[stream]["state_sum"].sum(("channel", "y", "x"))
        assert np.isfinite(mean).all()
        np.testing.assert_allclose(
            norm.sum("sample") / square.isel(step=slice(-1)) * 100, 1, rtol=0.05
        )


def test_moments_far_from_zero() -> None:
    """At a mean of 1e6 standard deviations, and fewer samples than features."""
    x = np.random.default_rng(1).normal(1e6, 1, (40, 60))
    ids = np.arange(40)
    whole, half = Moments(60), Moments(60)
    for rows in (slice(0, 13), slice(13, 20)):
        whole.update(x[rows], ids[rows])
    half.update(x[20:], ids[20:])
    whole.merge(half)
    got, kept = whole.normal((3,)), ids % 16 != 3
    np.testing.assert_allclose(got.mean, x[kept].mean(0), rtol=1e-14)
    expected = np.cov(x[kept] - 1e6, rowvar=False)
    np.testing.assert_allclose(got.covariance, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((1, 1, 2)), [[1, 0.5], [0, 1]]), "symmetric"),
        ((np.zeros((1, 1, 2)), 1j * np.eye(2)), "complex"),
        ((1j * np.zeros((1, 1, 2)), 1.0), "complex"),
    ],
)
def test_laws_that_are_none(arguments: Any, message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        eb.oracles.GaussianOracle(*arguments, SCHEDULE)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda x, t: x + 1j, "complex64"),
        (lambda x, t: x.long(), "int64"),
        (lambda x, t: (x,), "returned tuple"),
        (lambda x, t: None, "returned NoneType"),
    ],
)
def test_outputs_that_are_no_predictions(net: Any, message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        eb.record(of(net), images(), steps=3, n=16)


def test_one_sampler_twice() -> None:
    with pytest.raises(eb.InputError, match=r"different, got ddpm:fixed_small, ddpm:fixed_small"):
        eb.chain_length_fid(model(), images(), (2,), sampler=["ddpm", "ddpm"], features="pixel")
    with pytest.raises(eb.InputError, match="must be different"):
        eb.solver_curve(model(), images(), ["ddim", "ddim:0"], [2], n=32)


WRONG = [1.5, "4", True, [4], math.nan, None]
NUMBERS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "record": (
        eb.record,
        {"steps": 3, "n": 16},
        ("steps", "n", "seed", "batch_size", "first", "refine"),
    ),
    "rollouts": (
        eb.rollouts,
        {"steps": 3, "n": 16},
        ("steps", "n", "seed", "batch_size", "replicates", "refine"),
    ),
    "telescope": (
        eb.telescope,
        {"steps": 3, "n": 16},
        ("steps", "n", "seed", "batch_size", "refine"),
    ),
    "chain_errors": (eb.chain_errors, {"lengths": (3,), "n": 16}, ("n", "seed", "batch_size")),
    "chain_length_fid": (
        eb.chain_length_fid,
        {"lengths": (3,), "n": 16, "features": "pixel"},
        ("n", "seed", "batch_size"),
    ),
    "error_budget": (eb.error_budget, {"steps": 3, "n": 32}, ("steps", "n", "seed", "batch_size")),
    "diagnose": (eb.diagnose, {"steps": 3, "n": 32}, ("steps", "n", "seed", "batch_size")),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_the_wrong_type(name: str) -> None:
    function, given, numbers = NUMBERS[name]
    for number in numbers:
        for value in WRONG:
            if (number, value) != ("n", None):
                with pytest.raises(eb.InputError):
                    function(model(), images(), **given | {number: value})


@pytest.mark.parametrize("value", [1.5, "4", True, math.nan, 0])
def test_lengths_of_the_wrong_type(value: Any) -> None:
    for function in (eb.chain_errors, eb.chain_length_fid):
        with pytest.raises(eb.InputError):
            function(model(), images(), lengths=(value,))


@pytest.mark.parametrize("name", ["iterations", "batch_size", "seed", "warmup", "ema", "held_out"])
def test_settings_of_the_wrong_type(name: str) -> None:
    for value in (1.5, "4", True, [4], None):
        with pytest.raises(eb.InputError):
            eb.train(images().images, **{"iterations": 1, name: value})


def test_where_a_model_came_from_is_short() -> None:
    one = model()
    one.source = {"repo": "a/b", "revision": "main", "commit": "c0ffee", "files": {"f": "0" * 64}}
    assert source_of(one) == "a/b@c0ffee"
    assert source_of(model()) == ""


# Training


def test_how_weights_were_averaged_is_said() -> None:
    """After 600 iterations at 0.999 the decay has warmed up to 601/610."""
    words = ema_in_words(0.999, 600)
    assert words.endswith("at the end 0.9852")
    assert "min(0.999, (1 + i)/(10 + i))" in words


def test_ip_with_a_learned_variance() -> None:
    """L_simple at the perturbed input, and L_t of the variance there: both are
    written out anew, KL by torch.distributions."""
    generator = torch.Generator().manual_seed(0)
    x0, eps, xi = (
        torch.randn(6, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    index = torch.tensor([1, 5, 100, 400, 800, 999])
    alpha, sigma = (
        torch.from_numpy(v)[index].view(-1, 1, 1, 1) for v in (SCHEDULE.alpha, SCHEDULE.sigma)
    )
    draw = Draw(x0, index, alpha, sigma, index, eps, xi)

    def net(y: Tensor, t: Tensor) -> Tensor:
        return torch.cat([0.7 * y, torch.tanh(y)], dim=1)

    y = alpha * x0 + sigma * (eps + DEFAULT_GAMMA * xi)
    simple = (0.7 * y - eps).square().mean()
    before = torch.from_numpy(SCHEDULE.alpha**2)[index - 1].view(-1, 1, 1, 1)
    now = alpha**2
    beta = 1 - now / before
    tilde = (1 - before) / (1 - now) * beta
    c0, ct = before.sqrt() * beta / (1 - now), (now / before).sqrt() * (1 - before) / (1 - now)
    share = (torch.tanh(y) + 1) / 2
    v = (share * beta.log() + (1 - share) * tilde.log()).exp()
    q = torch.distributions.Normal(c0 * x0 + ct * y, tilde.sqrt().expand_as(y))
    p = torch.distributions.Normal(c0 * (y - sigma * 0.7 * y) / alpha + ct * y, v.sqrt())
    bits = torch.distributions.kl_divergence(q, p).flatten(1).mean(1) / math.log(2)
    loss = objective("ip", SCHEDULE, learned_variance=True)(net, draw)
    assert loss.item() == pytest.approx((simple + bits.mean()).item(), rel=1e-6)
    plain = objective("ip", SCHEDULE)(lambda y, t: net(y, t)[:, :1], draw)
    assert plain.item() == pytest.approx(simple.item(), rel=1e-12)
    with pytest.raises(eb.InputError, match="wd does not train: use hybrid or ip"):
        objective("wd", SCHEDULE, learned_variance=True)


BRIEF: dict[str, Any] = {
    "iterations": 4,
    "batch_size": 8,
    "warmup": 1,
    "log_every": 2,
    "evaluate_every": 4,
    "checkpoint_every": 2,
    "sample_every": 0,
}
SMALL: dict[str, Any] = {
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def test_a_new_network_that_learns_its_variance_for_ip() -> None:
    trained = eb.train(
        images().images, net=dict(SMALL), objective="ip", learned_variance=True, **BRIEF
    )
    assert trained.learned_variance
    eb.record(trained, images(), sampler="ddpm:learned_range", steps=2, n=16, streams=("chain",))


def test_every_checkpoint_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = checkpoints.write
    lost = {2, 4}

    def write(run: Path, iteration: int, *rest: Any) -> Path:
        if iteration in lost:
            raise files.CannotWrite("cannot write the checkpoint: disk full")
        return written(run, iteration, *rest)

    monkeypatch.setattr(checkpoints, "write", write)
    np.save(tmp_path / "x.npy", images().images)
    net = tmp_path / "net.json"
    net.write_text(json.dumps(SMALL))
    data = ["--data", "test_silence:images", "--net", str(net), "--on-write-error", "go-on"]
    numbers = [
        part
        for name, value in BRIEF.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert main(["train", "-o", str(tmp_path / "a"), *data, *numbers]) == 2
    said = capsys.readouterr().err
    assert "nothing of this run is kept" in said
    assert "wrote" not in said
    lost.remove(2)
    assert main(["train", "-o", str(tmp_path / "b"), *data, *numbers]) == 0
    assert "keeps iteration 2 of 4" in capsys.readouterr().err
    lost.clear()
    assert main(["train", "-o", str(tmp_path / "c"), *data, *numbers]) == 0
    said = capsys.readouterr().err
    assert f"wrote {tmp_path}/c" in said
    assert "weights averaged with decay" in said


class Renamed(diffusers.UNet2DModel):  # type: ignore[misc]
    """A subclass that computes what its base does."""


class Changed(diffusers.UNet2DModel):  # type: ignore[misc]
    """A subclass that does not."""

    def forward(self, *given: Any, **options: Any) -> Any:
        return super().forward(*given, **options)


def test_a_subclass_is_saved_as_what_it_computes(tmp_path: Path) -> None:
    given: dict[str, Any] = SMALL | {
        "sample_size": 4,
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "add_attention": False,
    }
    scheduler = diffusers.DDPMScheduler()
    for cls in (Renamed, Changed):
        adapted, folder = eb.adapt(cls(**given), scheduler), tmp_path / cls.__name__
        folder.mkdir()
        checkpoints.save_network(adapted, folder)
        if cls is Renamed:
            assert eb.load_model(folder).weight_hash == adapted.weight_hash
        else:
            assert [f.name for f in folder.iterdir()] == ["weights.safetensors"]


# Files


def test_a_recording_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, write = [], files.write_bytes
    monkeypatch.setattr(files, "write_bytes", lambda *a: (counted.append(a[0]), write(*a)))
    out = tmp_path / "run.nc"
    given = ["--model", "test_silence:model", "--data", "test_silence:images"]
    for _ in range(2):  # and a run that is complete already, not again
        assert main(["record", *given, "--steps", "3", "-n", "16", "-o", str(out)]) == 0
    assert len(counted) == 1


def test_a_cache_that_cannot_be_written_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(features.CACHE, str(tmp_path / "file"))
    given = features.extractor("pixel", SHAPE)
    costly = replace(given, costly=True)
    with pytest.warns(UserWarning, match="features are not kept for the next time"):
        found = features.extract_real(costly, images(), np.arange(32), quantise=False)
    expected = images().images[:32].reshape(32, -1)
    np.testing.assert_allclose(found.pool.features, expected, atol=1e-6)


# The command line

RUN = ["--model", "test_silence:model", "--data", "test_silence:images", "-n", "32"]
SHORT = [*RUN, "--steps", "3"]
TRAIN = ["--data", "test_silence:images", "--net", "unet-tiny", "--precision", "fp32"]
INVOCATIONS: dict[str, list[list[str]]] = {
    "record": [SHORT],
    "spectrum": [SHORT],
    "variance-gap": [SHORT],
    "published-delta": [SHORT],
    "epsilon-norm": [SHORT],
    "state-error": [[*SHORT, "--streams", "chain,teacher,forward"]],
    "error-hist": [[*RUN, "--lengths", "3", "--per-test", "16"]],
    "normality": [[*RUN, "--lengths", "3", "--per-test", "16"]],
    "rollouts": [SHORT],
    "telescope": [SHORT],
    "network-error": [[*RUN, "--levels", "4", "--no-exposure"]],
    "levels": [[*RUN[:4], "--calls", "3", "--no-certificate"]],
    "chain-length-fid": [[*RUN, "--lengths", "3", "--features", "pixel"]],
    "budget": [SHORT],
    "drift": [["-n", "16", "--frames", "1", "--steps", "2"]],
    "diagnose": [SHORT],
    "compare": [["test_silence:model", "test_silence:model", *SHORT[2:], "--lengths", "3"]],
    "train": [TRAIN],
    "strip": [SHORT],
    "report": [[]],
    "models": [[]],
}
# What each command writes to, where it writes one thing.
OUT = {"record": "run.nc", "train": "run", "strip": "strip.png", "report": "report.html"}
BY_MAIN = {"config", "quiet", "verbose"}  # read before a command runs, the same for all of them


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_option_is_read(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    read: set[str] = set()

    class Watched(argparse.Namespace):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    check = cli._check_read

    def begin(options: argparse.Namespace) -> None:
        read.clear()  # what argparse itself read
        check(options)

    monkeypatch.setattr(argparse, "Namespace", Watched)
    monkeypatch.setattr(cli, "_check_read", begin)
    monkeypatch.setattr("exposure_bias.training.trainer._Run.step", _no_step)
    offered = {row.dest for row in commands.COMMANDS[command].options} - BY_MAIN
    if command == "train":  # which stops here before it says anything
        offered -= {"explain", "format", "wide"}
    seen: set[str] = set()
    for given in INVOCATIONS[command]:
        if command == "report":
            assert main(["record", *SHORT, "-o", str(tmp_path / "run.nc")]) == 0
            given = [str(tmp_path / "run.nc")]
        out = ["-o", str(tmp_path / OUT[command])] if command in OUT else []
        code = main([command, *given, *out])
        assert code in (0, 2), capsys.readouterr().err
        seen |= read
    assert not offered - seen, f"{command} accepts but never reads {sorted(offered - seen)}"


def _no_step(run: Any) -> None:
    raise eb.InputError("far enough")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "-o", "x", "--fine-tune", "digits", "--schedule", "cosine"],
            "leave out --sched",
        ),
        (["train", "-o", "x", "--held-out", "0.3"], "--data digits decides that already: leave"),
        (["train", "-o", "x", "--limit-data", "2GB"], "leave out --limit-data"),
        (["train", "-o", "x", "--any-range", "--data", "patches"], "leave out --any-range"),
        (["train", "-o", "x", "--objective", "ddpm", "wd", "--gamma", "0.2"], "--gamma is for ip"),
        (["train", "-o", "x", "--objective", "ip", "--lambda", "0.2"], "--lambda is for gp and wd"),
        (["chain-fid", "--samplers", "ddpm", "ddim", "--sampler", "heun"], "leave out --sampler"),
        (["budget", "--samplers", "ddpm", "ddim", "--sampler", "heun"], "leave out --sampler"),
        (["chain-fid", "--checkpoints", ".", "--model", "patches"], "leave out --model"),
    ],
)
def test_an_option_that_another_decides(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
