"""An audit of every page by axe-core, light and dark: no serious finding."""

import pytest
from test_built_book import LESSONS, PAGES, ROOT

AXE = ROOT / "tests" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
# Each finding with its places, so that a failure says what to mend.
AUDIT = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
    .filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 120)).join(" | ")}`)"""


def audit(page):
    assert AXE.exists(), "axe-core is not installed: npm install --prefix tests/browser"
    page.add_script_tag(path=AXE)
    return page.evaluate(AUDIT)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_no_serious_finding(page, address, name, theme):
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.goto(f"{address}/{name}.html")
    page.evaluate("window.MathJax?.startup?.promise")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert audit(page) == []


def test_the_audit_finds_what_is_wrong(page, address):
    page.goto(f"{address}/{LESSONS[0]}.html")
    page.evaluate("document.querySelector('.cell_output img').removeAttribute('alt')")
    assert any(finding.startswith("image-alt") for finding in audit(page))
