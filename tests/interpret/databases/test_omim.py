"""OMIM on rows made by hand: the real genemap2 may not be passed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases import omim
from storage.errors import InputError
from tests.interpret.databases.conftest import pairs, take_in

HEAD = "# Copyright (c) nobody\t\t\t\n# Generated: 2025-01-02\t\t\t\n# See the end\t\t\t\n"
NEW = "# Chromosome\tMIM Number\tApproved Gene Symbol\tEntrez Gene ID\tEnsembl Gene ID\tPhenotypes\n"
PHENOTYPES = {
    "Some disease 1, 615349 (3), Autosomal recessive": ("OMIM:615349", "molecular basis known"),
    "{Some disease, susceptibility to}, 100001 (3), Multifactorial": ("OMIM:100001", "susceptibility"),
    "?Rare disease, 100002 (3)": None,
    "{?Rare susceptibility}, 100003 (3)": None,
    "[Blood group], 100004 (3)": None,
    "Mapped disease, 100005 (2)": None,
    "Disease of the gene itself (3)": None,
    "Disease, type 2, with commas, 100006 (3), X-linked": ("OMIM:100006", "molecular basis known"),
}


def genemap(tmp_path: Path, header: str = NEW) -> Path:
    path = tmp_path / "genemap2.txt"
    rows = [f"1\t600000\tGENE1\t11\tENSG1\t{'; '.join(PHENOTYPES)}", "1\t600001\t\t\t\tX, 100007 (3)"]
    path.write_text(HEAD + header + "\n".join(rows) + "\n# Phenotype Mapping key\n# 1 - ...\n")
    return path


@pytest.mark.parametrize("header", [NEW, NEW.replace("Approved Gene Symbol", "Approved Symbol")])
def test_genemap(tmp_path: Path, header: str) -> None:
    intake = take_in("omim", {"genemap": genemap(tmp_path, header)}, omim.Rules())
    found = {(link.term_id, link.evidence) for link in intake.associations}
    assert found == {expected for expected in PHENOTYPES.values() if expected}
    assert {link.gene for link in intake.associations} == {("ENSG1", "NCBI:11", "GENE1")}
    assert intake.terms["OMIM:100006"].name == "Disease, type 2, with commas"
    assert intake.release == "2025-01-02"
    assert intake.dropped["no approved symbol"] == 1
    assert intake.dropped["provisional"] == 2


def test_phenotypes_by_mondo(tmp_path: Path) -> None:
    mondo = tmp_path / "mondo.obo"
    mondo.write_text(
        "format-version: 1.2\n\n[Term]\nid: MONDO:1\nname: one\nxref: OMIM:615349\n\n"
        "[Term]\nid: MONDO:2\nname: two\nxref: OMIM:100001\n\n"
        "[Term]\nid: MONDO:3\nname: three\nxref: OMIM:100001\n"
    )
    files = {"genemap": genemap(tmp_path), "mondo": mondo}
    intake = take_in("omim", files, omim.Rules(susceptibility=False))
    assert pairs(intake) == {("GENE1", "MONDO:1"), ("GENE1", "OMIM:100006")}
    assert "MONDO:2" not in {link.term_id for link in take_in("omim", files, omim.Rules()).associations}


def test_the_open_substitute(tmp_path: Path) -> None:
    path = tmp_path / "mim2gene_medgen"
    path.write_text(
        "#MIM number\tGeneID\ttype\tSource\tMedGenCUI\tComment\n"
        "100050\t11\tphenotype\tGeneMap\tC1\t-\n"
        "100051\t12\tphenotype\tGeneMap\tC2\tsusceptibility\n"
        "100052\t13\tphenotype\tGeneMap\tC3\tnondisease\n"
        "100053\t-\tphenotype\t-\tC4\t-\n"
        "600000\t11\tgene\t-\t-\t-\n"
    )
    intake = take_in("omim", {"medgen": path}, omim.Rules())
    assert pairs(intake) == {("NCBI:11", "OMIM:100050"), ("NCBI:12", "OMIM:100051")}


def test_another_header_is_refused(tmp_path: Path) -> None:
    path = genemap(tmp_path, NEW.replace("Phenotypes", "Traits"))
    with pytest.raises(InputError, match="unknown layout of OMIM's genemap2"):
        take_in("omim", {"genemap": path}, omim.Rules())
