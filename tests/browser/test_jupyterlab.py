"""Every lesson in a really running JupyterLab: sliders run Python, drags and drawings reach `observe`."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from test_built_book import LESSONS, ROOT, cells

MOVED_BY_PYTHON = [0.37, 0.11]
# Runs after the lesson: what the browser changes goes to a file, what Python changes to the browser.
EPILOGUE = f"""
import json as _json
from pathlib import Path as _Path
if "explorer" in globals():
    explorer.x = {MOVED_BY_PYTHON}
    explorer.observe(lambda change: _Path("seen.json").write_text(_json.dumps(change["new"])), names="x")
if "bench" in globals():
    from lesson_utils import measure as _measure
    def _drawn(_=None):
        _m = _measure(bench.models[bench.first], bench.x)
        _numbers = {{"beta": _m.bias, "tilde": _m.linearized_robustness, "alpha": _m.alignment}}
        _Path("drawn.json").write_text(_json.dumps({{k: v.item() for k, v in _numbers.items()}}))
    bench.observe(_drawn, names="x")
    _drawn()
print("the lesson" + " has run")
"""


def with_epilogue(notebook):
    cell = {
        "cell_type": "code",
        "id": "epilogue",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    notebook["cells"].append(cell | {"source": EPILOGUE.strip()})
    return notebook


# A notebook of the test's own: networks in JupyterLab, one of the browser's engine, one of the kernel.
NETWORKS = """
import torch, json
from pathlib import Path
from lesson_utils import measure
from lesson_utils.models import mlp
from lesson_utils.widgets import NetworkExplorer
torch.manual_seed(0)
models = {"relu": mlp([64, 20, 10]).eval(), "gelu": mlp([64, 20, 10], activation=torch.nn.GELU).eval()}
explorer = NetworkExplorer(models, torch.rand(3, 1, 8, 8), second="gelu")
def save(change=None):
    found = {name: measure(model, explorer.x) for name, model in models.items()}
    numbers = {name: [m.linearized_robustness.item(), m.bound.item()] for name, m in found.items()}
    Path("networks.json").write_text(json.dumps(numbers))
explorer.observe(save, names="x")
save()
explorer
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address and folder of a JupyterLab with copies of the lessons."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "lessons"
    shutil.copytree(ROOT / "lessons", folder, ignore=shutil.ignore_patterns("*.ipynb"))
    for lesson in LESSONS:
        notebook = json.loads((ROOT / f"{lesson}.ipynb").read_text(encoding="utf-8"))
        copy = folder / f"{lesson.removeprefix('lessons/')}.ipynb"
        copy.write_text(json.dumps(with_epilogue(notebook)), encoding="utf-8")
    notebook = with_epilogue({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    code = notebook["cells"][0]
    cells = [code | {"id": "networks", "source": NETWORKS.strip()}]
    cells.append(code | {"source": 'print("the lesson" + " has run")'})
    (folder / "networks.ipynb").write_text(
        json.dumps(notebook | {"cells": cells}), encoding="utf-8"
    )
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)  # all cells in the page at once, not only those in view
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "LESSONS_BOOK"}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "OMP_NUM_THREADS": "1",
    }
    options = ["--no-browser", "--allow-root", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
    options += [
        "--ServerApp.disable_check_xsrf=True",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        f"--ServerApp.root_dir={folder}",
    ]
    log = (home / "log").open("w")
    command = [sys.executable, "-m", "jupyterlab", *options]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api/status")
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.5)
        yield address, folder
    finally:
        server.terminate()
        server.wait(timeout=20)


def ask(address, method, path, content=None):
    body = json.dumps(content).encode() if content else None
    request = urllib.request.Request(f"{address}/api/{path}", data=body, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or "null")


@contextmanager
def kernel_for(address, notebook):
    """A kernel that waits for its notebook; JupyterLab may ask which one, if it has to start it."""
    session = {
        "path": notebook,
        "name": notebook,
        "type": "notebook",
        "kernel": {"name": "python3"},
    }
    session = ask(address, "POST", "sessions", session)
    yield
    ask(address, "DELETE", f"sessions/{session['id']}")


@pytest.mark.parametrize("lesson", LESSONS)
def test_widgets_are_live(page, lab, lesson):
    address, folder = lab
    notebook = f"{lesson.removeprefix('lessons/')}.ipynb"
    for name in ("seen.json", "drawn.json"):
        (folder / name).unlink(missing_ok=True)
    with kernel_for(address, notebook):
        page.goto(f"{address}/lab/tree/{notebook}?reset", timeout=60_000)
        run_all(page, address)
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        shows_no_answer_and_no_warning(page, lesson)
        folds_what_the_book_folds(page, lesson)
        moved = move_sliders(page) + drag_explorer(page, folder / "seen.json")
        moved += draw_on_bench(page, folder / "drawn.json") + train(page) + hunt(page)
        assert moved > 0


def test_networks_in_the_browser_and_in_the_kernel_follow_the_drawing(page, lab):
    address, folder = lab
    with kernel_for(address, "networks.ipynb"):
        page.goto(f"{address}/lab/tree/networks.ipynb?reset", timeout=60_000)
        run_all(page, address)
        page.locator(".explorer").scroll_into_view_if_needed()
        numbers_agree(page, folder)
        canvas = page.locator(".explorer .draw canvas")
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 150, box["y"] + 120)
        page.mouse.up()
        first = numbers_agree(page, folder)
        canvas.press("Space")  # JupyterLab has commands on these keys, too
        canvas.press("ArrowLeft")
        assert numbers_agree(page, folder) != first


def numbers_agree(page, folder):
    """Wait until both networks show what Python has for the image that is drawn."""
    deadline = time.time() + 30
    while True:
        expected = json.loads((folder / "networks.json").read_text() or "{}")
        shown = {
            net.locator("select").input_value(): [
                float(net.locator(f"[data-name={name}]").get_attribute("data-value"))
                for name in ("tilde", "bound")
            ]
            for net in page.locator(".explorer .net:has([data-name=bound])").all()
        }
        if set(shown) == set(expected) and all(
            shown[name] == pytest.approx(expected[name], rel=1e-4) for name in expected
        ):
            return expected
        assert time.time() < deadline, (shown, expected)
        page.wait_for_timeout(300)


def run_all(page, address):
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    deadline = time.time() + 60
    # The menu is there before the kernel is: then every cell would ask which kernel to take.
    while not any(kernel["connections"] for kernel in ask(address, "GET", "kernels")):
        assert time.time() < deadline, "the notebook has not connected to its kernel"
        page.wait_for_timeout(500)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000)
    page.wait_for_timeout(2_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("the lesson has run", exact=True).wait_for(timeout=180_000)


def shows_no_answer_and_no_warning(page, lesson):
    """After Run All every solution is closed, and the text holds without the book."""
    answers = page.locator("details:has(> summary:text-is('Answer in numbers'))")
    assert answers.count() == sum("plots.folded()" in source for source in cells(lesson, "code"))
    assert answers.evaluate_all("all => all.every(one => !one.open)")
    # references that JupyterLab does not know are orange, or lead nowhere
    assert page.locator(".jp-MarkdownCell .text-yellow-600").count() == 0
    assert page.locator(".jp-MarkdownCell a.hover-link[href='#']").count() == 0


def folds_what_the_book_folds(page, lesson):
    """A bar of JupyterLab shows the first line of its cell; pressed, it opens in place."""
    notebook = json.loads((ROOT / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    tags = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]
    bars = page.locator(".jp-CodeCell .jp-InputPlaceholder")
    assert bars.count() == sum(bool({"hide-input", "hide-cell"} & set(one)) for one in tags)
    checks = bars.filter(has_text=re.compile(r"✓ \d+ claims? checked"))
    assert checks.count() == sum("checks" in one for one in tags) > 0
    before = bars.count()
    checks.first.locator(".jp-Placeholder-content").click()
    page.wait_for_function(
        "n => document.querySelectorAll('.jp-CodeCell .jp-InputPlaceholder').length === n",
        arg=before - 1,
    )


def move_sliders(page):
    """Press a key on each slider; the picture must follow. Number of sliders found."""
    found = 0
    for player in page.locator(".jp-OutputArea .widget-vbox:has(.noUi-handle)").all():
        for handle in player.locator(".noUi-handle").all():
            picture = player.locator("img")
            before = picture.get_attribute("alt"), picture.get_attribute("src")
            handle.focus()
            page.keyboard.press("ArrowRight")
            changed = "([player, alt]) => player.querySelector('img').alt !== alt"
            page.wait_for_function(changed, arg=[player.element_handle(), before[0]])
            assert picture.get_attribute("src") != before[1]
            assert picture.get_attribute("alt") in player.inner_text()
            found += 1
    return found


def drag_explorer(page, seen):
    """Drag the point of the explorer; Python must see where it went. Number of explorers found."""
    handle = page.locator(".explorer [data-handle=x]")
    if not handle.count():
        return 0
    assert shown_at(handle) == MOVED_BY_PYTHON
    handle.scroll_into_view_if_needed()
    box = handle.locator(".ring").bounding_box()
    start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 20, start[1] - 10)
    page.mouse.move(start[0] + 40, start[1] - 25)
    page.mouse.up()
    there = shown_at(handle)
    assert there[0] > MOVED_BY_PYTHON[0] and there[1] > MOVED_BY_PYTHON[1]
    wait_for(seen, there)
    handle.press("ArrowLeft")  # JupyterLab has commands on the arrow keys: they must not take it
    assert shown_at(handle)[0] < there[0] and shown_at(handle)[1] == there[1]
    wait_for(seen, shown_at(handle))
    for slider in page.locator(".explorer input[type=range]").all():
        before = slider.input_value()
        slider.press("ArrowRight")
        assert float(slider.input_value()) > float(before)
    for box in page.locator(".explorer input[type=checkbox]").all():
        before = box.is_checked()
        box.press("Space")
        assert box.is_checked() != before
    return 1


def draw_on_bench(page, drawn):
    """Draw into the bench; it must show what Python has for the drawing. Number of benches found."""
    canvas = page.locator(".explorer .draw canvas")
    if not canvas.count():
        return 0
    canvas.scroll_into_view_if_needed()
    rows_agree(page, drawn)
    before = drawn.read_text()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 80)
    page.mouse.up()
    rows_agree(page, drawn, before)
    return 1


def rows_agree(page, drawn, before=None):
    """Wait until Python has seen another drawing, and the first network shows its numbers."""
    deadline = time.time() + 30
    while True:
        text = drawn.read_text() or "{}"
        rows = page.locator(".explorer [data-network=first] [data-value]").evaluate_all(
            "cells => cells.map(cell => [cell.dataset.name, Number(cell.dataset.value)])"
        )
        shown, expected = dict(rows), json.loads(text)
        common = set(shown) & set(expected)
        close = all(shown[k] == pytest.approx(expected[k], rel=1e-3, abs=1e-3) for k in common)
        if common and close and text != before:
            return
        assert time.time() < deadline, (shown, expected)
        page.wait_for_timeout(300)


def train(page):
    """Train for an epoch. Number of trainings found."""
    epochs = page.locator(".explorer [data-network=first] [data-name=epoch]")
    if not page.get_by_role("button", name="Train", exact=True).count():
        return 0
    page.get_by_role("button", name="Train", exact=True).scroll_into_view_if_needed()
    epochs.wait_for()
    page.get_by_role("button", name="Train", exact=True).click()
    enough = "cell => Number(cell.dataset.value) >= 1"
    page.wait_for_function(enough, arg=epochs.element_handle(), timeout=60_000)
    page.get_by_role("button", name="Pause", exact=True).click()
    return 1


def hunt(page):
    """Hunt once more. Number of hunts found."""
    again = page.get_by_role("button", name="Hunt again", exact=True)
    if not again.count():
        return 0
    sentence = page.locator(".explorer:has(input[type=text]) p[aria-live]")
    before = sentence.text_content()
    again.click()
    page.wait_for_function(
        "([p, t]) => p.textContent !== t", arg=[sentence.element_handle(), before]
    )
    assert sentence.text_content().startswith("Broken at try")
    return 1


def wait_for(seen, there):
    """Wait until the file that `observe` writes holds this point."""
    deadline = time.time() + 20
    while not (seen.exists() and (text := seen.read_text()) and rounded(json.loads(text)) == there):
        assert time.time() < deadline, f"observe did not see the move to {there}"
        time.sleep(0.2)


def rounded(point):
    return [float(f"{value:.2f}") for value in point]


def shown_at(handle):
    return [
        float(value) for value in re.findall(r"-?\d+\.\d+", handle.get_attribute("aria-valuetext"))
    ]
