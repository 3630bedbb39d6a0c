"""`syncytium search`: the cells of an index that are most like a text or given cells; phrases for cells."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.anatomy import JobOptions, Outcome, launch
from storage.errors import InputError
from storage.locations import Location

if TYPE_CHECKING:
    from engine.retrieval.found import Found
    from engine.retrieval.queries import Query
    from engine.retrieval.search import Searcher
    from storage.phrases import PhraseBank


@dataclass(kw_only=True)
class Options(JobOptions):
    """Find the cells of an index that are nearest to a query: a text, cells of the index, or other cells; or
    the phrases nearest to cells. A condition compares columns of the cells with values, say "tissue in
    ('lung', 'blood') and n_genes > 500"; `name` is a cell's name, `row` its number."""

    index: str
    """Vector index, as `index` writes it."""
    query: str | None = None
    """A text, for an index made with a joint model. Phrases with signs and weights are added up:
    "T cell +2*activated -naive", "B cells MINUS plasma cells"; what is in double quotes is taken as it is."""
    joint: str | None = None
    """With --query: where the index's joint model lies, if not where it lay when the index was made."""
    template: str | None = None
    """With --query: puts each phrase into words, a text with {} or a name: celltype, tissue, disease ..."""
    phrases: str | None = None
    """Phrase bank, as `phrases` writes it. With cells as the query, its phrases are the answers (and --filter
    is on library, term, text); with --query, it tells whether the text is about something it knows."""
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
    rerank: int | Literal["full", "markers"] = "full"
    """full (or no value): the best by short codes are scored again at full width, as many as recall needs,
    measured on this index; a number: so many. markers: with --query and --cells, the best cells by text are
    also reordered by the genes that the query names ("CD8+ T cell +GZMB -CCR7")."""
    cells: str | None = None
    """With --rerank markers: the cell store that the index was made of."""
    probes: int = 32
    """Inverted lists that --how ivf looks into."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda: compare all cells on a GPU, many queries at once; by cosine, and exact."""
    score_all: str | None = None
    """Also write the score of every cell to this file: one float32 per cell in the order of the cells that
    were indexed (.npy; NaN for cells that are deleted or have no vector), or with names (.parquet)."""
    index_version: int | None = None
    """Version of the index to search. Default: the newest."""


def run(options: Options) -> Outcome:
    from engine.retrieval.search import Searcher
    from storage.index import VectorIndex

    _require_sense(options)
    searcher = Searcher(VectorIndex.open(options.index, options.index_version))
    if options.query is not None:
        outcome = _text_to_cells(options, searcher)
    elif options.phrases is not None:
        outcome = _cells_to_phrases(options, searcher)
    else:
        outcome = _cells_to_cells(options, searcher)
    if options.output:
        hits = json.dumps(outcome.facts["hits"], indent=2, default=str)
        Location.of(options.output).put("", hits.encode())
    return outcome


_MOST_ANSWERS = 100


def _require_sense(options: Options) -> None:
    if not 1 <= options.top_k <= _MOST_ANSWERS:
        raise InputError(f"--top-k is {options.top_k}; it must be 1 to {_MOST_ANSWERS}.")
    asked = [options.query, options.cells_query, options.query_embeddings]
    if sum(query is not None for query in asked) != 1:
        raise InputError(
            "give --query, --cells-query or --query-embeddings: one of them says what to look for."
        )
    if options.minus is not None and options.cells_query is None:
        raise InputError(
            "--minus takes something away from --cells-query, which is missing (in a text write A MINUS B)."
        )
    if options.query is None and (options.joint or options.template):
        raise InputError("--joint and --template say how --query is embedded, which is missing.")
    if options.score_all is not None and options.query_embeddings is not None:
        raise InputError("--score-all writes the scores of one query: --query or --cells-query.")
    if (options.rerank == "markers") != (options.cells is not None) or (options.cells and not options.query):
        raise InputError(
            "--rerank markers, --cells and --query go together: genes in a text reorder answers."
        )
    if options.device != "cpu" and (options.metric != "cosine" or options.how not in ("auto", "exact")):
        raise InputError("--device cuda compares all cells by cosine; leave --metric and --how out.")
    if not (options.score_all or ".npy").endswith((".npy", ".parquet")):
        raise InputError(f"--score-all {options.score_all}: the name must end in .npy or .parquet.")
    if options.phrases is not None and options.score_all is not None and options.query is None:
        raise InputError("--score-all is of cells; with --phrases the answers are phrases.")


def _text_to_cells(options: Options, searcher: "Searcher") -> Outcome:
    from engine.retrieval.answers import write_scores
    from engine.retrieval.ask import ask
    from engine.retrieval.queries import Query
    from engine.retrieval.texts import Texts
    from storage.cells import CellStore

    texts = Texts.of_index(searcher.index, options.joint)
    answer = ask(
        searcher.index,
        texts,
        str(options.query),
        options.top_k,
        lambda vector, k: _found(options, searcher, [Query("", vector, options.filter)], k)[0],
        template=options.template,
        metric=options.metric,
        bank=None if options.phrases is None else _bank(options.phrases, texts.model),
        store=None if options.cells is None else CellStore.open(options.cells),
    )
    for warning in answer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    outcome = _outcome(options, searcher, answer.hits, answer.found.ways)
    print(f"temperature {answer.temperature:.4g} (the joint model's own, frozen)")
    verdict = None if answer.verdict is None else f"verdict: {answer.verdict} (on the best hit)"
    print(verdict or f"no verdict: {answer.no_verdict_because or 'nothing was found'}")
    outcome.facts |= {**answer.facts(), "joint": texts.model}
    if options.score_all is not None:
        scores = searcher.scores_by_cell(answer.question.vector) * answer.question.length
        outcome.counts_out["scores"] = write_scores(options.score_all, scores, searcher.index)
    return outcome


def _bank(path: str, model: str) -> "PhraseBank":
    from storage.phrases import PhraseBank

    bank = PhraseBank.open(path)
    if bank.model != model:
        raise InputError(
            f"--phrases {path}: embedded by the model {bank.model}; the cells of the index by {model}. "
            "Vectors of two models cannot be compared: make the bank with the index's joint model"
        )
    return bank


def _cells_to_cells(options: Options, searcher: "Searcher") -> Outcome:
    from engine.retrieval.answers import cell_rows, write_scores
    from engine.retrieval.queries import like_cells

    if options.cells_query is None:
        queries = _given(options, searcher)
    else:
        queries = [like_cells(searcher, options.cells_query, options.minus, options.filter)]
    hits: list[dict[str, Any]] = []
    ways: Counter[str] = Counter()
    for query, found in zip(queries, _found(options, searcher, queries, options.top_k), strict=True):
        _say(query)
        hits += cell_rows(query.name, found, searcher.index)
        ways.update(found.ways)
    outcome = _outcome(options, searcher, hits, ways)
    outcome.counts_in["queries"] = len(queries)
    if options.score_all is not None:
        scores = searcher.scores_by_cell(queries[0].vector)
        outcome.counts_out["scores"] = write_scores(options.score_all, scores, searcher.index)
    return outcome


def _given(options: Options, searcher: "Searcher") -> "list[Query]":
    from engine.retrieval.queries import of_embeddings

    return of_embeddings(searcher, str(options.query_embeddings), options.max_cells, options.filter)


def _found(options: Options, searcher: "Searcher", queries: "Sequence[Query]", k: int) -> "list[Found]":
    import numpy as np

    from engine.retrieval.device import DeviceSearcher

    if options.device != "cpu" and queries:
        on_device = DeviceSearcher(searcher.index, options.device)
        vectors = np.stack([query.vector for query in queries])
        return on_device.search(vectors, k, where=queries[0].where)
    return [
        searcher.search(
            query.vector,
            k,
            where=query.where,
            metric=options.metric,
            how=options.how,
            shortlist=options.rerank if isinstance(options.rerank, int) else None,
            probes=options.probes,
        )
        for query in queries
    ]


def _outcome(
    options: Options, searcher: "Searcher", hits: list[dict[str, Any]], ways: Mapping[str, int]
) -> Outcome:
    from engine.retrieval.answers import as_table
    from engine.retrieval.calibration import summary

    index = searcher.index
    table = index.facts["calibration"]
    print(as_table(hits))
    return Outcome(
        lineage=index.snapshot.lineage_id,
        counts_in={"queries": 1, "cells": index.n_cells},
        counts_out={"hits": len(hits)},
        facts={
            "index_version": index.version,
            "metric": options.metric,
            "ways": dict(ways),
            "calibration": None if table is None else summary(table),
            "hits": hits,
        },
        writes_record=False,
    )


def _cells_to_phrases(options: Options, searcher: "Searcher") -> Outcome:
    from engine.retrieval.answers import as_table, phrase_rows
    from engine.retrieval.phrases import rank
    from engine.retrieval.queries import mean_of_cells
    from engine.retrieval.texts import require_joint

    known = require_joint(searcher.index)
    bank = _bank(str(options.phrases), known["model"])
    hits: list[dict[str, Any]] = []
    by_library: dict[str, list[dict[str, Any]]] = {}
    if options.cells_query is None:
        queries = _given(options, searcher)
    else:
        queries = [mean_of_cells(searcher, options.cells_query, options.minus)]
    for query in queries:
        _say(query)
        ranks = rank(bank, query.vector, options.top_k, options.filter)
        overall, libraries = phrase_rows(query.name, *ranks)
        hits += overall
        for library, rows in libraries.items():
            by_library.setdefault(library, []).extend(rows)
    print(as_table(hits))
    for library, rows in by_library.items():
        if len(by_library) > 1 and len(queries) == 1:
            print(f"\n{library}:")
            print(as_table(rows))
    return Outcome(
        lineage=searcher.index.snapshot.lineage_id,
        counts_in={"queries": len(queries), "phrases": len(bank)},
        counts_out={"hits": len(hits)},
        facts={
            "index_version": searcher.index.version,
            "temperature": bank.temperature,
            "hits": hits,
            "by_library": by_library,
        },
        writes_record=False,
    )


def _say(query: "Query") -> None:
    for note in query.notes:
        print(note)


def main(argv: Sequence[str] | None = None) -> int:
    return launch("search", Options, run, with_values(sys.argv[1:] if argv is None else argv))


def with_values(argv: Sequence[str]) -> list[str]:
    """The command line with `--rerank` spelled out where it is given without a value."""
    spelled: list[str] = []
    for flag, following in zip(argv, [*argv[1:], "--"], strict=True):
        spelled += [flag, "full"] if flag == "--rerank" and following.startswith("--") else [flag]
    return spelled


if __name__ == "__main__":
    raise SystemExit(main())
