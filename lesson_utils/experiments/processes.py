"""Everything about several processes that train one network together, under torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..files import UserError


def join_processes(device: str = "cpu") -> str:
    """Under torchrun: meet the other processes. Does nothing in a process of its own.

    Parameters
    ----------
    device : str
        `cpu`, or `cuda`: then each process of a machine takes a GPU of its own.

    Returns
    -------
    str
        The device of this process.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return device
    # After a restart torchrun's store still holds the addresses of the processes that died
    # (PyTorch issue 135712): each attempt keeps its entries apart.
    store, rank, world = next(distributed.rendezvous("env://"))
    store = distributed.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    patience = timedelta(days=1)  # others may train or measure for hours meanwhile
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        check_device(device)
        torch.cuda.set_device(device)
    distributed.init_process_group(store=store, rank=rank, world_size=world, timeout=patience)
    return device


def check_device(device: str) -> None:
    """Refuse a device that is not there, or computes nothing."""
    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {device!r} cannot be used here: {reason}") from error


@contextmanager
def share_cores(folder: Path) -> Iterator[Callable[[], None]]:
    """Threads for processes that work side by side, in one folder: for each its share of the cores.

    Yields a function that counts these processes anew and sets the threads of this one, at
    least one. The environment variable OMP_NUM_THREADS, which torchrun sets, overrules it.
    """
    whole, places = torch.get_num_threads(), []

    def share() -> None:
        others = 0
        for k in range(whole):  # as many as can have a core of their own
            place = FileLock(folder / f"process-{k}.lock")
            if place.lock_file in [mine.lock_file for mine in places]:
                continue
            try:
                place.acquire(0)
            except Timeout:
                others += 1
            else:
                places.append(place) if not places else place.release()
        torch.set_num_threads(max(1, whole // (others + 1)))

    try:
        yield (lambda: None) if "OMP_NUM_THREADS" in os.environ else share
    finally:
        torch.set_num_threads(whole)
        for place in places:
            place.release()


def rank_and_count() -> tuple[int, int]:
    """Number of this process among those that train together, and how many they are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank_and_count()[0] == 0


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if rank_and_count()[1] > 1:
        distributed.barrier()


def shared(model: nn.Module) -> nn.Module:
    """A model whose gradients are averaged over all processes."""
    return DistributedDataParallel(model) if rank_and_count()[1] > 1 else model


def summed(values: Tensor) -> Tensor:
    """The sum of `values` over all processes."""
    if rank_and_count()[1] > 1:
        distributed.all_reduce(values)
    return values
