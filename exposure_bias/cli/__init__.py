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
from exposure_bias.cli import commands, failures, terminal, threads
from exposure_bias.cli.config import configure
from exposure_bias.errors import InputError, reason
from exposure_bias.running import parallel

# Options of a new run, which mean nothing where the result of one is read.
RUN = (
    "model",
    "preset",
    "remedy",
    "data",
    "split",
    "any_range",
    "limit_data",
    "n",
    "sampler",
    "samplers",
    "clip",
    "seed",
    "batch_size",
    "device",
    "precision",
    "compile",
    "channels_last",
    "steps",
    "timestep_spacing",
    "start",
    "starts",
    "streams",
    "memory",
    "statistic",
    "lengths",
    "mode",
    "refine",
    "replicates",
    "targets",
    "margin",
    "restarts",
    "images",
    "against",
    "features",
    "weights",
    "reference",
    "real",
    "no_quantise",
    "checkpoints",
    "chunk",
    "frames",
    "free_limit",
    "stationary",
)
# --batch-size auto: elsewhere, and on a CPU. What does not fit a GPU is halved.
BATCH_SIZES = (1024, 256)
# What an environment that only reads recordings may leave out.
GIVEN = "given"  # where a parser keeps which options it has seen
LEFT_OUT = ("torch", "diffusers", "safetensors", "huggingface_hub", "sklearn")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, as everything else here does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        for name in (None, "store", "store_const"):
            self.register("action", name, Once if name != "store_const" else OnceConstant)

    def error(self, message: str) -> NoReturn:
        told = InputError(f"{reason(message)} (see {self.prog} --help)")
        self.exit(2, f"eb-analyze: {told}\n")


def _once(action: argparse.Action, options: argparse.Namespace, said: str | None) -> None:
    """Raise ArgumentError for an option that was given already, by this name or another."""
    before = options.__dict__.setdefault(GIVEN, {})
    if said is None:
        return
    if action.dest in before:
        raise argparse.ArgumentError(
            None,
            f"{before[action.dest]} and {said} are one option: give it once"
            if before[action.dest] != said
            else f"{said} is given twice: give it once",
        )
    before[action.dest] = said


class Once(argparse._StoreAction):
    """Keep a value. Of two the first would be dropped without a word."""

    def __call__(
        self,
        _: argparse.ArgumentParser,
        options: argparse.Namespace,
        values: Any,
        said: str | None = None,
    ) -> None:
        _once(self, options, said)
        setattr(options, self.dest, values)


class OnceConstant(argparse._StoreConstAction):
    """Keep a constant: --json is --format json."""

    def __call__(
        self,
        _: argparse.ArgumentParser,
        options: argparse.Namespace,
        values: Any,
        said: str | None = None,
    ) -> None:
        _once(self, options, said)
        setattr(options, self.dest, self.const)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `eb-analyze` with these arguments (default: the process's); returns the exit code."""
    given = _renamed(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        terminal.prepare()
        threads.wait_passively()
        # Figures go to files here, whatever a notebook's shell asks for.
        os.environ["MPLBACKEND"] = "agg"
    _keep_freed_memory()
    options = argparse.Namespace()
    try:
        root = parser()
        configure(root, given)
        options = root.parse_args(given)
        vars(options).pop(GIVEN, None)
        # Threads concern the whole process, which is ours where no arguments are passed.
        options.own_process = arguments is None
        if getattr(options, "batch_size", None) == "auto":
            options.batch_size = BATCH_SIZES[options.device.partition(":")[0] == "cpu"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if options.quiet else "default")
            warnings.showwarning = _shower()
            _run(options, given)
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
        if arguments is None:
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
        if arguments is not None:
            raise  # whoever calls us from Python wants to see where
        return failures.told(error, options)
    return 0


def _run(options: argparse.Namespace, given: list[str]) -> None:
    """Run a command, in one process or several, and write its report."""
    _check_read(options)
    _check_shareable(options)
    with parallel.joined() as team:
        if team.size > 1:
            parallel.agree(_told(options), "options")
        if getattr(options, "out", None) is not None:
            _check_out(options)
        with _watching(options), _read_result(options):
            options.run(options)
        if team.first:
            commands.report_of(options, given)
            sys.stdout.flush()
            commands.finish(options)


def _watching(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Say what a command that runs a network will take, and how far it is."""
    computes = hasattr(options, "sampler") or options.run is commands.train
    if options.quiet or not computes or _reads(options):
        return nullcontext()
    from exposure_bias.cli.plan import planned
    from exposure_bias.running.parallel import world
    from exposure_bias.running.progress import Watch, say, watched

    if world()[0] > 0:
        return nullcontext()
    lines = not sys.stderr.isatty()
    return watched(Watch(planned(options), say, lines, options.verbose))


def _reads(options: argparse.Namespace) -> bool:
    """Whether the result of an earlier run is given."""
    saved = getattr(options, "saved", None)
    a_model = options.run is commands.diagnose and not str(saved).endswith(".nc")
    return saved is not None and not a_model


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
        if not _reads(options) or options.verbose:
            raise
        raise InputError(
            f"cannot show {options.saved} ({type(error).__name__}: {reason(error)}): either it"
            " does not hold what such a result does, or this is a mistake of ours. Make it again;"
            f" if that does not help, please tell us what --verbose shows: {failures.REPORT}"
        ) from error


def _kept(options: argparse.Namespace) -> str:
    """What an interrupted run has kept, in words."""
    kept = getattr(options, "checkpoint", None)
    if not kept or not os.path.exists(kept):
        return ""
    trains = options.run is commands.train
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
        aliases = [old for old, new in commands.ALIASES.items() if new == name]
        subparser = subparsers.add_parser(
            name, aliases=aliases, help=command.summary, description=command.summary
        )
        command.add_options(subparser)
        defaults = {
            action.dest: subparser.get_default(action.dest) for action in subparser._actions
        }
        subparser.set_defaults(run=command.run, name=name, defaults=defaults)
    return root


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
    a_model = not _reads(options)
    ignored = ("model",) if a_model else RUN
    given = [
        f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
        for name in ignored
        if hasattr(options, name) and getattr(options, name) != options.defaults[name]
    ]
    if given:
        what = "already names the model" if a_model else "is the result of an earlier run"
        raise InputError(f"{saved} {what}: leave out {', '.join(given)}, or {saved}")


def _check_shareable(options: argparse.Namespace) -> None:
    """Raise InputError where several processes were started for what one does."""
    alone = options.run in (commands.models, commands.report, commands.strip) or _reads(options)
    if alone and parallel.world().size > 1:
        raise InputError(
            "this runs no network, so that there is nothing to share among processes: start it"
            " without torchrun"
        )


def _check_out(options: argparse.Namespace) -> None:
    """Raise InputError where results cannot be written, or not seen by all processes."""
    from exposure_bias.files import check_writable

    alone = options.run in commands.TO_ONE_FILE
    check_writable(options.out, folder=not alone)
    parallel.check_shared(os.path.dirname(options.out) or "." if alone else options.out)


def _told(options: argparse.Namespace) -> dict[str, str]:
    """The options by name, as text."""
    known = {k: v for k, v in vars(options).items() if k not in ("run", "defaults", "own_process")}
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
