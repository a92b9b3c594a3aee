"""Everything about several processes that train one network together, under torchrun."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


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
        torch.cuda.set_device(device)
    distributed.init_process_group(store=store, rank=rank, world_size=world, timeout=patience)
    return device


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
