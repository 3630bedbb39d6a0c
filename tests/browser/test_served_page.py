"""What a person does on the served page: search, draw around cells, ask, compare, go back, share."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.serving.api import create_api
from engine.serving.doors import Doors
from tests.browser.many_cells import drawn_share, with_cells
from tests.browser.served_page import Visit, listening, visiting

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(full: Doors) -> Iterator[str]:
    with listening(create_api(full)) as found:
        yield found


def settled(visit: Visit, selector: str, holds: str) -> str:
    """Text of an element once it holds some words."""
    visit.page.locator(selector).filter(has_text=holds).first.wait_for(timeout=30_000)
    return visit.text(selector)


def lasso(visit: Visit, corners: list[tuple[float, float]]) -> None:
    box = visit.page.locator("#lasso").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    visit.page.mouse.move(*points[0])
    visit.page.mouse.down()
    for point in [*points[1:], points[0]]:
        visit.page.mouse.move(*point, steps=4)
    visit.page.mouse.up()


def test_a_session(url: str, tmp_path: Path) -> None:
    with visiting(url) as visit:
        page = visit.page
        assert page.get_attribute("body", "data-drawn") == "yes"
        assert "700 cells" in settled(visit, "#status", "cells")
        # The first annotation colours the cells, with its counts.
        assert "B cell (97)" in settled(visit, "#legend", "B cell")

        page.fill("#question", "B cell -monocyte")
        settled(visit, "#legend", "B cell -monocyte")
        page.click("text=Find cells")
        assert "100 of 700 cells" in settled(visit, "#status", "100 of")
        assert page.locator("#hits tbody tr").count() == 100

        page.click("#tab-colour")
        page.click("#columns >> text=cell_type")
        page.click("#legend >> text=B cell")
        settled(visit, "#status", "97 cells selected")
        page.click("#tab-chat")
        page.fill("#words", "Which genes are markers?")
        page.click("#ask")
        page.wait_for_selector("#talk li:not([aria-busy]) .evidence", timeout=30_000)
        assert "CD79A" in visit.text("#talk")
        assert page.locator("#talk .chip").count() >= 2

        page.click("#tab-genes")
        page.click("#compare")
        page.wait_for_selector("#markers tbody tr")
        page.locator("#markers td button").first.click()
        gene = page.locator("#markers td button").first.text_content()
        settled(visit, "#legend", gene)

        page.click("#undo")
        settled(visit, "#legend", "cell_type")
        lasso(visit, [(0.05, 0.15), (0.95, 0.15), (0.95, 0.95), (0.05, 0.95)])
        chosen = int(settled(visit, "#status", "cells selected").split()[0])
        assert 350 < chosen <= 700

        page.click("#tab-hits")
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(tmp_path / "cells.csv")
        rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
        assert len(rows) == chosen
        assert rows[0]["cell_type"]
        assert visit.errors == []
        assert visit.elsewhere == []


def test_features_and_perturbations(url: str) -> None:
    with visiting(url) as visit:
        page = visit.page
        page.click("#tab-features")
        page.locator("#features td button").first.click()
        # All cells it fires in are listed, or its strongest.
        assert "cells" in settled(visit, "#legend", re.compile("fires in|strongest of"))

        page.click("#tab-perturb")
        page.fill("#perturbation", page.locator("#perturbations option").first.get_attribute("value"))
        page.click("#perturb-form button[type=submit]")
        page.wait_for_selector("#predicted tbody tr")
        assert "training screen" in visit.text("#predicted")
        assert page.locator("#predicted .bars .reach").count() == page.locator("#predicted tbody tr").count()
        page.click("#perturb-colour")
        settled(visit, "#legend", "Change after losing")
        page.locator("#predicted td button").first.click()
        settled(visit, "#legend", "predicted for the mean cell of each cell_type")
        assert visit.errors == []


def test_two_selections_are_compared_both_ways(url: str) -> None:
    with visiting(url) as visit:
        for side, kind in (("a", "B cell"), ("b", "CD14+ monocyte")):
            visit.page.locator("#legend button").filter(has_text=kind).first.click()
            settled(visit, "#status", "cells selected")
            visit.page.click("#tab-genes")
            visit.page.click(f"#set-{side}")
        visit.page.click("#compare")
        visit.page.wait_for_selector("#markers h2:has-text('Higher in B')")
        both = [visit.page.locator("#markers table").nth(side).text_content() for side in (0, 1)]
        assert "CD79A" in both[0]
        assert "LYZ" in both[1]
        assert visit.errors == []


def test_a_hundred_thousand_cells(url: str) -> None:
    with visiting(url, before=partial(with_cells, n_cells=100_000)) as visit:
        assert "100,000 cells" in settled(visit, "#status", "cells")
        assert 0.1 < drawn_share(visit.page) < 0.9
        assert visit.errors == []


def test_a_link_leads_to_the_same_view(url: str) -> None:
    with visiting(f"{url}/#colour=gene:CD79A&cells=3,10-20&view=0.4,0.6,2") as visit:
        settled(visit, "#legend", "CD79A")
        settled(visit, "#status", "11 cells selected")


def test_a_page_for_phones_and_the_dark(url: str) -> None:
    with visiting(url, 390, 844, dark=True) as visit:
        width = visit.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 26)"


def test_text_from_elsewhere_is_not_html(url: str) -> None:
    with visiting(f"{url}/#colour=text:%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E") as visit:
        settled(visit, "#legend", "<img")
        assert visit.page.locator("#legend img").count() == 0


def test_documents_need_nothing_from_elsewhere(url: str) -> None:
    with visiting(f"{url}/") as visit:
        visit.page.goto(f"{url}/docs")
        visit.page.wait_for_selector('text="/v1/chat/completions"')
        assert visit.errors == []
        assert visit.elsewhere == []
