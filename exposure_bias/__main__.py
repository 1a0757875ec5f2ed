"""`eb-analyze`, or `python -m exposure_bias`: Ctrl-C is heard from the first import on."""

import os
import signal
import sys
from typing import Any

INTERRUPTED = 130
MESSAGE = "eb-analyze: interrupted"


def main() -> int:
    """Run the command line; returns the exit code.

    The first Ctrl-C ends the run in order, wherever it is; a second one ends it at once, which
    leaves files as a kill does. Either says one line. Imports may turn the first into an error of
    their own or lose it, so that it is remembered here.
    """
    # Of processes that do not meet torch logs thirty lines, which we say in one.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    pressed: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        if pressed:
            os.write(2, f"{MESSAGE}\n".encode())
            os._exit(INTERRUPTED)
        pressed.append(number)
        raise KeyboardInterrupt

    # A shell's background jobs are started deaf to it, and stay so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        from exposure_bias.cli import main

        return main()
    except BaseException as error:
        if not pressed or isinstance(error, SystemExit):
            raise
        print(MESSAGE, file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
