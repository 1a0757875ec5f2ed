"""What the studies share: their options, the `run.json` that says how a result was made, trained
models, intervals.

A study is a claim, the numbers published for it, and a function `measure(s, out)` that writes CSV
files into `out` and returns what it found. Its settings are the constants at the top of its file,
each also an option of its command line:

    python analyses/STUDY.py                  # the default scale; nothing if it was done already
    python analyses/STUDY.py --smoke          # an exact denoiser, seconds, a temporary folder
    python analyses/STUDY.py --data fashion   # other data, into results/STUDY-DATA

A model of other data is --model, or --ip for its twin.

A difference is called one only if its 95 % interval excludes zero. Between trained models the
interval counts images (delete-one-group jackknife, 16 groups, the same images and noise for all)
and training seeds: half-width² = (t₁₅ se_images)² + (t_{k−1} sd_seeds/√k)² for k seeds, trained on
the same draws seed by seed."""

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit

import exposure_bias as eb
from exposure_bias.experiments import limits
from exposure_bias.fidelity import classifier
from exposure_bias.training.trainer import divide, subset

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
RUNS = ROOT / "runs"  # not committed: checkpoints and samples' features, from which a study goes on
GROUPS, REFERENCE_IMAGES = 16, 10_000
T_IMAGES = float(stdtrit(GROUPS - 1, 0.975))
BUNDLED = ("digits", "fashion")
VERDICTS = (
    "reproduced",
    "in sign only",
    "not reproduced",
    "undecided",
    "not testable at this scale",
)
# About a minute a training of the digits on one core.
TRAINING = {
    "batch_size": 64,
    "learning_rate": 2e-3,
    "warmup": 100,
    "ema": 0.99,
    "evaluate_every": 500,
    "checkpoint_every": 500,
    "sample_every": 0,
}
HELD_OUT = 0.1  # the default of `eb.train`
SMOKE_TRAINING = {
    **TRAINING,
    "net": {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4},
}

Settings = SimpleNamespace
Array = np.ndarray


@dataclass(frozen=True)
class Study:
    """A claim: where it is made, what was published.

    name: of the file and of the folder under results/. uses_limit: whether its numbers depend on
    how a network's limit is computed.
    """

    name: str
    claim: str
    source: str
    published: str
    uses_limit: bool = False

    @property
    def limit(self) -> str | None:
        """The rule by which this version computes limits; None where the study needs none."""
        return limits.RULE if self.uses_limit else None


@dataclass(frozen=True)
class Answer:
    """What a study found: one of VERDICTS, the numbers in words, and the scale they were measured
    at."""

    verdict: str
    text: str
    scale: str


def main(
    study: Study,
    measure: Callable[[Settings, Path], Answer],
    default: dict[str, Any],
    smoke: dict[str, Any],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a study from the command line.

    default: its settings; smoke: those that differ in a rehearsal.
    """
    parser = argparse.ArgumentParser(description=f"{study.claim} ({study.source})")
    parser.add_argument(
        "--smoke", action="store_true", help="a rehearsal in seconds, into a temporary folder"
    )
    parser.add_argument("--again", action="store_true", help="measure again what is there already")
    parser.add_argument(
        "--out", type=Path, help=f"default: results/{study.name}, or for other data …-DATA"
    )
    for key, value in default.items():
        many = isinstance(value, tuple)
        kind = type(value[0] if many else value) if value is not None else str
        parser.add_argument(f"--{key}", type=kind, nargs="+" if many else None)
    given = vars(parser.parse_args(argv))
    chosen = default | (smoke if given["smoke"] else {})
    chosen |= {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in given.items()
        if k in default and v is not None
    }
    folder = (
        study.name
        if chosen["data"] == default["data"]
        else f"{study.name}-{Path(chosen['data']).stem}"
    )
    if folder == study.name and chosen != default and not (given["smoke"] or given["out"]):
        parser.error(
            "other settings than the default would replace its result: say where to write, with"
            " --out"
        )
    out = given["out"] or (
        Path(tempfile.mkdtemp(prefix=folder)) if given["smoke"] else RESULTS / folder
    )
    s = Settings(**chosen, smoke=given["smoke"])
    recipe = training(s) if hasattr(s, "seeds") else None
    if finished(out, chosen, recipe, study.limit) and not given["again"]:
        print(f"{study.name}: done already, in {out}")
        return
    out.mkdir(parents=True, exist_ok=True)
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--again"]
    torch.set_num_threads(1)  # so that the numbers do not depend on the machine's cores
    since = time.perf_counter()
    answer = measure(s, out)
    if answer.verdict not in VERDICTS:
        raise ValueError(f"a verdict is one of {', '.join(VERDICTS)}, got {answer.verdict!r}")
    run = {
        **asdict(study),
        **asdict(answer),
        "command": " ".join(["python", f"analyses/{study.name}.py", *words]),
        "settings": chosen,
        "training": recipe,
        "data_hash": eb.load_data(s.data).hash,
        "versions": versions(),
        "limit": study.limit,
        "wall_seconds": round(time.perf_counter() - since, 1),
    }
    (out / "run.json").write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n")
    print(f"{study.name}: {answer.verdict}\n{answer.text}")


def finished(
    out: Path,
    settings: dict[str, Any],
    recipe: dict[str, Any] | None = None,
    limit: str | None = None,
) -> bool:
    """Whether `out` holds the result of these settings, way to train and rule for the limit."""
    path = out / "run.json"
    if not path.exists():
        return False
    run = json.loads(path.read_text())
    return (run["settings"], run.get("training"), run.get("limit")) == tuple(
        json.loads(json.dumps([settings, recipe, limit]))
    )


def versions() -> dict[str, str]:
    import diffusers

    return {
        "exposure_bias": eb.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write(table: pd.DataFrame, path: Path) -> None:
    """A tidy CSV, six digits."""
    table.to_csv(path, index=False, float_format="%.6g")


def images(s: Settings, split: str = "test") -> eb.data.Data:
    """A split of the study's data; of data without one, test images are those that the study's
    trainings hold out."""
    data = eb.load_data(s.data, split if s.data in BUNDLED else None)
    if s.data in BUNDLED or split == "train" or not hasattr(s, "seeds"):
        return data
    return divide(data, HELD_OUT)[1] or data


def unsplit(data: eb.data.Data) -> eb.data.Data:
    """The same images as plain data: what the empirical oracle is measured on are its own
    images."""
    return eb.load_data(data.batch(np.arange(len(data))))


def oracle(data: eb.data.Data, schedule: eb.schedules.Schedule | None = None) -> eb.Denoiser:
    """The exact denoiser of these images."""
    return eb.oracles.EmpiricalOracle(
        data.batch(np.arange(len(data))), schedule or eb.schedules.linear(1000)
    )


def model(s: Settings, which: str = "model") -> eb.Denoiser:
    """The study's pretrained DDPM, or with which="ip" its twin trained with input perturbation.

    Without --model and --ip these are the bundled ones of the data's name. In a rehearsal both are
    an oracle."""
    if s.smoke:
        exact = oracle(images(s))
        return exact if which == "model" else eb.remedies.ip_equivalent(exact, 0.1)
    return eb.load_model(getattr(s, which) or s.data + ("-ip" if which == "ip" else ""))


def has_models(s: Settings) -> bool:
    """Whether there is a pretrained pair for these data: the bundled one, or --model and --ip."""
    return s.smoke or s.data in BUNDLED or bool(s.model and s.ip)


def trained(
    s: Settings, objective: str, gamma: float | None = None, iterations: int | None = None
) -> list[Any]:
    """One model for each of the study's seeds; a training that was done, or begun, is not begun
    again.

    Studies share them: they lie in runs/trained/DATA/. In a rehearsal the network is smaller and
    nothing is kept."""
    iterations = iterations or s.iterations
    name = objective + (f"-{gamma:g}" if gamma else "") + f"-{iterations}"
    models = []
    for seed in range(s.seeds):
        out = None if s.smoke else RUNS / "trained" / Path(s.data).stem / f"{name}-seed{seed}"
        one = eb.train(
            s.data,
            objective=objective,
            gamma=gamma,
            iterations=iterations,
            seed=seed,
            out=out,
            resume=out is not None and (out / "last").exists(),
            **training(s),
        )
        one.name = f"{name}-seed{seed}"
        models.append(one)
    return models


def cells(s: Settings) -> Path | None:
    """Where chain-length curves keep their finished points, for all studies."""
    return None if s.smoke else RUNS / "cells" / Path(s.data).stem


def features(s: Settings) -> str:
    """Of the Fréchet distance: a bundled classifier where one knows such images, fixed random
    convolutions for others."""
    return "classifier" if classifier.of(eb.load_data(s.data).shape) else "random-conv"


def deleted(estimate: Callable[..., Array], groups: Array, *values: Array) -> Array:
    """estimate(*means) of all samples, then without each of the 16 groups: (17, …). values:
    (sample, …)."""
    kept = [np.full(len(groups), True), *(groups != g for g in range(GROUPS))]
    return np.stack([np.asarray(estimate(*(v[rows].mean(0) for v in values))) for rows in kept])


def jackknifed(values: Array) -> tuple[Array, Array]:
    """(value, standard error) of what `deleted` returned or of differences of it, (17, …)."""
    deviation = values[1:] - values[1:].mean(0)
    return values[0], np.sqrt((GROUPS - 1) / GROUPS * np.square(deviation).sum(0))


def with_interval(
    ours: Sequence[Array],
    theirs: Sequence[Array] | None = None,
    estimate: Callable[[Array], Any] = jackknifed,
) -> dict[str, Any]:
    """The mean over seeds of `ours` (less `theirs`, seed by seed) as value, low, high, and the
    number of seeds.

    ours, theirs: for each seed what `deleted` returned, or with `estimate=frechet` a jackknife of
    distances."""
    each = np.stack(ours) - (np.stack(theirs) if theirs is not None else 0.0)
    value, error = estimate(each.mean(0))
    half, k = T_IMAGES * error, len(each)
    if k > 1:
        by_seed = np.stack([estimate(one)[0] for one in each])
        half = np.hypot(half, stdtrit(k - 1, 0.975) * by_seed.std(0, ddof=1) / np.sqrt(k))
    return {"value": value, "low": value - half, "high": value + half, "seeds": k}


def frechet(values: Array) -> tuple[Array, Array]:
    """(bias-corrected distance, standard error) of the numbers `frechet_jackknife` of a
    chain-length curve."""
    from exposure_bias.jackknife import corrected

    return corrected(values)


def excludes_zero(row: Any) -> bool:
    """Whether an interval lies on one side of zero."""
    return bool(row["low"] > 0 or row["high"] < 0)


def told(row: Any, digits: int = 2) -> str:
    """value [low, high]."""
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def quietly(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A call whose warnings are expected: too few samples in a rehearsal, training images, clamped
    levels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **options)


def compare_objectives(
    s: Settings, families: dict[str, list[Any]], lengths: Sequence[int], sampler: str = "ddpm"
) -> pd.DataFrame:
    """Bias-corrected Fréchet distance of families of models, each over training seeds, and
    differences from the first.

    Rows: family, sampler, length, of ("value" or "difference"), value, low, high, seeds. Compared
    with the training images, 10,000 of them where there are more (precision and recall take all
    pairs); all meet the same noise."""
    data = images(s, "train")
    if len(data) > REFERENCE_IMAGES:
        data = subset(
            data, np.random.default_rng(0).permutation(len(data))[:REFERENCE_IMAGES], "train"
        )
    every = [one for family in families.values() for one in family]
    curve = quietly(
        eb.chain_length_fid,
        every,
        data,
        lengths,
        features=features(s),
        sampler=sampler,
        n=s.n,
        seed=s.seed,
        checkpoint=cells(s),
    )
    numbers = iter(curve["frechet_jackknife"].transpose("model", "length", "deleted").values)
    found = {name: [next(numbers) for _ in family] for name, family in families.items()}
    first, rows = next(iter(found)), []
    for name, ours in found.items():
        pairs = {"value": None} if name == first else {"value": None, "difference": found[first]}
        for of, theirs in pairs.items():
            interval = with_interval(ours, theirs, frechet)
            rows += [
                {"family": name, "sampler": sampler, "length": length, "of": of}
                | {k: v[i] if k != "seeds" else v for k, v in interval.items()}
                for i, length in enumerate(lengths)
            ]
    return pd.DataFrame(rows)


def differences(table: pd.DataFrame, family: str) -> str:
    """A family's differences from the first, by length, in words."""
    rows = table[(table["family"] == family) & (table["of"] == "difference")]
    digits = (
        2 if (rows["high"] - rows["low"]).max() > 0.05 else 4
    )  # other features have other units
    return ", ".join(f"{told(r, digits)} at {r['length']:.0f}" for _, r in rows.iterrows())


def signs(table: pd.DataFrame, family: str) -> set[int]:
    """−1, 0 and 1: what the intervals of a family's differences say, 0 where one holds zero."""
    rows = table[(table["family"] == family) & (table["of"] == "difference")]
    return {int(np.sign(r["value"])) if excludes_zero(r) else 0 for _, r in rows.iterrows()}


def verdict(said: set[int], published: int) -> str:
    """What intervals of differences say of a published sign: all the same, all the opposite, or
    neither.

    All must agree, since of several intervals one may exclude zero by chance.
    """
    return {(published,): "reproduced", (-published,): "not reproduced"}.get(
        tuple(said), "undecided"
    )


def trained_scale(s: Settings, sampler: str = "ddpm") -> str:
    """Scale of a study that trains, in words."""
    recipe = training(s)
    models = (
        f"{s.seeds} training seeds of {recipe['net']}, {s.iterations} iterations of"
        f" {recipe['batch_size']} images"
    )
    return f"{Path(s.data).name}, {models}, sampler {sampler}, n = {s.n}, sampling seed {s.seed}"


def training(s: Settings) -> dict[str, Any]:
    """Options of `eb.train`: a network of a fifth of a million parameters for images below 16
    pixels a side, a million for others."""
    if s.smoke:
        return SMOKE_TRAINING
    small = min(eb.load_data(s.data).shape[1:]) < 16
    return {**TRAINING, "net": "unet-tiny" if small else "unet-small"}
