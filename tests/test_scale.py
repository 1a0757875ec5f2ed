"""What makes large runs possible: precision and memory of a network, noise on a device, threads,
large states."""

import os
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

import exposure_bias as eb
from exposure_bias.cli import threads
from exposure_bias.denoisers import Speed
from exposure_bias.jackknife import t_quantile
from exposure_bias.paths import Draws
from exposure_bias.run import Run
from exposure_bias.running.loop import room
from exposure_bias.running.setup import prepare
from exposure_bias.statistics.law import law

SHAPE = (2, 4, 4)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(2, 2, 3, padding=1)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        self.seen.append(found.dtype)
        return found


def denoiser(net: Any = None, **options: Any) -> eb.Denoiser:
    schedule = eb.schedules.linear(1000)
    common: dict[str, Any] = {"schedule": schedule, "prediction_type": "epsilon", "shape": SHAPE}
    return eb.Denoiser(net or Small(), **(common | options))


def images(n: int = 32, shape: tuple[int, ...] = SHAPE) -> Any:
    return eb.load_data(np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision_is_that_of_the_network_and_part_of_the_run(precision: str) -> None:
    plain = denoiser()
    model = plain.computed_with(Speed(precision, channels_last=True))
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    level = model.schedule.level(500)
    said, expected = model(x, level).double(), plain(x, level).double()
    assert model.net.seen[0] == getattr(torch, precision)
    off = float((said - expected).norm() / expected.norm())
    low, high = {"float32": (0.0, 1e-6), "bfloat16": (1e-4, 1e-2), "float16": (1e-5, 2e-3)}[
        precision
    ]
    assert low <= off <= high
    assert model.weight_hash == plain.weight_hash
    run, other = (prepare(m, images(), kind="recording", steps=2).run for m in (model, plain))
    assert run.model.computed == f"{precision}, channels last"
    assert Run.from_json(run.to_json()) == run
    assert run.describe()["computed"] == run.model.computed
    with pytest.raises(eb.InputError, match="model computed"):
        run.refuse_differences(other, "two runs")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_keeps_its_weights_and_its_name() -> None:
    plain = denoiser()
    model = plain.computed_with(Speed(compile=True))
    assert (model.weight_hash, model.name) == (plain.weight_hash, plain.name)
    assert model.computed == "compiled"
    assert plain.computed == ""


def test_what_cannot_be_computed_so_is_refused() -> None:
    with pytest.raises(eb.InputError, match="unknown precision 'int8': allowed are float32"):
        denoiser().computed_with(Speed("int8"))
    with pytest.raises(eb.InputError, match="is a plain function"):
        denoiser(lambda x, t: x).computed_with(Speed("bfloat16"))


class Little(nn.Module):
    """Has memory for so many states, and says so as a GPU does."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes = most, list[int]()

    def forward(self, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * labels.view(-1, 1, 1, 1) + timestep.view(-1, 1, 1, 1)


def test_a_batch_that_does_not_fit_is_halved_and_said_once() -> None:
    net = Little(3)
    model = denoiser(net, classes=20)
    labels = np.arange(16)
    x = torch.ones(16, *SHAPE, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            said = model.given(labels)(x, model.schedule.level(7))
    assert said[:, 0, 0, 0].tolist() == [label + 7 for label in range(16)]
    assert len(told) == 1
    assert "do not fit the device's memory" in str(told[0].message)
    assert net.sizes == [16, 8, 4, *[2] * 8, *[2] * 8]
    none = denoiser(Little(0), classes=20).given(labels)
    with pytest.warns(UserWarning, match="do not fit"), pytest.raises(torch.OutOfMemoryError):
        none(x, model.schedule.level(7))


@pytest.mark.parametrize("shape", [(5,), (3, 8, 8), (3, 5, 7)])
@pytest.mark.parametrize("place", [(0,), (1, 2), (5, 2**40, 7)])
def test_philox_on_the_device_has_numpys_bits(
    shape: tuple[int, ...], place: tuple[int, ...]
) -> None:
    draws = Draws(3, "chain", [0, 1, 2, 9, 4, 2**40], shape)
    assert torch.equal(draws.bits(*place), draws.bits_on_device(*place))


def test_noise_does_not_depend_on_threads() -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(Draws(0, "chain", range(64), (3, 32, 32))(1, 2))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    assert torch.equal(*(Draws(0, "chain", range(64), (3, 32, 32)).bits(1),) * 2)


@pytest.mark.parametrize(("quicker", "taken"), [(1.1, 1), (1.9, 4)])
def test_threads_are_taken_while_they_help(
    quicker: float, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(threads, "_seconds", lambda _, k: quicker ** -np.log2(k))
    try:
        threads.choose(denoiser())
        assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)


def test_threads_that_the_user_chose_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(threads, "_seconds", lambda *_: pytest.fail("it measured"))
    threads.choose(denoiser())
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    threads.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_leading_directions_of_large_states_are_those_of_an_svd() -> None:
    """Images of 24 known directions whose variances fall by half, and weak noise."""
    rng = np.random.default_rng(0)
    shape, n = (1, 72, 72), 120
    basis, _ = np.linalg.qr(rng.standard_normal((72 * 72, 24)))
    weights = rng.standard_normal((n, 24)) * 0.7 ** np.arange(24)
    x = weights @ basis.T + 1e-5 * rng.standard_normal((n, 72 * 72))
    found = law(eb.load_data(x.reshape(n, *shape).astype(np.float32), value_range=None))
    centred = x.astype(np.float32).astype(np.float64)
    centred -= centred.mean(0)
    _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
    assert found.vectors.shape == (16, 72 * 72)
    np.testing.assert_allclose(found.values, singular[:16] ** 2 / n, rtol=1e-6)
    cosine = np.abs((found.vectors * vectors[:16]).sum(1))
    np.testing.assert_allclose(cosine, 1, atol=1e-4)
    assert found.whole  # sixteen of such fast falling variances hold over 90 %


def test_large_states_are_recorded_at_as_many_levels_as_fit() -> None:
    """They have no Gaussian reference, and say so; the file's moments are single."""
    shape = (1, 80, 80)
    model = denoiser(lambda x, t: 0.5 * x, shape=shape)
    data = images(24, shape)
    room_for = 3 * 8 * 7 * 6400
    recording = eb.record(model, data, steps=9, n=24, memory=room_for)
    assert recording["chain"]["step"].values.tolist() == [0, 4, 8, 9]
    assert recording["chain"]["state_sum"].dtype == np.float32
    gaps = eb.variance_gap(recording)
    assert "leading directions" in gaps.attrs["no_reference"]
    assert "gap_gaussian" not in gaps
    setup = prepare(model, data, kind="recording", steps=9)
    assert room(setup) == 2**20 // 6400
    assert setup.kept == [*range(9), 9]


@pytest.mark.parametrize("p", [0.5001, 0.7, 0.975, 0.999, 0.999999])
def test_t_quantile_is_scipys(p: float) -> None:
    assert t_quantile(p) == pytest.approx(stdtrit(15, p), rel=1e-9)
    assert t_quantile(p, 3) == pytest.approx(stdtrit(3, p), rel=1e-9)
