"""How far results of one run differ by batch size, threads, precision and device.

    python benchmarks/same_numbers.py [--device cuda]

A run of the bundled digits model, 256 images and 20 steps, is repeated. Printed are the largest
difference of a state's mean over its standard deviation, and those of the variance gap (in per
cent) and of high frequencies (in dB); beside them the half-widths of their intervals."""

import argparse
from typing import Any

import numpy as np
import torch

import exposure_bias as eb
from exposure_bias.denoisers import Speed
from exposure_bias.running.setup import placed


def measured(device: str, batch_size: int, threads: int, precision: str | None) -> dict[str, Any]:
    """One run's numbers."""
    torch.set_num_threads(threads)
    model = placed(eb.load_model("digits"), device, Speed(precision))
    data = eb.load_data("digits", split="test")
    recording = eb.record(model, data, steps=20, n=256, batch_size=batch_size)
    gaps, spectra = eb.variance_gap(recording), eb.spectrum(recording)
    chain = recording["chain"]
    return {
        "state": chain["state_sum"].values / recording.n,
        "gap": 100 * float(gaps["gap"][-1]),
        "gap_se": 100 * float(gaps["gap_se"][-1]),
        "hf": float(spectra["hf"]),
        "hf_se": float(spectra["hf_se"]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    first = measured("cpu", 256, 1, None)
    print(f"gap ± {2.13 * first['gap_se']:.2g} %, hf ± {2.13 * first['hf_se']:.2g} dB")
    runs: dict[str, tuple[str, int, int, str | None]] = {
        "again": ("cpu", 256, 1, None),
        "batch 64": ("cpu", 64, 1, None),
        "batch 17": ("cpu", 17, 1, None),
        "batch 1": ("cpu", 1, 1, None),
        "2 threads": ("cpu", 256, 2, None),
        "bfloat16": ("cpu", 256, 1, "bfloat16"),
    }
    if device != "cpu":
        runs = {
            f"{device}, {name}": (device, batch, 1, precision)
            for name, batch, precision in (
                ("float32", 256, None),
                ("batch 17", 17, None),
                ("bfloat16", 256, "bfloat16"),
                ("float16", 256, "float16"),
            )
        }
    for name, given in runs.items():
        found = measured(*given)
        state = np.abs(found["state"] - first["state"]).max()
        gap, hf = (abs(found[k] - first[k]) for k in ("gap", "hf"))
        print(f"{name:<20} state {state:.1e}  gap {gap:.1e} %  hf {hf:.1e} dB", flush=True)


if __name__ == "__main__":
    main()
