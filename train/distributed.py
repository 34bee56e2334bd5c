"""Data-parallel training: what the processes of one training do together."""

import atexit
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from simsiam.pipeline.errors import UsageError
from simsiam.train.config import DeviceName
from simsiam.train.interruption import Interrupted
from simsiam.train.launcher import Launch, read_launch
from simsiam.train.rendezvous import Meeting, meet
from simsiam.train.terminal.exit_codes import DONE, FAILED, INTERRUPTED

Result = TypeVar("Result")

_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, for example while the first one measures the kNN accuracy.

It may be long: torchrun notices a dead process at once, and ends the others, also on other machines. Only a process
that hangs is noticed after this time.
"""


class World:
    """The processes that train one model together; by default only this one, and every method does nothing."""

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1, job: str | None = None
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        """Rank among the processes of this machine, and their number."""
        self.job = job
        """Name of the job, the same after torchrun's restarts; None without torchrun."""
        self._vote: tuple[dist.Work, Tensor] | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes files and to the console."""
        return self.rank == 0

    def replicate(self, network: Callable, device: torch.device) -> Callable:
        """Return `network` with gradients averaged over the processes; it starts from the first one's weights."""
        if self.size == 1:
            return network
        assert isinstance(network, nn.Module)
        with warnings.catch_warnings():
            # PyTorch 2.14 renames this argument; 2.11 doesn't know the new name.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(
                network,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,  # `share_statistics` keeps them the same in all processes
                gradient_as_bucket_view=True,
            )

    def average_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` in every process by the mean over all. On a CPU this waits for the others."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def from_first(self, make: Callable[[], Result]) -> Result:
        """Call `make` in the first process and return its result, which must pickle, in all of them.

        If it fails, the first process raises the error, and the others exit without a message.
        """
        if self.size == 1:
            return make()
        outcome: list[tuple[bool, Result | BaseException | None]] = [(False, None)]
        if self.first:
            try:
                outcome = [(True, make())]
            except BaseException:
                dist.broadcast_object_list(outcome, device=torch.device("cpu"))
                raise
        dist.broadcast_object_list(outcome, device=torch.device("cpu"))
        made, result = outcome[0]
        if not made:
            raise SystemExit(FAILED)
        return result  # pyright: ignore[reportReturnType]

    @contextmanager
    def one_before_the_others(self) -> Iterator[None]:
        """On each machine run the block in one process first, then in the others, which find its cache filled."""
        if self.local_rank > 0:
            self._meet()
        try:
            yield
        finally:
            if self.local_rank == 0:
                self._meet()

    def agree(self, number: int) -> int:
        """Return the largest number that any process gave in its last call, the same in all of them.

        For a signal that reaches the processes in different steps. The hosts exchange the numbers while the next step
        is computed, so that no process waits for another or for a device; a signal takes effect one step late. A
        process alone gets its own number at once.
        """
        if self.size == 1:
            return number
        agreed = self._take_vote()
        ballot = torch.tensor(number)
        work = dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._vote = work, ballot
        return agreed

    def leave(self) -> None:
        """Wait for the exchange under way, if any; call it when training ended without an error."""
        self._take_vote()

    def _take_vote(self) -> int:
        if self._vote is None:
            return 0
        (work, ballot), self._vote = self._vote, None
        work.wait()
        return int(ballot)

    def _meet(self) -> None:
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # on the hosts; NCCL's barrier would occupy the devices


@contextmanager
def join_world(device: DeviceName) -> Iterator[World]:
    """Join the processes that a launcher started, each with a GPU of its own where there are GPUs; alone without one.

    CPU tensors travel by gloo and CUDA tensors by NCCL. Raises UsageError when a machine has fewer GPUs than processes,
    or the launcher's environment is incomplete.
    """
    launch = read_launch()
    if launch.size == 1:
        # torchrun may have started a job of one process, or one that has lost the others.
        yield World(job=_meet(launch).job if launch.torchrun_id is not None else None)
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        if launch.local_size > torch.cuda.device_count():
            raise UsageError(
                f"{launch.local_size} processes were started on this machine, which has {torch.cuda.device_count()}"
                " GPUs; start one for each GPU (torchrun: --nproc-per-node)."
            )
        torch.cuda.set_device(launch.local_rank)
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    store, job = _meet(launch)
    dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size, timeout=_PATIENCE)
    world = World(launch.rank, launch.size, launch.local_rank, launch.local_size, job)
    try:
        yield world
        world.leave()
    except Interrupted as stop:
        world.leave()
        # Without this the process is aborted at its exit, and torchrun restarts it though it had finished.
        dist.destroy_process_group()
        if world.first:
            raise
        raise SystemExit(INTERRUPTED if stop.signal_number == signal.SIGINT else DONE) from None
    except BaseException:
        # The others may be waiting in a collective, and NCCL destroys a group only together with them, so destroying
        # it here or at the interpreter's exit could hang. Instead the process ends at once after its error is printed.
        atexit.register(_end_at_once)
        raise
    else:
        dist.destroy_process_group()


def _end_at_once() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(FAILED)


def _meet(launch: Launch) -> Meeting:
    store, _, _ = next(rendezvous(launch.meeting_point, launch.rank, launch.size, timeout=_PATIENCE))
    return meet(store, launch.rank, launch.size, _PATIENCE, launch.torchrun_id or "")
