"""Peak memory of `record`: what more samples add, and what large images need.

    python benchmarks/record_memory.py

Each run is a process of its own, so that its peak is its own. Issue 2 asks that 8192 samples
instead of 512, at 100 steps of the bundled model, add less than 64 MB: the float32 numbers kept for
each sample and nothing else."""

import subprocess
import sys

RUN = """
import resource, sys
import numpy as np, torch
import exposure_bias as eb

class Half(torch.nn.Module):
    def forward(self, x, timestep):
        return 0.5 * x

shape, n, steps = eval(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if shape == (1, 8, 8):
    model, data = eb.load_model("digits"), eb.load_data("digits", split="test")
else:
    schedule = eb.schedules.linear(1000)
    model = eb.Denoiser(Half(), schedule=schedule, prediction_type="epsilon", shape=shape)
    data = eb.load_data(np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32))
import warnings; warnings.simplefilter("ignore")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
eb.record(model, data, steps=steps, n=n, batch_size=min(n, 256))
print(before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(shape: tuple[int, int, int], n: int, steps: int) -> float:
    """Peak resident memory in MB of one run."""
    arguments = [sys.executable, "-c", RUN, str(shape), str(n), str(steps)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    before, after = map(float, done.stdout.split())
    print(
        f"{shape}, n={n}, {steps} steps: peak {after:.0f} MB ({before:.0f} MB before `record`)",
        flush=True,
    )
    return after


def main() -> None:
    few, many = (peak((1, 8, 8), n, 100) for n in (512, 8192))
    print(f"8192 samples instead of 512 add {many - few:.0f} MB")
    peak((3, 64, 64), 256, 1000)


if __name__ == "__main__":
    main()
