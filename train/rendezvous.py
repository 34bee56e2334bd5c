"""torchrun's store → the part of it that one start of the processes has for itself, and the name of their job."""

import os
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
    """What the processes of one start know when they have found each other."""

    store: Store
    """Where nobody else writes: the process group is to be made through it."""
    job: str
    """The same in all processes, and after every restart for which torchrun keeps its store, as it does by default."""


def meet(store: Store, rank: int, size: int, patience: timedelta) -> Meeting:
    """Wait until all `size` processes of this start are there.

    torchrun keeps one store over its restarts, and PyTorch (2.14: `_create_c10d_store`) trusts it to be new: a process
    would find the addresses of those that died, and be refused, or wait for ever. Nor does torchrun count the starts
    for everybody alike: TORCHELASTIC_RESTART_COUNT is each machine's own, and leaves out restarts because a machine
    came or went. So the first process gives each start a name, and tells it only in answer to a word that is new.

    Raises RunError where a process is missing after `patience`.
    """
    place = f"simsiam/{os.environ.get('TORCHELASTIC_RUN_ID', '')}"
    last = time.monotonic() + patience.total_seconds()
    start, job = _gather(store, place, size, last) if rank == 0 else _ask(store, place, rank, last)
    return Meeting(PrefixStore(f"{place}/{start}", store), job)


def _gather(store: Store, place: str, size: int, last: float) -> tuple[str, str]:
    start = uuid4().hex
    job = store.compare_set(f"{place}/job", "", start).decode()  # the first start's name
    missing, answered = set(range(1, size)), {}
    while missing:
        for other in sorted(missing):
            asked = f"{place}/{other} asks"
            if store.check([f"{place}/{start}/{other} is here"]):
                missing.remove(other)
            elif store.check([asked]) and (word := store.get(asked)) != answered.get(other):
                # Perhaps the word of a dead one, whom the answer does no good.
                store.set(f"{place}/to {word.decode()}", f"{start} {job}")
                answered[other] = word
        if time.monotonic() > last:
            raise RunError(f"Of {size} processes these did not come: {', '.join(map(str, sorted(missing)))}.")
        time.sleep(_LOOK_AGAIN_SECONDS)
    return start, job


def _ask(store: Store, place: str, rank: int, last: float) -> tuple[str, str]:
    word = uuid4().hex
    while True:
        store.set(f"{place}/{rank} asks", word)
        try:
            store.wait([f"{place}/to {word}"], _ASK_AGAIN)
            break
        except DistStoreError:
            if time.monotonic() > last:
                raise RunError("The first process did not come.") from None
    start, job = store.get(f"{place}/to {word}").decode().split()
    store.set(f"{place}/{start}/{rank} is here", "")
    return start, job
