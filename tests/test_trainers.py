"""Monitor in the loops of real trainers, resumed in the middle.

In Lightning's, in one with accelerate and in a plain one, parameters, random state and the user's
own logs are those of a training without a monitor, and each step that is due is measured once. The
trainers are no dependencies."""

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import exposure_bias as eb

SHAPE = (1, 8, 8)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (64, *SHAPE)).astype(np.float32)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*(num_workers|isinstance\\(treespec|log_every_n|litlogger)"
    ),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*GPU available"),
]


class Network(nn.Module):
    """One layer, with dropout and a draw from the global generator at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        return self.dropout(self.layer(x))


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def denoiser(net: Any) -> eb.Denoiser:
    return eb.Denoiser(net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=SHAPE)


def loss_of(net: Any, x: torch.Tensor) -> torch.Tensor:
    noise = torch.randn_like(x)
    return (net(x + noise, torch.zeros(len(x))) - noise).square().mean()


def seed() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)


def randomness() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # noqa: NPY002


def loader() -> Any:
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES))
    return torch.utils.data.DataLoader(dataset, batch_size=8)


def monitor(path: Path | None = None, **options: Any) -> eb.Monitor:
    given = {"every": 3, "data": IMAGES[:32], "steps": 2, "what": ("gap", "forward_loss")}
    return eb.Monitor(**given | {"log": path} | options)


def steps_in(path: Path) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader(path.read_text().splitlines())]


@pytest.fixture
def lightning() -> Any:
    return pytest.importorskip("lightning", reason="lightning is no dependency; tried with 2.6.6")


def module_of(L: Any, optimisers: int = 1) -> Any:
    class Module(L.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.automatic_optimization = optimisers == 1

        def training_step(self, batch: Any, index: int) -> Any:
            loss = loss_of(self.net, batch[0])
            self.log("loss", loss)
            if optimisers == 1:
                return loss
            self.manual_backward(loss)
            for optimiser in self.optimizers():
                optimiser.step()
            return None

        def configure_optimizers(self) -> Any:
            made = [torch.optim.SGD(self.net.parameters(), 0.1) for _ in range(optimisers)]
            return made[0] if optimisers == 1 else made

    return Module()


def logger_of(L: Any) -> Any:
    from lightning.pytorch.loggers.logger import Logger

    class Kept(Logger):  # type: ignore[misc]
        name, version = "kept", 0

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, dict[str, float]]] = []

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            self.seen.append((step, dict(metrics)))

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            pass

    return Kept()


def trainer_of(L: Any, epochs: int, callbacks: Any = (), **options: Any) -> Any:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
    }
    return L.Trainer(max_epochs=epochs, callbacks=list(callbacks), **quiet | options)


def model_of(module: Any) -> eb.Denoiser:
    return denoiser(module.net)


def two_epochs(L: Any, folder: Path, watch: bool) -> tuple[Any, list[Any], list[Any]]:
    """The second epoch from a checkpoint, in a trainer of its own."""
    folder.mkdir()
    module, logger = module_of(L), logger_of(L)
    states = []
    for epochs in (1, 2):
        seed()
        callbacks = [monitor(folder / "monitor.csv", model=model_of)] if watch else []
        trainer = trainer_of(L, epochs, callbacks, logger=logger)
        trainer.fit(module, loader(), ckpt_path=folder / "a.ckpt" if epochs == 2 else None)
        trainer.save_checkpoint(folder / "a.ckpt")
        states.append([*randomness(), trainer.global_step])
        if epochs == 1:
            module = module_of(L)
    return module, states, logger.seen


def test_lightning_resumed(lightning: Any, tmp_path: Path) -> None:
    plain, states, theirs = two_epochs(lightning, tmp_path / "plain", watch=False)
    watched, watched_states, logged = two_epochs(lightning, tmp_path / "watched", watch=True)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    assert states == watched_states
    assert [state[-1] for state in states] == [8, 16]
    assert logged == theirs
    assert steps_in(tmp_path / "watched" / "monitor.csv") == [3, 6, 9, 12, 15]


def test_lightning_counts_steps_and_not_batches(lightning: Any) -> None:
    """Four batches make a step, or one batch two."""
    for optimisers, options, expected in (
        (1, {"accumulate_grad_batches": 4}, [1, 2]),
        (2, {}, [2, 4, 6, 8, 10, 12, 14, 16]),
    ):
        seen: list[int] = []
        watch = monitor(every=1, model=model_of)
        watch.sinks = [lambda step, _, seen=seen: seen.append(step)]
        module = module_of(lightning, optimisers)
        trainer_of(lightning, 1, [watch], **options).fit(module, loader())
        assert seen == expected


def test_lightning_shows_the_gap_to_other_callbacks(lightning: Any, tmp_path: Path) -> None:
    """ModelCheckpoint keeps the epoch with the smallest distance of the gap from a perfect
    network's, EarlyStopping stops where it grows."""
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    seen: list[dict[str, float]] = []
    watch = monitor(every=8, model=model_of)
    watch.sinks = [lambda step, values: seen.append(dict(values))]
    checkpoint = ModelCheckpoint(
        dirpath=tmp_path,
        monitor="exposure_bias/gap_distance",
        mode="min",
        filename="{epoch}",
        save_on_train_epoch_end=True,
    )
    stopping = EarlyStopping(
        "exposure_bias/forward_loss", mode="max", patience=1, check_on_train_epoch_end=True
    )
    seed()
    trainer = trainer_of(lightning, 6, [watch, checkpoint, stopping], enable_checkpointing=True)
    trainer.fit(module_of(lightning), loader())
    distances = [abs(v["gap"] - v["gap_perfect"]) for v in seen]
    assert checkpoint.best_model_score == pytest.approx(min(distances), rel=1e-5)
    assert f"epoch={int(np.argmin(distances))}" in checkpoint.best_model_path
    losses = [v["forward_loss"] for v in seen]
    assert losses[1] < losses[0]
    assert len(seen) == trainer.current_epoch < 6  # the loss falls, which "max" calls worse


def test_lightning_measures_a_network_that_was_replaced(lightning: Any) -> None:
    seen: list[float] = []
    watch = monitor(every=8, what=("forward_loss",), model=model_of)
    watch.sinks = [lambda step, values: seen.append(values["forward_loss"])]

    class Swap(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                module.net = network()
                nn.init.constant_(module.net.layer.weight, 1.0)

    trainer_of(lightning, 2, [watch, Swap()]).fit(module_of(lightning), loader())
    assert seen[1] > 3 * seen[0]


def accelerate_loop(
    accelerate: Any, folder: Path, watch: bool
) -> tuple[list[torch.Tensor], list[Any], list[Any]]:
    """A loop of two epochs, the second resumed in an Accelerator of its own."""
    from accelerate.tracking import GeneralTracker

    logged: list[Any] = []

    class Kept(GeneralTracker):  # type: ignore[misc]
        name, requires_logging_directory, tracker = "kept", False, None
        main_process_only = True

        def __init__(self) -> None:
            super().__init__()

        def store_init_configuration(self, values: Any) -> None:
            pass

        def log(self, values: Any, step: Any = None, **_: Any) -> None:
            logged.append((step, dict(values)))

    net: Any = None
    for epoch in (0, 1):
        net = network()
        seed()
        accelerate.state.AcceleratorState._reset_state(True)
        accelerator = accelerate.Accelerator(cpu=True, log_with=Kept())
        accelerator.init_trackers("project")
        prepared, optimiser, data = accelerator.prepare(
            net, torch.optim.SGD(net.parameters(), 0.1), loader()
        )
        if epoch:
            accelerator.load_state(str(folder / "state"))
        check = monitor(log=[accelerator, str(folder / "monitor.csv")]) if watch else None
        for index, (x,) in enumerate(data):
            step = 8 * epoch + index + 1
            loss = loss_of(prepared, x)
            accelerator.backward(loss)
            optimiser.step()
            optimiser.zero_grad()
            accelerator.log({"loss": loss.item()}, step=step)
            if check is not None:
                check(step, denoiser(accelerator.unwrap_model(prepared)))
        accelerator.save_state(str(folder / "state"))
    return list(net.parameters()), randomness(), logged


def test_accelerate_resumed(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="no dependency; tried with 1.15.0")
    folder = tmp_path / "plain"
    plain, state, theirs = accelerate_loop(accelerate, folder, watch=False)
    folder = tmp_path / "watched"
    watched, watched_state, logged = accelerate_loop(accelerate, folder, watch=True)
    for a, b in zip(plain, watched, strict=True):
        assert torch.equal(a, b)
    assert state == watched_state
    assert [entry for entry in logged if "loss" in entry[1]] == theirs
    ours = [step for step, values in logged if "exposure_bias/gap" in values]
    assert ours == steps_in(folder / "monitor.csv") == [3, 6, 9, 12, 15]


def plain_loop(folder: Path, watch: bool, begin: int, end: int) -> tuple[Any, list[Any]]:
    """Steps of a plain loop, saved at step 7."""
    net = network()
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    saved = folder / "state.pt"
    seed()
    if begin:
        state = torch.load(saved, weights_only=False)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
    check = monitor(folder / "monitor.csv") if watch else None
    losses = []
    for step in range(begin + 1, end + 1):
        loss = loss_of(net, torch.from_numpy(IMAGES[:16]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if check is not None:
            check(step, denoiser(net))
        if step == 7 and not begin:
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"random": torch.get_rng_state()}, saved)
    return net, losses


def test_a_plain_loop_resumed(tmp_path: Path) -> None:
    """Killed at step 11, resumed from step 7, to step 14."""
    folders = [tmp_path / name for name in ("plain", "watched")]
    nets, losses = [], []
    for folder in folders:
        folder.mkdir()
        watch = folder.name == "watched"
        plain_loop(folder, watch, 0, 11)
        if watch:
            with pytest.warns(UserWarning, match="held rows from step 9 on"):
                net, seen = plain_loop(folder, watch, 7, 14)
        else:
            net, seen = plain_loop(folder, watch, 7, 14)
        nets.append(net)
        losses.append(seen)
    assert losses[0] == losses[1]
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert steps_in(tmp_path / "watched" / "monitor.csv") == [3, 6, 9, 12]


def test_wandb_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By epochs, as many users log: their values and their counter are as without a monitor."""
    wandb = pytest.importorskip("wandb", reason="wandb is no dependency; tried with 0.31.0")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    found = []
    for watch in (False, True):
        run = wandb.init(dir=str(tmp_path), project="p")
        check = monitor(log="wandb") if watch else None
        net = network()
        for epoch in (1, 2, 3):
            if check is not None:
                check.check(100 * epoch, denoiser(net))
            wandb.log({"validation": float(epoch)}, step=epoch)
        summary = dict(run.summary)
        found.append((summary["validation"], run.step))
        assert (summary.get("exposure_bias/step") == 300) is watch
        wandb.finish()
    assert found[0] == found[1]


def test_mlflow_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="no dependency; tried with mlflow-skinny 3")
    mlflow.set_tracking_uri(f"file://{tmp_path}")
    mlflow.set_experiment("p")
    with mlflow.start_run() as run:
        check = monitor(log="mlflow")
        values = [check.check(step, denoiser(network())) for step in (10, 20)]
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "exposure_bias/gap")
    assert [(m.step, m.value) for m in history] == [
        (step, v["gap"]) for step, v in zip((10, 20), values, strict=True)
    ]
