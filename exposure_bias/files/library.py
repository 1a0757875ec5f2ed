"""Other people's libraries, imported when they are needed.

Errors of theirs become one line of ours."""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from exposure_bias.errors import InputError, reason


def library(name: str, proof: str, install: str) -> ModuleType:
    """An imported library, which has `proof` among its names.

    install: what pip calls it. Raises InputError in one line where it is missing, fails to import,
    or is another file of that name: a script called diffusers.py in the working folder is what
    Python finds first.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        place = _place(name)
        if place is None:
            raise InputError(
                f"this needs the library {name}: install it with pip install '{install}'"
            ) from error
        raise InputError(
            f"importing {name} from {place} failed: {reason(error)}; {_cure(name, install)}"
        ) from error
    try:
        getattr(module, proof)
    except (AttributeError, ImportError) as error:
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ["?"])))
        raise InputError(
            f"{place} is not the library {name}, but is what Python finds first:"
            f" {_cure(name, install)}"
        ) from error
    return module


def class_among(value: Any, names: tuple[str, ...]) -> str | None:
    """Which of some classes a value is of, or is of a subclass of; None if of none.

    By name, so that the library of classes is not imported for values that are none of its own.
    """
    return next((base.__name__ for base in type(value).__mro__ if base.__name__ in names), None)


def _place(name: str) -> str | None:
    """The file or folder that Python takes for a module, None if there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or []), None)


def _cure(name: str, install: str) -> str:
    return (
        "rename it if it is yours, otherwise reinstall with pip install --force-reinstall"
        f" '{install}'"
    )
