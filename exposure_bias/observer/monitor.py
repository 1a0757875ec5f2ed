"""`Monitor`: what exposure bias does while a model is being trained.

    monitor = eb.Monitor(every=1000, data=held_out, log="monitor.csv")
    print(monitor.begin(unet, noise_scheduler))    # what a check costs; refuses misfits
    for step, batch in enumerate(loader):
        ...                                        # your training step
        monitor(step, unet, noise_scheduler)       # does nothing but every 1000 steps

Training goes on as if nothing had been: modules are in the mode they were in, the random states of
torch, numpy and Python are put back, no gradient is touched, and a GPU's cache is given back.
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from exposure_bias.checking import check_arguments, suits
from exposure_bias.data import load_data
from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.spectra import spectrum
from exposure_bias.diagnostics.variance_gap import pooled_gap
from exposure_bias.errors import InputError, whole_number
from exposure_bias.jackknife import (
    GROUPS,
    MINIMUM_PER_GROUP,
    jackknife,
    mean_of,
    sums_by_group,
)
from exposure_bias.observer.sinks import Sink, sinks
from exposure_bias.recording import RECORDING, Recording
from exposure_bias.run import Stream
from exposure_bias.running.parallel import world
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup, prepare

# A value and its standard error.
Measured = tuple[float, float]


class Monitor:
    """Records a model every so many steps of its training and logs what shows.

    every: steps between checks. data: held-out images, as `load_data` takes them. what: any of gap
    (the samples' relative variance gap), hf (their high frequencies against the data's, dB) and
    forward_loss (the error of ε̂ per pixel, mean over the levels of the chain, as an ε-network is
    trained on). log: where it goes: a .csv file, "tensorboard:DIR", "wandb", a function of (step,
    values), an object with add_scalar or log, or several of these. model: for Lightning, a function
    from its module to a `Denoiser`. n, sampler, steps, seed, batch_size: as in `record`; always the
    same images and noise, so that checks can be compared.

    A Lightning trainer takes it among its callbacks."""

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
        self.sinks: list[Sink] = sinks(log, self.columns)
        self._options = {
            "sampler": sampler,
            "steps": steps,
            "seed": seed,
            "batch_size": batch_size,
        }
        self._objects: tuple[Any, ...] = ()
        self._setup: Setup | None = None

    @property
    def columns(self) -> list[str]:
        """The names of the values that are logged."""
        return [f"{name}{end}" for name in self.what for end in ("", "_se")]

    def begin(self, *model: Any) -> str:
        """Check that a model and the data fit, and say what each check will cost.

        model: a `Denoiser`, or what `adapt` takes. Raises InputError for what does not fit.
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
        """The values and their standard errors, logged; else None.

        They are measured at a multiple of `every` (not 0).

        A network that returns NaN or infinity is warned about, and its values are NaN.
        """
        if step == 0 or step % self.every:
            return None
        with undisturbed():
            values = self._measured(self._prepared(model))
        if world()[0] == 0:
            for sink in self.sinks:
                sink(step, values)
        return values

    def _prepared(self, model: tuple[Any, ...]) -> Setup:
        """The chain of these objects; the same as before as long as they are the same."""
        same = len(model) == len(self._objects) and all(
            a is b for a, b in zip(model, self._objects, strict=True)
        )
        if self._setup is None or not same:
            self._setup = prepare(
                model[0] if len(model) == 1 else _adapted(model),
                self.data,
                kind=RECORDING,
                n=self.n,
                streams=(Stream.CHAIN, Stream.FORWARD),
                options={"keep": 0},
                **self._options,
            )
            self._objects = model
            if "hf" in self.what and not self._setup.model.shape[1:]:
                raise InputError("hf needs states with space; these are vectors: leave it out")
        return self._setup

    def _measured(self, setup: Setup) -> dict[str, float]:
        try:
            recording = recorded(setup, batch_size=self._options["batch_size"])
        except InputError as error:
            warnings.warn(f"this check has no numbers: {error}", stacklevel=3)
            return dict.fromkeys(self.columns, float("nan"))
        found = {name: MEASURES[name](recording) for name in self.what}
        return {
            f"{name}{end}": value
            for name, both in found.items()
            for end, value in zip(("", "_se"), both, strict=True)
        }

    # What Lightning calls.

    def setup(self, trainer: Any, module: Any, stage: str = "fit") -> None:
        """Refuse what does not fit before training starts, and say what a check costs."""
        print(self.begin(self._of_module(module)))

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """A check, where one is due."""
        if trainer.global_step % self.every == 0:
            self(trainer.global_step, self._of_module(module))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a monitor has no state that training could resume."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    @property
    def state_key(self) -> str:
        """Its name among a trainer's callbacks."""
        return "exposure_bias.Monitor"

    def __getattr__(self, name: str) -> Any:
        # A trainer calls every hook of every callback; those that mean nothing here do nothing.
        if name.startswith("on_") or name == "teardown":
            return lambda *_, **__: None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _of_module(self, module: Any) -> Any:
        if self.model is None:
            raise InputError(
                "a Lightning module is no denoiser by itself: Monitor(model=lambda module:"
                " eb.adapt(module.unet, module.scheduler))"
            )
        if getattr(self, "_module", None) is not module:
            self._module, self._denoiser = module, self.model(module)
        return self._denoiser


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


def _seconds_of_a_batch(setup: Setup, size: int) -> float:
    """How long the network takes for one batch at the first level."""
    batch = setup.samples(slice(0, min(size, setup.n)))
    model = setup.conditioned(batch.images)
    with setup.model.evaluating(), torch.no_grad():
        start = time.perf_counter()
        model.predict(batch.x0, setup.levels[0], setup.run.clip)
        return time.perf_counter() - start


def _gap(recording: Recording) -> Measured:
    found = pooled_gap(recording).estimated()
    return float(found.value[-1]), float(found.error[-1])


def _hf(recording: Recording) -> Measured:
    found = spectrum(recording)
    return float(found["hf"]), float(found["hf_se"])


def _forward_loss(recording: Recording) -> Measured:
    """Mean over levels of E(ε̂ − ε)² = (α/σ)² E(x̂_0 − x_0)², per pixel."""
    forward = recording["forward"]
    error = forward["prediction_error"].transpose("sample", "step").values.astype(np.float64)
    asked = np.isfinite(error).any(0)
    alpha, sigma = (forward[k].values[asked] for k in ("alpha", "sigma"))
    loss = (error[:, asked] * (alpha / sigma) ** 2).mean(1, keepdims=True)
    sums = sums_by_group(loss, forward["image"].values)
    found = jackknife(mean_of, forward["count"].values, sums)
    return float(found.value[0]), float(found.error[0])


MEASURES: dict[str, Callable[[Recording], Measured]] = {
    "gap": _gap,
    "hf": _hf,
    "forward_loss": _forward_loss,
}
__all__ = ["MEASURES", "Monitor", "undisturbed"]
