"""GWAS Catalog, DisGeNET, GO, KEGG, Reactome: rules and refusals on rows made for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.interpret.databases import disgenet, gmt, go, gwas, kegg
from storage.errors import InputError
from tests.interpret.databases.conftest import pairs, take_in


def test_gwas_keeps_how_a_gene_was_found(tmp_path: Path) -> None:
    path = tmp_path / "gwas-catalog-associations_ontology-annotated-full.tsv"
    uri = "http://www.ebi.ac.uk/efo/EFO_1, http://purl.obolibrary.org/obo/MONDO_2"
    path.write_text(
        "MAPPED_GENE\tUPSTREAM_GENE_DISTANCE\tDOWNSTREAM_GENE_DISTANCE\tPVALUE_MLOG\tMAPPED_TRAIT\tMAPPED_TRAIT_URI"
        "\tCHR_ID\tCHR_POS\tSTUDY ACCESSION\n"
        f"HLA-A, HLA-A; B x C\t\t\t9.0\ttrait\t{uri}\t6\t29942470\tG1\n"
        f"D - E\t100\t20\t9.0\ttrait\t{uri}\t1\t5\tG1\n"
        f"F\t\t\t7.2\ttrait\t{uri}\t1\t5\tG1\n"
        f"\t\t\t9.0\ttrait\t{uri}\t1\t5\tG1\n"
    )
    intake = take_in("gwas", {"associations": path}, gwas.Rules(intergenic="nearest"))
    found = {(link.gene[0], link.evidence) for link in intake.associations}
    assert found == {
        ("HLA-A", "genic, MHC"),
        ("B", "genic, MHC"),
        ("C", "genic, MHC"),
        ("E", "nearest"),
    }
    assert {link.term_id for link in intake.associations} == {"EFO_1", "MONDO_2"}
    assert intake.dropped == {"p above the threshold": 1, "no gene, or between genes": 1}


def test_disgenet_v7_keeps_curated_diseases(tmp_path: Path) -> None:
    path = tmp_path / "all_gene_disease_associations.tsv"
    path.write_text(
        "geneId\tgeneSymbol\tDSI\tdiseaseId\tdiseaseName\tdiseaseType\tscore\tsource\n"
        "1\tA\t0\tC1\tone\tdisease\t0.5\tBEFREE;CTD_human\n"
        "1\tA\t0\tC2\ttwo\tdisease\t0.5\tBEFREE\n"
        "1\tA\t0\tC3\tthree\tphenotype\t0.5\tORPHANET\n"
        "1\tA\t0\tC4\tfour\tdisease\t0.2\tORPHANET\n"
    )
    assert pairs(take_in("disgenet", {"table": path}, disgenet.Rules())) == {("A", "umls:C1")}


def test_disgenet_pages(excerpts: Path, tmp_path: Path) -> None:
    page = excerpts / "disgenet" / "api_v1_gda_summary.json"
    intake = take_in("disgenet", {"pages": page}, disgenet.Rules(score=0.9))
    assert pairs(intake) == {("TP53", "umls:C0678222")}
    for content, reason in (
        (json.dumps({"results": []}), "unknown layout"),
        ('{"payload": [', "truncated JSON"),
    ):
        path = tmp_path / "disgenet.json"
        path.write_text(content)
        with pytest.raises(InputError, match=reason):
            take_in("disgenet", {"pages": path}, disgenet.Rules())


def gaf(term: str, qualifier: str = "involved_in", code: str = "IDA", aspect: str = "P") -> str:
    gene = f"UniProtKB\tP1\tA\t{qualifier}\t{term}\tPMID:1\t{code}\t\t{aspect}"
    return gene + "\tname\t\tprotein\ttaxon:9606\t2020\tX\t\t"


def test_go_propagates_over_parts(excerpts: Path, tmp_path: Path) -> None:
    path, obo = tmp_path / "goa_human.gaf", tmp_path / "go-basic.obo"
    obo.write_text(
        "format-version: 1.2\n\n[Term]\nid: GO:1\nname: whole\n\n[Term]\nid: GO:2\nname: part\n"
        "relationship: part_of GO:1 ! whole\nrelationship: regulates GO:3\n\n[Term]\nid: GO:3\nname: other\n"
    )
    rows = [gaf("GO:2"), gaf("GO:3", "NOT|involved_in"), gaf("GO:3", code="IEP"), gaf("GO:3", aspect="F")]
    path.write_text("!gaf-version: 2.2\n!date-generated: 2026-01-01\n" + "\n".join(rows) + "\n")
    intake = take_in("go", {"annotations": path, "ontology": obo}, go.Rules())
    found = {(link.term_id, link.evidence) for link in intake.associations}
    assert found == {("GO:2", "IDA"), ("GO:1", "propagated")}
    assert intake.terms == {"GO:1": ("whole", ()), "GO:2": ("part", ("GO:1",))}
    assert intake.release == "2026-01-01"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("!gaf-version: 3.0\n" + gaf("GO:1"), "gaf-version 3.0"),
        (gaf("GO:1"), r"gaf-version \(none\)"),
        ("!gaf-version: 2.2\n" + gaf("GO:1")[:-5], "GAF has 17"),
        ("!gaf-version: 2.2\n", "no annotation"),
    ],
)
def test_go_refuses(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "goa_human.gaf"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        take_in("go", {"annotations": path}, go.Rules())


def test_kegg_in_either_order(tmp_path: Path) -> None:
    links, names = tmp_path / "kegg_link_hsa_pathway.txt", tmp_path / "kegg_list_pathway_hsa.txt"
    names.write_text("hsa00010\tGlycolysis / Gluconeogenesis - Homo sapiens (human)\nhsa99999\tother\n")
    for content in ("path:hsa00010\thsa:10\npath:hsa01100\thsa:10\n", "hsa:10\tpath:hsa00010\n"):
        links.write_text(content)
        intake = take_in("kegg", {"links": links, "names": names}, kegg.Rules())
        assert pairs(intake) == {("NCBI:10", "hsa00010")}
        assert intake.terms == {"hsa00010": ("Glycolysis / Gluconeogenesis", ())}
    links.write_text("map00010\tko:K00001\n")
    with pytest.raises(InputError, match="unknown layout of KEGG's links"):
        take_in("kegg", {"links": links}, kegg.Rules())


def test_reactome_knows_which_pathway_lies_in_which(tmp_path: Path) -> None:
    sets, pairs_file = tmp_path / "ReactomePathways.gmt", tmp_path / "ReactomePathwaysRelation.txt"
    sets.write_text("Whole\tR-HSA-1\tA\tB\nPart\tR-HSA-2\tA\n")
    pairs_file.write_text("R-HSA-1\tR-HSA-2\nR-MMU-1\tR-MMU-2\nR-HSA-9\tR-HSA-2\n")
    intake = take_in("reactome", {"sets": sets, "hierarchy": pairs_file}, gmt.Rules())
    assert intake.terms == {"R-HSA-1": ("Whole", ()), "R-HSA-2": ("Part", ("R-HSA-1",))}
    pairs_file.write_text("parent,child\n")
    with pytest.raises(InputError, match="unknown layout of Reactome's hierarchy"):
        take_in("reactome", {"sets": sets, "hierarchy": pairs_file}, gmt.Rules())
