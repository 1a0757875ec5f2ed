"""The one command: a sentence with a number, an interval and what to do, and what stands behind
it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_budget import images, network, oracle

import exposure_bias as eb
from exposure_bias.cli import main


@pytest.fixture(scope="module")
def wrong() -> Any:
    return eb.diagnose(network(1.03), images(512), sampler="ddim", steps=16, n=512)


def test_a_wrong_network_is_named_with_a_number_and_an_interval(wrong: Any) -> None:
    row = wrong.sel(statistic="gap")
    assert str(row["answer"].item()).startswith("score error")
    answer = wrong.attrs["answer"]
    assert re.search(r"[−-]?\d+\.\d ± \d+\.\d %", answer)
    assert "network" in answer


def test_a_remedy_is_proposed_where_the_network_errs(wrong: Any) -> None:
    """ε̂ × 1.03 is mended by dividing it by 1.03; a proportion finds somewhat more."""
    found, error = (float(wrong[f"es_scale_score{k}"]) for k in ("", "_se"))
    assert found == pytest.approx(1.03, abs=0.005 + 3 * error)
    assert found > 1 + 4 * error
    assert "would mend the network's share" in wrong.attrs["remedy"]


def test_the_budget_of_a_diagnosis_is_the_budget(wrong: Any) -> None:
    alone = eb.error_budget(network(1.03), images(512), sampler="ddim", steps=16, n=512)
    for part in ("total", "discretisation", "score"):
        np.testing.assert_allclose(
            wrong[part].sel(statistic="gap"), alone[part].sel(statistic="gap"), atol=1e-9
        )


def test_references_are_context() -> None:
    found = eb.diagnose(oracle(), images(256), sampler="ddpm", steps=10, n=256)
    assert {"gaussian", "W_over_U", "U_minus_S_relative"} <= set(found)
    assert found.attrs["answer"]


def test_the_command_prints_the_sentence_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--model", "test_budget:oracle", "--data", "test_budget:images"]
    options = [*given, "--steps", "4", "-n", "256"]
    diagnosis = [
        "diagnose",
        *options,
        "--restarts",
        "500",
        "--starts",
        "500",
        "--quick",
        "-o",
        "out",
    ]
    assert main(diagnosis) in (None, 0)
    printed = capsys.readouterr().out.partition("\n\n")[0].replace("\n", " ")
    assert re.search(r"\d", printed)
    assert (tmp_path / "out" / "diagnose.nc").exists()
    assert main([*diagnosis, "--json"]) in (None, 0)
    assert json.loads(capsys.readouterr().out)["sentence"] == printed
    assert main(["budget", *options, "--samplers", "ddim", "heun", "-o", "curve"]) in (None, 0)
    assert any((tmp_path / "curve").glob("*.pdf"))
    for bad in (["--margin", "0"], ["--samplers", "ddim", "ddim:0"]):
        assert main(["budget", *options, *bad]) == 2
