"""Writes the site: a page, its style and script, and the numbers as script files that are loaded on demand.

A page opened from disk may not fetch files, but it may load scripts: so each file of numbers is one call,
`syncytium(name, value)`, with JSON as its value.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import pandas as pd

from engine.interpret import page
from engine.interpret.dashboard.coactivation_map import map_of
from engine.interpret.dashboard.details import FEATURES_IN_FILE, feature_records
from engine.interpret.dashboard.inputs import SiteInputs
from engine.interpret.dashboard.numbers import rounded
from engine.interpret.dashboard.overview import overview
from engine.interpret.page.build import script_json
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.locations import Location

KIND = "dashboard"
INDEX, SERVED_INDEX = "index.html", "served.html"
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'self' file:; "
    "script-src 'self' file:; img-src data:; base-uri 'none'; form-action 'none'\">"
)
FIRST_NUMBERS = '<script src="data/table.js" defer></script>'
STYLES = ("page.css", "assets/site.css")
SCRIPTS = (
    "elements.js",
    "colours.js",
    "assets/site-load.js",
    "assets/site-search.js",
    "assets/site-table.js",
    "assets/site-drawings.js",
    "assets/site-feature.js",
    "assets/site-map.js",
    "assets/site-genes.js",
    "assets/site-compare.js",
    "assets/site-pages.js",
    "assets/site.js",
)
"""In this order: each uses names of those before it."""
GENE_FILES = 32
RATE_COLUMNS = (
    "n_terms", "n_tests", "significant", "null_significant", "null_ratio", "n_features", "features_with_term",
    "null_features", "features_annotated",
)  # fmt: skip

# done, total, unit
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Site:
    """What `build_site` did; `did_work` is False when it was there already."""

    snapshot: Snapshot
    n_features: int
    did_work: bool


def build_site(
    inputs: SiteInputs, output: Location, *, overwrite: bool = False, report: Progress | None = None
) -> Site:
    """Write the site to `output`. Raises LineageMismatch when another one is there."""
    report = report or (lambda done, total, unit: None)
    ranges = inputs.features.ranges
    lineage = {**inputs.identity, "assets": _assets_hash()}
    members = [MemberPlan(key) for key in ranges]
    dataset = Dataset.plan(output, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)
    if dataset.is_complete:
        snapshot = dataset.finish()
        return Site(snapshot, int(snapshot.facts["n_features"]), did_work=False)
    table = overview(inputs)
    for done, member in enumerate(dataset.pending()):
        report(done, len(ranges), "ranges")
        _write_range(dataset, member.key, inputs)
    starts = [
        start
        for record in dataset.records()
        for start in range(record.facts["first"], record.facts["stop"], FEATURES_IN_FILE)
    ]
    objects = {name: content.encode() for name, content in _root(inputs, table, starts).items()}
    snapshot = dataset.finish(objects, {"n_features": table["nFeatures"]})
    return Site(snapshot, table["nFeatures"], did_work=True)


def _write_range(dataset: Dataset, key: str, inputs: SiteInputs) -> None:
    records = feature_records(inputs, key)
    numbers = list(records)
    writer = dataset.member(key)
    for start in range(0, len(numbers), FEATURES_IN_FILE):
        chosen = numbers[start : start + FEATURES_IN_FILE]
        name = f"features/{chosen[0]}"
        writer.put(f"data/{name}.js", _call(name, {feature: records[feature] for feature in chosen}).encode())
    writer.commit({"n_features": len(records), "first": numbers[0], "stop": numbers[-1] + 1})


def _root(inputs: SiteInputs, table: dict[str, Any], starts: list[int]) -> dict[str, str]:
    """Files that are about all features, by name."""
    features = inputs.features
    found = {
        "table": {**table, "starts": starts, "title": inputs.title, "public": inputs.public},
        "map": map_of(features.table("partners"), table["nFeatures"], table["first"]),
        "sources": _sources(inputs),
        **_gene_files(features.top_genes, inputs),
    }
    if inputs.enrichment is not None:
        found["terms"] = _term_names(inputs)
    if inputs.others is not None:
        found["compare"] = inputs.others.summary()
        found |= {f"compare/{number}": inputs.others.columns(number) for number in inputs.others.numbers}
    files = {f"data/{name}.js": _call(name, value) for name, value in found.items()}
    files["site.css"] = "\n".join(_asset(name) for name in STYLES)
    script = "\n".join(_asset(name) for name in SCRIPTS)
    files["site.js"] = f'(() => {{\n"use strict";\n{script}\n}})();\n'
    page = Template(_asset("assets/site.html"))
    title = html.escape(inputs.title)
    # A server sends the policy itself, and may want a key for numbers: there the script fetches them.
    files[SERVED_INDEX] = page.substitute(title=title, policy="", served=" data-served", first="")
    # Last: what opens is whole.
    files[INDEX] = page.substitute(title=title, policy=POLICY, served="", first=FIRST_NUMBERS)
    return files


def _call(name: str, value: Any) -> str:
    return f"syncytium({script_json(name)},{script_json(value)});\n"


def gene_file(gene: str) -> int:
    """Number of the file that says which features list a gene: the same sum in site-search.js."""
    number = 0
    for letter in gene:
        number = (number * 31 + ord(letter)) % 4_294_967_296
    return number % GENE_FILES


def _gene_files(top: pd.DataFrame, inputs: SiteInputs) -> dict[str, dict[str, list[int]]]:
    """gene -> features that list it, among the genes that were tested or, without enrichment, all listed."""
    listed = int(inputs.enrichment.lineage["top_genes"]) if inputs.enrichment else 50
    chosen = top[top["rank"] < listed]
    files: dict[str, dict[str, list[int]]] = {f"genes/{number}": {} for number in range(GENE_FILES)}
    for gene, rows in chosen.groupby("gene_name", sort=True):
        files[f"genes/{gene_file(str(gene))}"][str(gene)] = rows["feature"].tolist()
    return files


def _term_names(inputs: SiteInputs) -> dict[str, list[Any]]:
    """Significant terms with their features, for the search."""
    found: dict[str, list[Any]] = {"names": [], "features": []}
    parts = [inputs.terms(key) for key in inputs.features.ranges]
    rows = pd.concat([part[part["significant"]] for part in parts if part is not None])
    for name, of_term in rows.groupby("term", sort=True):
        found["names"].append(str(name))
        found["features"].append(sorted(set(of_term["feature"].tolist())))
    return found


def _sources(inputs: SiteInputs) -> dict[str, Any]:
    """Licences, and how much each source found beside what chance finds."""
    if inputs.enrichment is None:
        return {"licences": [], "rates": [], "report": None, "hidden": []}
    rates = inputs.enrichment.rates
    rows = [
        {
            "subject": row["subject"],
            "source": row["source"],
            "numbers": rounded([row[name] for name in RATE_COLUMNS]),
        }
        for row in rates.to_dict("records")
        if row["source"] not in inputs.hidden_sources
    ]
    return {
        "licences": inputs.enrichment.sources,
        "rates": rows,
        "report": inputs.enrichment.report,
        "hidden": sorted(inputs.hidden_sources),
    }


def _assets_hash() -> str:
    """Changes with the page, the style and the scripts: a site of another version is made again."""
    texts = [_asset(name) for name in ("assets/site.html", *STYLES, *SCRIPTS)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _asset(name: str) -> str:
    found = resources.files(page)
    for part in name.split("/"):
        found = found / part
    return found.read_text(encoding="utf-8")
