"""A diffusers scheduler driven from our loop: how it steps, and what its rehearsal finds.

*Steps.* A step ends where the scheduler keeps a state. Heun's predictor, KDPM2's mid-point and the
Runge-Kutta stages of PNDM are calls within a step, as in our own `heun`; the states of multistep
and singlestep solvers are all kept. So a chain of T′ steps has T′ + 1 entries whatever a step
costs. The last entry is the level where the scheduler stops: clean for most, ᾱ_0 with
`set_alpha_to_one=False`, σ_min with `final_sigmas_type="sigma_min"`; it bears the clean label.

*Rehearsal.* Without clipping a step is linear in the state, in x̂_0 and in its noise. So the
scheduler runs once, before any network does, on the responses to a unit x_0, a unit start and a
unit noise at each step, with x_0 as prediction.
This finds the steps and levels, whether noise is drawn at all, and the teacher chain's law without
Monte Carlo: its
mean a_k x_0 and its residual variance v_k, to be compared with α_k x_0 and σ_k². `teacher_error` is
the largest of
|v_k/σ_k² − 1| and |a_k − α_k|/σ_k; the teacher is exact if that is at most `EXACT`.
Most stay below 10⁻⁴;
the float32 betas of a `DDPMScheduler` cost 0.6 % over 1000 steps.

*Noise.* A scheduler draws with `torch.randn`, `randn_like`, `normal` or `normal_` from a generator
that runs on from sample to sample. While one steps, a `TorchFunctionMode` answers each of its draws
with our noise of that step, which belongs to the sample (`noise`). No module is patched, no other
thread sees it, and the same noise reaches the teacher's copy. What is drawn in any other way shows
in the rehearsal, where one row is given nothing at all and has to stay zero; it is refused."""

import copy
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import hypot
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from exposure_bias.clipping import Clipping, Convention
from exposure_bias.errors import InputError
from exposure_bias.files.library import class_among
from exposure_bias.samplers import Limit, Predict, Prediction, Transition
from exposure_bias.schedules import Level, Schedule, prediction_coefficients

EXACT = 1e-2
# What the model decides, or our own clip.
FROM_MODEL = (
    "trained_betas",
    "num_train_timesteps",
    "prediction_type",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "snr_shift_scale",
    "use_flow_sigmas",
)
NEVER_CLIP = ("CogVideoXDDIMScheduler",)
KEEP_EPSILON = ("DDIMScheduler", "DDIMParallelScheduler")
FROM_CLIP = (
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)
OWN_NOISE = (
    "it cannot be given each sample's own noise, so that a chain would depend on its batch; let its"
    " step draw once, with torch.randn"
)


class Call(NamedTuple):
    """One call of the network.

    Its place in scheduler.timesteps and the level its state is taken to have."""

    place: int
    level: Level


@dataclass(frozen=True, eq=False)
class SchedulerSampler:
    """A diffusers scheduler of a fixed number of steps as a sampler; `sampler_for` makes one.

    scheduler: never stepped itself. nodes: the calls of each step. own_levels: one for each step,
    and the end.
    stochastic: whether it draws noise. teacher: (a, v) at each of the levels, where the teacher's
    state is N(a x_0, v).
    clip: how it clips by itself, or None. steps: how many were asked of it.
    """

    scheduler: Any
    eta: float | None
    nodes: tuple[tuple[Call, ...], ...]
    own_levels: tuple[Level, ...]
    stochastic: bool
    teacher: tuple[tuple[float, float], ...]
    clip: Clipping | None = None
    steps: int | None = None

    takes_epsilon = False
    ancestral = False

    def __str__(self) -> str:
        config, cls = self.scheduler.config, type(self.scheduler)
        defaults = inspect.signature(cls.__init__).parameters
        options = {
            key: config[key]
            for key, parameter in defaults.items()
            if key in config
            and key not in {*FROM_MODEL, *FROM_CLIP}
            and config[key] != parameter.default
        }
        if self.eta:
            options["eta"] = self.eta
        listed = ",".join(
            f"{key}={json.dumps(value, default=str)}" for key, value in sorted(options.items())
        )
        return f"{cls.__name__}:{listed}" if listed else cls.__name__

    @property
    def limit(self) -> Limit | None:
        """That of the probability flow where no noise is drawn.

        Where the right amount of noise is drawn (`SDE`), that of the SDE."""
        if not self.stochastic:
            return "ode"
        return "sde" if _tends_to_sde(self.scheduler, self.eta) else None

    @property
    def order(self) -> int:
        """That of its solver."""
        own = self.scheduler.config.get("solver_order") or 1
        return max(int(own), int(type(self.scheduler).order))

    @property
    def wants_variance(self) -> bool:
        """Where its variance is the network's."""
        return str(self.scheduler.config.get("variance_type")).startswith("learned")

    @property
    def level_error(self) -> float:
        """The largest |a_k − α_k| of `teacher`, in units of √(α_k² + σ_k²).

        Whether each state is at the level that the scheduler takes it to have."""
        pairs = zip(self.own_levels, self.teacher, strict=True)
        return max(
            abs(a - level.alpha) / hypot(level.alpha, level.sigma) for level, (a, _) in pairs
        )

    @property
    def teacher_error(self) -> float:
        """The largest deviation of `teacher` from (α, σ²).

        In units of σ and σ² (of 1 at the clean end)."""
        deviations = []
        for (_, alpha, sigma), (a, v) in zip(self.own_levels, self.teacher, strict=True):
            unit = sigma or 1.0
            deviations += [abs(a - alpha) / unit, abs(v - sigma**2) / unit**2]
        return max(deviations)

    @property
    def exact_teacher(self) -> bool:
        """Whether each state of the teacher chain is exactly q(x_t | x_0), as rehearsed.

        See docs/mathematics.md."""
        return self.teacher_error <= EXACT

    def levels(
        self, schedule: Schedule, steps: int, spacing: str = "linspace"
    ) -> tuple[Level, ...]:
        """Its own. Raises InputError for another number of steps than it was made for."""
        if steps != self.steps:
            raise InputError(
                f"this {type(self.scheduler).__name__} was made for {self.steps} steps, not for"
                f" {steps}"
            )
        return self.own_levels

    def prior_scale(self, level: Level) -> float:
        """Standard deviation of a start from pure noise, as diffusers' pipelines begin."""
        return float(getattr(self.scheduler, "init_noise_sigma", level.sigma))

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """None: most schedulers remember earlier steps."""
        return None

    def begin(self, levels: Sequence[Level]) -> "_Chain":
        """A chain of its own through `levels`, a piece of this sampler's, with an empty history.

        Raises InputError for other levels, and for PNDM anywhere but at the start.
        """
        name = type(self.scheduler).__name__
        first = next((j for j, level in enumerate(self.own_levels) if level == levels[0]), 0)
        if tuple(levels) != self.own_levels[first : first + len(levels)]:
            raise InputError(
                f"{name} keeps levels of its own, which cannot be refined or replaced: give it more"
                " steps"
            )
        if (
            first
            and not hasattr(self.scheduler, "set_begin_index")
            and hasattr(self.scheduler, "counter")
        ):
            raise InputError(f"{name} counts its calls and cannot start in mid-chain")
        return _Chain(self, first)


def _sde_algorithm(config: Any, eta: float | None) -> bool:
    return str(config.get("algorithm_type", "")).startswith("sde-")


# Stochastic schedulers whose chains tend to the SDE that ddpm tends to, and what they need for it.
SDE: dict[str, Callable[[Any, float | None], bool]] = {
    "DDPMScheduler": lambda config, eta: True,
    "DDPMParallelScheduler": lambda config, eta: True,
    "DDIMScheduler": lambda config, eta: eta == 1,
    "DDIMParallelScheduler": lambda config, eta: eta == 1,
    "EulerAncestralDiscreteScheduler": lambda config, eta: True,
    "KDPM2AncestralDiscreteScheduler": lambda config, eta: True,
    "EDMDPMSolverMultistepScheduler": _sde_algorithm,
    "DPMSolverMultistepScheduler": _sde_algorithm,
    "DPMSolverSinglestepScheduler": _sde_algorithm,
}


def _tends_to_sde(scheduler: Any, eta: float | None) -> bool:
    known = next((SDE[c.__name__] for c in type(scheduler).__mro__ if c.__name__ in SDE), None)
    return known is not None and known(scheduler.config, eta)


class _Chain:
    """One run of a scheduler, with the state that its solver keeps between steps."""

    def __init__(self, sampler: SchedulerSampler, first: int) -> None:
        self._nodes = iter(sampler.nodes[first:])
        self.asks_at = frozenset(call.level for node in sampler.nodes for call in node)
        begin = sampler.nodes[first][0].place if first < len(sampler.nodes) else 0
        self._stepper = _Stepper(sampler.scheduler, sampler.eta, begin)

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        """The next step; `predict` is asked at the step's further calls."""
        for number, call in enumerate(next(self._nodes)):
            prediction = predict(x, call.level) if number else now
            with nullcontext() if z is None else _Drawing(z):
                x = self._stepper(x, prediction, call)
        return x


class _Stepper:
    """A scheduler's own deep copy and what it must be told at each call."""

    def __init__(self, scheduler: Any, eta: float | None, begin: int) -> None:
        self.scheduler = copy.deepcopy(scheduler)
        # Otherwise a repeated first timestep would make it skip a level.
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        self._extra = {} if eta is None else {"eta": eta}
        clip = own_clip(self.scheduler)
        self._rederives = clip is None or clip.convention is not Convention.KEEP_EPSILON

    def __call__(self, x: Tensor, prediction: Prediction, call: Call) -> Tensor:
        t = self.scheduler.timesteps[call.place]
        if hasattr(self.scheduler, "scale_model_input"):
            self.scheduler.scale_model_input(
                x, t
            )  # some warn, or do not count their steps, without it
        output = self._output(x, prediction, call.level)
        with no_deprecations():
            done: Tensor = self.scheduler.step(output, t, x, return_dict=False, **self._extra)[0]
        return done.double()

    def _output(self, x: Tensor, prediction: Prediction, level: Level) -> Tensor:
        """The prediction as what the scheduler takes for the network's output."""
        if hasattr(self.scheduler, "precondition_outputs"):
            # EDM: x̂_0 = c_skip x + c_out F, whatever σ_data the scheduler believes in.
            zero, one, sigma = torch.tensor([0.0, 1.0, level.sigma], dtype=torch.float64)
            c_skip = self.scheduler.precondition_outputs(one, zero, sigma)
            c_out = self.scheduler.precondition_outputs(zero, one, sigma)
            return (prediction.x0 - c_skip * x) / c_out
        scale = 1 / np.hypot(level.alpha, level.sigma)
        own = Level(level.timestep, scale * level.alpha, scale * level.sigma)
        a, b = prediction_coefficients(output_type(self.scheduler), own)
        # Not prediction.x0: the scheduler clips by itself where it keeps ε̂
        # (`SchedulerSampler.clip`).
        x0 = (
            prediction.x0
            if self._rederives
            else (x - level.sigma * prediction.epsilon) / level.alpha
        )
        output = b * prediction.epsilon if a == 0 else a * x0 + (b * prediction.epsilon if b else 0)
        if vars(self.scheduler).get("variance_type") == "learned_range":
            if prediction.variance is None:
                raise InputError(
                    "variance_type=learned_range needs the model's variance: record its chain"
                    " stream too"
                )
            return torch.cat([output.double(), 2 * prediction.variance - 1], dim=1)
        return output.double()


class _Drawing(TorchFunctionMode):
    """Answers torch's draws of normal numbers with the noise z."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z, self.draws = z, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in NORMAL:
            return func(*args, **kwargs)
        self.draws += 1
        with torch._C.DisableTorchFunction():
            return NORMAL[func](self.z, *args, **kwargs)


def _randn(z: Tensor, *size: Any, **options: Any) -> Tensor:
    return z.to(options.get("device"), options.get("dtype")).reshape(*(size or (options["size"],)))


def _randn_like(z: Tensor, like: Tensor, **options: Any) -> Tensor:
    dtype = options.get("dtype") or like.dtype
    return z.to(options.get("device") or like.device, dtype).reshape(like.shape)


def _normal_(z: Tensor, into: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return into.copy_(mean + std * z.reshape(into.shape))


def _normal(z: Tensor, mean: Any = 0.0, std: Any = 1.0, *_: Any, **options: Any) -> Tensor:
    values = mean + std * z
    return values.to(options.get("device"), options.get("dtype"))


# torch's ways to draw normal numbers, and what gives z in their place.
NORMAL: dict[Any, Callable[..., Tensor]] = {
    torch.randn: _randn,
    torch.randn_like: _randn_like,
    torch.normal: _normal,
    torch.Tensor.normal_: _normal_,
}


def rehearse(
    scheduler: Any, schedule: Schedule, eta: float | None, device: torch.device
) -> SchedulerSampler:
    """Run a scheduler on unit responses, with x_0 as the prediction (module docstring)."""
    name, calls = type(scheduler).__name__, len(scheduler.timesteps)
    stepper = _Stepper(scheduler, eta, 0)
    # Rows are the inputs x_0, start, noise of each step, and at last a row that is given nothing.
    unit = torch.eye(calls + 3, dtype=torch.float64, device=device)[..., None, None, None]
    x0, drawn = unit[0], False
    nodes: list[list[Call]] = []
    states = []
    x = x0
    for index in range(calls):
        level = _level(stepper.scheduler, index, schedule)
        if index == 0:
            x = level.alpha * x0 + level.sigma * unit[1]
        if _keeps_state(stepper.scheduler):
            nodes.append([])
            states.append((level, x))
        call = Call(index, level)
        nodes[-1].append(call)
        truth = Prediction(x0, (x - level.alpha * x0) / level.sigma, torch.full_like(x0, 0.5))
        with _Drawing(unit[1 + len(nodes)]) as noise:
            x = stepper(x, truth, call)
        if noise.draws > 1:
            raise InputError(f"{name} draws noise {noise.draws} times a step: {OWN_NOISE}")
        drawn = drawn or noise.draws > 0
    states.append((_end(stepper.scheduler, schedule), x))
    levels = tuple(level for level, _ in states)
    laws = tuple((float(x[0]), float(x[1:].square().sum())) for _, x in states)
    if not np.isfinite(laws).all():
        raise ValueError("its states are not finite")
    if any(float(x[-1].abs().max()) > 0 for _, x in states):
        raise InputError(f"{name} draws noise by other means than torch.randn: {OWN_NOISE}")
    return SchedulerSampler(scheduler, eta, tuple(map(tuple, nodes)), levels, drawn, laws)


def _keeps_state(scheduler: Any) -> bool:
    """Whether the state handed to the next call is one that the solver keeps."""
    if hasattr(scheduler, "prk_timesteps"):
        # PNDM: the first steps take four calls each, or without Runge-Kutta the very first takes
        # two.
        counter, stages = scheduler.counter, len(scheduler.prk_timesteps)
        return bool(counter % 4 == 0 or counter > stages if stages else counter != 1)
    return bool(getattr(scheduler, "state_in_first_order", True))


def _level(scheduler: Any, index: int, schedule: Schedule) -> Level:
    """The level of the state that the scheduler is about to be called with."""
    t = scheduler.timesteps[index]
    if not hasattr(scheduler, "sigmas"):
        abar = float(scheduler.alphas_cumprod[t])
        return Level(float(t), abar**0.5, (1 - abar) ** 0.5)
    sigmas, place = (
        scheduler.sigmas,
        index if scheduler.step_index is None else scheduler.step_index,
    )
    if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
        # The two classes shift their list of mid-points by one against each other.
        sigmas, place = scheduler.sigmas_interpol, place - hasattr(scheduler, "sigmas_down")
    alpha, sigma = _alpha_sigma(scheduler, float(sigmas[place]), schedule)
    label = float(t)
    if schedule.parameterisation == "flow":
        label *= (
            float(schedule.timestep[-1] / schedule.sigma[-1]) / scheduler.config.num_train_timesteps
        )
    return Level(sigma if schedule.parameterisation == "edm" else label, alpha, sigma)


def _end(scheduler: Any, schedule: Schedule) -> Level:
    """The level where the scheduler stops, under the clean label."""
    if hasattr(scheduler, "sigmas"):
        alpha, sigma = _alpha_sigma(scheduler, float(scheduler.sigmas[-1]), schedule)
    else:
        abar = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        alpha, sigma = abar**0.5, (1 - abar) ** 0.5
    return Level(schedule.clean.timestep, alpha, sigma)


def _alpha_sigma(scheduler: Any, sigma: float, schedule: Schedule) -> tuple[float, float]:
    """(α, σ) in the scheduler's coordinates, from its entry in `sigmas`."""
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        alpha, noise = scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma, dtype=torch.float64))
        return float(alpha), float(noise)
    return (1.0 - sigma if schedule.parameterisation == "flow" else 1.0), sigma


def output_type(scheduler: Any) -> str:
    """What `step` takes as model_output; the flow-matching classes have no option for it."""
    return str(scheduler.config.get("prediction_type", "flow_prediction"))


def own_clip(scheduler: Any) -> Clipping | None:
    """How a scheduler clips by itself, or None; CogVideoX's has the option and does not read it."""
    if not scheduler.config.get("clip_sample") or class_among(scheduler, NEVER_CLIP):
        return None
    keeps = class_among(scheduler, KEEP_EPSILON) is not None
    return Clipping(
        Convention.KEEP_EPSILON if keeps else Convention.REDERIVE,
        float(scheduler.config.get("clip_sample_range", 1.0)),
    )


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Without the DeprecationWarnings of NumPy 2 for diffusers' arrays of tensors.

    No user can act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
