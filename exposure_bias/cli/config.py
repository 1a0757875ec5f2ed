"""`--config run.toml`: the options of a command by their own names, from a file.

    steps = 20
    remedy = ["es:1.005", "ip:0.1"]
    clip = true

What is given at the command line comes after the file and wins; options that may be repeated add up.
"""

import argparse
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from exposure_bias.errors import InputError

OPTION = "--config"
NOT_HERE = ("help", "config")


def configured(root: argparse.ArgumentParser, arguments: list[str]) -> list[str]:
    """The arguments, with those of the file that `--config` names before them.

    Raises InputError for a file that cannot be read and for a key that is no option.
    """
    path = _path(arguments)
    commands = _commands(root)
    if path is None or arguments[0] not in commands:
        return arguments
    command = commands[arguments[0]]
    known = {
        name.lstrip("-").replace("-", "_"): action
        for action in command._actions
        for name in (action.option_strings or [action.dest])
        if action.dest not in NOT_HERE
    }
    given: list[str] = []
    positional: list[str] = []
    for key, value in _read(path).items():
        action = known.get(key.replace("-", "_"))
        if action is None:
            raise InputError(f"{path}: {key} is no option of {arguments[0]}{_nearest(key, known)}")
        words = list(_words(path, key, value, action))
        if action.option_strings:
            given += words
        else:
            positional += words
    return [arguments[0], *positional, *given, *arguments[1:]]


def _path(arguments: list[str]) -> str | None:
    """What `--config` names, wherever it stands."""
    for place, word in enumerate(arguments):
        if word == OPTION and place + 1 < len(arguments):
            return arguments[place + 1]
        if word.startswith(f"{OPTION}="):
            return word.partition("=")[2]
    return None


def _commands(root: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    chosen = [a for a in root._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(chosen[0].choices)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from error


def _nearest(key: str, known: dict[str, Any]) -> str:
    near = get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.0)
    return f": do you mean {near[0].replace('_', '-')}?" if near else ""


def _words(path: str, key: str, value: Any, action: argparse.Action) -> Iterator[str]:
    """The command line's words for one entry."""
    values = value if isinstance(value, list) else [value]
    if any(isinstance(v, dict | list) for v in values):
        raise InputError(f"{path}: {key} is a table, but options are values or lists of them")
    option = next((o for o in reversed(action.option_strings)), "")
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{path}: {key} is true or false, got {value!r}")
        if value:
            yield option
    elif isinstance(action, argparse._AppendAction):
        yield from (f"{option}={v}" for v in values)
    elif not option:
        yield from map(str, values)
    elif action.nargs is None:
        if len(values) != 1:
            raise InputError(f"{path}: {key} takes one value, got {len(values)}")
        yield f"{option}={values[0]}" if option.startswith("--") else f"{option}{values[0]}"
    else:
        yield from (option, *map(str, values))
