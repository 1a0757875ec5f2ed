"""`Monitor`: what exposure bias does while a model is being trained.

    monitor = eb.Monitor(every=1000, data=held_out, log="monitor.csv")
    print(monitor.begin(unet, noise_scheduler))    # what a check costs; refuses misfits
    for step, batch in enumerate(loader):
        ...                                        # your training step
        monitor(step, unet, noise_scheduler)       # does nothing but every 1000 steps

Training goes on as if nothing had been: modules are in the mode they were in, the random states of
torch, numpy and Python are put back, no gradient is touched, and a GPU's cache is given back.
"""

import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exposure_bias.checking import check_arguments, suits
from exposure_bias.data import load_data
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, reason, whole_number
from exposure_bias.jackknife import GROUPS, MINIMUM_PER_GROUP
from exposure_bias.observer.card import card, put
from exposure_bias.observer.lightning import LightningHooks
from exposure_bias.observer.measures import MEASURES, columns, measured
from exposure_bias.observer.sinks import Sink, sinks
from exposure_bias.recording import RECORDING
from exposure_bias.run import Stream
from exposure_bias.running.parallel import is_first
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup, prepare, with_model


class Monitor(LightningHooks):
    """Records a model every so many steps of its training and logs what shows.

    A Lightning trainer takes it among its callbacks.

    Parameters
    ----------
    data : object
        Held-out images, as `load_data` takes them.
    every : int
        Steps between checks.
    what : sequence of str
        Any of gap (the samples' relative variance gap), hf (their high frequencies against the
        data's, dB) and forward_loss (the error of ε̂ per pixel, mean over the levels of the chain,
        as an ε-network is trained on). Beside gap and hf stands what a perfect network shows with
        the same sampler and steps (`gap_perfect`, `hf_perfect`).
    log : object
        Where it goes: a .csv file, "tensorboard:DIR", "wandb", "mlflow", a function of (step,
        values), an object with add_scalar, log_metrics or log, or several of these.
    model : function
        For Lightning: from its module to a `Denoiser`. It is asked at every check, so that a
        network which was replaced is the one that is measured.
    n, sampler, steps, seed, batch_size
        As in `record`; always the same images and noise, so that checks can be compared.

    Raises
    ------
    InputError
        For an option that is none, and for a log that cannot be written.
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int = 1000,
        what: Sequence[str] = ("gap", "hf", "forward_loss"),
        log: Any = None,
        model: Callable[[Any], Any] | None = None,
        n: int | None = None,
        sampler: Any = "ddpm",
        steps: int = 20,
        seed: int = 0,
        batch_size: int = 256,
    ) -> None:
        if not suits(what, Sequence[str]) or not what or not {*what} <= {*MEASURES}:
            raise InputError(f"what is any of {', '.join(MEASURES)}, as a list; got {what!r:.60}")
        check_arguments(Monitor.__init__, locals())
        self.every = whole_number(every, "every, the steps between checks,")
        self.data = load_data(data)
        self.n = min(len(self.data), GROUPS * MINIMUM_PER_GROUP) if n is None else n
        self.what = tuple(what)
        self.model = model
        self._options = {
            "sampler": sampler,
            "steps": steps,
            "seed": seed,
            "batch_size": batch_size,
        }
        self._setup: Setup | None = None
        self._latest: tuple[int, dict[str, float]] | None = None
        self.sinks: list[Sink] = sinks(log, self.columns, self._settings)

    @property
    def columns(self) -> list[str]:
        """The names of the values that are logged."""
        return columns(self.what)

    def begin(self, *model: Any) -> str:
        """Check that a model and the data fit, and say what each check will cost.

        Parameters
        ----------
        *model : object
            A `Denoiser`, or what `adapt` takes.

        Raises
        ------
        InputError
            For what does not fit.
        """
        with undisturbed():
            setup = self._prepared(model)
            seconds = _seconds_of_a_batch(setup, self._options["batch_size"])
        size = min(self._options["batch_size"], setup.n)
        calls = 2 * setup.run.steps * -(-setup.n // size)
        said = (
            f"every {self.every} steps: {setup.n} samples, {calls} network calls of {size}, about"
            f" {calls * seconds:.2g} s"
        )
        if setup.n < GROUPS * MINIMUM_PER_GROUP:
            said += f"; intervals take {GROUPS * MINIMUM_PER_GROUP} samples, so there are none"
        return said

    def __call__(self, step: int, *model: Any) -> dict[str, float] | None:
        """Check the model at a multiple of `every` (not 0); elsewhere return None."""
        return None if step == 0 or step % self.every else self.check(step, *model)

    def check(self, step: int, *model: Any) -> dict[str, float]:
        """Measure the model now, and log what was measured.

        A network that returns NaN or infinity, or does not fit the device's memory, is warned
        about, and its values are NaN.

        Parameters
        ----------
        step : int
            The step of the training that is logged.
        *model : object
            A `Denoiser`, or what `adapt` takes.

        Returns
        -------
        dict
            The values and their standard errors, by the names in `columns`.
        """
        with undisturbed():
            values = self._measured(self._prepared(model))
        self._latest = step, values
        if is_first():
            for sink in self.sinks:
                sink(step, values)
        return values

    def model_card(self, path: str | os.PathLike[str] | None = None) -> str:
        """Make a block of Markdown for a model card from the last check.

        Parameters
        ----------
        path : path
            The model card, usually README.md. The block is put at its end, or in place of the one
            that an earlier call put there.

        Returns
        -------
        str
            The block.

        Raises
        ------
        InputError
            Before the first check, and for a file that cannot be read or written.
        """
        if self._latest is None:
            raise InputError("nothing was measured yet: a model card takes a check")
        step, values = self._latest
        block = card(step, self._settings(), values, self.what)
        if path is not None and is_first():
            put(Path(path), block)
        return block

    def _prepared(self, model: tuple[Any, ...]) -> Setup:
        """The chain of this model; that of the last check where only the network is another."""
        denoiser = _adapted(model)
        if self._setup is not None and _is_like(denoiser, self._setup.model):
            self._setup = with_model(self._setup, denoiser)
            return self._setup
        self._setup = prepare(
            denoiser,
            self.data,
            kind=RECORDING,
            n=self.n,
            streams=(Stream.CHAIN, Stream.FORWARD),
            options={"keep": 0},
            **self._options,
        )
        if "hf" in self.what and not self._setup.model.shape[1:]:
            raise InputError("hf needs states with space; these are vectors: leave it out")
        return self._setup

    def _settings(self) -> str:
        """What the values depend on, in words."""
        sampler = self._options["sampler"] if self._setup is None else self._setup.run.sampler
        return (
            f"{sampler}, {self._options['steps']} steps, {self.n} images {self.data.hash[:8]},"
            f" seed {self._options['seed']}"
        )

    def _measured(self, setup: Setup) -> dict[str, float]:
        try:
            return measured(recorded(setup, batch_size=self._options["batch_size"]), self.what)
        except (InputError, torch.OutOfMemoryError) as error:
            warnings.warn(f"this check has no numbers: {reason(error)}", stacklevel=3)
            return dict.fromkeys(self.columns, float("nan"))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put the random states of torch, numpy and Python back, and free a GPU's cache."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else ()):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)  # noqa: NPY002
        if cuda:
            torch.cuda.empty_cache()


def _adapted(model: tuple[Any, ...]) -> Denoiser:
    from exposure_bias.adapters import adapt

    if not model:
        raise InputError("a monitor needs the model: monitor(step, unet, noise_scheduler)")
    found: Denoiser = adapt(*model)
    return found


def _is_like(one: Denoiser, other: Denoiser) -> bool:
    """Whether two models differ in their networks alone."""
    a, b = one.schedule, other.schedule
    same = [
        getattr(one, name) == getattr(other, name)
        for name in ("shape", "prediction_type", "classes", "guidance", "learned_variance")
    ]
    arrays = ("timestep", "alpha", "sigma")
    return all(same) and (
        a is b
        or (a.name == b.name and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in arrays))
    )


def _seconds_of_a_batch(setup: Setup, size: int) -> float:
    """How long the network takes for one batch at the first level."""
    batch = setup.samples(slice(0, min(size, setup.n)))
    model = setup.conditioned(batch.images)
    with setup.model.evaluating(), torch.no_grad():
        start = time.perf_counter()
        model.predict(batch.x0, setup.levels[0], setup.run.clip)
        return time.perf_counter() - start


__all__ = ["MEASURES", "Monitor", "undisturbed"]
