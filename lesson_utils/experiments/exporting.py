"""Copy a record with some of its networks, small enough for a repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from ..files import write_at_once
from ..records import (
    bundled_images,
    load_record,
    name_of,
    read_network,
    summaries,
    write_record,
)
from .run import measured, open_data
from .settings import Settings


def export(folder: str | Path, target: str | Path, strengths: Sequence[float]) -> dict:
    """Copy a record with the weights of a few models only, in half precision.

    What the rounding does to these is measured, and noted with each as `half`: accuracy and
    quantities as in the record, attacks apart. For those without the data `bundled` notes the
    same on images of scikit-learn that fit the network: see
    :func:`lesson_utils.records.bundled_images`.

    Parameters
    ----------
    folder, target : str or Path
    strengths : sequence of float
        λ of the models to be copied, of the first seed.

    Returns
    -------
    dict
        The new record.
    """
    folder, target, record = Path(folder), Path(target), load_record(folder)
    settings = Settings.from_table(record["settings"])
    data, settings = open_data(settings)
    x, y = data.test.tensors
    bundled, labels = bundled_images(record["settings"])
    for strength in strengths:
        name = name_of(strength, settings.sweep.seeds[0])
        model, history = read_network(folder, name, settings.to_table())
        content = save(model.half().state_dict(), metadata={"history": json.dumps(history)})
        write_at_once(target / "models" / f"{name}.safetensors", content)
        model.float()
        entry = next(one for one in record["models"] if one["name"] == name)
        entry["half"] = summaries(measured(model, x) | {"label": y})
        on_bundled = measured(model, bundled)
        entry["bundled"] = summaries(
            on_bundled if labels is None else on_bundled | {"label": labels}
        )
    write_at_once(target / "samples.safetensors", (folder / "samples.safetensors").read_bytes())
    write_record(target, record)
    return record
