"""The command line's edges: options said twice, files of options, terminals, our mistakes."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.fft import idctn

import exposure_bias as eb
from exposure_bias.cli import commands, failures, main, terminal
from exposure_bias.errors import harmless
from exposure_bias.reporting import page, sources

Capture = pytest.CaptureFixture[str]
SHAPE = (1, 4, 4)


def saved(folder: Path) -> Path:
    """A small recording's file."""
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.1, eb.schedules.linear(1000))
    images = np.random.default_rng(0).normal(0, 0.3, (16, *SHAPE)).astype(np.float32)
    data = eb.load_data(images, value_range=None)
    eb.record(oracle, data, steps=3).save(folder / "x.nc")
    return folder / "x.nc"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["models", "--conf", "x.toml"], "models has no option --conf: do you mean --config?"),
        (["models", "--conf=x.toml"], "models has no option --conf: do you mean --config?"),
        (["models", "--json", "--format", "csv"], "--json and --format are one option"),
        (["gap", "-n", "2", "--steps", "3", "-n", "3"], "-n is given twice"),
        (["gap", "--grid", "karras", "--timestep-spacing", "leading"], "are one option"),
        (["gap", "--steps", "a\x1b[31m"], r"a\x1b[31m"),
    ],
)
def test_options_are_whole_and_said_once(line: list[str], said: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        main(line)
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("steps = 2".encode("utf-16"), "no text in UTF-8"),
        (b"steps = 2 # \xe4", "no text in UTF-8"),
        (b"a=" + b"[" * 20_000, "brackets are too deep"),
        (b"n = " + b"9" * 5000, "no TOML"),
        (b"n = 0x" + b"f" * 5000, "thousands of digits"),
        (b"." * 65_000, "at most 64,000 are read"),
        (b"batch-size = 3\nbatch_size = 4", "are one option"),
    ],
)
def test_files_of_options_are_bounded(
    content: bytes, said: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    assert main(["gap", "--config", str(tmp_path / "run.toml")]) == 2
    assert said in capsys.readouterr().err


def test_a_pipe_holds_no_options(tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["models", "--config", str(tmp_path / "pipe")]) == 2
    assert "device or a pipe" in capsys.readouterr().err


def test_every_encoding_shows_every_character() -> None:
    kept, raw = sys.stdout, io.BytesIO()
    sys.stdout = wrapper = io.TextIOWrapper(raw, encoding="latin-1")
    try:
        terminal.prepare()
        print("x̂_0 ± 2σ → −1 × 10² ─ 字 \udcff")
        wrapper.flush()
    finally:
        sys.stdout = kept
    assert raw.getvalue() == "x_0 ± 2sigma -> -1 × 10² - \\u5b57 \\udcff\n".encode("latin-1")
    assert harmless("a\x1b[31m\x07\u202e\tb\nc\u00a0±") == r"a\x1b[31m\x07\u202e" "\tb\nc\u00a0±"


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}, {"MPLBACKEND": "module://no"}],
)
def test_a_program_prints_in_its_environment(environment: dict[str, str], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "exposure_bias", "gap", str(saved(tmp_path)), "-o", "out"]
    (tmp_path / "h5py.py").write_text("open('imported', 'w')")
    done = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"variance is off" in done.stdout
    assert (tmp_path / "out" / "variance-gap.pdf").exists()
    assert not (tmp_path / "imported").exists()


def test_a_mistake_of_ours_is_told_as_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fails(_: Any) -> None:
        eb.schedules.linear(3).level(object())  # type: ignore[arg-type]

    monkeypatch.setitem(
        commands.COMMANDS, "models", replace(commands.COMMANDS["models"], run=fails)
    )
    monkeypatch.setattr(sys, "argv", ["eb-analyze", "models"])
    monkeypatch.setattr(terminal, "prepare", lambda: None)
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert main() == 1  # this file is neither ours nor a library's
    assert f"your own code failed at {__file__}" in capsys.readouterr().err
    monkeypatch.setattr(failures, "OURS", Path(__file__).parents[1])
    assert main() == failures.OUR_FAULT
    told = capsys.readouterr().err
    assert "this is a mistake of ours" in told
    assert failures.REPORT in told
    assert "Traceback" not in told
    monkeypatch.setattr(sys, "argv", ["eb-analyze", "models", "--verbose"])
    assert main() == failures.OUR_FAULT
    assert "Traceback" in capsys.readouterr().err


def test_numbers_outlive_a_broken_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import matplotlib as mpl

    path = saved(tmp_path)
    monkeypatch.setenv("PATH", "")  # no LaTeX
    with mpl.rc_context({"text.usetex": True}):
        assert main(["gap", str(path), "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert told.count("figures are left out") == 1
    endings = {p.suffix for p in (tmp_path / "out").iterdir()}
    assert endings >= {".csv", ".nc", ".html"}
    assert not endings & {".png", ".pdf"}


def test_a_page_holds_no_marks_that_turn_a_line() -> None:
    oracle = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.1, eb.schedules.linear(1000))
    images = np.random.default_rng(0).normal(0, 0.3, (16, *SHAPE)).astype(np.float32)
    gaps = eb.variance_gap(eb.record(oracle, eb.load_data(images, value_range=None), steps=3))
    gaps.attrs["note"] = "a\u202eb\x1b[31m"
    content = page(sources([gaps])).content.decode()
    assert r"a\u202eb\x1b[31m" in content
    assert "\u202e" not in content


def test_a_name_without_an_ending_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--steps", "2", "-n", "16", "-o", "k", "-q"]) == 0
    assert main(["report", "k/recording.nc", "-o", "k", "-q"]) == 0
    assert {p.name for p in Path("k").iterdir()} == {"recording.nc", "report.html"}


def test_a_sum_of_bands_hides_nothing() -> None:
    frequency = np.hypot(*np.meshgrid(np.arange(8), np.arange(8))) / 16
    basis = np.stack([idctn(row.reshape(8, 8), norm="ortho").ravel() for row in np.eye(64)])
    wrong = np.where(frequency > 0.55, 1.0, np.where(frequency > 0.25, 0.05, 0.09)).ravel()
    images = np.random.default_rng(0).normal(0, 0.3, (256, 1, 8, 8)).astype(np.float32)
    covariance = (basis.T * wrong) @ basis
    oracle = eb.oracles.GaussianOracle(np.zeros((1, 8, 8)), covariance, eb.schedules.linear(1000))
    found = eb.spectrum(eb.record(oracle, eb.load_data(images, value_range=None), steps=30))
    assert "opposite directions" in found.attrs["answer"]
    flat = np.broadcast_to(images.mean((2, 3), keepdims=True), images.shape).copy()
    data = eb.load_data(flat, value_range=None)
    none = eb.spectrum(eb.record(oracle, data, steps=30))
    assert np.isnan(none["hf"])
    assert "no power there" in none.attrs["no_hf"]
