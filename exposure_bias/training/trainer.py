"""`train`: a denoiser from images, and the same one again from the same seed.

AdamW, linear warm-up and half a cosine down to zero, gradient clipping, an exponential moving
average (EMA) of the weights, which is what is measured, saved and returned.

Whatever is random at iteration i (levels, noise, flips, dropout) comes from generators seeded by
(seed, i) alone, image order from (seed, epoch). Objectives of one seed therefore see the same
draws, and a run that was killed needs no generator's state to go on exactly. ξ and flips are drawn
last, so that they change nothing else.

Under torchrun (`parallel`) every process draws the whole batch and takes its share of it; gradients
are averaged by DistributedDataParallel, with weights that make it the mean over the batch whatever
the shares."""

import copy
import csv
import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from exposure_bias import data as sources
from exposure_bias import files
from exposure_bias.adapters import adapt
from exposure_bias.checking import check_arguments
from exposure_bias.clipping import clipping
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import Denoiser, on_device
from exposure_bias.errors import InputError, reason, whole_number
from exposure_bias.paths import Paths
from exposure_bias.remedies import Remedied
from exposure_bias.run import refuse_unlike
from exposure_bias.running import parallel
from exposure_bias.running.progress import WATCH, Watch
from exposure_bias.running.recorder import record
from exposure_bias.running.setup import made
from exposure_bias.samplers import DDIM
from exposure_bias.schedules import Schedule, cosine, linear
from exposure_bias.streams import prior, rollout
from exposure_bias.training import checkpoints, networks, restoring
from exposure_bias.training.objectives import Draw, by_sample, objective, target

Row = dict[str, float]
SCHEDULES = {"linear": linear, "cosine": cosine}
PRECISIONS = ("auto", "fp32", "bf16")
ON_WRITE_ERROR = ("stop", "go-on")
CHECKED, CHECK_STEPS = (16, 256), 12  # held-out images and levels, once training has ended
EVALUATED = 512
GRID = 16
SHORTEST = 1e-6  # seconds; a clock may stand still


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a run's numbers; two runs with equal settings, data and network are equal.

    learning_rate: the peak, reached after `warmup` iterations, zero at the end. weight_decay:
    AdamW's own, decoupled.
    ema: decay, min(ema, (1 + i)/(10 + i)) at iteration i, so that a short training is not mostly
    its first weights.
    held_out: share of the images kept from training, where the data has no split.
    precision: bf16 is autocast, auto takes it where a GPU has it. See `objectives.objective` for
    the others."""

    objective: str = "ddpm"
    gamma: Any = None
    strength: float | None = None
    iterations: int = 10_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    ema: float = 0.999
    seed: int = 0
    flips: bool = False
    held_out: float = 0.1
    precision: str = "auto"
    channels_last: bool = False
    log_every: int = 100
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "log_every", "evaluate_every"):
            whole_number(getattr(self, name), name)
        whole_number(self.warmup, "warmup", 0)
        whole_number(self.seed, "a seed", -(2**63))
        for name in ("weight_decay", "learning_rate", "max_gradient_norm", "ema", "held_out"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{name} must be a number, got {value!r:.60}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be at least 0, got {self.weight_decay}")
        for name in ("learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("ema", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"unknown precision {self.precision!r}: allowed are {', '.join(PRECISIONS)}"
            )


def _foretell(watch: Watch, chosen: Settings, done: int) -> None:
    """Say what is still to be trained: one call of the network for every image of a batch."""
    left = chosen.iterations - done
    parts = f"{left} iterations of {chosen.batch_size} images, {chosen.objective}"
    watch.expect(left * chosen.batch_size, f"{parts}, seed {chosen.seed}")


def train(
    data: Any,
    *,
    net: Any = "unet-small",
    schedule: str | Schedule = "linear",
    prediction_type: str = "epsilon",
    learned_variance: bool = False,
    out: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    resume: bool = False,
    compile: bool = False,
    checkpoint_every: int = 1000,
    sample_every: int | None = None,
    on_write_error: str = "stop",
    **settings: Any,
) -> Denoiser:
    """Train a denoiser on images and return it, with its EMA weights.

    data: what `load_data` takes, (N, C, H, W). "digits" and "patches" train on their train split
    and hold out the other; other data holds out a share of its images, the same for every seed
    (`divide`). `training.json` says both.
    net: a preset (`networks.PRESETS`), UNet2DModel options as a dict or a JSON file, a torch module
    called as net(x, timestep), which is trained in place, or a model to fine-tune, a `Denoiser`,
    which brings its schedule and prediction type and is left as it was.
    schedule: linear or cosine (T = 1000) or a `Schedule`; prediction_type; learned_variance: all of
    a new network; hybrid always learns its variance, ip does where that is asked for.
    out: a folder for checkpoints (`training.checkpoints`), of which the last and the best are kept,
    the log and sample grids; None keeps nothing. device: a torch device. resume: go on from the
    last checkpoint in `out`.
    compile: run the network through torch.compile. checkpoint_every, sample_every: in iterations
    (samples: by default as often as checkpoints, 0 for none). on_write_error: "stop" or "go-on"
    when a checkpoint cannot be written.
    settings: fields of `Settings`: objective, gamma, strength, iterations, batch_size,
    learning_rate, seed, …

    Raises InputError for what does not fit, settings on resume that are not the run's (it lists
    them), and a loss or a weight that is not finite: it names the iteration; the last checkpoint is
    an earlier, good one.
    """
    check_arguments(train, locals())
    chosen = Settings(**settings)
    folder = None if out is None else files.target_of(out)
    _check(folder, resume, checkpoint_every, sample_every, on_write_error)
    training, heldout = divide(data, chosen.held_out)
    device = parallel.local(device)
    with (
        parallel.joined() as (rank, size),
        torch.random.fork_rng(_forked(device)),
        parallel.claimed(folder, folder=True) if folder is not None else nullcontext(),
    ):
        torch.manual_seed(chosen.seed)  # the initial weights
        model = denoiser(net, schedule, prediction_type, training, chosen, learned_variance)
        _to(model, device, chosen)
        fine_tuned = net.weight_hash if isinstance(net, Denoiser) else None
        run = _Run(model, training, heldout, chosen, rank, size, compile, fine_tuned)
        if folder is not None:
            run.begin(folder, resume)
        sample_every = checkpoint_every if sample_every is None else sample_every
        with tqdm(
            total=chosen.iterations,
            initial=run.iteration,
            desc="train",
            unit="it",
            disable=None if rank == 0 else True,
        ) as progress:
            watch = WATCH.get()
            if watch is not None:
                _foretell(watch, chosen, run.iteration)
            while run.iteration < chosen.iterations:
                run.step()
                progress.update()
                if watch is not None:
                    watch.add(chosen.batch_size)
                last = run.iteration == chosen.iterations
                due = last or run.iteration % checkpoint_every == 0
                if due or run.iteration % chosen.log_every == 0:
                    run.log(evaluate=due or run.iteration % chosen.evaluate_every == 0)
                    progress.set_postfix(loss=f"{run.rows[-1]['loss']:.4f}")
                if folder is None or rank > 0:
                    continue
                with _written(on_write_error):
                    if due:
                        run.checkpoint(folder)
                with _written(on_write_error):
                    if due or run.iteration % chosen.log_every == 0:
                        files.write_bytes(folder / checkpoints.LOG, run.csv().encode())
                    if sample_every and (last or run.iteration % sample_every == 0):
                        run.save_samples(folder / "samples" / f"iteration-{run.iteration:07d}.png")
        trained = run.denoiser()
        if heldout is not None and len(heldout) >= CHECKED[0]:
            steps = min(CHECK_STEPS, len(trained.schedule))
            # It warns where the network does not denoise held-out images.
            record(
                trained, heldout, steps=steps, n=min(CHECKED[1], len(heldout)), streams=("forward",)
            )
        return trained


def divide(data: Any, held_out: float) -> tuple[Data, Data | None]:
    """Training and held-out images, the same in every run.

    The bundled data's splits, or a share of the others."""
    if isinstance(data, str) and data in sources.BUNDLED:
        data = load_data(data, "train")
    data = load_data(data)
    if data.split == "train" and data.name in sources.BUNDLED:
        return data, load_data(data.name, "test")
    kept = round(held_out * len(data))
    if kept == 0:
        return data, None
    order = np.random.default_rng(0).permutation(len(data))
    return subset(data, np.sort(order[kept:]), "train"), subset(
        data, np.sort(order[:kept]), "held out"
    )


def subset(data: Data, ids: NDArray[np.int64], split: str) -> Data:
    """These images of a data set, under the name of a split."""
    labels = None if data.labels is None else data.labels[ids]
    return replace(data, images=data.images[ids], labels=labels, split=split)


def denoiser(
    net: Any,
    schedule: str | Schedule,
    prediction_type: str,
    data: Data,
    settings: Settings,
    learned_variance: bool = False,
) -> Denoiser:
    """The denoiser that `train` starts from (its parameters).

    Raises InputError where it does not fit the data."""
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise InputError(f"unknown schedule {schedule!r}: allowed are {', '.join(SCHEDULES)}")
        schedule = SCHEDULES[schedule]()
    if isinstance(net, Denoiser):
        if isinstance(net, Remedied):
            raise InputError(
                f"{net.name} has a remedy at sampling time: fine-tune the model without it"
            )
        model = copy.copy(net)
        model.net = copy.deepcopy(net.net).float().requires_grad_()
    elif isinstance(net, nn.Module):
        model = Denoiser(
            net,
            schedule=schedule,
            prediction_type=prediction_type,
            shape=data.shape,
            learned_variance=learned_variance,
        )
    else:
        learned = learned_variance or settings.objective == "hybrid"
        model = adapt(
            networks.unet(net, data.shape, learned),
            checkpoints.scheduler(schedule, prediction_type, learned),
        )
    if model.shape != data.shape:
        raise InputError(
            f"the model works on images of shape {model.shape}, but {data.name} holds {data.shape}"
        )
    if model.classes is not None:
        raise InputError(
            f"{model.name} is class-conditional: only unconditional models can be trained here"
        )
    if not any(p.requires_grad for p in model.net.parameters()):
        raise InputError(f"{model.name} has no weights to train")
    return model


class _Run:
    """A training run at some iteration."""

    def __init__(
        self,
        model: Denoiser,
        training: Data,
        heldout: Data | None,
        settings: Settings,
        rank: int,
        size: int,
        compiled: bool,
        fine_tuned: str | None,
    ) -> None:
        self.model, self.training, self.heldout, self.settings = model, training, heldout, settings
        self.fine_tuned = fine_tuned
        self.rank, self.size = rank, size
        self.objective = objective(
            settings.objective,
            model.schedule,
            model.prediction_type,
            settings.gamma,
            settings.strength,
            model.learned_variance,
        )
        self.parameters = [p for p in model.net.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        fused = self.device.type in ("cpu", "cuda")  # one kernel instead of one for each weight
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
        )
        model.net.train()
        self.ema = AveragedModel(model.net, multi_avg_fn=_warmed_ema(settings.ema))
        self.network: Any = torch.compile(model.net) if compiled else model.net
        if size > 1:
            self.network = nn.parallel.DistributedDataParallel(self.network)
        bf16 = settings.precision == "bf16" or (
            settings.precision == "auto"
            and self.device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
        self.levels = _Levels(model.schedule, self.device)
        self.order = _Order(len(training), settings)
        self.generator = torch.Generator(self.device)
        self.iteration, self.best = 0, math.inf
        self.resumed = False
        self.rows: list[Row] = []
        self.losses: list[Tensor] = []
        self.since = time.perf_counter()
        self.started = made(device=str(self.device), processes=size)
        self.provenance = self._provenance()

    def step(self) -> None:
        """One iteration."""
        settings, i = self.settings, self.iteration
        draw, weight = self._draw(i)
        torch.manual_seed(seed_of(settings.seed, "dropout", i, self.rank))
        with self.autocast:
            loss = self.objective(self._forward, draw, self.parameters)
        self.optimizer.zero_grad()
        (loss * (weight * self.size)).backward()
        if self.resumed:
            self.resumed = False
            restoring.check_complete(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, settings.max_gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(i, settings)
        self.optimizer.step()
        self.ema.update_parameters(self.model.net)
        self.losses.append(loss.detach() * weight)
        self.iteration += 1

    def _forward(self, y: Tensor, timestep: Tensor) -> Tensor:
        return self.model._call(self.network, y, timestep)

    def _draw(self, i: int) -> tuple[Draw, float]:
        """This process's share of iteration i's batch, and the share's weight in it."""
        settings, generator = (
            self.settings,
            self.generator.manual_seed(seed_of(self.settings.seed, "draw", i)),
        )
        x0 = torch.from_numpy(self.training.batch(self.order.batch(i))).to(self.device)
        draw = self.levels.draw(x0, 0, len(self.model.schedule), generator)
        if self.objective.draws_xi:
            draw = replace(draw, xi=torch.randn(x0.shape, generator=generator, device=self.device))
        if settings.flips:
            flip = by_sample(torch.rand(len(x0), generator=generator, device=self.device), x0) < 0.5
            draw = replace(draw, x0=torch.where(flip, x0.flip(-1), x0))
        if self.size == 1:
            return draw, 1.0
        mine = parallel.share(len(x0), self.rank, self.size)
        # A process without images must still take part in the exchange of gradients.
        rows = (
            slice(mine.start, max(mine.stop, mine.start + 1))
            if mine.start < len(x0)
            else slice(0, 1)
        )
        return draw.rows(rows), len(mine) / len(x0)

    def log(self, evaluate: bool) -> None:
        """Add a row to the log.

        Raises InputError where a loss since the last row was not finite.
        """
        losses = torch.stack(self.losses).float()
        if self.size > 1:
            torch.distributed.all_reduce(losses)
        finite = torch.isfinite(losses)
        if not finite.all():
            where = self.iteration - len(losses) + 1 + int(finite.int().argmin())
            raise InputError(
                f"the loss became {losses[~finite][0].item()} at iteration {where}: lower the"
                " learning rate; the last checkpoint is of an earlier iteration"
            )
        now = time.perf_counter()
        self.rows.append(
            {
                "iteration": self.iteration,
                "loss": losses.mean().item(),
                "lr": self.optimizer.param_groups[0]["lr"],
                "it_per_s": len(losses) / max(now - self.since, SHORTEST),
                "heldout_loss": self._heldout_loss() if evaluate else math.nan,
            }
        )
        self.losses, self.since = [], time.perf_counter()

    def _heldout_loss(self) -> float:
        if self.heldout is None or self.rank > 0:
            return math.nan
        return float(loss_by_level(self.denoiser(), self.heldout, limit=EVALUATED).mean())

    def denoiser(self) -> Denoiser:
        """The model with the EMA weights."""
        model = copy.copy(self.model)
        model.net = self.ema.module.eval()
        return model

    def begin(self, folder: Path, resume: bool) -> None:
        """Take up the last checkpoint in the folder, or make sure that there is none.

        Raises InputError otherwise.
        """
        if not resume:
            if os.path.lexists(folder / "last") or checkpoints.all_of(folder):
                raise InputError(
                    f"{folder} holds a run already: resume it (--resume), or choose another folder"
                )
            return
        # Weights, averages and two moments of each, and room for what is written beside them.
        size = sum(t.numel() * t.element_size() for t in self.model.net.state_dict().values())
        found = checkpoints.read(folder, 4 * size + 2**24)
        try:
            self._take_up(*found, folder)
        except InputError as error:
            raise InputError(f"the checkpoint of {folder} cannot be resumed: {error}") from error
        except Exception as error:  # what torch says to tensors that are not this run's
            raise InputError(
                f"the checkpoint {folder / 'last'} is none of this run ({reason(error)}): start in"
                " another folder"
            ) from error
        self.since = time.perf_counter()

    def _take_up(
        self, state: dict[str, Any], provenance: dict[str, Any], log: str, folder: Path
    ) -> None:
        """Go on from a checkpoint.

        What the run defines, such as the optimizer's settings, comes from the run; what is taken
        must be of its kind."""
        refuse_unlike(
            provenance["run"], self.provenance["run"], f"{folder} is a run with other settings"
        )
        restoring.check_keys(state, ("net", "ema", "optimizer", "iteration", "best"))
        self.iteration = whole_number(state["iteration"], "a checkpoint's iteration", 0)
        if self.iteration != provenance["iteration"] or self.iteration > self.settings.iterations:
            raise InputError(
                f"it is of iteration {self.iteration} of {self.settings.iterations}, and says"
                f" {provenance['iteration']!r:.40}"
            )
        averaged = dict(state["ema"])
        if int(averaged.pop("n_averaged", -1)) != self.iteration:
            raise InputError(f"its weights are not averaged over its {self.iteration} iterations")
        restoring.load_weights(self.model.net, state["net"], "weights")
        restoring.load_weights(self.ema.module, averaged, "averages", prefix="module.")
        self.ema.n_averaged.fill_(self.iteration)
        restoring.load_moments(self.optimizer, state["optimizer"], self.iteration)
        self.resumed = self.iteration > 0
        self.rows = restoring.rows(log, self.iteration)
        self.best = restoring.best(state["best"], self.rows)
        if not (folder / "best").exists():  # killed before it was named
            self.best = math.inf

    def checkpoint(self, folder: Path) -> None:
        """Write a checkpoint.

        Raises InputError if a weight is not finite, and `CannotWrite` if writing fails.
        """
        for name, weight in self.model.net.state_dict().items():
            if weight.is_floating_point() and not torch.isfinite(weight).all():
                raise InputError(
                    f"{name} is not finite at iteration {self.iteration}: lower the learning rate"
                )
        heldout = self.rows[-1]["heldout_loss"]
        is_best = not heldout >= self.best  # so without held-out images the last is the best
        self.best = heldout if is_best and math.isfinite(heldout) else self.best
        state = {
            "net": self.model.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "best": self.best,
        }
        said = self.provenance | {
            "iteration": self.iteration,
            "heldout_loss": heldout,
            "made": self.started,
        }
        checkpoints.write(folder, self.iteration, self.denoiser(), state, said, self.csv(), is_best)

    def csv(self) -> str:
        """The log as CSV, in full precision: a resumed run reads it back."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else [])
        writer.writeheader()
        writer.writerows({k: f"{v:.9g}" for k, v in row.items()} for row in self.rows)
        return text.getvalue()

    def save_samples(self, path: Path) -> None:
        """Sixteen samples of the EMA network, as a PNG.

        50 steps of DDIM from the same noise each time."""
        from PIL import Image

        model = self.denoiser()
        if len(model.shape) != 3 or model.shape[0] not in (1, 3):
            return
        channels, height, width = model.shape
        levels = model.schedule.levels(min(50, len(model.schedule)))
        noise = Paths(self.settings.seed, range(GRID), model.shape, model.device).on(levels)
        sampler = DDIM()
        x = prior(levels[0], noise.start(0), sampler)
        x = rollout(model, x, levels, sampler, noise, clipping(True))
        side = math.isqrt(GRID)
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
        tiled = pixels.reshape(side, side, channels, height, width).transpose(0, 3, 1, 4, 2)
        image = Image.fromarray(tiled.reshape(side * height, side * width, channels).squeeze())
        buffer = io.BytesIO()
        image.resize((image.width * 4, image.height * 4), Image.Resampling.NEAREST).save(
            buffer, "png"
        )
        files.write_bytes(path, buffer.getvalue())

    def _provenance(self) -> dict[str, Any]:
        """What this run is; `run` decides its numbers."""
        model, net = self.model, self.model.net
        config, gamma = getattr(net, "config", None), self.objective.gamma
        settings = {
            k: v
            for k, v in asdict(self.settings).items()
            if k not in ("log_every", "evaluate_every")
        }
        said: dict[str, Any] = {
            "run": {
                **settings,
                "gamma": (
                    None if gamma is None else gamma.tolist() if np.ptp(gamma) else float(gamma[0])
                ),
                "strength": self.objective.strength,
                "network": (
                    {k: v for k, v in dict(config).items() if k[0] != "_"}
                    if config
                    else type(net).__name__
                ),
                "fine_tuned": self.fine_tuned,
                "prediction_type": model.prediction_type,
                "schedule": model.schedule.name,
                "data": {
                    "name": self.training.name,
                    "split": self.training.split,
                    "hash": self.training.hash,
                },
            },
            "ema_decay": f"min({self.settings.ema:g}, (1 + i)/(10 + i)) at iteration i",
            "parameters": sum(p.numel() for p in self.parameters),
            "split": {
                "train": {"images": len(self.training), "hash": self.training.hash},
                "held_out": (
                    None
                    if self.heldout is None
                    else {"images": len(self.heldout), "hash": self.heldout.hash}
                ),
            },
        }
        as_read: dict[str, Any] = json.loads(json.dumps(said))  # tuples are lists there
        return as_read


class _Levels:
    """A schedule's levels as tensors, to draw from."""

    def __init__(self, schedule: Schedule, device: torch.device | str = "cpu") -> None:
        column = {"alpha": schedule.alpha, "sigma": schedule.sigma, "timestep": schedule.timestep}
        self.alpha, self.sigma, timestep = (
            torch.from_numpy(v).float().to(device) for v in column.values()
        )
        self.timestep = timestep if schedule.continuous else timestep.long()

    def draw(self, x0: Tensor, low: int, high: int, generator: torch.Generator) -> Draw:
        """Each image at a level of its own from range(low, high)."""
        index = torch.randint(low, high, (len(x0),), generator=generator, device=x0.device)
        eps = torch.randn(x0.shape, generator=generator, device=x0.device)
        alpha, sigma = (by_sample(v[index], x0) for v in (self.alpha, self.sigma))
        return Draw(x0, index, alpha, sigma, self.timestep[index], eps)


class _Order:
    """Which images an iteration takes: epoch after epoch, each a permutation of its own."""

    def __init__(self, count: int, settings: Settings) -> None:
        self.count, self.settings = count, settings
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, iteration: int) -> NDArray[np.int64]:
        """Image numbers, (batch_size,)."""
        size = self.settings.batch_size
        places = np.arange(iteration * size, (iteration + 1) * size)
        ids = np.empty(size, dtype=np.int64)
        for epoch in range(places[0] // self.count, places[-1] // self.count + 1):
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(
                    seed_of(self.settings.seed, "order", epoch)
                )
                self._epoch, self._permutation = (
                    epoch,
                    torch.randperm(self.count, generator=generator),
                )
            here = places // self.count == epoch
            ids[here] = self._permutation.numpy()[places[here] % self.count]
        return ids


def seed_of(*parts: Any) -> int:
    """32 bits that are a pure function of the parts.

    All that torch's generator on the CPU keeps of a seed."""
    name = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "little")


def learning_rate_factor(iteration: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to zero, as a fraction of the peak."""
    if iteration < settings.warmup:
        return (iteration + 1) / settings.warmup
    done = (iteration - settings.warmup) / max(settings.iterations - settings.warmup, 1)
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2


@torch.no_grad()
def loss_by_level(
    model: Denoiser, data: Data, bins: int = 10, seed: int = 0, limit: int | None = None
) -> NDArray[np.float64]:
    """The ddpm loss in `bins` equal ranges of the schedule, (bins,).

    Whatever the model was trained with.

    A schedule of fewer levels has a range for each.

    Each of the first `limit` images is used once in each range. Levels and noise depend on the seed
    only, so that two networks, or one at two times, are compared without sampling error in between.
    A learned variance is left out."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.from_numpy(data.batch(np.arange(min(len(data), limit or len(data)))))
    edges = np.unique(np.linspace(0, len(model.schedule), bins + 1).astype(int)).tolist()
    levels, parameter = _Levels(model.schedule), next(model.net.parameters())
    errors = []
    for low, high in pairwise(edges):
        draw = levels.draw(x0, low, high, generator)
        total = 0.0
        for rows in torch.arange(len(x0)).split(256):
            part = draw.rows(rows)
            inputs = (
                part.x.to(parameter.device, parameter.dtype),
                part.timestep.to(parameter.device),
            )
            with model.evaluating():
                output = model._call(model.net, *inputs)[:, : model.shape[0]].to(x0)
            total += (output - target(model.prediction_type, part)).square().sum().item()
        errors.append(total / x0.numel())
    return np.array(errors)


@contextmanager
def _written(on_write_error: str) -> Iterator[None]:
    """A context in which what cannot be written stops the run, or with "go-on" only warns."""
    try:
        yield
    except files.CannotWrite as error:
        if on_write_error == "stop":
            raise
        warnings.warn(str(error), stacklevel=3)


def ema_in_words(decay: float, iterations: int) -> str:
    """How the weights that are kept were averaged."""
    last = min(decay, (1 + iterations) / (10 + iterations))
    return f"weights averaged with decay min({decay:g}, (1 + i)/(10 + i)), at the end {last:.4g}"


def _check(
    folder: Path | None,
    resume: bool,
    checkpoint_every: int,
    sample_every: int | None,
    on_write_error: str,
) -> None:
    if on_write_error not in ON_WRITE_ERROR:
        raise InputError(
            f"unknown on_write_error {on_write_error!r}: allowed are {', '.join(ON_WRITE_ERROR)}"
        )
    if folder is not None and resume and not folder.is_dir():
        raise InputError(f"{folder} holds no checkpoint to resume: start without resume")
    whole_number(checkpoint_every, "checkpoint_every")
    if sample_every is not None:
        whole_number(sample_every, "sample_every", 0)
    if resume and folder is None:
        raise InputError("resume goes on from a folder: give out=")


def _warmed_ema(decay: float) -> Any:
    """An update of averaged weights whose decay grows to `decay`.

    It grows from 1/10, with the number of updates n."""

    def update(averaged: Any, current: Any, n: Any) -> None:
        now = min(decay, (1 + float(n)) / (10 + float(n)))
        torch._foreach_lerp_(averaged, current, 1 - now)

    return update


def _forked(device: str) -> list[torch.device]:
    """The GPUs whose generators must come back unchanged."""
    return [torch.device(device)] if device.startswith("cuda") else []


def _to(model: Denoiser, device: str, settings: Settings) -> None:
    model.net.to(on_device(device).device)
    if settings.channels_last:
        model.net.to(memory_format=torch.channels_last)
