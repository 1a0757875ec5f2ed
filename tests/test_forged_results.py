"""Results, checkpoints and points that somebody forged: one line, whatever they hold."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias import files
from exposure_bias.cli import main, output
from exposure_bias.data import Data
from exposure_bias.running import loop
from exposure_bias.statistics.accumulator import Sums

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import forgeries

SHAPE = (1, 4, 4)


def model(scale: float = 0.1) -> eb.Denoiser:
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), scale, eb.schedules.linear(1000))


def images() -> Data:
    x = np.random.default_rng(0).normal(0, 0.3, (64, *SHAPE)).clip(-1, 1)
    return eb.load_data(x.astype(np.float32))


RUN: dict[str, Any] = {"n": 64, "batch_size": 64}
RESULTS: dict[str, tuple[str, Callable[[], xr.Dataset]]] = {
    "rollouts": ("rollout", lambda: eb.rollouts(model(), images(), steps=3, **RUN)),
    "telescope": ("telescope", lambda: eb.telescope(model(), images(), steps=3, **RUN)),
    "budget": (
        "budget",
        lambda: eb.error_budget(model(), images(), steps=3, restarts=[], **RUN),
    ),
    "chain-errors": ("errors", lambda: eb.chain_errors(model(), images(), (3,), **RUN)),
    "chain-length-fid": (
        "chain-fid",
        lambda: eb.chain_length_fid(model(), images(), (2, 3), features="pixel", **RUN),
    ),
}


def honest(command: str, folder: Path) -> bytes:
    """The file that a command writes."""
    name, run = RESULTS[command]
    path = folder / f"{name}.nc"
    kind = "chain errors" if name == "errors" else name
    files.write_tree(path, xr.DataTree(run()), {"kind": kind, "made": {}})
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", RESULTS)
def test_a_forged_result_is_one_line(command: str, tmp_path: Path, capsys: Any) -> None:
    content = honest(command, tmp_path)
    (tmp_path / "forged.nc").write_bytes(content)
    assert main([command, str(tmp_path / "forged.nc")]) == 0
    forged = [
        *forgeries.shapes(content),
        *forgeries.structures(content),
        *forgeries.stories(content),
    ]
    some = np.random.default_rng(0).permutation(len(forged))[:20]
    read = 0
    for what, make in (forged[i] for i in some):
        try:
            bytes_ = make()
        except (KeyError, ValueError, TypeError):
            continue  # a change that this file has no place for
        (tmp_path / "forged.nc").write_bytes(bytes_)
        capsys.readouterr()
        code = main([command, str(tmp_path / "forged.nc")])
        said = capsys.readouterr().err
        assert code == 0 or (code == 2 and said.count("\n") == 1), f"{what}: {said}"
        read += code == 0
    assert read < len(some) / 2


@pytest.mark.parametrize(
    "spans",
    [
        *([[0, 10**18]], [[-1, 3]], [[5, 2]], [[0.0, 1]], [[0, 1, 2]], [["a", "b"]], [[True, 2]]),
        *(None, 3, [], [[]], [[0, 3], [2, 5]], {"a": 1}),
    ],
)
def test_rows_that_are_none(spans: Any) -> None:
    assert loop._rows(spans, 8) is None


def test_rows_as_they_were_written() -> None:
    for rows in (np.arange(0), np.array([0, 1, 5, 6, 7])):
        np.testing.assert_array_equal(loop._rows(loop._spans(rows), 8), rows)


def test_sums_of_texts_are_not_restored() -> None:
    sums = Sums()
    sums.add_sum("total", step=2)
    with pytest.raises(eb.InputError, match="does not hold total"):
        sums.restore({"total": np.array(["a", "b"])}, np.arange(0))


def test_forged_points_of_a_curve(tmp_path: Path) -> None:
    def curve() -> xr.Dataset:
        return eb.chain_length_fid(
            model(), images(), (2,), features="pixel", checkpoint=tmp_path, **RUN
        )

    curve()
    (point,) = tmp_path.glob("*.nc")
    content = point.read_bytes()
    for change in (
        forgeries.without("frechet_jackknife"),
        forgeries.instead("kid_jackknife", lambda f, n: f.create_dataset(n, data=1)),
    ):
        point.write_bytes(forgeries.changed(content, change)())
        with pytest.raises(eb.InputError, match=r"remove it, and it is measured again|cannot use"):
            curve()


@pytest.mark.filterwarnings("ignore")
def test_forged_checkpoints_of_training(tmp_path: Path) -> None:
    net = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
    brief: dict[str, Any] = {"iterations": 2, "batch_size": 4, "sample_every": 0}

    def train(**more: Any) -> None:
        eb.train(images().images, net=dict(net), out=tmp_path / "run", **brief | more)

    train()
    last = tmp_path / "run" / "last"
    known = {name: (last / name).read_bytes() for name in ("training.json", "training.csv")}
    state = torch.load(last / "trainer.pt", weights_only=True)
    forged: list[tuple[str, Any]] = [
        *(("training.json", text) for text in (b"[]", b"{}", b'{"run": 3}', b"[" * 10**5)),
        *(("training.csv", text) for text in (b"iteration,loss\na,b\n", b"\xff\xfe")),
        *(("trainer.pt", change) for change in ({"net": 3}, {"iteration": -1}, {"ema": {}})),
    ]
    for name, content in forged:
        if name == "trainer.pt":
            torch.save(state | content, last / name)
        else:
            (last / name).write_bytes(content)
        with pytest.raises(eb.InputError, match=r"checkpoint|other settings"):
            train(resume=True)
        torch.save(state, last / "trainer.pt")
        for kept, before in known.items():
            (last / kept).write_bytes(before)
    train(resume=True)


@pytest.mark.filterwarnings("ignore")
def test_a_mistake_of_ours_is_not_hidden_for_good(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rollout.nc"
    path.write_bytes(honest("rollouts", tmp_path))

    def mistaken(*_: Any, **__: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(output, "show", mistaken)
    assert main(["rollouts", str(path)]) == 2
    assert "please tell us what --verbose shows" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="ours"):
        main(["rollouts", str(path), "--verbose"])
