"""`syncytium index`: embeddings, or cells and a joint model -> vector index; and changing one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.retrieval.build import IndexOptions, Source
    from storage.index import VectorIndex


@dataclass(kw_only=True)
class Options(JobOptions):
    """Build a vector index of embeddings, or of cells that are embedded first, or change the one at --output:
    --append, --delete, --compact, --calibrate. A change makes a new version; searches that run keep theirs.
    """

    embeddings: str | None = None
    """Embeddings, as `embed` writes them."""
    cells: str | None = None
    """Cell store, as `ingest` writes it: its cells are embedded with --joint while they stream, into a folder
    beside --output that ends in .embeddings, and indexed."""
    joint: str | None = None
    """Joint model directory: what embeds --cells, or has embedded --embeddings; texts are asked with it."""
    append: bool = False
    """Add the embeddings or cells to the index at --output. They must be by the same model."""
    delete: str | None = None
    """Delete the cells that pass a condition, say "donor = 'D3'"."""
    calibrate: str | None = None
    """obs column with the cells' kinds: measures what a score of a text says about a match, at the size of
    this index, so that searches can give verdicts."""
    template: str | None = None
    """With --calibrate: how a kind is asked for, a text with {} or a name: celltype, tissue, disease ... as
    CellWhisperer puts it. Default: the kind as it is written."""
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
    precision: Literal["fp32", "bf16"] = "fp32"
    """With --cells: what the cell tower computes in."""
    actors: int | None = None
    """With --cells: at most so many encoders at once. Default: as many as there is room for."""
    ivf: int = 0
    """Inverted lists of each segment, by faiss: with 2048 a million cells are searched in half the time if
    nothing is excluded. 0: none."""


def run(options: Options) -> Outcome:
    _require_sense(options)
    if options.append or options.delete is not None or options.compact:
        outcome = _changed(options)
    elif options.calibrate is not None and not _has_source(options):
        outcome = _outcome(_open(options), did_work=False)
    else:
        outcome = _built(options)
    if options.calibrate is not None:
        outcome = _calibrated(options, outcome)
    return outcome


def _require_sense(options: Options) -> None:
    changes = options.append or options.delete is not None or options.compact
    if options.embeddings is not None and options.cells is not None:
        raise InputError("give --embeddings or --cells: one of them is indexed.")
    if options.cells is not None and options.joint is None:
        raise InputError("--cells is embedded with a joint model: name it with --joint, or embed and index.")
    if changes and (options.overwrite or options.append != _has_source(options)):
        raise InputError(
            "a change of an index takes --embeddings or --cells exactly with --append, and no --overwrite."
        )
    if options.template is not None and options.calibrate is None:
        raise InputError("--template says how --calibrate asks for kinds of cells, which is missing.")


def _has_source(options: Options) -> bool:
    return options.embeddings is not None or options.cells is not None


def _open(options: Options) -> "VectorIndex":
    from storage.index import VectorIndex

    return VectorIndex.open(options.output_location)


def _changed(options: Options) -> Outcome:
    from engine.retrieval.build import append
    from storage.index import versions

    index, did_work, counts = _open(options), False, {}
    wanted = _index_options(options, index.width)
    if options.append:
        index, did_work = append(index, _source(options)[0], wanted)
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
    source, embedded = _source(options)
    index, did_work = build(
        source,
        output,
        _index_options(options, source.embeddings.width),
        joint=_joint_of(options, source),
        overwrite=options.overwrite,
        report=ProgressLine("index"),
    )
    outcome = _outcome(index, did_work)
    if embedded is not None:
        outcome.throughput, outcome.peak_memory_bytes = embedded.throughput, embedded.peak_memory_bytes
        outcome.facts["embedding"] = embedded.facts
    return outcome


def _source(options: Options) -> "tuple[Source, Outcome | None]":
    """What is indexed; with --cells also what embedding them took."""
    from engine.retrieval.build import Source

    if not _has_source(options):
        raise InputError(
            "--embeddings is missing: say which embeddings to index, or give --cells and --joint."
        )
    embeddings, embedded = options.embeddings, None
    if options.cells is not None:
        embeddings, embedded = _embedded(options)
    return Source.open(str(embeddings), _names(options.columns), options.max_cells), embedded


def _embedded(options: Options) -> tuple[str, Outcome]:
    """Where the cells' embeddings lie, once they are made. They stay: `annotate` and others read them too."""
    from engine.streaming.joint_embeddings import embed_joint
    from jobs.anatomy.streaming import outcome_of, workers_of
    from storage.cells import CellStore

    store = CellStore.open(str(options.cells))
    _require_fit(options, {*store.obs_columns, "n_tokens"})
    place = f"{options.output_location}.embeddings/{store.dataset_id[:12]}"
    encoding, inputs = embed_joint(
        str(options.cells),
        str(options.joint),
        place,
        precision=options.precision,
        seed=options.seed,
        workers=workers_of(options.address, options.actors, threads=1),
        max_cells=options.max_cells,
        overwrite=options.overwrite,
        report=ProgressLine("index"),
    )
    return place, outcome_of(encoding, inputs)


def _require_fit(options: Options, columns: set[str]) -> None:
    """Refuses before cells are embedded what would be refused after. columns: those obs will have."""
    from engine.models.joint import load_config
    from engine.retrieval.texts import Texts
    from storage.checkpoints import local_copy

    if options.append:
        Texts.of_index(_open(options), options.joint)
    width = load_config(local_copy(str(options.joint))).width
    if not 1 <= _index_options(options, width).short_width <= width:
        raise InputError(f"--short-dims {options.short_dims}: the joint model has {width} dimensions")
    asked = [*(_names(options.columns) or ()), *(_names(options.sort_by) or ())]
    asked += [options.calibrate] if options.calibrate is not None else []
    missing = [name for name in asked if name not in columns]
    if missing:
        raise InputError(
            f"{options.cells}: no obs column {', '.join(missing)}; there are {', '.join(sorted(columns))}"
        )


def _joint_of(options: Options, source: "Source") -> dict[str, Any] | None:
    """What the index keeps of the joint model; None for embeddings of an encoder without texts.

    Raises InputError when --joint is not what made the embeddings.
    """
    from engine.retrieval.texts import describe_joint

    made_by = source.model["model"]
    is_joint = (source.model["embeddings"] or {}).get("space") == "joint"
    if options.joint is None:
        # Where the model lies can be said when a text is asked.
        return {"path": None, "model": made_by} if is_joint else None
    known = describe_joint(options.joint)
    if not is_joint or known["model"] != made_by:
        raise InputError(
            f"--joint {options.joint}: its fingerprint is {known['model']}; the embeddings are by {made_by}"
        )
    return known


def _calibrated(options: Options, outcome: Outcome) -> Outcome:
    """The outcome with a calibration made on top of what was built or changed."""
    from engine.retrieval.calibration import calibrate, summary
    from engine.retrieval.texts import Texts

    index = _open(options)
    texts = Texts.of_index(index, options.joint)
    index, did_work = calibrate(index, texts, str(options.calibrate), options.template)
    made = _outcome(index, did_work or outcome.did_work)
    made.counts_out = outcome.counts_out | made.counts_out
    made.facts["calibration"] = summary(index.facts["calibration"])
    return made


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
