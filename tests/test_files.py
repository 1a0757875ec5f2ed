"""Results are written whole or not at all, and where they cannot be is known beforehand."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import exposure_bias as eb
from exposure_bias import files
from exposure_bias.cli import main
from exposure_bias.errors import InputError

LONG = "x" * 300


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/proc/nope/x.nc", "not writable"),
        ("/dev/full", "a device or a pipe"),
        ("/dev/null/x.nc", "a device or a pipe|is a file"),
        (f"/tmp/{LONG}/x.nc", "over 255 bytes"),
        (f"/tmp/{'ä' * 150}.nc", "over 255 bytes"),
        ("/tmp/a\0b.nc", "null byte"),
        ("", "empty name"),
        ("/tmp/\udcff.nc", "no text"),
    ],
)
@pytest.mark.parametrize("folder", [True, False])
def test_what_cannot_be_written_is_known_beforehand(
    path: str, message: str, folder: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message):
        files.check_writable(path, folder)
    with pytest.raises(InputError, match=r"cannot write"):
        files.write_bytes(path, b"")
    # Refused before the model, which is not there, is looked for.
    command = "gap" if folder else "record"
    assert main([command, "--model", "nowhere", "-o", path]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_files_where_folders_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path, folder, message in (
        ("file", True, "is a file, but results go to a folder"),
        ("file/x.nc", False, "is a file, not a folder"),
        (".", False, "is a folder"),
        ("pipe", False, "a device or a pipe"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_writable(tmp_path / path, folder)


@pytest.mark.parametrize("name", ["x.nc", "x" * 252 + ".nc", "deep/er/x.nc"])
def test_what_can_be_written_leaves_nothing_beforehand(tmp_path: Path, name: str) -> None:
    files.check_writable(tmp_path / name[:255], False)
    assert list(tmp_path.iterdir()) == []
    files.write_bytes(tmp_path / name[:255], b"content")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [Path(name[:255]).name]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link.nc").symlink_to(tmp_path / "far" / "run.nc")
    for content in (b"first", b"second"):  # the second time there is something at its end
        files.check_writable(tmp_path / "link.nc", False)
        files.write_bytes(tmp_path / "link.nc", content)
        assert (tmp_path / "far" / "run.nc").read_bytes() == content
    assert (tmp_path / "link.nc").is_symlink()
    (tmp_path / "circle.nc").symlink_to(tmp_path / "circle.nc")
    with pytest.raises(InputError, match="in a circle"):
        files.write_bytes(tmp_path / "circle.nc", b"")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.write_bytes(tmp_path / "x.nc", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device; .* is unchanged"):
        files.write_bytes(tmp_path / "x.nc", b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


HOLDS = """
import os, sys, time
from exposure_bias import files
with files.output(sys.argv[1], sys.argv[2] == "folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


def held(path: Path, folder: bool = False) -> subprocess.Popen[str]:
    """A process that holds an output until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path), "folder" if folder else "file"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    """By the next writer of that file; another file's stays, and what is none of ours."""
    script = (
        "import os, sys; from exposure_bias import files; os.replace = lambda *_: os._exit(9);"
        " files.write_bytes(sys.argv[1], b'half')"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.nc")])
    assert killed.returncode == 9
    (left,) = tmp_path.glob(".x.nc.*.partial")
    others = [
        left.with_name(left.name.replace(".x.nc.", ".y.nc.")),
        left.with_name(".x.nc.mine.partial"),
        left.with_name(".x.nc.partial"),
    ]
    for other in others:
        other.write_bytes(b"half")
    folder = left.with_name(f".x.nc.{'0' * 16}.partial")
    folder.mkdir()
    files.write_bytes(tmp_path / "x.nc", b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([*others, folder, tmp_path / "x.nc"])


@pytest.mark.parametrize("folder", [False, True])
def test_an_output_has_one_writer_whose_lock_dies_with_it(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "x"
    with held(path, folder) as first:
        with pytest.raises(InputError, match=rf"process {first.pid} of .* writes it now"):
            files.output(path, folder).__enter__()
        if not folder:
            with pytest.raises(InputError, match="writes it now"):
                files.write_bytes(path, b"second")
        first.kill()
    assert [p.name for p in tmp_path.rglob("*.writing")]  # the file stays, the lock does not
    with files.output(path, folder), files.output(path, folder):  # twice by one run
        if not folder:
            files.write_bytes(path, b"second")
    assert not list(tmp_path.rglob("*.writing"))


def test_threads_are_two_writers(tmp_path: Path) -> None:
    said: list[str] = []

    def write() -> None:
        try:
            files.write_bytes(tmp_path / "x", b"second")
        except InputError as error:
            said.append(str(error))

    with files.output(tmp_path / "x"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(said) == 1
    assert f"process {os.getpid()}" in said[0]


FORKS = """
import os, sys, time
from exposure_bias import files
with files.output(sys.argv[1]):
    if os.fork():
        os._exit(0)
    time.sleep(60)
"""


def test_a_fork_holds_no_lock_of_its_parent(tmp_path: Path) -> None:
    """As a worker does that outlives a killed run."""
    subprocess.run([sys.executable, "-c", FORKS, str(tmp_path / "x")], check=True)
    files.write_bytes(tmp_path / "x", b"second")


def test_names_of_files_that_are_being_written_are_refused(tmp_path: Path) -> None:
    for name in (f".x.nc.{'0' * 16}.partial", ".x.nc.writing", ".writing"):
        with pytest.raises(InputError, match="belong to files that are being written"):
            files.write_bytes(tmp_path / name, b"")
    (tmp_path / ".x.nc.writing").write_text("my notes")
    with pytest.raises(InputError, match="did not make"):
        files.write_bytes(tmp_path / "x.nc", b"")
    assert (tmp_path / ".x.nc.writing").read_text() == "my notes"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_stdout_ends_with_one_line() -> None:
    command = [sys.executable, "-m", "exposure_bias", "models"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "eb-analyze: cannot print all of it: no space is left there\n"


# Ctrl-C at an odd moment, in a program that sends it to itself: `at` says when, `press` does it.
PRESSED = """
import os, signal, sys
press = lambda *_: os.kill(os.getpid(), signal.SIGINT)
{at}
from exposure_bias.__main__ import main
sys.argv = ["eb-analyze", *sys.argv[1:]]
sys.exit(main())
"""
MOMENTS = {
    "an import": """
class Finder:
    def find_spec(self, name, *_):
        if name == "exposure_bias.cli": press()
sys.meta_path.insert(0, Finder())
""",
    "an import that turns it into an error": """
class Finder:
    def find_spec(self, name, *_):
        if name == "exposure_bias.cli":
            try:
                press()
            except KeyboardInterrupt:
                raise RuntimeError("initialization failed")
sys.meta_path.insert(0, Finder())
""",
    "a write": "os.fsync = press",
    "a write, twice": """
def twice(*_):
    os.unlink = press
    press()
os.fsync = twice
""",
    "a write, and while it is told": """
class Told:
    def write(self, text):
        press()
        return os.write(2, text.encode())
    def flush(self): pass
os.fsync, sys.stderr = press, Told()
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_is_one_line_and_nothing_half_written(moment: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    line = [sys.executable, "-c", PRESSED.format(at=MOMENTS[moment])]
    run = ["record", "--model", "tiny:model", "--data", "tiny:images", "--steps", "2"]
    done = subprocess.run(
        [*line, *run, "-q", "-o", str(tmp_path / "new.nc")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        # A test run in the background ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["eb-analyze: interrupted"]
    # The second leaves what a kill does, which the next writer removes.
    left = {p.name for p in tmp_path.iterdir() if p.is_file()} - {"tiny.py"}
    assert len(left) == 2 * ("twice" in moment)
    assert all(name.startswith(".") and name.endswith((".partial", ".writing")) for name in left)


TINY = """
import numpy as np
import exposure_bias as eb
def model():
    return eb.oracles.GaussianOracle(np.zeros((1, 2, 2)), 0.1, eb.schedules.linear(1000))
def images():
    x = np.random.default_rng(0).normal(0, 0.3, (16, 1, 2, 2)).clip(-1, 1)
    return eb.load_data(x.astype(np.float32))
"""


def test_a_folder_whose_name_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of bytes that are no UTF-8 is written with escapes, in every kind of file."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / os.fsdecode(b"d\xff")
    folder.mkdir()
    for i in range(16):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / os.fsdecode(b"%d\xfe.png" % i))
    given = ["--data", str(folder), "--steps", "2", "-n", "16", "-q"]
    assert main(["gap", "--model", "digits", *given, "-o", "out"]) == 0
    assert r"d\udcff" in Path("out/report.html").read_text()
    assert main(["gap", "out", "--format", "json", "-q"]) == 0
    odd = tmp_path / os.fsdecode(b"m\xff")
    odd.mkdir()
    with pytest.raises(InputError, match="no text"):
        eb.load_model(odd)
