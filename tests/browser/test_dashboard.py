"""The site in a real browser, from disk: it draws itself, searches, shows a feature, fits, runs no names."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from engine.interpret.dashboard.build import build_site
from engine.interpret.dashboard.inputs import SiteInputs
from jobs import enrich
from jobs.anatomy import DONE
from storage.locations import Location
from tests.browser.chromium import Chromium
from tests.interpret.enrichment.example import FEATURES, HOSTILE, PLANTED, write_features, write_gmt

pytestmark = pytest.mark.browser

# Runs after the site's own script; a file of its own, since the page allows no inline scripts.
PROBE = """
const found = {};
const wait = (until) => new Promise((resolve) => {
  const look = (left) => (left === 0 || until() ? resolve() : setTimeout(() => look(left - 1), 20));
  look(100);
});
const rows = () =>
  [...document.querySelectorAll(".row[data-feature]")].map((row) => Number(row.dataset.feature));
async function type(id, value) {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("input"));
  await wait(() => false || document.getElementById("count").textContent.startsWith("1 of"));
}
async function look() {
  await wait(() => rows().length > 0);
  found.paint = performance.getEntriesByType("paint").length > 0;
  found.count = document.getElementById("count").textContent;
  found.first = rows()[0];
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  await type("search", "SET_2");
  found.term = rows();
  await type("search", "feature nothing");
  location.hash = "#/feature/0";
  await wait(() => document.getElementById("feature-title"));
  found.title = document.getElementById("feature-title").textContent;
  found.cards = [...document.querySelectorAll(".card h3")].map((head) => head.textContent);
  found.bars = document.querySelectorAll(".histogram rect").length;
  found.beyond = [...document.querySelectorAll("main *")].filter((element) =>
    !element.closest(".table-scroll") && element.getBoundingClientRect().right > innerWidth + 1).length;
  location.hash = "#/genes";
  await wait(() => document.getElementById("ask"));
  document.getElementById("own-genes").value = "GENE24 GENE25 GENE26 GENE27 GENE28 GENE29 UNKNOWN";
  document.getElementById("ask").click();
  await wait(() => document.querySelector("#answer tbody tr"));
  found.own = document.querySelector("#answer tbody tr").textContent;
  location.hash = "#/map";
  await wait(() => document.getElementById("map"));
  found.map = Boolean(document.getElementById("map"));
  for (const page of ["rates", "failures", "licences"]) {
    location.hash = `#/${page}`;
    const tab = `#tabs a[href="#/${page}"][aria-current]`;
    await wait(() => document.querySelector(tab) && document.querySelector("main h2"));
    found[page] = document.querySelector("main").textContent.length;
  }
  found.images = document.querySelectorAll("img").length;
  found.heading = document.querySelector("h1").textContent;
  found.document = document.title;
}
look().catch((error) => { found.error = String(error); }).then(() => {
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dashboard")
    features, gmt = write_features(place / "features"), write_gmt(place / "sets.gmt")
    flags = ["--permutations", "2", "--top-genes", "20", "--output", str(place / "enrichment")]
    assert enrich.main(["--features", str(features), "--gmt", str(gmt), *flags]) == DONE
    inputs = SiteInputs.open(str(features), enrichment=str(place / "enrichment"), title=HOSTILE)
    build_site(inputs, Location.of(place / "site"))
    return place / "site"


@pytest.mark.parametrize("width", [1280, 500])
def test_the_site_works_from_disk(chromium: Chromium, site: Path, width: int) -> None:
    found = probe(chromium, site, width)
    assert "error" not in found, found
    assert found["count"] == f"{FEATURES} of {FEATURES} features"
    assert int(str(found["first"])) < PLANTED
    assert found["term"] == [2]
    assert str(found["title"]).startswith("Feature 0: ")
    assert "What its genes are known for" in list(found["cards"])  # type: ignore[call-overload]
    assert found["bars"] == 2
    assert int(str(found["overflow"])) <= 0
    assert found["beyond"] == 0
    assert str(found["own"]).startswith("2SET 2")
    assert found["map"]
    assert min(int(str(found[page])) for page in ("rates", "failures", "licences")) > 200
    # Names from users' files are text, everywhere.
    assert found["images"] == 0
    assert found["heading"] == HOSTILE
    assert found["document"] == HOSTILE


def probe(chromium: Chromium, site: Path, width: int) -> dict[str, object]:
    """What the probe finds in a window of this width."""
    (site / "probe.js").write_text(PROBE)
    page = (site / "index.html").read_text(encoding="utf-8")
    probed = page.replace("</body>", '<script src="probe.js" defer></script></body>')
    (site / "probed.html").write_text(probed)
    document = chromium.dom((site / "probed.html").as_uri(), width)
    found = re.search(r'<pre id="probe">(.*?)</pre>', document, re.DOTALL)
    assert found is not None, "the site's scripts did not finish"
    values: dict[str, object] = json.loads(html.unescape(found[1]))
    return values
