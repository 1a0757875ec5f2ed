"""A loop around a diffusers scheduler, watched at its `step`."""

import inspect
import warnings
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from exposure_bias.adapters.schedulers import SchedulerSampler, check_class, observed
from exposure_bias.clipping import UNCLIPPED, Clipping, Convention
from exposure_bias.data import Data
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.observer.observation import Observation, Seen, compiled, plainly
from exposure_bias.schedules import Level


class SchedulerLoop(Observation):
    """A loop around a diffusers scheduler, watched at its `step`."""

    def __init__(
        self,
        model: Denoiser,
        data: Data | None,
        seed: int,
        first: int,
        scheduler: Any,
        networks: list[torch.nn.Module],
        sequences: Sequences | None = None,
    ) -> None:
        super().__init__(model, data, seed, first, sequences)
        check_class(scheduler, model)
        self._scheduler, self._networks = scheduler, networks
        self._why_nothing = (
            f"the step of this {type(scheduler).__name__} was never called: is it the loop's own?"
        )
        self._sampler: SchedulerSampler | None = None
        self._grid: Any = None
        self._nodes: dict[int, Level] = {}
        self._calls = self._at = self._rows = self._network_rows = 0

    def _install(self) -> None:
        original, self._before_us = self._scheduler.step, vars(self._scheduler).get("step")
        signature = inspect.signature(original)

        # Pipelines look at the signature, and leave out eta and generator where it does not show
        # them.
        @wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            if not self._active:  # somebody wrapped this in turn, and put it back
                return original(*args, **kwargs)
            with self._apart():
                given = signature.bind(*args, **kwargs).arguments
                self._note_autocast(given["sample"])
                with plainly(given["sample"]):
                    self._before(given)
            result = original(*args, **kwargs)
            with self._apart(), plainly(result[0]):
                self._after(self._state(result[0]))
            return result

        self._step_of_ours = self._scheduler.step = step
        hooks = [n for n in self._networks if not compiled(n)]
        self._handles = [
            n.register_forward_pre_hook(self._count_rows, with_kwargs=True) for n in hooks
        ]

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        if vars(self._scheduler).get("step") is not self._step_of_ours:
            return
        if self._before_us is None:
            del self._scheduler.step
        else:
            self._scheduler.step = self._before_us

    def _count_rows(
        self, network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        images = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() > 2)
        self._network_rows += len(next(images, ()))

    def _before(self, given: dict[str, Any]) -> None:
        x, output = (self._state(given[name]) for name in ("sample", "model_output"))
        place = self._place(given["timestep"])
        if place == 0:
            self.failed = False
            self._begin(x, output, given.get("eta"))
        elif self.failed:
            return
        elif self._batch is None or place != self._at:
            raise InputError(
                f"the loop is at place {place} of its scheduler's timesteps, where {self._at} was"
                " expected: loops that begin in the middle (image to image) or leave out steps are"
                " not observed"
            )
        if place in self._nodes:
            level = self._nodes[place]
            x, output = x[: self._rows], output[: self._rows]
            if hasattr(self._scheduler, "precondition_outputs"):
                sigma = torch.tensor(level.sigma, dtype=torch.float64)
                output = self._scheduler.precondition_outputs(x.double(), output.double(), sigma)
            self._take(Seen(level, x, output))

    def _state(self, x: Tensor) -> Tensor:
        """(B, *shape) of what the loop holds, which may be packed to tokens."""
        return self.model.from_loop(x, self.model.shape)

    def _after(self, x: Tensor) -> None:
        if self.failed:
            return
        self._at, self._network_rows = self._at + 1, 0
        if self._at == self._calls:
            self._complete(x[: self._rows])

    def _place(self, timestep: Any) -> int:
        """Which of the scheduler's timesteps its step is being called for."""
        scheduler = self._scheduler
        if hasattr(scheduler, "step_index"):
            return int(
                scheduler.step_index
                if scheduler.step_index is not None
                else scheduler.begin_index or 0
            )
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
            if self.n and sampler.own_levels != self._levels:
                raise InputError(
                    f"this batch takes {len(sampler.own_levels) - 1} steps on other levels than the"
                    " batch before it: observe loops of other levels separately"
                )
            self._grid, self._sampler, self._levels = grid, sampler, sampler.own_levels
            self._nodes = {
                node[0].place: level
                for node, level in zip(sampler.nodes, sampler.own_levels, strict=False)
            }
            self._calls = sum(map(len, sampler.nodes))
        # DiTPipeline hands both halves of its guided batch to the scheduler; they are the same.
        half = len(x) // 2
        doubled = (
            len(x) % 2 == 0
            and torch.equal(x[:half], x[half:])
            and torch.equal(output[:half], output[half:])
        )
        self._rows, self._at = half if doubled else len(x), 0
        if (
            self._batch is None
        ):  # else the network may have been called for a step that was never taken
            self._check_guidance()
        self._open(x[: self._rows])

    def _check_guidance(self) -> None:
        """Raise InputError where the forward stream would be another field's than the chain's."""
        self._guided = self._network_rows > self._rows
        if self.data is None or not self._network_rows or self._guided == self._guides():
            return
        if self._guided:
            raise InputError(
                f"the loop is guided (its network saw {self._network_rows} rows for {self._rows}"
                " states), but the model is not: give observe(…, model=eb.adapt(…,"
                " guidance_scale=…))"
            )
        raise InputError(
            f"the model is guided (scale {self.model.guidance:g}), but the loop is not: adapt it"
            " without"
        )

    def _end_frame(self, x: Tensor | None) -> None:
        self._batch = None  # a whole one is kept already

    def _begin_marked(self) -> None:
        self._batch = None  # its timesteps tell where the next one begins

    def _guides(self) -> bool:
        """Whether the model calls its network on two conditionings."""
        return self.model.guidance is not None and not self.model.guidance_embedded

    def _close(self) -> None:
        if self._batch is not None:
            self._why_nothing = (
                f"the loop stopped after {self._at} of {self._calls} calls: its batch is left out"
            )
            if self.n:
                warnings.warn(self._why_nothing, stacklevel=3)

    def _sampler_name(self) -> str:
        return str(self._sampler)

    def _clip(self) -> Clipping:
        config = self._scheduler.config
        clips = config.get("thresholding") or config.get("clip_sample")
        return Clipping(Convention.LOOP) if clips else UNCLIPPED
