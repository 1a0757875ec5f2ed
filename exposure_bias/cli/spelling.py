"""Whether a command line says what its command understands, and what is meant where it does not.

argparse takes the last of two values and, for an option that it does not know, names no other. Here
each word is looked up in the rows of `arguments` before argparse sees it."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from exposure_bias.cli.arguments import Option

if TYPE_CHECKING:
    from exposure_bias.cli.commands import Command

HELP = ("-h", "--help")
MOST_NAMED = 3  # commands that a message names


def mistake(word: str, known: Sequence[str]) -> str:
    """Say that a word is no command, and which one is meant.

    Parameters
    ----------
    word
        The first word of the command line.
    known
        All names of commands, the ones to show first.
    """
    near = get_close_matches(word.replace("_", "-"), known, n=1, cutoff=0.5)
    meant = f"do you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return f"{word!r:.60} is no command: {meant}"


def complaint(command: "Command", given: Sequence[str], others: "Mapping[str, Command]") -> str:
    """Say what is wrong with the words after a command; "" if each of them is an option of it.

    Parameters
    ----------
    command
        The command, whose options are known.
    given
        The words behind it.
    others
        All commands by name, whose options may have been meant.
    """
    rows = {spelling: row for row in command.options for spelling in row.spellings}
    seen: dict[str, str] = {}
    for place, word in enumerate(given):
        if word == "--":
            break
        spelling = _spelling(word, rows)
        if not spelling or spelling in HELP:
            continue
        if spelling not in rows:
            return _unknown(command, spelling, _values(word, given[place + 1 :]), others)
        row = rows[spelling]
        before = seen.get(row.dest)
        if before is not None and (before != spelling or not row.repeatable):
            return _twice(row, before, spelling)
        seen[row.dest] = spelling
    if {"quiet", "verbose"} <= set(seen):
        return f"{seen['quiet']} and {seen['verbose']} exclude each other: give one of them"
    return ""


def _twice(row: Option, before: str, again: str) -> str:
    if before != again:
        return f"{before} and {again} are one option: give it once"
    several = row.settings.get("nargs") in ("+", "*")
    cure = f"give all values after one {again}" if several else "it takes one value"
    return f"{again} is given twice: {cure}"


def _spelling(word: str, rows: Mapping[str, Option]) -> str:
    """Return the option that a word names, known or not; "" for a value."""
    if word.startswith("--"):
        return word.partition("=")[0]
    if len(word) < 2 or word[0] != "-" or not word[1].isalpha():
        return ""
    return word[:2] if word[:2] in (*rows, *HELP) else word


def _values(word: str, after: Sequence[str]) -> list[str]:
    """Return what was given to an option."""
    if "=" in word:
        return [word.partition("=")[2]]
    end = next((k for k, w in enumerate(after) if w.startswith("-")), len(after))
    return list(after[:end])


def _unknown(
    command: "Command", spelling: str, values: Sequence[str], others: "Mapping[str, Command]"
) -> str:
    names = [s for row in command.options for s in row.spellings if s.startswith("-")]
    long = spelling if spelling.startswith("--") else f"-{spelling}"
    meant = [row.name for row in command.options if long in row.meant_by]
    near = meant or get_close_matches(long, [n for n in names if len(n) > 2], n=1, cutoff=0.7)
    own = [
        other.name
        for other in others.values()
        if any(long in row.spellings for row in other.options)
    ]
    named = ", ".join(own[:MOST_NAMED]) + (" and others" if len(own) > MOST_NAMED else "")
    belongs = f" (it belongs to {named})" if own else ""
    said = f"{command.name} has no option {spelling:.60}{belongs}"
    if not near:
        return said
    value = "".join(f" {v}" for v in values) if meant and len(values) == 1 else ""
    return f"{said}: do you mean {near[0]}{value}?"
