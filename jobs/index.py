"""`syncytium index`: embeddings -> vector index; and adding to, deleting from and compacting one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.retrieval.build import IndexOptions, Source
    from storage.index import VectorIndex


@dataclass(kw_only=True)
class Options(JobOptions):
    """Build a vector index of embeddings, or change the one at --output: --append, --delete, --compact. A
    change makes a new version; searches that run keep theirs."""

    embeddings: str | None = None
    """Embeddings, as `embed` writes them."""
    append: bool = False
    """Add the embeddings to the index at --output. They must be by the same model."""
    delete: str | None = None
    """Delete the cells that pass a condition, say "donor = 'D3'"."""
    compact: bool = False
    """Join small segments, drop deleted rows, and remove versions replaced more than an hour ago."""
    columns: str | None = None
    """obs columns to keep for conditions and answers, comma-separated. Default: all."""
    sort_by: str | None = None
    """obs columns to sort rows by, comma-separated: conditions on them get cheap. Default: up to three text
    columns, those of fewest values first."""
    short_dims: int | None = None
    """Dimensions of the int8 codes that the first pass of a search reads. Default: 64, or all of fewer."""
    projection: Literal["principal", "leading"] = "principal"
    """What the codes keep: principal directions, or the leading dimensions of Matryoshka-trained vectors."""
    segment_cells: int = 1 << 20
    """Cells of a segment."""
    ivf: int = 0
    """Inverted lists of each segment, by faiss, for `search --how ivf`. 0: none."""


def run(options: Options) -> Outcome:
    from engine.retrieval.build import append
    from storage.index import VectorIndex, versions

    changes = options.append or options.delete is not None or options.compact
    if not changes:
        return _built(options)
    if options.overwrite or (options.append != (options.embeddings is not None)):
        raise InputError("a change of an index takes --embeddings exactly with --append, and no --overwrite.")
    index, did_work, counts = VectorIndex.open(options.output_location), False, {}
    wanted = _index_options(options, index.width)
    if options.append:
        index, did_work = append(index, _source(options), wanted)
    if options.delete is not None:
        before, index = index, _without(index, options.delete)
        counts["deleted"] = before.n_cells - index.n_cells
        did_work |= index is not before
    if options.compact:
        before, index = index, versions.compact(index, wanted.segment_cells)
        counts["removed_objects"] = len(versions.vacuum(index, _UNUSED_SECONDS))
        did_work |= index is not before
    elif versions.needs_compaction(index, wanted.segment_cells):
        print("searches would cost less after --compact: many rows are deleted, or many segments small")
    outcome = _outcome(index, did_work)
    outcome.counts_out |= counts
    return outcome


# Longer than any search holds on to a version.
_UNUSED_SECONDS = 3600


def _built(options: Options) -> Outcome:
    from engine.retrieval.build import build

    output = options.output_location
    source = _source(options)
    index, did_work = build(
        source,
        output,
        _index_options(options, source.embeddings.width),
        overwrite=options.overwrite,
        report=ProgressLine("index"),
    )
    return _outcome(index, did_work)


def _source(options: Options) -> "Source":
    from engine.retrieval.build import Source

    if options.embeddings is None:
        raise InputError("--embeddings is missing: say which embeddings to index.")
    return Source.open(options.embeddings, _names(options.columns), options.max_cells)


def _without(index: "VectorIndex", condition: str) -> "VectorIndex":
    from engine.retrieval.search import Searcher
    from storage.index import versions

    return versions.delete(index, Searcher(index).cells(condition))


_SHORT_DIMS = 64


def _index_options(options: Options, width: int) -> "IndexOptions":
    from engine.retrieval.build import IndexOptions

    if options.segment_cells < 1 or options.ivf < 0:
        raise InputError("--segment-cells must be at least 1 and --ivf at least 0.")
    return IndexOptions(
        short_width=min(_SHORT_DIMS, width) if options.short_dims is None else options.short_dims,
        projection=options.projection,
        segment_cells=options.segment_cells,
        columns=_names(options.columns),
        sort_by=_names(options.sort_by),
        ivf_lists=options.ivf,
        seed=options.seed,
    )


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else comma_separated(text)


def _outcome(index: "VectorIndex", did_work: bool) -> Outcome:
    return Outcome(
        lineage=index.snapshot.lineage_id,
        counts_in={"cells": sum(source["n_cells"] for source in index.facts["sources"])},
        counts_out={"cells": index.n_cells, "segments": len(index.segments)},
        facts={"version": index.version, "shortlist": index.facts["shortlist"], "bytes": index.snapshot.size},
        did_work=did_work,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("index", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
