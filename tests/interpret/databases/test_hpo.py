"""HPO: which diseases count, broader terms, terms that moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases import hpo
from storage.errors import InputError
from tests.interpret.databases.conftest import pairs, take_in

OBO = """format-version: 1.2
data-version: hp/releases/2025-05-06

[Term]
id: HP:0000001
name: All

[Term]
id: HP:0000118
name: Phenotypic abnormality
is_a: HP:0000001 ! All

[Term]
id: HP:0000478
name: Abnormality of the eye
is_a: HP:0000118 {source="x"} ! Phenotypic abnormality

[Term]
id: HP:0000504
name: Abnormality of vision
alt_id: HP:0007860
is_a: HP:0000478

[Term]
id: HP:0000006
name: Autosomal dominant
is_a: HP:0000001

[Term]
id: HP:0000999
name: obsolete eye
is_obsolete: true
replaced_by: HP:0000478

[Typedef]
id: part_of
name: part of
"""
GENES = (
    "ncbi_gene_id\tgene_symbol\thpo_id\thpo_name\tfrequency\tdisease_id\n"
    "1\tA\tHP:0007860\told vision\t-\tOMIM:1\n"
    "1\tA\tHP:0000006\tdominant\t-\tOMIM:1\n"
    "2\tB\tHP:0000999\tobsolete eye\t-\tOMIM:2\n"
    "2\tB\tHP:9999999\tunknown\t-\tOMIM:2\n"
)
DISEASES = (
    "ncbi_gene_id\tgene_symbol\tassociation_type\tdisease_id\tsource\n"
    "NCBIGene:1\tA\tMENDELIAN\tOMIM:1\tx\nNCBIGene:2\tB\tPOLYGENIC\tOMIM:2\tx\n"
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "annotated": ("genes_to_phenotype.txt", GENES),
        "diseases": ("genes_to_disease.txt", DISEASES),
        "ontology": ("hp.obo", OBO),
    }
    for name, content in contents.values():
        (tmp_path / name).write_text(content)
    return {role: tmp_path / name for role, (name, _) in contents.items()}


def test_only_diseases_the_gene_causes_alone(files: dict[str, Path]) -> None:
    intake = take_in("hpo", files, hpo.Rules())
    assert pairs(intake) == {("A", "HP:0000504"), ("A", "HP:0000478"), ("A", "HP:0000118")}
    evidence = {link.term_id: link.evidence for link in intake.associations}
    assert evidence == {"HP:0000504": "direct", "HP:0000478": "propagated", "HP:0000118": "propagated"}
    assert intake.terms["HP:0000504"] == ("Abnormality of vision", ("HP:0000478",))
    assert intake.release == "2025-05-06"
    assert intake.dropped == {"disease not MENDELIAN for the gene": 2, "term not below HP:0000118": 1}


def test_without_the_diseases_all_count_and_that_is_said(files: dict[str, Path]) -> None:
    del files["diseases"]
    intake = take_in("hpo", files, hpo.Rules())
    assert ("B", "HP:0000478") in pairs(intake)
    assert "polygenic diseases count too" in intake.notes[0]
    assert intake.dropped["term not in hp.obo"] == 1


def test_without_the_ontology_hpos_own_propagation_is_taken(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "phenotype_to_genes.txt"
    path.write_text(
        "hpo_id\thpo_name\tncbi_gene_id\tgene_symbol\tdisease_id\nHP:0000478\teye\t1\tA\tOMIM:1\n"
    )
    del files["ontology"]
    intake = take_in("hpo", files | {"propagated": path}, hpo.Rules())
    assert {(link.gene[-1], link.term_id, link.evidence) for link in intake.associations} == {
        ("A", "HP:0000478", "propagated")
    }
    assert "no hp.obo" in intake.notes[0]


def test_the_header_line_of_2021_is_not_believed(excerpts: Path) -> None:
    path = excerpts / "hpo" / "phenotype_to_genes.legacy7col.txt"
    intake = take_in("hpo", {"propagated": path}, hpo.Rules(mendelian=False))
    assert ("TP53", "HP:0000135") in pairs(intake)
    assert intake.terms["HP:0000135"].name == "Hypogonadism"
    assert intake.dropped["row repeated in the file"] == 8


def test_a_circle_of_terms_is_refused(files: dict[str, Path]) -> None:
    files["ontology"].write_text(OBO.replace("name: All", "name: All\nis_a: HP:0000504"))
    with pytest.raises(InputError, match="its own ancestor"):
        take_in("hpo", files, hpo.Rules())
