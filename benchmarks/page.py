"""The page of `twins serve` in Chromium: times to its first paint and first result, its size, and pictures of it.

Commands: python benchmarks/page.py RUN --rounds 20
          python benchmarks/page.py CLASSIFICATION SEMANTIC DETECTION INSTANCE --pictures docs/images
The first serves a run and prints JSON: bytes of the page's files, and medians over fresh browser contexts of the time
from the navigation to the first contentful paint, and from a click on an example to its drawn result. The second takes
the pictures of the documentation; the runs are those of `twins demo` of the four tasks.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from twins.machine import processor
from twins.serve.pages import FOLDER

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@contextmanager
def served(models: list[str]) -> Iterator[str]:
    """Serve models on a free port; yields the address."""
    command = [sys.executable, "-m", "twins", "serve", *models, "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://[\d.:]+\d", process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)


def open_page(browser: Browser, address: str, *, scheme: str = "light", phone: bool = False) -> Page:
    context = browser.new_context(
        viewport=PHONE if phone else DESKTOP, color_scheme=scheme, device_scale_factor=2 if phone else 1
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#models:not([hidden])")
    return page


def choose_example(page: Page, index: int) -> None:
    page.locator("#examples button").nth(index).click()
    page.wait_for_function("() => document.querySelector('#results h2')")


def measure(browser: Browser, address: str, rounds: int) -> dict[str, float]:
    paints, results = [], []
    script = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    for _ in range(rounds):
        page = open_page(browser, address)
        paints.append(page.evaluate(script))
        page.locator("#examples button").first.wait_for()
        started = time.perf_counter()
        choose_example(page, 0)
        results.append(1000 * (time.perf_counter() - started))
        page.context.close()
    return {
        "first_paint_ms": round(statistics.median(paints), 1),
        "first_paint_ms_longest": round(max(paints), 1),
        "example_to_result_ms": round(statistics.median(results), 1),
    }


def take_pictures(browser: Browser, address: str, names: list[str], folder: Path) -> None:
    """Save a picture of each task, of attention, of several images, of the dark page and of a phone."""

    def save(page: Page, name: str) -> None:
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"page-{name}.png")

    address = f"{address}#score=0.6"
    page = open_page(browser, address)
    for name, task in zip(names, ("classification", "semantic", "detection", "instance"), strict=True):
        page.get_by_label("Model").select_option(name)
        page.wait_for_timeout(500)
        if page.locator("#start").is_hidden():
            page.get_by_role("button", name="New image").click()
        choose_example(page, 1)
        page.wait_for_function("name => document.querySelector('#results h2')?.textContent === name", arg=name)
        page.evaluate("scrollTo(0, 0)")
        save(page, task)
    page.get_by_label("Model").select_option(names[2])
    page.wait_for_timeout(500)
    page.get_by_role("tab", name="Attention").click()
    page.get_by_role("button", name="Window, stage 1").click()
    save(page, "attention")
    page.context.close()
    for kind, phone, scheme in (("dark", False, "dark"), ("phone", True, "light")):
        page = open_page(browser, address, scheme=scheme, phone=phone)
        page.get_by_label("Model").select_option(names[3])
        page.wait_for_timeout(500)
        choose_example(page, 1)
        if kind == "dark":
            page.get_by_role("tab", name="Attention").click()
            page.get_by_role("button", name="Keys, stage 1").click()
        save(page, kind)
        page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="RUN")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    with served(args.models) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu"])
        if args.pictures is not None:
            take_pictures(browser, address, [Path(model).name for model in args.models], args.pictures)
            return
        found = measure(browser, address, args.rounds)
        size = sum(file.stat().st_size for file in FOLDER.iterdir())
        print(json.dumps({"bytes": size, **found, "chromium": browser.version, "processor": processor()}))


if __name__ == "__main__":
    main()
