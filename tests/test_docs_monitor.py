"""docs/monitor.md: its code runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "monitor.md"


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), scope)
    said = capsys.readouterr().out
    shown = re.search(r"^    (every 10 steps: .*)$", PAGE.read_text(), re.MULTILINE)
    assert shown is not None
    without_time = re.compile(r"about \S+ s")
    assert without_time.sub("", said.strip()) == without_time.sub("", shown[1])
    rows = (tmp_path / "monitor.csv").read_text().splitlines()
    values = "gap,gap_se,gap_perfect,hf,hf_se,hf_perfect,forward_loss,forward_loss_se"
    assert rows[0] == f"step,{values},settings"
    assert [row.partition(",")[0] for row in rows[1:]] == ["10", "20"]
