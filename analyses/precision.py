"""Does half precision make exposure bias? One network in float32, bfloat16 and float16 on the same
images, noise and levels.

    python analyses/precision.py                       # the bundled digits, into results/precision
    python analyses/precision.py --smoke               # a rehearsal, into a temporary folder
    python analyses/precision.py --model adm.pt --preset adm-cifar10 --data IMAGES --device cuda

Half precision is torch's autocast: weights, normalisations and the sampler's states keep theirs.
What is compared is the relative variance gap and HF (dB) at the clean end, each chain against its
own forward stream's target, and the differences from float32, which are paired: both chains walk on
one path, so that a difference is known far better than either value. A bias in a half-precision
network's single answers, beside it: the root mean square of what x0 changes by in the forward
stream is no exposure bias, it is what the network says."""

import argparse
import json
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

import exposure_bias as eb

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "bfloat16", "float16")


def measured(given: argparse.Namespace) -> pd.DataFrame:
    """Gap and HF by precision, and their differences from float32's, with standard errors."""
    data = eb.load_data(given.data, given.split)
    models = []
    for precision in PRECISIONS:
        model = eb.load_model(given.model, given.preset)
        if given.device != "cpu":
            model.net.to(given.device)
        model = model.computed_with(eb.denoisers.Speed(precision))
        model.name = precision
        models.append(model)
    compared = eb.compare(
        models,
        data,
        sampler=given.sampler,
        steps=given.steps,
        n=given.n,
        lengths=(),
        budget=False,
        seed=given.seed,
    )
    rows = []
    for name, here in {"gap": compared.isel(step=-1), "hf": compared}.items():
        parts = {"value": "", "se": "_se", "difference": "_difference"}
        parts |= {"difference_se": "_difference_se"}
        for row, entry in enumerate(compared["entry"].values):
            values = {k: float(here[f"{name}{end}"][row]) for k, end in parts.items()}
            rows.append({"statistic": name, "precision": str(entry)} | values)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="does half precision make exposure bias?")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--preset")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--split", default="test")
    parser.add_argument("--sampler", default="ddpm")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true", help="32 images and 3 steps")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.smoke:
        given.n, given.steps = 32, 3
    out = given.out or (
        Path(tempfile.mkdtemp(prefix="precision"))
        if given.smoke
        else ROOT / "results" / "precision"
    )
    since = time.perf_counter()
    table = measured(given)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table.csv", index=False, float_format="%.6g")
    device = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
    about = {k: v for k, v in vars(given).items() if k != "out"}
    about |= {"torch": torch.__version__, "on": device}
    about |= {"wall_seconds": round(time.perf_counter() - since, 1)}
    (out / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
