"""Pictures of the served page for the documents, and how long a million cells take to be drawn.

`python -m tests.browser.screenshots URL` of a server over the demo's artefacts (docs/guides/serving.md);
names of pictures behind the URL take those alone.
"""

from __future__ import annotations

import io
import sys
import time
from functools import partial
from pathlib import Path

from PIL import Image

from tests.browser.many_cells import drawn_share, with_cells
from tests.browser.served_page import Visit, visiting

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
MILLION = 1_000_000


def keep(visit: Visit, name: str) -> None:
    """As a PNG of 256 colours: a page has no more, and it is a third of the size."""
    time.sleep(1.5)
    picture = Image.open(io.BytesIO(visit.page.screenshot())).convert("RGB")
    IMAGES.mkdir(exist_ok=True)
    small = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(IMAGES / f"{name}.png", optimize=True)
    if visit.errors or visit.elsewhere:
        raise RuntimeError(f"{name}: errors {visit.errors}, requests to {visit.elsewhere}")


def asked(visit: Visit) -> None:
    """A question in words, its hundred cells, and what they are."""
    page = visit.page
    page.fill("#question", "B cell -monocyte")
    page.click("text=Find cells")
    page.locator("#status").filter(has_text="100 of").wait_for()
    page.click("#tab-chat")
    page.click("#ask")
    page.wait_for_selector("#talk li:not([aria-busy]) .evidence", timeout=120_000)


def compared(visit: Visit) -> None:
    page = visit.page
    for side, kind in (("a", "B"), ("b", "Monocyte")):
        page.locator("#legend button").filter(has_text=kind).first.click()
        page.click("#tab-genes")
        page.click(f"#set-{side}")
    page.click("#compare")
    page.wait_for_selector("#markers tbody tr", timeout=120_000)


def predicted(visit: Visit) -> None:
    page = visit.page
    page.click("#tab-perturb")
    page.fill("#perturbation", page.locator("#perturbations option").first.get_attribute("value"))
    page.click("#perturb-form button[type=submit]")
    page.wait_for_selector("#predicted tbody tr", timeout=120_000)
    page.click("#perturb-colour")
    page.locator("#legend").filter(has_text="Change after").wait_for(timeout=120_000)


def of_a_feature(visit: Visit) -> None:
    visit.page.click("#tab-features")
    visit.page.locator("#features tbody td button").nth(2).click()
    visit.page.locator("#legend").filter(has_text="Feature").wait_for()


def take(url: str, wanted: list[str]) -> None:
    shots = [
        ("page", (1280, 800), False, asked),
        ("page_dark", (1280, 800), True, compared),
        ("page_feature_390", (390, 844), True, of_a_feature),
        ("page_390", (390, 844), False, lambda visit: None),
        ("page_perturbation", (1280, 800), False, predicted),
    ]
    for name, (width, height), dark, does in shots:
        if wanted and name not in wanted:
            continue
        with visiting(url, width, height, dark) as visit:
            does(visit)
            keep(visit, name)
    if not wanted or "page_million" in wanted:
        began = time.perf_counter()
        with visiting(url, before=partial(with_cells, n_cells=MILLION)) as visit:
            share = drawn_share(visit.page)
            print(
                f"{MILLION:,} cells drawn in {time.perf_counter() - began:.1f} s, on {share:.0%} of the map"
            )
            keep(visit, "page_million")
    print(f"{sum(file.stat().st_size for file in IMAGES.glob('page*.png')) / 1e6:.2f} MB in {IMAGES}")


if __name__ == "__main__":
    take(sys.argv[1], sys.argv[2:])
