"""GenCC, Orphanet, Monarch: what their rules leave out, on rows made for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases import gencc, monarch, orphanet
from storage.errors import InputError
from tests.interpret.databases.conftest import pairs, take_in

GENCC = "uuid,gene_curie,gene_symbol,disease_curie,disease_title,classification_title,submitted_run_date\n"
GENCC_ROWS = (
    'u1,HGNC:1,A,MONDO:1,one,Strong,"2026-01-05\n12:00"\n'
    "u2,HGNC:1,A,MONDO:2,two,Definitive,2026-09-01\n"
    "u3,HGNC:1,A,MONDO:2,two,Refuted Evidence,2026-09-01\n"
    "u4,HGNC:1,A,MONDO:3,three,Supportive,2026-09-01\n"
)


def test_gencc_lists_what_is_disputed(tmp_path: Path) -> None:
    path = tmp_path / "gencc-submissions.csv"
    path.write_text(GENCC + GENCC_ROWS)
    intake = take_in("gencc", {"submissions": path}, gencc.Rules())
    assert pairs(intake) == {("A", "MONDO:1")}
    assert intake.conflicts == ["A, MONDO:2: Definitive, disputed or refuted by others"]
    assert intake.dropped["classification Supportive"] == 1
    assert intake.release == "2026-09-01"
    with_conflicts = take_in("gencc", {"submissions": path}, gencc.Rules(without_conflicts=False))
    assert pairs(with_conflicts) == {("A", "MONDO:1"), ("A", "MONDO:2")}


def test_gencc_rows_have_a_key(tmp_path: Path) -> None:
    path = tmp_path / "gencc-submissions.csv"
    path.write_text(GENCC + GENCC_ROWS + GENCC_ROWS)
    with pytest.raises(InputError, match="4 of 8 rows are there twice"):
        take_in("gencc", {"submissions": path}, gencc.Rules())


def orphanet_xml(code: str = "OrphaCode", kind: str = orphanet.CAUSAL[0], status: str = "Assessed") -> str:
    return (
        f'<?xml version="1.0" encoding="ISO-8859-1"?><JDBOR date="2020-01-02 03:04"><DisorderList><Disorder>'
        f"<{code}>7</{code}><Name>Maladie rare n\u00e9e</Name><DisorderGeneAssociationList>"
        "<DisorderGeneAssociation><Gene><Symbol>A</Symbol><ExternalReferenceList><ExternalReference>"
        "<Source>HGNC</Source><Reference>1</Reference></ExternalReference></ExternalReferenceList></Gene>"
        f"<DisorderGeneAssociationType><Name>{kind}</Name></DisorderGeneAssociationType>"
        f"<DisorderGeneAssociationStatus><Name>{status}</Name></DisorderGeneAssociationStatus>"
        "</DisorderGeneAssociation></DisorderGeneAssociationList></Disorder></DisorderList></JDBOR>"
    )


def read_orphanet(tmp_path: Path, content: bytes) -> set[tuple[str, str]]:
    path = tmp_path / "en_product6.xml"
    path.write_bytes(content)
    intake = take_in("orphanet", {"genes": path}, orphanet.Rules())
    assert intake.release == "2020-01-02"
    assert all(term.name == "Maladie rare n\u00e9e" for term in intake.terms.values())
    return {(association.gene[0], association.term_id) for association in intake.associations}


@pytest.mark.parametrize(
    ("xml", "kept"),
    [
        (orphanet_xml(), {("HGNC:1", "ORPHA:7")}),
        (orphanet_xml(code="OrphaNumber"), {("HGNC:1", "ORPHA:7")}),
        (orphanet_xml(kind="Candidate gene tested in"), set()),
        (orphanet_xml(status="Not yet assessed"), set()),
    ],
)
def test_orphanet(tmp_path: Path, xml: str, kept: set[tuple[str, str]]) -> None:
    assert read_orphanet(tmp_path, xml.encode("latin-1")) == kept


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (orphanet_xml()[:-30], "damaged or truncated XML"),
        (orphanet_xml().replace("JDBOR", "Export"), "root element Export"),
        (orphanet_xml(code="Number"), "neither OrphaCode nor OrphaNumber"),
        ('<?xml version="1.0"?><JDBOR date=""><DisorderList/></JDBOR>', "no DisorderGeneAssociation"),
        ('<!DOCTYPE x [<!ENTITY a "aa">]>' + orphanet_xml()[44:], "document type"),
    ],
)
def test_orphanet_refuses(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_orphanet(tmp_path, content.encode("latin-1"))


def test_monarchs_association_table(tmp_path: Path) -> None:
    path = tmp_path / "causal_gene_to_disease_association.all.tsv"
    human = "biolink:Gene\tNCBITaxon:9606"
    path.write_text(
        "subject\tsubject_label\tsubject_category\tsubject_taxon\tnegated\tpredicate\tobject\tobject_label\n"
        f"HGNC:1\tA\t{human}\t\tbiolink:causes\tMONDO:1\tone\n"
        f"HGNC:2\tB\t{human}\tTrue\tbiolink:causes\tMONDO:1\tone\n"
        "MGI:3\tC\tbiolink:Gene\tNCBITaxon:10090\t\tbiolink:causes\tMONDO:1\tone\n"
        "MONDO:4\tD\tbiolink:Disease\t\t\tbiolink:causes\tMONDO:1\tone\n"
        f"HGNC:5\tE\t{human}\t\tbiolink:contributes_to\tMONDO:2\ttwo\n"
    )
    intake = take_in("monarch", {"causal": path}, monarch.Rules())
    assert pairs(intake) == {("A", "MONDO:1"), ("E", "MONDO:2")}
    assert pairs(take_in("monarch", {"causal": path}, monarch.Rules(("biolink:causes",)))) == {
        ("A", "MONDO:1")
    }
    assert intake.dropped == {"negated": 1, "subject not a human gene": 2}
