"""What the command line answers to words that it does not know, or that it hears twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exposure_bias as eb
from exposure_bias.cli import commands, main, parser
from exposure_bias.results import find

# The names that have been promised to scripts, whatever the functions are called.
PROMISED = (
    *("record", "budget", "report", "error-hist", "spectrum", "gap", "delta", "norms", "rollout"),
    *("telescope", "normality", "diagnose", "compare", "train", "chain-fid", "models"),
    *("network-error", "drift", "levels"),
)


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a wrong command line is answered with."""
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("name", PROMISED)
def test_promised_names_are_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert not end.value.code
    assert f"usage: eb-analyze {commands.NAMES[name].name}" in capsys.readouterr().out


def test_the_words_of_the_users_come_first() -> None:
    """Help shows error-hist and spectrum, before all other commands."""
    text = parser().format_help()
    places = [text.index(f"\n    {name} ") for name in ("error-hist", "spectrum", "diagnose")]
    assert places == sorted(places)
    assert "error-hist (chain-errors)" in text


def test_commands_are_called_as_the_kinds_of_their_results() -> None:
    """One name in Python, at the command line and on disk; the others are aliases of both."""
    for command in commands.COMMANDS.values():
        kind = find(command.name)
        if kind is None:
            assert command.name in ("record", "report", "strip", "train", "models")
            continue
        assert command.name == kind.names[0]
        assert command.name == "budget" or kind.hyphened in (command.name, *command.aliases)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("spectra x.nc", "'spectra' is no command: do you mean spectrum?"),
        ("error_hist", "do you mean error-hist?"),
        ("diagnos", "do you mean diagnose?"),
        ("xyzzy", "there are error-hist, chain-errors, spectrum, diagnose"),
        (
            "error-hist --steps 50",
            "error-hist has no option --steps (it belongs to spectrum, diagnose, budget and"
            " others): do you mean --lengths 50?",
        ),
        ("error-hist --steps=50", "do you mean --lengths 50?"),
        ("spectrum --lengths 10", "do you mean --steps 10?"),
        ("rollout --start 100", "do you mean --starts 100?"),
        ("train --model digits", "do you mean --fine-tune digits?"),
        ("gap --num-samples 10", "do you mean -n 10?"),
        ("gap --stepps 3", "gap has no option --stepps: do you mean --steps?"),
        ("gap --model-name x", "do you mean --model?"),
        ("gap --margin 0.1", "--margin (it belongs to diagnose, budget)"),
        ("gap --mod digits", "has no option --mod: do you mean --model?"),
        ("gap -x", "has no option -x"),
        ("gap --steps 3 --steps 4", "--steps is given twice: it takes one value"),
        ("gap -n 3 -n4", "-n is given twice"),
        ("gap --grid karras --timestep-spacing karras", "are one option"),
        ("error-hist --lengths 3 --lengths 4", "give all values after one --lengths"),
        ("gap --config a.toml --config b.toml", "--config is given twice"),
        ("gap -q -v", "-q and -v exclude each other"),
        ("gap --json --format csv", "--json and --format are one option"),
    ],
)
def test_mistakes(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, _, rest = line.partition(" ")
    own = commands.NAMES.get(name)
    assert says.replace("gap has", "variance-gap has") in refused(line, capsys)
    assert own is None or rest


def test_what_may_be_given_several_times(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["gap", "--remedy", "es:1.01", "--remedy", "es:1.02", "--steps", "2", "-n", "8"]
    assert main([*line, "--json", "--json", "-o", "out"]) == 0
    assert "es:1.01 + es:1.02" in capsys.readouterr().out
    assert main(["rollout", "--starts", "-5", "--steps", "2", "-n", "8"]) == 2  # a value
    assert "-5" in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a few commands wrote with one -o."""
    place = tmp_path_factory.mktemp("results")
    chain = ["--steps", "3", "-n", "32", "-q", "-o", str(place)]
    for command in ("spectrum", "rollouts"):
        assert main([command, *chain]) == 0
    assert main(["error-hist", "--lengths", "3", "--per-test", "16", *chain[2:]]) == 0
    return place


@pytest.mark.parametrize("command", ["gap", "spectrum", "rollout", "error-hist", "strip"])
def test_a_folder_stands_for_its_file(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exposure_bias.adapters.load_model", lambda *_: pytest.fail("it ran"))
    sizes = ["--per-test", "16"] if command == "error-hist" else []
    assert main([command, str(folder), *sizes]) == 0
    assert "interval" in capsys.readouterr().out
    if command == "gap":
        assert main(["diagnose", str(folder)]) == 0


def test_a_folder_without_what_is_wanted(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["telescope", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "holds no telescope: it holds spectrum, rollouts, error-hist, recording" in err
    assert main(["gap", str(tmp_path)]) == 2
    assert "it holds no result at all" in capsys.readouterr().err
    with pytest.raises(eb.InputError, match="holds no result"):
        eb.load(tmp_path)


def test_load_opens_every_file(folder: Path) -> None:
    for path in folder.rglob("*.nc"):
        loaded = eb.load(path)
        assert isinstance(loaded, eb.Recording) == (path.stem == "recording")
    assert eb.load(folder).attrs["kind"] == "spectrum"
    np.testing.assert_array_equal(
        eb.load(folder)["hf"], eb.spectrum(eb.load(folder / "work" / "recording.nc"))["hf"]
    )
