"""What a training takes from a checkpoint: tensors of its own kind, and nothing that it defines.

A checkpoint may be damaged, of another run, or changed by somebody. Names, shapes and types of its
tensors must be those of the run, their values finite; the optimizer's settings are never read."""

import csv
import io
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exposure_bias.errors import InputError
from exposure_bias.files.weights import few

MOMENTS = ("exp_avg", "exp_avg_sq")
COLUMNS = ("iteration", "loss", "lr", "it_per_s", "heldout_loss")


def check_keys(state: Any, wanted: Collection[str]) -> None:
    """Raise InputError unless these are the entries of a checkpoint."""
    came = set(state) if isinstance(state, Mapping) else set()
    if came != set(wanted):
        raise InputError(f"it holds {few(sorted(map(str, came))) or 'nothing'}, not a training")


def load_weights(net: nn.Module, state: Mapping[str, Any], what: str, prefix: str = "") -> None:
    """Copy weights into a network.

    Raises InputError unless they have its names, shapes and types and are finite."""
    own = net.state_dict()
    came = {name.removeprefix(prefix): value for name, value in state.items()}
    if came.keys() != own.keys():
        raise InputError(f"its {what} are those of another network")
    for name, value in came.items():
        _check(value, own[name], f"{what} {name}")
    net.load_state_dict(came)


def load_moments(optimizer: torch.optim.Optimizer, given: Any, iteration: int) -> None:
    """Copy AdamW's moments into an optimizer, whose settings stay as they are.

    Raises InputError unless they are those of its weights at an iteration."""
    own = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    came: dict[Any, Any] = given["state"]
    if not set(came) <= set(range(len(weights))):
        raise InputError("its optimizer has moments of weights that the network has not")
    for number, kept in came.items():
        what = f"moments of weight {number}"
        if set(kept) != {"step", *MOMENTS}:
            raise InputError(f"its {what} are not AdamW's")
        for name in MOMENTS:
            _check(kept[name], weights[number].detach(), f"{what}, {name}")
        if (kept["exp_avg_sq"] < 0).any() or not 0 < float(kept["step"]) <= iteration:
            raise InputError(f"its {what} are impossible")
    optimizer.load_state_dict({**own, "state": came})


def check_complete(optimizer: torch.optim.Optimizer) -> None:
    """Raise InputError where a weight has a gradient and no moments after a checkpoint was read."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and not optimizer.state[weight]:
                raise InputError("the checkpoint lacks the moments of some weights: start anew")


def rows(log: str, iteration: int) -> list[dict[str, float]]:
    """Return the rows of a training's log up to an iteration.

    Raises InputError for a log of anything else."""
    reader = csv.DictReader(io.StringIO(log))
    if tuple(reader.fieldnames or ()) not in ((), COLUMNS):
        raise InputError("its log has other columns")
    try:
        found = [{name: float(row[name]) for name in COLUMNS} for row in reader]
    except (TypeError, ValueError, KeyError, csv.Error) as error:
        raise InputError("its log has rows that are no numbers") from error
    places = [row["iteration"] for row in found]
    if places != sorted(set(places)) or (places and not 0 < places[0] <= places[-1] <= iteration):
        raise InputError("its log is not that of its iterations")
    return found


def best(value: Any, found: Collection[Mapping[str, float]]) -> float:
    """Return the least held-out loss of a training, which its log knows.

    Raises InputError for another one."""
    known = [row["heldout_loss"] for row in found] + [math.inf]
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    if not is_number or not any(value == v or math.isclose(value, v, rel_tol=1e-8) for v in known):
        raise InputError(f"its best held-out loss, {value!r:.40}, is none of its log's")
    return float(value)


def _check(value: Any, own: Tensor, what: str) -> None:
    """Raise InputError unless a tensor is of the kind of the run's own, and finite."""
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    if not plain or value.shape != own.shape or value.dtype != own.dtype:
        raise InputError(f"its {what} are not of the run's shape and kind of numbers")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise InputError(f"its {what} are not finite")
