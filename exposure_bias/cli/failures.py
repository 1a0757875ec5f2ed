"""What a command says of an error that nobody foresaw: in whose code it is, in one line."""

import argparse
import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

import exposure_bias
from exposure_bias.cli import terminal
from exposure_bias.errors import InputError, harmless, reason

OUR_FAULT = 70  # the exit code of a mistake of ours, as in sysexits.h
SYSTEM = 74  # and of a system that fails
REPORT = "https://github.com/exposure-bias/exposure_bias/issues"
OURS = Path(exposure_bias.__file__).parent
# Where Python's library and installed packages are.
LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib")]


def told(error: Exception, options: argparse.Namespace) -> int:
    """Say in whose code an error is, with --verbose where; returns the exit code."""
    if getattr(options, "verbose", False):
        sys.stderr.write(harmless("".join(traceback.format_exception(error))))
    words = f"{type(error).__name__}: {reason(error)}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _say(f"the memory of this machine is not enough ({words}): take a smaller"
                    " --batch-size or fewer samples", SYSTEM)  # fmt: skip
    place = strangers_line(error.__traceback__)
    if place:
        return _say(f"your own code failed at {place}: {words}", 1)
    if isinstance(error, OSError):
        return _say(f"the system refuses what this needs: {words}", SYSTEM)
    return _say(
        f"this is a mistake of ours, not of your input ({words}). Please tell us the command and"
        f" what it prints with --verbose: {REPORT}",
        OUR_FAULT,
    )


def _say(words: str, code: int) -> int:
    terminal.tell(str(InputError(words)))
    return code


def strangers_line(trace: TracebackType | None) -> str:
    """The innermost line of code that is neither ours nor a library's; empty if there is none."""
    found = ""
    for frame in traceback.extract_tb(trace):
        path = Path(frame.filename)
        known = any(path.is_relative_to(place) for place in (OURS, *LIBRARIES))
        if path.is_absolute() and not known:
            found = f"{frame.filename}:{frame.lineno}"
    return found
