"""`eb-analyze`: one thin subcommand over each public function.

A wrong argument or unusable input ends with one line on stderr and exit code 2; Ctrl-C with 130.
Results go to stdout, progress and messages to stderr."""

import argparse
import ctypes
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

import exposure_bias
from exposure_bias.cli import arguments, commands, failures, spelling, terminal, threads
from exposure_bias.cli.config import configure, subparsers_of
from exposure_bias.errors import InputError, reason
from exposure_bias.running import parallel

# --batch-size auto: elsewhere, and on a CPU. What does not fit a GPU is halved.
BATCH_SIZES = (1024, 256)
# What an environment that only reads recordings may leave out.
LEFT_OUT = ("torch", "diffusers", "safetensors", "huggingface_hub", "sklearn")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, as everything else here does.

    Options are given in full, so that a new one never changes what an old command line means.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        told = InputError(f"{reason(message)} (see {self.prog} --help)")
        self.exit(2, f"eb-analyze: {told}\n")


class Completion(argparse.Action):
    """Print what makes a shell complete commands and options, and leave."""

    def __call__(
        self, parser: argparse.ArgumentParser, _: argparse.Namespace, shell: Any, *__: Any
    ) -> None:
        try:
            from shtab import complete
        except ModuleNotFoundError:
            parser.error("--print-completion needs shtab: pip install 'exposure-bias[completion]'")
        print(complete(parser, shell))
        parser.exit()


def main(given: Sequence[str] | None = None) -> int:
    """Run `eb-analyze` with these arguments (default: the process's); returns the exit code."""
    words = _renamed(list(sys.argv[1:] if given is None else given))
    if given is None:
        terminal.prepare()
        threads.wait_passively()
        # Figures go to files here, whatever a notebook's shell asks for.
        os.environ["MPLBACKEND"] = "agg"
    _keep_freed_memory()
    options = argparse.Namespace(command=None)
    try:
        root = parser()
        _check_spelling(root, words)
        configure(root, words)
        options = root.parse_args(words)
        # Threads concern the whole process, which is ours where no arguments are passed.
        options.own_process = given is None
        if getattr(options, "batch_size", None) == "auto":
            options.batch_size = BATCH_SIZES[options.device.partition(":")[0] == "cpu"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if options.quiet else "default")
            warnings.showwarning = _shower()
            _run(options, words)
    except InputError as error:
        if parallel.tells(error):
            terminal.tell(str(error))
        return 2
    except ModuleNotFoundError as error:
        if error.name not in LEFT_OUT:
            return failures.told(error, options)
        terminal.tell(
            f"this command needs {error.name}, which is not installed here; reading, plotting and"
            " reporting recordings does not: pip install exposure-bias"
        )
        return 2
    except KeyboardInterrupt:
        if given is None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is heard, and ends already
        terminal.tell(f"interrupted{_kept(options)}")
        return 130
    except BrokenPipeError:  # `| head`: whoever read our tables has enough of them
        _silence()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return failures.told(error, options)
        _silence()
        terminal.tell("cannot print all of it: no space is left there")
        return 2
    except Exception as error:
        if given is not None:
            raise  # whoever calls us from Python wants to see where
        return failures.told(error, options)
    return 0


def _run(options: argparse.Namespace, words: list[str]) -> None:
    """Run a command, in one process or several, and write its report."""
    _check_read(options)
    _check_shareable(options)
    with parallel.joined() as team:
        if team.size > 1:
            parallel.agree(_told(options), "options")
        if getattr(options, "out", None) is not None:
            options.out = commands.place_of(options)
            _check_out(options)
        with _watching(options), _read_result(options):
            made = options.command.run(options)
        if team.first:
            commands.report_of(options, made, words)
            sys.stdout.flush()
            commands.finish(options, made)


def _watching(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Say what a command that runs a network will take, and how far it is."""
    if options.quiet or not options.command.network or commands.reads(options):
        return nullcontext()
    from exposure_bias.cli.plan import planned
    from exposure_bias.running.parallel import world
    from exposure_bias.running.progress import Watch, say, watched

    if world()[0] > 0:
        return nullcontext()
    lines = not sys.stderr.isatty()
    return watched(Watch(planned(options), say, lines, options.verbose))


@contextmanager
def _read_result(options: argparse.Namespace) -> Iterator[None]:
    """Raise InputError for what goes wrong while the result of an earlier run is shown.

    It is a file that anybody may have made, and what it must hold to be shown, its kind's tables
    and figures know. Whether the file or this package is at fault cannot be told from here."""
    try:
        yield
    except (InputError, OSError, ImportError, MemoryError, UnicodeError):
        raise
    except Exception as error:
        if not commands.reads(options) or options.verbose:
            raise
        raise InputError(
            f"cannot show {options.saved} ({type(error).__name__}: {reason(error)}): either it"
            " does not hold what such a result does, or this is a mistake of ours. Make it again;"
            f" if that does not help, please tell us what --verbose shows: {failures.REPORT}"
        ) from error


def _kept(options: argparse.Namespace) -> str:
    """What an interrupted run has kept, in words."""
    kept = commands.kept(options)
    if kept is None:
        return ""
    trains = options.command.run is commands.train
    again = "the same command with --resume" if trains else "the same command"
    return f"; {kept} keeps what was finished, {again} goes on from there"


def _silence() -> None:
    """Let what is still to be printed go nowhere, so that nothing fails once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = Parser(
        prog="eb-analyze",
        description="Does a diffusion model suffer from exposure bias: where, why, at what cost?",
    )
    root.add_argument(
        "--version", action="version", version=f"exposure_bias {exposure_bias.__version__}"
    )
    root.add_argument(
        "--print-completion",
        choices=("bash", "zsh"),
        action=Completion,
        help="what makes that shell complete commands and options",
    )
    subparsers = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, command in commands.COMMANDS.items():
        subparser = subparsers.add_parser(
            name, aliases=command.aliases, help=command.summary, description=command.summary
        )
        arguments.add(subparser, command.options)
        subparser.set_defaults(command=command, name=name)
    return root


def _check_spelling(root: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """End with one line where no such command is there, or a word is none of its options."""
    if not words or words[0].startswith("-"):
        return
    command = commands.NAMES.get(words[0])
    if command is None:
        root.error(spelling.mistake(words[0], list(commands.NAMES)))
    if wrong := spelling.complaint(command, words[1:], commands.COMMANDS):
        subparsers_of(root)[words[0]].error(wrong)


def _renamed(arguments: list[str]) -> list[str]:
    """`error-hist --of state`, as `state-error` was once called, under its own name."""
    if arguments[:1] not in (["error-hist"], ["chain-errors"]) or "--of" not in arguments:
        return arguments
    place = arguments.index("--of")
    name = {"state": "state-error", "chain": "chain-errors"}.get(
        "".join(arguments[place + 1 : place + 2])
    )
    return arguments if name is None else [name, *arguments[1:place], *arguments[place + 2 :]]


def _check_read(options: argparse.Namespace) -> None:
    """Raise InputError for options of a new run where the result of an earlier one is read."""
    saved = getattr(options, "saved", None)
    if saved is None:
        return
    read = commands.reads(options)
    ignored = [
        row for row in options.command.options if row.of_run and (read or row.dest == "model")
    ]
    given = [row.name for row in ignored if commands.changed(options, row.dest)]
    if given:
        what = "is the result of an earlier run" if read else "already names the model"
        raise InputError(f"{saved} {what}: leave out {', '.join(given)}, or {saved}")


def _check_shareable(options: argparse.Namespace) -> None:
    """Raise InputError where several processes were started for what one does."""
    alone = not options.command.shared or commands.reads(options)
    if alone and parallel.world().size > 1:
        raise InputError(
            "this runs no network, so that there is nothing to share among processes: start it"
            " without torchrun"
        )


def _check_out(options: argparse.Namespace) -> None:
    """Raise InputError where results cannot be written, or not seen by all processes."""
    from exposure_bias.files import check_writable

    alone = options.command.to_file
    check_writable(options.out, folder=not alone)
    parallel.check_shared(os.path.dirname(options.out) or "." if alone else options.out)


def _told(options: argparse.Namespace) -> dict[str, str]:
    """The options by name, as text."""
    known = {k: v for k, v in vars(options).items() if k not in ("command", "own_process")}
    return {k: str(v) for k, v in known.items()}


def _keep_freed_memory() -> None:
    """Have glibc reuse freed memory.

    Else it returns it to the system after every layer of a network.

    On a CPU this saves 15 to 35 % of a UNet's time (benchmarks/record_overhead.py under
    MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_). It concerns the whole process, so that only
    the program does it, never the library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(threshold, 2**30)


def _shower() -> Callable[..., None]:
    """What shows warnings: in one process, and those that ask for it once."""
    seen: set[object] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if not parallel.team().first or category in seen:
            return
        if getattr(category, "once", False):
            seen.add(category)
        terminal.tell(f"warning: {message}")

    return show
