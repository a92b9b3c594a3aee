"""Copy a record with some of its networks, small enough for a repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .. import records
from ..files import UserError, listed, new_folder, write_at_once
from .images import open_data
from .provenance import checksums
from .run import measured
from .settings import SETS, Settings


def export(
    folder: str | Path,
    target: str | Path,
    strengths: Sequence[float],
    *,
    data: str | Path | None = None,
    cache: str | Path | None = None,
) -> dict:
    """Copy a record with the weights of a few models only, in half precision.

    What the rounding does to these is measured, and noted with each as `half`: accuracy and
    quantities as in the record, attacks apart. For those without the data `bundled` notes the
    same on images of scikit-learn that fit the network: see
    :func:`lesson_utils.records.bundled_images`.

    Parameters
    ----------
    folder, target : str or Path
        `target` must be new, or empty.
    strengths : sequence of float
        λ of the models to be copied, each with its first seed.
    data : str or Path, optional
        Folder of the photographs, if it is no longer where the record says.
    cache : str or Path, optional
        Folder for decoded photographs.

    Raises
    ------
    ValueError
        There is no such network, or its training diverged; `target` is not empty; the images
        are not those of the record.

    Returns
    -------
    dict
        The new record.
    """
    folder = Path(folder)
    record = records.load_record(folder)
    settings = Settings.from_table(record["settings"])
    settings = settings.change(data=str(data or settings.data.data))
    if settings.data.data not in SETS and not Path(settings.data.data).is_dir():
        raise UserError(f"{settings.data.data} is not there: name the folder of the data (--data)")
    images, settings = open_data(settings, cache)
    if checksums(images)["data_sha256"] != record["settings"]["data_sha256"]:
        raise UserError(
            f"the images in {settings.data.data} are not those that {folder} was measured on: "
            "name the folder that holds those (--data)"
        )
    x, y = images.test.tensors[:2]
    bundled, labels = records.bundled_images(record["settings"])
    on_bundled = {} if labels is None else {"label": labels}
    first = {model["strength"]: model for model in reversed(record["models"])}
    with new_folder(Path(target)) as copy:
        for strength in strengths:
            entry = first.get(strength)
            if entry is None or entry["diverged"] is not None:
                raise UserError(
                    f"{folder} has no network of λ = {strength:g}, or it diverged; "
                    f"it has λ = {listed(sorted(first), 20)}"
                )
            model, history = records.read_network(folder, entry["name"], settings.to_table())
            weights = copy / "models" / f"{entry['name']}.safetensors"
            records.store(weights, model.half().state_dict(), {"history": json.dumps(history)})
            model.float()
            entry["half"] = records.summaries(measured(model, x) | {"label": y})
            entry["bundled"] = records.summaries(measured(model, bundled) | on_bundled)
        values = (folder / "samples.safetensors").read_bytes()
        write_at_once(copy / "samples.safetensors", values)
        records.write_record_json(copy, record)
    return record
