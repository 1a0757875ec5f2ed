"""The GPU campaign as one script: what the toolkit adds to a network's own time, and DDPM beside IP
on real images.

    python analyses/gpu_campaign.py                     # what is next, and the commands
    python analyses/gpu_campaign.py kernels             # one part; each takes less than ten minutes
    python analyses/gpu_campaign.py train fashion-mnist ddpm 0
    python analyses/gpu_campaign.py diagnose fashion-mnist ddpm 0
    python analyses/gpu_campaign.py compare fashion-mnist
    python analyses/gpu_campaign.py curve fashion-mnist
    python analyses/gpu_campaign.py --rehearse          # all parts, tiny, on the CPU

Every part goes on where it was stopped: training from its last checkpoint, chains from theirs. When
its time is up it stops by itself and the same command goes on. What is kept for the repository lies
under results/gpu_campaign, small CSV and JSON files; checkpoints and chains under runs/.

The images of Fashion-MNIST and CIFAR-10 are zips of the user's (--images DIR, with NAME-train.zip
and NAME-test.zip); ours are JPEG copies, so that their spectra lack what JPEG took, for the model
and for the reference alike."""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import exposure_bias as eb
from exposure_bias.denoisers import Speed

ROOT = Path(__file__).parents[1]
SETS = ("fashion-mnist", "cifar10")
OBJECTIVES = ("ddpm", "ip")
SEEDS = (0, 1)
PATIENCE = 540.0  # seconds of one command


class Scale(NamedTuple):
    """How large a campaign is."""

    device: str
    iterations: int
    train_batch: int
    n: int
    steps: int
    lengths: tuple[int, ...]
    batch: int
    calls: int
    adm: Any
    net: Any


FULL = Scale("cuda", 60_000, 256, 2_048, 100, (10, 20, 50, 100, 300), 1024, 30, "adm-cifar10", None)
TINY = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
TINY_ADM = eb.adapters.adm.Preset(8, 32, 1, (4,), channel_mult=(1, 1))
REHEARSAL = Scale("cpu", 2, 8, 32, 4, (2, 3), 32, 1, TINY_ADM, TINY)


class Campaign:
    """A campaign of some scale, in a folder for results and one for what is not kept."""

    def __init__(self, scale: Scale, images: Path | None, results: Path, runs: Path) -> None:
        self.scale, self.images, self.results, self.runs = scale, images, results, runs
        results.mkdir(parents=True, exist_ok=True)

    def data(self, name: str, split: str) -> Any:
        """One split of a data set; in a rehearsal noise of its shape."""
        if self.images is None:
            shape = (1, 28, 28) if name == "fashion-mnist" else (3, 32, 32)
            rng = np.random.default_rng(len(name) + (split == "test"))
            return eb.load_data(rng.integers(0, 256, (64, *shape), dtype=np.uint8))
        return eb.load_data(self.images / f"{name}-{split}.zip")

    def kernels(self) -> None:
        """Time of a step: the bare network, and everything around it, by precision."""
        rows = []
        for name, model in self._networks():
            for speed in (Speed(), Speed("bfloat16"), Speed("bfloat16", compile=True)):
                if speed.compile and self.scale.device == "cpu":
                    continue
                rows.append({"network": name, "computed": str(speed) or "float32"})
                rows[-1] |= self._timed(model.computed_with(speed))
                self._write("kernels", rows)

    def _networks(self) -> list[tuple[str, Any]]:
        from diffusers import DDPMScheduler, UNet2DModel

        torch.manual_seed(0)
        wide = 64 if self.scale.device != "cpu" else 8
        small = UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(wide,) * 3,
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            norm_num_groups=8,
        )
        found = [("UNet 1.5 M", eb.adapt(small, DDPMScheduler(clip_sample=False)))]
        name = self.scale.adm if isinstance(self.scale.adm, str) else "a small ADM"
        found.append((name, untrained(self.scale.adm)))
        for _, model in found:
            model.net.to(self.scale.device)
        return found

    def _timed(self, model: Any) -> dict[str, float]:
        """Milliseconds a step of a batch: the network alone, and our noise, step and statistics."""
        batch, calls = self.scale.batch, self.scale.calls
        data = eb.load_data(
            np.random.default_rng(0).integers(0, 256, (batch, *model.shape), dtype=np.uint8)
        )
        level = model.schedule.level(len(model.schedule) // 2)
        x = torch.randn(batch, *model.shape, dtype=torch.float64, device=model.device)

        def network() -> None:
            for _ in range(calls):
                model(x, level)

        def path() -> None:
            walk = eb.paths.Paths(0, range(batch), model.shape, model.device)
            noise = walk.on(model.schedule.levels(calls + 1))
            for step in range(calls):
                noise(step)

        def record() -> None:
            eb.record(model, data, steps=calls + 1, n=batch, batch_size=batch, streams=("chain",))

        network()
        times = {k.__name__: 1e3 * self._seconds(k) / calls for k in (network, path, record)}
        return times | {"outside": times["record"] * calls / (calls + 1) / times["network"] - 1}

    def _seconds(self, call: Callable[[], None]) -> float:
        found = []
        for _ in range(2):
            since = time.perf_counter()
            call()
            if self.scale.device.startswith("cuda"):
                torch.cuda.synchronize()
            found.append(time.perf_counter() - since)
        return min(found)

    def train(self, name: str, objective: str, seed: int) -> bool:
        """Train for as long as a command may take; whether it is done.

        The schedule of the learning rate is that of the whole; a killed training goes on.
        """
        out = self._folder(name, objective, seed)
        if (out / "done").exists():
            return True
        since = time.perf_counter()
        options: dict[str, Any] = {
            "objective": objective,
            "seed": seed,
            "iterations": self.scale.iterations,
            "batch_size": self.scale.train_batch,
            "checkpoint_every": min(500, self.scale.iterations),
            "sample_every": 0,
            "device": self.scale.device,
        }
        data = self.data(name, "train")
        try:
            with Stopwatch(PATIENCE - (time.perf_counter() - since)):
                net = self.scale.net or "unet-small"
                eb.train(data, net=net, out=out, resume=(out / "last").exists(), **options)
        except TimeIsUp:
            print(f"{out}: stopped in time; the same command goes on")
            return False
        (out / "done").touch()
        return True

    def diagnose(self, name: str, objective: str, seed: int) -> None:
        """The error budget of one trained network, on held-out images."""
        scale, model = self.scale, self._model(name, objective, seed)
        folder = self.runs / "chains" / f"{name}-{objective}-{seed}"
        found = eb.diagnose(
            model,
            self.data(name, "test"),
            steps=scale.steps,
            n=scale.n,
            batch_size=scale.batch,
            folder=folder,
        )
        columns = ["total", "discretisation", "score", "score_se", "answer"]
        table = found[[c for c in columns if c in found]].to_dataframe().reset_index()
        place = self.results / f"budget-{name}-{objective}-{seed}.csv"
        table.to_csv(place, index=False, float_format="%.6g")
        print(found.attrs.get("answer"))

    def compare(self, name: str) -> None:
        """DDPM beside IP, seeds together."""
        folders = [str(self._folder(name, o, s)) for o in OBJECTIVES for s in SEEDS]
        try:
            compared = eb.compare(
                folders,
                self.data(name, "test"),
                steps=self.scale.steps,
                n=self.scale.n,
                lengths=(),
                device=self.scale.device,
                batch_size=self.scale.batch,
                folder=self.runs / "chains" / f"compare-{name}",
            )
        except eb.InputError as error:
            if self.images is not None:
                raise
            print(f"not compared, since two iterations teach nothing: {error}")
            return
        names = [k for k in compared.data_vars if "step" not in compared[k].dims]
        table = compared[names].to_dataframe().reset_index()
        place = self.results / f"compare-{name}.csv"
        table.to_csv(place, index=False, float_format="%.6g")

    def curve(self, name: str) -> None:
        """Quality by chain length of both objectives' first seed, in random features."""
        models = [self._model(name, objective, SEEDS[0]) for objective in OBJECTIVES]
        found = eb.chain_length_fid(
            models,
            self.data(name, "test"),
            self.scale.lengths,
            features="random-conv",
            n=self.scale.n,
            batch_size=self.scale.batch,
            checkpoint=self.runs / "chains" / f"curve-{name}",
        )
        wanted = ["frechet", "frechet_corrected", "frechet_corrected_se", "against_first"]
        table = found[[k for k in wanted if k in found]].to_dataframe().reset_index()
        table.to_csv(self.results / f"curve-{name}.csv", index=False, float_format="%.6g")

    def _folder(self, name: str, objective: str, seed: int) -> Path:
        return self.runs / "gpu_campaign" / f"{name}-{objective}-{seed}"

    def _model(self, name: str, objective: str, seed: int) -> Any:
        model = eb.load_model(self._folder(name, objective, seed) / "last")
        model.net.to(self.scale.device)
        return model

    def _write(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        with (self.results / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({k: shortened(v) for k, v in row.items()} for row in rows)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        about = {"device": device, "torch": torch.__version__, "scale": self.scale._asdict()}
        (self.results / f"{name}.json").write_text(json.dumps(about, indent=2, default=str) + "\n")


def untrained(preset: Any) -> eb.Denoiser:
    """An ADM network as it begins, by the way that checkpoints come."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adm.pt"
        torch.save(eb.adapters.adm.build(preset).state_dict(), path)
        return eb.load_model(path, preset)


class TimeIsUp(Exception):
    """A command has taken as long as it may."""


class Stopwatch:
    """Raises TimeIsUp in the main thread after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        import signal

        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, max(self.seconds, 1.0))

    def __exit__(self, *_: object) -> None:
        import signal

        signal.setitimer(signal.ITIMER_REAL, 0)

    @staticmethod
    def _ring(*_: object) -> None:
        raise TimeIsUp


def shortened(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def parts() -> list[list[str]]:
    """Every command of the campaign, in order."""
    trained = [[n, o, str(s)] for n in SETS for o in OBJECTIVES for s in SEEDS]
    return [
        ["kernels"],
        *(["train", *words] for words in trained),
        *(["diagnose", *words] for words in trained),
        *([what, name] for name in SETS for what in ("compare", "curve")),
    ]


def run(campaign: Campaign, words: Sequence[str]) -> None:
    """One command."""
    what, *rest = words
    arguments = [int(w) if w.isdigit() else w for w in rest]
    since = time.perf_counter()
    getattr(campaign, what)(*arguments)
    print(f"{' '.join(words)}: {time.perf_counter() - since:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("part", nargs="*", help="a command of the list that no argument prints")
    parser.add_argument("--images", type=Path, help="where NAME-train.zip and NAME-test.zip lie")
    parser.add_argument("--rehearse", action="store_true", help="everything, tiny, on the CPU")
    given = parser.parse_args()
    if given.rehearse:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            campaign = Campaign(REHEARSAL, None, place / "results", place / "runs")
            for words in [w for w in parts() if given.part in ([], w)]:
                run(campaign, words)
        return
    if given.part not in parts():
        print(*(f"python {sys.argv[0]} {' '.join(words)}" for words in parts()), sep="\n")
        return
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here: --rehearse runs the same code on the CPU")
    if given.images is None and given.part != ["kernels"]:
        sys.exit("say with --images where the zips of images lie")
    run(Campaign(FULL, given.images, ROOT / "results" / "gpu_campaign", ROOT / "runs"), given.part)


if __name__ == "__main__":
    main()
