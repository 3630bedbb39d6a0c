"""A cluster's evidence put into words: a title of at most eight words, and a caption that cites it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from engine.retrieval.annotation.clusters import Evidence

MOST_WORDS = 8
_GENES_IN_TITLE, _GENES_IN_CAPTION, _TERMS_IN_CAPTION, _COLUMNS_IN_CAPTION = 3, 5, 3, 3
UNCLEAR = "Unclear cell type"


def title(evidence: Evidence) -> str:
    """The label, where it is certain enough, and the genes that stand out: "B cell: CD79A, MS4A1"."""
    words = (evidence.label if evidence.is_named else UNCLEAR).split()[:MOST_WORDS]
    genes = [entry["gene"] for entry in evidence.genes[: min(_GENES_IN_TITLE, MOST_WORDS - len(words))]]
    return " ".join(words) + (f": {', '.join(genes)}" if genes else "")


def caption(evidence: Evidence) -> str:
    """Sentences, each with the number of the evidence it states: [E1] labels, [E2] genes, [E3] terms, [E4]
    what is known of the cells, [E5] typical cells.
    """
    certain = "Called" if evidence.is_named else "No label is certain enough; the closest is"
    called = f"{certain} {evidence.label} (probability {evidence.confidence:.2f}"
    sentences = [
        f"{evidence.n_cells:,} cells. {called}; {evidence.agreement:.0%} of the cells by themselves) [E1]."
    ]
    if evidence.genes:
        genes = ", ".join(
            f"{each['gene']} ({each['share_of_cells']:.0%} of them, {each['share_of_others']:.0%} elsewhere)"
            for each in evidence.genes[:_GENES_IN_CAPTION]
        )
        sentences.append(f"Higher than in other cells: {genes} [E2].")
    if evidence.terms:
        terms = ", ".join(
            f"{ranked[0][0]} ({library})" for library, ranked in evidence.terms[:_TERMS_IN_CAPTION]
        )
        sentences.append(f"Closest terms: {terms} [E3].")
    known = list(evidence.composition.items())[:_COLUMNS_IN_CAPTION]
    if known:
        stated = "; ".join(f"{name} {shares[0][0]} {shares[0][1]:.0%}" for name, shares in known)
        sentences.append(f"Known of them: {stated} [E4].")
    if evidence.typical_cells:
        sentences.append(f"Most typical: {', '.join(evidence.typical_cells)} [E5].")
    return " ".join(sentences)


def as_json(evidence: Evidence) -> dict[str, Any]:
    """Title, caption and evidence of one cluster."""
    return {"title": title(evidence), "caption": caption(evidence), **asdict(evidence)}
