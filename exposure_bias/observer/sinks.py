"""Where a monitor's values go: a CSV file, TensorBoard, W&B, MLflow, a function.

No torch here; a library is imported when it is named. What fails in a library or on disk is told in
a warning, and training goes on; a function of the user's may raise what it likes.

*W&B* has one counter of steps for all that is logged, and drops what comes with a lower one. So our
values have a step of their own, `exposure_bias/step`, and join the row that is under way without
ending it: the user's own rows stay as they were.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exposure_bias.errors import InputError, reason
from exposure_bias.observer.csv_log import CsvLog

Sink = Callable[[int, Mapping[str, float]], Any]

PREFIX = "exposure_bias/"
ALLOWED = (
    'a .csv file, "tensorboard:DIR", "wandb", "mlflow", a function of (step, values), or an object'
    " with add_scalar, log_metrics or log"
)
PACKAGES = {
    "torch.utils.tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
}


def sinks(log: Any, columns: Sequence[str], settings: Callable[[], str] = str) -> list[Sink]:
    """What `log` names, as functions of a step and its values; none for None.

    Parameters
    ----------
    log : object
        One of `ALLOWED`, several of them in a list, or None.
    columns : sequence of str
        The names of the values.
    settings : function
        Gives, in words, what the values depend on; asked when the first ones are written.

    Raises
    ------
    InputError
        For what is none of `ALLOWED`, a library that is missing, and a file that cannot be written
        or holds other columns.
    """
    if log is None:
        return []
    if isinstance(log, list | tuple):
        return [sink for one in log for sink in sinks(one, columns, settings)]
    if isinstance(log, str | os.PathLike):
        return [_careful(_named(os.fspath(log), columns, settings), os.fspath(log))]
    name = type(log).__name__
    if hasattr(log, "add_scalar"):
        return [_careful(_scalars(log), name)]
    if hasattr(log, "define_metric"):
        return [_careful(_Wandb(lambda: log), "wandb")]
    if hasattr(log, "trackers"):
        return [_careful(_Accelerator(log), name)]
    if hasattr(log, "log_metrics"):
        return [_careful(_metrics(log), name)]
    if hasattr(log, "log"):
        return [_careful(lambda step, values: log.log(_prefixed(values), step=step), name)]
    if callable(log):
        return [log]
    raise InputError(f"log is {log!r:.60}: give {ALLOWED}")


def _named(name: str, columns: Sequence[str], settings: Callable[[], str]) -> Sink:
    kind, _, folder = name.partition(":")
    if kind == "tensorboard" and folder:
        return _scalars(_imported("torch.utils.tensorboard").SummaryWriter(folder))
    if name == "wandb":
        wandb = _imported("wandb")
        return _Wandb(lambda: getattr(wandb, "run", None) or wandb)
    if name == "mlflow":
        return _metrics(_imported("mlflow"))
    if name.endswith(".csv"):
        return CsvLog(Path(name), columns, settings)
    raise InputError(f"log is {name!r:.60}: give {ALLOWED}")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = PACKAGES[module]
        raise InputError(f"{name} is not here: pip install {name}") from error


def _careful(sink: Sink, name: str) -> Sink:
    """A sink whose failure does not stop a training."""

    def write(step: int, values: Mapping[str, float]) -> None:
        try:
            sink(step, values)
        except Exception as error:
            warnings.warn(
                f"the values of step {step} did not reach {name} ({reason(error)}): training goes"
                " on",
                stacklevel=2,
            )

    return write


class _Wandb:
    """Values in W&B's row under way, with a step of their own; the run's counter stays."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self.find = find
        self._run: Any = None
        self._row: int | None = None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        run = self.find()
        if run is not self._run:
            run.define_metric(f"{PREFIX}step", hidden=True)
            run.define_metric(f"{PREFIX}*", step_metric=f"{PREFIX}step")
            self._run, self._row = run, None
        row = getattr(run, "step", None)
        if row is not None and row == self._row:
            warnings.warn(
                "two checks fall into one row of W&B, which keeps the later one: its rows end when"
                " you log yourself; log more often, or keep a .csv file as well",
                stacklevel=3,
            )
        run.log({**_prefixed(values), f"{PREFIX}step": step}, commit=False)
        self._row = row


class _Accelerator:
    """The trackers of an Accelerator, which may be set up after the monitor is made."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self._wandb = _Wandb(self._run)

    def _run(self) -> Any:
        return next(t.tracker for t in self.accelerator.trackers if t.name == "wandb")

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self.accelerator.trackers:
            if tracker.name == "wandb":
                self._wandb(step, values)
            else:
                tracker.log(_prefixed(values), step=step)


def _metrics(logger: Any) -> Sink:
    """MLflow, and the loggers of Lightning."""
    return lambda step, values: logger.log_metrics(_prefixed(values), step=step)


def _scalars(writer: Any) -> Sink:
    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in _prefixed(values).items():
            writer.add_scalar(name, value, step)
        if hasattr(writer, "flush"):
            writer.flush()

    return write


def _prefixed(values: Mapping[str, float]) -> dict[str, float]:
    return {f"{PREFIX}{name}": value for name, value in values.items()}
