"""Short names for features from their evidence: the best term, the best cell label, the first genes.

A name is a suggestion. It always comes with a confidence, what it rests on and who made it, and none of them
is a probability that the feature means this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

BY_TEMPLATE = "template"
LONGEST = 80
TERM_WEIGHT, CELLS_WEIGHT = 0.7, 0.5
"""Confidence that a perfect term, and a perfect cell label, would give by itself. Lists of genes say more
about a feature's meaning than the kind of cells, of which most features have some."""
UNCHECKED = 0.5
"""Factor for a term that was not compared with permutations."""
SINGLE_GENE_BITS = 1.0
UBIQUITOUS_DENSITY, UBIQUITOUS = 0.1, 0.5
"""A feature that fires on more of the tokens is rarely about one thing: its confidence is halved."""
_PREFIX = re.compile(
    r"^(HALLMARK|REACTOME|KEGG|KEGG_MEDICUS|BIOCARTA|PID|WP|GOBP|GOCC|GOMF|GO|HP)_(?=[A-Z0-9])"
)

_ID_BEHIND = re.compile(r"\s*\((GO|HP|MONDO|R-HSA|WP|DOID)[:-]?\d+\)$")


@dataclass(frozen=True)
class Evidence:
    """What is known of one feature. q, null_share, auroc: NaN where there is none."""

    genes: tuple[str, ...]
    term: str = ""
    term_id: str = ""
    source: str = ""
    q: float = math.nan
    null_share: float = math.nan
    groups: int = 0
    cell_label: str = ""
    auroc: float = math.nan
    entropy: float = math.nan
    density: float = 0.0
    terms: tuple[str, ...] = ()
    """Names of further significant terms, best first."""


@dataclass(frozen=True)
class Label:
    """confidence: 0 to 1, an order and not a probability. basis: `term`, `cells`, `gene`, `genes`, joined by
    `+`. made_by: `template` or the name of a model."""

    name: str
    confidence: float
    basis: str
    made_by: str = BY_TEMPLATE


def from_template(evidence: Evidence, alpha: float) -> Label:
    """The name the evidence gives by itself."""
    parts, basis, doubt = [], [], 1.0
    if evidence.term:
        parts.append(readable(evidence.term))
        basis.append("term")
        doubt *= 1 - TERM_WEIGHT * _term_strength(evidence, alpha)
    if evidence.cell_label:
        parts.append(f"in {evidence.cell_label}" if parts else f"fires in {evidence.cell_label}")
        basis.append("cells")
        doubt *= 1 - CELLS_WEIGHT * max(0.0, 2 * evidence.auroc - 1)
    if not evidence.term and evidence.genes:
        single = evidence.entropy < SINGLE_GENE_BITS
        genes = evidence.genes[0] if single else ", ".join(evidence.genes[:3])
        parts.insert(0, f"{genes} alone" if single else genes)
        basis.insert(0, "gene" if single else "genes")
    name = clipped(" ".join(parts) if evidence.term else "; ".join(parts)) or "silent"
    confidence = (1 - doubt) * (UBIQUITOUS if evidence.density > UBIQUITOUS_DENSITY else 1.0)
    return Label(name, round(confidence, 3), "+".join(basis))


def _term_strength(evidence: Evidence, alpha: float) -> float:
    chance = UNCHECKED if math.isnan(evidence.null_share) else 1 - evidence.null_share
    return max(0.0, 1 - evidence.q / alpha) * chance


def readable(term: str) -> str:
    """`HALLMARK_TNFA_SIGNALING_VIA_NFKB` -> `TNFA signaling via NFKB`: underscores and collections away.

    Words with digits and the short ones among capitals stay, they are mostly symbols.
    """
    bare = _PREFIX.sub("", _ID_BEHIND.sub("", term))
    if "_" not in bare and not (bare != term and bare.isupper()):
        return bare
    words = [_word(word) for word in bare.replace("_", " ").split()]
    return " ".join(words)


_SMALL = frozenset(
    ["via", "of", "and", "the", "in", "to", "by", "up", "dn", "for", "on", "down", "bile", "acid", "cell"]
)
"""Short words of the collections that are no symbols."""


def _word(word: str) -> str:
    symbol = not word.isupper() or any(letter.isdigit() for letter in word) or len(word) <= 4
    return word if symbol and word.lower() not in _SMALL else word.lower()


def clipped(text: str) -> str:
    """On one line, without control characters, at most LONGEST long."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1].rstrip() + "…"


def evidence_of(
    feature: Mapping[str, Any],
    enriched: Mapping[str, Any],
    genes: tuple[str, ...],
    terms: tuple[str, ...],
    alpha: float,
) -> Evidence:
    """Of a row of the feature tables and its row of the enrichment's feature table.

    Only a significant best term, and a cell label with a rate up to alpha, are evidence.
    """
    has_term = int(enriched["n_terms"]) > 0
    fdr, auroc = feature.get("best_label_rank_fdr"), feature.get("best_label_auroc")
    has_label = _known(fdr) and _known(auroc) and float(fdr or 0) <= alpha and float(auroc or 0) > 0.5
    return Evidence(
        genes=genes,
        term=str(enriched["best_term"]) if has_term else "",
        term_id=str(enriched["best_term_id"]) if has_term else "",
        source=str(enriched["best_source"]) if has_term else "",
        q=float(enriched["best_q"]) if has_term else math.nan,
        null_share=float(enriched["best_null_share"]) if has_term else math.nan,
        groups=int(enriched["n_groups"]),
        cell_label=str(feature["best_label"]) if has_label else "",
        auroc=float(auroc) if has_label and auroc is not None else math.nan,
        entropy=float(feature.get("gene_entropy", math.nan)),
        density=float(feature.get("density", 0.0)),
        terms=terms,
    )


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value)
