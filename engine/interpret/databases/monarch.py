"""Monarch: gene-disease links put together from OMIM, ClinGen and Orphanet, diseases by Mondo.

Either the association tables (`causal_gene_to_disease_association.all.tsv`, `gene_disease.noncausal.tsv`), or
edges and nodes of the graph in KGX, which name no gene in the edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake

_WANTED = ("subject", "predicate", "object")
EDGES = Format(
    "Monarch's gene-disease links",
    (
        Layout(
            "association table",
            (*_WANTED, "subject_label", "subject_category", "subject_taxon", "negated", "object_label"),
        ),
        Layout("KGX edges with negation", (*_WANTED, "", "", "", "negated", "")),
        Layout("KGX edges", (*_WANTED, "", "", "", "", "")),
    ),
    repeats="few",
)
NODES = Format("Monarch's nodes", (Layout("KGX nodes", ("id", "name", "symbol", "category")),), repeats="few")


@dataclass(frozen=True)
class Rules:
    """predicates: kinds of links that count; each is kept as the evidence."""

    predicates: tuple[str, ...] = (
        "biolink:causes",
        "biolink:gene_associated_with_condition",
        "biolink:contributes_to",
    )


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    named = _names(files, intake)
    for path in [*files.get("causal", []), *files.get("noncausal", []), *files.get("edges", [])]:
        for gene, predicate, disease, label, category, _, negated, title in read_rows(path, EDGES, intake):
            reason = _reason(gene, predicate, disease, category, negated, rules)
            if reason:
                intake.dropped[reason] += 1
                continue
            intake.keep((gene, label or named.get(gene, "")), disease, predicate)
            intake.name(disease, title or named.get(disease, ""))


def _reason(gene: str, predicate: str, disease: str, category: str, negated: str, rules: Rules) -> str:
    """Why a link does not count; "" when it does."""
    if predicate not in rules.predicates:
        return f"predicate {predicate}"
    # Ids of human genes are HGNC's, so this is the species too.
    if not gene.startswith("HGNC:") or category not in ("", "biolink:Gene"):
        return "subject not a human gene"
    if not disease.startswith("MONDO:"):
        return "object not a disease"
    return "negated" if negated.lower() in ("true", "1") else ""


def _names(files: Mapping[str, list[Path]], intake: Intake) -> dict[str, str]:
    """Node -> symbol of a gene, name of a disease."""
    if "nodes" not in files:
        return {}
    rows = read_rows(files["nodes"][0], NODES, intake)
    return {node: symbol or name for node, name, symbol, _ in rows if node.startswith(("HGNC:", "MONDO:"))}
