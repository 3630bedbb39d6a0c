"""`syncytium search`: the cells of an index that are most like given cells."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jobs.anatomy import JobOptions, Outcome, launch
from storage.errors import InputError
from storage.locations import Location

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from engine.retrieval.search import Found, Searcher


@dataclass(kw_only=True)
class Options(JobOptions):
    """Find the cells of an index that are nearest to a query. A condition compares columns of the cells with
    values, say "tissue in ('lung', 'blood') and n_genes > 500"; `name` is a cell's name, `row` its number."""

    index: str
    """Vector index, as `index` writes it."""
    cells_query: str | None = None
    """The query is the mean of the cells of the index that pass this condition; they are not answers."""
    minus: str | None = None
    """With --cells-query: like those cells and unlike the mean of the cells that pass this condition; cells
    are ordered by the difference of both scores."""
    query_embeddings: str | None = None
    """Each cell of these embeddings (the first --max-cells) is a query. They must be by the index's model."""
    filter: str | None = None
    """Answer only with cells that pass this condition."""
    top_k: int = 10
    """Answers to each query, 1 to 100."""
    metric: Literal["cosine", "dot"] = "cosine"
    """dot: inner product with the vectors as they were embedded, before they were scaled to length 1."""
    how: Literal["auto", "exact", "shortlist", "ivf"] = "auto"
    """auto: the cheapest way that was measured to lose nothing. exact: score every cell. shortlist: order by
    short codes first. ivf: look into --probes inverted lists, where the index has them."""
    rerank: int | None = None
    """Cells of a shortlist that are scored exactly. Default: as many as recall needs, measured on this
    index."""
    probes: int = 32
    """Inverted lists that --how ivf looks into."""
    index_version: int | None = None
    """Version of the index to search. Default: the newest."""


class Query(NamedTuple):
    """name: what the answers are to. vector: [D]. where: which cells may be answers."""

    name: str
    vector: "npt.NDArray[np.float32]"
    where: str | None


def run(options: Options) -> Outcome:
    from engine.retrieval.search import Searcher
    from storage.index import VectorIndex

    if not 1 <= options.top_k <= _MOST_ANSWERS:
        raise InputError(f"--top-k is {options.top_k}; it must be 1 to {_MOST_ANSWERS}.")
    if (options.cells_query is None) == (options.query_embeddings is None):
        raise InputError("give --cells-query or --query-embeddings: one of them says what to look for.")
    if options.minus is not None and options.cells_query is None:
        raise InputError("--minus takes something away from --cells-query, which is missing.")
    index = VectorIndex.open(options.index, options.index_version)
    searcher = Searcher(index)
    queries = _of_index(options, searcher) if options.cells_query else _of_embeddings(options, searcher)
    hits: list[dict[str, Any]] = []
    ways: Counter[str] = Counter()
    for query in queries:
        found = searcher.search(
            query.vector,
            options.top_k,
            where=query.where,
            metric=options.metric,
            how=options.how,
            shortlist=options.rerank,
            probes=options.probes,
        )
        hits += _rows(query, found, searcher)
        ways.update(found.ways)
    _show(hits)
    if options.output:
        Location.of(options.output).put("", json.dumps(hits, indent=2, default=str).encode())
    return Outcome(
        lineage=index.snapshot.lineage_id,
        counts_in={"queries": len(queries), "cells": index.n_cells},
        counts_out={"hits": len(hits)},
        facts={
            "index_version": index.version,
            "metric": options.metric,
            "ways": dict(ways),
            # A score says how alike; whether that is a match takes a calibration of this index.
            "calibration": index.facts["calibration"],
            "hits": hits,
        },
        writes_record=False,
    )


_MOST_ANSWERS = 100
# Columns of a printed table; --json has all.
_SHOWN_COLUMNS, _SHOWN_WIDTH = 6, 28


def _of_index(options: Options, searcher: "Searcher") -> list[Query]:
    asked = str(options.cells_query)
    vector, left_out = _mean("--cells-query", asked, searcher), f"({asked})"
    if options.minus is not None:
        vector = vector - _mean("--minus", options.minus, searcher)
        left_out += f" or ({options.minus})"
    where = f"not ({left_out})" if options.filter is None else f"({options.filter}) and not ({left_out})"
    return [Query(asked if options.minus is None else f"{asked} minus {options.minus}", vector, where)]


def _mean(flag: str, condition: str, searcher: "Searcher") -> "npt.NDArray[np.float32]":
    """Mean of the cells that pass, as a direction."""
    import numpy as np

    vector, n_cells = searcher.mean(condition)
    if not n_cells:
        raise InputError(f"{flag} {condition!r}: no cell of the index passes.")
    alike = float(np.linalg.norm(vector))
    mixed = "; they are of several kinds, and their mean may be like none" if alike < _MIXED else ""
    print(f"{flag[2:]}: the mean of {n_cells:,} cells, alike to {alike:.2f}{mixed}")
    return vector / np.float32(max(alike, 1e-12))


# Length of the mean of unit vectors below which most of them are further from it than 60 degrees.
_MIXED = 0.5


def _of_embeddings(options: Options, searcher: "Searcher") -> list[Query]:
    from engine.retrieval.build import Source

    source = Source.open(str(options.query_embeddings), (), options.max_cells)
    if source.model != searcher.index.facts["model"]:
        raise InputError(
            f"--query-embeddings {options.query_embeddings}: by {source.model}; the index holds embeddings "
            f"by {searcher.index.facts['model']}, and vectors of two models cannot be compared."
        )
    vectors = source.embeddings.read(0, source.n_cells)
    names = source.obs.index.astype(str)
    return [Query(name, vector, options.filter) for name, vector in zip(names, vectors, strict=True)]


def _rows(query: Query, found: "Found", searcher: "Searcher") -> list[dict[str, Any]]:
    from storage.index.cell_tables import NAME

    known = searcher.index.annotations(found.cell)
    names = known.pop(NAME).tolist() if len(known) else []
    answers = known.astype(object).where(known.notna(), None)
    return [
        {
            "query": query.name,
            "rank": rank + 1,
            "score": round(float(found.score[rank]), 5),
            "row": int(found.cell[rank]),
            "name": names[rank],
            "obs": {str(column): answers[column].iloc[rank] for column in answers.columns},
        }
        for rank in range(len(found.cell))
    ]


def _show(hits: list[dict[str, Any]]) -> None:
    import pandas as pd

    if not hits:
        print("no cell passes")
        return
    table = pd.concat(
        [pd.DataFrame(hits).drop(columns="obs"), pd.DataFrame([hit["obs"] for hit in hits])], axis=1
    )
    if len({hit["query"] for hit in hits}) == 1:
        table = table.iloc[:, 1:]
    print(table.iloc[:, : 5 + _SHOWN_COLUMNS].to_string(index=False, max_colwidth=_SHOWN_WIDTH))


def main(argv: Sequence[str] | None = None) -> int:
    return launch("search", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
