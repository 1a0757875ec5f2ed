"""From a command to its page each result is computed once, and nothing that it wrote is read."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.results import kind as kinds

SHAPE = (1, 4, 4)
CALLS: Counter[str] = Counter()
READ: list[Path] = []
UNDER: list[Path] = []  # the folder whose files are watched


def images() -> Any:
    """Gaussian images, as many as intervals take."""
    draws = np.random.default_rng(0).normal(0, 0.3, (256, *SHAPE))
    return eb.load_data(draws.astype(np.float32), value_range=None)


class Counted(torch.nn.Module):
    """A linear noise prediction that counts the images that it is asked about."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return nearly what is perfect for white data of variance 0.09."""
        CALLS["images"] += len(x)
        sigma = 1 - torch.exp(-1e-4 * t - 0.995e-5 * t**2)
        scale = sigma.sqrt() / (sigma + 0.1 * (1 - sigma))
        return x * scale.reshape(-1, 1, 1, 1).to(x)


def model() -> eb.Denoiser:
    """The network as a command loads it."""
    return eb.Denoiser(
        Counted(),
        schedule=eb.schedules.linear(1000),
        prediction_type="epsilon",
        shape=SHAPE,
        call=lambda net, x, t: net(x, t),
        name="counted",
    )


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Remember which regular files of the watched folder are opened for reading."""
    if event != "open" or not UNDER or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    path = Path(os.fsdecode(arguments[0]))
    reads = isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE == os.O_RDONLY
    if reads and path.is_relative_to(UNDER[0]) and stat.S_ISREG(os.stat(path).st_mode):
        READ.append(path)


sys.addaudithook(_watch)  # for the whole process, and idle but for these tests


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each kind of result is made, while opened files and calls are counted."""
    made: Counter[str] = Counter()
    whole = kinds.of_kind

    def counting(dataset: xr.Dataset, kind: Any) -> xr.Dataset:
        made[kind.name] += 1
        return whole(dataset, kind)

    monkeypatch.setattr(kinds, "of_kind", counting)
    READ.clear()
    UNDER[:] = [tmp_path / "out"]
    CALLS.clear()
    yield made
    UNDER.clear()


RUN = ["--model", "test_in_memory:model", "--data", "test_in_memory:images", "--steps", "4"]


def test_a_diagnosis_and_its_page(watched: Counter[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["diagnose", *RUN, "--restarts", "--quick", "-q", "-o", str(out)]) == 0
    asked = CALLS["images"]
    assert (out / "report.html").exists()
    page = (out / "report.html").read_text()  # by the test itself
    assert READ.pop() == out / "report.html"
    assert not READ
    assert {"variance_gap", "spectrum"} <= set(watched)  # of the recording, for the page
    assert not {name: n for name, n in watched.items() if n > 1}
    assert 'id="diagnose"' in page
    assert 'id="variance-gap"' in page
    CALLS.clear()
    eb.diagnose(model(), images(), steps=4, restarts=(), quick=True)
    assert asked == CALLS["images"]


def test_a_diagnostic_that_records_first(watched: Counter[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["gap", *RUN, "-q", "-o", str(out)]) == 0
    assert not READ
    assert watched["variance_gap"] == 1
    asked = CALLS["images"]
    CALLS.clear()
    eb.record(model(), images(), steps=4)
    assert asked == CALLS["images"]


def test_what_lies_beside_it_is_on_the_page(tmp_path: Path) -> None:
    out = str(tmp_path)
    assert main(["gap", *RUN, "-q", "-o", out]) == 0
    assert main(["rollout", *RUN, "-q", "-o", out]) == 0
    page = (tmp_path / "report.html").read_text()
    assert 'id="rollouts"' in page
    assert 'id="variance-gap"' in page
