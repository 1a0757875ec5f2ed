"""Any diffusers scheduler as a sampler: a deep copy of it for every chain, driven from our loop.

At its k-th call of the network a scheduler assumes a state x_k = α_k x_0 + σ_k ε and a label t_k
for the network. The levels (t_k, α_k, σ_k) are read from the scheduler, in the coordinates it works
in: α² + σ² = 1 for most, α = 1 for the Euler, Heun, KDPM2 and LMS families on a vp network, which
then sees x_k/√(α_k² + σ_k²) (`streams`). Where a scheduler rounds t_k or interpolates σ_k, both are
recorded as they are used.

How a scheduler steps and is rehearsed: `adapters.rehearsal`.

*Levels that are not where the next step begins.* Some schedulers leave a state at another noise
level than the one their next call takes it to have, `DDIMScheduler` on a `linspace` grid for one.
Such a state is at no level at which it could be compared with x_t: the rehearsal sees a_k ≠ α_k,
and the scheduler is refused with an option of its own that cures it, found by trying (`_cure`).

*Clipping.* A class named by a string clips as our `clip` says. An object that clips by itself
(`clip_sample`, with its `clip_sample_range`) goes on doing so: DDIM keeps ε̂ after the clip, the
others derive it again, and the recorded predictions are clipped alike.

Classes and options: https://huggingface.co/docs/diffusers/api/schedulers/overview
"""

import copy
import inspect
import json
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from exposure_bias import samplers
from exposure_bias.adapters.pipelines import diffusers_library, quiet
from exposure_bias.adapters.rehearsal import (
    FROM_CLIP,
    FROM_MODEL,
    SchedulerSampler,
    no_deprecations,
    output_type,
    own_clip,
    rehearse,
)
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, reason, whole_number
from exposure_bias.levels import sigma_of
from exposure_bias.oracles import EmpiricalOracle, MixtureOracle, Teacher
from exposure_bias.remedies.steps import SEPARATOR, corrected
from exposure_bias.samplers import Sampler
from exposure_bias.schedules import Level, Schedule

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
SAME_RATIO = 1e-2  # of σ/α, between a level that was asked for and the scheduler's own
SAME_LEVEL = 2e-3  # |a_k − α_k| of a state, in units of √(α_k² + σ_k²)
PYTHON = {"True": True, "False": False, "None": None}
SPACINGS = ("leading", "trailing", "linspace")


def sampler_for(sampler: Any, model: Denoiser, steps: int, spacing: Any = "linspace") -> Sampler:
    """The sampler of `steps` steps that a name or an object stands for.

    sampler: what `samplers.parse` takes; a diffusers class by name, with options of its constructor
    (and `eta` where its step takes it) as in
    "DPMSolverMultistepScheduler:solver_order=3,use_karras_sigmas=true"; or a diffusers scheduler,
    of which a copy is used with all its options. A class named by a string gets the model's noise
    schedule and prediction type. spacing: a scheduler has its own, set by its options, so only the
    default is taken; or a chain's levels, for a scheduler whose `set_timesteps` takes a list of
    timesteps or sigmas.

    Raises InputError for a class that is refused (`REFUSED` says why) or unknown, an unknown
    option, a scheduler whose T, betas or prediction type are not the model's, one that cannot work
    with that prediction type, and thresholding."""
    if isinstance(sampler, str) and SEPARATOR in sampler:
        sampler, *remedies = (part.strip() for part in sampler.split(SEPARATOR))
        plain = sampler_for(sampler, model, steps, spacing)
        wrapped = reduce(corrected, remedies, plain)
        return samplers.prepared(wrapped, model.schedule, steps, spacing)
    name = sampler.partition(":")[0] if isinstance(sampler, str) else type(sampler).__name__
    if not (name.endswith("Scheduler") or hasattr(sampler, "set_timesteps")) or hasattr(
        sampler, "begin"
    ):
        return samplers.prepared(samplers.parse(sampler), model.schedule, steps, spacing)
    _check_class(
        [name] if isinstance(sampler, str) else [c.__name__ for c in type(sampler).__mro__], model
    )
    chosen = None if isinstance(spacing, str) else tuple(spacing)
    if chosen is None and spacing != "linspace":
        raise InputError(
            f"{name} makes its own grid: set timestep_spacing={spacing} among its options instead"
            " of grid"
        )
    if not isinstance(sampler, str):
        scheduler = copy.deepcopy(sampler)
        _check_type(scheduler, name, model)
        return _prepared(scheduler, name, model, steps, None, chosen)
    if _answers_any(model):
        with suppress(_CannotRun):
            return _by_name(sampler, model, model.prediction_type, steps, chosen)
        return _by_name(sampler, model, "epsilon", steps, chosen)
    return _by_name(sampler, model, model.prediction_type, steps, chosen)


def observed(scheduler: Any, model: Denoiser, eta: float | None = None) -> "SchedulerSampler":
    """The sampler that a scheduler is in somebody else's loop, for its levels.

    The scheduler's timesteps have been set.

    Its clipping is left out. Raises InputError for a class that is refused, as `sampler_for`.
    """
    check_class(scheduler, model)
    own = _unclipped(scheduler)
    vars(own).pop("step", None)  # an observer's
    try:
        with no_deprecations():
            rehearsed = rehearse(own, model.schedule, eta, model.device)
    except Exception as error:  # as in `_prepared`
        raise InputError(
            f"cannot tell the levels of this {type(scheduler).__name__}: {reason(error)}"
        ) from error
    # Timesteps that were given one by one have no number of steps.
    steps = scheduler.num_inference_steps or len(scheduler.timesteps)
    _check_levels(rehearsed, own, model, int(steps), eta)
    return rehearsed


def check_class(scheduler: Any, model: Denoiser) -> None:
    """Raise InputError unless a scheduler's class, or a base of it, can sample from the model."""
    _check_class([c.__name__ for c in type(scheduler).__mro__], model)


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


def _by_name(
    sampler: str,
    model: Denoiser,
    prediction_type: str,
    steps: int,
    chosen: tuple[Level, ...] | None,
) -> "SchedulerSampler":
    scheduler, eta = _named(sampler, model, prediction_type)
    name = type(scheduler).__name__
    _check_type(scheduler, name, model)
    return _prepared(scheduler, name, model, steps, eta, chosen)


def _named(sampler: str, model: Denoiser, prediction_type: str) -> tuple[Any, float | None]:
    """A new scheduler on the model's noise schedule, and its eta if that was given."""
    name, _, text = sampler.partition(":")
    schedule, cls = model.schedule, getattr(diffusers_library(), name)
    allowed = inspect.signature(cls.__init__).parameters.keys() - {"self", "kwargs"}
    eta_in_step = "eta" in inspect.signature(cls.step).parameters
    options = dict(samplers.option(part, name, name, PYTHON) for part in text.split(",") if part)
    eta = options.pop("eta", None) if eta_in_step else None
    if eta is not None and not (isinstance(eta, int | float) and 0 <= eta <= 1):
        raise InputError(f"{name} takes 0 ≤ eta ≤ 1, got {eta!r}")
    free = allowed - {*FROM_MODEL, *FROM_CLIP} | ({"eta"} if eta_in_step else set())
    _check_options(options, name, allowed, sorted(free))
    given = {k: v for k, v in _of_model(schedule, prediction_type).items() if k in allowed}
    with no_deprecations():
        return cls(**given | options), eta


def _check_options(
    options: Iterable[str], name: str, allowed: Container[str], free: Sequence[str]
) -> None:
    """Raise InputError for an option that the class does not have, or that is not the user's."""
    for option in options:
        if option in FROM_CLIP and option in allowed:
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


def _of_model(schedule: Schedule, prediction_type: str) -> dict[str, Any]:
    """The options that a model decides, for every class that has them."""
    # The singlestep solver's own default is impossible with its default end, and it says so at
    # length.
    given: dict[str, Any] = {
        "prediction_type": prediction_type,
        "snr_shift_scale": 1.0,
        "lower_order_final": True,
        "clip_sample": False,
    }
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
    return given


def _check_type(scheduler: Any, name: str, model: Denoiser) -> None:
    """Raise InputError where a scheduler does not fit the model.

    Its prediction type, T, betas and options have to."""
    config, schedule = scheduler.config, model.schedule
    if schedule.parameterisation != "edm":
        expected = output_type(scheduler)
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
    if schedule.parameterisation == "vp":
        _check_betas(scheduler, name, schedule)


def _check_betas(scheduler: Any, name: str, schedule: Schedule) -> None:
    """Raise InputError where a scheduler's noise schedule is not the model's."""
    config = scheduler.config
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


def _prepared(
    scheduler: Any,
    name: str,
    model: Denoiser,
    steps: int,
    eta: float | None,
    chosen: tuple[Level, ...] | None = None,
) -> "SchedulerSampler":
    """The sampler of a scheduler that is ours to change, rehearsed."""
    clip, steps = own_clip(scheduler), whole_number(steps, "steps")
    if chosen is not None:
        return replace(_through(scheduler, name, model, eta, chosen), clip=clip, steps=steps)
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
    with no_deprecations():
        scheduler.set_timesteps(steps, device=model.device)
        return rehearse(_unclipped(scheduler), model.schedule, eta, model.device)


def _through(
    scheduler: Any, name: str, model: Denoiser, eta: float | None, chosen: tuple[Level, ...]
) -> "SchedulerSampler":
    """The sampler of a scheduler that is sent through given levels.

    Raises InputError for one that takes no list of levels, or goes through others.
    """
    noisy = chosen[:-1]
    sigmas = [sigma_of(model.schedule, level) for level in chosen]
    # Some classes append the clean end to sigmas, others want it given.
    lists = [("sigmas", sigmas), ("sigmas", sigmas[:-1])]
    if all(float(level.timestep).is_integer() for level in noisy):
        lists.insert(0, ("timesteps", [int(level.timestep) for level in noisy]))
    taken = inspect.signature(scheduler.set_timesteps).parameters
    for kind, values in ((kind, values) for kind, values in lists if kind in taken):
        with suppress(Exception), no_deprecations(), quiet():
            scheduler.set_timesteps(**{kind: values}, device=model.device)
            rehearsed = rehearse(_unclipped(scheduler), model.schedule, eta, model.device)
            if _goes_through(rehearsed, chosen):
                return replace(rehearsed, scheduler=scheduler)
    raise InputError(
        f"{name} cannot be sent through levels of your choice: use DDPMScheduler,"
        " DPMSolverMultistepScheduler or EulerDiscreteScheduler, or a sampler of ours"
    )


def _goes_through(rehearsed: "SchedulerSampler", chosen: Sequence[Level]) -> bool:
    """Whether a scheduler's levels are those that were asked for."""
    own = rehearsed.own_levels
    if rehearsed.level_error > SAME_LEVEL or len(own) != len(chosen):
        return False
    mine, asked = ([level.ratio for level in levels] for levels in (own, chosen))
    return bool(np.isclose(mine, asked, rtol=SAME_RATIO, atol=0).all())


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
        if changed and option not in {*FROM_MODEL, *FROM_CLIP}:
            yield option, parameter.default


def _unclipped(scheduler: Any) -> Any:
    """A copy of a scheduler that does not clip, whose steps are linear."""
    own = copy.deepcopy(scheduler)
    own.register_to_config(
        **{option: False for option in ("clip_sample", "thresholding") if option in own.config}
    )
    return own
