"""The notebooks are run side by side, once, and a failing one is told with its traceback."""

import nbformat
from jupyter_cache import get_cache

from book import run_lessons

CODE = {"a": "print(6 * 7)", "b": "import torch; assert torch.get_num_threads() == 1", "c": "1 / 0"}


def test_outputs_are_kept_and_failures_told(tmp_path, capsys):
    paths = []
    for name, code in CODE.items():
        cells = [nbformat.v4.new_markdown_cell("Text"), nbformat.v4.new_code_cell(code)]
        paths.append(tmp_path / f"{name}.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), paths[-1])
    (failure,) = run_lessons.run(paths, tmp_path / "cache")
    assert str(paths[-1]) in failure and "ZeroDivisionError" in failure
    shown = capsys.readouterr().out
    assert "running 3 of 3 lessons" in shown and "lesson 3 of 3" in shown

    cache = get_cache(tmp_path / "cache")
    _, found = cache.merge_match_into_notebook(nbformat.read(paths[0], as_version=4))
    assert found.cells[1].outputs[0]["text"] == "42\n"
    assert len(run_lessons.run(paths, tmp_path / "cache")) == 1
    assert "running 1 of 3 lessons" in capsys.readouterr().out
    assert run_lessons.run(paths[:2], tmp_path / "cache") == []


def test_every_lesson_is_run():
    assert len(run_lessons.LESSONS) >= 12
