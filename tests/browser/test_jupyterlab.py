"""Every lesson with a widget in a really running JupyterLab: sliders run Python, drags reach `observe`."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from test_built_book import LESSONS, ROOT, cells

WITH_WIDGET = [
    lesson
    for lesson in LESSONS
    if "FrameSlider(" in "".join(cells(lesson, "code"))
    or "Explorer(" in "".join(cells(lesson, "code"))
]
MOVED_BY_PYTHON = [0.37, 0.11]
# Runs after the lesson: what the browser changes goes to a file, what Python changes to the browser.
EPILOGUE = f"""
import json as _json
from pathlib import Path as _Path
if "explorer" in globals():
    explorer.x = {MOVED_BY_PYTHON}
    explorer.observe(lambda change: _Path("seen.json").write_text(_json.dumps(change["new"])), names="x")
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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address and folder of a JupyterLab with copies of the lessons."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "lessons"
    folder.mkdir()
    for lesson in WITH_WIDGET:
        notebook = json.loads((ROOT / f"{lesson}.ipynb").read_text(encoding="utf-8"))
        copy = folder / f"{lesson.removeprefix('lessons/')}.ipynb"
        copy.write_text(json.dumps(with_epilogue(notebook)), encoding="utf-8")
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


def stop_kernels(address):
    with urllib.request.urlopen(f"{address}/api/sessions") as answer:
        for session in json.load(answer):
            request = urllib.request.Request(
                f"{address}/api/sessions/{session['id']}", method="DELETE"
            )
            urllib.request.urlopen(request)


@pytest.mark.parametrize("lesson", WITH_WIDGET)
def test_widgets_are_live(page, lab, lesson):
    address, folder = lab
    (folder / "seen.json").unlink(missing_ok=True)
    page.goto(f"{address}/lab/tree/{lesson.removeprefix('lessons/')}.ipynb?reset", timeout=60_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("the lesson has run", exact=True).wait_for(timeout=240_000)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    found = 0
    for handle in page.locator(".jp-OutputArea .noUi-handle").all():
        box = page.locator(".jp-OutputArea .widget-vbox").filter(has=handle)
        picture = box.locator("img")
        before = picture.get_attribute("alt"), picture.get_attribute("src")
        handle.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "([img, alt]) => img.alt !== alt", arg=[picture.element_handle(), before[0]]
        )
        assert picture.get_attribute("src") != before[1]
        assert picture.get_attribute("alt") in box.inner_text()
        found += 1
    if page.locator(".explorer").count():
        handle = page.locator(".explorer [data-handle=x]")
        assert shown_at(handle) == MOVED_BY_PYTHON
        handle.scroll_into_view_if_needed()
        box = handle.locator(".ring").bounding_box()
        start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(start[0] + 20, start[1] - 10)
        page.mouse.move(start[0] + 40, start[1] - 25)
        page.mouse.up()
        deadline = time.time() + 20
        while time.time() < deadline:
            seen = folder / "seen.json"
            if (
                seen.exists()
                and (text := seen.read_text())
                and rounded(json.loads(text)) == shown_at(handle)
            ):
                break
            time.sleep(0.2)
        else:
            pytest.fail(f"observe did not see the drag to {shown_at(handle)}")
        assert shown_at(handle)[0] > MOVED_BY_PYTHON[0] and shown_at(handle)[1] > MOVED_BY_PYTHON[1]
        found += 1
    assert found
    stop_kernels(address)


def rounded(point):
    return [float(f"{value:.2f}") for value in point]


def shown_at(handle):
    return [
        float(value) for value in re.findall(r"-?\d+\.\d+", handle.get_attribute("aria-valuetext"))
    ]
