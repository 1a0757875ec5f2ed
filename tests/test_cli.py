"""Every command end to end on real data, and every kind of bad input: one line, exit code 2, nothing left behind."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import exposure_bias as eb
from exposure_bias.cli import main

QUICK = ["--steps", "4", "-n", "32"]


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


def test_record_then_read(run, tmp_path):
    path = tmp_path / "run.nc"
    assert run("record", "--steps", "5", "-n", "256", "-o", path)[0] == 0
    code, out, _ = run("spectrum", path, "--json", "-o", tmp_path / "s")
    assert code == 0
    table = json.loads(out)
    spectra = eb.spectrum(eb.load(path))
    assert table["high frequencies (dB at the clean end)"][0]["hf"] == pytest.approx(float(spectra["hf"]))
    assert {p.suffix for p in (tmp_path / "s").iterdir()} == {".png", ".pdf", ".csv", ".nc"}
    code, out, _ = run("error-hist", "--of", "state", path)
    assert code == 0
    assert "pooled_rmse_gaussian" in out


def test_error_hist_saves_what_it_reads(run, tmp_path):
    options = ["--lengths", "3", "8", "-n", "50", "--pixel", "9", "--pixel", "0,4,4"]
    code, first, _ = run("error-hist", *options, "--json", "-o", tmp_path)
    assert code == 0
    code, again, _ = run("error-hist", tmp_path / "errors.nc", *options[-4:], "--json")
    assert code == 0
    assert json.loads(first) == json.loads(again)
    assert {row["pixel"] for row in json.loads(first)["pixels"]} == {"0,1,1", "0,4,4"}


def test_single_step_and_clip(run):
    code, out, _ = run("error-hist", "--mode", "single", "--clip", "--lengths", "10", "-n", "50")
    assert code == 0
    assert "mode: single" in out
    assert "clipped to [-1, 1]" in out


def test_remedies_are_options_of_every_command(run, tmp_path):
    for path, *remedy in ((tmp_path / "a.nc",), (tmp_path / "b.nc", "--remedy", "es:1.1", "--remedy", "ip:0.1")):
        assert run("record", *QUICK, *remedy, "-o", path)[0] == 0
    plain, remedied = (eb.load(tmp_path / f"{k}.nc") for k in "ab")
    assert remedied.description["model"] == "digits + es:1.1 + ip:0.1"
    assert float(remedied["chain"]["error_square"].sum()) != float(plain["chain"]["error_square"].sum())
    assert run("error-hist", "--remedy", "ip:-1")[0] == 2


def test_models(run):
    assert "digits-ip" in run("models")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spectrum", "missing.nc"], "cannot read missing.nc"),
        (["spectrum", "--data", "nowhere", *QUICK], "nowhere"),
        (["spectrum", "--data", "patches", *QUICK], r"1×8×8.*3×16×16"),
        (["spectrum", "--model", "resnet", *QUICK], r"resnet.*digits"),
        (["spectrum", "--sampler", "plms", *QUICK], r"plms.*ddim"),
        (["spectrum", "--grid", "square", *QUICK], r"square.*karras"),
        (["spectrum", "--steps", "1001"], r"1001.*1000"),
        (["spectrum", "--steps", "0"], "at least 1"),
        (["error-hist", "--lengths", "1001"], r"from 1 to 1000.*1001"),
        (["error-hist", "--lengths", "2", "-n", "60", "--pixel", "64"], r"64.*1×8×8"),
        (["error-hist", "--lengths", "2", "-n", "20"], r"3 to 20"),
        (["error-hist", "--of", "state", "--start", "noise", *QUICK], "pairs nothing"),
        (["error-hist", "--device", "nowhere", *QUICK], "nowhere"),
    ],
)
def test_bad_input(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments, "-o", tmp_path / "out")
    assert code == 2
    assert re.search(message, err)
    assert len(err.splitlines()) == 1
    assert not out
    assert not list(tmp_path.rglob("*.*"))


def test_recycled_images_are_said_once(run):
    _, _, err = run("spectrum", "--steps", "1", "-n", "600")
    assert err.count("images recur") == 1


def test_bad_recordings(run, tmp_path):
    path = tmp_path / "run.nc"
    run("record", *QUICK, "-o", path)
    path.write_bytes(path.read_bytes()[:-500])
    assert run("spectrum", path)[0] == 2
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((4, 8, 8, 1)))
    assert run("spectrum", "--data", tmp_path / "x.npz", *QUICK)[0] == 2


def test_interrupt_keeps_progress(tmp_path):
    command = [sys.executable, "-m", "exposure_bias", "record", "--steps", "50", "--batch-size", "16"]
    process = subprocess.Popen(
        [*command, "-o", tmp_path / "run.nc"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run.nc").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "same command" in err
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]
