"""The site of many features: what it costs to make, how large it is, how soon a browser shows it."""

import shutil
from pathlib import Path

from jobs import dashboard, enrich
from tests.benchmarks.cpu_time import cpu_seconds
from tests.benchmarks.report import Figure, main
from tests.benchmarks.sites.tables import write_features, write_sets

ABOUT = """The `dashboard` job over made-up feature tables (50 genes, 20 cells, 12 cell labels, 10 partners a
feature) and their enrichment against 500 gene sets: CPU-seconds and size of the site, and, in headless
Chromium from disk, seconds on the clock until the first paint, until the list of features is drawn, and until
a search is answered; best of three. `rows` is how many elements the list has in the document then."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]


# A gene set by name: found in the file of terms, not in the list.
SEARCH = """async () => {
    const began = performance.now(), field = document.getElementById("search");
    const told = document.getElementById("count").textContent;
    field.value = "SET_7";
    field.dispatchEvent(new Event("input"));
    while (document.getElementById("count").textContent === told) {
        await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return performance.now() - began;
}"""


def made(scratch: Path, n_features: int) -> tuple[Path, float]:
    """(the site, CPU-seconds it took)."""
    features = write_features(scratch / f"features-{n_features}", n_features)
    sets, enriched, site = (scratch / f"{name}-{n_features}" for name in ("sets.gmt", "enrichment", "site"))
    flags = ["--features", str(features)]
    if enrich.main(
        [*flags, "--gmt", str(write_sets(sets)), "--permutations", "1", "--output", str(enriched)]
    ):
        raise RuntimeError("enrich failed")
    job = [*flags, "--enrichment", str(enriched), "--output", str(site)]
    codes = []
    seconds = cpu_seconds(lambda: codes.append(dashboard.main(job)))
    if codes != [0]:
        raise RuntimeError("dashboard failed")
    return site, seconds


def shown(site: Path) -> tuple[float, float, float, int]:
    """Seconds to the first paint, to the list, of a search, and how many rows are in the document."""
    from playwright.sync_api import sync_playwright

    executable = next(found for name in BROWSERS if (found := shutil.which(name)))
    with sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=executable, args=ARGUMENTS)
        page = browser.new_page()
        page.goto((site / "index.html").as_uri())
        page.wait_for_selector(".row", timeout=120_000)
        drawn = page.evaluate("performance.now()")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        rows = page.locator(".row").count()
        searched = page.evaluate(SEARCH)
        browser.close()
    return paint / 1000, drawn / 1000, searched / 1000, rows


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    figures = []
    for n_features, target in ((200, 2.0),) if smoke else ((16_384, 2.0), (100_000, None)):
        site, seconds = made(scratch, n_features)
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
        looks = [shown(site) for _ in range(1 if smoke else 3)]
        paint, drawn, searched = (min(times) for times in list(zip(*looks, strict=True))[:3])
        of = f"of {n_features:,} features"
        figures += [
            Figure.error(f"first paint {of}", paint, "s", target),
            Figure.error(f"list drawn {of}", drawn, "s", target),
            Figure.error(f"search answered {of}", searched, "s", None),
            Figure.error(f"rows in the document {of}", looks[0][3], "rows", None),
            Figure.error(f"CPU-seconds of the site {of}", seconds, "s", None),
            Figure.error(f"size of the site {of}", size / 1e6, "MB", None),
        ]
    return figures


if __name__ == "__main__":
    raise SystemExit(main("dashboard", ABOUT, measure))
