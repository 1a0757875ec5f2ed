"""`observe`: watch a loop that somebody else wrote, and keep what `record` keeps of its own.

    with eb.observe(pipe, data=data) as chain:
        pipe(batch_size=64, num_inference_steps=50)
    rec = chain.recording()

*A diffusers scheduler* is watched at `step`, which sees the state x̂_t, the label t and the output that is believed, be
it guided or not. A copy of the scheduler is rehearsed (`adapters.schedulers`) for the levels of its states, in its own
coordinates, and for which of its calls keep a state: Heun's predictor and the like are calls within a step. The end is
what the last `step` returns. x̂_0 and ε̂ are those of the output, before any clipping of the scheduler's.

*Any other loop* is watched at the network, by a forward hook. The model's own call, with a stand-in in the network's
place, tells what the network is given at each level and what is made of its output, and so what a state, a level and a
prediction are here. The noise falls within a chain; where it rises again, the next batch has begun. Of several calls
at one level the last has the state that the solver keeps, as in Heun's; mid-points at levels of their own are recorded
as steps. What a hook cannot see is the end: it is the last x̂_0, as for every solver whose last step is a first-order
one to σ = 0, or whatever is given to `finish`.

The chain starts from noise, so that it is compared with data as a distribution and not image by image. Sample i counts
as a replicate of image i mod N in the jackknife's groups, as in `record(start="noise")`. The forward stream is filled
in afterwards, by `recording`.
"""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import wraps
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.adapters import adapt, diffusers
from exposure_bias.adapters.schedulers import SchedulerSampler, observed
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import CLIP_CONVENTIONS, Denoiser
from exposure_bias.errors import InputError
from exposure_bias.noise import Noise
from exposure_bias.recorder import check_fit, kept_steps, made, run_settings
from exposure_bias.recording import Recording
from exposure_bias.samplers import Prediction
from exposure_bias.schedules import Level
from exposure_bias.statistics.collector import Collector, Subjects
from exposure_bias.statistics.law import Law, law
from exposure_bias.streams import Step, forward, in_network_coordinates

OBSERVED_LOOP = "observed loop"
# What networks of other libraries call their label of the noise level.
TIMES = ("timestep", "timesteps", "t", "sigma", "sigmas", "noise_labels", "time", "times")
DISAGREEMENT = 0.05
ANOTHER_STATE = 0.5


def observe(*objects: Any, data: Any = None, model: Any = None, seed: int = 0, first: int = 0) -> "Observation":
    """A context manager that records the chains of every loop that runs in it; `Observation.recording` has the result.

    objects: a diffusers pipeline, or (network, scheduler), or a scheduler with `model`: watched at `scheduler.step`.
    Or a `Denoiser`, or what `adapt` takes: its network is watched by a hook. data: the images that the chain should
    look like, `Data` or what `load_data` takes; without them there is a chain and nothing to compare it with.
    model: what `adapt` makes of the objects, where that takes more than them: a prompt's embeddings, a guidance scale.
    seed: of the forward stream's noise. first: the first sample's number, for recordings that are to be merged.

    Several batches in one `with` add up, if their levels are the same. Observers may be nested. A batch that is not
    finished when its loop stops or raises is left out; those before it are kept. On leaving, network, scheduler and
    pipeline are as they were.

    Raises InputError for objects that cannot be adapted or hooked, for data that do not fit, and, out of the loop, for
    states that are no images, for other levels than in the batch before, and for guidance that `model` does not have.
    """
    if first < 0:
        raise InputError(f"the first sample's number must be at least 0, got {first}")
    data = None if data is None else load_data(data)
    scheduler = next((s for s in _parts(objects) if hasattr(s, "set_timesteps") and hasattr(s, "step")), None)
    networks = [part for part in _parts(objects) if isinstance(part, torch.nn.Module)]
    with _modes_kept(networks):
        model = _model(objects, model, data is None and scheduler is not None)
    if data is not None:
        check_fit(model, data, 1, 1, False)
    if scheduler is not None:
        return _OfScheduler(model, data, seed, first, scheduler, networks)
    return _OfNetwork(model, data, seed, first)


def _parts(objects: Sequence[Any]) -> list[Any]:
    """The objects themselves, and of pipelines what denoises."""
    parts = []
    for o in objects:
        inside = [getattr(o, name, None) for name in ("unet", "transformer", "scheduler")]
        parts += [part for part in inside if part is not None] if hasattr(o, "components") else [o]
    return parts


def _model(objects: Sequence[Any], model: Any, only_read: bool) -> Denoiser:
    """What the states and outputs mean. only_read: the network will not be called, so that no prompt is needed."""
    if model is not None:
        return adapt(model)
    try:
        return diffusers.outline(*objects) if only_read else adapt(*objects)
    except InputError as error:
        raise InputError(f"{error}; or observe(…, model=eb.adapt(…)) with what the loop is called with") from error


@contextmanager
def _modes_kept(networks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Leave every module in training or evaluation mode, as it was."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _plainly(x: Tensor) -> Iterator[None]:
    """Without gradients, and without the loop's autocast, which would take the statistics to half precision."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        yield


class _Seen(NamedTuple):
    """One call of the network: the state's level, the state and the raw output."""

    level: Level
    x: Tensor
    output: Tensor


@dataclass
class _Batch:
    """A batch that is under way. collector: None while the levels are unknown; then its calls are held."""

    subjects: Subjects
    collector: Collector | None
    held: list[_Seen] = field(default_factory=list)
    count: int = 0


class Observation:
    """What was seen so far: the statistics of the finished batches. `observe` makes one."""

    def __init__(self, model: Denoiser, data: Data | None, seed: int, first: int) -> None:
        self.model, self.data, self.seed, self.first = model, data, seed, first
        self.n = 0
        self._law: Law | None = None if data is None else law(data)
        self._levels: tuple[Level, ...] | None = None
        self._chain: Collector | None = None
        self._batch: _Batch | None = None
        self._largest = 0
        self._example: _Seen | None = None
        self._autocast: tuple[str, torch.dtype] | None = None
        self._active = self._guided = False
        self._why_nothing = "nothing was observed: run the loop inside `with eb.observe(...)`"

    def __enter__(self) -> Self:
        if self._active:
            raise InputError("this observation is under way already: make another one with eb.observe(...)")
        self._install()
        self._active = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._active = False
        self._remove()
        if kind is None:
            self._close()
        self._batch = None
        if kind is None and not self.n:
            warnings.warn(self._why_nothing, stacklevel=2)

    def finish(self, x0: Tensor) -> None:
        """End the batch under way with its clean images (B, C, H, W), where the network alone is watched."""
        raise InputError("a scheduler's last state is seen: leave finish out")

    def recording(self) -> Recording:
        """What was observed, as a `Recording` that starts from noise.

        With data this runs the network once more: the forward stream, at the chain's levels, in batches as large as the
        loop's, in evaluation mode and under the loop's autocast. A class-conditional model meets each image's own class
        there, whatever classes the loop was asked for.

        Raises InputError while the loop is being observed and where no batch was finished. Warns where the model does
        not say what the loop's network said: another prompt, guidance scale or dropout.
        """
        if self._active:
            raise InputError("the loop is still being observed: call recording() after the `with` block")
        if self._chain is None or self._levels is None:
            raise InputError(self._why_nothing)
        ids = np.arange(self.first, self.first + self.n)
        streams = {} if self.data is None else self._forward(self.data, ids, self._levels)
        streams["chain"] = self._chain.to_dataset(ids, self._images(ids))
        settings = run_settings(
            self.model,
            self.data,
            self._levels,
            sampler=self._sampler_name(),
            exact_teacher=False,
            clip=self._clip(),
            seed=self.seed,
        )
        if self._guided and self.model.guidance is None:
            settings["model"]["guidance"] = "of unknown scale"
        settings |= {"grid": "observed", "start": "noise", "streams": sorted(streams.keys() - {"data"})}
        how = made(batch_size=self._largest, device=str(self.model.device))
        return Recording(streams, {"run": settings, "n": self.n, "done": self.n, "made": how})

    def _forward(self, data: Data, ids: NDArray[np.int64], levels: tuple[Level, ...]) -> dict[str, xr.Dataset]:
        """The data's own sums and the forward stream of the samples `ids`."""
        if self.n > len(data):
            warnings.warn(
                f"{self.n} samples of {len(data)} images: images recur, each time with fresh noise", stacklevel=3
            )
        model, kept, known = self.model, kept_steps(len(levels) - 1), self._known(data.shape)
        own = Collector("data", [0], [model.schedule.clean], self.n, known, False, self.seed)
        collector = Collector("forward", kept, [levels[i] for i in kept], self.n, known, False, self.seed)
        networks = [model.net] if isinstance(model.net, torch.nn.Module) else []
        with _modes_kept(networks), nullcontext() if self._autocast is None else torch.autocast(*self._autocast):
            for net in networks:
                net.eval()
            self._compare()
            for start in range(0, self.n, self._largest):
                batch = ids[start : start + self._largest]
                images = self._images(batch)
                x0 = torch.from_numpy(data.batch(images)).to(model.device, torch.float64)
                subjects = Subjects(slice(start, start + len(batch)), images, x0, known)
                with _plainly(x0):
                    own.update(Step(0, model.schedule.clean, x0, None), subjects)
                noise = Noise(self.seed, "forward", batch.tolist(), model.shape, model.device)
                for step in forward(model.given(data.labels_of(images)), x0, levels, noise, False, kept):
                    with _plainly(x0):
                        collector.update(step, subjects)
        images = self._images(ids)
        return {
            "data": own.to_dataset(ids, images).merge(known.to_dataset()),
            "forward": collector.to_dataset(ids, images),
        }

    def _compare(self) -> None:
        """Warn where the model does not answer what the loop's network answered to some of the first states."""
        if self._example is None or self.model.classes is not None:
            return
        level, x, output = self._example
        said = self.model(*in_network_coordinates(self.model, x, level))[:, : x.shape[1]].double()
        difference = float((said - output[:, : x.shape[1]]).norm() / output[:, : x.shape[1]].norm())
        if difference > DISAGREEMENT:
            warnings.warn(
                f"the model's answers differ by {difference:.0%} from those of the loop at the same states (another "
                "prompt, guidance scale, dropout?): its forward stream is that of another field",
                stacklevel=4,
            )

    def _known(self, shape: tuple[int, ...]) -> Law:
        """The data's law; without data one of no directions around zero."""
        return self._law or Law(np.zeros(shape), np.zeros(shape), np.empty(0), np.empty((0, int(np.prod(shape)))))

    def _images(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return ids if self.data is None else ids % len(self.data)

    # What a loop's steps go through, in order.

    def _open(self, x: Tensor) -> None:
        """Begin a batch with its first state; one that is not finished is left out."""
        shape = tuple(x.shape[1:])
        if x.dim() != 4:
            raise InputError(
                f"states of shape {tuple(x.shape)} have no rows and columns (packed latents, video): not supported"
            )
        if self.data is not None and shape != self.data.shape:
            raise InputError(
                f"the loop's states are {shape}, but {self.data.name} holds {self.data.shape}: give data alike"
            )
        ids = np.arange(self.first + self.n, self.first + self.n + len(x))
        # An unpaired chain has no x_0 of its own; nothing that is kept of it asks for one.
        x0 = torch.full(x.shape, torch.nan, dtype=torch.float64, device=self._device(x))
        subjects = Subjects(slice(0, len(x)), self._images(ids), x0, self._known(shape))
        self._batch = _Batch(subjects, None if self._levels is None else self._collector(self._levels, subjects))

    def _note_autocast(self, x: Tensor) -> None:
        kind = x.device.type
        self._autocast = (kind, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None

    def _collector(self, levels: tuple[Level, ...], subjects: Subjects) -> Collector:
        kept = kept_steps(len(levels) - 1)
        rows = len(subjects.images)
        return Collector("chain", kept, [levels[i] for i in kept], rows, subjects.law, False, self.seed)

    def _take(self, seen: _Seen) -> None:
        """Add the next step of the batch under way."""
        batch = self._under_way()
        if len(seen.x) != len(batch.subjects.images):
            raise InputError(
                f"a batch of {len(batch.subjects.images)} states went on with {len(seen.x)}: observe whole batches"
            )
        if self._example is None:
            self._example = _Seen(seen.level, *(t[:2].detach().to(self._device(t), torch.float64) for t in seen[1:]))
        index = batch.count
        batch.count += 1
        if batch.collector is None or self._levels is None:
            batch.held.append(seen)
            return
        if index >= len(self._levels) - 1 or self._levels[index] != seen.level:
            raise InputError(
                f"step {index} of this batch is at timestep {seen.level.timestep:g}, unlike the batch before it: "
                "observe loops of other levels separately"
            )
        if index in batch.collector.row:
            batch.collector.update(self._step(index, seen), batch.subjects)

    def _complete(self, x: Tensor) -> None:
        """End the batch under way at state x, and keep it."""
        batch = self._under_way()
        if self._levels is None:
            self._levels = (*(seen.level for seen in batch.held), self.model.schedule.clean)
        if batch.count < len(self._levels) - 1:
            warnings.warn(
                f"a batch stopped after {batch.count} of {len(self._levels) - 1} steps: left out", stacklevel=5
            )
            self._batch = None
            return
        collector = batch.collector or self._collector(self._levels, batch.subjects)
        for index, seen in enumerate(batch.held):
            if index in collector.row:
                collector.update(self._step(index, seen), batch.subjects)
        end = x.detach().to(self._device(x), torch.float64, copy=True)
        collector.update(Step(len(self._levels) - 1, self._levels[-1], end, None), batch.subjects)
        if self._chain is None:
            self._chain = collector
        else:
            self._chain.add(collector)
        self.n += len(end)
        self._largest = max(self._largest, len(end))
        self._batch = None

    def _under_way(self) -> _Batch:
        if self._batch is None:
            raise InputError("no batch is under way")
        return self._batch

    def _step(self, index: int, seen: _Seen) -> Step:
        x = seen.x.detach().to(self._device(seen.x), torch.float64, copy=True)
        return Step(index, seen.level, x, self._read(seen, x))

    def _read(self, seen: _Seen, x: Tensor) -> Prediction:
        """The prediction at a state, as float64 x."""
        output = seen.output.detach().to(x.device, copy=True)
        if output.shape[2:] != x.shape[2:] or output.shape[1] not in (x.shape[1], 2 * x.shape[1]):
            raise InputError(f"the network returned shape {tuple(output.shape)} for states {tuple(x.shape)}")
        x, level = in_network_coordinates(self.model, x, seen.level)
        try:
            return self.model.read(output, x, level)
        except InputError as error:
            raise InputError(f"{error} at timestep {level.timestep:g} (α={level.alpha:.4g})") from error

    @staticmethod
    def _device(x: Tensor) -> torch.device:
        """Where statistics are made: x's device, or the CPU where that has no float64."""
        return torch.device("cpu") if x.device.type == "mps" else x.device

    # What the two kinds of loop differ in.

    def _install(self) -> None:
        raise NotImplementedError

    def _remove(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        """The loop has ended without an error."""
        raise NotImplementedError

    def _sampler_name(self) -> str:
        raise NotImplementedError

    def _clip(self) -> str:
        raise NotImplementedError


class _OfScheduler(Observation):
    """A loop around a diffusers scheduler, watched at its `step`."""

    def __init__(
        self, model: Denoiser, data: Data | None, seed: int, first: int, scheduler: Any, networks: list[torch.nn.Module]
    ) -> None:
        super().__init__(model, data, seed, first)
        self._scheduler, self._networks = scheduler, networks
        self._why_nothing = f"the step of this {type(scheduler).__name__} was never called: is it the loop's own?"
        self._sampler: SchedulerSampler | None = None
        self._grid: Any = None
        self._nodes: dict[int, Level] = {}
        self._calls = self._at = self._rows = self._network_rows = 0

    def _install(self) -> None:
        original, self._before_us = self._scheduler.step, vars(self._scheduler).get("step")
        signature = inspect.signature(original)

        # Pipelines look at the signature, and leave out eta and generator where it does not show them.
        @wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            if not self._active:  # somebody wrapped this in turn, and put it back
                return original(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            self._note_autocast(given["sample"])
            with _plainly(given["sample"]):
                self._before(given)
            result = original(*args, **kwargs)
            with _plainly(result[0]):
                self._after(result[0])
            return result

        self._step_of_ours = self._scheduler.step = step
        hooks = [n for n in self._networks if not _compiled(n)]
        self._handles = [n.register_forward_pre_hook(self._count_rows, with_kwargs=True) for n in hooks]

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        if vars(self._scheduler).get("step") is not self._step_of_ours:
            return
        if self._before_us is None:
            del self._scheduler.step
        else:
            self._scheduler.step = self._before_us

    def _count_rows(self, network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        images = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() > 2)
        self._network_rows += len(next(images, ()))

    def _before(self, given: dict[str, Any]) -> None:
        x, output = given["sample"], given["model_output"]
        place = self._place(given["timestep"])
        if place == 0:
            self._begin(x, output, given.get("eta"))
        elif self._batch is None or place != self._at:
            raise InputError(
                f"the loop is at place {place} of its scheduler's timesteps, where {self._at} was expected: loops that "
                "begin in the middle (image to image) or leave out steps are not observed"
            )
        if place in self._nodes:
            level = self._nodes[place]
            x, output = x[: self._rows], output[: self._rows]
            if hasattr(self._scheduler, "precondition_outputs"):
                sigma = torch.tensor(level.sigma, dtype=torch.float64)
                output = self._scheduler.precondition_outputs(x.double(), output.double(), sigma)
            self._take(_Seen(level, x, output))

    def _after(self, x: Tensor) -> None:
        self._at, self._network_rows = self._at + 1, 0
        if self._at == self._calls:
            self._complete(x[: self._rows])

    def _place(self, timestep: Any) -> int:
        """Which of the scheduler's timesteps its step is being called for."""
        scheduler = self._scheduler
        if hasattr(scheduler, "step_index"):
            return int(scheduler.step_index if scheduler.step_index is not None else scheduler.begin_index or 0)
        if hasattr(scheduler, "counter"):
            return int(scheduler.counter)
        places = (scheduler.timesteps == timestep).nonzero()
        return int(places[0]) if len(places) else -1

    def _begin(self, x: Tensor, output: Tensor, eta: float | None) -> None:
        scheduler = self._scheduler
        sigmas = scheduler.sigmas.tolist() if hasattr(scheduler, "sigmas") else None
        grid = (scheduler.timesteps.tolist(), sigmas, eta)
        if grid != self._grid:
            sampler = observed(scheduler, self.model, eta)
            if self.n and sampler.levels != self._levels:
                raise InputError(
                    f"this batch takes {len(sampler.levels) - 1} steps on other levels than the batch before it: "
                    "observe loops of other levels separately"
                )
            self._grid, self._sampler, self._levels = grid, sampler, sampler.levels
            self._nodes = {node[0].place: level for node, level in zip(sampler.nodes, sampler.levels, strict=False)}
            self._calls = sum(map(len, sampler.nodes))
        # DiTPipeline hands both halves of its guided batch to the scheduler; they are the same.
        half = len(x) // 2
        doubled = len(x) % 2 == 0 and torch.equal(x[:half], x[half:]) and torch.equal(output[:half], output[half:])
        self._rows, self._at = half if doubled else len(x), 0
        if self._batch is None:  # else the network may have been called for a step that was never taken
            self._check_guidance()
        self._open(x[: self._rows])

    def _check_guidance(self) -> None:
        """Raise InputError where the forward stream would be another field's than the chain's."""
        self._guided = self._network_rows > self._rows
        if self.data is None or not self._network_rows or self._guided == (self.model.guidance is not None):
            return
        if self._guided:
            raise InputError(
                f"the loop is guided (its network saw {self._network_rows} rows for {self._rows} states), but the "
                "model is not: give observe(…, model=eb.adapt(…, guidance_scale=…))"
            )
        raise InputError(f"the model is guided (scale {self.model.guidance:g}), but the loop is not: adapt it without")

    def _close(self) -> None:
        if self._batch is not None:
            self._why_nothing = f"the loop stopped after {self._at} of {self._calls} calls: its batch is left out"
            if self.n:
                warnings.warn(self._why_nothing, stacklevel=3)

    def _sampler_name(self) -> str:
        return str(self._sampler)

    def _clip(self) -> str:
        config, name = self._scheduler.config, type(self._scheduler).__name__
        if config.get("thresholding"):
            return f"x0 thresholded by {name}, recorded before that"
        if config.get("clip_sample"):
            return f"x0 clipped to ±{config.get('clip_sample_range', 1.0):g} by {name}, recorded before that"
        return CLIP_CONVENTIONS[False]


class _OfNetwork(Observation):
    """Any other loop, watched at the network."""

    def __init__(self, model: Denoiser, data: Data | None, seed: int, first: int) -> None:
        super().__init__(model, data, seed, first)
        net = model.net
        if not isinstance(net, torch.nn.Module):
            raise InputError(
                f"{model.name} is a plain function, which no hook can watch: give the module that the loop calls"
            )
        if _compiled(net):
            raise InputError("a compiled module may run without its hooks: observe the loop before torch.compile")
        self._why_nothing = f"the network {type(net).__name__} was never called: is it the module that the loop calls?"
        self._pending: _Seen | None = None
        self._labels, self._times = self._table()

    def _install(self) -> None:
        self._pending = None
        self._handle = self.model.net.register_forward_hook(self._saw, with_kwargs=True)

    def _remove(self) -> None:
        self._handle.remove()

    def _close(self) -> None:
        self._end()

    def finish(self, x0: Tensor) -> None:
        """End the batch under way with its clean images (B, C, H, W); otherwise its last x̂_0 is taken.

        Raises InputError where none is under way, or for images of another shape.
        """
        if self._pending is None or x0.shape != self._pending.x.shape:
            expected = "none: no batch is under way" if self._pending is None else tuple(self._pending.x.shape)
            raise InputError(f"finish was given images {tuple(x0.shape)}, expected are {expected}")
        self._end(x0)

    def _end(self, x0: Tensor | None = None) -> None:
        if self._pending is None:
            return
        last, self._pending = self._pending, None
        with _plainly(last.x):
            self._take(last)
            self._complete(self._read(last, last.x.to(self._device(last.x), torch.float64)).x0 if x0 is None else x0)

    def _saw(self, net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        x, time = _inputs(net, args, kwargs)
        self._note_autocast(x)
        with _plainly(x):
            self._next(self._decoded(x, time, output))

    def _next(self, seen: _Seen) -> None:
        before = self._pending
        if before is not None and seen.level.snr < before.level.snr:
            self._end()
        elif before is not None and seen.level == before.level:
            self._check_repeated(seen, before)
        elif before is not None:
            self._take(before)
        if self._pending is None:
            self._open(seen.x)
        self._pending = seen

    def _check_repeated(self, seen: _Seen, before: _Seen) -> None:
        where = f"twice at timestep {seen.level.timestep:g}"
        same_size = seen.x.shape == before.x.shape
        if same_size and torch.equal(seen.x, before.x):
            raise InputError(
                f"the network saw the same states {where}, as in guidance: observe the module that combines both"
            )
        # At the first level no solver has moved yet; further on, a corrector may move far where steps are few.
        first = self._under_way().count == 0
        if not same_size or (first and (seen.x - before.x).norm() > ANOTHER_STATE * seen.x.norm()):
            raise InputError(f"the network saw different states {where}: loops that split their batch are not observed")

    def _decoded(self, x: Tensor, time: Any, output: Any) -> _Seen:
        """What a call of the network means, through the model's own way of calling it."""
        times = torch.as_tensor(time, dtype=torch.float64).flatten()
        if (times != times[0]).any():
            raise InputError("the network was called at several noise levels at once, which is no step of a chain")
        level = self._level(float(times[0]))
        given, _ = self._asked(level)
        rows = len(x) // len(given)
        if x.dim() != 4 or tuple(x.shape[1:]) != self.model.shape or rows * len(given) != len(x):
            raise InputError(f"the network saw {tuple(x.shape)}, where states of {self.model.shape} were expected")
        if not all(torch.equal(x[:rows], x[k * rows : (k + 1) * rows]) for k in range(1, len(given))):
            raise InputError("the model is guided, but the two halves of the network's batch are not the same states")
        scale = float(given.flatten()[0])
        state = x[:rows].detach() / scale  # a copy: the loop may go on in place
        return _Seen(level, state, self._standing_in(output, rows)(state, level).detach().clone())

    def _level(self, time: float) -> Level:
        labels, times = self._labels, self._times
        if not self.model.schedule.continuous and not times[0] - 0.5 <= time <= times[-1] + 0.5:
            raise InputError(f"the network was called at timestep {time:g}, but knows {times[0]:g} to {times[-1]:g}")
        i = int(np.clip(np.searchsorted(times, time), 1, len(times) - 1))
        share = (time - times[i - 1]) / (times[i] - times[i - 1])
        return self.model.schedule.at(float(labels[i - 1] + share * (labels[i] - labels[i - 1])))

    def _table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The schedule's labels, and what the network is given for each of them; the latter ascending."""
        schedule = self.model.schedule
        levels = sorted({schedule.level(i) for i in range(len(schedule))})
        labels = np.array([level.timestep for level in levels])
        some = np.unique(np.linspace(0, len(levels) - 1, 9).round().astype(int))
        if np.allclose(self._times_of([levels[i] for i in some]), labels[some], rtol=1e-6):
            return labels, labels  # not rounded to the network's float32
        times = self._times_of(levels)
        order = np.argsort(times)
        if len(np.unique(times)) < len(times):
            raise InputError(
                f"{self.model.name} calls its network alike at different levels: a hook cannot tell them apart"
            )
        return labels[order], times[order]

    def _times_of(self, levels: Sequence[Level]) -> NDArray[np.float64]:
        return np.array([float(torch.as_tensor(self._asked(level)[1]).flatten()[0]) for level in levels])

    def _asked(self, level: Level) -> tuple[Tensor, Any]:
        """The state and label that the network is given, when the model is asked about a state of ones."""
        ones = torch.ones(1, *self.model.shape, device=self.model.device)
        try:
            self._standing_in(None, 1)(ones, level)
        except _Asked as asked:
            return asked.x, asked.time
        raise InputError(f"{self.model.name} does not call its network: a hook on it sees nothing")

    def _standing_in(self, output: Any, rows: int) -> Denoiser:
        """The model, with a network that returns `output` whatever it is given."""
        standing = self.model if self.model.classes is None else self.model.given(torch.zeros(rows, dtype=torch.long))
        standing = copy(standing)
        standing.net = _StandIn(self.model.net, output)
        return standing

    def _sampler_name(self) -> str:
        return OBSERVED_LOOP

    def _clip(self) -> str:
        return "the loop's own, recorded before that"


class _Asked(Exception):
    """What a stand-in was given."""

    def __init__(self, x: Tensor, time: Any) -> None:
        self.x, self.time = x, time


class _StandIn(torch.nn.Module):
    """Takes a network's place: it has its attributes, and returns `output`, or raises `_Asked` where that is None."""

    def __init__(self, net: torch.nn.Module, output: Any) -> None:
        super().__init__()
        self.net, self.output = net, output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.output is None:
            raise _Asked(*_inputs(self.net, args, kwargs))
        return self.output


def _inputs(net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Any]:
    """A network's state and label: its first argument, and the one that bears a label's name, or else the second."""
    names = list(inspect.signature(net.forward).parameters)
    given = dict(zip(names, args, strict=False)) | kwargs
    given = {name: given[name] for name in (*(n for n in names if n in given), *(n for n in given if n not in names))}
    values = list(given.values())
    time = next((given[name] for name in TIMES if name in given), values[1] if len(values) > 1 else None)
    if not values or not isinstance(values[0], Tensor) or time is None:
        raise InputError(
            f"cannot tell state and timestep among the arguments {', '.join(given) or '(none)'} of the network"
        )
    return values[0], time


def _compiled(net: torch.nn.Module) -> bool:
    return hasattr(net, "_orig_mod") or getattr(net, "_compiled_call_impl", None) is not None
