"""Other people's code by name: `module:NAME`. Importing a module runs it.

So come in a sampler, a statistic, a remedy, a model, data and features that this package does not
know, the same in Python and at the command line (docs/extending.md)."""

import importlib
import os
import re
import sys
from typing import Any

from exposure_bias.errors import InputError

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_name(text: Any) -> bool:
    """Whether a text is `module:NAME`, and no file is called so."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None and not os.path.exists(text)


def imported(text: str, what: str) -> Any:
    """What `module:NAME` names; modules of the working directory are found too.

    Raises InputError where it cannot be imported, naming what it was for.
    """
    module, _, name = text.partition(":")
    sys.path.insert(0, os.getcwd())  # a console script, unlike python -m, does not look there
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"cannot import the {what} {text!r}: {error}; give module:NAME, importable here"
        ) from error
    finally:
        sys.path.remove(os.getcwd())


def made(text: str, what: str, *given: Any) -> Any:
    """What `module:NAME` is, or what it returns if it is a function."""
    found = imported(text, what)
    is_model = hasattr(found, "predict") and not isinstance(found, type)  # it is called with states
    if not callable(found) or is_model:
        return found
    try:
        return found(*given)
    except TypeError as error:
        wanted = ", ".join(type(value).__name__ for value in given) or "nothing"
        raise InputError(
            f"the {what} {text!r} is called with {wanted}, and said: {error}"
        ) from error
