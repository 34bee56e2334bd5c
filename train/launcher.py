"""Launcher: what torchrun, Kubeflow or SLURM set in the environment → which of how many processes this one is.

Nothing else reads these variables. torchrun and Kubeflow's PyTorchJob set `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and
`MASTER_PORT`; torchrun alone adds `LOCAL_RANK`, `LOCAL_WORLD_SIZE` and `TORCHELASTIC_RUN_ID`; srun sets `SLURM_…` for
every step (its manual, "Output environment variables").
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from simsiam.pipeline.errors import UsageError

_GLOBAL = ("RANK", "WORLD_SIZE")
_LOCAL = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_ADVICE = "start the processes by torchrun, or, to train in this one alone, unset"
_FIRST_PORT, _PORTS = 20000, 10000
"""Ports for SLURM's steps, below those that Linux gives to outgoing connections (32768 and up)."""


@dataclass(frozen=True)
class Launch:
    """One of the processes that were started together; by default this one alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Index among the processes of this machine."""
    local_size: int = 1
    """Number of processes of this machine."""
    meeting_point: str = "env://"
    """URL at which the processes find each other, for `torch.distributed.rendezvous`."""
    torchrun_id: str | None = None
    """torchrun's name of the job, whose processes it restarts; None if another launcher started them."""


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return what the launcher says; where several do, torchrun inside a SLURM step say, the innermost one's.

    Without `LOCAL_RANK` a process is the only one of its machine, as in a pod of Kubeflow's.

    Raises UsageError, naming what is missing or contradicts itself, when only a part of the variables is set: a shell
    that has kept one of them would train something else than it says, or wait for ever.
    """
    if any(name in environment for name in (*_GLOBAL, *_LOCAL)):
        return _read_ranks(environment)
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _read_slurm(environment)
    return Launch()


def is_first_process() -> bool:
    """Whether this process, of all that were started together, writes files and to the console."""
    return read_launch().rank == 0


def speaks_for_its_machine() -> bool:
    """Whether this process tells of a mistake that all processes of its machine make."""
    try:
        return read_launch().local_rank == 0
    except UsageError:  # this is the mistake
        return True


def _read_ranks(environment: Mapping[str, str]) -> Launch:
    given = [name for name in (*_GLOBAL, *_LOCAL) if name in environment]
    numbers = {name: _number(name, environment[name]) for name in given}
    needed = _GLOBAL + (_LOCAL if any(name in numbers for name in _LOCAL) else ())
    if numbers.get("WORLD_SIZE", 2) > 1 or "TORCHELASTIC_RUN_ID" in environment:
        needed += _ADDRESS
    told = " and ".join(f"{name}={environment[name]}" for name in given)
    if missing := [name for name in needed if not environment.get(name)]:
        raise UsageError(f"The environment has {told}, but no {' and no '.join(missing)}; {_ADVICE} {' '.join(given)}.")
    launch = Launch(
        numbers["RANK"],
        numbers["WORLD_SIZE"],
        numbers.get("LOCAL_RANK", 0),
        numbers.get("LOCAL_WORLD_SIZE", 1),
        torchrun_id=environment.get("TORCHELASTIC_RUN_ID"),
    )
    fits = launch.rank < launch.size and launch.local_rank < launch.local_size <= launch.size
    if not fits or launch.local_rank > launch.rank:
        raise UsageError(f"The environment contradicts itself with {told}; {_ADVICE} {' '.join(given)}.")
    return launch


def _read_slurm(environment: Mapping[str, str]) -> Launch:
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST")
    if missing := [name for name in names if name not in environment]:
        raise UsageError(
            f"The environment has SLURM_STEP_NUM_TASKS={environment['SLURM_STEP_NUM_TASKS']}, but no"
            f" {' and no '.join(missing)}; start the processes by srun, or, to train in this one alone, unset"
            " SLURM_STEP_NUM_TASKS."
        )
    numbers = {name: _number(name, environment[name]) for name in names[:3]}
    host = environment.get("MASTER_ADDR") or _first_host(environment["SLURM_STEP_NODELIST"])
    # Two steps of one job, or two jobs on one machine, should not meet each other.
    step = int(environment.get("SLURM_JOB_ID", 0)) * 10 + int(environment.get("SLURM_STEP_ID", 0))
    port = environment.get("MASTER_PORT") or _FIRST_PORT + step % _PORTS
    return Launch(
        numbers["SLURM_PROCID"],
        _number("SLURM_STEP_NUM_TASKS", environment["SLURM_STEP_NUM_TASKS"]),
        numbers["SLURM_LOCALID"],
        _tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])[numbers["SLURM_NODEID"]],
        f"tcp://{host}:{port}",
    )


def _number(name: str, value: str) -> int:
    if not value.isdecimal() or (int(value) == 0 and "SIZE" in name):
        raise UsageError(f"The environment has {name}={value!r}, which is no number of processes; {_ADVICE} {name}.")
    return int(value)


def _tasks_per_node(written: str) -> list[int]:
    """Return SLURM's `4(x2),3` as [4, 4, 3]."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in written.split(",")]
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def _first_host(nodes: str) -> str:
    """Return the first of SLURM's `gpu[03-05,9],cpu1`: gpu03."""
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    assert first, nodes
    return "".join(part or "" for part in first.groups())
