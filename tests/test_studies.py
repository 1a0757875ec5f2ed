"""The studies of analyses/: every one runs as a rehearsal, docs/results.md is what their results
say, figures draw."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "analyses"))

import common  # noqa: E402
import decisions  # noqa: E402
import feature_sensitivity  # noqa: E402
import results_table  # noqa: E402
import studies  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("name", studies.ORDER)
def test_smoke(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = importlib.import_module(name)
    argv = ["--smoke", "--out", str(tmp_path)]
    common.main(study.STUDY, study.measure, study.DEFAULT, study.SMOKE, argv)
    run = json.loads((tmp_path / "run.json").read_text())
    assert study.STUDY.name == name == run["name"]
    assert run["verdict"] in common.VERDICTS
    assert set(run) >= {
        "claim",
        "source",
        "published",
        "text",
        "settings",
        "versions",
        "wall_seconds",
        "command",
    }
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert any(path.endswith(".csv") for path in written)
    common.main(study.STUDY, study.measure, study.DEFAULT, study.SMOKE, argv)
    assert written == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}, (
        "finished, but run again"
    )
    assert "done already" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["train_classifier.py", "--smoke"],
        ["train_bundled.py", "--only", "digits", "--smoke"],
        ["gpu_campaign.py", "--rehearse", "kernels"],
        ["precision.py", "--smoke"],
    ],
)
def test_what_is_no_study_can_be_rehearsed(command: list[str]) -> None:
    subprocess.run(
        [sys.executable, ROOT / "analyses" / command[0], *command[1:]],
        check=True,
        timeout=300,
    )


def test_every_study_is_in_the_table() -> None:
    """A study of a claim declares it; the other files of analyses/ are tools and own studies."""
    files = {path.stem: path.read_text() for path in (ROOT / "analyses").glob("*.py")}
    claims = {name for name, text in files.items() if "\nSTUDY = common.Study(" in text}
    assert set(studies.ORDER) == claims == {*studies.UNTRAINED, *studies.TRAINED}


def test_results_page_is_fresh() -> None:
    assert results_table.PAGE.read_text() == results_table.page(), (
        "run python analyses/results_table.py"
    )
    stored, fresh = pd.read_csv(results_table.PARTS), decisions.table()
    pd.testing.assert_frame_equal(stored, fresh, check_dtype=False, rtol=1e-4)


def test_results_are_of_the_default_scale() -> None:
    for name in studies.ORDER:
        path = common.RESULTS / name / "run.json"
        if path.exists():
            study = importlib.import_module(name)
            default, rule = study.DEFAULT, study.STUDY.limit
            recipe = (
                common.training(common.Settings(**default, smoke=False))
                if "seeds" in default
                else None
            )
            done = common.finished(path.parent, default, recipe, rule)
            assert done, f"{name}: not the default scale"


@pytest.mark.slow
def test_figures_draw_from_the_results_alone(tmp_path: Path) -> None:
    """Each study that was run has its picture, and two runs give the same bytes."""
    captions = {path: path.read_text() for path in (ROOT / "figures" / "captions").glob("*.md")}
    for given in ([tmp_path / "one"], [tmp_path / "two", "claims"]):
        subprocess.run([sys.executable, ROOT / "figures" / "all.py", *given], check=True)
    every = {path.parent.name for path in common.RESULTS.glob("*/run.json")}
    drawn = {path.stem for path in (tmp_path / "one").iterdir()}
    assert every & set(studies.ORDER) <= drawn <= every
    for two in (tmp_path / "two").iterdir():
        assert two.read_bytes() == (tmp_path / "one" / two.name).read_bytes(), "it is random"
    assert captions == {path: path.read_text() for path in captions}, "stale captions: make figures"
    assert {path.stem for path in captions} == drawn


def test_interval_counts_images_and_seeds() -> None:
    """Against the formula by hand, and by coverage: seeds that differ widen the interval, images
    alone do not."""
    rng = np.random.default_rng(0)
    inside, n, seeds = 0, 320, 3
    groups = np.arange(n) % common.GROUPS
    for _ in range(400):
        shared, offsets = rng.normal(size=n), rng.normal(scale=0.3, size=seeds)
        each = [common.deleted(lambda m: m, groups, shared + offset) for offset in offsets]
        found = common.with_interval(each)
        inside += found["low"] <= 0 <= found["high"]
    assert 0.93 <= inside / 400 <= 1.0
    value = np.mean([e[0] for e in each])
    by_group = np.array([shared[groups == g].mean() for g in range(common.GROUPS)])
    images = 2.1314 * by_group.std(ddof=1) / 4
    over_seeds = 4.3027 * np.std(offsets, ddof=1) / np.sqrt(3)
    assert found["high"] - found["value"] == pytest.approx(np.hypot(images, over_seeds), rel=1e-3)
    assert found["value"] == pytest.approx(value)
    same = common.with_interval([each[0]] * 3, [each[0]] * 3)
    assert same["low"] == same["high"] == 0
    assert not common.excludes_zero(same)


@pytest.mark.parametrize(
    ("said", "published", "verdict"),
    [
        ({-1}, -1, "reproduced"),
        ({1}, -1, "not reproduced"),
        ({0, 1}, -1, "undecided"),
        ({0}, -1, "undecided"),
        ({-1, 0}, -1, "undecided"),
        ({-1, 1}, -1, "undecided"),
    ],
)
def test_verdict(said: set[int], published: int, verdict: str) -> None:
    assert common.verdict(said, published) == verdict


def difference(low: float, high: float, least: float, **more: Any) -> decisions.Difference:
    return decisions.Difference("d", (low + high) / 2, low, high, least, 512, **more)


@pytest.mark.parametrize(
    ("low", "high", "least", "outcome"),
    [
        (0.1, 0.3, 0.2, "shown"),
        (0.1, 0.15, 0.2, "sign only"),
        (0.1, 0.3, np.inf, "sign only"),
        (-0.3, -0.1, 0.2, "opposite"),
        (-0.3, -0.1, np.inf, "opposite"),
        (-0.3, 0.1, 0.2, "absent"),
        (-0.3, 0.1, np.inf, "open"),
        (-0.3, 0.3, 0.2, "open"),
        (-0.3, -0.1, -0.2, "shown"),
        (0.1, 0.3, -0.2, "opposite"),
        (-0.1, 0.3, -0.2, "absent"),
    ],
)
def test_what_an_interval_says(low: float, high: float, least: float, outcome: str) -> None:
    assert difference(low, high, least).outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(-0.1, 0.1, "absent"), (-0.5, -0.3, "shown"), (0.1, 0.3, "open"), (-0.3, 0.0, "open")],
)
def test_what_an_interval_says_of_a_change_of_either_sign(
    low: float, high: float, outcome: str
) -> None:
    assert difference(low, high, 0.2, either=True).outcome == outcome


def test_a_claim_holds_with_all_of_its_parts_and_falls_with_one() -> None:
    shown, sign = difference(0.1, 0.3, 0.2), difference(0.1, 0.15, 0.2)
    opposite, absent = difference(-0.9, -0.3, 0.2), difference(-0.3, 0.0, 0.2)
    still = difference(-0.3, 0.3, 0.2)
    assert decisions.verdict([shown, shown]) == "reproduced"
    assert decisions.verdict([shown, sign]) == "in sign only"
    assert decisions.verdict([shown, still]) == decisions.verdict([sign, still]) == "undecided"
    for fallen in ([opposite, shown], [absent, shown], [opposite, still], [absent, opposite]):
        assert decisions.verdict(fallen) == "not reproduced"


def test_a_part_that_falls_is_corrected_for_the_number_of_parts() -> None:
    barely = difference(-0.3, -0.001, 0.02)
    still = difference(-0.3, 0.3, 0.02)
    assert barely.outcome == "opposite"
    assert decisions.verdict([barely]) == "not reproduced"
    assert decisions.verdict([barely, still, still]) == "undecided"
    wide = difference(-1.0, 1.0, 0.2).widened(5)
    assert wide.high == pytest.approx(2.9467 / 2.1314, rel=1e-3)  # t of 15 at 99.5 and 97.5 %


def test_claims_of_no_difference_and_of_some_difference() -> None:
    near, far = (difference(*ends, 0.2, either=True) for ends in ((-0.1, 0.1), (0.3, 0.5)))
    still = difference(-0.3, 0.3, 0.2, either=True)
    assert decisions.same([near, near]) == decisions.changed([far, near]) == "reproduced"
    assert decisions.same([far, near]) == decisions.changed([near, near]) == "not reproduced"
    assert decisions.same([near, still]) == decisions.changed([near, still]) == "undecided"


def test_wrong_verdicts_of_claims_with_several_parts_are_rare() -> None:
    """A claim that is true in four parts falls in at most 5 % of simulated studies."""
    rng = np.random.default_rng(1)
    falls, repetitions = 0, 3000
    for _ in range(repetitions):
        spread = 0.3 * np.sqrt(rng.chisquare(15, 4) / 15)
        values = 0.2 + 0.3 * rng.standard_normal(4)
        parts = [
            difference(v - 2.1314 * s, v + 2.1314 * s, 0.2)
            for v, s in zip(values, spread, strict=True)
        ]
        falls += decisions.verdict(parts) == "not reproduced"
    assert falls / repetitions < 0.06


def test_the_sample_size_decides_as_often_as_it_says() -> None:
    """Simulated studies of the stated size decide nine times in ten, whether there is no effect or
    one of twice the least that counts."""
    rng = np.random.default_rng(0)
    least, error, repetitions = 0.2, 0.3, 4000
    pilot = difference(-common.T_IMAGES * error, common.T_IMAGES * error, least)
    assert pilot.outcome == "open"
    planned = error / np.sqrt(pilot.factor)
    for truth, wanted in ((0.0, ("absent", "opposite")), (2 * least, ("shown",))):
        hits = 0
        for _ in range(repetitions):
            spread = planned * np.sqrt(rng.chisquare(common.GROUPS - 1) / (common.GROUPS - 1))
            value = truth + planned * rng.standard_normal()
            half = common.T_IMAGES * spread
            hits += difference(value - half, value + half, least).outcome in wanted
        assert hits / repetitions > 0.87


def test_sensitivity_of_features() -> None:
    """The ratio's interval holds the truth, and a corruption that does nothing has the floor."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        floors = rng.gamma(20, 1 / 20, 24)
        far = 1.5 * floors + 0.05 * rng.standard_normal(24)
        found = feature_sensitivity.ratio(far, floors)
        inside += found["low"] <= 1.5 <= found["high"]
    assert inside / 300 > 0.9
    assert feature_sensitivity.ratio(floors, floors)["low"] == 1.0
    images = rng.integers(0, 256, (16, 1, 14, 14), dtype=np.uint8)
    for name, change in feature_sensitivity.CORRUPTIONS.items():
        assert np.array_equal(change(images), images) == (name == "none"), name
