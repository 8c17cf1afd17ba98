"""The page in Chromium: silent, every plot drawn, to be read by keyboard, in the dark, on a phone and on paper."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nacre.report import write_comparison, write_report
from nacre.report.colours import contrast
from tests.report.records import ODD, run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'nacre[dev]'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--force-device-scale-factor=1"),
)
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium with chromedriver here")
PAGES = ("report", "compare", "odd")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    from selenium.webdriver.chrome.service import Service

    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind on disk."""
    place = tmp_path_factory.mktemp("pages")
    record, named = run(tasks=12, layers=12), run(tasks=len(ODD), names=ODD, name=ODD[4])
    write_report(record, place / "report.html", [run(seeds=1, name="bound")])
    write_comparison([record, run(name="b"), named], place / "compare.html")
    write_report(named, place / "odd.html")
    return {name: place / f"{name}.html" for name in PAGES}


def show(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open a page in a window of so many pixels, in a system of that scheme."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


@pytest.mark.parametrize("name", PAGES)
def test_it_is_silent_and_every_plot_is_drawn(browser: Any, pages: dict[str, Path], name: str):
    browser.get_log("performance")
    show(browser, pages[name])
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in asked if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:,")} == {pages[name].as_uri()}
    boxes = browser.execute_script(
        """return [...document.querySelectorAll('figure.plot')].map(figure => {
             const svg = figure.querySelector('svg'), box = svg.getBBox(), shown = svg.getBoundingClientRect();
             return [box.width, box.height, shown.width, shown.height, svg.querySelectorAll('path').length];
           })"""
    )
    assert len(boxes) >= 2 and all(min(box) > 5 for box in boxes), boxes


def test_names_that_look_like_code_run_nothing(browser: Any, pages: dict[str, Path]):
    show(browser, pages["odd"])
    heading = browser.execute_script(
        "return [...document.querySelectorAll('table.cells thead th')].map(c => c.textContent)"
    )
    assert (
        ODD[0][:20] in "".join(heading)
        and browser.execute_script("return document.querySelectorAll('td b').length") == 0
    )


@pytest.mark.parametrize("name", PAGES)
def test_tab_reaches_all_that_can_be_used(browser: Any, pages: dict[str, Path], name: str):
    show(browser, pages[name], width=700)
    number = """
        let count = 0;
        for (const node of document.querySelectorAll('a[href], button, summary, .box')) {
          const scrolls = !node.matches('.box') || node.scrollWidth > node.clientWidth + 1;
          if (node.checkVisibility({contentVisibilityAuto: true}) && scrolls) node.dataset.stop = count++;
        }
        return count;"""
    stops = browser.execute_script(number)
    note = """window.met = []; document.addEventListener('focusin', event => {
                const at = event.target, outlined = getComputedStyle(at).outlineStyle !== 'none';
                window.met.push([at.dataset.stop, at.matches(':focus-visible') && outlined]) })"""
    browser.execute_script(note)
    for _ in range(stops):
        key = {"type": "keyDown", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", key)
    assert browser.execute_script("return window.met") == [[str(k), True] for k in range(stops)] and stops > 10


def colours(browser: Any) -> dict[str, list[str]]:
    """The colour of each kind of text, and what is behind it, as hexadecimal numbers."""
    read = """
        const hex = text => '#' + text.match(/[0-9.]+/g).slice(0, 3).map(n => (+n).toString(16).padStart(2, '0')).join('');
        const behind = node => { for (; node; node = node.parentElement) {
          const back = getComputedStyle(node).backgroundColor; if (!back.includes(', 0)')) return hex(back); } };
        const found = {};
        for (const kind of ['body', '.intro p', '.facts span', '.contents a', '.meaning', '.note', 'figcaption .about',
                            'caption', '.callout p', 'summary', '.sheet td', '.sheet thead th', '.cells td', '.cells th',
                            'footer p', '.references a', '.fidelity', '.status', '.scheme'])
          for (const node of document.querySelectorAll(kind))
            found[kind + '|' + node.className] = [hex(getComputedStyle(node).color), behind(node)];
        return found;"""
    return browser.execute_script(read)


def test_both_schemes_can_be_read_and_the_button_changes_between_them(browser: Any, pages: dict[str, Path]):
    found = {}
    for scheme in ("light", "dark"):
        show(browser, pages["report"], scheme=scheme)
        found[scheme] = colours(browser)
        low = {kind: pair for kind, pair in found[scheme].items() if contrast(*pair) < 4.5}
        assert not low and len(found[scheme]) > 30, (scheme, low)
        line = browser.execute_script("return getComputedStyle(document.querySelector('svg text')).fill")
        found[f"{scheme} plot"] = line
    assert found["light"]["body|"] != found["dark"]["body|"] and found["light plot"] != found["dark plot"]
    browser.find_element("id", "scheme").click()
    assert colours(browser) == found["light"]
    assert browser.find_element("id", "scheme").get_attribute("aria-label") == "Dark colours"
    browser.find_element("id", "scheme").click()
    assert colours(browser) == found["dark"]
    browser.execute_script("localStorage.clear()")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [400, 768])
def test_on_a_phone_the_page_does_not_scroll_sideways(browser: Any, pages: dict[str, Path], name: str, width: int):
    show(browser, pages[name], width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    found, room = browser.execute_script(wide)
    assert found <= room <= width
    smallest = """return Math.min(...[...document.querySelectorAll('figure.plot svg text')].map(text =>
        parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b)))"""
    assert browser.execute_script(smallest) >= 8


@pytest.mark.parametrize("name", PAGES)
def test_it_can_be_printed(browser: Any, pages: dict[str, Path], name: str):
    show(browser, pages[name], scheme="dark")
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    pdf = base64.b64decode(paper["data"])
    assert pdf.startswith(b"%PDF") and 1 <= pdf.count(b"/Type /Page\n") <= 25
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
