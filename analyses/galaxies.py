"""Error budgets of score networks that others trained: galaxies and lensed quasars.

    pip install galaxygrad==0.1.9                 # JAX and Equinox come with it
    python analyses/galaxies.py                   # three networks of 32×32, about ten minutes
    python analyses/galaxies.py --networks eqx_lsst_ScoreNet60.eqx eqx_hsc_ScoreNet64.eqx  # an hour

galaxygrad (M. Sampson, PyPI) ships score networks of HSC, ZTF and LSST galaxies and of quasars,
MLP-mixers in continuous time, vp with ᾱ = exp(−t), t from 1e-3 to 10; states are log(flux + 1)/0.1.
It states no licence: nothing of it is copied, an optional extra of this study.

*What stands for data.* The training images are not public. Samples of the network's own probability
flow at many steps do: the law that the network itself claims, and that the flow maps to itself
when it starts on it, as a budget's chains do. Against them the ODE's score error is zero by
construction, and the budget's is a check of the whole machinery on a network nobody here
has seen. The SDE's is not: a network that is not the score of its own flow's law, level by level,
has two limits that differ, and that difference is a score error of the network which no training
image is needed to see. What cannot be seen is a law that is wrong in the same way along both.

Writes budgets.csv: a row for each network, sampler, number of steps and statistic; those of other
networks are kept."""

import os

os.environ.setdefault(  # one thread, as torch has
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import argparse
import re
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
import torch
from solver_share import KEPT, STATISTICS

import exposure_bias as eb
from exposure_bias.errors import InputError

NETWORKS = ("eqx_hsc_ScoreNet32.eqx", "eqx_ZTF_ScoreNet32.eqx", "eqx_hsc_LogNet32.eqx")
SCHEDULE = eb.schedules.continuous(lambda t: -t / 2, 1e-3, 10.0)
SPACING, BATCH = "karras", 256


def network(file: str) -> eb.Denoiser:
    """The network of one of galaxygrad's files; its side is the number in the name."""
    try:
        import equinox
        import galaxygrad.scorenet as trained
        import jax
        from galaxygrad.models_eqx import ScoreNet
    except ImportError as error:
        raise InputError(
            f"the galaxies need galaxygrad ({error}): pip install galaxygrad==0.1.9"
        ) from error
    side = int(re.findall(r"\d+", file)[-1])
    sizes = (
        trained.patch_size,
        trained.hidden_size,
        trained.mix_patch_size,
        trained.mix_hidden_size,
        trained.num_blocks,
    )
    blank = ScoreNet((1, side, side), *sizes, trained.t1, key=jax.random.PRNGKey(0))
    path = Path(trained.__file__).parent / file
    score = jax.jit(jax.vmap(equinox.tree_deserialise_leaves(path, blank), in_axes=(0, None)))

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        answer = score(x.float().numpy(), np.float32(t.reshape(-1)[0]))
        return torch.from_numpy(np.array(answer))

    return eb.Denoiser(
        net,
        schedule=SCHEDULE,
        prediction_type="score",
        shape=(1, side, side),
        name=path.stem.removeprefix("eqx_"),
    )


def own_law(model: eb.Denoiser, n: int, steps: int, seed: int) -> np.ndarray:
    """Samples (n, 1, S, S) that the network's probability flow maps to their own law, by Heun's
    method at many steps."""
    kept = common.RUNS / "galaxies" / f"{model.name}-{n}-{steps}-{seed}.npy"
    if kept.exists():
        found: np.ndarray = np.load(kept)
        return found
    levels, sampler = SCHEDULE.levels(steps, SPACING), eb.samplers.Heun()
    images = np.zeros((n, *model.shape))
    # At t = 10 the mean of an image is still there: chains that start on the data, as a budget's
    # do, do not start where pure noise does. The second time round they do.
    for number in range(2):
        parts = []
        for first in range(0, n, BATCH):
            rows = np.arange(first, min(first + BATCH, n))
            ids = rows + number * n
            paths = eb.paths.Paths(seed, ids, model.shape, purpose="own law").on(levels)
            start = eb.streams.prior(levels[0], paths.start(0), sampler)
            start = start + levels[0].alpha * torch.from_numpy(images[rows - 1])
            end = eb.streams.rollout(model, start, levels, sampler, paths)
            parts.append(end.double().numpy())
        images = np.concatenate(parts)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, images.astype(np.float32))
    return images.astype(np.float32)


def budget(model: eb.Denoiser, data: Any, sampler: str, steps: int, s: Any) -> pd.DataFrame:
    """The rows of one budget."""
    found = common.quietly(
        eb.error_budget,
        model,
        data,
        sampler=sampler,
        steps=steps,
        timestep_spacing=SPACING,
        n=s.n,
        restarts=(),
        seed=s.seed,
        folder=common.RUNS / "galaxies" / f"{model.name}-{sampler}-{steps}-{s.n}",
    )
    table = found[KEPT[1:]].to_dataframe().reset_index()[KEPT]
    table = table[table["statistic"].isin(STATISTICS)]
    return table.assign(model=model.name, sampler=sampler, steps=steps, n=s.n)


def main() -> None:
    parser = argparse.ArgumentParser(description="error budgets of galaxygrad's score networks")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--ddpm", type=int, nargs="+", default=[20])
    parser.add_argument("--heun", type=int, nargs="+", default=[10])
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--fine", type=int, default=60, help="Heun steps of what stands for data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "galaxies")
    s = parser.parse_args()
    torch.set_num_threads(1)
    s.out.mkdir(parents=True, exist_ok=True)
    out = s.out / "budgets.csv"
    rows = [pd.read_csv(out)] if out.exists() else []
    for file in s.networks:
        model = network(file)
        rows = [kept[kept["model"] != model.name] for kept in rows]
        data = eb.load_data(own_law(model, s.n, s.fine, s.seed), value_range=None)
        for sampler in ("ddpm", "heun"):
            for steps in getattr(s, sampler):
                rows.append(budget(model, data, sampler, steps, s))
                common.write(pd.concat(rows), out)
                print(rows[-1].to_string(), flush=True)


if __name__ == "__main__":
    main()
