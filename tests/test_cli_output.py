"""What every command prints: a sentence, a table of 80 columns, and the same in other formats."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.results import Column, Table, kind_of, sentence, tables
from exposure_bias.results.formats import FORMATS, View, escaped, grid
from exposure_bias.results.glossary import page
from exposure_bias.results.numbers import number
from exposure_bias.results.tables import spread_rows, table_of

SHAPE = (1, 4, 4)
OURS = ["--model", "test_cli_output:model", "--data", "test_cli_output:images"]
CHAIN = [*OURS, "--steps", "4"]

Run = Callable[..., str]


def model() -> eb.Denoiser:
    """An exact denoiser of quick data that is not quite theirs."""
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.12, eb.schedules.linear(1000))


def images() -> Any:
    """Gaussian images, as many as intervals take."""
    draws = np.random.default_rng(0).normal(0, 0.3, (256, *SHAPE))
    return eb.load_data(draws.astype(np.float32), value_range=None)


COMMANDS = {
    "diagnose": ["diagnose", *CHAIN, "--restarts", "--quick"],
    "budget": ["budget", *CHAIN, "--start", "noise"],
    "solvers": ["budget", *OURS, "--steps", "4", "5", "--samplers", "ddpm", "heun"],
    "record": ["record", *CHAIN],
    "error-hist": ["error-hist", *OURS, "--lengths", "2", "4"],
    "normality": ["normality", *OURS, "--lengths", "2", "4"],
    "state-error": ["state-error", *CHAIN, "--streams", "chain,teacher"],
    "spectrum": ["spectrum", *CHAIN],
    "variance-gap": ["variance-gap", *CHAIN],
    "published-delta": ["published-delta", *CHAIN],
    "epsilon-norm": ["epsilon-norm", *CHAIN],
    "rollouts": ["rollouts", *CHAIN],
    "telescope": ["telescope", *CHAIN],
    "levels": ["levels", *OURS, "--calls", "3"],
    "drift": ["drift", "-n", "256", "--frames", "2", "--steps", "3", "--sampler", "heun"],
    "drift-against": [
        *("drift", "-n", "256", "--frames", "1", "--steps", "2", "--sampler", "heun"),
        *("--against", "steps=3", "--against", "start=one call + remedy=cn:0.1"),
    ],
    "chain-length-fid": ["chain-length-fid", *OURS, "--features", "pixel", "--lengths", "2", "4"],
    "compare": ["compare", OURS[1], f"{OURS[1]} + es:1.01", *CHAIN[2:], "--lengths"],
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Run:
    monkeypatch.chdir(tmp_path)

    def stdout(*arguments: Any) -> str:
        assert main([str(a) for a in arguments]) == 0
        return capsys.readouterr().out

    return stdout


@pytest.fixture(scope="module")
def recording() -> eb.Recording:
    return eb.record(model(), images(), steps=4, streams=("forward", "chain", "teacher"))


def check_json(out: str) -> dict[str, Any]:
    """What was printed; it has to be as the schema says."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(files("exposure_bias.results").joinpath("schema.json").read_text())
    said: dict[str, Any] = json.loads(out)
    jsonschema.validate(said, schema)
    return said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sentence_and_a_table_of_80_columns(run: Run, name: str, tmp_path: Path) -> None:
    out = run(*COMMANDS[name])
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    sentence = out.partition("\n\n")[0].replace("\n", " ")
    assert sentence.endswith(".")
    assert re.search(r"\d", sentence)
    assert "±" in sentence or "interval" in sentence or "reason" in sentence, sentence
    rule = next(k for k, line in enumerate(lines) if set(line) == {"─"})
    columns = len(re.split(r"\s{2,}", lines[rule + 1].strip()))
    assert 2 <= columns <= 6 or name == "rollouts", lines[rule + 1]
    named = {w for w in re.findall(r"\b\w+_\w+\b", out) if w not in ("x_0", "test_cli_output")}
    assert named <= {"fixed_small", "set_timesteps"}, named  # a variance, and code to paste


@pytest.mark.parametrize("name", ["models"])
def test_the_list_of_models_fits(run: Run, name: str) -> None:
    out = run(name)
    assert max(map(len, out.splitlines())) <= 80
    assert "interval" in out.splitlines()[0]
    said = check_json(run(name, "--json"))
    assert {row["model"] for row in said["tables"]["bundled"]} >= {"digits"}


def test_training_says_what_it_will_take_and_ends_with_a_sentence(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--net", "unet-tiny", "--iterations", "1", "--batch-size", "2", "--sample-every", "0"]
    assert main(["train", *quick, "-o", "net"]) == 0
    out, err = capsys.readouterr()
    assert "about 2 network calls: 1 iterations of 2 images, ddpm, seed 0" in err
    assert re.match(r"The network has a .* loss of [\d.]+ \(one run, so no interval\)\.", out)
    assert max(map(len, out.splitlines())) <= 80


def test_normality_writes_a_page(run: Run) -> None:
    quick = ["--lengths", "2", "4", "-n", "24", "--per-test", "8"]
    out = run("normality", *OURS, *quick, "-o", "out")
    page = Path("out/report.html").read_text()
    assert 'id="isotropy"' in page
    said = eb.load("out/normality.nc").attrs["answer"]  # one voice: terminal, file and page
    assert said in out.replace("\n", " ")
    assert said.replace("'", "&#39;") in page
    assert "Mean squared correlation of two pixels" in page


def test_formats(run: Run, recording: eb.Recording, tmp_path: Path) -> None:
    recording.save(tmp_path / "run.nc")
    gaps = eb.variance_gap(recording)
    said = check_json(run("gap", "run.nc", "--format", "json"))
    assert said == check_json(run("gap", "run.nc", "--json", "-o", "out"))
    assert (said["schema_version"], said["command"]) == (1, "variance-gap")
    # Numbers come back as they were, from JSON and from CSV, on stdout and on disk.
    frame = eb.table(gaps)
    back = pd.DataFrame(said["tables"]["variance_gap"])
    pd.testing.assert_frame_equal(
        back, frame.rename(columns=str.lower), check_dtype=False, check_like=True
    )
    printed = pd.read_csv(io.StringIO(run("gap", "run.nc", "--format", "csv")))
    pd.testing.assert_frame_equal(printed, frame, check_like=True)
    saved = pd.read_csv("out/variance-gap.csv")
    pd.testing.assert_frame_equal(saved, frame, check_like=True)
    assert said["columns"]["gap"]["unit"] == gaps["gap"].attrs["units"] == "1"
    table = run("gap", "run.nc", "--format", "markdown")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(frame)
    assert {line.count("|") for line in rows} == {rows[0].count("|")}
    assert "clean end" in rows[-1]


def test_latex_sets(run: Run, recording: eb.Recording, tmp_path: Path) -> None:
    """Balanced, as many columns everywhere, nothing but ASCII, nothing special unescaped."""
    recording.save(tmp_path / "run.nc")
    for command in ("gap", "delta", "norms", "spectrum", "state-error"):
        comment, _, out = run(command, "run.nc", "--format", "latex").partition("\n")
        assert comment.startswith("% ")
        assert out.isascii(), [c for c in out if not c.isascii()]
        places = re.search(r"\\begin{tabular}{([lr]+)}", out)
        assert places is not None
        rows = [line for line in out.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(places[1]) - 1}
        for rule in ("toprule", "midrule", "bottomrule"):
            assert out.count(rf"\{rule}") == 1
        assert out.count(r"\begin{tabular}") == out.count(r"\end{tabular}") == 1
        assert out.count("$") % 2 == 0
        assert not re.search(r"(?<!\\)[%#]", out)
    assert escaped("a_b & 5 % ± 1 {x}") == r"a\_b \& 5 \% $\pm$ 1 \{x\}"


def test_explain_says_what_is_shown_and_wide_shows_all(
    run: Run, recording: eb.Recording, tmp_path: Path
) -> None:
    recording.save(tmp_path / "run.nc")
    plain, told = run("norms", "run.nc", "-q"), run("norms", "run.nc", "-q", "--explain")
    assert told.startswith(plain.rstrip("\n"))
    assert "chain over forward: Noise norm of the chain over the forward" in told
    wide = run("norms", "run.nc", "--wide")
    assert "ratio_band_low" in wide
    assert "scale_uniform_se" in wide
    assert "scale_uniform" not in plain


def test_quiet_and_verbose(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def stderr(*arguments: str) -> str:
        assert main(["telescope", *CHAIN, "--starts", "999", "500", *arguments]) == 0
        return capsys.readouterr().err

    assert stderr("-q", "-n", "16") == ""
    planned = stderr("-n", "256").splitlines()[0]
    assert planned == "eb-analyze: about 3,100 network calls: 256 samples of 12 each"
    few = stderr("-n", "32").splitlines()
    assert (
        few[1] == "eb-analyze: 32 samples give no interval: 256 or more, of as many images, would"
    )
    assert "telescope: 32 samples of" in stderr("-n", "32", "-v")


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("record", 0.0),
        ("error-hist", 0.0),
        ("rollouts", 0.0),
        ("telescope", 0.0),
        ("chain-length-fid", 0.0),
        ("budget", 0.25),
        ("diagnose", 0.15),
        ("compare", 0.25),
    ],
)
def test_as_many_calls_are_made_as_planned(
    run: Run, monkeypatch: Any, name: str, off: float
) -> None:
    """Budgets check their order on a part of the samples, which is not counted."""
    from exposure_bias.running import progress

    watches = []

    class Spy(progress.Watch):
        def begin(self, *given: Any) -> None:
            super().begin(*given)
            watches.append(self)

    monkeypatch.setattr(progress, "Watch", Spy)
    run(*COMMANDS[name], "-n", "64", "--format", "csv")
    (watch,) = {id(w): w for w in watches}.values()
    assert watch.done == pytest.approx(watch.total, rel=off or 1e-9)


def test_progress_in_a_log(monkeypatch: Any) -> None:
    """An estimate after the first seconds, then a line a minute."""
    from exposure_bias.running import progress
    from exposure_bias.running.setup import prepare

    said: list[str] = []
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    watch = progress.Watch(lambda _: progress.Plan(256, 10.0), said.append, lines=True)
    watch.begin(prepare(model(), images(), kind="x", steps=4), 10)
    for _ in range(10):
        now[0] += 20
        watch.add(256)
    assert said == [
        "about 2,600 network calls: 256 samples of 10 each",
        "about 3 min to go",
        "30 % done, about 2 min to go",
        "60 % done, about 80 s to go",
        "90 % done, about 20 s to go",
    ]


def test_clocks_that_no_progress_can_be_told_by(monkeypatch: Any) -> None:
    """One that stands still, runs backwards, or jumps a year; and no call that is made yet."""
    from exposure_bias.running import progress

    said: list[str] = []
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    watch = progress.Watch(lambda _: progress.Plan(256, 10.0), said.append, lines=True)
    watch.expect(4000, "calls")
    now[0] += 4  # a busy machine, before the first call
    watch.add(0)
    for step in (0.0, -50.0, 3.2e7, *[2.0] * 35):
        now[0] += step
        watch.add(40)
    assert said[1] == "about 0 s to go"  # the clock stood still
    assert said[-1] == "33 % done, about 2 min to go"
    assert not any(" h to go" in line for line in said[1:])


def test_config(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    same = ["--model", OURS[1], "--data", OURS[3]]
    Path("run.toml").write_text(
        'steps = 3\nn = 32\nbatch-size = 16\nquiet = true\nremedy = ["es:1.01", "es:1.02"]\n'
    )
    from_file = run("gap", *same, "--config", "run.toml")
    by_hand = ["--batch-size", "16", "--remedy", "es:1.01", "--remedy", "es:1.02"]
    assert from_file == run("gap", *same, "--steps", "3", "-n", "32", "-q", *by_hand)
    # The command line wins.
    assert run("gap", *same, "--config=run.toml", "--steps", "2") != from_file
    Path("two.toml").write_text(
        f'models = ["{OURS[1]}", "{OURS[1]} + es:1.1"]\nlengths = []\nn = 16'
    )
    assert "es:1.1" in run("compare", "--config", "two.toml", *CHAIN[2:])
    for line, message in (
        ("stepps = 3", "stepps is no option of gap: do you mean steps?"),
        ("steps = 'x'", "steps is 'x', which is no int"),
        ("steps = [1, 2]", "steps takes one value"),
        ("clip = 1", "clip is true or false"),
        ("split = 'dev'", "allowed are train, test"),
        ("steps =", "is no TOML"),
    ):
        Path("bad.toml").write_text(line)
        assert main(["gap", "--config", "bad.toml"]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
    assert main(["gap", "--config", "none.toml"]) == 2


def test_wrong_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["gap", "--stepps", "3"], ["gap", "--steps", "x"], ["gaps"], ["gap", "-q", "-v"]):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        assert end.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(capsys: pytest.CaptureFixture[str], monkeypatch: Any, shell: str) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    assert not end.value.code
    assert "chain-length-fid" in capsys.readouterr().out
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    assert end.value.code == 2
    assert "pip install 'exposure-bias[completion]'" in capsys.readouterr().err


def test_the_glossary_page_is_current() -> None:
    written = Path(eb.__file__).parents[1] / "docs" / "glossary.md"
    if not written.exists():
        pytest.skip("no docs beside this package")
    assert written.read_text() == page()


def test_every_variable_says_what_it_is(recording: eb.Recording) -> None:
    few = images()
    errors = eb.chain_errors(model(), few, (2, 3), n=64)
    found = [
        eb.variance_gap(recording),
        eb.published_delta(recording),
        eb.epsilon_norm(recording),
        eb.state_error(recording),
        eb.spectrum(recording),
        eb.denoising_check(recording),
        errors,
        eb.normality(errors),
        eb.isotropy(errors),
        eb.rollouts(model(), few, steps=4, n=32),
        eb.telescope(model(), few, steps=4, n=32),
        eb.diagnose(model(), few, steps=4, n=64, restarts=()),
        eb.compare([model(), model()], few, steps=4, n=32, lengths=(2,)),
        eb.chain_length_fid(model(), few, (2, 4), n=64, features="pixel"),
    ]
    for result in found:
        kind = kind_of(result)
        assert kind is not None
        for name, variable in result.variables.items():
            assert variable.attrs.get("units"), (kind, name)
            assert variable.attrs.get("long_name"), (kind, name)
            assert variable.attrs.get("description"), (kind, name)
        assert len(eb.table(result)) >= 1
        assert sentence(result) == result.attrs["answer"]
        for table in tables(result):
            unknown = [c.name for c in table.columns if kind.term(c.name) is None]
            assert not unknown, (kind, unknown)


def test_table_refuses(recording: eb.Recording) -> None:
    gaps = eb.variance_gap(recording)
    assert list(eb.table(gaps, "gap_by_channel")["channel"]) == [0]
    with pytest.raises(eb.InputError, match=r"no table 'x'.*variance_gap, gap_by_channel"):
        eb.table(gaps, "x")
    assert list(eb.table(xr.Dataset({"a": 1}))) == ["a"]
    with pytest.raises(eb.InputError, match="holds no numbers"):
        eb.table(xr.Dataset())


@pytest.mark.parametrize(
    ("value", "half", "signed", "text"),
    [
        (-0.0434, 0.0051, True, "−0.0434 ± 0.0051"),
        (12.34, 1.5, False, "12.3 ± 1.5"),
        (1234.5, 321, False, "1234 ± 321"),
        (3.2e-7, 1.1e-8, False, "(3.20 ± 0.11)e−7"),
        (0.5, float("nan"), True, "+0.5"),
        (float("nan"), 1, True, "–"),
        (1.0, 1e-9, False, "1.00000 ± 0.00000"),
        (3072.4, float("nan"), False, "3072"),
        (-2.5e7, float("nan"), False, "−2.5e+07"),
    ],
)
def test_numbers(value: float, half: float, signed: bool, text: str) -> None:
    assert number(value, half, signed) == text


def test_what_does_not_fit_wraps_and_then_goes() -> None:
    columns = [Column(f"heading number {k}", f"c{k}") for k in range(9)]
    narrow = grid(columns, [["1.234 ± 0.001"] * 9])
    assert max(map(len, narrow.splitlines())) <= 80
    assert "left out, as the line is full: heading number 5" in narrow.replace("\n", " ")
    long = "a long name of a model with remedies + es:1.005 + ts:20,300, which takes a few lines"
    worded = grid(columns[:3], [[long, "1.2 ± 0.1", long]])
    assert max(map(len, worded.splitlines())) <= 80
    assert "1.2 ± 0.1" in worded


def test_rows_that_are_left_out_are_said() -> None:
    frame = pd.DataFrame({"value": np.arange(30.0)})
    table = Table("t", "values", frame, (Column("value", "value"),), spread_rows(30), main=True)
    said = View("compare", "A sentence.", [table])
    for form in ("text", "markdown", "latex", "html"):
        assert "values: 11 of 30 rows are shown" in " ".join(FORMATS[form](said).split())
    assert "11 of 30" not in FORMATS["text"](replace(said, wide=True))
    bands = xr.Dataset({"power": ("band", np.arange(12.0))})
    shown = table_of(bands, "bands", "bands", [Column("power", "power")])
    assert len(shown.cells) == 12
    assert shown.told == ()


def test_formats_of_hostile_names() -> None:
    frame = pd.DataFrame([{"entry": "50 % & <b>|_x_", "value": 1.0}])
    shown = (Column("entry", "entry"), Column("value", "value"))
    said = View("compare", "A sentence.", [Table("t", "t", frame, shown, main=True)])
    assert r"50 \% \& <b>|\_x\_" in FORMATS["latex"](said)
    assert r"<b>\|_x_" in FORMATS["markdown"](said)
    assert next(csv.reader(io.StringIO(FORMATS["csv"](said).splitlines()[1]))) == [
        "50 % & <b>|_x_",
        "1.0",
    ]
    assert json.loads(FORMATS["json"](said))["tables"]["t"][0]["entry"] == "50 % & <b>|_x_"


def test_without_torch_recordings_are_read_and_the_rest_says_what_it_needs(
    tmp_path: Path, recording: eb.Recording
) -> None:
    recording.save(tmp_path / "run.nc")
    code = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torch", "diffusers", "safetensors", "huggingface_hub", "sklearn"):
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Absent())
from exposure_bias.cli import main
sys.exit(main(sys.argv[1:]))
"""
    for arguments, expected in (
        (["gap", "run.nc", "-o", "out"], 0),
        (["spectrum", "run.nc"], 0),
        (["record", "-o", "new.nc"], 2),
    ):
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert found.returncode == expected, found.stderr
        assert "Traceback" not in found.stderr
    assert "needs torch" in found.stderr
    assert (tmp_path / "out" / "report.html").exists()
