"""The drift of models that run on their own frames, held to closed forms."""

import gc
import itertools
import json
from math import ceil, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias.autoregression import Autoregression
from exposure_bias.contexts import Context
from exposure_bias.paths import Draws

SCHEDULE = eb.schedules.linear()
SHORT = eb.schedules.edm(0.05, 5.0)  # a limit of 40 steps, for what no number depends on
TERMS = ("total", "feedback", "discretisation", "initialisation", "score")
GROWTH = ("feedback_discretisation", "feedback_initialisation", "feedback_score")
ROTATED = np.array([[0.8, 0.5], [-0.4, 0.7]])
TWO_FRAMES = np.array([[[1.1]], [[-0.4]]])


# ------------------------------------------------------------------------------- the closed form


# Design of the study: AR(1) of unit variance, linear schedule, 10 steps, in per cent of variance.
TABLE = [
    (0.9, "ddim", 1.0, 16, (-50.763, -40.633, -9.673, -0.447, -0.010)),
    (0.9, "ddim", 1.01, 16, (-58.597, -46.918, -9.137, -0.422, -2.120)),
    (0.9, "ddpm", 1.01, 16, (-60.556, -48.641, -11.532, -0.001, -0.383)),
    (0.99, "ddim", 1.0, 64, (-62.053, -60.316, -1.552, -0.175, -0.010)),
    (0.99, "ddim", 1.01, 64, (-64.914, -63.101, -1.380, -0.163, -0.269)),
]


@pytest.mark.parametrize(("a", "sampler", "factor", "frame", "expected"), TABLE)
def test_the_closed_form_of_scalar_autoregressions(
    a: float, sampler: str, factor: float, frame: int, expected: tuple[float, ...]
) -> None:
    found = Autoregression.of(a).drift(SCHEDULE, sampler, 10, frame, epsilon_factor=factor)
    row = found.sel(statistic="variance", frame=frame)
    np.testing.assert_allclose([100 * float(row[t]) for t in TERMS], expected, atol=6e-4)


@pytest.mark.parametrize("a", [0.9, ROTATED, TWO_FRAMES, np.stack([ROTATED, -0.3 * np.eye(2)])])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_sequences_that_are_sampled_have_the_law_that_is_said(a: Any, noise: float) -> None:
    law = Autoregression.of(a)
    frames = law.sample(200_000, law.context + 2, seed=1)
    wide = frames[:, ::-1].reshape(len(frames), -1)
    np.testing.assert_allclose(np.cov(wide.T), law.window(law.context + 2), atol=0.02)
    # The best linear prediction of a frame from a noisy context, by regression.
    context = frames[:, 1 : law.context + 1][:, ::-1].reshape(len(frames), -1)
    context = context + noise * np.random.default_rng(2).normal(size=context.shape)
    found, *_ = np.linalg.lstsq(context, frames[:, -1], rcond=None)
    row, covariance = law.noised(noise)
    np.testing.assert_allclose(found.T, row, atol=0.02)
    np.testing.assert_allclose(np.cov((frames[:, -1] - context @ found).T), covariance, atol=0.02)


def test_the_stationary_covariance_of_a_frame_is_the_identity_by_default() -> None:
    for a in (0.7, ROTATED, TWO_FRAMES, np.stack([ROTATED / 2, ROTATED.T / 5, -0.1 * ROTATED])):
        law = Autoregression.of(a)
        frame = law.window(1)[: law.size, : law.size]
        np.testing.assert_allclose(frame, np.eye(law.size), atol=1e-9)
    np.testing.assert_allclose(Autoregression.of(0.9).covariance, [[0.19]])


@pytest.mark.parametrize(
    ("a", "covariance", "message"),
    [
        (1.0, None, "grows without bound"),
        (np.array([[[1.2]], [[0.3]]]), None, "grows without bound"),
        (np.ones((2, 3)), None, "square"),
        (np.ones(3), None, "shape"),
        (np.nan, None, "finite"),
        (np.array([[0.5, 2.0], [0.0, 0.5]]), None, "give covariance="),
        (0.5, -1.0, "negative eigenvalues"),
        (ROTATED, np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (ROTATED, np.ones(3), "covariance is"),
    ],
)
def test_autoregressions_that_are_none_are_refused(a: Any, covariance: Any, message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        Autoregression.of(a, covariance)


# --------------------------------------------------------------------------------- the estimator


def compared(
    model: eb.oracles.LinearAutoregression,
    sampler: str,
    factor: float,
    noise: float,
    **options: Any,
) -> tuple[xr.Dataset, xr.Dataset]:
    """The measured drift of 1,024 sequences, and its closed form."""
    law, frames, n = model.law, 2, 512 if sampler == "ddpm" else 1024
    data = law.sample(n, law.context + frames, seed=7)
    network: eb.Denoiser = model
    if factor != 1:
        network = eb.remedies.epsilon_scaled(model, 1 / factor)
    found = eb.drift_budget(
        network,
        eb.Sequences(data.reshape(len(data), -1, *model.shape)),
        sampler=sampler,
        steps=8,
        n=n,
        batch_size=n,
        **options,
    )
    expected = law.drift(
        model.schedule, sampler, 8, frames, epsilon_factor=factor, context_noise=noise
    )
    return found, expected


def z_scores(found: xr.Dataset, expected: xr.Dataset, terms: tuple[str, ...]) -> np.ndarray:
    rows = []
    for term in terms:
        rows_of = found.sel(statistic=expected.statistic)
        value, error = rows_of[term], rows_of[f"{term}_se"]
        # The extrapolation of the limit and float32 data are not exact either.
        rows.append((value - expected[term]) / np.hypot(error, 3e-4))
    z = np.stack(rows)
    return z[np.isfinite(z)]


CASES = [
    (0.9, SCHEDULE, "ddim", 1.0, 0.0),
    (0.8, eb.schedules.flow(), "euler", 1.0, 0.0),
    (ROTATED, SCHEDULE, "ddim", 1.01, 0.0),
    (TWO_FRAMES, SCHEDULE, "ddim", 1.0, 0.5),
    (TWO_FRAMES, eb.schedules.edm(), "heun", 1.0, 0.0),
    (ROTATED, SCHEDULE, "ddpm", 1.01, 0.0),
]


@pytest.mark.parametrize(("a", "schedule", "sampler", "factor", "noise"), CASES)
def test_every_term_is_its_closed_form(
    a: Any, schedule: Any, sampler: str, factor: float, noise: float
) -> None:
    model = eb.oracles.LinearAutoregression(a, schedule, context_noise=noise)
    found, expected = compared(model, sampler, factor, noise, free_limit=sampler != "ddpm")
    terms = TERMS + (() if sampler == "ddpm" else GROWTH)
    z = z_scores(found, expected, terms)
    assert len(z) > 50
    assert np.abs(z).max() < 5.5
    assert np.square(z).mean() < 2
    # The same comparison sees that the network of the closed form is another one.
    other = model.law.drift(schedule, sampler, 4, 2, epsilon_factor=factor, context_noise=noise)
    assert np.abs(z_scores(found, other, ("discretisation",))).max() > 4.5


def test_a_start_of_one_call_is_its_closed_form() -> None:
    model = eb.oracles.LinearAutoregression(ROTATED, eb.schedules.edm(0.02, 20.0))
    data = model.law.sample(512, 3, seed=7)
    options: dict[str, Any] = {"sampler": "heun", "steps": 8, "free_limit": True}
    found = eb.drift_budget(model, data, start="one call", batch_size=512, **options)
    law = model.law
    expected = law.drift(model.schedule, "heun", 8, 2, start="one call")
    z = z_scores(found, expected, TERMS + GROWTH)
    assert np.abs(z).max() < 5
    assert np.square(z).mean() < 2
    plain = law.drift(model.schedule, "heun", 8, 2)
    assert np.abs(z_scores(found, plain, ("initialisation",))).max() > 20
    assert found.attrs["start"] == "one call"


def test_the_page_shows_true_forced_and_free_frames(tmp_path: Path) -> None:
    model = eb.oracles.LinearAutoregression(np.diag([0.9] * 4), SHORT, shape=(1, 2, 2))
    data = eb.Sequences(model.law.sample(256, 4, seed=2).reshape(256, 4, 1, 2, 2))
    found = eb.drift_budget(model, data, sampler="ddim", steps=3)
    page = eb.report(found, path=tmp_path / "report.html").read_text()
    part = page.partition('<div class="sequence">')[2]
    shown = json.loads(part.partition('<script type="application/json">')[2].partition("<")[0])
    assert shown["frames"] == [1, 2, 3]
    assert [len(row) for row in shown["images"]] == [3, 3, 3]
    true, forced, free = shown["images"]
    assert forced[0] == free[0] != true[0]  # at the first frame every context is true
    assert all(uri.startswith("data:image/png;base64,") for uri in true + forced + free)
    assert "Every column is one sequence" in part


def test_what_a_remedy_changes_is_paired() -> None:
    model = eb.oracles.LinearAutoregression(0.9, SHORT)
    data = eb.Sequences(model.law.sample(256, 3, seed=2))
    options: dict[str, Any] = {"sampler": "ddim", "steps": 3}
    entries = {
        "plain": model,
        "again": model,
        "longer": (model, {"steps": 6}),
        "noised": eb.remedies.context_noised(model, 0.3),
    }
    compared = eb.compare_drift(entries, data, **options)
    alone = eb.drift_budget(model, data, **options)
    for term in TERMS:
        np.testing.assert_array_equal(compared[term].sel(entry="plain"), alone[term])
        np.testing.assert_allclose(
            compared[f"{term}_difference"],
            compared[term] - compared[term].sel(entry="plain"),
            atol=1e-12,
        )
        assert not compared[f"{term}_difference"].sel(entry="again").fillna(0).any()
    longer = compared.sel(entry="longer", statistic="variance")
    assert not longer.score_difference.any()  # the same limit
    assert (longer.discretisation_difference != 0).all()
    noised = compared.sel(entry="noised", statistic="variance")
    # τ² a² of variance, but for what the start at the noised frame keeps.
    error = noised.score_difference_se
    assert (np.abs(noised.score_difference - 0.81 * 0.09 * 0.83) < 4 * error).all()
    assert (error < compared.score_se.sel(entry="noised", statistic="variance")).all()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (lambda m: {"one": m}, "at least two entries"),
        (lambda m: [m, m], "at least two entries"),
        (lambda m: {"one": m, "two": (m, {"n": 3})}, "two: 'n' is nothing"),
        (lambda m: {"one": m, "two": (m, {"start": "data"})}, "unknown start 'data'"),
        (
            lambda m: {"one": m, "two": eb.oracles.LinearAutoregression(TWO_FRAMES, SHORT)},
            "different contexts, 1 and 2",
        ),
    ],
)
def test_comparisons_that_are_none_are_refused(entries: Any, message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        eb.compare_drift(entries(ORACLE), DATA, steps=2)


def test_noise_on_contexts_is_one_draw_for_a_frame() -> None:
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def call(net: Any, x: torch.Tensor, t: torch.Tensor, c: Context) -> torch.Tensor:
        seen.append((c.index, c.frames.clone(), c.noise()))
        return 0.5 * c.frames[:, -1] + 0 * x

    plain = eb.Denoiser(
        lambda: None, schedule=SHORT, prediction_type="sample", shape=(1,), context=1, call=call
    )
    noised = eb.remedies.remedied(plain, "cn:0.5")
    x, level, frames = torch.zeros(4000, 1), SHORT.level(3), torch.zeros(4000, 1, 1)
    draws = Draws(0, "test", range(4000), (1, 1))
    bound = noised.within(Context(frames, 7, noise=draws))
    bound(x, level), bound(x, SHORT.level(9))
    (_, first, own), (_, second, _) = seen
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float((first * own).mean())) < 0.03  # not the noise that the network asks for
    assert noised.weight_hash != plain.weight_hash
    with pytest.raises(eb.InputError, match="no context"):
        eb.remedies.context_noised(eb.oracles.GaussianOracle(np.zeros(1), 1.0, SHORT), 0.1)
    with pytest.raises(eb.InputError, match="tau"):
        eb.remedies.context_noised(plain, -1.0)


def test_five_terms_sum_and_the_first_frame_has_no_feedback() -> None:
    model = eb.oracles.LinearAutoregression(ROTATED, SCHEDULE, shape=(1, 2))
    data = eb.Sequences(model.law.sample(300, 4).reshape(300, 4, 1, 2))
    found = eb.drift_budget(model, data, sampler="ddim", steps=4, free_limit=True)
    parts = found.feedback + found.discretisation + found.initialisation + found.score
    grown = sum(found[name] for name in GROWTH)
    known = np.isfinite(found.total)
    assert known.sel(statistic="hf").all()
    assert float(np.abs(parts - found.total).where(known, 0).max()) < 1e-12
    assert float(np.abs(grown - found.feedback).where(known, 0).max()) < 1e-12
    assert (found.feedback.sel(frame=1).where(known.sel(frame=1), 0) == 0).all()
    np.testing.assert_allclose(found.own, found.total - found.feedback, atol=1e-12)
    assert (found.total_se.sel(statistic="variance") > 0).all()


def test_a_stationary_target_is_the_mean_over_frames() -> None:
    model = eb.oracles.LinearAutoregression(0.9, SHORT)
    data = eb.Sequences(model.law.sample(512, 9, seed=2))
    options: dict[str, Any] = {"sampler": "ddim", "steps": 4}
    paired = eb.drift_budget(model, data, **options)
    pooled = eb.drift_budget(model, data, stationary=True, **options)
    total, target = (d.total.sel(statistic="variance") for d in (paired, pooled))
    ratio = (1 + total) / (1 + target)
    spread = np.array([data.frame(np.arange(512), k).var() for k in range(1, 9)])
    np.testing.assert_allclose(ratio, spread.mean() / spread, rtol=1e-6)


# ----------------------------------------------------------------------------- what a call is given


class Recorded:
    """A network of two numbers from two frames and an action; it keeps what it was called with."""

    def __init__(self) -> None:
        self.calls = 0
        self.filled: list[int] = []
        self.contexts: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
        self.alive: list[int] = []

    def encode(self, c: Context) -> torch.Tensor:
        self.filled.append(c.index)
        self.contexts.append(
            (c.index, c.frames.numpy().copy(), c["action"].numpy().copy(), c.noise().numpy().copy())
        )
        return 0.5 * c.frames[:, -1] + 0.3 * c.frames[:, -2] + 0.1 * c["action"][:, -1]

    def __call__(self, x: torch.Tensor, t: torch.Tensor, c: Context) -> torch.Tensor:
        self.calls += len(x)
        if self.calls // len(x) % 40 == 0:
            tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor]
            self.alive.append(sum(tensor.shape == (64, 2) for tensor in tensors))
        return c.once(lambda c: self.encode(c))


def recorded(frames: int = 6, **options: Any) -> tuple[Any, ...]:
    net = Recorded()
    model = eb.Denoiser(
        net, schedule=SHORT, prediction_type="sample", shape=(2,), context=2, call=called
    )
    random = np.random.default_rng(0)
    array, action = random.normal(size=(64, frames, 2)), random.normal(size=(64, frames, 2))
    sequences = eb.Sequences(array, action=action)
    found = eb.drift_budget(model, sequences, sampler="ddim", steps=3, **options)
    return net, found, array, action


def called(net: Recorded, x: torch.Tensor, t: torch.Tensor, c: Context) -> torch.Tensor:
    return net(x, t, c)


def test_a_network_is_given_its_context_the_oldest_frame_first() -> None:
    net, _, array, action = recorded()
    drawn = [c for c in net.contexts if len(c[1]) == 64 and c[0] > 2]
    assert {index for index, *_ in drawn} == {3, 4, 5}
    for index, frames, actions, _ in drawn:
        np.testing.assert_allclose(actions, action[:, index - 2 : index + 1], atol=1e-6)
        true = array[:, index - 2 : index]
        # Either the true frames, or at least the first of them where the model's own come after it.
        assert np.allclose(frames, true, atol=1e-6) or not np.allclose(frames[:, 1], true[:, 1])
    assert any(np.allclose(f, array[:, i - 2 : i], atol=1e-6) for i, f, *_ in drawn)
    assert any(not np.allclose(f, array[:, i - 2 : i], atol=1e-6) for i, f, *_ in drawn)


def test_context_noise_belongs_to_the_frame_and_not_to_the_stream() -> None:
    net, *_ = recorded()
    by_frame: dict[int, list[np.ndarray]] = {}
    for index, frames, _, noise in net.contexts:
        if len(frames) == 64:
            by_frame.setdefault(index, []).append(noise)
    for noises in by_frame.values():
        for noise in noises[1:]:
            np.testing.assert_array_equal(noise, noises[0])
    assert not np.allclose(by_frame[3][0], by_frame[4][0])
    everything = np.concatenate([noises[0].ravel() for noises in by_frame.values()])
    assert abs(everything.std() - 1) < 0.1


def test_a_cache_is_filled_once_for_each_frame_stream_and_batch() -> None:
    net, *_ = recorded(batch_size=32)
    # Beside the 4 frames of 2 batches: questions before the run (who ignores its context, …).
    asked = len([c for c in net.contexts if len(c[1]) <= 8])
    streams = 3  # the true contexts, half of them, and the model's own, but for the first frame
    assert len(net.filled) - asked == 2 * (4 * streams - 1)


def test_calls_stay_within_the_promise_and_memory_does_not_grow_with_frames() -> None:
    steps, levels = 3, SHORT.levels(3)
    count = 4 * ceil(log(levels[0].ratio / levels[-2].ratio) / 0.48)
    short, *_ = recorded(5)
    long, *_ = recorded(25)
    assert short.calls < (1.75 * count + 3 + 2 * steps) * 3 * 64 + 64
    assert max(long.alive[-10:]) <= max(short.alive) + 15


def test_two_functions_are_kept_apart_by_what_they_hold() -> None:
    context = Context(torch.ones(3, 1, 2), 1)
    made = [context.once(lambda c, k=k: k * c.frames) for k in (1.0, 2.0)]
    held = []
    for k in (3.0, 4.0):

        def times(c: Context, factor: list[float] = [k]) -> torch.Tensor:  # noqa: B006
            return factor[0] * c.frames

        held.append(context.once(times))
    assert [float(v.mean()) for v in made + held] == [1, 2, 3, 4]


def test_a_part_of_a_context_is_that_of_its_sequences() -> None:
    noise = torch.randn(4, 2, 3)
    streams = {"action": torch.arange(12).view(4, 3)}
    whole = Context(torch.randn(4, 2, 3), 5, streams, lambda _: noise)
    part = whole.part([2, 0])
    assert torch.equal(part.frames, whole.frames[[2, 0]])
    assert torch.equal(part["action"], whole["action"][[2, 0]])
    assert torch.equal(part.noise(), noise[[2, 0]])
    assert whole.part(slice(None)) is whole
    assert whole.like(torch.zeros(1)) is whole
    double = whole.like(torch.zeros(1, dtype=torch.float64))
    assert double.frames.dtype == torch.float64
    assert double["action"].dtype == torch.int64


# ----------------------------------------------------------------------------------- what happens


ORACLE = eb.oracles.LinearAutoregression(0.9, SHORT)
DATA = eb.Sequences(ORACLE.law.sample(96, 5))


def same(one: xr.Dataset, two: xr.Dataset) -> None:
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], two[name], err_msg=str(name))


class Killed(BaseException):
    """Stands for a kill."""


class Dying(eb.oracles.LinearAutoregression):
    """An oracle that is killed after so many calls."""

    left = 10**9

    def __call__(self, x: torch.Tensor, level: Any) -> torch.Tensor:
        type(self).left -= 1
        if type(self).left < 0:
            raise Killed
        return super().__call__(x, level)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exposure_bias.running.loop.SAVING_SHARE", 1e9)  # save after every batch
    model = Dying(0.9, SHORT)
    options: dict[str, Any] = {"sampler": "ddpm", "steps": 3, "frames": 2, "batch_size": 32}
    whole = eb.drift_budget(model, DATA, **options)
    Dying.left = 450
    with pytest.raises(Killed):
        eb.drift_budget(model, DATA, checkpoint=tmp_path / "c.nc", **options)
    assert (tmp_path / "c.nc").exists()
    Dying.left = 10**9
    same(whole, eb.drift_budget(model, DATA, checkpoint=tmp_path / "c.nc", **options))
    Dying.left = 30  # the finished run needs no more than questions
    same(whole, eb.drift_budget(model, DATA, checkpoint=tmp_path / "c.nc", **options))
    with pytest.raises(eb.InputError, match="another run"):
        eb.drift_budget(
            model, DATA, checkpoint=tmp_path / "c.nc", **{**options, "frames": 1, "seed": 1}
        )


def test_results_do_not_depend_on_the_size_of_batches() -> None:
    options: dict[str, Any] = {"sampler": "ddpm", "steps": 3, "frames": 2}
    one, two = (eb.drift_budget(ORACLE, DATA, batch_size=b, **options) for b in (96, 17))
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-9, atol=1e-12)


def test_other_seeds_draw_other_frames() -> None:
    options: dict[str, Any] = {"sampler": "ddim", "steps": 3, "frames": 1}
    one, two = (eb.drift_budget(ORACLE, DATA, seed=s, **options) for s in (0, 1))
    assert abs(float((one.own - two.own).sel(statistic="variance", frame=1))) > 1e-4


def failing(after: int) -> eb.Denoiser:
    """A network that answers NaN from the frame of this index on."""

    def net(x: torch.Tensor, t: torch.Tensor, c: Context) -> torch.Tensor:
        return 0.9 * c.frames[:, -1] * (torch.nan if c.index >= after else 1)

    return eb.Denoiser(net, schedule=SHORT, prediction_type="sample", shape=(1,), context=1)


def test_frames_before_a_network_fails_are_kept() -> None:
    data = eb.Sequences(ORACLE.law.sample(256, 5))
    found = eb.drift_budget(failing(3), data, sampler="ddim", steps=3)
    total = found.total.sel(statistic="variance")
    assert np.isfinite(total[:2]).all()
    assert np.isnan(total[2:]).all()
    assert np.isfinite(found.total_se.sel(statistic="variance")[:2]).all()
    for cut in ("free", "forced"):
        assert f"at frame 3 of the {cut} frames" in found.attrs[f"stopped_{cut}"]
    whole = eb.drift_budget(failing(9), data, sampler="ddim", steps=3)
    assert not [name for name in whole.attrs if name.startswith("stopped")]
    np.testing.assert_array_equal(whole.total[:, :2], found.total[:, :2])


def test_a_network_that_ignores_its_context_is_told() -> None:
    def net(x: torch.Tensor, t: torch.Tensor, c: Context) -> torch.Tensor:
        return 0.5 * x

    model = eb.Denoiser(net, schedule=SCHEDULE, prediction_type="sample", shape=(1,), context=1)
    with pytest.warns(UserWarning, match="ignores its context"):
        found = eb.drift_budget(model, DATA, sampler="ddim", steps=2, frames=1)
    assert "ignores its context" in found.attrs["context_ignored"]


def test_a_sampler_without_a_limit_has_total_and_feedback() -> None:
    found = eb.drift_budget(ORACLE, DATA, sampler="ddim:0.5", steps=3, frames=2)
    assert np.isfinite(found.feedback.sel(statistic="variance")).all()
    assert np.isnan(found.score).all()
    assert "unknown" in found.attrs["limit"]
    with pytest.raises(eb.InputError, match="free_limit needs"):
        eb.drift_budget(ORACLE, DATA, sampler="ddim:0.5", steps=3, free_limit=True)


def test_whole_timesteps_suffice() -> None:
    embedding = torch.nn.Embedding(1000, 1)

    def net(x: torch.Tensor, t: torch.Tensor, c: Context) -> torch.Tensor:
        return 0.9 * c.frames[:, -1] + 0 * embedding(t)

    model = eb.Denoiser(net, schedule=SCHEDULE, prediction_type="sample", shape=(1,), context=1)
    found = eb.drift_budget(model, DATA, sampler="ddim", steps=5, frames=1)
    assert np.isfinite(found.score.sel(statistic="variance")).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": ORACLE.law.sample(32, 1)}, "leave nothing to draw after a context of 1"),
        ({"sequences": ORACLE.law.sample(32, 5), "frames": 5}, "ask for at most 4"),
        ({"sequences": np.zeros((32, 4, 1), np.float32)}, "all frames of sequences are the same"),
        ({"sequences": np.zeros((32, 4, 2), np.float32)}, "draws frames of shape"),
        ({"frames": 0}, "frames must be"),
        ({"n": 97}, "there are 96 sequences"),
        ({"n": 0}, "n, the number"),
        ({"sampler": "dpm"}, "unknown sampler"),
        ({"steps": 0}, "steps"),
        ({"seed": 0.5}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        (
            {"model": eb.oracles.GaussianOracle(np.zeros(1), 1.0, SCHEDULE)},
            "draws single states",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_drawn(
    options: dict[str, Any], message: str
) -> None:
    given = {"model": ORACLE, "sequences": DATA} | options
    with pytest.raises(eb.InputError, match=message):
        eb.drift_budget(given.pop("model"), given.pop("sequences"), **given)


def test_contexts_that_do_not_fit_are_refused() -> None:
    x, level = torch.zeros(4, 1, dtype=torch.float64), SHORT.level(500)
    with pytest.raises(eb.InputError, match="drift_budget"):
        ORACLE(x, level)
    with pytest.raises(eb.InputError, match="context of 3 sequences was given for a batch of 4"):
        ORACLE.within(Context(torch.zeros(3, 1, 1), 1))(x, level)
    with pytest.raises(eb.InputError, match="takes a context of shape"):
        ORACLE.within(Context(torch.zeros(4, 2, 1), 1))
    with pytest.raises(eb.InputError, match="takes no context"):
        eb.oracles.GaussianOracle(np.zeros(1), 1.0, SCHEDULE).within(
            Context(torch.zeros(4, 1, 1), 1)
        )
    with pytest.raises(eb.InputError, match="no stream 'action'"):
        Context(torch.zeros(4, 1, 1), 1)["action"]
    with pytest.raises(eb.InputError, match="no noise"):
        Context(torch.zeros(4, 1, 1), 1).noise()
    for options in ({"context": 0}, {"context": 1.5}, {"context": 1, "classes": 3}):
        with pytest.raises(eb.InputError, match="context"):
            eb.Denoiser(
                lambda *_: None,
                schedule=SCHEDULE,
                prediction_type="sample",
                shape=(1,),
                **options,  # type: ignore[arg-type]
            )
    with pytest.raises(eb.InputError, match="drift_budget"):
        eb.record(ORACLE, np.zeros((32, 1), np.float32), steps=3)


# ---------------------------------------------------------------------------------- any function


def shrinking(c: Context, seed: int) -> np.ndarray:
    """x_k = 0.9 x_{k−1} + noise of half the right variance."""
    noise = np.random.default_rng(seed).normal(size=c.frames[:, -1].shape)
    return 0.9 * c.frames[:, -1].numpy() + np.sqrt(0.095) * noise


def test_the_drift_of_a_function_is_its_closed_form(tmp_path: Path) -> None:
    law = Autoregression.of(0.9)
    found = eb.drift(shrinking, law.sample(4096, 7, seed=3), n=4096, batch_size=64)
    expected = [0.81**m + 0.095 * sum(0.81**k for k in range(m)) - 1 for m in range(1, 7)]
    z = (found.total.sel(statistic="variance") - expected) / found.total_se.sel(
        statistic="variance"
    )
    assert np.abs(z).max() < 4
    own = found.own.sel(statistic="variance")
    assert (np.abs(own + 0.095) < 4 * found.own_se.sel(statistic="variance")).all()
    assert float(found.feedback.sel(statistic="variance", frame=1)) == 0
    assert float(found.feedback.sel(statistic="variance", frame=6)) < -0.2
    assert "no steps that could be made smaller" in found.attrs["limit"]
    assert found.attrs["n"] == "4096"


def test_a_function_gets_the_same_sequences_whatever_the_run(tmp_path: Path) -> None:
    seen = []

    def next_frame(c: Context, seed: int) -> np.ndarray:
        seen.append((c.index, len(c.frames), seed))
        return shrinking(c, seed)

    data = Autoregression.of(0.9).sample(70, 3)
    whole = eb.drift(next_frame, data)
    drawn = seen[3:]  # after the questions before a run
    assert {size for _, size, _ in drawn} == {16, 6}
    # Free and forced frames share a seed; no other two calls do.
    assert len({(i, s) for i, _, s in drawn}) == 2 * 5
    first = itertools.count()

    def dying(c: Context, seed: int) -> np.ndarray:
        if next(first) > 9:
            raise Killed
        return shrinking(c, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exposure_bias.running.loop.SAVING_SHARE", 1e9)
        dying.__name__ = "next_frame"
        with pytest.raises(Killed):
            eb.drift(dying, data, checkpoint=tmp_path / "c.nc")
    assert (tmp_path / "c.nc").exists()
    same(whole, eb.drift(next_frame, data, checkpoint=tmp_path / "c.nc"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda c, seed: 3, "returned int"),
        (lambda c, seed: c.frames[:1, -1], "of shape"),
        (lambda c, seed: c.frames[:, -1].long(), "int64"),
        ("function", "a function as next_frame"),
    ],
)
def test_functions_that_draw_no_frames_are_refused(function: Any, message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        eb.drift(function, DATA)


def test_a_function_that_ignores_its_context_or_its_seed_is_told() -> None:
    with pytest.warns(UserWarning, match="ignores its context"):
        eb.drift(lambda c, seed: torch.zeros(len(c), 1), DATA, frames=1)
    random = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="other frames when it is called again"):
        found = eb.drift(lambda c, seed: random.normal(size=(len(c), 1)), DATA, frames=1)
    assert "unseeded" in found.attrs
