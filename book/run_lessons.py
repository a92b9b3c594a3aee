"""Run the lessons side by side, one thread each, and keep their outputs where the book looks for them.

Sphinx runs one notebook after the other. This fills its cache beforehand and says how far
it is; what the cache holds already is not run again.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution

BOOK = Path(__file__).resolve().parent
LESSONS = sorted((BOOK.parent / "lessons").glob("*.ipynb"))
CACHE = BOOK / "_build" / ".jupyter_cache"
AT_MOST = 4
"""Lessons at once on a machine of many cores; each takes up to 1 GB of memory."""


def run(paths=LESSONS, cache=CACHE):
    """Run the notebooks that the cache does not hold; the tracebacks of those that failed."""
    cache = get_cache(cache)
    notebooks = {path: nbformat.read(path, as_version=4) for path in paths}
    to_run = {path: notebook for path, notebook in notebooks.items() if not known(cache, notebook)}
    failures = []
    workers = min(os.cpu_count() or 1, AT_MOST)
    print(f"running {len(to_run)} of {len(paths)} lessons, {workers} at a time")
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(execute, path, book): path for path, book in to_run.items()}
        for n, done in enumerate(as_completed(running), start=1):
            path, result = running[done], done.result()
            verdict = "failed" if result.err else "done"
            print(f"lesson {n} of {len(to_run)} {verdict}: {path.stem}, {result.time:.0f} s")
            if result.err:
                failures.append(f"{path}\n{result.exc_string}")
            else:
                keep(cache, path, result)
    return failures


def known(cache, notebook):
    """Whether the outputs of the same code are there."""
    with suppress(KeyError):
        return cache.match_cache_notebook(notebook)


def execute(path, notebook):
    """Run one notebook in its folder, in a kernel of its own."""
    configuration = yaml.safe_load((BOOK / "_config.yml").read_text(encoding="utf-8"))
    return single_nb_execution(
        notebook,
        cwd=str(path.parent),
        timeout=configuration["execute"]["timeout"],
        allow_errors=False,
        # Kernels and this process are on one machine: that their connection is open is no news.
        extra_arguments=["--log-level=ERROR"],
    )


def keep(cache, path, result):
    """Enter the outputs as Sphinx's extension enters its own."""
    bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


if __name__ == "__main__":
    # What the kernels inherit: widgets write themselves as HTML, figures whose texts lie on each
    # other are errors, and no process takes all cores.
    os.environ["LESSONS_BOOK"] = "1"
    os.environ["LESSONS_CHECK_FIGURES"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stdout.reconfigure(line_buffering=True)
    if failures := run():
        sys.exit("\n\n".join(failures))
