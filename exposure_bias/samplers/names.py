"""Samplers by name: the same text in Python and at the command line."""

from collections.abc import Callable
from functools import partial
from typing import Any

from exposure_bias.errors import InputError
from exposure_bias.samplers.churn import EDM
from exposure_bias.samplers.first_order import DDIM, DDPM, Euler, Heun
from exposure_bias.samplers.protocol import MEMBERS, OneStep, Sampler, option
from exposure_bias.samplers.second_order import DPMPP2M, DPM2Ancestral, DPMPP2SAncestral
from exposure_bias.strangers import imported

SPECIFICATIONS = (
    "ddpm, ddpm:fixed_large, ddpm:learned_range, ddim, ddim:ETA, euler, heun, edm:CHURN,"
    " dpm_2_ancestral, dpmpp_2s_ancestral, dpmpp_2m, dpmpp_2m_sde"
)

OURS: dict[str, Callable[..., OneStep]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "edm": EDM,
    "dpm_2_ancestral": DPM2Ancestral,
    "dpmpp_2s_ancestral": DPMPP2SAncestral,
    "dpmpp_2m": DPMPP2M,
    "dpmpp_2m_sde": partial(DPMPP2M, sde=True),
}


def parse(sampler: Any) -> Sampler:
    """The sampler that a string names (module docstring), or the sampler itself.

    Raises InputError with the allowed names, and for an object that lacks a member of `Sampler`.
    """
    if not isinstance(sampler, str):
        return checked(sampler)
    name, _, option = sampler.partition(":")
    if name in OURS:
        return _ours(sampler, name, option)
    if ":" in sampler:
        return _stranger(sampler)
    raise InputError(
        f"unknown sampler {sampler!r}: allowed are {SPECIFICATIONS} (0 ≤ ETA ≤ 1), or module:Class"
    )


def checked(sampler: Any) -> Sampler:
    """An object as a `Sampler`. Raises InputError that names the members it lacks."""
    if isinstance(sampler, type):
        raise InputError(
            f"{sampler.__name__} is a class: give a sampler made of it, {sampler.__name__}(…)"
        )
    missing = [name for name in MEMBERS if not hasattr(sampler, name)]
    if len(missing) == len(MEMBERS):
        raise InputError(
            f"a sampler is named by a string, got {type(sampler).__name__}: allowed are"
            f" {SPECIFICATIONS}"
        )
    if missing:
        name = type(sampler).__name__
        raise InputError(
            f"{name} is no sampler yet: it lacks {', '.join(missing)} (samplers.Sampler)"
        )
    if sampler.limit not in ("sde", "ode", None):
        raise InputError(
            f"{type(sampler).__name__}.limit is {sampler.limit!r}: allowed are 'sde', 'ode' and"
            " None"
        )
    result: Sampler = sampler
    return result


def named(sampler: str) -> Sampler | None:
    """One of ours by its recorded name.

    None for anybody else's, for a corrected one, and for edm, whose steps do not follow from a
    chain's levels alone.
    """
    name, _, options = sampler.partition(":")
    known = name in OURS and name != "edm" and " + " not in sampler
    return _ours(sampler, name, options) if known else None


def _ours(sampler: str, name: str, rest: str) -> Sampler:
    try:
        if name == "ddim":
            return DDIM(float(rest or 0))
        if name == "edm":
            return EDM(**_churn(rest))
        return OURS[name](rest) if rest else OURS[name]()
    except (TypeError, ValueError, InputError):
        raise InputError(
            f"unknown sampler {sampler!r}: allowed are {SPECIFICATIONS} (0 ≤ ETA ≤ 1), or"
            " module:Class"
        ) from None


def _churn(text: str) -> dict[str, Any]:
    """The options of "CHURN" or "churn=CHURN,s_min=…"."""
    if "=" not in text:
        return {"churn": float(text)} if text else {}
    given = (option(part, repr(text), "edm") for part in text.split(","))
    return {key: float(value) for key, value in given}


def _stranger(text: str) -> Sampler:
    """The sampler of `module:Class[:KEY=VALUE,…]`, values in JSON or plain text."""
    module, name, *rest = text.split(":", 2)
    cls = imported(f"{module}:{name}", "sampler")
    given = rest[0].split(",") if rest else []
    options = dict(option(part, repr(text), "module:Class") for part in given if part)
    try:
        made = cls(**options)
    except TypeError as error:
        raise InputError(f"cannot make the sampler {text!r}: {error}") from error
    return checked(made)
