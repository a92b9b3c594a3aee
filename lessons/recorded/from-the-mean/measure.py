"""Alignment seen from the mean instead of black: samples.safetensors and measured.json beside this file.

    python measure.py FOLDER [FOLDER ...]

Each folder is a record or a finished run; its networks with weights are measured on the images of the
record, which have to be there (`LESSONS_DATA`). The mean is what the first layer of a network for
photographs subtracts, one colour; for digits it is the mean training image. The alignment is then
|<x - c, g>| / ||g|| with the saliency map g. What is already in the file is not measured again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from lesson_utils import alignment, saliency_map
from lesson_utils.experiments.images import open_data
from lesson_utils.experiments.provenance import checksums, environment
from lesson_utils.experiments.settings import Settings
from lesson_utils.records import (
    load_model,
    load_record,
    load_samples,
    store,
    stored,
)

HERE = Path(__file__).parent


def from_the_mean(net, x, c):
    """Alignment of a batch with its maps, from black and from c: `(2, B)`."""
    g = saliency_map(net, x)
    return torch.stack([alignment(x, g), alignment(x - c, g)])


def main():
    """Measure what is missing, and write all that is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    values_file, notes_file = (
        HERE / "samples.safetensors",
        HERE / "measured.json",
    )
    values = stored(values_file)[0] if values_file.exists() else {}
    notes = (
        json.loads(notes_file.read_text()) if notes_file.exists() else {}
    )
    opened = None
    for folder in asked.folders:
        record = load_record(folder)
        settings = Settings.from_table(record["settings"])
        kind = settings.data.data
        for model in record["models"]:
            name = f"{kind}/{model['name']}"
            weights = folder / "models" / f"{model['name']}.safetensors"
            if name in notes or not weights.exists():
                continue
            if opened is None or opened[0] != kind:
                opened = kind, open_data(settings, asked.cache)[0]
            data = opened[1]
            x = data.test.tensors[0]
            pair = model["strength"], model["seed"]
            net = load_model(folder, *pair)
            c = (
                data.train.tensors[0].mean(0)
                if kind == "mnist"
                else net[0].mean.view(-1, 1, 1)
            )
            both = torch.cat(
                [from_the_mean(net, part, c) for part in x.split(100)], 1
            )
            seen = dict(zip(("black", "mean"), both, strict=True))
            recorded = load_samples(folder, *pair)["alignment"]
            off = float(np.median(seen["black"]) / np.median(recorded)) - 1
            assert abs(off) < 0.03, (name, off)  # half precision, at most
            values |= {f"{name}/{key}": v for key, v in seen.items()}
            notes[name] = {
                key: float(np.median(v)) for key, v in seen.items()
            }
            notes[name] |= checksums(data) | {"made": environment("cpu")}
            print(name, *list(notes[name].values())[:2], flush=True)
    store(values_file, dict(sorted(values.items())), {"format": "pt"})
    notes_file.write_text(
        json.dumps(notes, indent=1, sort_keys=True) + "\n"
    )


if __name__ == "__main__":
    main()
