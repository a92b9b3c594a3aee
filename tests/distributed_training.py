"""Run by `test_distributed.py` under torchrun, and imported by it: a small training on made images."""

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import distributed
from torch.utils.data import TensorDataset

from lesson_utils.experiments import train as training
from lesson_utils.experiments.processes import join_processes
from lesson_utils.experiments.settings import Recipe
from lesson_utils.experiments.train import train
from lesson_utils.files import write_at_once
from lesson_utils.models import resnet

RECIPE = Recipe(
    epochs=3,
    batch_size=8,
    learning_rate=0.05,
    decay_every=2,
    augment=True,
    clip=1.0,
    freeze_statistics=True,
)


def made_images(n=25):
    """The last of four batches is a single image: less than one for each process.

    In float64, because training by double backpropagation amplifies roundings.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, 16, 16, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 4, (n,), generator=generator)


def trained(checkpoint=None):
    torch.manual_seed(0)
    model = resnet(18, 4, width=8, small_images=True).double()
    history = train(
        model, TensorDataset(*made_images()), strength=0.1, recipe=RECIPE, checkpoint=checkpoint
    )
    return model, history


def die_once(marker):
    """The last process kills itself in the second epoch, as a machine does that fails."""
    start = training.seed_epoch

    def start_epoch(epoch, *rest):
        if epoch == 1 and distributed.get_rank() == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return start(epoch, *rest)

    training.seed_epoch = start_epoch


if __name__ == "__main__":
    torch.set_num_threads(1)
    join_processes()
    folder = Path(sys.argv[1])
    if "die" in sys.argv:
        die_once(folder / "died")
    model, history = trained(folder / "checkpoint.safetensors")
    if distributed.get_rank() == 0:
        content = {**model.state_dict(), "losses": torch.tensor(history.losses)}
        write_at_once(folder / "result.safetensors", save(content))
    distributed.destroy_process_group()
