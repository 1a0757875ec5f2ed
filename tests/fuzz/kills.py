"""Kill every command that runs a network, at random moments, and let it go on: the same bits.

    python tests/fuzz/kills.py [--kills 20] [--seed 0]

prints a table and exits with 1 where a result differs or a command does not end. A run consists of
events: a call of the network, a step of training, a file flushed to disk, a file renamed. One run
counts them; a kill is SIGKILL at an event drawn from all of them, so that kills are the same in
every process of one seed, whatever the machine is doing, and fall into writing as often as writing
has events. `again` is how many calls of the network, or steps of training, were made twice, as a
share of the run's. A run writes no more often than twenty times the time of a writing allows; here
it writes after every batch, as runs do whose batches take longer than that."""

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

# Before torch: a process that has run several threads cannot be forked.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import xarray as xr
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel  # once, for all children
from matplotlib.figure import Figure
from torch import Tensor

import exposure_bias as eb
from exposure_bias import files, plots
from exposure_bias.cli import main, output
from exposure_bias.data import Data
from exposure_bias.running import loop

SHAPE = (1, 4, 4)
EVENTS, CALLS, FATAL = RawValue("q"), RawValue("q"), RawValue("q")
SCHEDULE = eb.schedules.linear(1000)
HERE = Path(__file__)
loop.SAVING_SHARE = 1e9
LOADED = (DDPMPipeline, DDPMScheduler, UNet2DModel, plots, output)


def tick() -> None:
    """One more event; the fatal one ends this process."""
    EVENTS.value += 1
    if EVENTS.value == FATAL.value:
        os.kill(os.getpid(), signal.SIGKILL)


def net(x: Tensor, t: Tensor) -> Tensor:
    """ε̂ of N(0, 0.09 I), and 1 % more: σ x/(0.09 α² + σ²)."""
    CALLS.value += 1
    tick()
    place = t.long()
    a, s = (torch.from_numpy(v)[place].view(-1, 1, 1, 1) for v in (SCHEDULE.alpha, SCHEDULE.sigma))
    return (1.01 * s * x.double() / (0.09 * a**2 + s**2)).to(x.dtype)


def model() -> eb.Denoiser:
    """Its denoiser."""
    return eb.Denoiser(net, schedule=SCHEDULE, prediction_type="epsilon", shape=SHAPE)


def images() -> Data:
    """Draws of that normal distribution."""
    x = np.random.default_rng(0).normal(0, 0.3, (96, *SHAPE)).astype(np.float32)
    return eb.load_data(x, value_range=None)


def every(function: Callable[..., Any], calls: int = 0) -> Callable[..., Any]:
    """A function of which each call is an event, and counts as so many calls of the network."""

    def counted(*given: Any, **options: Any) -> Any:
        CALLS.value += calls
        tick()
        return function(*given, **options)

    return counted


RUN = ["--model", "kills:model", "--data", "kills:images", "-n", "96", "--batch-size", "32"]
STEPS = [*RUN, "--steps", "6"]
TRAIN = [
    *("--data", "kills:images", "--iterations", "8", "--batch-size", "8", "--warmup", "2"),
    *("--log-every", "2", "--evaluate-every", "4", "--checkpoint-every", "2"),
    *("--sample-every", "0"),
]
NETWORK = {"block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4}
COMMANDS: dict[str, tuple[list[str], str]] = {
    "record": (STEPS, "recording.nc"),
    "train": (TRAIN, "last"),
    "chain-fid": ([*RUN, "--lengths", "3", "5", "--features", "pixel"], "chain-length-fid.nc"),
    "rollouts": (STEPS, "rollouts.nc"),
    "telescope": (STEPS, "telescope.nc"),
    "error-hist": ([*RUN, "--lengths", "3", "6", "--per-test", "16"], "chain-errors.nc"),
    "diagnose": (STEPS, "diagnose.nc"),
    "compare": (
        ["kills:model", "kills:model + es:1.01", *STEPS[2:], "--lengths", "4"],
        "compare.nc",
    ),
}


def run(arguments: list[str], fatal: int = 0) -> int:
    """The exit code of a command in a process of its own, killed at an event if one is fatal."""
    EVENTS.value, CALLS.value, FATAL.value = 0, 0, fatal
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(f"{arguments[-1]}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.replace, os.fsync = every(os.replace), every(os.fsync)
        torch.optim.AdamW.step = every(torch.optim.AdamW.step, calls=1)
        Figure.savefig = lambda *given, **options: None  # pictures take most of the time
        code = main(arguments)
    except BaseException:  # a fork must not go on as its parent would
        traceback.print_exc()
    finally:
        os._exit(code)


def result(out: Path, name: str) -> dict[str, bytes]:
    """All numbers of a result, by name."""
    if name.startswith("last"):
        state = torch.load(out / "last" / "trainer.pt", weights_only=True)
        return {k: v.numpy().tobytes() for part in ("net", "ema") for k, v in state[part].items()}
    tree: xr.DataTree = files.read_tree(out / name if name else out)[0]
    return {
        f"{group.path}/{key}": value.values.tobytes()
        for group in tree.subtree
        for key, value in group.variables.items()
        if value.dtype.kind in "fiu"
    }


def trials(command: str, kills: int, seed: int, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What went wrong when a command was killed so often; and the row of the table."""
    given, name = COMMANDS[command]
    if command == "train":
        (folder / "net.json").write_text(json.dumps(NETWORK))
        given = [*given, "--net", str(folder / "net.json")]
    straight = folder / f"{command}-straight"
    if code := run([command, *given, "-o", str(straight)]):
        return [f"{command} ends with {code}"], {"command": command}
    expected, events, calls = result(straight, name), EVENTS.value, CALLS.value
    moments = np.random.default_rng([seed, *command.encode()]).integers(1, events + 1, kills)
    problems, again = [], [0.0]
    for number, fatal in enumerate(moments.tolist()):
        out = folder / f"{command}-{number}"
        arguments = [command, *given, "-o", str(out)]
        killed, done = run(arguments, fatal), CALLS.value
        resume = ["--resume"] if command == "train" and (out / "last").exists() else []
        code = run([arguments[0], *resume, *arguments[1:]])
        again.append((done + CALLS.value - calls) / max(calls, 1))
        if killed != -signal.SIGKILL or code:
            said = Path(f"{out}.log").read_text().strip().rpartition("\n")[2]
            problems.append(f"{command} at event {fatal}: killed {killed}, then {code}: {said}")
        elif result(out, name) != expected:
            problems.append(f"{command} at event {fatal} of {events}: other numbers")
        elif left := [p.name for p in out.glob("**/.*partial*")] if out.is_dir() else []:
            problems.append(f"{command} at event {fatal}: left {', '.join(left)}")
    row = {"command": command, "events": events, "kills": kills, "again": f"{max(again):.0%}"}
    return problems, row | {"wrong": len(problems)}


def kill(kills: int, seed: int, names: list[str]) -> int:
    """All of it; the number of problems."""
    problems = []
    print(f"{'command':<12}{'events':>7}{'kills':>7}{'again':>7}{'wrong':>7}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for command in names:
            found, row = trials(command, kills, seed, Path(folder))
            problems += found
            cells = (f"{v!s:<12}" if k == "command" else f"{v!s:>7}" for k, v in row.items())
            print("".join(cells), flush=True)
    print(*problems, sep="\n")
    return len(problems)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    sys.modules["kills"] = sys.modules["__main__"]  # so that kills:model counts here
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    options = parser.parse_args()
    sys.exit(min(1, kill(options.kills, options.seed, options.commands)))
