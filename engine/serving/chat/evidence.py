"""What can be said about some cells, each piece with a number to cite and the cells it is about.

Everything a later answer may claim comes from here: genes against the rest, annotations, what the cells are
most like in words, features of an autoencoder, and whether they are of one kind at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from engine.serving.doors import Doors

Int64 = npt.NDArray[np.int64]
Kind = Literal["genes", "annotations", "phrases", "mixture", "features", "hits"]

_GENES, _PHRASES, _FEATURES = 15, 5, 5
# Standard deviations between the halves of a split beyond which cells are called a mixture: one round cloud
# has 2.7, cells of one type (pbmc3k) at most 3.4, two types from 4.2 on.
MIXED = 3.8
# An annotation is worth a sentence when it is this much more frequent here than among all cells.
_ENRICHED = 1.5
# A sentence may rest on an annotation that at least this share of the cells have.
_SHARE_TO_NAME = 0.2


class Evidence(BaseModel):
    """One piece. id: what `[E1]` in an answer cites. summary: a sentence by itself. cells: ranges of cells it
    is about, for a page to light up. facts: the numbers behind the sentence."""

    id: str
    kind: Kind
    selection: str
    summary: str
    cells: list[tuple[int, int]] = []
    facts: dict[str, Any] = {}


async def gather(
    doors: Doors, ids: Int64, name: str, first: int, against: Int64 | None = None
) -> list[Evidence]:
    """Evidence on the cells `ids`, called `name` in sentences; against others, or all other cells.

    first: number of the first piece.
    """
    pieces: list[Evidence] = []

    def add(kind: Kind, summary: str, facts: dict[str, Any]) -> None:
        number = f"E{first + len(pieces)}"
        pieces.append(Evidence(id=number, kind=kind, selection=name, summary=summary, facts=facts))

    rest = await doors.rest(ids) if against is None else against
    if doors.counts is not None and len(rest):
        found = await doors.counts.markers.remote(ids, rest, _GENES)
        if found["genes"]:
            add("genes", genes_sentence(found["genes"], name, against is not None), found)
    composition = await doors.cells.composition.remote(ids)
    if composition:
        add("annotations", annotations_sentence(composition, name), composition)
    if doors.phrases is not None:
        vector, _ = await doors.cells.mean.remote(ids)
        ranked = await doors.phrases.rank.remote(vector, _PHRASES, None)
        add("phrases", phrases_sentence(ranked["phrases"], name), ranked)
    split = await doors.cells.two_kinds.remote(ids)
    if split > MIXED:
        add(
            "mixture",
            f"{name} are a mixture: the halves of their best split lie {split:.1f} standard deviations apart",
            {"split": split},
        )
    if doors.features is not None:
        features = await doors.features.of_cells.remote(ids, _FEATURES)
        if features:
            add("features", features_sentence(features, name), {"features": features})
    return pieces


def genes_sentence(genes: Sequence[dict[str, Any]], name: str, is_comparison: bool) -> str:
    strongest = ", ".join(
        f"{g['gene']} (log2 fold {g['log2_fold']:.1f}, AUC {g['auc']:.2f})" for g in genes[:6]
    )
    others = "the other selection" if is_comparison else "the other cells"
    return f"{name} express {strongest} more than {others}"


def annotations_sentence(composition: dict[str, list[dict[str, Any]]], name: str) -> str:
    """The columns that set these cells apart, most first."""
    telling = []
    for column, values in composition.items():
        top = values[0] if values else None
        if top and top["share"] >= _ENRICHED * top["share_of_all"]:
            telling.append((top["share"] / max(top["share_of_all"], 1e-9), column, top))
    if not telling:
        return f"{name} have no annotation more often than other cells"
    telling.sort(key=lambda each: -each[0])
    parts = [
        f"{column} {top['value']} ({top['share']:.0%}, of all cells {top['share_of_all']:.0%})"
        for _, column, top in telling[:3]
    ]
    return f"{name} are annotated with {'; '.join(parts)}"


def phrases_sentence(phrases: Sequence[dict[str, Any]], name: str) -> str:
    parts = [f"{p['term']!r} (score {p['score']:.2f}, {p['probability']:.0%} among all)" for p in phrases[:3]]
    return f"of the phrases of the bank, {name} are most like {', '.join(parts)}"


def features_sentence(features: Sequence[dict[str, Any]], name: str) -> str:
    parts = [
        f"feature {f['feature']} ({f['top_cells_here']} of its {f['top_cells']} strongest cells; "
        f"{', '.join(f['genes'][:4])})"
        for f in features[:3]
    ]
    return f"{name} are where these features of the autoencoder are strongest: {'; '.join(parts)}"


def hits_evidence(text: str, found: dict[str, Any], number: int) -> Evidence:
    """What a search in words found."""
    hits = found["hits"]
    scores = f"with scores from {hits[-1]['score']:.2f} to {hits[0]['score']:.2f}" if hits else ""
    return Evidence(
        id=f"E{number}",
        kind="hits",
        selection="the cells found",
        summary=f"{len(hits)} cells are nearest to {text!r}, {scores}" if hits else f"no cell for {text!r}",
        cells=[(hit["cell"], hit["cell"] + 1) for hit in sorted(hits, key=lambda hit: hit["cell"])],
        facts={"query": text, "n_passing": found["n_passing"], "hits": hits[:10]},
    )


def genes_of(pieces: Sequence[Evidence]) -> set[str]:
    """Genes that an answer may name without a mark."""
    genes = {gene["gene"] for piece in pieces if piece.kind == "genes" for gene in piece.facts["genes"]}
    for piece in pieces:
        if piece.kind == "features":
            genes |= {gene for feature in piece.facts["features"] for gene in feature["genes"]}
    return genes


def terms_of(piece: Evidence) -> set[str]:
    """What a sentence has to name for this piece to bear it out."""
    facts = piece.facts
    if piece.kind == "genes":
        return {gene["gene"] for gene in facts["genes"]}
    if piece.kind == "annotations":
        values = [value for column in facts.values() for value in column]
        return {str(value["value"]) for value in values if value["share"] >= _SHARE_TO_NAME}
    if piece.kind == "phrases":
        return {phrase["term"] for phrase in facts["phrases"][:3]}
    if piece.kind == "features":
        return {gene for feature in facts["features"] for gene in feature["genes"]}
    return {"mixture", "mixed", "heterogeneous"} if piece.kind == "mixture" else {facts["query"]}
