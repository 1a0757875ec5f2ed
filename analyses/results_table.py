"""docs/results.md from the run.json of every study.

python analyses/results_table.py             # writes docs/results.md
"""

import importlib
import json

import common
import studies

PAGE = common.ROOT / "docs" / "results.md"
HEAD = """# The talk, claim by claim

Made by `python analyses/results_table.py` from `results/*/run.json`; do not edit. Numbers in brackets are 95 %
intervals; a difference is called one only if its interval excludes zero. Between trained models it counts images and
training seeds (`analyses/common.py`).

*Reproduced*, *not reproduced* and *undecided* are about our models and data (8×8 digits, networks of a fifth of a
million parameters, features of a small classifier): none of our numbers is an FID, none contradicts a number measured
on CIFAR-10. "Published" is what the talk or the paper says; see `figures/reference/published.csv`.

| claim | published | verdict | command |
|---|---|---|---|
"""
TAIL = """
## Larger runs

Not run: no GPU was to be had. `--data` takes any images, trainings and curve points resume. Table 3 on MNIST (28×28,
lossless) with one GPU would be

```sh
eb-analyze train --data mnist-train.zip --objective ddpm ip --seed 0 1 2 --net unet-small --iterations 20000 \\
    --batch-size 256 --precision bf16 --channels-last --device cuda -o runs/mnist
eb-analyze chain-fid --model runs/mnist/ddpm-0 --against runs/mnist/ip-0 --data mnist-train.zip --device cuda \\
    --features inception --lengths 80 100 300 1000 -n 50000 -o runs/mnist/curve
```

with a network of a million parameters; its time on a GPU was not measured.

The copies of CIFAR-10 in `../shared/data` are JPEGs with halved chroma: average them to 16×16, or label every spectrum
and distance "JPEG CIFAR-10, not comparable with the literature".
"""


def page() -> str:
    """The text of docs/results.md."""
    rows, details = [], []
    for name in studies.ORDER:
        study = importlib.import_module(name).STUDY
        path = common.RESULTS / name / "run.json"
        command = f"`python analyses/{name}.py`"
        if not path.exists():
            rows.append(f"| {study.claim} ({study.source}) | {study.published} | not run | {command} |")
            continue
        run = json.loads(path.read_text())
        rows.append(
            f"| {run['claim']} ({run['source']}) | {run['published']} | [{run['verdict']}](#{name}) | {command} |"
        )
        seconds = f"{run['wall_seconds'] / 60:.0f} min" if run["wall_seconds"] > 90 else f"{run['wall_seconds']:.0f} s"
        details.append(
            f"### {name}\n\n**{run['verdict'].capitalize()}.** {run['text']}\n\nScale: {run['scale']}; {seconds}.\n"
        )
    return HEAD + "\n".join(rows) + "\n\n## What we measured\n\n" + "\n".join(details) + TAIL


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
