"""`dashboard` from the command line: the files of a site, what they hold, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from engine.interpret.dashboard.build import gene_file
from engine.interpret.dashboard.overview import REDUNDANT, SILENT, UNANNOTATED
from jobs import dashboard, enrich
from jobs.anatomy import BAD_INPUT, DONE
from tests.interpret.enrichment.example import FEATURES, HOSTILE, PLANTED, write_features, write_gmt
from tests.interpret.enrichment.example import SILENT as SILENT_FEATURE


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    features, gmt = write_features(place / "features"), write_gmt(place / "sets.gmt")
    common = ["--permutations", "2", "--top-genes", "20"]
    assert (
        enrich.main(
            ["--features", str(features), "--gmt", str(gmt), "--output", str(place / "enrichment"), *common]
        )
        == DONE
    )
    assert dashboard.main([*arguments(place), "--output", str(place / "out")]) == DONE
    return place


def arguments(place: Path) -> list[str]:
    return [
        "--features",
        str(place / "features"),
        "--enrichment",
        str(place / "enrichment"),
        "--title",
        HOSTILE,
    ]


def value(site: Path, name: str) -> Any:
    """What a file of numbers hands to the page."""
    text = (site / "out" / "data" / f"{name}.js").read_text()
    found = re.fullmatch(r'syncytium\("([^"]*)",(.*)\);\n', text, re.DOTALL)
    assert found is not None
    assert found[1] == name
    return json.loads(found[2])


def test_nothing_in_the_files_can_be_html(site: Path) -> None:
    out = site / "out"
    page = (out / "index.html").read_text()
    assert HOSTILE not in page
    assert "://" not in page
    assert "default-src 'none'" in page
    for path in (out / "data").rglob("*.js"):
        assert "<" not in path.read_text(), path
    assert "innerHTML" not in (out / "site.js").read_text()


def test_the_table_has_every_feature_and_what_speaks_against_it(site: Path) -> None:
    table = value(site, "table")
    assert table["nFeatures"] == FEATURES
    assert table["terms"][:PLANTED] == [1] * PLANTED
    assert table["groups"] == ["pathway"]
    assert table["groupMask"][0] == 1
    assert table["flags"][SILENT_FEATURE] == SILENT
    assert table["flags"][0] & REDUNDANT
    assert not table["flags"][5] & UNANNOTATED
    assert [table["genes"][code] for code in table["topGenes"][:5]] == [f"GENE{gene}" for gene in range(5)]


def test_every_feature_is_in_the_file_the_page_looks_in(site: Path) -> None:
    starts = value(site, "table")["starts"]
    assert starts == [0, FEATURES // 2]
    found = {}
    for start in starts:
        found.update(value(site, f"features/{start}"))
    assert sorted(map(int, found)) == list(range(FEATURES))
    record = found["0"]
    assert record["genes"][0][0] == "GENE0"
    assert record["terms"][0][:6] == ["pathway", "gmt-sets", "SET_0", "SET_0", True, True]
    assert record["labels"][0][0] == HOSTILE
    assert record["bins"] == [[0.5, 1.0, 60], [1.0, 2.0, 40]]
    assert found[str(SILENT_FEATURE)]["genes"] == []


def test_genes_and_terms_can_be_searched(site: Path) -> None:
    top = pd.read_parquet(site / "features" / "top_genes")
    wanted = sorted(top.loc[top["gene_name"] == "GENE7", "feature"])
    assert value(site, f"genes/{gene_file('GENE7')}")["GENE7"] == wanted
    terms = value(site, "terms")
    assert dict(zip(terms["names"], terms["features"], strict=True))["SET_2"] == [2]


def test_rates_and_licences_are_there(site: Path) -> None:
    sources = value(site, "sources")
    assert [row["source"] for row in sources["rates"]] == ["gmt-sets", "all"]
    assert sources["licences"][0]["source"] == "gmt-sets"
    assert sources["report"]["n_background"] > 0


def test_a_finished_site_is_left_alone_and_strangers_are_refused(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.main([*arguments(site), "--output", str(site / "out")]) == DONE
    assert "already complete" in capsys.readouterr().err
    other = write_features(tmp_path / "features", seed=3)
    wrong = ["--features", str(other), "--enrichment", str(site / "enrichment")]
    assert dashboard.main([*wrong, "--output", str(tmp_path / "out")]) == BAD_INPUT
    assert "made from other feature tables" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_features_alone_make_a_site(site: Path, tmp_path: Path) -> None:
    flags = ["--features", str(site / "features"), "--batch", str(site / "features")]
    assert dashboard.main([*flags, "--output", str(tmp_path / "out")]) == DONE
    text = (tmp_path / "out" / "data" / "table.js").read_text()
    assert '"terms":null' in text
    assert '"batchesKnown":true' in text
    assert not (tmp_path / "out" / "data" / "terms.js").exists()
