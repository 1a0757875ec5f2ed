"""Remedies: identities bit for bit, closed forms on oracles, and the published rules written out
once more."""

import math

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias import samplers, streams
from exposure_bias.remedies import epsilon_scaled, ip_equivalent, remedied, time_shifted
from exposure_bias.schedules import convert

SCHEDULES = {
    "linear": eb.schedules.linear(1000),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}
IDENTITIES = ["es:1.0", "es:linear:0,1", "es:linear:0,1,20", "ip:0", "ts:0,300", "ts:1,0"]


def gaussian(schedule, shape=(1, 4, 4), seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(math.prod(shape), math.prod(shape))) * 0.1
    return eb.oracles.GaussianOracle(
        rng.normal(size=shape) * 0.3, root @ root.T, schedule
    ), root @ root.T


def states(model, level, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = math.hypot(level.alpha, level.sigma)
    return torch.randn(n, *model.shape, generator=generator, dtype=torch.float64) * scale


@pytest.fixture(scope="module")
def digits():
    return eb.load_model("digits")


@pytest.mark.parametrize("remedy", IDENTITIES)
def test_identities_are_the_plain_chain_bit_for_bit(digits, remedy):
    """The whole recording: every sum of both streams."""
    data = eb.load_data("digits")
    runs = [eb.record(m, data, steps=5, n=8, seed=1) for m in (digits, remedied(digits, remedy))]
    for stream in ("forward", "chain"):
        for name, values in runs[0][stream].data_vars.items():
            np.testing.assert_array_equal(values, runs[1][stream][name], err_msg=name)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("gamma", [0.1, 0.7])
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_ip_equivalent_of_an_oracle_is_the_closed_form_optimum(schedule, gamma, kind):
    """E[ε | α x_0 + σ(ε + γξ)] written out: per component, by Bayes, not by a level shift."""
    schedule = SCHEDULES[schedule]
    rng = np.random.default_rng(0)
    weights = torch.tensor([1.0] if kind == "gaussian" else [0.2, 0.5, 0.3], dtype=torch.float64)
    means = torch.from_numpy(rng.normal(size=(len(weights), 1, 3, 3)))
    roots = torch.from_numpy(rng.normal(size=(len(weights), 9, 9))) * 0.3
    covariances = roots @ roots.mT
    model = ip_equivalent(eb.oracles.MixtureOracle(weights, means, covariances, schedule), gamma)
    for index in (3, 250, 700, 900):
        level = schedule.level(index)
        y = states(model, level)
        flat, parts, log_r = y.flatten(1), [], []
        for w, mean, covariance in zip(weights, means, covariances, strict=True):
            total = level.alpha**2 * covariance + level.sigma**2 * (1 + gamma**2) * torch.eye(
                9, dtype=torch.float64
            )
            d = flat - level.alpha * mean.flatten()
            solved = torch.linalg.solve(total, d.T).T
            parts.append(level.sigma * solved)  # Cov(ε, y) = σ I
            log_r.append(w.log() - 0.5 * (d * solved).sum(1) - 0.5 * torch.logdet(total))
        r = torch.stack(log_r, 1).softmax(1)
        expected = sum(r[:, [m]] * part for m, part in enumerate(parts)).reshape(y.shape)
        error = (model.predict(y, level).epsilon - expected).abs().max()
        # ε̂ is reached through x̂_0, whose round-off grows by α/σ.
        assert error < 1e-10 * max(1, level.alpha / level.sigma)


def test_ip_per_mode_ratio_is_the_designs():
    """ε_IP / ε* = (α²λ + σ²)/(α²λ + σ²(1 + γ²)); scaling by 1 + γ² is its limit where the data is
    gone."""
    schedule, variance, gamma = SCHEDULES["linear"], 0.25, 0.3
    model = eb.oracles.GaussianOracle(np.zeros((1, 2, 2)), variance, schedule)
    level = schedule.level(300)
    x = states(model, level)
    power = level.alpha**2 * variance
    expected = (power + level.sigma**2) / (power + level.sigma**2 * (1 + gamma**2))
    ratio = ip_equivalent(model, gamma).predict(x, level).epsilon / model.predict(x, level).epsilon
    assert torch.allclose(ratio, torch.full_like(ratio, expected), rtol=1e-10)
    assert expected > 1.01 / (1 + gamma**2)


@pytest.mark.slow
def test_ip_equivalent_of_the_trained_ddpm_is_the_trained_ip_network(digits):
    """On held-out digits, level by level: how much of IP − DDPM is ip_equivalent − DDPM, the slope
    of one on the other.

    1 if both networks were optimal; measured 0.97 to 1.04 at t ≥ 400, where the loss is learnt, and
    up to 1.26 below, where the two trainings' own errors are larger than the effect of γ."""
    trained, shifted = eb.load_model("digits-ip"), ip_equivalent(digits, 0.1)
    data = eb.load_data("digits")
    x0 = torch.from_numpy(data.batch(np.arange(512))).double()
    for t in range(100, 1000, 100):
        level = digits.schedule.level(t)
        noise = eb.paths.Noise(0, "test", range(512), digits.shape)
        y = level.alpha * x0 + level.sigma * (noise(0) + 0.1 * noise(1))
        plain, ip, equivalent = (m.predict(y, level).epsilon for m in (digits, trained, shifted))
        slope = ((ip - plain) * (equivalent - plain)).sum() / (equivalent - plain).square().sum()
        assert abs(slope - 1) < (0.06 if t >= 400 else 0.35), (t, slope)
        left = (ip - equivalent).square().mean() / (ip - plain).square().mean()
        assert left < (0.45 if t >= 500 else 1), (t, left)


class Counting(torch.nn.Module):
    """An ε-network that keeps the timesteps it is given; an embedding takes whole ones only."""

    def __init__(self, whole):
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(torch.linspace(0, 1, 1000)[:, None])
        self.whole, self.seen = whole, []

    def forward(self, x, t):
        self.seen.append(t[0].item())
        return x * (
            self.table(t).view(-1, 1, 1, 1) if self.whole else t.float().view(-1, 1, 1, 1) / 999
        )


@pytest.mark.parametrize("whole", [True, False])
def test_fractional_timesteps_where_the_network_takes_them(whole):
    schedule = SCHEDULES["linear"]
    net = Counting(whole)
    model = eb.Denoiser(net, schedule=schedule, prediction_type="epsilon", shape=(1, 4, 4))
    level = schedule.level(500)
    shifted = schedule.index_of_ratio(math.sqrt(1.25) * level.sigma / level.alpha)
    assert not shifted.is_integer()
    ip_equivalent(model, 0.5)(states(model, level), level)
    assert net.seen[-1] == pytest.approx(round(shifted) if whole else shifted, abs=1e-4)


def test_levels_beyond_the_end_are_clamped_and_counted():
    schedule = SCHEDULES["linear"]
    model, _ = gaussian(schedule)
    assert ip_equivalent(model, 0.1).clamped == 1
    with pytest.warns(UserWarning, match=r"gamma = 2.*noisiest (\d+) of 1000 levels"):
        far = ip_equivalent(model, 2)
    assert far.clamped == 1000 - math.ceil(
        schedule.index_of_ratio(schedule.sigma[-1] / schedule.alpha[-1] / 5**0.5)
    )
    level = schedule.level(999)
    x = states(model, level)
    expected = model.predict(x, level).epsilon / math.sqrt(5)
    assert torch.allclose(far.predict(x, level).epsilon, expected, rtol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_epsilon_scaling_divides_epsilon_and_rederives_x0(schedule):
    schedule = SCHEDULES[schedule]
    model, _ = gaussian(schedule)
    level = schedule.level(400)
    x = states(model, level)
    plain, scaled = (m.predict(x, level) for m in (model, epsilon_scaled(model, 1.017)))
    assert torch.allclose(scaled.epsilon, plain.epsilon / 1.017, rtol=1e-10)
    assert torch.allclose(level.alpha * scaled.x0 + level.sigma * scaled.epsilon, x, rtol=1e-10)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("remedy", ["es:1.01", "ip:0.2", "ts:20,0"])
def test_every_prediction_type_is_remedied_alike(kind, remedy):
    """One and the same field told in four ways, with a learned variance that passes unchanged."""
    schedule = SCHEDULES["linear"]
    oracle, _ = gaussian(schedule)

    def call(net, x, t):
        level = schedule.level(float(t[0]))
        said = convert(oracle(x, level), "sample", kind, x, level)
        return torch.cat([said, torch.full_like(said, 0.3)], 1)

    net = torch.nn.Identity().double()
    net.register_buffer("dtype", torch.zeros(1, dtype=torch.float64))
    model = eb.Denoiser(
        net,
        schedule=schedule,
        prediction_type=kind,
        shape=(1, 4, 4),
        call=call,
        learned_variance=True,
    )
    level = schedule.level(500)
    x = states(model, level) * torch.linspace(0.97, 1.03, 6).view(-1, 1, 1, 1)
    said, expected = (remedied(m, remedy).predict(x, level) for m in (model, oracle))
    assert torch.allclose(said.epsilon, expected.epsilon, rtol=1e-5)  # the label is float32
    assert torch.allclose(said.x0, expected.x0, rtol=1e-4, atol=1e-5)
    assert torch.allclose(said.variance, torch.full_like(said.variance, 0.65))


def test_linear_scales_count_levels_or_steps():
    schedule = SCHEDULES["linear"]
    model, _ = gaussian(schedule)
    for text, expected in {
        "es:linear:2e-5,1.0": 1 + 2e-5 * 999,
        "es:linear:0.0025,1.0,20": 1 + 0.0025 * 19,
    }.items():
        top = schedule.level(999)
        x = states(model, top)
        ratio = model.predict(x, top).epsilon / remedied(model, text).predict(x, top).epsilon
        assert torch.allclose(ratio, torch.full_like(ratio, expected), rtol=1e-8)
    by_array = epsilon_scaled(model, 1 + 2e-5 * np.arange(1000))
    by_function = epsilon_scaled(model, lambda level: 1 + 2e-5 * level.timestep)
    level = schedule.level(500)
    x = states(model, level)
    assert torch.allclose(
        by_array(x, level), remedied(model, "es:linear:2e-5,1.0")(x, level), rtol=1e-12
    )
    assert torch.allclose(by_array(x, level), by_function(x, level), rtol=1e-12)
    with pytest.warns(UserWarning, match="unless it is given steps"):
        remedied(model, "es:linear:0.0025,1.0")


def test_scaling_a_cosine_schedule_unclipped_warns():
    model, _ = gaussian(eb.schedules.cosine(1000))
    scaled = epsilon_scaled(model, 1.005)
    level = model.schedule.level(999)
    x = states(model, level)
    scaled.predict(x, level, clip=True)
    with pytest.warns(UserWarning, match="sample with clipping"):
        assert scaled.predict(x, level).x0.abs().max() > 50
    gentle, _ = gaussian(SCHEDULES["linear"])
    epsilon_scaled(gentle, 1.017).predict(x, gentle.schedule.level(999))


def test_time_shift_is_the_published_rule():
    """argmin over the window of |Var(x) − σ_τ²|, sample by sample, one after another."""
    schedule, window, cutoff = SCHEDULES["linear"], 40, 300
    model, _ = gaussian(schedule)
    shifted = time_shifted(model, window, cutoff)
    for t in (301, 600, 990):
        level, x = schedule.level(t), states(model, schedule.level(t), n=12)
        reach = torch.linspace(
            schedule.sigma[t - 25], schedule.sigma[min(t + 25, 999)], 12, dtype=torch.float64
        )
        x *= (reach / x.flatten(1).std(1)).view(-1, 1, 1, 1)
        picks = set()
        for i in range(len(x)):
            taus = range(max(t - 20, 0), min(t + 20, 999) + 1)
            tau = min(
                taus,
                key=lambda tau: (abs(x[i].var().item() - schedule.sigma[tau] ** 2), abs(tau - t)),
            )
            picks.add(tau)
            expected = model.predict(x[[i]], schedule.level(tau)).epsilon
            assert torch.allclose(shifted.predict(x, level).epsilon[[i]], expected, rtol=1e-9)
        assert len(picks) > 2
    for t in (300, 999):  # at the cutoff, and at the start of the chain
        level = schedule.level(t)
        x = states(model, level)
        assert torch.equal(shifted(x, level), model(x, level))


def test_names_and_hashes_tell_remedied_models_apart(digits):
    one, two = remedied(digits, "es:1.005"), remedied(remedied(digits, "es:1.005"), "ts:10,300")
    assert (one.name, two.name) == ("digits + es:1.005", "digits + es:1.005 + ts:10,300")
    arrays = [epsilon_scaled(digits, 1 + np.linspace(0, s, 1000)) for s in (0.01, 0.02)]
    assert len({m.weight_hash for m in (digits, one, two, *arrays)}) == 5
    assert one.net is digits.net
    data = eb.load_data("digits")
    recordings = [eb.record(m, data, steps=2, n=4) for m in (digits, one)]
    assert recordings[1].provenance["run"]["model"]["name"] == "digits + es:1.005"
    with pytest.raises(eb.InputError, match="model"):
        eb.merge(recordings)


def test_labels_follow_their_samples():
    """Time shift splits a batch: each sample keeps its own class."""

    def call(net, x, t, labels):
        return x * labels.view(-1, 1, 1, 1)

    schedule = SCHEDULES["linear"]
    model = eb.Denoiser(
        torch.nn.Identity(),
        schedule=schedule,
        prediction_type="epsilon",
        shape=(1, 4, 4),
        call=call,
        classes=12,
    )
    level = schedule.level(600)
    x = states(model, level, n=12) * torch.linspace(0.98, 1.02, 12).view(-1, 1, 1, 1)
    bound = time_shifted(model, 40, 0).given(torch.arange(12))
    assert torch.allclose(bound(x, level), x.float() * torch.arange(12).view(-1, 1, 1, 1))


@pytest.mark.parametrize(
    ("remedy", "message"),
    [
        ("es:0", "must be positive: got 0"),
        ("es:nan", "must be positive"),
        ("es:linear:1,-2", "must be positive: got -2"),
        ("es:linear:1", r"'es:linear:1'.*es:linear:K,B"),
        ("ip:-0.1", "gamma must be at least 0"),
        ("ip:nan", "a finite number or infinity as gamma, got nan"),
        ("ts:-2,300", "window"),
        ("ts:4,2000", "cutoff"),
        ("ts:4", r"'ts:4'.*ts:WINDOW,CUTOFF"),
        ("clip", r"unknown remedy 'clip'.*ip:GAMMA"),
    ],
)
def test_bad_remedies(digits, remedy, message):
    with pytest.raises(eb.InputError, match=message):
        remedied(digits, remedy)
    with pytest.raises(eb.InputError, match="one number for each of 1000"):
        epsilon_scaled(digits, np.ones(7))


@pytest.mark.parametrize("remedy", ["es", "ip"])
def test_nothing_is_done_at_alpha_0_and_the_closed_form_knows(remedy):
    """Flow matching starts at α = 0: Euler's gain of the remedied exact denoiser along one
    direction, to the end."""
    variance, schedule = 0.3, eb.schedules.flow()

    def velocity(x, t):
        s = t.view(-1, 1, 1, 1)
        return (s - (1 - s) * variance) / ((1 - s) ** 2 * variance + s**2) * x

    model = eb.Denoiser(
        velocity, schedule=schedule, prediction_type="flow_prediction", shape=(1, 1, 1)
    )
    changed = epsilon_scaled(model, 1.01) if remedy == "es" else ip_equivalent(model, 0.1)
    options = {"epsilon_scale": 1.01} if remedy == "es" else {"gamma": 0.1}
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert torch.equal(changed(x, schedule.level(999)), model(x, schedule.level(999)))
    levels = schedule.levels(5)
    ends = [
        s.x.item() for s in streams.chain(changed, x, levels, samplers.parse("euler"), lambda _: x)
    ]
    law = eb.references.gaussian(
        np.zeros((1, 1, 1)), variance, schedule, "euler", 5, start="noise", **options
    )
    np.testing.assert_allclose(np.square(ends), law["mode_variance"][:, 0], rtol=1e-5)
    plain = eb.references.gaussian(
        np.zeros((1, 1, 1)), variance, schedule, "euler", 5, start="noise"
    )
    assert abs(float(law["mode_variance"][-1, 0] / plain["mode_variance"][-1, 0]) - 1) > 5e-3


def test_a_full_memory_is_not_taken_for_an_embedding():
    def net(x, t):
        if t.is_floating_point():
            raise torch.OutOfMemoryError("out of memory")
        return x

    schedule = SCHEDULES["linear"]
    model = eb.Denoiser(net, schedule=schedule, prediction_type="epsilon", shape=(1, 4, 4))
    with pytest.raises(torch.OutOfMemoryError):
        ip_equivalent(model, 0.1)(torch.zeros(1, 1, 4, 4), schedule.level(500))
