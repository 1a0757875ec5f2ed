"""Scale, measured: two processes against one, the parts of a large campaign, features at 50,000.

    python benchmarks/scale.py processes  # every command on one process and on two, one thread each
    python benchmarks/scale.py parts      # noise, statistics, file and sums of a batch, by states
    python benchmarks/scale.py campaign   # 50,000 samples on 8 GPUs, counted from the parts
    python benchmarks/scale.py large      # 64 images of 3×256×256 at 50 steps; the law of 1,000
    python benchmarks/scale.py features   # Fréchet, KID, precision at 50,000 × 2048, and plainly
    python benchmarks/scale.py threads    # two commands side by side, and one after the other
    python benchmarks/scale.py imports    # `eb-analyze gap` on a saved recording

Elapsed times mean something on a machine that does nothing else; the load is printed with them."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CODE = """
import sys, time, warnings
import numpy as np, torch
import exposure_bias as eb
from exposure_bias.running import parallel
sys.path.insert(0, {folder!r})
from record_overhead import denoising, unet
from scale import images
warnings.simplefilter("ignore")
torch.set_num_threads(1)
model, data = denoising(unet()), images({n})
common = dict(n={n}, batch_size={batch})
commands = dict(
    record=lambda: eb.record(model, data, steps=10, **common),
    budget=lambda: eb.error_budget(model, data, steps=5, restarts=[], **common),
    rollouts=lambda: eb.rollouts(model, data, steps=10, starts=[999], **common),
    telescope=lambda: eb.telescope(model, data, steps=10, starts=[999], **common),
    errors=lambda: eb.chain_errors(model, data, (5, 10), **common),
    curve=lambda: eb.chain_length_fid(model, data, (10,), features="pixel", **common),
    compare=lambda: eb.compare([model, eb.remedies.epsilon_scaled(model, 1.01)], data, steps=5,
                               lengths=(), budget=False, **common),
)
with parallel.joined() as team:
    model.predict(torch.zeros(8, *model.shape, dtype=torch.float64), model.schedule.level(500))
    for name, run in commands.items():
        parallel.barrier()
        since = time.perf_counter()
        run()
        parallel.barrier()
        if team.first:
            print(name, time.perf_counter() - since, flush=True)
"""


def images(n: int, shape: tuple[int, ...] = (3, 32, 32)) -> Any:
    import exposure_bias as eb

    return eb.load_data(np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8))


def halving(shape: tuple[int, ...]) -> Any:
    """A model whose network costs nothing."""
    import exposure_bias as eb

    return eb.Denoiser(
        lambda x, t: 0.5 * x,
        schedule=eb.schedules.linear(1000),
        prediction_type="epsilon",
        shape=shape,
    )


def processes(n: int = 64, batch: int = 16) -> None:
    """Every command on one process and on two."""
    code = CODE.format(folder=str(Path(__file__).parent), n=n, batch=batch)
    times: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "run.py"
        script.write_text(code)
        for size in (1, 2):
            line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
            done = subprocess.run(
                [*line, "--master-port", "29511", str(script)],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            if done.returncode:
                sys.exit(done.stderr)
            rows = [row.split() for row in done.stdout.splitlines()]
            times.append({name: float(seconds) for name, seconds in rows})
    for name, one in times[0].items():
        print(f"{name:<12}{one:8.1f} s {times[1][name]:8.1f} s   {one / times[1][name]:.2f}×")


def parts() -> None:
    """What a batch costs besides the network, by states: noise, statistics, sums, file."""
    import torch

    import exposure_bias as eb

    torch.set_num_threads(1)
    for shape, n in (((3, 32, 32), 64), ((4, 32, 32), 64), ((3, 256, 256), 20)):
        steps = 50
        model = halving(shape)
        data = images(n, shape)
        levels = model.schedule.levels(steps)

        def noise(shape: Any = shape, n: int = n, levels: Any = levels) -> None:
            walk = eb.paths.Paths(0, range(n), shape).on(levels)
            for step in range(len(levels) - 2):
                walk(step)

        def chains(shape: Any = shape, model: Any = model, data: Any = data) -> None:
            ids, levels = np.arange(len(data)), model.schedule.levels(50)
            batch = max(1, 2**20 // int(np.prod(shape)))  # as `record` takes them
            for some in np.split(ids, range(batch, len(ids), batch)):
                walk = eb.paths.Paths(0, some, shape).on(levels)
                x0 = torch.from_numpy(data.batch(some)).double()
                start, sampler = walk.start(0), eb.samplers.parse("ddpm")
                for _ in eb.streams.chain(model, start, levels, sampler, walk, x0=x0):
                    pass

        path, bare = seconds(noise), seconds(chains)
        whole = seconds(lambda m=model, d=data, s=steps: eb.record(m, d, steps=s))
        recording = eb.record(model, data, steps=steps)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "r.nc"
            recording.save(file)
            size = file.stat().st_size
        sums = sum(
            v.nbytes
            for stream in recording.streams.values()
            for v in stream.data_vars.values()
            if "sample" not in v.dims
        )
        print(
            f"{shape}: {1e6 * path / n / steps:.0f} µs of noise,"
            f" {1e6 * bare / n / steps:.0f} µs of chain and teacher alone and"
            f" {1e6 * whole / n / steps:.0f} µs of everything a sample and step (processor time,"
            " one thread), all streams; sums"
            f" {sums / 1e6:.1f} MB, file of {n} samples {size / 1e6:.1f} MB"
        )


def campaign(gpus: int = 8, n: int = 50_000, rate: float = 1e14, memory: float = 2e12) -> None:
    """A recording of 50,000 samples and 1000 steps on 8 GPUs, from what a few samples take here.

    A count, no measurement: a GPU's rates (operations, bytes a second) are assumptions; operations
    of the network and bytes that everything else reads and writes are counted on the CPU.
    adm-cifar10 is built and counted; of a latent network they are those published of DiT-XL/2
    (Peebles & Xie 2023, arXiv 2212.09748, table 4: 118.64 GFLOPs, counted there as
    multiply-adds)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import exposure_bias as eb

    net = eb.adapters.adm.build("adm-cifar10").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 32, 32), torch.tensor([500]))
    torch.set_num_threads(1)
    cases = {
        (3, 32, 32): ("adm-cifar10", float(counter.get_total_flops())),
        (4, 32, 32): ("DiT-XL/2", 2 * 118.64e9),
    }
    for shape, (name, operations) in cases.items():
        recording, bytes_moved = counted(shape)
        network, outside = operations / rate, bytes_moved / memory
        hours = n * 1000 / gpus / 3600
        streams = recording.streams.values()
        variables = [v for stream in streams for v in stream.data_vars.values()]
        each = sum(v.nbytes / v.sizes["sample"] for v in variables if "sample" in v.dims)
        sums = sum(v.nbytes for v in variables if "sample" not in v.dims)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "r.nc"
            recording.save(file)
            size = file.stat().st_size + (n - 32) * each
        print(
            f"{shape}, {name}: {operations / 1e9:.1f} GFLOP a call, {hours * network:.2f} h in the"
            f" network at {rate / 1e12:.0f} TFLOP/s a GPU; everything else reads and writes"
            f" {bytes_moved / 1e6:.2f} MB a sample and step, {hours * outside:.3f} h at"
            f" {memory / 1e12:.0f} TB/s, {100 * outside / network:.1f} % of the network; sums"
            f" {sums / 1e6:.0f} MB a rank, {2 * sums / 1e6:.0f} MB to and from each, once; scalars"
            f" {each:.0f} bytes a sample, {n * each / 1e6:.0f} MB in all; file {size / 1e6:.0f} MB",
            flush=True,
        )


def counted(shape: tuple[int, ...], n: int = 32, steps: int = 1000) -> tuple[Any, float]:
    """A recording of a trivial network, and the bytes a sample and step that tensors took.

    Every operation reads its arguments and writes its result; bits of noise, which NumPy makes
    here and one kernel on a GPU, are written once and read once."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    import exposure_bias as eb

    class Bytes(TorchDispatchMode):
        total = calls = 0

        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            found = call(*args, **(kwargs or {}))
            if not call.is_view:
                self.calls += 1
                tensors = [t for t in tree_leaves((args, kwargs, found)) if torch.is_tensor(t)]
                self.total += sum(t.numel() * t.element_size() for t in tensors)
            return found

    model, data = halving(shape), images(n, shape)
    with Bytes() as bytes_of:
        recording = eb.record(model, data, steps=steps)
    print(f"{bytes_of.calls / steps:.0f} operations a step and batch", flush=True)
    return recording, bytes_of.total / n / steps


def large() -> None:
    """Issue 16: ≤ 1.5 GB and ≤ 100 MB for the recording, ≤ 1.5 GB and ≤ 60 s for the law."""
    for what in ("record", "law"):
        subprocess.run([sys.executable, __file__, f"large-{what}"], check=True)


def large_record() -> None:
    import torch

    import exposure_bias as eb

    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return 0.5 * x

    model = eb.Denoiser(
        Half(), schedule=eb.schedules.linear(1000), prediction_type="epsilon", shape=(3, 256, 256)
    )
    data = images(64, (3, 256, 256))
    took = seconds(lambda: eb.record(model, data, steps=50).save("/tmp/large.nc"))
    size = Path("/tmp/large.nc").stat().st_size / 1e6
    Path("/tmp/large.nc").unlink()
    print(f"64 × 3×256×256, 50 steps: {took:.0f} s of processor, {peak():.2f} GB, {size:.0f} MB")


def large_law() -> None:
    from exposure_bias.statistics.law import law

    data = images(1000, (3, 256, 256))
    took = seconds(lambda: law(data))
    print(f"law of 1,000 × 3×256×256: {took:.0f} s of processor, {peak():.2f} GB")


def features(n: int = 50_000, d: int = 2048) -> None:
    """Ours beside the formulas of torch-fidelity and torchmetrics, written plainly."""
    from scipy import linalg

    from exposure_bias.fidelity.frechet import frechet_distance
    from exposure_bias.fidelity.sets import (
        FeatureSet,
        frechet_values,
        kid_values,
        precision_recall,
    )

    rng = np.random.default_rng(0)
    x, y = (np.abs(rng.standard_normal((n, d), dtype=np.float32) + s) for s in (0.0, 0.02))
    ids = np.arange(n)

    def ours() -> float:
        a, b = (np.cov(v.astype(np.float64), rowvar=False) for v in (x, y))
        return frechet_distance(x.mean(0, dtype=np.float64), a, y.mean(0, dtype=np.float64), b)

    def square_root() -> float:
        a, b = (np.cov(v.astype(np.float64), rowvar=False) for v in (x, y))
        root = linalg.sqrtm(a @ b)
        mean = np.square(x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)).sum()
        return float(mean + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)

    def subsets() -> float:
        """KID as both have it: 100 subsets of 1,000."""
        found = []
        for _ in range(100):
            a, b = (v[rng.choice(n, 1000, replace=False)] for v in (x, y))
            k = [(p @ q.T / d + 1) ** 3 for p, q in ((a, a), (b, b), (a, b))]
            own = [(m.sum() - np.trace(m)) / (1000 * 999) for m in k[:2]]
            found.append(own[0] + own[1] - 2 * k[2].mean())
        return float(np.mean(found))

    def share(generated: Any, real: Any, batch: int = 10_000) -> float:
        """Precision, or recall, from all distances in float32, as torch-fidelity has it."""
        import torch

        g, r = (torch.from_numpy(v).split(batch) for v in (generated, real))

        def apart(rows: Any) -> Any:
            return torch.cat([torch.cdist(rows, part) for part in r], dim=1)

        radii = torch.cat([apart(rows).kthvalue(4).values for rows in r])
        return float(torch.cat([(apart(rows) <= radii).any(1) for rows in g]).double().mean())

    one, two = FeatureSet(x, ids), FeatureSet(y, ids)
    calls: dict[str, Callable[[], Any]] = {
        "Fréchet, ours, the distance alone": ours,
        "Fréchet, ours, with a jackknife of 16": lambda: frechet_values(one, two)[0][0],
        "Fréchet, sqrtm": square_root,
        "KID, ours, blocks, with a jackknife": lambda: kid_values(one, two)[0][0],
        "KID, 100 subsets of 1,000": subsets,
        "precision and recall, ours": lambda: sum(v[0] for v in precision_recall(one, two)),
        "precision and recall, plainly": lambda: share(x, y) + share(y, x),
    }
    for name, call in calls.items():
        since, used_before = time.perf_counter(), time.process_time()
        value = call()
        took, processor = time.perf_counter() - since, time.process_time() - used_before
        print(
            f"{name:<40}{value:12.6g}{took:8.1f} s, {processor:.1f} s of processor   peak so far"
            f" {peak():.2f} GB",
            flush=True,
        )


def threads() -> None:
    """Two commands side by side against one after the other, as the command line chooses."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    line = [sys.executable, "-m", "exposure_bias", "record", "-n", "256", "-o"]
    with tempfile.TemporaryDirectory() as folder:
        names = iter(range(99))

        def started() -> subprocess.Popen[bytes]:
            out = f"{folder}/{next(names)}.nc"
            return subprocess.Popen([*line, out], env=environment, stderr=subprocess.DEVNULL)

        since = time.perf_counter()
        for _ in range(2):
            started().wait()
        apart = time.perf_counter() - since
        since = time.perf_counter()
        for process in [started(), started()]:
            process.wait()
        together = time.perf_counter() - since
    print(f"one after the other {apart:.1f} s, side by side {together:.1f} s")


def imports() -> None:
    """`eb-analyze gap` on a saved recording: elapsed and processor time, least of five."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/r.nc"
        module = [sys.executable, "-m", "exposure_bias"]
        subprocess.run([*module, "record", "-n", "512", "-o", file], check=True)
        for line in ([*module, "gap", file], [sys.executable, "-c", IMPORTS]):
            found = []
            for _ in range(5):
                before, since = used(), time.perf_counter()
                subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
                found.append((time.perf_counter() - since, used() - before))
            elapsed, processor = (min(values) for values in zip(*found, strict=True))
            what = "gap" if "gap" in line else "its imports"
            print(f"{what}: {elapsed:.2f} s elapsed, {processor:.2f} s of processor")


IMPORTS = """
import exposure_bias.cli.output, exposure_bias.recording, exposure_bias.diagnostics.variance_gap
"""


def used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def seconds(call: Callable[[], object]) -> float:
    since = time.process_time()
    call()
    return time.process_time() - since


def peak() -> float:
    """GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


PARTS = {
    f.__name__.replace("_", "-"): f
    for f in (
        processes,
        parts,
        campaign,
        large,
        large_record,
        large_law,
        features,
        threads,
        imports,
    )
}

if __name__ == "__main__":
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    for name in sys.argv[1:] or ("processes", "parts", "large"):
        PARTS[name]()
