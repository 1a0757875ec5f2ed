"""Every command, killed once and resumed: the same bits. More kills: tests/fuzz/kills.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "fuzz" / "kills.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "commands",
    [
        ["record", "train"],
        ["chain-fid", "rollouts", "telescope"],
        ["error-hist", "compare"],
        ["diagnose"],
    ],
    ids=" ".join,
)
def test_killed_and_resumed(commands: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "1", *commands], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:] if line]
    assert [row[0] for row in rows] == commands
    assert all(row[-1] == "0" for row in rows)
