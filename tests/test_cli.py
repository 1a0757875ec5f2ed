"""Every command end to end on real data, and every kind of bad input: one line, exit code 2,
nothing left behind."""

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
    assert table["tables"]["high_frequencies"][0]["hf"] == pytest.approx(float(spectra["hf"]))
    assert {p.suffix for p in (tmp_path / "s").iterdir()} == {
        ".png",
        ".pdf",
        ".csv",
        ".nc",
        ".html",
        ".txt",
    }
    code, out, _ = run("error-hist", "--of", "state", path)
    assert code == 0
    assert "State errors grow to an RMSE of" in out


def test_error_hist_saves_what_it_reads(run, tmp_path):
    options = ["--lengths", "3", "8", "-n", "50", "--pixel", "9", "--pixel", "0,4,4"]
    code, first, _ = run("error-hist", *options, "--json", "-o", tmp_path)
    assert code == 0
    code, again, _ = run("error-hist", tmp_path / "errors.nc", *options[-4:], "--json")
    assert code == 0
    assert json.loads(first) == json.loads(again)
    assert {row["pixel"] for row in json.loads(first)["tables"]["pixels"]} == {"0,1,1", "0,4,4"}


@pytest.mark.parametrize("command", ["rollout", "telescope"])
def test_experiments_save_what_they_read(run, tmp_path, command):
    options = ["--steps", "4", "-n", "32", "--starts", "999", "400"]
    code, first, _ = run(command, *options, "--json", "-o", tmp_path)
    assert code == 0
    code, again, _ = run(command, tmp_path / f"{command}.nc", "--json")
    assert code == 0
    assert json.loads(first) == json.loads(again)
    assert not (tmp_path / "unfinished.nc").exists()
    assert {p.suffix for p in tmp_path.iterdir()} == {
        *(".png", ".pdf", ".csv", ".nc", ".html", ".txt")
    }
    other = {"rollout": "telescope", "telescope": "rollout"}[command]
    code, _, err = run(other, tmp_path / f"{command}.nc")
    assert code == 2
    assert f"holds no {other}" in err


def test_rollouts_of_a_deterministic_sampler(run, tmp_path):
    code, out, _ = run("rollout", "--sampler", "heun", "--replicates", "1", *QUICK, "-o", tmp_path)
    assert code == 0
    assert "ranks" not in out


def test_single_step_and_clip(run):
    code, out, _ = run("error-hist", "--mode", "single", "--clip", "--lengths", "10", "-n", "50")
    assert code == 0
    assert "mode: single" in out
    assert "clipped to [-1, 1]" in out


def test_remedies_are_options_of_every_command(run, tmp_path):
    for path, *remedy in (
        (tmp_path / "a.nc",),
        (tmp_path / "b.nc", "--remedy", "es:1.1", "--remedy", "ip:0.1"),
    ):
        assert run("record", *QUICK, *remedy, "-o", path)[0] == 0
    plain, remedied = (eb.load(tmp_path / f"{k}.nc") for k in "ab")
    assert remedied.description["model"] == "digits + es:1.1 + ip:0.1"
    assert float(remedied["chain"]["error_square"].sum()) != float(
        plain["chain"]["error_square"].sum()
    )
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
        (["rollout", "--sampler", "ddim", *QUICK], r"no ancestral sampler.*replicates=1"),
        (["telescope", "--starts", "2000", *QUICK], "from 0 to 999"),
        (["telescope", "--steps", "600", "--refine", "2", "-n", "4"], "cannot be refined"),
        (["error-hist", "--lengths", "1001"], r"from 1 to 1000.*1001"),
        (["error-hist", "--lengths", "2", "-n", "60", "--pixel", "64"], r"64.*1×8×8"),
        (["error-hist", "--lengths", "2", "-n", "20"], r"3 to 20"),
        (["error-hist", "--of", "state", "--start", "noise", *QUICK], "pairs nothing"),
        (["error-hist", "--device", "nowhere"], "nowhere"),
        (
            ["error-hist", "--sampler", "DPMSolverMultistepScheduler"],
            r"Scheduler does not visit.*ddim.*rollouts",
        ),
        (["record", "-n", "0"], "at least 1"),
        (["record", "--batch-size", "0", *QUICK], "at least 1"),
        (["spectrum", "--basis", "luma", *QUICK], "three channels"),
        (["spectrum", "--start", "somewhere", *QUICK], "data, noise, or a timestep"),
        (["spectrum", "--streams", "forwards", *QUICK], "forward, chain, teacher"),
        (["error-hist", "--mode", "both", "--lengths", "2"], "chain, single"),
        (["error-hist", "--lengths", "0"], "from 1 to 1000"),
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


def test_options_of_a_new_run_are_refused_where_one_is_read(run, tmp_path):
    path = tmp_path / "run.nc"
    assert run("record", *QUICK, "-o", path)[0] == 0
    assert run("gap", path, "--json")[0] == 0
    for options, named in (
        (["--model", "digits-ip", "--steps", "9"], "--model, --steps"),
        (["-n", "8"], "-n"),
    ):
        code, _, err = run("gap", path, *options)
        assert code == 2
        assert f"leave out {named}, or" in err
    assert run("diagnose", "digits", "--model", "digits-ip")[0] == 2


def test_bad_recordings(run, tmp_path):
    path = tmp_path / "run.nc"
    run("record", *QUICK, "-o", path)
    path.write_bytes(path.read_bytes()[:-500])
    assert run("spectrum", path)[0] == 2
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((4, 8, 8, 1)))
    assert run("spectrum", "--data", tmp_path / "x.npz", *QUICK)[0] == 2


def test_a_place_that_cannot_be_written_is_found_before_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "exposure_bias.running.recorder.record", lambda *_, **__: pytest.fail("it ran")
    )
    (tmp_path / "file").write_text("here first")
    for command in ("spectrum", "gap", "error-hist", "rollout", "diagnose", "chain-fid"):
        code, _, err = run(command, "-o", tmp_path / "file")
        assert (code, len(err.splitlines())) == (2, 1)
        assert "is a file" in err
        assert run(command, "-o", tmp_path / "file" / "inside")[0] == 2
    (tmp_path / "x.nc").mkdir()
    code, _, err = run("record", "-o", tmp_path / "x.nc")
    assert code == 2
    assert "is a folder" in err
    code, _, err = run("spectrum", "-o", "/proc/nope")
    assert (code, len(err.splitlines())) == (2, 1)
    assert (tmp_path / "file").read_text() == "here first"


def test_bad_images(run, tmp_path):
    from PIL import Image

    mixed, colour = tmp_path / "mixed", tmp_path / "colour"
    for folder, sizes, mode in ((mixed, (8, 9), "L"), (colour, (8, 8), "RGB")):
        folder.mkdir()
        for i, size in enumerate(sizes):
            Image.new(mode, (size, size)).save(folder / f"{i}.png")
    floats = np.zeros((4, 8, 8, 1), dtype=np.float32)
    np.savez(tmp_path / "last.npz", arr_0=floats)
    np.savez(tmp_path / "nan.npz", arr_0=np.full((4, 1, 8, 8), np.nan, np.float32))
    np.savez(tmp_path / "range.npz", arr_0=floats + 200)
    (tmp_path / "empty").mkdir()
    cases = {
        mixed: "8x8.*9x9",
        colour: "1×8×8.*3×8×8",
        tmp_path / "last.npz": "channels-last",
        tmp_path / "nan.npz": "NaN|finite",
        tmp_path / "range.npz": "channels-last",
        tmp_path / "empty": "no images",
    }
    for path, message in cases.items():
        code, out, err = run("spectrum", "--data", path, *QUICK)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert re.search(message, err)


def test_a_flipped_bit_is_found(run, tmp_path):
    path = tmp_path / "run.nc"
    run("record", *QUICK, "-o", path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for command in (["spectrum", path], ["record", *QUICK, "-o", path]):
        code, _, err = run(*command)
        assert code == 2
        assert re.search("corrupt: its checksum", err)


def test_a_network_that_returns_nan(run, tmp_path, monkeypatch):
    from exposure_bias.denoisers import Denoiser

    said = Denoiser.__call__
    monkeypatch.setattr(
        Denoiser, "__call__", lambda *a: said(*a) * (np.nan if a[2].timestep < 400 else 1)
    )
    code, _, err = run("record", *QUICK, "-o", tmp_path / "run.nc")
    assert code == 2
    assert re.search(r"NaN or Inf at step 2, timestep 333", err)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_before_anything_was_kept(run, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("exposure_bias.streams.noised", interrupted)
    monkeypatch.setattr("exposure_bias.running.recorder.noised", interrupted)
    code, _, err = run("record", *QUICK, "-o", tmp_path / "run.nc")
    assert code == 130
    assert err.splitlines()[-1] == "eb-analyze: interrupted"


@pytest.mark.slow
def test_interrupt_keeps_progress(tmp_path):
    """A run far too long to end by itself is interrupted as soon as its first checkpoint is
    there."""
    command = [
        sys.executable,
        "-m",
        "exposure_bias",
        "record",
        "--steps",
        "50",
        "-n",
        "100000",
        "--batch-size",
        "16",
    ]
    with (tmp_path / "err").open("w+") as err:
        process = subprocess.Popen(
            [*command, "-o", tmp_path / "run.nc"],
            stderr=err,
            stdout=subprocess.DEVNULL,
            # A test run in the background ignores Ctrl-C, and so would everything that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 300
            while (
                not (tmp_path / "run.nc").exists()
                and process.poll() is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=300) == 130
        finally:
            process.kill()
        err.seek(0)
        said = err.read()
    assert "same command" in said
    assert "Traceback" not in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["err", "run.nc"]
