"""What the studies' networks were trained for: iterations, images, parameters, hours, losses.

    python analyses/trainings.py fashion14    # runs/trained/fashion14 → results/trainings-fashion14

`table.csv` has a row for each network, `curves.csv` its loss on the held-out images along the way.
Hours are elapsed ones of one thread, on a machine that did other things as well, so that they are
an upper bound. `flattening` is by how much the held-out loss still fell over the last sixth of the
training, relative to its end."""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import common
import pandas as pd

LAST = 5 / 6


def row(folder: Path, curve: pd.DataFrame) -> dict[str, Any]:
    """One training, from its folder and its log."""
    said = json.loads((folder / "last" / "training.json").read_text())
    run, images = said["run"], said["split"]
    losses = curve.dropna(subset="heldout_loss").set_index("iteration")["heldout_loss"]
    end, before = losses.iloc[-1], losses[losses.index <= LAST * run["iterations"]].iloc[-1]
    steps = curve["iteration"].diff().fillna(curve["iteration"])
    return {
        "objective": run["objective"],
        "seed": run["seed"],
        "iterations": said["iteration"],
        "batch": run["batch_size"],
        "images_seen": said["iteration"] * run["batch_size"],
        "training_images": images["train"]["images"],
        "parameters": said["parameters"],
        "hours": float((steps / curve["it_per_s"]).sum() / 3600),
        "heldout_loss": end,
        "flattening": before / end - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", help="a folder of runs/trained")
    given = parser.parse_args()
    rows, curves = [], []
    for folder in sorted((common.RUNS / "trained" / given.data).iterdir()):
        curve = pd.read_csv(folder / "training.csv")
        rows.append(row(folder, curve))
        curve = curve.dropna(subset="heldout_loss")[["iteration", "heldout_loss"]]
        curves.append(curve.assign(objective=rows[-1]["objective"], seed=rows[-1]["seed"]))
    out = common.RESULTS / f"trainings-{given.data}"
    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows).sort_values(["iterations", "objective", "seed"])
    common.write(table, out / "table.csv")
    common.write(pd.concat(curves), out / "curves.csv")
    hours = table["hours"].sum()
    about = {
        "scale": f"{given.data}, {len(table)} networks, {hours:.1f} hours of one thread on a CPU",
        "settings": {"data": given.data},
        "command": f"python analyses/trainings.py {given.data}",
        "hardware": f"{hardware()}, one thread each",
        "versions": common.versions(),
    }
    (out / "run.json").write_text(json.dumps(about, indent=2) + "\n")
    print(table.to_string(index=False))


def hardware() -> str:
    """The processor's name, where Linux tells it."""
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def described(data: str) -> str:
    """The table in Markdown for docs/results.md, seeds together; empty where there is none."""
    folder = common.RESULTS / f"trainings-{data}"
    if not (folder / "run.json").exists():
        return ""
    about = json.loads((folder / "run.json").read_text())
    lines = [
        "| objective | seeds | iterations × batch | images seen | parameters | hours each"
        " | held-out loss | its last sixth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (objective, iterations), some in pd.read_csv(folder / "table.csv").groupby(
        ["objective", "iterations"]
    ):
        one = some.iloc[0]
        losses = some["heldout_loss"]
        lines.append(
            f"| {objective} | {len(some)} | {iterations} × {one['batch']:.0f} |"
            f" {one['images_seen']:,.0f} of {one['training_images']:,.0f} |"
            f" {one['parameters']:,.0f} | {some['hours'].min():.1f}–{some['hours'].max():.1f} |"
            f" {losses.min():.4f}–{losses.max():.4f} | −{100 * some['flattening'].mean():.1f} % |"
        )
    lines += ["", f"Hours are elapsed ones ({about['hardware']}), beside other work."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
