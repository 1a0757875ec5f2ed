"""Command lines: options that are abbreviated, repeated or crossed, and names of outputs."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import worlds
from trials import Refused, Silent, Trial, command

import exposure_bias as eb

Generator = np.random.Generator


def _options() -> dict[str, dict[str, Any]]:
    """Every command's long options, with whether they take a value."""
    import argparse

    from exposure_bias.cli import parser

    root = parser()
    (choices,) = (a.choices for a in root._actions if isinstance(a, argparse._SubParsersAction))
    return {
        name: {o: a for a in sub._actions for o in a.option_strings if o.startswith("--")}
        for name, sub in dict(choices).items()
    }


def abbreviations(rng: Generator, count: int) -> Iterator[Trial]:
    """Options that are cut short, or given twice with two values."""
    known = [
        (name, option, action)
        for name, options in _options().items()
        for option, action in options.items()
        if len(option) > 4 and option != "--help"
    ]
    for i in range(count):
        name, option, action = known[int(rng.integers(len(known)))]
        short = option[: int(rng.integers(3, len(option)))]
        value = [] if action.nargs == 0 else [_value(action)]
        if i % 2:

            def run(folder: Path, line: Any = (name, short, *value)) -> object:
                return command(folder, *line)

            if short in dict(_options()[name]):
                continue
            yield Trial("command lines", f"{name} {short}", run, "option|argument|unrecogni|mean")
        elif value and action.nargs is None and type(action).__name__ == "_StoreAction":

            def twice(
                folder: Path, name: str = name, option: str = option, action: Any = action
            ) -> object:
                (folder / "one.toml").write_text("")
                (folder / "two.toml").write_text("")
                one, two = _value(action), _value(action, 1)
                try:
                    return command(folder, name, option, one, option, two)
                except Refused as error:
                    if option not in str(error):
                        raise Silent(f"the first {option} is dropped: {error}") from error
                    raise

            yield Trial("command lines", f"{name} {option} twice", twice, ".")


def _value(action: Any, number: int = 0) -> str:
    """One of two values that suit an option."""
    if action.dest == "config":
        return ("one.toml", "two.toml")[number]
    if action.choices:
        return str(list(action.choices)[number % len(action.choices)])
    return ("2", "3")[number]


def outputs(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """Names of outputs: like a partial file, in a folder that holds some, links, devices."""
    del rng, count
    host = os.uname().nodename.split(".")[0]
    partials = (
        ".out.nc.elsewhere-1.partial",
        f".out.nc.{host}-1.partial",
        f".out.nc.{host}-999999.partial",
        ".partial-999999",
        ".trial.x.partial",
        ".out.nc.lock",
    )

    def recorded(folder: Path, out: str) -> object:
        data = worlds.saved_images(folder)
        line = ("--steps", "2", "-n", "16", "--data", str(data), "--model")
        return command(folder, "record", *line, str(honest / "pipeline"), "-o", out)

    for name in partials:

        def beside(folder: Path, name: str = name) -> object:
            (folder / name).mkdir()
            (folder / name / "mine").write_text("mine")
            said = recorded(folder, "out.nc")
            if not (folder / name / "mine").exists():
                raise Silent(f"{name}/mine is gone")
            return said

        yield Trial("outputs", f"beside a folder {name}", beside)
        yield Trial("outputs", f"-o {name}", lambda f, n=name: recorded(f, n))
        yield Trial("outputs", f"-o {name}/x.nc", lambda f, n=name: recorded(f, f"{n}/x.nc"))

    def bare(folder: Path) -> object:
        said = recorded(folder, "k")
        if (folder / "k").is_file():
            raise Silent("a file where every other command makes a folder")
        return said

    yield Trial("outputs", "record -o k", bare)
    for what, make in {
        "a link to itself": lambda p: p.symlink_to(p),
        "a link to nowhere": lambda p: p.symlink_to("nowhere/x.nc"),
        "a device": lambda p: p.symlink_to("/dev/null"),
        "a pipe": os.mkfifo,
        "a folder": lambda p: p.mkdir(),
    }.items():

        def run(folder: Path, make: Any = make) -> object:
            make(folder / "out.nc")
            return recorded(folder, "out.nc")

        yield Trial("outputs", f"-o {what}", run)
    deep = "/".join(["x" * 200] * 30)
    for what, name in {"a path too long": deep, "dots": "../" * 50 + "proc/x.nc"}.items():
        yield Trial("outputs", f"-o {what}", lambda f, n=name: recorded(f, n), ".")

    def long_data(folder: Path) -> object:
        (folder / "images").mkdir()
        os.chdir(folder / "images")
        for _ in range(30):
            os.mkdir("x" * 200)
            os.chdir("x" * 200)
        Path("a.png").write_bytes(b"")
        os.chdir(folder)
        return eb.load_data(folder / "images")

    yield Trial("outputs", "images beyond the longest path", long_data, ".")

    def looped(folder: Path) -> object:
        (folder / "images").mkdir()
        (folder / "images" / "a.png").symlink_to("a.png")
        (folder / "images" / "b").symlink_to("b")
        return eb.load_data(folder / "images")

    yield Trial("outputs", "links to themselves among images", looped, ".")


def together(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """Two commands with one output at once: one of them is refused, the other is whole."""
    del rng, count
    lines: dict[str, Callable[[Path], list[str]]] = {
        "record": lambda f: ["record", *_run(f, honest), "-o", "same.nc"],
        "train": lambda f: ["train", *_train(f), "-o", "same"],
        "rollouts": lambda f: ["rollouts", *_run(f, honest), "-o", "same"],
        "chain-length-fid": lambda f: [
            *("chain-length-fid", *_data(f, honest), "--lengths", "2", "3"),
            *("--features", "pixel", "-o", "same"),
        ],
        "compare": lambda f: [
            *("compare", str(honest / "pipeline"), f"{honest / 'pipeline'} + es:1.01"),
            *_run(f, honest)[2:],
            *("-o", "same"),
        ],
    }
    for name, line in lines.items():

        def run(folder: Path, line: Any = line) -> object:
            arguments = line(folder)
            waiting, going = folder / "waiting", folder / "going"
            child = os.fork()
            if not child:
                _slowed(waiting, going)
                code = 1
                try:
                    command(folder / "first", *arguments)
                    code = 0
                finally:
                    os._exit(code)
            until = time.monotonic() + 120
            while not waiting.exists() and time.monotonic() < until:
                time.sleep(0.01)
            try:
                said = command(folder, *arguments)
            except Refused as error:
                said = str(error)
            finally:
                going.touch()
                status = os.waitpid(child, 0)[1]
            if status:
                raise AssertionError(f"the first ended with {status}: {said}")
            if "eb-analyze" not in said or "process" not in said:
                raise Silent("both wrote the same output")
            return said

        yield Trial("two at once", name, run)


def _slowed(waiting: Path, going: Path) -> None:
    """Have the first file that this process writes wait."""
    replace = os.replace

    def slow(*given: Any, **options: Any) -> None:
        waiting.touch()
        until = time.monotonic() + 120
        while not going.exists() and time.monotonic() < until:
            time.sleep(0.01)
        replace(*given, **options)

    os.replace = slow  # type: ignore[assignment]
    sys.stdout.flush()


def _data(folder: Path, honest: Path) -> list[str]:
    data = worlds.saved_images(folder)
    return ["--model", str(honest / "pipeline"), "--data", str(data), "-n", "32"]


def _run(folder: Path, honest: Path) -> list[str]:
    return [*_data(folder, honest), "--steps", "2", "--batch-size", "8"]


def _train(folder: Path) -> list[str]:
    import json

    (folder / "net.json").write_text(json.dumps(worlds.NETWORK))
    given = ["--data", str(worlds.saved_images(folder)), "--net", str(folder / "net.json")]
    brief = ["--iterations", "4", "--batch-size", "2", "--sample-every", "0"]
    return [*given, *brief, "--checkpoint-every", "2", "--log-every", "2"]
