"""Loops of other libraries, watched at the network: what is recorded is what the loop saw.

Every loop is run on a network whose calls are written down beside `observe`, in the loop's own
words: its state, its σ, its x̂_0. Stand-ins of the samplers are in `libraries`; where the library
itself is installed it is run as well."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import libraries
import numpy as np
import pytest
import torch
from libraries import SHAPE, EDMPrecond, Net, TimeFirst
from networks import fails, random, told
from torch import Tensor, nn

import exposure_bias as eb
from exposure_bias.observer.noise import added, goes_on
from exposure_bias.statistics.collector import Collector
from exposure_bias.streams import Step

BATCH = 6
START = random(BATCH, *SHAPE, seed=5).double()


class Calls:
    """A network as a loop sees it, which writes down what it was asked and said."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.asked: list[tuple[Tensor, float, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def __call__(self, x: Tensor, sigma: Any, *rest: Any, **named: Any) -> Tensor:
        said: Tensor = self.net(x, sigma, *rest, **named)
        first = float(torch.as_tensor(sigma).flatten()[0])
        self.asked.append((x.double().clone(), first, said.double().clone()))
        return said

    def steps(self) -> list[tuple[Tensor, float, Tensor]]:
        """Of several calls at one level the last one, which has the state that is kept."""
        return [
            one
            for one, then in zip(self.asked, [*self.asked[1:], None], strict=True)
            if then is None or abs(one[1] / then[1] - 1) > 1e-6
        ]


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


def edm_net() -> Any:
    return EDMPrecond().requires_grad_(False)


def agree(rec: eb.Recording, taken: list[Step], calls: list[tuple[Tensor, float, Tensor]]) -> None:
    """States and ε̂-norms of a recording of one batch against the loop's own, to 10⁻⁶."""
    *noisy, _ = taken
    assert len(noisy) == len(calls) == rec.run.steps
    norms = rec["chain"]["epsilon_norm"].transpose("step", "sample").values
    for step, norm, (x, sigma, x0) in zip(noisy, norms[:, :BATCH], calls, strict=False):
        assert step.level.sigma == pytest.approx(sigma, rel=1e-6)
        assert (step.x - x).abs().max() <= 1e-6 * x.abs().max()
        expected = ((x - x0) / sigma).flatten(1).norm(dim=1)
        np.testing.assert_allclose(norm, expected, rtol=1e-6)


def edm_images(n: int = 32) -> Any:
    x = np.random.default_rng(0).normal(0, 0.5, (n, *SHAPE)).astype(np.float32)
    return eb.load_data(x, value_range=None)


CHURNED: dict[str, Callable[[Any], Tensor]] = {
    "edm": lambda net: libraries.edm_sampler(net, START, 12, churn=40, noise=1.003),
    "edm where churn is on in between": lambda net: libraries.edm_sampler(
        net, START, 12, churn=40, between=(0.05, 50.0), noise=1.003
    ),
    "edm, churn beyond the first level": lambda net: libraries.edm_sampler(
        net, START, 40, churn=80, between=(0.0, 79.0)
    ),
    "edm in eight coarse steps": lambda net: libraries.edm_sampler(
        net, START, 8, churn=80, between=(0.05, 50.0)
    ),
    "edm's Euler": lambda net: libraries.edm_sampler(net, START, 12, heun=False, churn=40),
    "restart": lambda net: libraries.restart_sampler(net, START, 12, 0.3, 2.0, 2),
    "restart's Euler": lambda net: libraries.restart_sampler(
        net, START, 12, 0.3, 2.0, 3, heun=False
    ),
    "consistency": lambda net: libraries.consistency_sampler(net, START, [80.0, 24.4, 5.8]),
    **{
        f"dpm_2_ancestral, η = {eta}": lambda net, eta=eta: libraries.k_ancestral(
            net, 80 * START, edm_levels(12), eta
        )
        for eta in (0.5, 1.0, 1.2)
    },
}


def edm_levels(steps: int) -> Tensor:
    return torch.tensor([level.sigma for level in eb.schedules.edm().levels(steps)])


@pytest.mark.parametrize("name", CHURNED)
def test_loops_whose_noise_rises(name: str, steps: list[Step]) -> None:
    """Two batches of one chain: told apart although the noise rises within them, and all that was
    seen of the first one is recorded."""
    net = edm_net()
    calls, model = Calls(net), eb.adapt(net)
    with eb.observe(model, data=edm_images()) as seen:
        torch.manual_seed(1)
        CHURNED[name](calls)
        first = calls.steps()
        CHURNED[name](Calls(net))
    rec = seen.recording()
    assert rec.n == 2 * BATCH
    # Those of the first batch wait until the second one begins, and come before it.
    agree(rec, steps[: len(first) + 1], first)
    assert np.isfinite(eb.variance_gap(rec)["gap"]).all()
    assert rec.run.levels == tuple(step.level for step in steps[: len(first) + 1])


def test_what_churn_added_is_read(tmp_path: Any) -> None:
    """(σ̂² − σ²) S_noise² at the levels where there was churn, to its standard error; what two
    batches added is their mean, in a file too."""
    net = edm_net()
    model, levels = eb.adapt(net), eb.schedules.edm().levels(10)
    with eb.observe(model) as seen:
        torch.manual_seed(1)
        for _ in range(2):
            libraries.edm_sampler(net, START, 10, churn=30, between=(0.05, 50), noise=1.003)
    rec = seen.recording()
    rec.save(tmp_path / "run.nc")
    rec = eb.load(tmp_path / "run.nc")
    power = rec["chain"]["noise_power"] / rec.n
    expected = {0: 80.0**2}
    for sigma in (level.sigma for level in levels if 0.05 <= level.sigma <= 50):
        hat = sigma * 2**0.5 if 30 / 10 > 2**0.5 - 1 else sigma * 4
        (step,) = np.flatnonzero(np.isclose(rec["chain"]["sigma"], hat, rtol=1e-6))
        expected[int(step)] = (hat**2 - sigma**2) * 1.003**2
    numbers = rec.n * math.prod(SHAPE)
    for step in range(rec.run.steps):
        sigma = float(rec["chain"]["sigma"][step])
        if step in expected:
            error = math.sqrt(2 / numbers) * expected[step]
            assert abs(float(power[step]) - expected[step]) < 4 * error, step
        else:
            assert float(power[step]) < 1e-6 * sigma**2 + 1e-9, step


def test_noise_that_was_added_and_states_that_go_on() -> None:
    """The remainder of a least-squares fit; a fresh start is told from a noisier state, whatever
    its seed, at the error rate that chance alone has."""
    torch.manual_seed(0)
    past = [torch.randn(8, 3, 4, 4, dtype=torch.float64) for _ in range(3)]
    mixed = 0.3 * past[0] - 2 * past[1]
    assert added(mixed, past)[0] < 1e-20
    assert added(mixed, [*past, 2 * past[0]])[1] == pytest.approx(1)
    power, explained = added(mixed + 3 * torch.randn_like(mixed), past)
    assert power == pytest.approx(9, rel=4 * math.sqrt(2 / mixed.numel()))
    assert 0 < explained < 1
    assert added(mixed, []) == (pytest.approx(float(mixed.square().mean())), 0.0)

    kept = 0.5 * torch.randn(8, 3, 4, 4, dtype=torch.float64)
    low, high = eb.schedules.Level(1, 1, 1), eb.schedules.Level(2, 1, 2)

    def churned(scale: float) -> Tensor:
        return scale * kept + 3**0.5 * torch.randn_like(kept)

    def share(scale: float, trials: int) -> float:
        return float(np.mean([goes_on(churned(scale), high, low, [kept]) for _ in range(trials)]))

    assert share(1.0, 50) > 0.9
    assert share(0.0, 500) <= 4 / 500  # at most one in a thousand, by chance
    seed = torch.randn_like(kept)
    image = 0.4 * seed + 0.3 * kept  # what came of the seed
    assert not goes_on(80 * seed, eb.schedules.Level(80, 1, 80), low, [image])
    assert not goes_on(2 * seed, high, low, [seed])  # nothing was added


def test_batches_at_other_levels_are_told_apart_from_a_chain_that_goes_up() -> None:
    """Also where both start from one seed: twenty steps are not the end of a chain of ten."""
    net = Net(1000).requires_grad_(False)
    model = eb.Denoiser(net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE)

    def loop(count: int) -> None:
        x = START.float()
        for s, t in pairwise(model.schedule.levels(count, "leading")):
            said = net(x, torch.tensor([s.timestep]))
            x = t.alpha / s.alpha * (x - s.sigma * said) + t.sigma * said

    with told("unlike the batch before"), eb.observe(model) as seen:
        loop(10)
        loop(20)
        loop(10)
    with pytest.warns(UserWarning, match="1 batch is not in this recording of 12 samples"):
        assert seen.recording().run.steps == 10


def test_batches_are_marked_where_a_loop_does_not_show_them(steps: list[Step]) -> None:
    """One call a batch; and a restart from the first level itself."""
    net = edm_net()
    model, sigma = eb.adapt(net), torch.tensor(80.0)
    with eb.observe(model, data=edm_images()) as seen:
        for _ in range(3):
            seen.begin()
            net(80 * torch.randn_like(START), sigma)
    rec = seen.recording()
    assert (rec.n, rec.run.steps) == (3 * BATCH, 1)
    message = "different states twice at timestep 80: .*mark the beginning of each batch with begin"
    with told(message), eb.observe(model) as seen:
        for _ in range(3):
            net(80 * torch.randn_like(START), sigma)
    with fails("mark the beginning"):
        seen.recording()

    steps.clear()
    with eb.observe(model) as seen:
        for _ in range(2):
            seen.begin()
            for level in (80.0, 10.0, 80.0, 10.0, 1.0):
                net(level * torch.randn_like(START), torch.tensor(level))
    assert seen.recording().n == 2 * BATCH
    assert [s.level.sigma for s in steps[:6]] == [80.0, 10.0, 80.0, 10.0, 1.0, 0.0]
    with fails("inside the `with` block"):
        seen.begin()


def test_a_batch_after_one_that_failed_is_watched_again() -> None:
    net = edm_net()
    model = eb.adapt(net)

    def loop(x: Tensor) -> None:
        libraries.edm_sampler(net, x, 5)

    with told("went on with 2"), eb.observe(model) as seen:
        loop(START)
        net(80 * START, torch.tensor(80.0))
        net(40 * START[:2], torch.tensor(40.0))
        net(20 * START[:2], torch.tensor(20.0))
        seen.finish(random(1, 2, 3))  # of a batch that failed: there is nothing to say
        loop(START)
        loop(START)
    with pytest.warns(UserWarning, match="1 batch is not in"):
        assert seen.recording().n == 3 * BATCH


class Inner(nn.Module):
    """A network that is told a function of the level, under any name and in any order."""

    def __init__(self, told: str = "x, t") -> None:
        super().__init__()
        self.net, self.told = Net(1.0), told


class Positional(Inner):
    def forward(self, *args: Tensor) -> Tensor:
        t, x = args
        return self.net(x, t.expand(len(x)))


class OtherNames(Inner):
    def forward(self, level: Tensor, image: Tensor) -> Tensor:
        return self.net(image, level.expand(len(image)))


class Rescaled(Inner):
    """As lucidrains' ElucidatedDiffusion calls its network: c_in x and log(σ)/4."""

    def forward(self, x: Tensor, time: Tensor, self_cond: Any = None) -> Tensor:
        return self.net(x, time)


def call_elucidated(net: Any, x: Tensor, sigma: Tensor) -> Tensor:
    each = sigma.view(-1, 1, 1, 1)
    total = each**2 + 0.25
    raw = net(x / total.sqrt(), sigma.log() / 4, None)
    return 0.25 / total * x + 0.5 * each / total.sqrt() * raw


@pytest.mark.parametrize(
    ("kind", "keywords"),
    [(TimeFirst, False), (TimeFirst, True), (Positional, False), (OtherNames, False)],
)
def test_a_network_that_takes_its_time_first(kind: Any, keywords: bool, steps: list[Step]) -> None:
    """torchcfm's networks are called as net(t, x), and by keyword; a look at where a solver has
    arrived is no step, and is the end."""
    net = kind().requires_grad_(False)

    def call(net: Any, x: Tensor, t: Tensor) -> Tensor:
        return -net(x=x, t=1 - t) if keywords else -net(1 - t, x)

    model = eb.Denoiser(
        net, schedule=eb.schedules.flow(), prediction_type="flow_prediction", shape=SHAPE, call=call
    )
    x, states = START.float(), []
    with eb.observe(model, data=edm_images()) as seen:
        for i in range(5):
            states.append(x)
            tau = torch.tensor(i / 5)
            x = x + (net(x=x, t=tau) if keywords else net(tau, x)) / 5
        net(x=x, t=torch.tensor(1.0)) if keywords else net(torch.tensor(1.0), x)
    assert [s.level.timestep for s in steps] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0], abs=1e-7)
    for step, state in zip(steps, [*states, x], strict=True):
        assert torch.equal(step.x, state.double())
    assert seen.recording().run.steps == 5


@pytest.mark.parametrize("sigma", [160.0, 80.0, 3.3, 0.002, 0.0004])
def test_labels_are_inverted_beyond_the_points_too(sigma: float, steps: list[Step]) -> None:
    """A network that is told log(σ)/4, and one that is told σ: σ = 160 is 160."""
    for call in (call_elucidated, None):
        net = Rescaled().requires_grad_(False) if call else edm_net()
        model = eb.Denoiser(
            net, schedule=eb.schedules.edm(), prediction_type="sample", shape=SHAPE, call=call
        )
        steps.clear()
        with eb.observe(model) as seen:
            model(sigma * START, eb.schedules.edm().at(sigma))
        assert steps[0].level.sigma == pytest.approx(sigma, rel=1e-6)
        assert (steps[0].x - sigma * START).abs().max() < 1e-6 * sigma * START.abs().max()
        assert seen.n == BATCH


def test_labels_that_a_network_does_not_know_are_refused() -> None:
    """A vp schedule ends at its t = 1; beyond it there is no law to go by."""
    net = Rescaled().requires_grad_(False)
    model = eb.Denoiser(
        net,
        schedule=eb.schedules.vp(),
        prediction_type="epsilon",
        shape=SHAPE,
        call=lambda net, x, t: net(x, 999 * t),
    )
    for time, level in ((999.0, 1.0), (499.5, 0.5), (0.999, 1e-3)):
        with eb.observe(model) as seen:
            net(START.float(), torch.tensor([time]))
        assert seen.recording().run.levels[0].timestep == pytest.approx(level, rel=1e-6)
    for time in (1010.0, -5.0, math.nan):
        with (
            told("at timestep (1010, which is none|-5, which is none|nan)"),
            eb.observe(model) as seen,
        ):
            net(START.float(), torch.tensor([time]))


def test_both_ends_of_a_schedule_of_two_functions_are_steps(steps: list[Step]) -> None:
    """azula's Rectified, whose last call is at t = 0, where σ is 0.001."""

    def alpha(t: float) -> float:
        return 1 - 0.999 * t

    def sigma(t: float) -> float:
        return 0.001 + 0.999 * t

    net = Rescaled().requires_grad_(False)
    model = eb.Denoiser(
        net,
        schedule=eb.schedules.from_functions(alpha, sigma),
        prediction_type="sample",
        shape=SHAPE,
        call=lambda net, x, t: net(x, t),
    )
    calls, x = Calls(net), START.float()
    with eb.observe(model, data=edm_images()) as seen:
        for s in (1.0, 0.6, 0.2, 0.0):
            calls(sigma(s) * x, torch.tensor([s]).expand(BATCH))
    rec = seen.recording()
    for step, (state, t, x0) in zip(steps[:-1], calls.asked, strict=True):
        np.testing.assert_allclose(step.level, (t, alpha(t), sigma(t)), rtol=1e-6, atol=1e-9)
        assert (step.x - state).abs().max() <= 1e-6 * state.abs().max()
        epsilon = ((state - alpha(t) * x0) / sigma(t)).flatten(1).norm(dim=1)
        found = rec["chain"]["epsilon_norm"].isel(step=step.index)
        np.testing.assert_allclose(found, epsilon, rtol=1e-5)
    recorded = eb.record(model, edm_images(), steps=4, n=8)
    assert recorded.run.levels[-2] == (0.0, 1.0, 0.001)
    assert np.isfinite(recorded["chain"]["epsilon_norm"][:, :-1]).all()


def test_timesteps_that_are_given_one_by_one(steps: list[Step]) -> None:
    """DDPM's set_timesteps(timesteps=[…]), as DeepFloyd's presets use it."""
    import diffusers

    net = Net(1000).requires_grad_(False)
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    model = eb.Denoiser(net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE)
    given = [999, 800, 500, 300, 100, 20, 5, 1, 0]
    x, states = START.float(), []
    with eb.observe(scheduler, model=model, data=edm_images()) as seen:
        scheduler.set_timesteps(timesteps=given)
        for t in scheduler.timesteps:
            states.append(x)
            x = scheduler.step(net(x, t.expand(BATCH)), t, x).prev_sample
    assert [s.level.timestep for s in steps] == [*given, -1]
    for step, state in zip(steps, [*states, x], strict=True):
        assert torch.equal(step.x, state.double())
    for step in steps[:-1]:
        np.testing.assert_allclose(
            step.level, model.schedule.level(int(step.level.timestep)), rtol=1e-4
        )
    assert seen.recording().run.steps == 9


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
