"""One hostile input at a time, each in a process of its own: what it did, and what it took.

A trial makes an input in an empty folder and uses it. It may be refused in one line, or read where
that is allowed. Wrong are a traceback, a wrong result that nothing says (`Silent`), code that runs,
and more memory or time than the bounds."""

import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

MOST_SECONDS, MOST_BYTES = 25.0, 2 * 10**9
ROOM = 3 * 2**30  # bytes of addresses beyond the parent's, so that the machine survives
HANGS = 120  # seconds of a clock, which a busy machine stretches
EXECUTED = "executed"  # the file that a hostile input makes if any of its code runs
OUR_FAULT = 70  # the exit code of a mistake of ours
LONGEST = 2000  # characters of a refusal


class Silent(Exception):
    """A wrong result that nothing says."""


class Trial(NamedTuple):
    """A hostile input: its kind, its name, and what makes and uses it in an empty folder.

    refusal: what the one line must say; "" where the input may also be read."""

    kind: str
    name: str
    run: Callable[[Path], object]
    refusal: str = ""


class Outcome(NamedTuple):
    """What a trial did: "refused", "read", or what went wrong; its words; seconds and bytes."""

    what: str
    words: str
    seconds: float
    size: int

    @property
    def wrong(self) -> bool:
        """Whether that must not happen."""
        return self.what not in ("refused", "read")


def tried(trial: Trial) -> Outcome:
    """Run a trial in a fork of this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = folder / "report"
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _child(trial, folder / "work", report)
        status, used = _waited(child)
        words = report.read_text(errors="replace") if report.exists() else ""
        what, _, words = words.partition("\n")
        if not what:
            killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            what = "hang" if killed in (signal.SIGKILL, signal.SIGXCPU) else "crash"
            words = f"ended by {killed}"
        if (folder / "work" / EXECUTED).exists():
            what = "executed"
    seconds, size = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    if what in ("refused", "read") and seconds > MOST_SECONDS:
        what = "slow"
    if what in ("refused", "read") and size > MOST_BYTES:
        what = "large"
    if what == "refused" and trial.refusal and not re.search(trial.refusal, words):
        what = "other refusal"
    if what == "read" and trial.refusal:
        what = "silent"
    return Outcome(what, words, seconds, size)


def _waited(child: int) -> tuple[int, resource.struct_rusage]:
    until = time.monotonic() + HANGS
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return status, used
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.002)


def _child(trial: Trial, folder: Path, report: Path) -> None:
    """Run a trial, write what it did, and end."""
    try:
        folder.mkdir()
        os.chdir(folder)
        quiet = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(quiet, handle)
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        resource.setrlimit(resource.RLIMIT_CPU, (4 * int(MOST_SECONDS), 5 * int(MOST_SECONDS)))
        what, words = _outcome(trial, folder)
        report.write_text(f"{what}\n{words}", errors="backslashreplace")
    finally:
        os._exit(0)


def _outcome(trial: Trial, folder: Path) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = trial.run(folder)
    except Silent as error:
        return "silent", str(error)
    except ValueError as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        if not names & {"InputError", "Refused"}:
            return "traceback", _last(error)
        return _one_line(str(error))
    except BaseException as error:
        return "traceback", _last(error)
    return "read", type(said).__name__ if not isinstance(said, str) else said


def _last(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = next((f for f in reversed(frames) if "exposure_bias" in f.filename), frames[-1])
    return f"{type(error).__name__}: {error!s:.200} at {where.filename}:{where.lineno}"


def _one_line(text: str) -> tuple[str, str]:
    """A refusal is one printable line."""
    if not plain(text) or "\n" in text or len(text) > LONGEST:
        return "unprintable", ascii(text[:300])
    return "refused", text


def plain(text: str) -> bool:
    """Whether a text can do nothing to a terminal: no controls but tab and line feed."""
    return all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co")
               for c in text)  # fmt: skip


class Refused(ValueError):
    """A command line that ended with exit code 2 and one line."""


def command(folder: Path, *arguments: str, encoding: str = "utf-8") -> str:
    """What a command line prints; raises Refused where it ends with one line and code 2."""
    from exposure_bias import __main__

    out, err = folder.parent / "stdout", folder.parent / "stderr"
    # The encoding that a terminal has is told by the environment, before Python starts.
    sys.stdout, sys.stderr = (
        open(path, "w", encoding=encoding, errors=errors)  # noqa: SIM115
        for path, errors in ((out, "strict"), (err, "backslashreplace"))
    )
    sys.argv = ["eb-analyze", *arguments]
    try:
        code: object = __main__.main()
    except SystemExit as error:
        code = error.code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    said, told = (p.read_bytes().decode(encoding, "surrogateescape") for p in (out, err))
    if not plain(said):
        raise Silent(f"unprintable output {said[:200]!a}")
    if code == 2:
        lines = [line for line in told.splitlines() if not line.startswith("eb-analyze: warning:")]
        if len(lines) != 1:
            raise AssertionError(f"{len(lines)} lines of refusal: {told[-600:]}")
        raise Refused(lines[0])
    if code != 0:
        raise AssertionError(f"ended with {code}: {told[-600:]}")
    if not plain(told.replace("\r", "")):
        raise Silent(f"unprintable messages {told[:200]!a}")
    return said


class Tally:
    """Counts, times and sizes by kind."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Outcome]] = {}
        self.wrong: list[str] = []

    def add(self, trial: Trial, outcome: Outcome) -> None:
        self.rows.setdefault(trial.kind, []).append(outcome)
        if outcome.wrong:
            self.wrong.append(
                f"{outcome.what}: {trial.kind}: {trial.name}: {outcome.words[:300]}"
                f" ({outcome.seconds:.1f} s, {outcome.size / 1e6:.0f} MB)"
            )

    def table(self) -> str:
        """One line for each kind, and one for all."""
        head = f"{'kind':<28}{'inputs':>7}{'refused':>8}{'read':>6}{'wrong':>6}{'s':>7}{'MB':>7}"
        every = [o for outcomes in self.rows.values() for o in outcomes]
        rows = {**self.rows, "all": every}
        return "\n".join([head, *(_row(kind, found) for kind, found in rows.items() if found)])


def _row(kind: str, found: list[Outcome]) -> str:
    counts = [sum(o.what == what for o in found) for what in ("refused", "read")]
    wrong = sum(o.wrong for o in found)
    slowest, largest = max(o.seconds for o in found), max(o.size for o in found)
    return (
        f"{kind:<28}{len(found):>7}{counts[0]:>8}{counts[1]:>6}{wrong:>6}"
        f"{slowest:>7.1f}{largest / 1e6:>7.0f}"
    )


def run_all(
    trials: Iterable[Trial], say: Callable[[str], None] = print, verbose: bool = False
) -> Tally:
    """Every trial, one after another; what is wrong is said at once."""
    tally, kind = Tally(), ""
    for trial in trials:
        if kind and trial.kind != kind:
            say(_row(kind, tally.rows[kind]))
        kind = trial.kind
        before = len(tally.wrong)
        outcome = tried(trial)
        tally.add(trial, outcome)
        if verbose and not outcome.wrong:
            say(f"{outcome.what}: {trial.kind}: {trial.name}: {outcome.words[:200]}")
        for words in tally.wrong[before:]:
            say(words)
    return tally
