"""Several processes on one run: the same numbers as one, whatever is shared, killed or unlike."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.running import loop, parallel

SCRIPT = """
import os, sys, warnings
import numpy as np, torch
import exposure_bias as eb
from exposure_bias.cli import main
from exposure_bias.running import loop, parallel
warnings.simplefilter("ignore")
torch.set_num_threads(1)
out = sys.argv[1]

def model(scale=0.1):
    return eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), scale, eb.schedules.linear(1000))

def images(n=48, seed=0):
    x = np.random.default_rng(seed).normal(0, 0.3, (n, 1, 4, 4)).clip(-1, 1)
    return eb.load_data(x.astype(np.float32))

def meet(work, size=2):
    \"\"\"The exit codes of processes that meet and work.\"\"\"
    port, pids = next(ports), []
    sys.stdout.flush()
    for rank in range(size):
        if pid := os.fork():
            pids.append(pid)
            continue
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank)}
        os.environ["WORLD_SIZE"] = str(size)
        code = 1
        try:
            with parallel.joined():
                code = work() or 0
        except eb.InputError as error:
            if parallel.tells(error):
                print(type(error).__name__, error, flush=True)
            code = 2
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

ports = iter(sys.argv[2:])
"""


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def drive(script: str, folder: Path, meetings: int = 1) -> list[str]:
    """The lines that a script prints in a process that may fork others."""
    code = SCRIPT + textwrap.dedent(script)
    ports = [free_port() for _ in range(meetings)]
    environment = {k: v for k, v in os.environ.items() if k not in parallel.MEETING}
    environment |= {"EXPOSURE_BIAS_PATIENCE": "60", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), *ports],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def assert_alike(one: xr.Dataset, two: xr.Dataset, rtol: float = 1e-9) -> None:
    assert set(one.variables) == set(two.variables)
    for name, values in one.variables.items():
        a, b = values.values, two[name].values
        if a.dtype.kind == "f":
            # A sum that is zero but for round-off may be another round-off.
            scale = max(1e-3, np.abs(a[np.isfinite(a)]).max(initial=0.0))
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=str(name))
        else:
            assert (a == b).all(), name


COMMANDS = """
common = dict(n=48, batch_size=10)
walk = eb.oracles.LinearAutoregression(0.9, eb.schedules.edm(0.05, 5.0))
def everything():
    size = parallel.team().size
    found = dict(
        budget=lambda: eb.error_budget(model(), images(), steps=4, restarts=[], **common),
        rollouts=lambda: eb.rollouts(model(), images(), steps=4, starts=[999, 333], **common),
        telescope=lambda: eb.telescope(model(), images(), steps=4, starts=[999], **common),
        errors=lambda: eb.chain_errors(model(), images(), (2, 3), **common),
        fid=lambda: eb.chain_length_fid(model(), images(), (2, 3), features="pixel", **common,
                                        checkpoint=f"{out}/cells-{size}"),
        drift=lambda: eb.drift_budget(walk, walk.law.sample(48, 3), steps=3, **common),
        compare=lambda: eb.compare([model(), model(0.12)], images(), steps=3, lengths=(2,),
                                   budget=False, **common),
    )
    eb.record(model(), images(), steps=3, checkpoint=f"{out}/recording-{size}.nc", **common)
    for name, run in found.items():
        result = run()
        if parallel.team().first:
            result.attrs = {}
            result.to_netcdf(f"{out}/{name}-{size}.nc")
"""


@pytest.mark.slow
def test_every_experiment_agrees_with_one_process(tmp_path: Path) -> None:
    """Whatever runs a network gives one process's numbers to 1e-9."""
    script = COMMANDS + "\neverything()\nprint(meet(everything))"
    assert drive(script, tmp_path) == ["[0, 0]"]
    names = ("budget", "rollouts", "telescope", "errors", "fid", "drift", "compare")
    for name in names:
        assert_alike(*(xr.load_dataset(tmp_path / f"{name}-{k}.nc") for k in (1, 2)))
    one, two = (eb.load(tmp_path / f"recording-{k}.nc") for k in (1, 2))
    assert two.n == one.n == 48
    for stream in one.streams:
        assert_alike(one[stream], two[stream])
    assert not list(tmp_path.rglob("*.part*"))


KILLED = """
import itertools, pathlib, time
loop.SAVING_SHARE = 1e9
class Counted(torch.nn.Module):
    left, seen = 10**6, 0
    def forward(self, x, t):
        if x.shape[0] > 1:
            Counted.seen += len(x)
            Counted.left -= 1
            if Counted.left < 0:
                die()
        return 0.5 * x
def die():
    # Once all others are about to, so that none dies of another's death.
    team, folder = parallel.team(), pathlib.Path(out, f"dying-{next(deaths)}")
    folder.mkdir(exist_ok=True)
    (folder / str(team.rank)).touch()
    while together and len(list(folder.iterdir())) < team.size:
        time.sleep(0.05)
    time.sleep(0.2)
    os._exit(9)
deaths, together = itertools.count(), True
def net():
    return eb.Denoiser(Counted(), schedule=eb.schedules.linear(1000), prediction_type="epsilon",
                       shape=(1, 4, 4))
def record(name, left=10**6, n=48):
    Counted.left, Counted.seen = left, 0
    eb.record(net(), images(), n=n, steps=4, batch_size=4, streams=("chain",),
              checkpoint=f"{out}/{name}.nc")
"""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_other_processes(tmp_path: Path) -> None:
    """Killed on three, gone on by one and, killed again, by two: what is lost is a batch each."""
    script = (
        KILLED
        + """
record("straight")
print(Counted.seen)
def killed():
    record("resumed", 4 * 2 + 1)
print(meet(killed, 3))
from exposure_bias.running import setup as setups
setup = setups.prepare(net(), images(), kind="recording", n=48, steps=4, streams=("chain",))
print(sum(len(loop._read(path, setup)[1]) for path in pathlib.Path(out).glob("resumed.nc*")))
if os.fork() == 0:
    record("resumed", 4 * 2 + 1)
os.wait()
def last():
    record("resumed")
    print(Counted.seen <= 4 * 16, flush=True)
print(meet(last))
"""
    )
    lines = drive(script, tmp_path, 2)
    assert lines[0] == str(48 * 4)
    assert lines[1] == "[9, 9, 9]"
    assert lines[2] == "24"  # each of three had done two batches, and lost the third
    assert "".join(lines).count("True") >= 2
    one, two = eb.load(tmp_path / "straight.nc"), eb.load(tmp_path / "resumed.nc")
    for stream in one.streams:
        assert_alike(one[stream], two[stream])
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_one_line(tmp_path: Path) -> None:
    script = (
        KILLED
        + """
together = False
def dies():
    record("dead", 3 if parallel.team().rank == 1 else 10**6)
print(meet(dies, 3))
"""
    )
    told, codes = drive(script, tmp_path)
    assert told.startswith("Gone process")
    assert "another process of this run is gone" in told
    assert codes == "[2, 9, 2]"


# What processes do that are unlike, and what the one line about it names.
UNLIKE = {
    "eb.record(model(0.1 + rank()), images(), n=8, steps=2)": "model weights",
    "eb.record(model(), images(seed=rank()), n=8, steps=2)": "data hash",
    "eb.record(model(), images(), n=8, steps=2 + rank())": "steps: 2 against 3",
    "eb.record(model(), images(), n=8 + rank(), steps=2)": "8 samples against 9",
    "eb.record(model(), images(), n=1, steps=2)": "2 processes for 1 samples",
    "parallel.agree({'seed': rank()}, 'options')": "seed: 0 against 1",
    "parallel.check_shared(f'{out}/{rank()}')": "is not the same folder for all processes",
    "parallel.once(fails)": "no such thing",
}


def test_processes_that_differ_say_in_what(tmp_path: Path) -> None:
    script = """
rank = lambda: parallel.team().rank
def fails():
    raise eb.InputError("no such thing")
"""
    script += "".join(f"print(meet(lambda: {work}))\n" for work in UNLIKE)
    lines = drive(script, tmp_path, len(UNLIKE))
    # One process alone tells each.
    assert len(lines) == 2 * len(UNLIKE)
    assert lines.count("[2, 2]") == len(UNLIKE)
    for expected in UNLIKE.values():
        assert any(expected in told for told in lines)


def test_recordings_of_observed_loops_are_gathered(tmp_path: Path) -> None:
    script = """
def mine(rank, size):
    part = parallel.share(12, rank, size)
    return eb.record(model(), images(), n=len(part), first=part.start, steps=2)
def work():
    team = parallel.team()
    whole = parallel.gathered(eb.recording.merge([apart[team.rank]]))
    if team.first:
        whole.save(f"{out}/whole.nc")
apart = [mine(rank, 2) for rank in range(2)]
mine(0, 1).save(f"{out}/one.nc")
print(meet(work))
"""
    assert drive(script, tmp_path) == ["[0, 0]"]
    one, two = eb.load(tmp_path / "one.nc"), eb.load(tmp_path / "whole.nc")
    for stream in one.streams:
        assert_alike(one[stream], two[stream])


SHARDED = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel, RowwiseParallel, parallelize_module)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.up, self.down = torch.nn.Linear(16, 24), torch.nn.Linear(24, 16)
        self.double()
    def forward(self, x, t):
        h = torch.tanh(self.up(x.flatten(1)) + t[:, None] / 1000)
        return (0.3 * x.flatten(1) + self.down(h)).reshape(x.shape)

def sharded(how, size, parts):
    net = Net()
    if how == "plain":
        return net
    mesh = init_device_mesh("cpu", (size // parts, parts), mesh_dim_names=("copy", "part"))
    if how == "tensor":
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        return parallelize_module(net, mesh["part"], plan)
    for layer in (net.up, net.down):
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)

def denoiser(net):
    return eb.Denoiser(net, schedule=eb.schedules.linear(1000), prediction_type="epsilon",
                       shape=(1, 4, 4))

def results(name, net):
    rec = eb.record(denoiser(net), images(), n=40, steps=3, batch_size=8,
                    checkpoint=f"{out}/{name}.nc")
    rolled = eb.rollouts(denoiser(net), images(), n=40, steps=3, starts=[999], batch_size=8)
    errors = eb.chain_errors(denoiser(net), images(), (2, 3), n=40, batch_size=8)
    if parallel.team().first:
        for kind, found in (("rollouts", rolled), ("errors", errors)):
            found.attrs = {}
            found.to_netcdf(f"{out}/{name}-{kind}.nc")
    return rec

def work(how, parts):
    size = parallel.team().size
    net = sharded(how, size, parts)
    with parallel.together(net):
        shares = parallel.shares()
    assert shares == parallel.copies(net) == size // parts, shares
    rec = results(f"{how}-{size}-{parts}", net)
    assert rec.n == 40
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "size", "parts"),
    [("tensor", 2, 2), ("tensor", 4, 2), ("fsdp", 2, 2), ("fsdp", 4, 2)],
)
def test_networks_that_processes_hold_together(
    how: str, size: int, parts: int, tmp_path: Path
) -> None:
    """Two parts of one network, and two copies of two parts: one process's numbers to 1e-9."""
    script = (
        SHARDED
        + f"""
results("one", Net())
print(meet(lambda: work({how!r}, {parts}), {size}))
"""
    )
    assert drive(script, tmp_path) == [str([0] * size)]
    name = f"{how}-{size}-{parts}"
    for kind in ("rollouts", "errors"):
        assert_alike(*(xr.load_dataset(tmp_path / f"{n}-{kind}.nc") for n in ("one", name)))
    one, other = (eb.load(tmp_path / f"{n}.nc") for n in ("one", name))
    assert other.run.model.weights == one.run.model.weights
    for stream in one.streams:
        assert_alike(one[stream], other[stream])
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.slow
def test_a_network_whose_attention_shares_a_sequence(tmp_path: Path) -> None:
    """diffusers' context parallel, which asks for an accelerator's number of devices."""
    script = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
import diffusers, networks
torch.accelerator.device_count = lambda: 1
def flux(parts):
    net = networks.flux().double().eval().requires_grad_(False)
    if parts > 1:
        net.enable_parallelism(config=diffusers.ContextParallelConfig(ulysses_degree=parts))
    told = dict(prompt_embeds=torch.ones(1, 4, 8), pooled_prompt_embeds=torch.ones(1, 6))
    return eb.adapt(net, diffusers.FlowMatchEulerDiscreteScheduler(), **told)
def work(parts):
    model = flux(parts)
    assert parallel.copies(model.net) == 1
    x = np.random.default_rng(0).normal(0, 0.5, (12, 4, 8, 8)).astype(np.float32)
    rec = eb.record(model, eb.load_data(x, value_range=None), sampler="euler", steps=2, n=12,
                    batch_size=4)
    if parallel.team().first:
        rec.save(f"{{out}}/{{parts}}.nc")
work(1)
print(meet(lambda: work(2)))
"""
    assert drive(script, tmp_path) == ["[0, 0]"]
    one, two = (eb.load(tmp_path / f"{k}.nc") for k in (1, 2))
    assert two.run.model.weights == one.run.model.weights
    for stream in one.streams:
        assert_alike(one[stream], two[stream])


def test_one_network_on_two_processes(tmp_path: Path) -> None:
    """The quick one of these: a chain, and what is unlike in words."""
    script = (
        SHARDED
        + """
def small():
    net = sharded("tensor", 2, 2)
    rec = eb.record(denoiser(net), images(), n=12, steps=2, batch_size=4, streams=("chain",))
    if parallel.team().first:
        rec.save(f"{out}/two.nc")
def unlike():
    net = Net() if parallel.team().rank else sharded_alone()
    with parallel.together(net):
        pass
def sharded_alone():
    class Mesh:
        mesh = torch.tensor([0, 1])
        def get_coordinate(self):
            return [0]
    net = Net()
    class Placement:
        def is_replicate(self):
            return False
    net.up.weight.device_mesh, net.up.weight.placements = Mesh(), [Placement()]
    return net
def fewer():
    eb.record(denoiser(sharded("tensor", 2, 2)), images(), n=1, steps=2, streams=("chain",))
def weights():
    net = Net()
    if parallel.team().rank:
        net.up.bias.data += 1e-3
    eb.record(denoiser(net), images(), n=12, steps=2)
eb.record(denoiser(Net()), images(), n=12, steps=2, batch_size=4,
          streams=("chain",)).save(f"{out}/one.nc")
for each in (small, unlike, fewer, weights):
    print(meet(each))
"""
    )
    lines = drive(script, tmp_path, 4)
    assert [line for line in lines if line.startswith("[")] == [
        "[0, 0]",
        "[2, 2]",
        "[0, 0]",
        "[2, 2]",
    ]
    assert "process 0 holds its network together with 0, 1, but process 1 holds its own" in lines[1]
    assert "processes 0 and 1 have different runs" in lines[-2]
    assert "model weights" in lines[-2]
    one, two = eb.load(tmp_path / "one.nc"), eb.load(tmp_path / "two.nc")
    assert_alike(one["chain"], two["chain"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, (1, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"}, (1, 4)),
        # A batch script, its shell, and torchrun inside a step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, (0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_PTY_PORT": "60"}, (0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, (0, 1)),
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
                "SLURM_JOB_ID": "7",
                "SLURM_STEP_ID": "0",
                "RANK": "5",
                "WORLD_SIZE": "16",
                "MASTER_ADDR": "a",
                "MASTER_PORT": "1",
            },
            (5, 16),
        ),
    ],
)
def test_who_was_started(
    given: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert parallel.world() == expected


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("SLURM_")] + list(parallel.MEETING):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1:20000"),
        ({"SLURM_STEP_NODELIST": "node[07-09,12],other3"}, "node07:20000"),
        (
            {"SLURM_JOB_NODELIST": "gpu-a[1,3].cluster", "SLURM_JOB_ID": "54321"},
            "gpu-a1.cluster:34321",
        ),
        ({"SLURM_JOB_NODELIST": "a,b", "SLURM_STEP_ID": "3"}, "a:20303"),
        ({"SLURM_JOB_NODELIST": "a,b", "MASTER_ADDR": "c", "MASTER_PORT": "9"}, "c:9"),
    ],
)
def test_where_they_meet(
    given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert parallel.place() == expected
    for port in ("soon", "0", "99999"):
        monkeypatch.setenv("MASTER_PORT", port)
        with pytest.raises(eb.InputError, match="is no port: give a number from 1 to 65535"):
            parallel.place()


def test_srun_without_torchrun_shares_the_work(tmp_path: Path) -> None:
    """Two processes with SLURM's numbers alone: one file, half of the calls each."""
    code = """
import sys, numpy as np, torch, exposure_bias as eb
from exposure_bias.running import parallel
class Counted(torch.nn.Module):
    seen = 0
    def forward(self, x, t):
        Counted.seen += len(x) * (len(x) > 1)
        return 0.5 * x
x = np.random.default_rng(0).normal(0, 0.3, (48, 1, 4, 4)).clip(-1, 1).astype(np.float32)
model = eb.Denoiser(Counted(), schedule=eb.schedules.linear(1000), prediction_type="epsilon",
                    shape=(1, 4, 4))
with parallel.joined() as team:
    eb.record(model, x, n=48, steps=3, batch_size=4, streams=("chain",), checkpoint=sys.argv[1])
    seen = parallel.gathered_objects(Counted.seen)
    print(sum(seen) if team.first else "", flush=True)
"""
    environment = {k: v for k, v in os.environ.items() if k not in parallel.MEETING}
    environment |= {"SLURM_NTASKS": "2", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "run.nc")]
    started = [
        subprocess.Popen(line, env=environment | {"SLURM_PROCID": str(rank)}, stdout=-1, text=True)
        for rank in range(2)
    ]
    said = [process.communicate()[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said == [str(48 * 3), ""]
    assert eb.load(tmp_path / "run.nc").n == 48


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "2"}, "eb-analyze: WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT"),
        (
            {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "many", "WORLD_SIZE": "2"},
            "eb-analyze: MASTER_PORT='many' is no port",
        ),
        (
            {"RANK": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "MASTER_PORT": ""},
            "eb-analyze: WORLD_SIZE is 2, but MASTER_PORT is not set",
        ),
    ],
)
def test_processes_that_cannot_meet_say_one_sentence(
    given: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone(monkeypatch)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["gap", "--model", "digits", "-n", "8", "--steps", "2"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(message)


@pytest.mark.slow
def test_a_process_that_nobody_meets_says_one_sentence() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in parallel.MEETING}
    environment |= {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "MASTER_PORT": free_port()}
    line = [sys.executable, "-m", "exposure_bias", "gap", "--model", "digits", "-n", "8"]
    done = subprocess.run(
        [*line, "--steps", "2"],
        capture_output=True,
        text=True,
        env=environment | {"EXPOSURE_BIAS_PATIENCE": "2", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("eb-analyze: process 1 of 2 did not meet the others at 127.0.0.1:")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "no process number"),
        ({"WORLD_SIZE": "many"}, "no process number"),
        ({"WORLD_SIZE": "0"}, "no process number"),
        ({"RANK": "x"}, "no process number"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
            "is no port",
        ),
    ],
)
def test_a_world_without_a_meeting_place(
    given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in parallel.MEETING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(eb.InputError, match=expected) as caught:
        parallel.world()
    assert parallel.tells(caught.value)  # whoever reads a file on a login node is told, too


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-1", "0"])
def test_patience_is_a_number(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPOSURE_BIAS_PATIENCE", value)
    with pytest.raises(eb.InputError, match="no number of seconds"):
        parallel.patience()


@pytest.mark.parametrize("n", [1, 7, 48, 600])
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_a_plan_covers_what_is_missing_evenly(n: int, processes: int) -> None:
    done = np.arange(n)[(np.arange(n) // 5) % 3 == 0]
    planned = loop.plan(n, done, 16, processes)
    rows = np.concatenate([np.arange(r.start, r.stop) for r in planned] or [done[:0]])
    assert sorted([*rows.tolist(), *done.tolist()]) == list(range(n))
    assert all(r.stop - r.start <= 16 for r in planned)
    whole = loop.plan(n, done[:0], 16, processes)
    if processes > 1 and n > 16:
        sizes: Any = [r.stop - r.start for r in whole]
        assert len(sizes) % processes == 0
        assert max(sizes) - min(sizes) <= len(sizes)


@pytest.mark.slow
def test_the_command_line_under_torchrun(tmp_path: Path) -> None:
    """The public line, and one that has nothing to share."""

    def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        line += ["--master-port", free_port(), "-m", "exposure_bias", *arguments]
        return subprocess.run(
            line, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )

    np.save(tmp_path / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    short = ["-n", "32", "--steps", "2", "--restarts", "--starts", "999"]
    done = torchrun("diagnose", "digits", *short, "--json", "-o", str(tmp_path / "d"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"attributes"') == 1
    assert done.stderr.count("diagnose.*") == 1
    alone = torchrun("gap", str(tmp_path / "d"))
    assert alone.returncode != 0
    assert "eb-analyze: this runs no network" in alone.stderr
