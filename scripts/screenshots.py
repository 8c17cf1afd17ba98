"""Make the pictures of docs/reports.md from real runs: `python scripts/screenshots.py`, about two minutes.

Needs selenium and chromium with chromedriver. Runs are kept in `runs/screenshots` and are not run again.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from nacre.core.progress import Progress
from nacre.core.run import Run
from nacre.experiment import Config, Experiment
from nacre.report import view, write_comparison, write_report

ROOT = Path(__file__).parents[1]
RUNS, PICTURES = ROOT / "runs" / "screenshots", ROOT / "docs" / "pictures"
TALL = 2300  # CSS pixels of a picture at most
LARGEST = 300_000  # bytes
ER = {"name": "ER", "memory": {"name": "Reservoir", "capacity": 200}}
DIGITS = {"data": {"source": "digits"}, "backbone": {"source": "mlp:64-128-64"}, "watch": {"every": 2, "rows": 100}}
STEPS = {"optimizer": {"name": "adamw", "lr": 0.001}, "epochs": 5, "batch_size": 32}
MIST = {
    "methods": [{"name": "MIST", "drop": 0.5}],
    "when": "first",
    "epochs": 8,
    "optimizer": {"name": "adam", "lr": 0.003},
}
STAGES = {
    "EWC + ER": [{"methods": [{"name": "EWC"}, ER], **STEPS}],
    "fine-tuning": [{"methods": [], **STEPS}],
    "joint": [{"methods": [{"name": "Joint"}], **STEPS}],
    "MIST, then RanPAC": [{**MIST, "batch_size": 32}, {"methods": [{"name": "RanPAC", "width": 500}]}],
}


def recorded(name: str) -> Run:
    """The record of a run, which is run if it is not there."""
    folder = RUNS / name.replace(", ", "-").replace(" ", "-")
    if not (folder / "run.json").is_file():
        told = {"run": {"name": name, "seeds": [0, 1, 2], "threads": 1}, "stage": STAGES[name]}
        Experiment(Config.of({**DIGITS, **told})).run(folder)
    elif Run.load(folder).status != "finished":
        Experiment(Config.load(folder)).resume(folder)
    return Run.load(folder)


def browser() -> webdriver.Chrome:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or sys.exit("there is no chromium here")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tempfile.mkdtemp()}")
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def shoot(driver: webdriver.Chrome, page: Path, to: str, scheme: str, width: int, at: str = "") -> None:
    """One picture of a page, from its top or from a section on."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())
    find = "const at = document.getElementById(arguments[0]); return at ? at.getBoundingClientRect().top - 20 : 0"
    top = driver.execute_script(find, at)
    height = min(driver.execute_script("return document.documentElement.scrollHeight") - top, TALL)
    clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    image.save(PICTURES / to, optimize=True)
    bytes_ = (PICTURES / to).stat().st_size
    print(f"{to}: {width} x {height:.0f}, {bytes_ / 1000:.0f} kB")
    assert bytes_ < LARGEST


def watched(run: Run) -> None:
    """The live view of a run as it was in its fourth task."""
    shown = Run(**{**vars(run), "status": "running", "results": {0: run.results[0]}})
    held = shown.results[0]
    held.moments, held.matrix = held.moments[:3], held.matrix[:3]
    losses = [v for curve in held.curves["loss"] for v in curve["loss"]]
    now = Progress("training", 0, 3, 5, 0, 1, 22, 40, 0.24, 0.0, time.time() - 40, time.time(), losses)
    console = Console(record=True, width=84, file=io.StringIO())
    console.print(view(shown, now, 84))
    svg = console.export_svg(title="nacre watch runs/ewc-er", unique_id="watch")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts that would be fetched
    (PICTURES / "watch.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    """Make all of them."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    runs = {name: recorded(name) for name in STAGES}
    ewc, mist = runs["EWC + ER"], runs["MIST, then RanPAC"]
    pages = {"ewc": RUNS / "ewc.html", "mist": RUNS / "mist.html", "compare": RUNS / "compare.html"}
    write_report(ewc, pages["ewc"], [runs["fine-tuning"], runs["joint"]])
    write_report(mist, pages["mist"])
    write_comparison([runs["fine-tuning"], ewc, mist], pages["compare"])
    driver = browser()
    try:
        shoot(driver, pages["ewc"], "report-light.png", "light", 1200)
        shoot(driver, pages["ewc"], "report-dark.png", "dark", 1200, "forgetting")
        shoot(driver, pages["ewc"], "report-phone.png", "light", 400)
        shoot(driver, pages["mist"], "report-motion.png", "light", 1200, "motion")
        shoot(driver, pages["compare"], "compare-light.png", "light", 1200)
        shoot(driver, pages["compare"], "compare-dark.png", "dark", 1200)
    finally:
        driver.quit()
    watched(ewc)


if __name__ == "__main__":
    main()
