"""Train and freeze the classifier of digits that gives the features `classifier`.

    python analyses/train_classifier.py   # into exposure_bias/models/digits-classifier/, a minute
    python analyses/train_classifier.py --smoke    # a few iterations into a temporary folder

It sees the train split only, shifted by up to a pixel each way; the accuracy on the test split
stands beside the weights (fp16, to be run in float32). One thread: the result does not depend on
the number of cores."""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from exposure_bias.data import load_data
from exposure_bias.fidelity.classifier import FILE, FOLDER, Classifier

ITERATIONS, BATCH, RATE, DECAY, SEED = 3000, 128, 3e-3, 0.05, 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a few iterations into a temporary folder"
    )
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    make(
        Path(tempfile.mkdtemp(prefix="train_classifier_")) if smoke else FOLDER,
        20 if smoke else ITERATIONS,
    )


def make(folder: Path, iterations: int) -> None:
    """Train for some iterations and write the folder."""
    training, heldout = load_data("digits", split="train"), load_data("digits", split="test")
    images, labels = (torch.from_numpy(a) for a in (training.images, training.labels))
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    net, order = Classifier(), batches(len(images), BATCH, generator)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=iterations)
    started = time.perf_counter()
    for _ in range(iterations):
        ids = next(order)
        loss = F.cross_entropy(
            net(shifted(images[ids], generator)), labels[ids], label_smoothing=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    net.half().float().eval()
    with torch.no_grad():
        correct = {
            data.split: float(
                (net(torch.from_numpy(data.images)).argmax(1).numpy() == data.labels).mean()
            )
            for data in (training, heldout)
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half() for key, value in net.state_dict().items()}, folder / FILE)
    provenance = {
        "iterations": iterations,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "weight_decay": DECAY,
        "seed": SEED,
        "parameters": sum(p.numel() for p in net.parameters()),
        "accuracy": correct,
        "data": {
            "name": "digits",
            "train": len(training),
            "hash": training.hash,
            "heldout_hash": heldout.hash,
        },
        "torch": torch.__version__,
        "wall_seconds": round(time.perf_counter() - started, 1),
    }
    (folder / "training.json").write_text(json.dumps(provenance, indent=2) + "\n")
    print(f"wrote {folder}: accuracy {correct}")


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of ids out of range(count), shuffled anew each time all have been seen."""
    pool = torch.empty(0, dtype=torch.int64)
    while True:
        while len(pool) < size:
            pool = torch.cat([pool, torch.randperm(count, generator=generator)])
        yield pool[:size]
        pool = pool[size:]


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The images, each moved by −1, 0 or 1 pixels down and right; what comes in is background."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    y, x = torch.randint(0, 3, (2, len(images)), generator=generator)
    side = torch.arange(8)
    rows, columns = (y[:, None] + side)[:, :, None], (x[:, None] + side)[:, None]
    return padded[torch.arange(len(images))[:, None, None], 0, rows, columns][:, None]


if __name__ == "__main__":
    main()
