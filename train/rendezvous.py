"""Rendezvous: gives each start of the processes its own prefix in torchrun's store, and all starts one job name."""

import time
from datetime import timedelta
from typing import NamedTuple
from uuid import uuid4

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store

from simsiam.pipeline.errors import RunError

_ASK_AGAIN = timedelta(seconds=5)
_LOOK_AGAIN_SECONDS = 0.02


class Meeting(NamedTuple):
    """What all processes of one start agree on."""

    store: Store
    """The store of this start alone; the process group is created through it."""
    job: str
    """The same in all processes, and after restarts, for which torchrun keeps its store by default."""


def meet(store: Store, rank: int, size: int, patience: timedelta, job: str = "") -> Meeting:
    """Wait until all `size` processes of this start are there.

    torchrun keeps one store over its restarts, but PyTorch (2.14: `_create_c10d_store`) assumes a new one: a process
    would find the addresses of dead processes, and be refused or wait for ever. TORCHELASTIC_RESTART_COUNT can't tell
    the starts apart: each machine has its own, which doesn't count restarts because a machine joined or left. So rank 0
    picks a fresh id for each start, and sends it only to ranks that present an unseen nonce.

    Raises RunError if a process is missing after `patience`.
    """
    prefix = f"simsiam/{job}"
    last = time.monotonic() + patience.total_seconds()
    start, job = _gather(store, prefix, size, last) if rank == 0 else _ask(store, prefix, rank, last)
    return Meeting(PrefixStore(f"{prefix}/{start}", store), job)


def _gather(store: Store, prefix: str, size: int, last: float) -> tuple[str, str]:
    start = uuid4().hex
    job = store.compare_set(f"{prefix}/job", "", start).decode()  # the id of the job's first start
    missing, answered = set(range(1, size)), {}
    while missing:
        for other in sorted(missing):
            asked = f"{prefix}/{other} asks"
            if store.check([f"{prefix}/{start}/{other} is here"]):
                missing.remove(other)
            elif store.check([asked]) and (nonce := store.get(asked)) != answered.get(other):
                # The nonce may be a dead process's; answering it is harmless.
                store.set(f"{prefix}/to {nonce.decode()}", f"{start} {job}")
                answered[other] = nonce
        if time.monotonic() > last:
            raise RunError(f"Of {size} processes these did not come: {', '.join(map(str, sorted(missing)))}.")
        time.sleep(_LOOK_AGAIN_SECONDS)
    return start, job


def _ask(store: Store, prefix: str, rank: int, last: float) -> tuple[str, str]:
    nonce = uuid4().hex
    while True:
        store.set(f"{prefix}/{rank} asks", nonce)
        try:
            store.wait([f"{prefix}/to {nonce}"], _ASK_AGAIN)
            break
        except DistStoreError:
            if time.monotonic() > last:
                raise RunError("The first process did not come.") from None
    start, job = store.get(f"{prefix}/to {nonce}").decode().split()
    store.set(f"{prefix}/{start}/{rank} is here", "")
    return start, job
