"""Every command in README and docs is one that eb-analyze understands, and pages' code runs."""

import re
import shlex
from pathlib import Path

import pytest

from exposure_bias.cli import parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# The changelog and the decisions tell of commands that were.
PAGES = [p for p in PAGES if p.name != "changelog.md" and "generated" not in p.parts]


def commands(page: Path) -> list[str]:
    """What stands after `eb-analyze` in code, with continued lines joined and comments cut."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    code = "\n".join([*blocks, *re.findall(r"`(eb-analyze [^`]*)`", prose)])
    lines = code.replace("\\\n", " ").splitlines()
    return [
        line.split("eb-analyze ", 1)[1].split(" > ")[0].split("  #")[0].strip()
        for line in lines
        if "eb-analyze " in line and not line.lstrip().startswith("#")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        words = [word for word in shlex.split(command) if word not in ("…", "...")]
        if len(words) < 2:  # the name alone
            continue
        try:
            parser().parse_args(words)
        except SystemExit as end:
            if end.code:
                pytest.fail(f"{page.name}: eb-analyze {command}\n{capsys.readouterr().err}")


def test_the_page_about_files_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    page = (ROOT / "docs" / "open-a-result.md").read_text()
    scope: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "open-a-result.md", "exec"), scope)
    assert (tmp_path / "my-spectrum.pdf").stat().st_size > 1000
