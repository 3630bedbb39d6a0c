"""ClinVar's rules on rows made for them; real rows are in test_golden_pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases import clinvar
from engine.interpret.databases.intake import Intake
from storage.errors import InputError
from tests.interpret.databases.conftest import pairs, take_in

COLUMNS = [
    "#AlleleID",
    "GeneSymbol",
    "HGNC_ID",
    "ClinicalSignificance",
    "ReviewStatus",
    "PhenotypeIDS",
    "PhenotypeList",
    "Assembly",
    "SomaticClinicalImpact",
]
TWO_STARS = "criteria provided, multiple submitters, no conflicts"


def variant(allele: int, **other: str) -> str:
    values = {
        "GeneSymbol": "BRCA1",
        "HGNC_ID": "HGNC:1100",
        "ClinicalSignificance": "Pathogenic",
        "ReviewStatus": TWO_STARS,
        "PhenotypeIDS": "MONDO:MONDO:0011450,OMIM:604370",
        "PhenotypeList": "Breast cancer",
        "Assembly": "GRCh38",
        "SomaticClinicalImpact": "-",
    } | other
    return "\t".join([str(allele), *values.values()])


def read(tmp_path: Path, rows: list[str], rules: clinvar.Rules | None = None) -> Intake:
    path = tmp_path / "variant_summary.txt"
    path.write_text("\n".join(["\t".join(COLUMNS), *rows]) + "\n")
    return take_in("clinvar", {"summary": path}, rules or clinvar.Rules())


def test_a_pair_needs_two_alleles_not_two_rows(tmp_path: Path) -> None:
    rows = [variant(1), variant(1, Assembly="GRCh37"), variant(2, GeneSymbol="TP53", HGNC_ID="HGNC:11998")]
    assert not read(tmp_path, rows).associations
    intake = read(tmp_path, [*rows, variant(3)])
    assert pairs(intake) == {("BRCA1", "MONDO:0011450")}
    ((score, _),) = intake.associations.values()
    assert score == 2
    assert intake.dropped["pair with fewer than 2 variants"] == 1


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ({"ClinicalSignificance": "Conflicting classifications of pathogenicity"}, set()),
        ({"ClinicalSignificance": "Pathogenic/Likely pathogenic; risk factor"}, {"MONDO:0011450"}),
        ({"ClinicalSignificance": "Likely pathogenic, low penetrance"}, {"MONDO:0011450"}),
        ({"ReviewStatus": "criteria provided, single submitter"}, set()),
        ({"ReviewStatus": "practice guideline"}, {"MONDO:0011450"}),
        ({"PhenotypeList": "not provided"}, set()),
        ({"PhenotypeList": "12 conditions", "PhenotypeIDS": "12 conditions"}, set()),
        ({"PhenotypeIDS": "MedGen:C1,Orphanet:5,OMIM:7"}, {"OMIM:7"}),
        ({"PhenotypeIDS": "MedGen:C1|Orphanet:5", "PhenotypeList": "one|two"}, {"MedGen:C1", "ORPHA:5"}),
        ({"PhenotypeIDS": "Human Phenotype Ontology:HP:0001638"}, set()),
        ({"GeneSymbol": "subset of 12 genes: A, B"}, set()),
        ({"GeneSymbol": "A;B;C;D;E;F"}, set()),
        ({"GeneSymbol": "-"}, set()),
    ],
)
def test_which_variants_and_conditions_count(tmp_path: Path, other: dict[str, str], kept: set[str]) -> None:
    intake = read(tmp_path, [variant(1, **other)], clinvar.Rules(variants=1))
    assert {association.term_id for association in intake.associations} == kept


def test_names_go_with_their_conditions(tmp_path: Path) -> None:
    ids, names = "MONDO:MONDO:1;MONDO:MONDO:2||MONDO:MONDO:3", "one;two|nameless|three"
    intake = read(tmp_path, [variant(1, PhenotypeIDS=ids, PhenotypeList=names)], clinvar.Rules(variants=1))
    assert {term: named.name for term, named in intake.terms.items()} == {
        "MONDO:1": "one",
        "MONDO:2": "two",
        "MONDO:3": "three",
    }


def test_another_vcf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clinvar.vcf"
    path.write_text("##fileformat=VCFv4.1\n#CHROM\tPOS\tID\tINFO\n1\t5\t7\tDP=3\n")
    with pytest.raises(InputError, match="no variant has CLNSIG"):
        take_in("clinvar", {"vcf": path}, clinvar.Rules())
