"""Checkpoints: a folder for each, whole or not there, and two links, `last` and `best`, to folders.

    runs/x/iteration-0005000/     the EMA weights as a diffusers pipeline
                              training.json   provenance: settings, data, split, losses, versions
                              training.csv    the log up to here
                              trainer.pt      network, EMA, optimizer (weights_only=True reads it)
    runs/x/last, runs/x/best      links, replaced atomically; what neither names is removed
    runs/x/training.csv           the log so far; runs/x/split.json: which images were held out

A folder is written under another name, flushed to disk and renamed; a process that is killed at any
moment leaves the checkpoint before intact. A network that is not diffusers' own leaves
`weights.safetensors` in place of the pipeline."""

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, reason
from exposure_bias.files import CannotWrite, reading
from exposure_bias.files.weights import read_json, read_torch
from exposure_bias.schedules import Schedule, cosine, linear

LINKS = ("last", "best")
STATE, PROVENANCE, LOG = "trainer.pt", "training.json", "training.csv"
LOG_BYTES = 2**24
NAME = re.compile(r"iteration-(\d{7,18})")
DIGEST = "trainer_sha256"  # of STATE, in PROVENANCE


def write(
    run: Path,
    iteration: int,
    model: Denoiser,
    state: dict[str, Any],
    provenance: dict[str, Any],
    log: str,
    best: bool,
) -> Path:
    """Write the checkpoint of an iteration and let `last`, and `best` if it is, name it.

    Whoever writes holds the run's folder (`files.output`), so that a partial checkpoint in it was
    left by a process that was killed. Raises `CannotWrite` if it cannot be written; the earlier
    checkpoints are then as they were.
    """
    folder = run / f"iteration-{iteration:07d}"
    partial = run / f".{folder.name}.partial"
    try:
        for stale in run.glob(".iteration-*.partial"):
            if NAME.fullmatch(stale.name[1:].removesuffix(".partial")):
                shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir()
        save_network(model, partial)
        torch.save(state, partial / STATE)
        known = provenance | {DIGEST: _digest(partial / STATE)}
        (partial / PROVENANCE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        (partial / LOG).write_text(log, encoding="utf-8")
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
        if folder.exists():  # of this run: begin() refuses those of others
            shutil.rmtree(folder)
        os.replace(partial, folder)
        _link(run / "last", folder.name)
        if best:
            _link(run / "best", folder.name)
    except Exception as error:  # torch and safetensors report a full disk each in their own way
        shutil.rmtree(partial, ignore_errors=True)
        raise CannotWrite(
            f"cannot write the checkpoint of iteration {iteration}: {reason(error)}; the earlier"
            " one is kept"
        ) from error
    kept = {os.path.realpath(run / name) for name in LINKS}
    for old in all_of(run):
        if os.path.realpath(old) not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def all_of(run: Path) -> list[Path]:
    """A run's checkpoints, the earliest first; other folders of its are nobody's business."""
    found = [path for path in run.glob("iteration-*") if NAME.fullmatch(path.name)]
    whole = [
        path
        for path in found
        if not path.is_symlink() and all((path / name).is_file() for name in (STATE, PROVENANCE))
    ]
    return sorted(whole, key=lambda path: int(path.name.rpartition("-")[2]))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_iteration(run: Path) -> int | None:
    """That of a run's last checkpoint; None if it has none."""
    folder = os.path.realpath(run / "last")
    number = os.path.basename(folder).removeprefix("iteration-")
    return int(number) if os.path.isdir(folder) and number.isdigit() else None


def read(run: Path, limit: int | None = None) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(state, provenance, log) of a run's last checkpoint.

    limit: the most bytes that the state may have.

    Raises InputError if there is none or it is damaged.
    """
    whole = all_of(run)
    folder = run / "last" if (run / "last").is_dir() else (whole or [run / "last"])[-1]
    if not all((folder / name).is_file() for name in (STATE, PROVENANCE, LOG)):
        raise InputError(f"{run} holds no checkpoint to resume: start without resume")
    try:
        provenance = read_json(folder / PROVENANCE)
        state = read_torch(folder / STATE, limit)
        if provenance.get(DIGEST, "") not in ("", _digest(folder / STATE)):
            raise InputError(f"{STATE} is not as it was written: restore it, or start anew")
        return state, provenance, reading.text(folder / LOG, LOG_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the checkpoint {folder}: {reason(error)}") from error


def save_network(model: Denoiser, folder: Path) -> None:
    """Write the weights so that `load_model` reads them back.

    A diffusers pipeline where the network is diffusers'."""
    net: Any = _plain_unet(model.net) if model.schedule.parameterisation == "vp" else None
    if net is None:
        from safetensors.torch import save_file

        weights = {
            k: v.detach().cpu().contiguous().clone() for k, v in model.net.state_dict().items()
        }
        save_file(weights, folder / "weights.safetensors")
        return
    from diffusers import DDPMPipeline

    made = scheduler(model.schedule, model.prediction_type, model.learned_variance)
    with _quiet():
        DDPMPipeline(net, made).save_pretrained(folder)


def _plain_unet(net: Any) -> Any:
    """A UNet2DModel itself; one of a subclass that computes what that does, as one.

    None for others, which diffusers could not make again."""
    base: Any = next((c for c in type(net).__mro__ if c.__name__ == "UNet2DModel"), None)
    if base is None or type(net) is base:
        return net if base is not None else None
    plain: Any = base.from_config({k: v for k, v in dict(net.config).items() if k[0] != "_"})
    same = (
        type(net).forward is base.forward and net.state_dict().keys() == plain.state_dict().keys()
    )
    if not same:
        return None
    plain.load_state_dict(net.state_dict())
    return plain.to(next(net.parameters()).device)


def scheduler(schedule: Schedule, prediction_type: str, learned_variance: bool = False) -> Any:
    """diffusers' DDPMScheduler of a vp schedule.

    It goes by its name where diffusers has it, else by its betas."""
    from diffusers import DDPMScheduler

    steps = len(schedule)
    options: dict[str, Any] = {
        "trained_betas": 1 - (schedule.alpha / np.append(1.0, schedule.alpha[:-1])) ** 2
    }
    for name, known in (("linear", linear), ("squaredcos_cap_v2", cosine)):
        if np.allclose(schedule.alpha, known(steps).alpha, rtol=1e-6):
            options = {"beta_schedule": name}
    if "trained_betas" in options:
        options["trained_betas"] = options["trained_betas"].tolist()
    options["variance_type"] = "learned_range" if learned_variance else "fixed_small"
    # As `record` samples unless it is told otherwise.
    options |= {"clip_sample": False, "timestep_spacing": "linspace"}
    return DDPMScheduler(steps, prediction_type=prediction_type, **options)


def _link(link: Path, name: str) -> None:
    temporary = link.with_name(f".{link.name}.partial")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(name, target_is_directory=True)
    os.replace(temporary, link)


class _quiet:
    """diffusers announces each folder it writes."""

    def __enter__(self) -> None:
        from diffusers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()

    def __exit__(self, *_: object) -> None:
        from diffusers.utils import logging

        logging.set_verbosity(self.level)
