"""Where a monitor's values go: a CSV file, TensorBoard, W&B, a function.

No torch here; a library is imported when it is named."""

import csv
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exposure_bias.errors import InputError, reason
from exposure_bias.files import check_writable

Sink = Callable[[int, Mapping[str, float]], Any]

PREFIX = "exposure_bias/"
ALLOWED = (
    'a .csv file, "tensorboard:DIR", "wandb", a function of (step, values), or an object with'
    " add_scalar or log"
)
PACKAGES = {"torch.utils.tensorboard": "tensorboard", "wandb": "wandb"}


def sinks(log: Any, columns: Sequence[str]) -> list[Sink]:
    """What `log` names, as functions of a step and its values; none for None.

    Raises InputError for what is none of `ALLOWED`, a library that is missing, and a file that
    cannot be written or holds other columns.
    """
    if log is None:
        return []
    if isinstance(log, list | tuple):
        return [sink for one in log for sink in sinks(one, columns)]
    if isinstance(log, str | os.PathLike):
        return [_named(os.fspath(log), columns)]
    if hasattr(log, "add_scalar"):
        return [_scalars(log)]
    if hasattr(log, "log"):
        return [lambda step, values: log.log(_prefixed(values), step=step)]
    if callable(log):
        return [log]
    raise InputError(f"log is {log!r:.60}: give {ALLOWED}")


def _named(name: str, columns: Sequence[str]) -> Sink:
    kind, _, folder = name.partition(":")
    if kind == "tensorboard" and folder:
        return _scalars(_imported("torch.utils.tensorboard").SummaryWriter(folder))
    if name == "wandb":
        wandb = _imported("wandb")
        return lambda step, values: wandb.log(_prefixed(values), step=step)
    if name.endswith(".csv"):
        return _csv(Path(name), columns)
    raise InputError(f"log is {name!r:.60}: give {ALLOWED}")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = PACKAGES[module]
        raise InputError(f"{name} is not here: pip install {name}") from error


def _scalars(writer: Any) -> Sink:
    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in _prefixed(values).items():
            writer.add_scalar(name, value, step)
        if hasattr(writer, "flush"):
            writer.flush()

    return write


def _prefixed(values: Mapping[str, float]) -> dict[str, float]:
    return {f"{PREFIX}{name}": value for name, value in values.items()}


def _csv(path: Path, columns: Sequence[str]) -> Sink:
    """A row a step; a file of the same columns is gone on with."""
    header = ["step", *columns]
    check_writable(path, folder=False)
    if path.exists():
        try:
            with open(path, newline="") as file:
                found = next(csv.reader(file), header)
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(
                f"{path} is no CSV file to go on with ({reason(error)}): give another file"
            ) from error
        if found != header:
            raise InputError(
                f"{path} has the columns {', '.join(found)[:80]}, not {', '.join(header)}: give"
                " another file"
            )

    def write(step: int, values: Mapping[str, float]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists() or path.stat().st_size == 0
        with open(path, "a", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([header] * fresh + [[step, *(values[name] for name in columns)]])

    return write
