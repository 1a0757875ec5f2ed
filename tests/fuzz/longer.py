"""`make fuzz`: every attack at full size and many forged recordings, each held to its bounds.

    python tests/fuzz/longer.py [--forgeries 400] [--seed 0] [--only WORDS]

Prints counts, processor time and peak memory; ends with 1 if anything was read that must be
refused, raised another exception than InputError, or took over 2 GB or 25 s."""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import attacks
import forgeries
import numpy as np

MOST_SECONDS, MOST_BYTES = 25.0, 2 * 10**9
HANGS = 1800  # seconds of a clock, which a busy machine stretches
PROBE = """
import resource, sys, time, warnings
warnings.simplefilter("ignore")
import exposure_bias.data as data
from exposure_bias.errors import InputError
start = time.process_time()
try:
    print("read", data.load_data(sys.argv[1]).images.shape)
except InputError as error:
    print("refused:", error)
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def attacked(only: str) -> list[str]:
    """Every attack in a process of its own; what went wrong."""
    wrong = []
    for attack in attacks.attacks():
        if only not in attack.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = attack.make(Path(folder))
            command = [sys.executable, "-c", PROBE, str(source)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
            except subprocess.TimeoutExpired:
                wrong.append(f"{attack.name}: not done after {HANGS} s, or the machine is busy")
                print(wrong[-1], flush=True)
                continue
        said, _, cost = done.stdout.strip().rpartition("\n")
        seconds, size = map(float, cost.split()) if cost else (0.0, 0.0)
        print(f"{seconds:6.1f} s {size / 1e6:6.0f} MB  {attack.name}: {said[:160]}", flush=True)
        kept = said.startswith("refused") if attack.refusal else bool(said)
        if not kept or seconds > MOST_SECONDS or size > MOST_BYTES:
            wrong.append(f"{attack.name}: {said or done.stderr[-500:]}")
    return wrong


def honest(folder: Path) -> bytes:
    """A small recording's file."""
    import exposure_bias as eb

    rows = np.random.default_rng(0).normal(0, 0.4, (16, 1, 2, 2)).astype(np.float32)
    oracle = eb.oracles.GaussianOracle(np.zeros((1, 2, 2)), 0.2, eb.schedules.linear(1000))
    streams = ("forward", "chain", "teacher")
    data = eb.load_data(rows, value_range=None)
    eb.record(oracle, data, steps=2, streams=streams).save(folder / "honest.nc")
    return (folder / "honest.nc").read_bytes()


def forged(count: int, seed: int) -> list[str]:
    """So many forgeries, read and used; what went wrong."""
    import exposure_bias as eb

    uses = (eb.variance_gap, eb.spectrum, eb.epsilon_norm, eb.state_error, eb.published_delta)
    found, wrong, slowest = Counter[str](), [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = honest(folder)
        every = forgeries.everything(content, 2 * count, seed)
        for number, (what, make) in enumerate(every[:count]):
            if number % 50 == 0:
                print(f"forgery {number} of {count}", flush=True)
            start = time.process_time()
            try:
                read = forgeries.tried(make(), folder, eb.load, uses)
                found["read" if read else "refused"] += 1
            except Exception as error:
                wrong.append(f"{what}: {error!r}")
                print(wrong[-1], flush=True)
            slowest = max(slowest, time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"forgeries {dict(found)} of {len(every)}, {len(wrong)} wrong; slowest {slowest:.1f} s,")
    print(f"peak {peak / 1e6:.0f} MB with the package")
    return wrong + (["forgeries: time or memory"] if slowest > MOST_SECONDS else [])


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forgeries", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="attacks whose name holds these words")
    options = parser.parse_args()
    wrong = attacked(options.only)
    if options.forgeries:
        wrong += forged(options.forgeries, options.seed)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{len(wrong)} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
