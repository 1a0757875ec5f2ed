"""Train and freeze the classifiers that give the features `classifier`.

    python analyses/train_classifier.py            # of the digits, a minute
    python analyses/train_classifier.py --fashion ../shared/data   # of Fashion-MNIST, 14×14
    python analyses/train_classifier.py --cifar ../shared/data     # of CIFAR-10, half mirrored
    python analyses/train_classifier.py --smoke    # a few iterations into a temporary folder

They see the train split only, shifted by up to a pixel each way; the accuracy on the test split
stands beside the weights (fp16, to be run in float32), in exposure_bias/models/. Fashion-MNIST
(Expat licence, Zalando) comes as two archives of images, which are averaged over blocks of 2×2;
CIFAR-10 (Krizhevsky 2009) as two archives, ours of JPEGs. One thread: the result does not depend on
the number of cores."""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from box_average import box_average
from safetensors.torch import save_file
from torch.nn import functional as F

from exposure_bias.data import Data, load_data
from exposure_bias.fidelity.classifier import FILE, Cifar, Classifier, Digits, Fashion, Kind

ITERATIONS, BATCH, RATE, DECAY, SEED = 3000, 128, 3e-3, 0.05, 0
SPLITS = ("train", "test")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a few iterations into a temporary folder"
    )
    parser.add_argument(
        "--fashion", type=Path, help="the folder of fashion-mnist-train.zip and -test.zip"
    )
    parser.add_argument(
        "--cifar", type=Path, help="the folder of cifar10-train.zip and cifar10-test.zip"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    kind: Kind = Fashion if given.fashion else Cifar if given.cifar else Digits
    training, heldout = (images(given, split) for split in SPLITS)
    smoke = Path(tempfile.mkdtemp(prefix="train_classifier_")) if given.smoke else None
    make(kind, training, heldout, smoke or kind.folder, 20 if smoke else ITERATIONS)


def images(given: argparse.Namespace, split: str) -> Data:
    """A split of the images that are asked for."""
    if given.cifar:
        return load_data(given.cifar / f"cifar10-{split}.zip")
    return fashion(given.fashion, split) if given.fashion else load_data("digits", split)


def fashion(folder: Path, split: str) -> Data:
    """A split of Fashion-MNIST, averaged to 14×14, with its labels."""
    data = load_data(folder / f"fashion-mnist-{split}.zip")
    return load_data(box_average(data.images, 2), labels=data.labels)


def make(
    kind: Kind,
    training: Data,
    heldout: Data,
    folder: Path,
    iterations: int,
) -> None:
    """Train for some iterations and write the folder."""
    every, labels = (torch.from_numpy(a) for a in (training.images, training.labels))
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    net, order = kind(), batches(len(every), BATCH, generator)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=iterations)
    started = time.perf_counter()
    for _ in range(iterations):
        ids = next(order)
        seen = shifted(unit(every[ids]), generator)
        if kind is Cifar:
            seen = torch.where(torch.rand(len(seen), 1, 1, 1) < 0.5, seen.flip(-1), seen)
        loss = F.cross_entropy(net(seen), labels[ids], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    net.half().float().eval()
    correct = dict(zip(SPLITS, (accuracy(net, data) for data in (training, heldout)), strict=True))
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
            "name": type(net).__name__.lower(),
            "train": len(training),
            "hash": training.hash,
            "heldout_hash": heldout.hash,
        },
        "torch": torch.__version__,
        "wall_seconds": round(time.perf_counter() - started, 1),
    }
    (folder / "training.json").write_text(json.dumps(provenance, indent=2) + "\n")
    print(f"wrote {folder}: accuracy {correct}")


def unit(images: torch.Tensor) -> torch.Tensor:
    """Images in [−1, 1], float32."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images


def accuracy(net: Classifier, data: Data) -> float:
    """The share of images that are given their class."""
    with torch.no_grad():
        parts = [net(unit(part)).argmax(1) for part in torch.from_numpy(data.images).split(1024)]
    return float((torch.cat(parts).numpy() == data.labels).mean())


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
    side = torch.arange(images.shape[-1])
    rows, columns = (y[:, None] + side)[:, :, None], (x[:, None] + side)[:, None]
    # Indices first, channels last: what an index between two slices would give is another order.
    found = padded.movedim(1, -1)[torch.arange(len(images))[:, None, None], rows, columns]
    return found.movedim(-1, 1)


if __name__ == "__main__":
    main()
