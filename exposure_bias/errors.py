"""The one exception a user can cause, and the checks of plain numbers that everybody needs."""

from numbers import Integral, Real
from typing import Any
from unicodedata import category

REASON = 400  # characters of another library's message that are repeated
LONGEST = 1900  # characters of a message of ours, which may repeat what came


class InputError(ValueError):
    """What the user gave cannot be used.

    The message says what came, what is allowed and what to do.

    It is one line: what cannot be printed, such as a newline in a file's name, is written with a
    backslash. The command line prints it and exits with code 2. Anything else that escapes is our
    bug."""

    def __init__(self, message: str) -> None:
        text = printable(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - 500]} … {text[-490:]}"
        super().__init__(text)


def printable(text: str) -> str:
    """A text, with what cannot be printed or encoded as an escape: names of files may hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def harmless(text: str) -> str:
    """A text of several lines, with what a terminal or a browser would obey as an escape."""
    return "".join(c if c in "\n\t" or category(c) == "Zs" else printable(c) for c in text)


def whole_number(value: Any, what: str, least: int = 1, most: int = 2**63 - 1) -> int:
    """`value` as an int.

    Raises InputError unless it is a whole number from `least` to `most`; True is none.
    """
    if not is_whole(value) or value < least:
        raise InputError(f"{what} must be a whole number of at least {least}, got {shown(value)}")
    if value > most:
        raise InputError(f"{what} must be at most {most:,}, got {shown(value)}: take fewer")
    return int(value)


def shown(value: Any) -> str:
    """What came, in at most 60 characters."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python writes no numbers of thousands of digits
        return "a number of thousands of digits"


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of whatever type; True is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return isinstance(value, Integral) or float(value).is_integer()
    except OverflowError:
        return False


def reason(error: BaseException | str) -> str:
    """What another library's error says, on one line, all of it up to a length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= REASON else text[: REASON - 2] + " …"
