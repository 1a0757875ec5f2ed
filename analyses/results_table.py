"""docs/results.md from the run.json of every study.

python analyses/results_table.py             # writes docs/results.md and results/decisions.csv
"""

import importlib
import json
from pathlib import Path
from typing import Any

import common
import decisions
import studies
import trainings

PAGE = common.ROOT / "docs" / "results.md"
PARTS = common.RESULTS / "decisions.csv"
HEAD = """# The talk, claim by claim

Made by `python analyses/results_table.py` from `results/*/run.json`; do not edit. Numbers in
brackets are 95 % intervals; a difference is called one only if its interval excludes zero. Between
trained models it counts images and training seeds (`analyses/common.py`).

The rules were written down before the studies ran (`analyses/decisions.py`, and `EFFECTS` in each
study's file). A claim has parts, for example one for each number of steps. Each part has a sign and
a least size that counts: half of the published effect relative to its baseline, or 5 % where no
size was published. An interval *shows* a part if it lies on the claimed side of zero and reaches
the least size; it shows the *sign only* if it excludes that size; it is *opposite* on the other
side of zero; the effect is *absent* if the interval holds zero and excludes the least size;
otherwise it is *open*. Where the networks were not trained to their end (their held-out loss still
fell by 1 % or more in the last sixth of the training), a distance relative to the baseline is no
size, and only signs are judged.

A claim says that all of its parts hold. It is *reproduced* where all are shown, holds *in sign
only* where all have the claimed sign and one does not reach the size, and is *not reproduced* where
one part is opposite or absent, with an interval that is widened for the number of parts
(Bonferroni). Otherwise it is *undecided*: then the text says how many images and training seeds
would decide with a probability of about 90 %. What was changed after a first look at the results is
said in the text. Times are those of the last call on two busy cores; a call can continue from what
other studies had trained and sampled.

The networks that the studies of digits train see 96,000 images each, a twelfth of what the bundled
network of digits saw. A name such as `table3_steps-fashion14` stands for one length of training,
1,500 iterations; `table3_steps-fashion14-6000` is the same study after 6,000.

*Reproduced*, *not reproduced* and *undecided* are about our models and data (8×8 digits, networks
of a fifth of a million parameters, features of a small classifier): none of our numbers is an FID,
none contradicts a number measured on CIFAR-10. "Published" is what the talk or the paper says:
tables are in `figures/reference/published.csv`, what was read off a figure stands here only.

| claim | published | verdict | command |
|---|---|---|---|
"""
OUT_OF_DATE = (
    "to be computed again",
    "The committed numbers were made with an earlier way to compute the network's limit, and are"
    " not shown.",
)
# What a referee should know beside the intervals.
REMARKS = {
    "table4_speedup": (
        "These networks cannot decide the claim: the DDPM's own distance at 100 steps still falls"
        " with every 500 iterations (21, 7.6, 4.3), so that its best is its last."
    ),
}
LARGER = """
## Other data

The same studies on other data, by the commands beside them. MNIST is lossless, 28×28.
`fashion14` is Fashion-MNIST averaged over blocks of 2×2
(`python analyses/box_average.py ../shared/data/fashion-mnist-train.zip runs/fashion14.npz`); its
networks of 1500 iterations (0.21 M parameters, 64 of 54,000 images each) took about 7 minutes each,
and their held-out losses still fell by 3 % in the last 500 of them, to 0.0529 (DDPM) and 0.0530
(IP); those of 6000 iterations stand in the table below. No GPU was to be had: the MNIST run took
about 1.4 CPU hours in all.
CIFAR-10 was not run; its copy in `../shared/data` are JPEGs of quality about 75 with halved chroma,
to be averaged to 16×16 first (`analyses/box_average.py`), so that nothing would compare with the
literature's. The talk's Fig. 6 was once also measured on 16×16 patches of photographs. The chains
of that network diverged, so that the network and the result were withdrawn.

"""
GPU = """
## With a GPU

Sized so that DDPM and IP should each train in less than 25 minutes on one modern GPU; neither run
nor timed. Trainings and points of the curve resume.

```sh
eb-analyze train --data mnist-train.zip --objective ddpm ip --seed 0 1 2 \\
    --net unet-small --iterations 20000 --batch-size 256 --precision bf16 \\
    --channels-last --device cuda -o runs/mnist
eb-analyze chain-fid --model runs/mnist/ddpm-seed0 --against runs/mnist/ip-seed0 \\
    --data mnist-train.zip --device cuda --features inception --lengths 80 100 300 1000 -n 50000 \\
    -o runs/mnist/curve
```
"""


def page() -> str:
    """The text of docs/results.md."""
    rows, details = [], []
    for name in studies.ORDER:
        path = common.RESULTS / name / "run.json"
        command = f"`python analyses/{name}.py`"
        if not path.exists():
            study = importlib.import_module(name).STUDY
            rows.append(
                f"| {study.claim} ({study.source}) | {study.published}"
                f" | not run{on_other_data(name)} | {command} |"
            )
            continue
        run = judged(name, read(path))
        rows.append(
            f"| {run['claim']} ({run['source']}) | {run['published']} | [{run['verdict']}](#{name})"
            f"{on_other_data(name)} | {command} |"
        )
        details.append(detail(name, run))
    details.append(published_log())
    measured = HEAD + "\n".join(rows) + "\n\n## What we measured\n\n" + "\n".join(details)
    larger = [
        detail(name, run := judged(name, read(path)), run["command"])
        for path in elsewhere()
        for name in [path.parent.name]
    ]
    trained = trainings.described("fashion14") + "\n"
    return measured + (LARGER + trained + "\n".join(larger) if larger else "") + GPU


def on_other_data(name: str) -> str:
    """The verdicts of a study's runs on other data, for its row."""
    runs = {
        path.parent.name: judged(path.parent.name, read(path))
        for path in elsewhere()
        if path.parent.name.startswith(f"{name}-")
    }
    return "".join(
        f"; [{run['verdict']}](#{folder}) on {folder.removeprefix(f'{name}-')}"
        for folder, run in runs.items()
    )


def judged(name: str, run: dict[str, Any]) -> dict[str, Any]:
    """A run with the verdict of `decisions`, and what decides it or would, where that has one."""
    study = importlib.import_module(run["name"]).STUDY
    if run.get("limit") != study.limit:
        return run | {"verdict": OUT_OF_DATE[0], "text": OUT_OF_DATE[1]}
    remark = REMARKS.get(name, "")
    found = decisions.decided(name)
    if found is None:
        return run | {"text": f"{run['text']} {remark}".strip()}
    return run | {"verdict": found[0], "text": f"{run['text']} {found[1]} {remark}".strip()}


def published_log() -> str:
    """The literature's own δ_t, which needs CIFAR-10 and so is no study of `make studies`."""
    folder = common.RESULTS / "published_delta"
    run, text = (
        read(folder / "run.json"),
        (folder / "conclusion.txt").read_text().replace("\n", " ").strip(),
    )
    scale = (
        f"{run['log']}; {run['data']['used']} of the {run['data']['name']} images."
        f" {run['data']['note']}"
    )
    return (
        f"### published_delta\n\n{text}\n\nScale: {scale}. `python analyses/published_delta.py`\n"
    )


def elsewhere() -> list[Path]:
    """The results of studies on other data than the default: folders STUDY-DATA."""
    return sorted(
        path for name in studies.ORDER for path in common.RESULTS.glob(f"{name}-*/run.json")
    )


def read(path: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(path.read_text())
    return run


def detail(name: str, run: dict[str, Any], command: str = "") -> str:
    """What a study found and at what scale; the time is that of the last call, which may have gone
    on from others."""
    seconds = (
        f"{run['wall_seconds'] / 60:.0f} min"
        if run["wall_seconds"] > 90
        else f"{run['wall_seconds']:.0f} s"
    )
    how = f" `{command}`" if command else ""
    return (
        f"### {name}\n\n**{run['verdict'].capitalize()}.** {run['text']}\n\nScale: {run['scale']};"
        f" {seconds}.{how}\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page())
    common.write(decisions.table(), PARTS)
    print(f"wrote {PAGE}")
