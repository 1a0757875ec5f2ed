"""Monitor: numbers as `record` gives them, training as if it had not been."""

import csv
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb

SHAPE = (1, 4, 4)


def images(n: int = 256) -> np.ndarray:
    x = np.random.default_rng(0).normal(0, 0.3, (n, *SHAPE)).astype(np.float32)
    return np.clip(x, -1, 1)


class Net(torch.nn.Module):
    """ε̂ by one layer, with dropout, a batch norm, and a draw from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.norm, self.dropout = torch.nn.BatchNorm2d(1), torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        return self.dropout(self.norm(self.layer(x)))


def denoiser(net: Any = None) -> Any:
    torch.manual_seed(0)
    return eb.Denoiser(
        Net() if net is None else net,
        schedule=eb.schedules.linear(1000),
        prediction_type="epsilon",
        shape=SHAPE,
    )


def trained(monitor: Any = None) -> tuple[list[torch.Tensor], list[Any]]:
    """Weights, buffers, gradients and random states after ten steps of training."""
    model = denoiser()
    net, x = model.net, torch.from_numpy(images(32))
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(10):
        noise = torch.randn_like(x)
        loss = (net(x + noise, torch.zeros(32)) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if monitor is not None:
            monitor(step, model)
    assert all(module.training for module in net.modules())
    kept = [*net.state_dict().values(), *(p.grad for p in net.parameters()), torch.get_rng_state()]
    return kept, [random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def test_training_goes_on_as_if_nothing_had_been() -> None:
    """Bit for bit: weights, buffers, gradients and three random states."""
    seen: list[Any] = []
    monitor = eb.Monitor(
        every=3, data=images(32), steps=3, log=lambda step, values: seen.append((step, values))
    )
    tensors, states = trained(monitor)
    others, other_states = trained()
    assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
    assert states == other_states
    assert [step for step, _ in seen] == [3, 6, 9]
    assert seen[0][1] != seen[1][1]


def test_values_are_those_of_a_recording() -> None:
    """Against `record`, and the loss of a perfect denoiser against its closed form."""
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.09, eb.schedules.linear(1000))
    data = eb.load_data(images(), value_range=None)
    monitor = eb.Monitor(every=10, data=data, steps=5)
    values = monitor(20, oracle)
    assert values is not None
    assert monitor(21, oracle) is None
    recording = eb.record(oracle, data, steps=5, n=256)
    gap, spectra = eb.variance_gap(recording), eb.spectrum(recording)
    assert values["gap"] == pytest.approx(float(gap["gap"][-1]), rel=1e-9)
    assert values["gap_se"] == pytest.approx(float(gap["gap_se"][-1]), rel=1e-9)
    assert values["hf"] == pytest.approx(float(spectra["hf"]), rel=1e-9)
    forward = recording["forward"].isel(step=slice(0, -1))
    alpha, sigma = forward["alpha"].values, forward["sigma"].values
    expected = np.mean(alpha**2 * 0.09 / (alpha**2 * 0.09 + sigma**2))
    assert values["forward_loss"] == pytest.approx(expected, abs=4 * values["forward_loss_se"])
    assert 0 < values["forward_loss_se"] < 0.1 * expected


def test_costs_and_misfits_are_told_before_training() -> None:
    monitor = eb.Monitor(every=7, data=images(32), steps=4, batch_size=16)
    said = monitor.begin(denoiser())
    assert said.startswith("every 7 steps: 32 samples, 16 network calls of 16, about ")
    assert "intervals take 256 samples" in said
    wrong = eb.Monitor(data=np.zeros((4, 3, 4, 4), np.float32))
    with pytest.raises(eb.InputError, match="the model works on states 1×4×4"):
        wrong.begin(denoiser())
    with pytest.raises(eb.InputError, match="a monitor needs the model"):
        monitor.begin()


def test_a_network_that_breaks_is_warned_about() -> None:
    net = Net()
    torch.nn.init.constant_(net.layer.weight, float("nan"))
    monitor = eb.Monitor(every=1, data=images(16), steps=2)
    model = denoiser()
    monitor.begin(model)
    model.net.load_state_dict(net.state_dict())
    with pytest.warns(UserWarning, match="this check has no numbers"):
        values = monitor(1, model)
    assert values is not None
    assert np.isnan(list(values.values())).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "gap"}, "what is any of gap, hf, forward_loss"),
        ({"what": ["fid"]}, "what is any of gap, hf, forward_loss"),
        ({"every": 0}, "every, the steps between checks,"),
        ({"log": "monitor.txt"}, "log is 'monitor.txt': give a .csv file"),
        ({"log": 3}, "log is 3"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(eb.InputError, match=message):
        eb.Monitor(data=images(4), **options)


def test_a_csv_file_is_gone_on_with(tmp_path: Path) -> None:
    path, model = tmp_path / "new" / "monitor.csv", denoiser()
    for step in (1, 2):
        eb.Monitor(every=1, data=images(16), what=("gap",), steps=2, log=path)(step, model)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert np.isfinite(float(rows[0]["gap"]))
    with pytest.raises(eb.InputError, match="has the columns step, gap, gap_se, not step, hf"):
        eb.Monitor(data=images(16), what=("hf",), log=path)


class Writer:
    """As TensorBoard's SummaryWriter."""

    def __init__(self, folder: str = "") -> None:
        self.folder, self.seen = folder, {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.seen[name, step] = value


def test_tensorboard_and_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported when they are named; a missing one is one line with its cure."""
    logged: list[Any] = []
    writer = Writer()
    wandb = SimpleNamespace(log=lambda values, step: logged.append((step, values)))
    tensorboard = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    monitor = eb.Monitor(
        every=1, data=images(16), what=("gap",), steps=2, log=["wandb", "tensorboard:runs", writer]
    )
    values = monitor(1, denoiser())
    assert values is not None
    assert writer.seen["exposure_bias/gap", 1] == values["gap"] == logged[0][1]["exposure_bias/gap"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(eb.InputError, match="wandb is not here: pip install wandb"):
        eb.Monitor(data=images(4), log="wandb")


def test_as_a_lightning_callback(capsys: pytest.CaptureFixture[str]) -> None:
    """As a trainer calls it: every hook of every callback, with its own arguments."""
    seen: list[int] = []
    module, trainer = torch.nn.Module(), SimpleNamespace(global_step=0)
    module.net = Net()
    monitor: Any = eb.Monitor(
        every=2,
        data=images(16),
        steps=2,
        what=("gap",),
        log=lambda step, _: seen.append(step),
        model=lambda module: denoiser(module.net),
    )
    monitor.setup(trainer, module, stage="fit")
    assert "every 2 steps" in capsys.readouterr().out
    monitor.on_fit_start(trainer, module)
    for batch in range(5):
        monitor.on_train_batch_start(trainer, module, None, batch)
        trainer.global_step += 1
        monitor.on_train_batch_end(trainer, module, None, None, batch)
    monitor.teardown(trainer, module, stage="fit")
    assert seen == [2, 4]
    assert monitor.state_dict() == {}
    assert isinstance(monitor.state_key, str)
    with pytest.raises(AttributeError, match="has no attribute 'oops'"):
        _ = monitor.oops
    with pytest.raises(eb.InputError, match="is no denoiser by itself"):
        eb.Monitor(data=images(4)).setup(trainer, module)
