"""The studies of analyses/: every one runs as a rehearsal, docs/results.md is what their results
say, figures draw."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "analyses"))

import common  # noqa: E402
import results_table  # noqa: E402
import studies  # noqa: E402


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


@pytest.mark.parametrize(
    "command", [["train_classifier.py"], ["train_bundled.py", "--only", "digits"]]
)
def test_the_bundled_models_can_be_trained(command: list[str]) -> None:
    subprocess.run(
        [sys.executable, ROOT / "analyses" / command[0], *command[1:], "--smoke"],
        check=True,
        timeout=300,
    )


def test_every_study_is_in_the_table() -> None:
    tools = {"common", "studies", "results_table", "decisions", "published_delta", "box_average"}
    tools |= {"galaxies", "feature_sensitivity", "gpu_campaign", "precision"}
    outside = tools | {"train_bundled", "train_classifier"}
    assert set(studies.ORDER) == {path.stem for path in (ROOT / "analyses").glob("*.py")} - outside
    assert set(studies.ORDER) == {*studies.UNTRAINED, *studies.TRAINED}


def test_results_page_is_fresh() -> None:
    assert results_table.PAGE.read_text() == results_table.page(), (
        "run python analyses/results_table.py"
    )


def test_results_are_of_the_default_scale() -> None:
    for name in studies.ORDER:
        path = common.RESULTS / name / "run.json"
        if path.exists():
            default = importlib.import_module(name).DEFAULT
            recipe = (
                common.training(common.Settings(**default, smoke=False))
                if "seeds" in default
                else None
            )
            assert common.finished(path.parent, default, recipe), f"{name}: not the default scale"


def test_figures_draw_from_the_results_alone(tmp_path: Path) -> None:
    """Each study that was run has its picture, and two runs give the same bytes."""
    captions = {path: path.read_text() for path in (ROOT / "figures" / "captions").glob("*.md")}
    for folder in ("one", "two"):
        subprocess.run([sys.executable, ROOT / "figures" / "all.py", tmp_path / folder], check=True)
    run = {path.parent.name for path in common.RESULTS.glob("*/run.json")} & set(studies.ORDER)
    assert {path.stem for path in (tmp_path / "one").iterdir()} == run
    for one in (tmp_path / "one").iterdir():
        assert one.read_bytes() == (tmp_path / "two" / one.name).read_bytes(), (
            f"{one.name} is not deterministic"
        )
    assert captions == {path: path.read_text() for path in captions}, "stale captions: make figures"
    assert {path.stem for path in captions} == run


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
