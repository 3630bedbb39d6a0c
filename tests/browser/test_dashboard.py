"""The site in a real browser, from disk: it draws itself, searches, shows a feature, fits, runs no names."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pytest

from engine.interpret.dashboard.build import build_site
from engine.interpret.dashboard.inputs import SiteInputs
from engine.interpret.dashboard.overview import GENES_IN_LIST
from engine.serving.access import new_key
from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.placement import Inside
from engine.serving.rooms.dashboard import DashboardRoom
from engine.serving.settings import Settings
from jobs import enrich
from jobs.anatomy import DONE
from storage.locations import Location
from tests.browser.chromium import Chromium
from tests.browser.served_page import listening, visiting
from tests.interpret.dashboard.example import SHARED, write_compared
from tests.interpret.enrichment.example import FEATURES, HOSTILE, PLANTED, write_databases, write_gmt

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
  found.network = document.querySelectorAll(".network circle").length;
  const branches = document.querySelectorAll(".tree ul li > span:not(.note)");
  found.tree = [...branches].map((name) => name.textContent);
  location.hash = "#/compare";
  await wait(() => document.querySelector("[data-pair]"));
  found.pairs = document.getElementById("count").textContent;
  found.pair = document.querySelector("[data-pair]").textContent;
  const kind = document.getElementById("kind");
  kind.value = "ours";
  kind.dispatchEvent(new Event("change"));
  found.ours = document.getElementById("count").textContent;
  location.hash = "#/feature/0";
  await wait(() => document.getElementById("feature-title"));
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
    compared = write_compared(place)
    known = [
        "--databases",
        str(write_databases(place / "databases")),
        "--gmt",
        str(write_gmt(place / "sets.gmt")),
    ]
    flags = ["--permutations", "2", "--top-genes", "20", "--output", str(place / "enrichment")]
    assert enrich.main(["--features", compared.path("features"), *known, *flags]) == DONE
    inputs = SiteInputs.open(
        compared.path("features"),
        enrichment=str(place / "enrichment"),
        comparison=compared.path("comparison"),
        others=[compared.path("other-features")],
        sae=compared.path("ours"),
        title=HOSTILE,
    )
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
    assert found["network"] == 8
    # Organ stands under what leads to it; the phenotype under organ.
    assert found["tree"] == ["phenotype 0"]
    assert {"Writes nearly the same", "In other autoencoders"} <= set(found["cards"])  # type: ignore[call-overload]
    assert found["pairs"] == f"{SHARED} of {SHARED} features"
    assert str(found["pair"]).startswith("0phenotype 0")
    assert found["ours"] == f"{FEATURES - SHARED - 1} of {FEATURES - SHARED - 1} features"
    assert int(str(found["overflow"])) <= 0
    assert found["beyond"] == 0
    assert str(found["own"]).startswith("2phenotype 2")
    assert found["map"]
    assert min(int(str(found[page])) for page in ("rates", "failures", "licences")) > 200
    # Names from users' files are text, everywhere.
    assert found["images"] == 0
    assert found["heading"] == HOSTILE
    assert found["document"] == HOSTILE


def test_no_error_and_no_request_elsewhere_on_any_page(site: Path) -> None:
    with visiting((site / "index.html").as_uri()) as visit:
        for page in ("feature/0", "map", "genes", "compare", "rates", "failures", "licences"):
            visit.page.goto(f"{(site / 'index.html').as_uri()}#/{page}")
            visit.page.wait_for_selector("main h2")
        assert visit.errors == []
        assert visit.elsewhere == []


def test_a_hundred_thousand_features_scroll_like_a_hundred(site: Path, tmp_path: Path) -> None:
    many = 100_000
    shutil.copytree(site, tmp_path / "many")
    text = (site / "data" / "table.js").read_text()
    head, _, content = text.partition(",")
    table = json.loads(content.removesuffix(");\n"))
    for name, column in table.items():
        if isinstance(column, list) and len(column) in (FEATURES, FEATURES * GENES_IN_LIST):
            width = len(column) // FEATURES
            table[name] = (column * (many // FEATURES + 1))[: many * width]
    table["nFeatures"] = many
    (tmp_path / "many" / "data" / "table.js").write_text(f"{head},{json.dumps(table)});\n")
    with visiting((tmp_path / "many" / "index.html").as_uri()) as visit:
        assert visit.text("#count") == "100,000 of 100,000 features"
        assert visit.page.locator(".row").count() < 60
        visit.page.click('#head [data-sort="feature"]')
        visit.page.evaluate("document.getElementById('scroller').scrollTop = 1e9")
        visit.page.wait_for_selector(f'[data-feature="{many - 1}"]')
        assert visit.page.locator(".row").count() < 60
        visit.page.fill("#search", str(many - 5))
        visit.page.wait_for_selector("text=1 of 100,000 features")
        assert visit.errors == []


def test_behind_the_server_it_asks_for_a_key_and_shows_the_same(site: Path, tmp_path: Path) -> None:
    text, key = new_key("reader", ["read"])
    (tmp_path / "keys").write_text(key.line + "\n")
    settings = Settings(index="not asked", dashboard=str(site), api_keys=str(tmp_path / "keys"))
    doors = Doors(settings, cells=None, selections=None, dashboard=Inside(DashboardRoom(settings)))
    with listening(create_api(doors)) as address, visiting(f"{address}/dashboard/") as visit:
        assert "asks for a key" in visit.text("main")
        visit.page.fill("#key", text)
        visit.page.click("text=Enter")
        visit.page.wait_for_selector("[data-feature]")
        assert visit.text("#count") == f"{FEATURES} of {FEATURES} features"
        visit.page.goto(f"{address}/dashboard/#/feature/0")
        visit.page.wait_for_selector("#feature-title")
        # The refusal before the key, as the browser logs it, and nothing else.
        assert [error for error in visit.errors if "401" not in error] == []
        assert visit.elsewhere == []


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
