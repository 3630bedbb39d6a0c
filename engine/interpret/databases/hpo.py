"""HPO: phenotypes of the diseases that a gene causes, and those diseases.

`genes_to_phenotype.txt` holds what was annotated; with `hp.obo` it is propagated to all broader phenotypes.
Files of 2021 and 2022 have no header but a `#Format` line, which names two columns in the wrong order.
`phenotype_to_genes.txt` is propagated by HPO already and stands in where there is no `hp.obo`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake
from engine.interpret.databases.ontologies import Ontology, read_obo
from storage.errors import InputError

ABNORMALITY = "HP:0000118"  # phenotypic abnormality; beside it stand inheritance, onset and frequency

_WANTED = ("ncbi_gene_id", "gene_symbol", "hpo_id", "hpo_name", "disease_id")
GENES_TO_PHENOTYPE = Format(
    "HPO's genes_to_phenotype",
    (
        Layout("6 columns (2023-)", _WANTED),
        Layout(
            "9 columns (2021-2022)",
            _WANTED,
            stated="#Format: entrez-gene-id<tab>entrez-gene-symbol<tab>HPO-Term-Name<tab>HPO-Term-ID<tab>"
            "Frequency-Raw<tab>Frequency-HPO<tab>Additional Info from G-D source<tab>G-D source<tab>"
            "disease-ID for link",
            # The rows have the id before the name, whatever the line says.
            header=(*_WANTED[:4], "frequency", "frequency_hpo", "info", "source", "disease_id"),
        ),
    ),
    repeats="few",
)
PHENOTYPE_TO_GENES = Format(
    "HPO's phenotype_to_genes",
    (
        Layout("5 columns (2023-)", _WANTED),
        Layout(
            "7 columns (2021-2022)",
            _WANTED,
            stated="#Format: HPO-id<tab>HPO label<tab>entrez-gene-id<tab>entrez-gene-symbol<tab>Additional "
            "Info from G-D source<tab>G-D source<tab>disease-ID for link",
            header=("hpo_id", "hpo_name", "ncbi_gene_id", "gene_symbol", "info", "source", "disease_id"),
        ),
    ),
    repeats="few",
)
GENES_TO_DISEASE = Format(
    "HPO's genes_to_disease",
    (
        Layout(
            "5 columns (2023-)", ("ncbi_gene_id", "gene_symbol", "association_type", "disease_id", "source")
        ),
    ),
    repeats="few",
)


@dataclass(frozen=True)
class Rules:
    """mendelian: only phenotypes of diseases the gene causes alone, by `genes_to_disease.txt`: a gene of a
    polygenic disease need not cause each of its phenotypes. propagate: to all broader terms below `root`.
    """

    mendelian: bool = True
    propagate: bool = True
    root: str = ABNORMALITY


@dataclass(frozen=True)
class DiseaseRules:
    types: tuple[str, ...] = ("MENDELIAN",)


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    """Evidence is `direct` for what was annotated and `propagated` for what follows from it."""
    if "annotated" not in files and "propagated" not in files:
        raise InputError("hpo: neither genes_to_phenotype.txt nor phenotype_to_genes.txt is there.")
    ontology = read_obo(files["ontology"][0], prefix="HP:") if "ontology" in files else None
    if ontology is None:
        intake.notes.append("hpo: no hp.obo, so terms have no parents and are not propagated")
    else:
        intake.release = ontology.version
    diseases = _mendelian(files, rules, intake)
    if "annotated" in files and (ontology is not None or "propagated" not in files):
        path, table, how = files["annotated"][0], GENES_TO_PHENOTYPE, "direct"
    else:
        path, table, how = files["propagated"][0], PHENOTYPE_TO_GENES, "propagated"
    for ncbi, symbol, term, name, disease in read_rows(path, table, intake):
        if diseases is not None and (symbol, disease) not in diseases:
            intake.dropped["disease not MENDELIAN for the gene"] += 1
            continue
        gene = (f"NCBI:{ncbi.removeprefix('NCBIGene:')}", symbol)
        if ontology is None or not rules.propagate:
            intake.keep(gene, term, how)
            intake.name(term, name)
            continue
        _propagate(gene, term, ontology, rules.root, intake)
    if ontology is not None:
        ontology.name_terms(intake)


def _propagate(gene: tuple[str, ...], term: str, ontology: Ontology, root: str, intake: Intake) -> None:
    current = ontology.resolve(term)
    if not current:
        intake.dropped["term not in hp.obo"] += 1
    elif root not in ontology.above(current):
        intake.dropped[f"term not below {root}"] += 1
    else:
        intake.keep(gene, current, "direct", raw_term=term)
        for above in ontology.above(current) - {current}:
            if root in ontology.above(above):
                intake.keep(gene, above, "propagated")


def _mendelian(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> set[tuple[str, str]] | None:
    """(symbol, disease) of genes that cause the disease alone; None when all count."""
    if not rules.mendelian:
        return None
    if "diseases" not in files:
        intake.notes.append("hpo: no genes_to_disease.txt, so phenotypes of polygenic diseases count too")
        return None
    rows = read_rows(files["diseases"][0], GENES_TO_DISEASE, intake)
    return {(symbol, disease) for _, symbol, kind, disease, _ in rows if kind == "MENDELIAN"}


def read_diseases(files: Mapping[str, list[Path]], rules: DiseaseRules, intake: Intake) -> None:
    """`genes_to_disease.txt`: OMIM and Orphanet diseases of genes, with the type of their association."""
    for ncbi, symbol, kind, disease, _ in read_rows(files["diseases"][0], GENES_TO_DISEASE, intake):
        if kind not in rules.types:
            intake.dropped[f"type {kind}"] += 1
            continue
        intake.keep((f"NCBI:{ncbi.removeprefix('NCBIGene:')}", symbol), disease, kind)
        intake.name(disease, "")
