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
    assert values["gap_perfect"] == pytest.approx(float(gap["gap_gaussian"][-1]), rel=1e-9)
    assert values["hf_perfect"] == pytest.approx(float(spectra["hf_gaussian"]), rel=1e-9)
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


def test_a_perfect_network_shows_what_is_perfect() -> None:
    """Five steps take 40 % of the variance of white Gaussian data; that is nobody's fault."""
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.09, eb.schedules.linear(1000))
    x = np.random.default_rng(1).normal(0, 0.3, (2048, *SHAPE)).astype(np.float32)
    data = eb.load_data(x, value_range=None)
    values = eb.Monitor(data=data, steps=5, n=2048, what=("gap", "hf")).check(1, oracle)
    assert values["gap_perfect"] < -0.2
    for name in ("gap", "hf"):
        off = values[name] - values[f"{name}_perfect"]
        assert abs(off) < 4 * values[f"{name}_se"]
    known = eb.Monitor(data=data, sampler="DDPMScheduler", steps=5, n=64, what=("gap",))
    assert np.isnan(known.check(1, oracle)["gap_perfect"])  # no closed form


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_csv_file_is_gone_on_with(tmp_path: Path) -> None:
    path, model = tmp_path / "new" / "monitor.csv", denoiser()
    for step in (1, 2):
        eb.Monitor(every=1, data=images(16), what=("gap",), steps=2, log=path)(step, model)
    rows = rows_of(path)
    assert [row["step"] for row in rows] == ["1", "2"]
    assert np.isfinite(float(rows[0]["gap"]))
    assert rows[0]["settings"].startswith("ddpm:fixed_small, 2 steps, 16 images ")
    with pytest.raises(eb.InputError, match=r"has the columns step, gap, .*, not step, hf"):
        eb.Monitor(data=images(16), what=("hf",), log=path)


def test_a_csv_file_after_a_resume_has_no_step_twice(tmp_path: Path) -> None:
    """Killed at step 5, resumed from the checkpoint of step 2; what was measured in between is
    kept beside it."""
    path, model = tmp_path / "monitor.csv", denoiser()

    def monitor(**options: Any) -> Any:
        return eb.Monitor(every=1, data=images(16), what=("gap",), log=path, **options)

    first = monitor(steps=2)
    for step in (1, 2, 3, 4, 5):
        first(step, model)
    before = rows_of(path)
    resumed = monitor(steps=2)
    with pytest.warns(UserWarning, match=r"held rows from step 3 on, .*monitor\.csv\.old"):
        resumed(3, model)
    resumed(4, model)
    assert [row["step"] for row in rows_of(path)] == ["1", "2", "3", "4"]
    assert rows_of(path)[:4] == before[:4]
    assert rows_of(tmp_path / "monitor.csv.old") == before[2:]
    with pytest.warns(UserWarning, match=r"other settings from step 5 on .*, 2 steps.*, 3 steps"):
        monitor(steps=3)(5, model)
    settings = [row["settings"] for row in rows_of(path)]
    assert len(set(settings[:4])) == 1
    assert settings[4] != settings[3]


def test_files_that_are_no_monitors(tmp_path: Path) -> None:
    path = tmp_path / "monitor.csv"
    for content, message in (
        (b"step,gap,gap_se,gap_perfect,settings\nsoon,1,1,1,x\n", "is no CSV file to go on with"),
        (b"\xff\xfe\x00", "is no CSV file"),
        (b"a,b\n1,2\n", "has the columns a, b"),
    ):
        path.write_bytes(content)
        with pytest.raises(eb.InputError, match=message):
            eb.Monitor(data=images(4), what=("gap",), log=path)
    # A row that a kill cut off is left out.
    path.write_text("step,gap,gap_se,gap_perfect,settings\n1,0.5,0.1,0,x\n2,0.5,0.")
    with pytest.warns(UserWarning, match="other settings"):
        eb.Monitor(data=images(16), what=("gap",), steps=2, log=path).check(3, denoiser())
    assert [row["step"] for row in rows_of(path)] == ["1", "3"]


def test_a_model_card(tmp_path: Path) -> None:
    path, model = tmp_path / "README.md", denoiser()
    monitor = eb.Monitor(data=images(), steps=3)
    with pytest.raises(eb.InputError, match="nothing was measured yet"):
        monitor.model_card(path)
    path.write_text("# My model\n\nText.\n")
    values = monitor.check(2000, model)
    block = monitor.model_card(path)
    assert path.read_text() == f"# My model\n\nText.\n\n{block}"
    assert "training step 2000" in block
    assert f"{100 * values['gap']:+.3g}".replace("-", "−") in block
    assert f"± {213 * values['gap_se']:.3g} %" in block
    assert block.count("|\n") == 5
    path.write_text(f"{path.read_text()}\nAfter.\n")
    monitor.check(3000, model)
    monitor.model_card(path)
    text = path.read_text()
    assert "step 2000" not in text
    assert text.count("## Exposure bias") == 1
    assert text.startswith("# My model")
    assert text.endswith("After.\n")
    (tmp_path / "b.md").write_bytes(b"\xff\xfe")
    with pytest.raises(eb.InputError, match=r"cannot read .* as text"):
        monitor.model_card(tmp_path / "b.md")


def test_a_network_that_is_replaced_is_the_one_that_is_measured() -> None:
    """The data's law is learnt once all the same; another shape is another chain."""
    seen: list[float] = []
    monitor = eb.Monitor(data=images(64), steps=2, what=("forward_loss",))
    module = SimpleNamespace(net=Net().eval())

    def model() -> Any:
        return eb.Denoiser(
            module.net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE
        )

    for scale in (1.0, 2.0, 2.0):
        torch.nn.init.constant_(module.net.layer.weight, scale)
        seen.append(monitor.check(1, model())["forward_loss"])
        fresh = eb.Monitor(data=images(64), steps=2, what=("forward_loss",))
        assert fresh.check(1, model())["forward_loss"] == seen[-1]
        module.net = Net().eval()
    assert seen[0] != seen[1]
    assert seen[1] != pytest.approx(seen[0])
    setup = monitor._setup
    assert setup is not None
    assert "law" in vars(setup)
    monitor.check(1, denoiser(Net()))
    cosine = eb.Denoiser(
        module.net, schedule=eb.schedules.cosine(), prediction_type="epsilon", shape=SHAPE
    )
    monitor.check(1, cosine)
    assert monitor._setup is not None
    assert monitor._setup.run.schedule == "cosine"


class Writer:
    """As TensorBoard's SummaryWriter."""

    def __init__(self, folder: str = "") -> None:
        self.folder, self.seen = folder, {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.seen[name, step] = value


class Wandb:
    """W&B's rows: one counter for all that is logged, and what comes with a lower step is lost."""

    def __init__(self) -> None:
        self.step, self.row, self.rows, self.metrics = 0, {}, [], {}

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics[name] = options

    def log(self, values: Any, step: int | None = None, commit: bool | None = None) -> None:
        if step is not None and step < self.step:
            return
        if step is not None and step > self.step:
            self.end(step)
        self.row |= values
        if commit or (commit is None and step is None):
            self.end(self.step + 1)

    def end(self, step: int) -> None:
        self.rows += [self.row] if self.row else []
        self.step, self.row = step, {}


@pytest.mark.parametrize("by_name", [True, False])
def test_wandb_keeps_the_users_values(by_name: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By epochs, by steps of their own, or without a step: none of theirs is lost or moved, and
    each of ours stands in their row with a step of its own."""
    for pattern in ("epochs", "steps", "no step"):
        run, alone = Wandb(), Wandb()
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
        monitor = eb.Monitor(
            data=images(16), what=("gap",), steps=2, log="wandb" if by_name else run
        )
        for epoch in (1, 2, 3):
            monitor.check(100 * epoch, denoiser())
            for each in (run, alone):
                step = {"epochs": epoch, "steps": 100 * epoch, "no step": None}[pattern]
                each.log({"loss": float(epoch)}, step=step)
        for each in (run, alone):
            each.end(10**6)
        theirs = [{k: v for k, v in row.items() if k == "loss"} for row in run.rows]
        assert [row for row in theirs if row] == alone.rows
        ours = [row["exposure_bias/step"] for row in run.rows if "exposure_bias/step" in row]
        assert ours == [100, 200, 300]
        assert run.metrics["exposure_bias/*"] == {"step_metric": "exposure_bias/step"}
    monitor.check(500, denoiser())
    with pytest.warns(UserWarning, match="two checks fall into one row of W&B"):
        monitor.check(600, denoiser())


def test_tensorboard_mlflow_and_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported when they are named; a missing one is one line with its cure."""
    writer, run, logged = Writer(), Wandb(), []

    class Mlflow:
        @staticmethod
        def log_metrics(values: Any, step: int) -> None:
            logged.append((step, values))

    accelerator = SimpleNamespace(
        trackers=[
            SimpleNamespace(name="wandb", tracker=run),
            SimpleNamespace(name="other", log=lambda values, step: logged.append((step, values))),
        ]
    )
    tensorboard = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "mlflow", Mlflow)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    monitor = eb.Monitor(
        every=1,
        data=images(16),
        what=("gap",),
        steps=2,
        log=["mlflow", "tensorboard:runs", writer, accelerator],
    )
    values = monitor(1, denoiser())
    assert values is not None
    assert writer.seen["exposure_bias/gap", 1] == values["gap"]
    assert [step for step, _ in logged] == [1, 1]
    assert [found["exposure_bias/gap"] for _, found in logged] == [values["gap"]] * 2
    assert run.row["exposure_bias/gap"] == values["gap"]
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(eb.InputError, match=f"{name} is not here: pip install {name}"):
            eb.Monitor(data=images(4), log=name)


def test_a_log_that_fails_does_not_stop_a_training(tmp_path: Path) -> None:
    """A library's failure is told; what the user's own function raises is theirs."""

    class Broken:
        def log_metrics(self, values: Any, step: int) -> None:
            raise OSError("no space left on device")

    def prunes(step: int, values: Any) -> None:
        raise KeyError("pruned")

    options: dict[str, Any] = {"data": images(16), "what": ("gap",), "steps": 2}
    with pytest.warns(UserWarning, match="step 7 did not reach Broken .*no space left.*goes on"):
        eb.Monitor(log=Broken(), **options).check(7, denoiser())
    with pytest.raises(KeyError, match="pruned"):
        eb.Monitor(log=prunes, **options).check(7, denoiser())


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
    monitor.on_train_start(trainer, module)
    for batch in range(10):
        monitor.on_train_batch_start(trainer, module, None, batch)
        trainer.global_step += batch % 2  # of two batches that make one step
        monitor.on_train_batch_end(trainer, module, None, None, batch)
    monitor.teardown(trainer, module, stage="fit")
    assert seen == [2, 4]
    trainer.global_step = 1000  # resumed there, with two optimisers and three steps a check
    monitor.every = 3
    monitor.on_train_start(trainer, module)
    for batch in range(4):
        trainer.global_step += 2
        monitor.on_train_batch_end(trainer, module, None, None, batch)
    assert seen == [2, 4, 1002, 1006, 1008]
    assert monitor.state_dict() == {}
    assert isinstance(monitor.state_key, str)
    with pytest.raises(AttributeError, match="has no attribute 'oops'"):
        _ = monitor.oops
    with pytest.raises(eb.InputError, match="is no denoiser by itself"):
        eb.Monitor(data=images(4)).setup(trainer, module)
