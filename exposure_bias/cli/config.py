"""`--config run.toml`: the options of a command by their own names, from a file.

    steps = 20
    remedy = ["es:1.005", "ip:0.1"]
    clip = true

They become the command's defaults: what is given at the command line as well replaces them."""

import argparse
import tomllib
from difflib import get_close_matches
from typing import Any

from exposure_bias.errors import InputError, reason, shown

LARGEST = 64_000  # bytes of a file of options; tomllib takes gigabytes for a key of 100,000 dots
OPTION = "--config"
NOT_HERE = ("help", "config")


def configure(root: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Make what stands in the file that `--config` names the defaults of its command.

    Raises InputError for a file that cannot be read, for a key that is no option and for a value
    that does not suit.
    """
    path, commands = _path(arguments), subparsers_of(root)
    if path is None or arguments[0] not in commands:
        return
    command = commands[arguments[0]]
    known = {
        name.lstrip("-").replace("-", "_"): action
        for action in command._actions
        for name in (action.option_strings or [action.dest])
        if action.dest not in NOT_HERE
    }
    seen: dict[str, str] = {}
    for key, value in _read(path).items():
        action = known.get(key.replace("-", "_"))
        if action is None:
            raise InputError(
                f"{path}: {key:.100} is no option of {arguments[0]}{_nearest(key, known)}"
            )
        if seen.setdefault(action.dest, key) != key:
            raise InputError(f"{path}: {key} and {seen[action.dest]} are one option: leave one out")
        command.set_defaults(**{action.dest: _suited(f"{path}: {key}", value, action)})
        action.required = False
        if not action.option_strings and action.nargs == "+":
            action.nargs = "*"


def _path(arguments: list[str]) -> str | None:
    """What `--config` names, wherever it stands."""
    for place, word in enumerate(arguments):
        if word == OPTION and place + 1 < len(arguments):
            return arguments[place + 1]
        if word.startswith(f"{OPTION}="):
            return word.partition("=")[2]
    return None


def subparsers_of(root: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, by all of its names."""
    chosen = [a for a in root._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(chosen[0].choices)


def _read(path: str) -> dict[str, Any]:
    from exposure_bias.files.reading import text

    content = text(path, LARGEST)
    try:
        return tomllib.loads(content)
    except RecursionError as error:
        raise InputError(f"{path} is no file of options: its brackets are too deep") from error
    except ValueError as error:  # a number of thousands of digits is no error of TOML
        raise InputError(f"{path} is no TOML: {reason(error)}") from error


def _nearest(key: str, known: dict[str, Any]) -> str:
    near = get_close_matches(key[:100].replace("-", "_"), known, n=1, cutoff=0.0)
    return f": do you mean {near[0].replace('_', '-')}?" if near else ""


def _suited(what: str, value: Any, action: argparse.Action) -> Any:
    """A value of the file as the option keeps it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{what} is true or false, got {shown(value)}")
        return action.const if value else action.default
    several = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    if isinstance(value, dict) or (isinstance(value, list) and not several):
        raise InputError(f"{what} takes one value, got {shown(value)}")
    each = [_one(what, v, action) for v in (value if isinstance(value, list) else [value])]
    return each if several else each[0]


def _one(what: str, value: Any, action: argparse.Action) -> Any:
    convert: Any = action.type or str
    try:
        found = convert(str(value))
    except ValueError:
        raise InputError(f"{what} is {shown(value)}, which is no {convert.__name__}") from None
    if action.choices is not None and found not in action.choices:
        raise InputError(
            f"{what} is {shown(value)}: allowed are {', '.join(map(str, action.choices))}"
        )
    return found
