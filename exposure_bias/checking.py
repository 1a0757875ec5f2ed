"""A public function's arguments, held to its annotations. No torch here.

    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
        check_arguments(edm, locals())

raises InputError for `edm("x")`, in words, where arithmetic would raise a TypeError from within.
Numbers of any library are numbers, True is none, and NaN is no number; a text is no list of texts;
arrays of one axis are lists. What an annotation does not tell, such as a range, is the function's
own to check. An annotation that is not understood allows everything."""

import collections.abc
import inspect
import math
import os
import types
from collections.abc import Callable, Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError, shown

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number or infinity",
    str: "a text",
    bool: "True or False",
    os.PathLike: "a path",
    type(None): "None",
}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise InputError unless arguments are of the kinds that a function's annotations name.

    Parameters
    ----------
    function : callable
        The function itself; of a class its `__init__`.
    given : mapping
        Arguments by name, as `locals()` at the function's start. Those left out are not looked at.
    """
    for name, hint in _hints(function).items():
        if name in given and not suits(given[name], hint):
            what = function.__qualname__.removesuffix(".__init__")
            raise InputError(
                f"{what} takes {words(hint)} as {name}, got {_shown(given[name])}: correct it"
            )


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations by parameter, but for those that cannot be resolved here."""
    hints = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = parameter.annotation
        if parameter.kind in VARIADIC or hint is parameter.empty:
            continue
        if isinstance(hint, str):
            try:
                hint = eval(hint, getattr(function, "__globals__", {}))
            except (NameError, TypeError, AttributeError):  # for type checkers alone
                continue
        hints[name] = hint
    return hints


def suits(value: Any, hint: Any) -> bool:
    """Return whether a value is of the kind that an annotation names."""
    origin = get_origin(hint)
    if hint in (None, type(None)):
        return value is None
    if origin in (Union, types.UnionType):
        return any(suits(value, each) for each in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is float or hint is int or hint is bool:
        return _is_number(value, hint)
    kind = origin or hint
    if kind in (collections.abc.Sequence, collections.abc.Collection, list):
        return _is_list(value, get_args(hint))
    if kind is collections.abc.Callable:
        return callable(value)
    if kind in (os.PathLike, str):
        return isinstance(value, kind)
    if isinstance(kind, type) and kind.__module__.startswith(("exposure_bias", "xarray")):
        return _is_instance(value, kind)
    return True


def numbers(values: Any, what: str) -> NDArray[np.float64]:
    """Return values as an array of float64; raises InputError for what are no real numbers."""
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "iuf":
            raise TypeError(f"they are {found.dtype}")
        return found.astype(np.float64)
    except Exception as error:  # numpy and torch raise a dozen kinds for what are none
        raise InputError(f"{what} must be numbers, got {_shown(values)}: correct it") from error


def _is_instance(value: Any, kind: type) -> bool:
    """Whether a value is of a class; protocols that cannot be asked allow everything."""
    try:
        return isinstance(value, kind)
    except TypeError:
        return True


def _is_number(value: Any, kind: type) -> bool:
    if type(value).__name__ in ("bool", "bool_"):
        return kind is bool
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of numpy, of torch
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):  # it holds no numbers
            return False
    if kind is bool or not isinstance(value, Real):
        return False
    try:
        number = float(value)
    except OverflowError:
        return kind is int
    if kind is int:
        return isinstance(value, Integral) or number.is_integer()
    return not math.isnan(number)


def _is_list(value: Any, inner: tuple[Any, ...]) -> bool:
    """Whether a value is a list of things of a kind; arrays of one axis are lists of numbers."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return False
    if hasattr(value, "shape") and len(value.shape) != 1:
        return False
    try:
        items = list(value)
    except Exception:  # whatever an object that is no list says
        return False
    return not inner or all(suits(item, inner[0]) for item in items)


def words(hint: Any) -> str:
    """Return what an annotation allows, in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = list(dict.fromkeys(words(each) for each in inside))
        return ", ".join(parts[:-1]) + f" or {parts[-1]}" if len(parts) > 1 else parts[0]
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    kind = origin or hint
    if kind in (collections.abc.Sequence, collections.abc.Collection, list):
        return f"a list (each item {words(inside[0])})" if inside else "a list"
    if kind is collections.abc.Callable:
        return "a function"
    known = WORDS.get(kind) or WORDS.get(hint)
    return known or f"a {getattr(kind, '__name__', kind)}"


def _shown(value: Any) -> str:
    """A value that came, briefly; of objects their class."""
    plain = isinstance(value, str | int | float | complex | bytes | list | tuple | dict | range)
    if value is None or plain:
        return shown(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
