"""What a run leaves on the disk for itself, changed by somebody else: checkpoints and caches."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import worlds
from trials import Silent, Trial

import exposure_bias as eb

Generator = np.random.Generator
Tamper = Callable[[dict[str, Any]], Any]


class Stopped(Exception):
    """A training that ends early, as a kill would end it."""


def stopped_training(folder: Path, after: int = 5) -> None:
    """A training of 8 iterations that ended after a few."""
    step, done = torch.optim.AdamW.step, [0]

    def counted(self: Any, *given: Any, **options: Any) -> Any:
        done[0] += 1
        if done[0] > after:
            raise Stopped
        return step(self, *given, **options)

    torch.optim.AdamW.step = counted  # type: ignore[method-assign]
    try:
        worlds.training(folder)
    except Stopped:
        pass
    finally:
        torch.optim.AdamW.step = step  # type: ignore[method-assign]


def _state(model: Any) -> dict[str, Any]:
    return dict(model.net.state_dict())


def trainings(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """`trainer.pt`, changed and resumed from: the same weights, or a refusal."""
    expected = _state(worlds.training(honest / "straight"))
    stopped_training(honest / "run")

    def tried(tamper: Tamper) -> Callable[[Path], object]:
        def run(folder: Path) -> object:
            shutil.copytree(honest / "run", folder / "run", symlinks=True)
            path = folder / "run" / "last" / "trainer.pt"
            state = torch.load(path, weights_only=True)
            changed = tamper(state)
            torch.save(state if changed is None else changed, path)
            found = _state(worlds.training(folder / "run", resume=True))
            if not all(torch.equal(found[k], v) for k, v in expected.items()):
                raise Silent("other weights than those of a run left alone")
            return "the same weights"

        return run

    def group(name: str, value: Any) -> Tamper:
        return lambda s: s["optimizer"]["param_groups"][0].__setitem__(name, value)

    def field(name: str, value: Any) -> Tamper:
        return lambda s: s.__setitem__(name, value)

    def averaged(value: int) -> Tamper:
        return lambda s: s["ema"].__setitem__("n_averaged", torch.tensor(value))

    def moments(name: str, value: Any) -> Tamper:
        def change(state: dict[str, Any]) -> None:
            for kept in state["optimizer"]["state"].values():
                kept[name] = torch.full_like(kept[name], value)

        return change

    def weight(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tamper:
        def tampered(state: dict[str, Any]) -> None:
            names = [k for k, v in state[part].items() if v.is_floating_point()]
            name = names[int(rng.integers(len(names)))]
            state[part][name] = change(state[part][name])

        return tampered

    tampers: dict[str, Tamper] = {
        **{f"lr {v}": group("lr", v) for v in (0.5, float("nan"), -1.0, "x")},
        **{f"weight decay {v}": group("weight_decay", v) for v in (0.5, float("nan"))},
        **{f"betas {v}": group("betas", v) for v in ((0.0, 0.0), (2, 2), "x", ())},
        **{f"eps {v}": group("eps", v) for v in (1.0, 0.0)},
        "maximise": group("maximize", True),
        "amsgrad": group("amsgrad", True),
        "capturable": group("capturable", True),
        "not fused": group("fused", False),
        "params": group("params", [0]),
        "params twice": lambda s: s["optimizer"]["param_groups"].append(
            s["optimizer"]["param_groups"][0]
        ),
        **{f"{v} averaged": averaged(v) for v in (0, 1, 3, 10**12, -5)},
        "averaged as a fraction": lambda s: s["ema"].__setitem__("n_averaged", torch.tensor(4.5)),
        **{f"iteration {v}": field("iteration", v) for v in
           (0, 3, 5, 7, 8, 9, 10**12, -1, 4.5, True, "4", None, float("nan"))},
        **{f"best {v}": field("best", v) for v in
           (0.0, -1.0, float("nan"), float("inf"), "x", None)},
        **{f"steps {v}": moments("step", v) for v in (0, 3, 1e6, float("nan"), -1)},
        **{f"exp_avg {v}": moments("exp_avg", v) for v in (float("nan"), float("inf"))},
        **{f"exp_avg_sq {v}": moments("exp_avg_sq", v) for v in (float("nan"), -1.0)},
        "no moments": lambda s: s["optimizer"]["state"].clear(),
        "moments of one weight": lambda s: s["optimizer"]["state"].pop(0),
        "moments of another": lambda s: s["optimizer"]["state"].__setitem__(
            0, s["optimizer"]["state"][1]
        ),
        **{f"{part} {what}": weight(part, change)
           for part in ("net", "ema")
           for what, change in {
               "NaN": lambda v: v * float("nan"),
               "doubled": lambda v: 2 * v,
               "in half": lambda v: v.half(),
               "in double": lambda v: v.double(),
               "whole": lambda v: v.long(),
               "a view": lambda v: v.flatten()[:1].expand(v.numel()).view(v.shape),
               "another shape": lambda v: v[None],
               "empty": lambda v: v[:0],
           }.items()},
        "a list": lambda s: [s],
        "more": field("more", 1),
        "no net": lambda s: s.pop("net"),
        "no ema": lambda s: s.pop("ema"),
        "no optimizer": lambda s: s.pop("optimizer"),
    }  # fmt: skip
    for what, tamper in tampers.items():
        yield Trial("training checkpoints", what, tried(tamper))
    size = (honest / "run" / "last" / "trainer.pt").stat().st_size
    for i in range(max(0, count - len(tampers))):
        places = rng.integers(0, size, 1 + i % 3)

        def run(folder: Path, places: Any = places) -> object:
            shutil.copytree(honest / "run", folder / "run", symlinks=True)
            path = folder / "run" / "last" / "trainer.pt"
            content = bytearray(path.read_bytes())
            for place in places:
                content[place] ^= 1 << int(place) % 8
            path.write_bytes(bytes(content))
            found = _state(worlds.training(folder / "run", resume=True))
            if not all(torch.equal(found[k], v) for k, v in expected.items()):
                raise Silent("other weights than those of a run left alone")
            return "the same weights"

        yield Trial("training checkpoints", f"damage {i}", run)


def folders_of_training(rng: Generator, count: int, honest: Path) -> Iterator[Trial]:
    """What else may lie where a training writes: nothing of it may be lost, or taken for ours."""
    del rng, count

    def kept(what: str, make: Callable[[Path], Any], name: str) -> Trial:
        def run(folder: Path) -> object:
            out = folder / "out"
            out.mkdir()
            make(out)
            before = {p.name for p in out.iterdir()}
            try:
                worlds.training(out, iterations=2)
            except eb.InputError:
                lost = before - {p.name for p in out.iterdir()}
                if lost:
                    raise Silent(f"{lost} is gone") from None
                raise
            if not (out / name).exists():
                raise Silent(f"{name} is gone")
            return "kept"

        return Trial("folders of trainings", what, run)

    def folder_with(name: str) -> Callable[[Path], None]:
        def make(out: Path) -> None:
            (out / name).mkdir()
            (out / name / "mine.txt").write_text("mine")

        return make

    names = ("iteration-of-mine", "iteration-0000001", ".partial-of-mine", "samples", ".partial-1x")
    for name in names:
        yield kept(f"a folder {name}", folder_with(name), f"{name}/mine.txt")
    yield kept("a file iteration-x", lambda o: (o / "iteration-x").write_text("x"), "iteration-x")

    def orphan(out: Path) -> None:
        shutil.copytree(honest / "run", out, symlinks=True, dirs_exist_ok=True)
        (out / "last").unlink()
        (out / "best").unlink(missing_ok=True)

    iteration = os.readlink(honest / "run" / "last")
    yield kept("a checkpoint without a link", orphan, f"{iteration}/trainer.pt")


def caches(rng: Generator, count: int) -> Iterator[Trial]:
    """Features that were kept on the disk, of other images, other networks, or of nothing."""
    from exposure_bias.fidelity import features

    matrix = torch.from_numpy(np.random.default_rng(3).normal(size=(16, 8))).float()

    def call(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = images.float().flatten(1) @ matrix / 255
        return found, found[:, :5]

    extractor = features.Extractor("stand-in 1", "FID", call, costly=True)
    ids = np.arange(64)

    def damaged(arrays: dict[str, Any], what: str, value: float) -> dict[str, Any] | None:
        pool, spatial = arrays["pool"], arrays["spatial"]
        changes: dict[str, Any] = {
            "10 rows": {"pool": pool[:10], "spatial": spatial[:10]},
            "128 rows": {"pool": np.tile(pool, (2, 1)), "spatial": np.tile(spatial, (2, 1))},
            "another width": {"pool": pool[:, :4]},
            "a wider one": {"pool": np.tile(pool, 2)},
            "no rows": {"pool": pool[:0], "spatial": spatial[:0]},
            "zeros": {"pool": 0 * pool, "spatial": 0 * spatial},
            "zeros of spatial features": {"spatial": 0 * spatial},
            "a constant": {"pool": 0 * pool + value},
            "another order": {"pool": pool[::-1], "spatial": spatial[::-1]},
            "doubled": {"pool": 2 * pool},
            "NaN": {"pool": pool * np.nan},
            "infinity": {"pool": pool + np.inf},
            "texts": {"pool": np.array(["a"] * 64)},
            "whole numbers": {"pool": pool.astype(np.int64)},
            "complex": {"pool": pool.astype(complex)},
            "flat": {"pool": pool.ravel()},
            "deep": {"pool": pool[None]},
            "a number": {"pool": np.float32(1)},
            "one row of NaN": {"pool": np.where(np.arange(64)[:, None] == 7, np.nan, pool)},
            "rows exchanged": {"pool": pool[np.r_[1, 0, 2:64]]},
            "float64": {"pool": pool.astype(np.float64)},
        }
        if what == "no pool":
            return {"spatial": spatial}
        if what == "no spatial":
            return {"pool": pool}
        if what == "more":
            return {**arrays, "more": np.zeros(3)}
        return {**arrays, **changes[what]}

    kinds = [
        *("10 rows", "128 rows", "another width", "a wider one", "no rows", "zeros"),
        *("zeros of spatial features", "a constant", "another order", "doubled", "NaN"),
        *("infinity", "texts", "whole numbers", "complex", "flat", "deep", "a number"),
        *("one row of NaN", "rows exchanged", "float64", "no pool", "no spatial", "more"),
    ]
    for i in range(count):
        what = kinds[i % len(kinds)]
        value = float(rng.normal())

        def run(folder: Path, what: str = what, value: float = value) -> object:
            os.environ[features.CACHE] = str(folder)
            data = worlds.images()
            # Costly features are kept; what is taken from the disk must be what was put there.
            honest = features.extract_real(extractor, data, ids)
            (path,) = folder.glob("features-*.npz")
            with np.load(path) as kept:
                changed = damaged({k: kept[k] for k in kept.files}, what, value)
            np.savez(path, **changed)
            again = features.extract_real(extractor, data, ids)
            for one, two in ((honest.pool, again.pool), (honest.spatial, again.spatial)):
                if two is None or not np.array_equal(one.features, two.features):
                    raise Silent("other features than those of the images")
            return "the same features"

        yield Trial("feature caches", f"{what} ({i})", run)
