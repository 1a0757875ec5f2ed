"""`eb-analyze`: one thin subcommand over each public function.

A wrong argument or unusable input ends with one line on stderr and exit code 2; Ctrl-C with 130. Results go to stdout,
progress and messages to stderr.
"""

import argparse
import ctypes
import sys
import warnings
from collections.abc import Sequence

from exposure_bias.cli import commands
from exposure_bias.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `eb-analyze` with these arguments (default: the process's); returns the exit code."""
    options = parser().parse_args(arguments)
    _keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _show_warning
            if getattr(options, "out", None):
                from exposure_bias.files import check_writable

                check_writable(options.out, folder=options.run is not commands.record)
            options.run(options)
    except InputError as error:
        print(f"eb-analyze: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = getattr(options, "checkpoint", None)
        hint = f"; {kept} keeps what was finished, the same command goes on from there" if kept else ""
        print(f"eb-analyze: interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="eb-analyze", description="Does a diffusion model suffer from exposure bias: where, why, at what cost?"
    )
    subparsers = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (run, add_options, summary) in commands.COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        add_options(subparser)
        subparser.set_defaults(run=run)
    return root


def _keep_freed_memory() -> None:
    """Have glibc reuse freed memory instead of returning it to the system after every layer of a network.

    On a CPU this saves 15 to 35 % of a UNet's time (benchmarks/record_overhead.py under MALLOC_TRIM_THRESHOLD_ and
    MALLOC_MMAP_THRESHOLD_). It concerns the whole process, so that only the program does it, never the library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(threshold, 2**30)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"eb-analyze: warning: {message}", file=sys.stderr)
