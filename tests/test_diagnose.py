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
from exposure_bias.experiments.kinds.budgets import ERROR_BUDGET


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
    # The whole gap would take a scale that a proportion does not hold for: nothing is suggested.
    assert "no epsilon scaling is suggested" in wrong.attrs["remedy"]


@pytest.mark.parametrize(("scale", "suggested"), [(1.03, True), (1.0, False)])
def test_a_scaling_is_suggested_only_if_it_helped_other_images(
    scale: float, suggested: bool
) -> None:
    """With many steps the network's error is what there is to mend."""
    found = eb.diagnose(
        network(scale),
        images(512),
        sampler="ddim",
        steps=100,
        n=512,
        restarts=(),
        starts=(200,),
        quick=True,
    )
    if suggested:
        assert float(found["es_trial_after"]) == pytest.approx(
            0, abs=3 * float(found["es_trial_after_se"])
        )
        assert "was tried on images that did not choose it" in found.attrs["remedy"]
    else:
        assert not found.attrs.get("remedy", "").startswith("epsilon")


def test_the_sentence_speaks_of_a_level_of_divergence_and_of_guidance() -> None:
    """The same budget, as it would be with other numbers."""
    found = eb.error_budget(oracle(), images(256), sampler="ddim", steps=5, n=256, restarts=())
    gap = found["statistic"] == "gap"

    def sentence(**changes: float) -> str:
        result = found.copy(deep=True)
        for name, value in changes.items():
            result[name] = result[name].where(~gap, value)
        return ERROR_BUDGET.sentence(result)

    assert sentence(total=-0.21).startswith("The samples' variance is 21")
    last = found["statistic"] == "last step"
    moved = found.copy(deep=True)
    moved["total"] = moved["total"].where(~gap, -0.21).where(~last, 0.063)
    said = ERROR_BUDGET.sentence(moved)
    assert "last, noise-free step" in said
    assert "−14.7 %" in said
    assert "diverges" in sentence(total=31.64)


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
