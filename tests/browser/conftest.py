"""The built book, served on this machine, and the system's Chromium to open it."""

import functools
import http.server
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from book.print_pdf import chromium

ROOT = Path(__file__).parents[2]
HTML = ROOT / "book" / "_build" / "html"
BYTES_A_SECOND = 500_000


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class SlowLine(QuietHandler):
    """Sends all files through one slow line.

    The browser could slow the line itself (`Network.emulateNetworkConditions`), but then some
    requests wait for ever, and with them the page.
    """

    line = threading.Lock()

    def copyfile(self, source, outputfile):
        while part := source.read(BYTES_A_SECOND // 50):
            with self.line:  # waits only: a browser that does not read holds up no other file
                time.sleep(len(part) / BYTES_A_SECOND)
            outputfile.write(part)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # of five connections that wait, a slow page loses some


@pytest.fixture(scope="session")
def html():
    assert (HTML / "index.html").exists(), "the book is not built: run `make book` first"
    return HTML


@contextmanager
def served(folder, handler):
    """Address of a server of the folder on the loopback interface."""
    with Server(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def address(html):
    with served(html, QuietHandler) as address:
        yield address


@pytest.fixture(scope="session")
def slow_address(html):
    with served(html, SlowLine) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.complaints, page.requested = [], []
    page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    yield page
    context.close()
