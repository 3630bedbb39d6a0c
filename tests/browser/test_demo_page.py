"""The demo page in a real browser: it draws itself, reacts, fits its window, runs no foreign text."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.interpret.page.build import render
from tests.browser.chromium import Chromium
from tests.interpret.page.example import HOSTILE, example
from tests.interpret.small_pass import FEATURES

pytestmark = pytest.mark.browser

# Runs after the page's own scripts: clicks through it and writes what it finds into the document.
PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const found = {};
  const rows = () => document.querySelectorAll("#rows tr[data-feature]");
  found.rows = rows().length;
  found.legend = document.querySelectorAll("#legend button").length;
  found.curves = document.querySelectorAll("#curves svg path").length;
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  const wide = [...document.querySelectorAll("main *")].filter((element) =>
    !element.closest(".table-scroll") && element.getBoundingClientRect().right > innerWidth + 1);
  found.beyond = wide.map((element) => element.className || element.tagName).join(",");
  rows()[0].click();
  found.detail = document.getElementById("detail-title")?.textContent || "";
  found.hash = location.hash;
  dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  found.back = !document.getElementById("legend-pane").hidden;
  document.querySelector("#legend button").click();
  found.pressed = document.querySelectorAll('#legend button[aria-pressed="false"]').length;
  const search = document.getElementById("search");
  search.value = "gene5 zzz";
  search.dispatchEvent(new Event("input"));
  found.none = rows().length;
  search.value = "";
  search.dispatchEvent(new Event("input"));
  document.querySelector('#head [data-sort="feature"]').click();
  found.sorted = [...rows()].map((row) => Number(row.dataset.feature)).join(",");
  found.unnamed = [...document.querySelectorAll("button, input")].filter((element) =>
    !(element.textContent.trim() || element.getAttribute("aria-label") || element.closest("label"))).length;
  found.title = document.title;
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}, 500));
</script>
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "index.html"
    path.write_text(render(example()), encoding="utf-8")
    return path


def probe(chromium: Chromium, page: Path, width: int) -> dict[str, object]:
    """What the probe finds in a window of this width."""
    page.with_name("probed.html").write_text(page.read_text(encoding="utf-8") + PROBE, encoding="utf-8")
    found = re.search(
        r'<pre id="probe">(.*?)</pre>', chromium.dom(page.with_name("probed.html").as_uri(), width)
    )
    assert found is not None, "the page's scripts did not finish"
    values: dict[str, object] = json.loads(html.unescape(found[1]))
    return values


@pytest.mark.parametrize("width", [1280, 500])
def test_draws_itself_and_reacts(chromium: Chromium, page: Path, width: int) -> None:
    found = probe(chromium, page, width)
    alive = FEATURES - 1
    assert found["rows"] == min(alive, 12)
    assert found["legend"] == 3
    assert found["curves"] == 1
    assert found["overflow"] <= 0
    assert found["beyond"] == ""
    assert str(found["detail"]).startswith("Feature ")
    assert str(found["hash"]).startswith("#feature-")
    assert found["back"]
    assert found["pressed"] == 1
    assert found["none"] == 0
    assert found["sorted"] == ",".join(map(str, range(alive)))
    assert found["unnamed"] == 0


def test_names_stay_text(chromium: Chromium, page: Path) -> None:
    dom = chromium.dom(page.as_uri())
    assert "<img" not in dom
    assert html.escape(HOSTILE, quote=False) in dom
    assert "<title>A page" in dom


def test_follows_the_colour_scheme(chromium: Chromium, page: Path, tmp_path: Path) -> None:
    brightness = {}
    for scheme, flags in {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}.items():
        image = tmp_path / f"{scheme}.png"
        chromium.screenshot(page.as_uri(), image, 1280, 900, *flags)
        brightness[scheme] = float(np.asarray(Image.open(image).convert("L")).mean())
    assert brightness["light"] > 200
    assert brightness["dark"] < 80


def test_fits_a_telephone(chromium: Chromium, page: Path, tmp_path: Path) -> None:
    """400 pixels, in a frame: a window of Chromium is never narrower than 500."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<body style="margin:0"><iframe src="index.html" style="width:400px;height:3000px;border:0"></iframe>'
    )
    image = tmp_path / "telephone.png"
    chromium.screenshot(frame.as_uri(), image, 600, 3000)
    pixels = np.asarray(Image.open(image).convert("RGB")).astype(int)
    # Nothing of the page lies under a horizontal scroll: its last columns are plain background.
    edge = pixels[:, 396:399].reshape(-1, 3)
    assert np.abs(edge - edge[0]).max() < 12
