"""Ranked lists: pre-ranked GSEA (gseapy) of some features, without a cut after so many genes.

The ranking is the score of every gene that the feature tables list; the other genes of the background, on
which the feature was weaker or never fired, share the lowest place. With `features --top-genes` as large as
the vocabulary it is a ranking of all genes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from engine.interpret.enrichment.study import Study
from storage.errors import InputError
from storage.features import FeatureTables

PERMUTATIONS = 1000
COLUMNS = ["feature", "source", "term_id", "term", "es", "nes", "p", "q", "ranked_genes", "leading_genes"]
_TYPES = {"feature": np.int64, "ranked_genes": np.int64, **dict.fromkeys(("es", "nes", "p", "q"), np.float64)}


def require_gseapy() -> None:
    """Raises InputError with what to install."""
    try:
        import gseapy  # type: ignore[import-untyped]  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError("--ranked needs gseapy: pip install 'syncytium[databases]'") from error


def ranked_table(
    study: Study, tables: FeatureTables, gene_key: str, features: Sequence[int], seed: int
) -> pd.DataFrame:
    """One row per feature, source and term: enrichment scores with gseapy's p and false discovery rate, which
    are of one feature and one source each. Raises InputError for a feature that lists no gene.
    """
    parts = [part for feature in features for part in _of_feature(study, tables, gene_key, feature, seed)]
    filled = [part for part in parts if len(part)]
    if not filled:
        return pd.DataFrame({name: pd.Series(dtype=_TYPES.get(name, object)) for name in COLUMNS})
    return pd.concat(filled, ignore_index=True)[COLUMNS]


def _of_feature(
    study: Study, tables: FeatureTables, gene_key: str, feature: int, seed: int
) -> Iterator[pd.DataFrame]:
    import gseapy

    ranking = _ranking(study, tables, gene_key, feature)
    for terms in study.sources:
        genes = np.array(study.background.genes, object)
        member_TG = terms.member_GT.T.tocsr()
        sets = {
            term_id: genes[member_TG[row].indices].tolist() for row, term_id in enumerate(terms.term_id_T)
        }
        found = gseapy.prerank(
            rnk=ranking,
            gene_sets=sets,
            min_size=1,
            max_size=len(genes),
            # By rank only: weighted by the score, genes that share the score 0 would count nothing, and a
            # single listed gene would make any set look perfect.
            weight=0,
            permutation_num=PERMUTATIONS,
            threads=1,
            seed=seed,
            outdir=None,
            verbose=False,
        ).res2d
        names = dict(zip(terms.term_id_T, terms.name_T, strict=True))
        yield pd.DataFrame(
            {
                "feature": feature,
                "source": terms.source,
                "term_id": found["Term"].astype(object),
                "term": found["Term"].map(names).astype(object),
                **{
                    ours: found[theirs].astype(np.float64)
                    for ours, theirs in {"es": "ES", "nes": "NES", "p": "NOM p-val", "q": "FDR q-val"}.items()
                },
                "ranked_genes": int((ranking > 0).sum()),
                "leading_genes": found["Lead_genes"].str.replace(";", "|").astype(object),
            }
        )


def _ranking(study: Study, tables: FeatureTables, gene_key: str, feature: int) -> pd.Series:
    """Score of every gene of the background, the strongest first."""
    top = tables.top_genes
    rows = top[top["feature"] == feature]
    if rows.empty:
        raise InputError(f"--ranked: feature {feature} lists no gene; it is silent or there is none.")
    column = rows["gene_id"].str.replace(r"\.\d+$", "", regex=True) if gene_key == "id" else rows["gene_name"]
    scores = dict(zip(reversed(column.tolist()), reversed(rows["score"].tolist()), strict=True))
    ranking = pd.Series({gene: scores.get(gene, 0.0) for gene in study.background.genes}, dtype=np.float64)
    return ranking.sort_values(ascending=False, kind="stable")
