"""Every kind of result goes through sentence, tables, figure, page, JSON, save and load.

A stranger's does as well."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import exposure_bias as eb
from exposure_bias import files, results
from exposure_bias.experiments.chain_length_fid import speed_up
from exposure_bias.results import Column, Kind, Term, catalogue, returns
from exposure_bias.results.formats import FORMATS, view_of

SHAPE = (1, 4, 4)
PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def model() -> eb.Denoiser:
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.12, eb.schedules.linear(1000))


def images() -> Any:
    draws = np.random.default_rng(0).normal(0, 0.3, (256, *SHAPE))
    return eb.load_data(draws.astype(np.float32), value_range=None)


def autoregression() -> eb.oracles.LinearAutoregression:
    return eb.oracles.LinearAutoregression(0.9, eb.schedules.edm(0.05, 5.0))


def sequences() -> eb.Sequences:
    return eb.Sequences(autoregression().law.sample(256, 3))


@pytest.fixture(scope="module")
def recording() -> eb.Recording:
    return eb.record(model(), images(), steps=4, streams=("forward", "chain", "teacher"))


@pytest.fixture(scope="module")
def errors() -> xr.Dataset:
    return eb.chain_errors(model(), images(), (2, 4))


def fid() -> xr.Dataset:
    return eb.chain_length_fid(model(), images(), (2, 4), features="pixel")


MAKERS: dict[str, Callable[[eb.Recording, xr.Dataset], xr.Dataset]] = {
    "diagnose": lambda rec, _: eb.diagnose(rec),
    "error_budget": lambda *_: eb.error_budget(model(), images(), steps=4, restarts=()),
    "solver_curve": lambda *_: eb.solver_curve(model(), images(), ["ddpm"], [4, 5]),
    "drift_budget": lambda *_: eb.drift_budget(autoregression(), sequences(), steps=3),
    "drift": lambda *_: eb.drift(lambda c, seed: 0.9 * c.frames[:, -1], sequences()),
    "compare_drift": lambda *_: eb.compare_drift(
        {"3 steps": autoregression(), "4 steps": (autoregression(), {"steps": 4})},
        sequences(),
        steps=3,
    ),
    "optimise_levels": lambda *_: eb.optimise_levels(model(), images(), calls=4, certify=False),
    "level_curve": lambda *_: eb.level_curve(model(), images(), calls=(3,), rules=("karras",)),
    "variance_gap": lambda rec, _: eb.variance_gap(rec),
    "spectrum": lambda rec, _: eb.spectrum(rec),
    "epsilon_norm": lambda rec, _: eb.epsilon_norm(rec),
    "state_error": lambda rec, _: eb.state_error(rec),
    "published_delta": lambda rec, _: eb.published_delta(rec),
    "rollouts": lambda *_: eb.rollouts(model(), images(), steps=4),
    "telescope": lambda *_: eb.telescope(model(), images(), steps=4),
    "network_error": lambda *_: eb.network_error(model(), images(), levels=4, restarts=256),
    "effective_level": lambda *_: eb.effective_level(model(), images(), steps=4),
    "compare": lambda *_: eb.compare([model(), model()], images(), steps=4, lengths=(2,)),
    "compare_recordings": lambda rec, _: eb.compare_recordings(rec, rec),
    "chain_length_fid": lambda *_: fid(),
    "speed_up": lambda *_: speed_up(fid(), fid(), "length"),
    "chain_errors": lambda _, errors: errors,
    "normality": lambda _, errors: eb.normality(errors),
    "isotropy": lambda _, errors: eb.isotropy(errors),
    "power": lambda *_: eb.diagnostics.normality.power((8, 16)),
    "denoising_check": lambda rec, _: eb.denoising_check(rec),
}


def test_the_catalogue_is_the_only_list() -> None:
    kinds = catalogue.kinds()
    assert [kind.name for kind in kinds] == list(MAKERS)
    names = [name for kind in kinds for name in {kind.hyphened, *kind.aliases}]
    assert len(names) == len(set(names))


def check(result: xr.Dataset, tmp_path: Path) -> None:
    """Take a result through everything that is made from its kind."""
    said = result.attrs["answer"]
    assert said == results.sentence(result)
    assert said.endswith(".")
    assert re.search(r"\d|No|no ", said), said
    shown = view_of(result)
    for name, write in FORMATS.items():
        text = write(shown)
        if name not in ("csv", "json"):
            assert not re.search(r"\bnan\b|(?<![\w.)–-])-\d", text), (name, text)
    assert said in FORMATS["text"](shown).replace("\n", " ")
    assert json.loads(FORMATS["json"](shown))["sentence"] == said
    assert "<table>" in replace(shown, wide=True)._repr_html_()
    assert len(eb.table(result)) >= 1
    for drawing in results.drawings(result):
        plt.close(drawing(result))
    eb.save(result, tmp_path / "result.nc")
    again = results.load_result(tmp_path / "result.nc")
    xr.testing.assert_identical(again.drop_attrs(), result.drop_attrs())
    assert results.name_of(again) == results.name_of(result)
    assert again.attrs["answer"] == said
    page = eb.report(again, path=tmp_path / "report.html").read_text()
    name = results.name_of(result).replace("_", "-")
    assert f'id="{name}"' in page
    assert "nan to nan" not in page


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind(name: str, recording: eb.Recording, errors: xr.Dataset, tmp_path: Path) -> None:
    result = MAKERS[name](recording, errors)
    kind = results.kind_of(result)
    assert kind is not None
    assert kind.name == name
    for variable in result.variables.values():
        assert {"units", "long_name", "description"} <= set(variable.attrs)
    for table in results.tables(result):
        assert not [c.name for c in table.columns if kind.term(c.name) is None]
    check(result, tmp_path)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """What docs/extending.md says of a statistic and of a diagnostic, run as it stands there."""
    names: dict[str, Any] = {"eb": eb, "data": eb.load_data("digits"), "__name__": "page"}
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    place = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("stranger"))
    try:
        for word in ("class FourthMoment", "TAIL_WEIGHT = Kind("):
            exec(next(s for s in snippets if word in s), names)
    finally:
        os.chdir(place)
    result: xr.Dataset = names["tails"]
    return result


def test_a_strangers_kind_has_all_that_ours_have(stranger: xr.Dataset, tmp_path: Path) -> None:
    check(stranger, tmp_path)
    assert stranger.attrs["kind"] == "tail_weight"
    assert stranger["tails"].attrs["right"] == 0
    assert stranger.attrs["answer"].startswith("The tail weight is ")
    assert "(0 is right)" in stranger.attrs["answer"]
    headings = results.tables(stranger)[0].columns
    assert [c.heading for c in headings] == ["timestep t", "tail weight (%)"]


def test_a_kind_that_nobody_declared_here_is_shown_in_its_own_words(
    stranger: xr.Dataset, tmp_path: Path
) -> None:
    """Its file is read where its module was never imported."""
    eb.save(stranger, tmp_path / "tail-weight.nc")
    code = """
import sys
from exposure_bias.cli import main
sys.exit(main(["report", "tail-weight.nc", "--json"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)["sentence"]
    assert said.startswith("The tail weight is ")
    assert "(0 is right)" in said
    page = (tmp_path / "report.html").read_text()
    assert 'id="tail-weight"' in page
    assert "Fourth moment over the squared second one" in page
    assert "<svg" in page or "data:image/svg" in page


def gap_of_a_stranger() -> xr.Dataset:
    return xr.Dataset(
        {
            "gap": ("step", [0.1, 0.2]),
            "gap_se": ("step", [0.01, 0.01]),
            "delta": ("step", [1, 2.0]),
        },
        coords={"step": [0, 1], "sigma": ("step", [1.0, 0.0]), "timestep": ("step", [9.0, -1.0])},
    )


def test_a_strangers_dataset_never_gets_a_sentence_of_ours(tmp_path: Path) -> None:
    """Whatever its variables are called: `gap` is no variance gap, `delta` no published δ."""
    theirs = gap_of_a_stranger()
    assert results.kind_of(theirs) is None
    assert results.sentence(theirs) == "The gap is 0.200 ± 0.021 at the clean end."
    check(theirs.assign_attrs(answer=results.sentence(theirs)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    for ours in ("variance", "published", "too alike"):
        assert ours not in page.partition('id="made"')[0].partition("<main")[2].lower()


def test_what_is_no_number_is_said_so() -> None:
    assert "no number" in results.sentence(xr.Dataset())
    assert "no number" in results.sentence(xr.Dataset({"a": ("x", ["b"])}))
    assert "not known" in results.sentence(xr.Dataset({"a": ("x", [np.nan])}))


TERM = Term("a number", "1", "What it is.", 0)


def declared(**fields: Any) -> Kind:
    return Kind(**{"name": "a", "title": "A", "question": "?", "variables": {"a": TERM}} | fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "a b"}, "name is that of its function"),
        ({"title": ""}, "has no title"),
        ({"question": ""}, "has no question"),
        ({"variables": {}}, "declares no variables"),
        ({"variables": {"a": Term("", "1", "")}}, "does not say what a is"),
        ({"variables": {"a": Term("a", "", "")}}, "with words and unit"),
        ({"variables": {"a": ("words", "1")}}, "does not say what a is"),
        ({"columns": (Column("b", "b"),)}, "columns of b, which it does not declare"),
    ],
)
def test_a_declaration_without_what_a_table_needs(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(eb.InputError, match=says):
        declared(**fields)


def test_a_kind_is_declared_once() -> None:
    with pytest.raises(eb.InputError, match="variance_gap is declared twice, for this package"):
        returns(declared(name="variance_gap"))(lambda: xr.Dataset())

    def again() -> Any:
        @returns(declared(name="twice"))
        def twice() -> xr.Dataset:
            return xr.Dataset({"a": 1.0})

        return twice

    for _ in range(2):  # a cell of a notebook that is run again
        assert again()().attrs[
            "answer"
        ] == "The a number is +1 (0 is right); too few samples for" + (" an interval.")
    with pytest.raises(eb.InputError, match="twice is declared twice"):

        @returns(declared(name="twice"))
        def other() -> xr.Dataset:
            return xr.Dataset({"a": 1.0})


def test_files_that_do_not_fit_their_kind_are_refused(
    recording: eb.Recording, tmp_path: Path
) -> None:
    gaps, path = eb.variance_gap(recording), tmp_path / "a.nc"
    for wrong, says in (
        (gaps.drop_vars("gap"), r"lacks gap over \(step\)"),
        (gaps.assign(gap=("channel", [1.0])), r"lacks gap over \(step\)"),
        (gaps.drop_vars(["timestep", "sigma"]), "does not hold what a result of the kind"),
    ):
        eb.save(wrong, path)
        with pytest.raises(eb.InputError, match=says):
            results.load_result(path)
    eb.save(gaps, path)
    with pytest.raises(eb.InputError, match="holds no rollouts but variance_gap: give the file"):
        results.load_result(path, "rollouts")
    recording.save(path)
    with pytest.raises(eb.InputError, match="no result but a recording"):
        results.load_result(path)
    with pytest.raises(eb.InputError, match=r"a result is an xarray\.Dataset, got int"):
        eb.save(3, path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        *(("gap", "variance_gap"), ("norms", "epsilon_norm"), ("delta", "published_delta")),
        *(("chain errors", "chain_errors"), ("chain-fid", "chain_length_fid")),
        *(("rollout", "rollouts"), ("budget", "error_budget"), ("diagnosis", "diagnose")),
    ],
)
def test_files_of_earlier_versions_are_understood(
    written: str, kind: str, recording: eb.Recording, errors: xr.Dataset, tmp_path: Path
) -> None:
    """They named their kind as the command was called, and wrote no attribute for it."""
    result = MAKERS[kind](recording, errors)
    before = result.copy()
    before.attrs = {k: v for k, v in result.attrs.items() if k not in ("kind", "answer")}
    path = tmp_path / "old.nc"
    files.write_tree(path, xr.DataTree(before), {"kind": written, "attributes": before.attrs})
    again = results.load_result(path, kind)
    assert again.attrs["answer"] == result.attrs["answer"]


def test_a_result_is_read_without_torch_and_scipy(tmp_path: Path) -> None:
    """So that a file opens in less than a second."""
    path = tmp_path / "result.nc"
    eb.save(xr.Dataset({"a": ("step", np.arange(3.0))}), path)
    code = (
        "import sys, exposure_bias as eb; eb.load(sys.argv[1]);"
        "assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
