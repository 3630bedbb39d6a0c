"""Names of features from their evidence."""

from __future__ import annotations

import math

import pytest

from engine.interpret.enrichment.labels import LONGEST, Evidence, clipped, from_template, readable


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("HALLMARK_TNFA_SIGNALING_VIA_NFKB", "TNFA signaling via NFKB"),
        ("HALLMARK_INTERFERON_GAMMA_RESPONSE", "interferon gamma response"),
        ("GOBP_T_CELL_ACTIVATION", "T cell activation"),
        ("antigen processing and presentation (GO:0019882)", "antigen processing and presentation"),
        ("MHC class II antigen presentation", "MHC class II antigen presentation"),
    ],
)
def test_terms_are_made_readable(term: str, name: str) -> None:
    assert readable(term) == name


def test_a_term_names_the_feature_and_chance_lowers_confidence() -> None:
    evidence = Evidence(
        ("CD3D",), term="HALLMARK_HYPOXIA", q=1e-9, null_share=0.05, cell_label="NK", auroc=0.9
    )
    label = from_template(evidence, 0.05)
    assert label.name == "hypoxia in NK"
    assert label.basis == "term+cells"
    assert label.made_by == "template"
    common = Evidence(("CD3D",), term="HALLMARK_HYPOXIA", q=1e-9, null_share=0.9, cell_label="NK", auroc=0.9)
    assert 0 < from_template(common, 0.05).confidence < label.confidence < 1


def test_without_terms_genes_speak_and_confidence_is_low() -> None:
    assert from_template(Evidence(("LYZ", "CST3", "FTL", "FTH1"), entropy=6.0), 0.05).name == "LYZ, CST3, FTL"
    single = from_template(Evidence(("LYZ", "CST3"), entropy=0.2), 0.05)
    assert (single.name, single.basis, single.confidence) == ("LYZ alone", "gene", 0.0)
    assert from_template(Evidence(()), 0.05).name == "silent"
    unchecked = from_template(Evidence(("A",), term="x", q=0.0, null_share=math.nan), 0.05)
    assert unchecked.confidence == pytest.approx(0.35)


def test_names_are_one_short_line() -> None:
    assert clipped("a\n\tb\x00c") == "a b c"
    assert len(clipped("long " * 50)) == LONGEST
