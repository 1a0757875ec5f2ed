"""How many processes there are, which one this is, and where they meet; no torch here.

    torchrun    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
    srun        SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID; the meeting place is made of the list of
                nodes and the job's number, where MASTER_ADDR and MASTER_PORT do not name another

A batch script of SLURM and a shell that it opens have SLURM's numbers too, but are one process:
they have no step of their own, or a terminal.
"""

import os
import re
import sys
from datetime import timedelta
from typing import NamedTuple

from exposure_bias.errors import InputError

PATIENCE = 1800.0  # seconds that a process waits for the others
PATIENCE_VARIABLE = "EXPOSURE_BIAS_PATIENCE"
MEETING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SHELLS = ("bash", "sh", "zsh", "interactive")
FIRST_PORT, PORTS = 20_000, 20_000


class Team(NamedTuple):
    """This process's number, and how many there are."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def world() -> Team:
    """The processes that were started together, (0, 1) for one.

    Raises InputError for numbers that make no sense, or a number of processes without a place to
    meet.
    """
    met = _met()
    if met is not None:
        return met
    given = {name: os.environ[name] for name in MEETING if os.environ.get(name)}
    if "RANK" not in given and "WORLD_SIZE" not in given and _of_srun():
        return _numbers("SLURM_PROCID", _tasks())
    here = _numbers("RANK", "WORLD_SIZE")
    missing = [name for name in MEETING if name not in given]
    if here.size > 1 and missing:
        are = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"WORLD_SIZE is {here.size}, but {', '.join(missing)} {are} not set, so that the"
            " processes cannot meet: start with torchrun, or unset WORLD_SIZE"
        )
    if here.size > 1:
        place()
    return here


def _met() -> Team | None:
    """The processes that have met already, in whatever way."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    return Team(dist.get_rank(), dist.get_world_size())


def _numbers(rank_name: str, size_name: str) -> Team:
    rank_text, size_text = os.environ.get(rank_name) or "0", os.environ.get(size_name) or "1"
    try:
        rank, size = int(rank_text), int(size_text)
    except ValueError:
        rank, size = 0, 0
    if not 0 <= rank < max(size, 1) or size < 1:
        raise InputError(
            f"{rank_name}={rank_text:.40} and {size_name}={size_text:.40} are no process number and"
            " number of processes: start with torchrun or srun, or unset both"
        )
    return Team(rank, size)


def _tasks() -> str:
    """The variable in which srun says how many processes its step has."""
    return "SLURM_STEP_NUM_TASKS" if os.environ.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"


def _of_srun() -> bool:
    """Whether srun started this process as one of several."""
    there = os.environ.get
    if not there("SLURM_PROCID") or not there(_tasks()):
        return False
    in_a_script = there("SLURM_JOB_ID") and not there("SLURM_STEP_ID")
    in_a_shell = there("SLURM_PTY_PORT") or there("SLURM_JOB_NAME") in SHELLS
    return not (in_a_script or in_a_shell)


def place() -> str:
    """Where the processes meet, as HOST:PORT.

    Raises InputError for a port that is none.
    """
    host = os.environ.get("MASTER_ADDR") or _first_node()
    text = os.environ.get("MASTER_PORT") or str(_own_port())
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise InputError(f"MASTER_PORT={text!r:.40} is no port: give a number from 1 to 65535")
    return f"{host}:{text}"


def _first_node() -> str:
    """The first of SLURM's nodes, which it writes as node[07-09,12],other3."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or ""
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in first.groups()) if first else "127.0.0.1"


def _own_port() -> int:
    """A port that two steps of a cluster hardly share."""
    job, step = (os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    numbers = [int(text) if text.isdigit() else 0 for text in (job, step)]
    return FIRST_PORT + (numbers[0] + 101 * numbers[1]) % PORTS


def local(device: str) -> str:
    """This process's own GPU where several share "cuda", else the device that was named."""
    if device != "cuda" or world().size == 1:
        return device
    number = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    return f"cuda:{number}"


def patience() -> timedelta:
    """How long a process waits for another: EXPOSURE_BIAS_PATIENCE seconds, or half an hour.

    It must exceed the time that one batch takes."""
    text = os.environ.get(PATIENCE_VARIABLE) or str(PATIENCE)
    try:
        given = timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        given = timedelta()
    if given <= timedelta():
        raise InputError(f"{PATIENCE_VARIABLE}={text!r:.40} is no number of seconds")
    return given
