"""States of any rank, from a point in the plane to a clip of video, by the same lines and commands
as images; held to closed forms."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.cli import main

SCHEDULE = eb.schedules.linear()
SHAPES = {
    "vector": (64,),
    "point": (2,),
    "signal": (2, 256),
    "video": (3, 2, 8, 8),
    "volume": (1, 4, 5, 7),
    "pixel": (1, 1, 1),
    "strip": (1, 2, 3),
    "prime": (2, 7, 11),
}
STEPS = 4


def law(shape: tuple[int, ...]) -> np.ndarray:
    return np.geomspace(0.02, 0.5, int(np.prod(shape)))


def model(shape: tuple[int, ...]) -> eb.Denoiser:
    return eb.oracles.GaussianOracle(np.zeros(shape), law(shape), SCHEDULE)


def array(shape: tuple[int, ...], n: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(n, *shape)) * np.sqrt(law(shape)).reshape(shape)
    return x.astype(np.float32)


def gap(shape: tuple[int, ...], variance: np.ndarray) -> np.ndarray:
    """Of a ddpm chain along its levels, coordinate by coordinate, for data of these variances."""
    lam, levels, found = law(shape), SCHEDULE.levels(STEPS), []
    here = levels[0].alpha ** 2 * variance + levels[0].sigma ** 2
    for s, t in pairwise(levels):
        gain = s.alpha * lam / (s.alpha**2 * lam + s.sigma**2)
        step = s.sigma**2 - (s.alpha / t.alpha * t.sigma) ** 2
        factor = s.alpha / t.alpha * (t.sigma / s.sigma) ** 2 + t.alpha * step / s.sigma**2 * gain
        here = factor**2 * here + step * (t.sigma / s.sigma) ** 2
        found.append(here.sum() / (t.alpha**2 * variance + t.sigma**2).sum() - 1)
    return np.array(found)


@pytest.mark.parametrize("name", SHAPES)
def test_the_gap_is_the_closed_form(name: str) -> None:
    shape = SHAPES[name]
    n = 2048 if np.prod(shape) < 100 else 256
    x = array(shape, n)
    data = eb.load_data(x, value_range=None).fitted(shape)
    rec = eb.record(model(shape), data, steps=STEPS, n=n, streams=("chain", "forward"))
    found = eb.variance_gap(rec)
    truth = gap(shape, x.reshape(n, -1).var(0))
    off = np.abs(found["gap"].values[1:] - truth) / found["gap_se"].values[1:]
    assert (off < 4.5).all()
    assert np.isfinite(found["gap_se"].values[1:]).all()


@pytest.mark.parametrize("name", [k for k, shape in SHAPES.items() if len(shape) == 1])
def test_states_without_space_have_no_spectrum_and_say_what_they_have(name: str) -> None:
    shape = SHAPES[name]
    rec = eb.record(model(shape), eb.load_data(array(shape, 64), value_range=None), steps=STEPS)
    with pytest.raises(eb.InputError, match=r"space|vector"):
        eb.spectrum(rec)


@pytest.mark.parametrize("name", [k for k, shape in SHAPES.items() if len(shape) > 1])
def test_white_states_have_a_white_spectrum_over_whatever_axes_there_are(name: str) -> None:
    shape = SHAPES[name]
    x = np.random.default_rng(0).normal(0, 0.5, (256, *shape)).astype(np.float32)
    data = eb.load_data(x, value_range=None).fitted(shape)
    rec = eb.record(eb.oracles.GaussianOracle(np.zeros(shape), 0.25, SCHEDULE), data, steps=40)
    found = eb.spectrum(rec)
    ratio = found["ratio"].isel(step=-2)
    assert np.isfinite(ratio).any()
    assert np.nanmax(np.abs(np.log(ratio))) < 0.6  # all bands alike, but for few modes' noise


COMMANDS = ("gap", "spectrum", "rollout", "telescope", "chain-fid", "compare", "diagnose", "budget")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vector", "signal", "video", "volume", "strip"])
def test_every_command_takes_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = SHAPES[name]
    monkeypatch.chdir(tmp_path)
    Path(f"law_of_{name}.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_ranks as t, exposure_bias as eb\n"
        f"def model(): return t.model({shape!r})\n"
        f"def data(): return eb.load_data(t.array({shape!r}, 64), value_range=None)\n"
    )
    for command in COMMANDS:
        if command == "spectrum" and len(shape) == 1:
            continue
        options: list[Any] = ["--data", f"law_of_{name}:data", "-n", "64"]
        given = [f"law_of_{name}:model"]
        options += given * 2 if command == "compare" else ["--model", *given]
        options += ["--lengths", "3"] if command == "chain-fid" else ["--steps", "3"]
        options += ["--features", "pixel"] if command == "chain-fid" else []
        drawn = ["-o", command] if name == "video" else []
        assert main([command, *options, "--json", *drawn]) in (None, 0), command
        assert json.loads(capsys.readouterr().out)
        assert not drawn or list(Path(command).glob("*.pdf"))


def test_rank_0_and_rank_5_are_refused() -> None:
    for shape in ((), (1, 2, 2, 2, 2)):
        with pytest.raises(eb.InputError, match=r"vector \(D,\)"):
            eb.Denoiser(
                torch.nn.Identity(), schedule=SCHEDULE, prediction_type="epsilon", shape=shape
            )
        with pytest.raises(eb.InputError):
            eb.load_data(np.zeros((8, *shape), np.float32), value_range=None)
