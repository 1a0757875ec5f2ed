"""Any diffusers scheduler as a sampler: a deep copy of it for every chain, driven from our loop.

At its k-th call of the network a scheduler assumes a state x_k = α_k x_0 + σ_k ε and a label t_k
for the network. The levels (t_k, α_k, σ_k) are read from the scheduler, in the coordinates it works
in: α² + σ² = 1 for most, α = 1 for the Euler, Heun, KDPM2 and LMS families on a vp network, which
then sees x_k/√(α_k² + σ_k²) (`streams`). Where a scheduler rounds t_k or interpolates σ_k, both are
recorded as they are used.

*Steps.* A step ends where the scheduler keeps a state. Heun's predictor, KDPM2's mid-point and the
Runge-Kutta stages
of PNDM are calls within a step, as in our own `heun`; the states of multistep and singlestep
solvers are all kept. So a
chain of T′ steps has T′ + 1 entries whatever a step costs. The last entry is the level where the
scheduler stops: clean
for most, ᾱ_0 with `set_alpha_to_one=False`, σ_min with `final_sigmas_type="sigma_min"`; it bears
the clean label.

*Rehearsal.* Without clipping a step is linear in the state, in x̂_0 and in its noise. So the
scheduler runs once, before
any network does, on the responses to a unit x_0, a unit start and a unit noise at each step, with
x_0 as prediction.
This finds the steps and levels, whether noise is drawn at all, and the teacher chain's law without
Monte Carlo: its
mean a_k x_0 and its residual variance v_k, to be compared with α_k x_0 and σ_k². `teacher_error` is
the largest of
|v_k/σ_k² − 1| and |a_k − α_k|/σ_k; the teacher is exact (design §4.1) if that is at most `EXACT`.
Most stay below 10⁻⁴;
the float32 betas of a `DDPMScheduler` cost 0.6 % over 1000 steps.

*Levels that are not where the next step begins.* Some schedulers leave a state at another noise
level than the one their next call takes it to have, `DDIMScheduler` on a `linspace` grid for one.
Such a state is at no level at which it could be compared with x_t: the rehearsal sees a_k ≠ α_k,
and the scheduler is refused with an option of its own that cures it, found by trying (`_cure`).

*Noise.* A scheduler draws with `torch.randn`, `randn_like`, `normal` or `normal_` from a generator
that runs on from sample to sample. While one steps, a `TorchFunctionMode` answers each of its draws
with our noise of that step, which belongs to the sample (`noise`). No module is patched, no other
thread sees it, and the same noise reaches the teacher's copy. What is drawn in any other way shows
in the rehearsal, where one row is given nothing at all and has to stay zero; it is refused.

*Clipping.* A class named by a string clips as our `clip` says. An object that clips by itself
(`clip_sample`, with its
`clip_sample_range`) goes on doing so: DDIM keeps ε̂ after the clip, the others derive it again, and
the recorded
predictions are clipped alike.

Classes and options: https://huggingface.co/docs/diffusers/api/schedulers/overview
"""

import copy
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from math import hypot
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from exposure_bias import samplers
from exposure_bias.adapters.library import class_among
from exposure_bias.adapters.pipelines import diffusers_library, quiet
from exposure_bias.clipping import Clipping, Convention
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, reason, whole_number
from exposure_bias.oracles import EmpiricalOracle, MixtureOracle, Teacher
from exposure_bias.samplers import Limit, Predict, Prediction, Sampler, Transition
from exposure_bias.schedules import Level, Schedule, prediction_coefficients

# The parameterisations of networks that a class can sample from.
SUPPORTED = {
    "DDPMScheduler": ("vp",),
    "DDPMParallelScheduler": ("vp",),
    "DDIMScheduler": ("vp",),
    "DDIMParallelScheduler": ("vp",),
    "CogVideoXDDIMScheduler": ("vp",),
    "PNDMScheduler": ("vp",),
    "DPMSolverMultistepScheduler": ("vp", "flow"),
    "DPMSolverSinglestepScheduler": ("vp", "flow"),
    "DEISMultistepScheduler": ("vp", "flow"),
    "UniPCMultistepScheduler": ("vp", "flow"),
    "SASolverScheduler": ("vp", "flow"),
    "EulerDiscreteScheduler": ("vp",),
    "EulerAncestralDiscreteScheduler": ("vp",),
    "HeunDiscreteScheduler": ("vp",),
    "KDPM2DiscreteScheduler": ("vp",),
    "KDPM2AncestralDiscreteScheduler": ("vp",),
    "LMSDiscreteScheduler": ("vp",),
    "EDMEulerScheduler": ("edm",),
    "EDMDPMSolverMultistepScheduler": ("edm",),
    "FlowMatchEulerDiscreteScheduler": ("flow",),
    "FlowMatchHeunDiscreteScheduler": ("flow",),
    "LTXEulerAncestralRFScheduler": ("flow",),
}
_DISTILLED = (
    "it samples distilled or consistency models, whose output is no denoiser of q(x_t | x_0)"
)
_DISCRETE = "it samples discrete tokens"
_BROWNIAN = "its noise comes from torchsde's Brownian tree, which cannot be given sample by sample"
_OWN_LABELS = "it fixes its own noise schedule and labels, which are not those of the network"
_OWN_NOISE = (
    "it cannot be given each sample's own noise, so that a chain would depend on its batch; let its"
    " step draw once, with torch.randn"
)
_INVERSE = "it runs from the data to the noise"
REFUSED = {
    "AmusedScheduler": _DISCRETE,
    "BlockRefinementScheduler": _DISCRETE,
    "DiscreteDDIMScheduler": _DISCRETE,
    "EntropyBoundScheduler": _DISCRETE,
    "VQDiffusionScheduler": _DISCRETE,
    "CMStochasticIterativeScheduler": _DISTILLED,
    "ConsistencyDecoderScheduler": _DISTILLED,
    "FlowMapEulerDiscreteScheduler": _DISTILLED,
    "FlowMatchLCMScheduler": _DISTILLED,
    "HeliosDMDScheduler": _DISTILLED,
    "LCMScheduler": _DISTILLED,
    "PiflowScheduler": _DISTILLED,
    "SCMScheduler": _DISTILLED,
    "TCDScheduler": _DISTILLED,
    "CosineDPMSolverMultistepScheduler": _BROWNIAN,
    "DPMSolverSDEScheduler": _BROWNIAN,
    "DDIMInverseScheduler": _INVERSE,
    "DPMSolverMultistepInverseScheduler": _INVERSE,
    "DDPMWuerstchenScheduler": _OWN_LABELS,
    "IPNDMScheduler": _OWN_LABELS,
    "KarrasVeScheduler": _OWN_LABELS,
    "MiniMaxH3Scheduler": _OWN_LABELS,
    "ScoreSdeVeScheduler": _OWN_LABELS,
    "ScoreSdeVpScheduler": _OWN_LABELS,
    "UnCLIPScheduler": (
        "it has one noise schedule of its own, and only its pipeline knows how far a step goes"
    ),
    "CogVideoXDPMScheduler": (
        "its step needs the previous prediction and timestep, which only its pipeline hands over"
    ),
    "HeliosScheduler": "it changes the resolution of a video while it samples",
    "RePaintScheduler": "it inpaints: each step needs the known image and a mask",
    "RFD4ProteinaScheduler": "it samples protein coordinates",
}
EXACT = 1e-2
SAME_LEVEL = 2e-3  # |a_k − α_k| of a state, in units of √(α_k² + σ_k²)
SPACINGS = ("leading", "trailing", "linspace")

# What the model decides, or our own clip.
_FROM_MODEL = (
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
_FROM_CLIP = (
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)


def sampler_for(sampler: Any, model: Denoiser, steps: int, spacing: str = "linspace") -> Sampler:
    """The sampler of `steps` steps that a name or an object stands for.

    sampler: what `samplers.parse` takes; a diffusers class by name, with options of its constructor
    (and `eta` where its step takes it) as in
    "DPMSolverMultistepScheduler:solver_order=3,use_karras_sigmas=true"; or a diffusers scheduler,
    of which a copy is used with all its options. A class named by a string gets the model's noise
    schedule and prediction type. spacing: a scheduler has its own, set by its options, so only the
    default is taken.

    Raises InputError for a class that is refused (`REFUSED` says why) or unknown, an unknown
    option, a scheduler whose T, betas or prediction type are not the model's, one that cannot work
    with that prediction type, and thresholding."""
    name = sampler.partition(":")[0] if isinstance(sampler, str) else type(sampler).__name__
    if not (name.endswith("Scheduler") or hasattr(sampler, "set_timesteps")) or hasattr(
        sampler, "begin"
    ):
        return samplers.parse(sampler)
    _check_class(
        [name] if isinstance(sampler, str) else [c.__name__ for c in type(sampler).__mro__], model
    )
    if spacing != "linspace":
        raise InputError(
            f"{name} makes its own grid: set timestep_spacing={spacing} among its options instead"
            " of grid"
        )
    if not isinstance(sampler, str):
        scheduler = copy.deepcopy(sampler)
        _check_type(scheduler, name, model)
        return _prepared(scheduler, name, model, steps, None)
    if _answers_any(model):
        with suppress(_CannotRun):
            return _by_name(sampler, model, model.prediction_type, steps)
        return _by_name(sampler, model, "epsilon", steps)
    return _by_name(sampler, model, model.prediction_type, steps)


def observed(scheduler: Any, model: Denoiser, eta: float | None = None) -> "SchedulerSampler":
    """The sampler that a scheduler is in somebody else's loop, for its levels.

    The scheduler's timesteps have been set.

    Its clipping is left out. Raises InputError for a class that is refused, as `sampler_for`.
    """
    _check_class([c.__name__ for c in type(scheduler).__mro__], model)
    own = _unclipped(scheduler)
    vars(own).pop("step", None)  # an observer's
    try:
        with _quiet():
            rehearsed = _rehearsed(own, model.schedule, eta, model.device)
    except Exception as error:  # as in `_prepared`
        raise InputError(
            f"cannot tell the levels of this {type(scheduler).__name__}: {reason(error)}"
        ) from error
    _check_levels(rehearsed, own, model, int(scheduler.num_inference_steps), eta)
    return rehearsed


def _check_class(names: Sequence[str], model: Denoiser) -> None:
    """Raise InputError unless the class names[0], or a base of it, can sample from the model."""
    base = next((c for c in names if c in SUPPORTED or c in REFUSED), None)
    if base is None:
        raise InputError(
            f"unknown diffusers scheduler {names[0]!r}: supported are {', '.join(SUPPORTED)}"
        )
    if base in REFUSED:
        raise InputError(f"{names[0]} is not supported: {REFUSED[base]}")
    kind = model.schedule.parameterisation
    if kind not in SUPPORTED[base] or (kind == "vp" and model.schedule.continuous):
        fit = ", ".join(c for c, kinds in SUPPORTED.items() if kind in kinds)
        one_of = (
            "ddpm, ddim, euler or heun"
            if model.schedule.continuous and kind not in ("edm", "flow")
            else fit
        )
        raise InputError(
            f"{names[0]} does not sample from {model.schedule.name} ({kind}) models: give one of"
            f" {one_of}"
        )


class _CannotRun(InputError):
    """The scheduler raised when it was set up or rehearsed."""


def _answers_any(model: Denoiser) -> bool:
    """Whether the model's type is a matter of form.

    An exact denoiser's x̂_0 in float64 gives any other."""
    return isinstance(model, MixtureOracle | EmpiricalOracle | Teacher)


def _by_name(sampler: str, model: Denoiser, prediction_type: str, steps: int) -> "SchedulerSampler":
    scheduler, eta = _named(sampler, model, prediction_type)
    name = type(scheduler).__name__
    _check_type(scheduler, name, model)
    return _prepared(scheduler, name, model, steps, eta)


def _named(sampler: str, model: Denoiser, prediction_type: str) -> tuple[Any, float | None]:
    """A new scheduler on the model's noise schedule, and its eta if that was given."""
    name, _, text = sampler.partition(":")
    schedule, cls = model.schedule, getattr(diffusers_library(), name)
    allowed = inspect.signature(cls.__init__).parameters.keys() - {"self", "kwargs"}
    eta_in_step = "eta" in inspect.signature(cls.step).parameters
    options = dict(_option(part, name) for part in text.split(",") if part)
    eta = options.pop("eta", None) if eta_in_step else None
    if eta is not None and not (isinstance(eta, int | float) and 0 <= eta <= 1):
        raise InputError(f"{name} takes 0 ≤ eta ≤ 1, got {eta!r}")
    free = sorted(allowed - {*_FROM_MODEL, *_FROM_CLIP} | ({"eta"} if eta_in_step else set()))
    for option in options:
        if option in _FROM_CLIP and option in allowed:
            raise InputError(
                f"{name}'s {option} is no option of a sampler's name: use --clip, or in Python"
                " clip=True or clip='keep_epsilon', for [-1, 1]; for another range give the"
                f" scheduler itself, {name}(clip_sample=True, clip_sample_range=...)"
            )
        if option in allowed and option not in free:
            raise InputError(
                f"{name}'s {option} is decided by the model, not by an option of the sampler: leave"
                " it out"
            )
        if option not in free:
            raise InputError(f"{name} has no option {option!r}: allowed are {', '.join(free)}")
    # The singlestep solver's own default is impossible with its default end, and it says so at
    # length.
    given: dict[str, Any] = {
        "prediction_type": prediction_type,
        "snr_shift_scale": 1.0,
        "lower_order_final": True,
    }
    given["clip_sample"] = False
    if schedule.parameterisation == "vp":
        abar = schedule.alpha**2
        given["trained_betas"] = (1 - abar / np.append(1.0, abar[:-1])).tolist()
        given["num_train_timesteps"] = len(schedule)
    elif schedule.parameterisation == "edm":
        given |= {
            "sigma_min": round(float(schedule.sigma[0]), 12),
            "sigma_max": round(float(schedule.sigma[-1]), 12),
        }
        given["prediction_type"] = "epsilon"
    else:
        given["use_flow_sigmas"] = True
    with _quiet():
        return cls(**{key: value for key, value in given.items() if key in allowed} | options), eta


def _option(text: str, name: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(
            f"cannot read the option {text!r} of {name}: write {name}:key=value,key=value"
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, {"True": True, "False": False, "None": None}.get(value, value)


def _check_type(scheduler: Any, name: str, model: Denoiser) -> None:
    """Raise InputError where a scheduler does not fit the model.

    Its prediction type, T, betas and options have to."""
    config, schedule = scheduler.config, model.schedule
    if schedule.parameterisation != "edm":
        expected = _output_type(scheduler)
        if expected != model.prediction_type and not _answers_any(model):
            raise InputError(
                f"{name} expects {expected}, but the model predicts {model.prediction_type}"
            )
    is_flow = schedule.parameterisation == "flow"
    if is_flow != bool(config.get("use_flow_sigmas", is_flow)):
        raise InputError(
            f"{name}: use_flow_sigmas is for flow models, and this is {schedule.parameterisation}"
        )
    for option in ("thresholding", "use_dynamic_shifting", "invert_sigmas"):
        if config.get(option):
            raise InputError(
                f"{name} with {option} is not supported: its steps are not ours to reproduce; turn"
                " it off"
            )
    if config.get("timestep_type") == "continuous":
        raise InputError(
            f"{name} with timestep_type=continuous labels levels as the model does not: use"
            " discrete"
        )
    variance = str(vars(scheduler).get("variance_type") or config.get("variance_type"))
    takes_variance = (
        name.startswith("DDPM") and variance == "learned_range" and model.learned_variance
    )
    if variance.startswith("learned") and not takes_variance:
        cure = "use fixed_small" if name.startswith("DDPM") else "leave variance_type out"
        raise InputError(f"{name} with variance_type={variance} does not fit this model: {cure}")
    if schedule.parameterisation != "vp":
        return
    if len(schedule) != config.num_train_timesteps:
        raise InputError(
            f"{name} has {config.num_train_timesteps} training timesteps, but the model was trained"
            f" with {len(schedule)}: set num_train_timesteps, or give the class's name to get the"
            " model's schedule"
        )
    difference = np.abs(np.sqrt(scheduler.alphas_cumprod.double().numpy()) - schedule.alpha)
    if difference.max() > 1e-3:
        raise InputError(
            f"{name}'s betas are not the model's (α_t differs by up to {difference.max():.2g}, at"
            f" timestep {difference.argmax()}): set its beta options, or give the class's name to"
            " get the model's schedule"
        )


def _output_type(scheduler: Any) -> str:
    """What `step` takes as model_output; the flow-matching classes have no option for it."""
    return str(scheduler.config.get("prediction_type", "flow_prediction"))


def _prepared(
    scheduler: Any, name: str, model: Denoiser, steps: int, eta: float | None
) -> "SchedulerSampler":
    """The sampler of a scheduler that is ours to change, rehearsed."""
    clip, steps = _own_clip(scheduler), whole_number(steps, "steps")
    try:
        rehearsed = _set_and_rehearsed(scheduler, steps, model, eta)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # the schedulers raise ValueError, NotImplementedError, IndexError, TypeError, …
        cure = _cure(scheduler, steps, model, eta)
        raise _CannotRun(
            f"{name} cannot take {steps} steps with a model that predicts {model.prediction_type}:"
            f" {reason(error)}{cure}"
        ) from error
    _check_levels(rehearsed, scheduler, model, steps, eta)
    return replace(rehearsed, scheduler=scheduler, clip=clip, steps=steps)


def _set_and_rehearsed(
    scheduler: Any, steps: int, model: Denoiser, eta: float | None
) -> "SchedulerSampler":
    """Set a scheduler's timesteps, and rehearse it; raises whatever it raises."""
    with _quiet():
        scheduler.set_timesteps(steps, device=model.device)
        return _rehearsed(_unclipped(scheduler), model.schedule, eta, model.device)


def _check_levels(
    rehearsed: "SchedulerSampler", scheduler: Any, model: Denoiser, steps: int, eta: float | None
) -> None:
    """Raise InputError where a scheduler leaves states at other levels than it says.

    Those that it then takes them to have."""
    if rehearsed.level_error > SAME_LEVEL:
        raise InputError(
            f"{type(scheduler).__name__} in {steps} steps leaves its states at other noise levels"
            f" than its next calls take them to have (α is off by up to {rehearsed.level_error:.2g}"
            " of the state's size), so that they cannot be compared with x_t"
            f"{_cure(scheduler, steps, model, eta)}"
        )


def _cure(scheduler: Any, steps: int, model: Denoiser, eta: float | None) -> str:
    """The first change of one option with which a scheduler does run, in words; each is tried."""
    most = len(model.schedule)
    if not model.schedule.continuous and steps > most:
        return f"; give at most {most} steps"
    given = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    for option, value in _changes(scheduler, model):
        with suppress(Exception), quiet():
            changed = type(scheduler)(**given | {option: value})
            if _set_and_rehearsed(changed, steps, model, eta).level_error <= SAME_LEVEL:
                return f"; set {option}={json.dumps(value)}"
    return "; use a sampler of ours, such as ddim or ddpm"


def _changes(scheduler: Any, model: Denoiser) -> Iterator[tuple[str, Any]]:
    """What might make a scheduler run: zero terminal SNR, other spacings, its options left out."""
    config = scheduler.config
    if model.schedule.alpha[-1] == 0 and config.get("rescale_betas_zero_snr") is False:
        yield "rescale_betas_zero_snr", True
    if "timestep_spacing" in config:
        yield from (("timestep_spacing", s) for s in SPACINGS if s != config["timestep_spacing"])
    for option, parameter in inspect.signature(type(scheduler).__init__).parameters.items():
        changed = option in config and config[option] != parameter.default
        if changed and option not in {*_FROM_MODEL, *_FROM_CLIP}:
            yield option, parameter.default


def _own_clip(scheduler: Any) -> Clipping | None:
    """How a scheduler clips by itself, or None; CogVideoX's has the option and does not read it."""
    if not scheduler.config.get("clip_sample") or class_among(scheduler, NEVER_CLIP):
        return None
    keeps = class_among(scheduler, KEEP_EPSILON) is not None
    return Clipping(
        Convention.KEEP_EPSILON if keeps else Convention.REDERIVE,
        float(scheduler.config.get("clip_sample_range", 1.0)),
    )


def _unclipped(scheduler: Any) -> Any:
    """A copy of a scheduler that does not clip, whose steps are linear."""
    own = copy.deepcopy(scheduler)
    own.register_to_config(
        **{option: False for option in ("clip_sample", "thresholding") if option in own.config}
    )
    return own


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the DeprecationWarnings of NumPy 2 for diffusers' arrays of tensors.

    No user can act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


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
            and key not in {*_FROM_MODEL, *_FROM_CLIP}
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

        See design §4.1."""
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


# Stochastic schedulers whose chains tend to the SDE that ddpm tends to, and what they need for it.
SDE: dict[str, Callable[[Any, float | None], bool]] = {
    "DDPMScheduler": lambda config, eta: True,
    "DDPMParallelScheduler": lambda config, eta: True,
    "DDIMScheduler": lambda config, eta: eta == 1,
    "DDIMParallelScheduler": lambda config, eta: eta == 1,
    "EulerAncestralDiscreteScheduler": lambda config, eta: True,
    "KDPM2AncestralDiscreteScheduler": lambda config, eta: True,
    "EDMDPMSolverMultistepScheduler": (
        lambda config, eta: str(config.get("algorithm_type", "")).startswith("sde-")
    ),
    "DPMSolverMultistepScheduler": (
        lambda config, eta: str(config.get("algorithm_type", "")).startswith("sde-")
    ),
    "DPMSolverSinglestepScheduler": (
        lambda config, eta: str(config.get("algorithm_type", "")).startswith("sde-")
    ),
}


def _tends_to_sde(scheduler: Any, eta: float | None) -> bool:
    known = next((SDE[c.__name__] for c in type(scheduler).__mro__ if c.__name__ in SDE), None)
    return known is not None and known(scheduler.config, eta)


class _Chain:
    """One run of a scheduler, with the state that its solver keeps between steps."""

    def __init__(self, sampler: SchedulerSampler, first: int) -> None:
        self._nodes = iter(sampler.nodes[first:])
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
        clip = _own_clip(self.scheduler)
        self._rederives = clip is None or clip.convention is not Convention.KEEP_EPSILON

    def __call__(self, x: Tensor, prediction: Prediction, call: Call) -> Tensor:
        t = self.scheduler.timesteps[call.place]
        if hasattr(self.scheduler, "scale_model_input"):
            self.scheduler.scale_model_input(
                x, t
            )  # some warn, or do not count their steps, without it
        output = self._output(x, prediction, call.level)
        with _quiet():
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
        a, b = prediction_coefficients(_output_type(self.scheduler), own)
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


def _rehearsed(
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
            raise InputError(f"{name} draws noise {noise.draws} times a step: {_OWN_NOISE}")
        drawn = drawn or noise.draws > 0
    states.append((_end(stepper.scheduler, schedule), x))
    levels = tuple(level for level, _ in states)
    laws = tuple((float(x[0]), float(x[1:].square().sum())) for _, x in states)
    if not np.isfinite(laws).all():
        raise ValueError("its states are not finite")
    if any(float(x[-1].abs().max()) > 0 for _, x in states):
        raise InputError(f"{name} draws noise by other means than torch.randn: {_OWN_NOISE}")
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
