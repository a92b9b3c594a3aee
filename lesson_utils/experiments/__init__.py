"""The paper's protocol as a program: train a network for each λ, measure it, keep a record.

A record is a folder: `record.json` (settings, provenance, a summary of each network),
`samples.safetensors` (every measured value of every image), `models/` (weights) and `state/`
(what an interrupted run continues from; it may be deleted when the record is there).
Finished records are read with `lesson_utils.records`.

The command `python -m lesson_utils.experiments` may be started several times at once, with the
same folder: each process takes the next network that no other works on. The processes share the
cores: each computes with its part of the threads, unless OMP_NUM_THREADS is set. A folder may
grow, by networks or by attacked images; `merge` joins the records of several folders.
"""

from ..extras import require

require(
    "lesson_utils.experiments", "tyro", "foolbox", "torchvision", "scikit-learn", "scipy",
    "safetensors", "filelock", "tqdm",
)  # fmt: skip

from .exporting import export  # noqa: E402
from .merging import merge  # noqa: E402
from .run import run  # noqa: E402
from .settings import PRESETS, Settings  # noqa: E402

__all__ = ["PRESETS", "Settings", "export", "merge", "run"]
