"""Every kind of hostile input, seeded: `python tests/fuzz/hostile.py [--seed 0] [--only KIND]`."""

import argparse
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile_calls
import hostile_files
import hostile_lines
import hostile_state
import numpy as np
import worlds
from trials import Trial, command, run_all

# Of each kind how many inputs, at least; some kinds are lists of a fixed length.
KINDS: dict[str, tuple[Callable[..., Iterator[Trial]], int, bool]] = {
    "settings": (hostile_files.settings, 150, True),
    "networks to train": (hostile_files.networks, 150, False),
    "pipeline folders": (hostile_files.pipelines, 240, True),
    "safetensors": (hostile_files.weights, 120, True),
    "torch files": (hostile_files.pickles, 100, False),
    "labels": (hostile_files.labels, 100, False),
    "archives": (hostile_files.archives, 60, False),
    "results": (hostile_files.results, 80, True),
    "training checkpoints": (hostile_state.trainings, 110, True),
    "folders of trainings": (hostile_state.folders_of_training, 8, True),
    "feature caches": (hostile_state.caches, 48, False),
    "calls": (hostile_calls.calls, 360, False),
    "modules": (hostile_calls.modules, 37, False),
    "environments": (hostile_calls.environments, 80, True),
    "strangers' texts": (hostile_calls.strangers_texts, 120, True),
    "clocks": (hostile_calls.clocks, 24, True),
    "command lines": (hostile_lines.abbreviations, 100, False),
    "outputs": (hostile_lines.outputs, 30, True),
    "two at once": (hostile_lines.together, 5, True),
}


def prepared(folder: Path) -> Path:
    """The honest files that hostile ones are made of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worlds.recording(folder)
        worlds.pipeline(folder / "pipeline")
        errors = sys.stderr
        command(folder / "x", "variance-gap", str(folder / "honest.nc"), "-o", str(folder / "gap"))
        sys.stdout, sys.stderr = sys.__stdout__, errors
    return folder


def trials(seed: int, names: list[str], honest: Path, share: float = 1.0) -> Iterator[Trial]:
    """The trials of these kinds."""
    for number, name in enumerate(KINDS):
        if name not in names:
            continue
        make, count, with_files = KINDS[name]
        rng = np.random.default_rng([seed, number])
        given: tuple[Any, ...] = (honest,) if with_files else ()
        yield from make(rng, count, *given)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(KINDS), help="of this kind")
    parser.add_argument("--match", default="", help="whose name matches this pattern")
    parser.add_argument("--verbose", action="store_true", help="say what each did")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        honest = prepared(Path(name))
        print(f"prepared after {time.monotonic() - began:.0f} s", flush=True)
        found = trials(options.seed, options.only or list(KINDS), honest)
        some = (trial for trial in found if re.search(options.match, trial.name))
        tally = run_all(some, lambda words: print(words, flush=True), options.verbose)
    print(tally.table())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{len(tally.wrong)} wrong; {time.monotonic() - began:.0f} s, {peak / 1e6:.0f} MB itself")
    return bool(tally.wrong)


if __name__ == "__main__":
    sys.exit(main())
