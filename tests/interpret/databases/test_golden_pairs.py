"""Every expected pair of the real excerpts, and no other, under the rules they were made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from engine.interpret.databases import (
    clinvar,
    disgenet,
    gencc,
    go,
    gwas,
    hpo,
    monarch,
    opentargets,
    orphanet,
    string,
)
from tests.interpret.databases.conftest import pairs, take_in


@dataclass(frozen=True)
class Golden:
    expected: str
    source: str
    files: dict[str, str]
    rules: Any


_HP = {"ontology": "hpo/hp.subset.obo"}
_ALL_DISEASES = hpo.Rules(mendelian=False)

GOLDEN = [
    *(
        Golden(
            f"clinvar__{name}__min{stars}star.tsv",
            "clinvar",
            {role: f"clinvar/{file}"},
            clinvar.Rules(stars=stars, variants=1),
        )
        for name, role, file in (
            ("variant_summary", "summary", "variant_summary.txt"),
            ("variant_summary.34col", "summary", "variant_summary.34col.txt"),
            ("vcf", "vcf", "clinvar.GRCh37.vcf"),
        )
        for stars in (1, 2)
    ),
    Golden(
        "disgenet__2015__score0.3.tsv",
        "disgenet",
        {"table": "disgenet/curated_gene_disease_associations.2015.txt"},
        disgenet.Rules(),
    ),
    *(
        Golden(f"gencc__{file}.tsv", "gencc", {"submissions": f"gencc/{file}"}, gencc.Rules())
        for file in (
            "gencc-submissions.legacy.csv",
            "gencc-submissions.legacy.tsv",
            "gencc-submissions.new.csv",
        )
    ),
    *(
        Golden(
            f"go__goa_human.excerpt.gaf__BP_{name}.tsv",
            "go",
            {"annotations": "go/goa_human.excerpt.gaf"},
            go.Rules(without=without),
        )
        for name, without in (("all", ("ND",)), ("noIEA", ("ND", "IEA")))
    ),
    *(
        Golden(
            f"gwas_catalog__{file}__{between}.tsv",
            "gwas",
            {"associations": f"gwas_catalog/{file}.tsv"},
            gwas.Rules(intergenic=between),
        )
        for file in ("gwas-catalog-download-associations-alt-full", "gwas_catalog_v1.0.1_2015")
        for between in ("both", "drop", "nearest")
    ),
    Golden(
        "hpo__genes_to_disease__mendelian.tsv",
        "hpo-diseases",
        {"diseases": "hpo/genes_to_disease.txt"},
        hpo.DiseaseRules(),
    ),
    *(
        Golden(f"hpo__{file}__{kind}.tsv", "hpo", {"annotated": f"hpo/{file}.txt", **ontology}, _ALL_DISEASES)
        for file in ("genes_to_phenotype", "genes_to_phenotype.legacy9col")
        for kind, ontology in (("direct", {}), ("propagated_HP0000118", _HP))
    ),
    Golden(
        "orphanet__en_product6.xml.tsv", "orphanet", {"genes": "orphanet/en_product6.xml"}, orphanet.Rules()
    ),
]
OPEN_TARGETS = ("25.12", "26.06")
# Those with a third column have a test of their own.
APART = {
    "monarch__gene_disease.tsv",
    "string__700.tsv",
    *(f"open_targets__{release}__association_overall_direct__score0.5.tsv" for release in OPEN_TARGETS),
}


def test_every_expected_file_has_a_test(excerpts: Path) -> None:
    found = {path.name for path in (excerpts / "EXPECTED").glob("*.tsv")}
    assert found == {golden.expected for golden in GOLDEN} | APART


def expected(excerpts: Path, name: str) -> set[tuple[str, ...]]:
    table = pd.read_csv(excerpts / "EXPECTED" / name, sep="\t", dtype=str, keep_default_na=False)
    return set(table.itertuples(index=False, name=None))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.expected)
def test_pairs_of_real_rows(excerpts: Path, golden: Golden) -> None:
    files = {role: excerpts / path for role, path in golden.files.items()}
    intake = take_in(golden.source, files, golden.rules)
    assert pairs(intake) == expected(excerpts, golden.expected)
    assert sum(intake.rows.values()) > 0
    assert all(intake.layouts[path.name] for role, path in files.items() if role != "ontology")


def test_monarch_keeps_the_predicate_as_evidence(excerpts: Path) -> None:
    files = {name: excerpts / f"monarch/monarch-kg_{name}.subset.tsv" for name in ("edges", "nodes")}
    intake = take_in("monarch", files, monarch.Rules())
    found = {(link.gene[-1], link.term_id, link.evidence) for link in intake.associations}
    assert found == expected(excerpts, "monarch__gene_disease.tsv")
    assert intake.terms["MONDO:0007947"].name == "Marfan syndrome"


def test_string_edges(excerpts: Path) -> None:
    files = {
        "links": excerpts / "string/9606.protein.links.detailed.v12.0.txt",
        "info": excerpts / "string/9606.protein.info.v12.0.txt",
    }
    intake = take_in("string", files, string.Rules(without=()))
    assert intake.edges is not None
    found = {(a, b, str(int(score))) for a, b, score in intake.edges.itertuples(index=False)}
    assert found == expected(excerpts, "string__700.tsv")
    assert intake.release == "v12.0"


@pytest.mark.parametrize("release", OPEN_TARGETS)
@pytest.mark.parametrize("recomputed", [False, True])
def test_open_targets_scores(excerpts: Path, release: str, recomputed: bool) -> None:
    """Recomputed from the scores of all sources, the overall score is the published one."""
    name = f"open_targets__{release}__association_overall_direct__score0.5.tsv"
    dataset, role = "association_overall_direct", "overall_direct"
    if recomputed:
        dataset, role = "association_by_datasource_direct", "by_source_direct"
    # A source that does not exist: nothing is left out, but the score is made again.
    rules = opentargets.Rules(threshold=0.5, without=("nobody",) if recomputed else ())
    intake = take_in("opentargets", {role: excerpts / f"open_targets/{release}__{dataset}.parquet"}, rules)
    found = {(link.gene[0], link.term_id): score for link, (score, _) in intake.associations.items()}
    table = pd.read_csv(excerpts / "EXPECTED" / name, sep="\t")
    wanted = dict(zip(zip(table["ensembl"], table["disease"], strict=True), table["score"], strict=True))
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted, abs=1e-7 if recomputed else 1e-11)
    assert intake.release == release
