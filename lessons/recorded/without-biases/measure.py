"""Photograph networks with and without biases: seed-0.json and the values beside this file.

    python measure.py --seed 0       # needs Tiny ImageNet, see lesson_utils.photographs.find_tiny_imagenet

Both arms start from the network of `../tiny-imagenet` that was trained without a penalty (or from
`--start`). In one of them all biases are taken away and stay away: the shift of the normalisation of x,
the means and shifts of batch normalisation, the biases of the last layer. Both arms are then
trained in the same way, first without a penalty, then with each λ, from there on; the images are those of
`../tiny-imagenet`. About forty minutes on one core for each seed. What is finished is not made again.
"""

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lesson_utils.experiments.images import open_data
from lesson_utils.experiments.provenance import checksums, environment
from lesson_utils.experiments.run import measured
from lesson_utils.experiments.settings import PRESETS
from lesson_utils.experiments.train import train
from lesson_utils.models import load_weights, network_of
from lesson_utils.records import load_model

HERE = Path(__file__).parent
STRENGTHS = 0.0, 2.0
KEPT = (
    *("alignment", "binarized_alignment", "linearized_robustness"),
    *("degree_of_homogeneity", "bias", "input_norm", "correct"),
)


def take_biases_away(model, images):
    """Every affine map becomes linear, in place.

    Batch normalisation (in eval mode) divides by the root of the mean square of `images`
    at its place, as it did by their standard deviation: the size of what follows stays about the same.
    """

    def scale(module, inputs):
        y = inputs[0]
        axes = [axis for axis in range(y.ndim) if axis != 1]
        module.running_var.copy_((y**2).mean(axes))

    hooks = []
    model[0].mean.zero_()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            hooks.append(module.register_forward_pre_hook(scale))
        if isinstance(module, (nn.BatchNorm2d, nn.Linear)):
            nn.init.zeros_(module.bias).requires_grad_(False)
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()


def main():
    """Train what is missing, and write all that is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start", type=Path, help="weights of another network"
    )
    parser.add_argument("--work", type=Path, default=Path("without-biases"))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--first-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    settings = PRESETS["tiny-imagenet-cpu"].change(
        images=asked.images, epochs=asked.epochs, strengths=STRENGTHS
    )
    data, settings = open_data(settings, asked.cache)
    x, y = data.test.tensors
    if asked.start:
        start = load_weights(network_of(settings.to_table()), asked.start)
    else:
        start = load_model(HERE.parent / "tiny-imagenet", 0.0)
    seen, first_images = [], data.train.tensors[0][:500] / 255
    for arm in ("biases", "no biases"):
        base = copy.deepcopy(start).eval()
        if arm == "no biases":
            take_biases_away(base, first_images)
        first = replace(settings.training, epochs=asked.first_epochs)
        first = replace(
            first, decay_every=max(1, asked.first_epochs * 2 // 3)
        )
        name = f"{arm.replace(' ', '-')}-seed-{asked.seed}"
        weights = asked.work / f"{name}.pt"
        if weights.exists():
            base.load_state_dict(torch.load(weights, weights_only=True))
        else:
            train(
                base,
                data.train,
                strength=0.0,
                recipe=first,
                seed=asked.seed,
                checkpoint=weights.with_suffix(".first"),
            )
            torch.save(base.state_dict(), weights)
        for strength in STRENGTHS:
            file = asked.work / f"{name}-strength-{strength:g}.safetensors"
            if not file.exists():
                model = copy.deepcopy(base)
                history = train(
                    model,
                    data.train,
                    strength=strength,
                    recipe=settings.training,
                    seed=asked.seed,
                    checkpoint=file.with_suffix(".training"),
                )
                values = measured(model, x)
                values["correct"] = values["prediction"] == y
                values = {k: values[k].float().contiguous() for k in KEPT}
                save_file(
                    values, file, {"losses": json.dumps(history.losses)}
                )
            seen.append(
                {"arm": arm, "strength": strength, "file": file.name}
            )
            found = load_file(file)
            print(
                seen[-1],
                {
                    k: round(float(np.median(v)), 4)
                    for k, v in found.items()
                },
                found["correct"].mean().item(),
                flush=True,
            )
    note = {
        "settings": settings.to_table()
        | {"first_epochs": asked.first_epochs},
        "data": checksums(data),
        "environment": environment("cpu"),
        "networks": seen,
    }
    (asked.work / f"seed-{asked.seed}.json").write_text(
        json.dumps(note, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
