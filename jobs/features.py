"""`syncytium features`: what the features of a sparse autoencoder fire on: genes, cells, labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.inputs import CachedSubject, Subject
    from engine.interpret.passes import FeaturePass


@dataclass(kw_only=True)
class Options(JobOptions):
    """Feature tables (parquet) with each feature's top genes, top cells and label enrichment, and the files
    feature_gene_associations.json and feature_cell_associations.json."""

    sae: str
    """Autoencoder directory: SAELens' format, or a crosscoder, as `train-sae` writes them."""
    cells: str
    """Cell store the activations are of: expression, names of cells, and their labels."""
    cache: str | None = None
    """Activation cache of the autoencoder's model at its hook point. Of a crosscoder: one cache with all its
    hooks, or A,B with one for each of its places."""
    model: str | None = None
    """Encoder directory, instead of a cache: activations go straight to the autoencoder."""
    label: str | None = None
    """obs column whose values are tested for enrichment, e.g. cell_type. Default: none."""
    hook: str | None = None
    """Hook point to read. Default: the one the autoencoder was trained at."""
    top_genes: int = 100
    """Genes listed per feature."""
    top_cells: int = 100
    """Cells listed per feature."""
    min_gene_tokens: int = 1
    """Leave genes with fewer tokens than this out of the ranking; a mean over two tokens says little."""
    score: Literal["mean", "expression", "lift", "t", "presence"] = "mean"
    """Ranks the genes: mean activation where the gene occurs; sum of activation x expression (as sae-genomics
    does); how much likelier the feature fires on the gene; Student's t against all other tokens; presence:
    genes that tell the cells in which the feature is strong from others, whether it fires on them or not."""
    partners: int = 10
    """Features listed per feature that fire together with it. 0: none."""
    sample_tokens: int = 65_536
    """Tokens sampled to find them."""
    ranges: int | None = None
    """Ranges of features worked on separately, each with its own files. Default: one per 8,192 features."""
    sae_genomics: bool = True
    """Write the two JSON files; with a million features they take gigabytes."""
    neuronpedia: bool = False
    """With --cache: also write dashboards for Neuronpedia under OUTPUT/neuronpedia; a cell is a prompt."""
    neuronpedia_model: str | None = None
    """Neuronpedia's name of the encoder. Default: its fingerprint."""
    max_tokens: int | None = None
    """With --model: tokens encoded of a longer cell. Default: the model's own limit."""
    compute: Literal["fp32", "bf16"] = "fp32"
    """With --model: what the encoder computes in."""
    actors: int | None = None
    """With --model: at most so many encoders at once. Default: all that fit."""
    threads: int = 1
    """With --model: CPU threads of each encoder."""


def run(options: Options) -> Outcome:
    from engine.interpret.gene_ranking import TableOptions
    from engine.interpret.run import FeatureOptions, explain

    output = options.output_location
    _require_at_least(options, 1, "top_genes", "top_cells", "min_gene_tokens", "sample_tokens", "ranges")
    _require_at_least(options, 0, "partners")
    subject, feature_pass, counts_in = _source(options)
    result = explain(
        subject,
        feature_pass,
        FeatureOptions(
            TableOptions(options.top_genes, options.score, options.min_gene_tokens, options.partners),
            top_cells=options.top_cells,
            sample_tokens=options.sample_tokens,
            seed=options.seed,
            ranges=options.ranges,
            sae_genomics=options.sae_genomics,
        ),
        output,
        address=options.address,
        overwrite=options.overwrite,
        report=ProgressLine("features"),
    )
    if options.neuronpedia:
        _export(options, subject)
    facts = result.snapshot.facts
    return Outcome(
        lineage=result.snapshot.lineage_id,
        counts_in={**counts_in, "cells": subject.n_cells, "features": subject.n_features},
        counts_out={"features_fired": facts["n_features_fired"], "gene_tokens": facts["n_gene_tokens"]},
        throughput={"tokens_per_second": round(result.spent.tokens / max(result.seconds, 1e-9), 1)},
        facts={"hook": subject.hook, "label": options.label, **facts},
        did_work=result.did_work,
        peak_memory_bytes=result.spent.peak_memory_bytes,
    )


def _source(options: Options) -> "tuple[Subject, FeaturePass, dict[str, int]]":
    """What is looked at, where its activations come from, and how much of it there is."""
    from engine.interpret.cached_pass import CachedPass
    from engine.interpret.inputs import EncodedInputs

    if bool(options.cache) == bool(options.model):
        raise InputError("give --cache CACHE, or --model DIR to encode the cells during the pass.")
    if options.neuronpedia and not options.cache:
        raise InputError("--neuronpedia: what cells show is read from a cache; give --cache.")
    cached = _cached(options)
    if cached is not None:
        return cached, CachedPass(cached), {"tokens": sum(cached.tokens.n_tokens())}
    from engine.interpret.streamed_pass import StreamedPass
    from engine.streaming.recipe import Recipe

    inputs = EncodedInputs.open(
        options.sae,
        options.cells,
        str(options.model),
        hook=options.hook,
        label=options.label,
        max_cells=options.max_cells,
    )
    recipe = Recipe(inputs.stream.model.token_limit(options.max_tokens), options.compute, options.seed)
    from jobs.anatomy.streaming import workers_of

    workers = workers_of(options.address, options.actors, options.threads)
    return inputs, StreamedPass(inputs, recipe, workers), {"genes": inputs.store.n_genes}


def _cached(options: Options) -> "CachedSubject | None":
    """What --cache means for this autoencoder; None without --cache."""
    from engine.interpret.crosscoder_inputs import CrosscoderInputs
    from engine.interpret.inputs import FeatureInputs
    from engine.models.sae.crosscoder import is_crosscoder
    from storage.checkpoints import local_copy

    caches = comma_separated(options.cache or "")
    if is_crosscoder(local_copy(options.sae)):
        for flag in ("model", "hook", "neuronpedia"):
            if getattr(options, flag):
                raise InputError(
                    f"--{flag}: {options.sae} is a crosscoder, which reads several places; give --cache with "
                    "all of its hooks, or --cache A,B with one for each place."
                )
        return CrosscoderInputs.open(
            options.sae, caches, options.cells, label=options.label, max_cells=options.max_cells
        )
    if not caches:
        return None
    if len(caches) > 1:
        raise InputError(f"--cache {options.cache}: {options.sae} reads one cache, found {len(caches)}.")
    return FeatureInputs.open(
        options.sae,
        caches[0],
        options.cells,
        hook=options.hook,
        label=options.label,
        max_cells=options.max_cells,
    )


def _export(options: Options, subject: "Subject") -> None:
    from engine.interpret.inputs import FeatureInputs
    from engine.interpret.neuronpedia import Export, export
    from storage.features import FeatureTables

    if not isinstance(subject, FeatureInputs):
        raise TypeError("prompts are read from a cache")
    model = options.neuronpedia_model or subject.cache.metadata.get("model", "")
    export(
        subject,
        FeatureTables.open(options.output_location),
        Export(model, options.sae.rstrip("/").rsplit("/", 1)[-1]),
        options.output_location,
        address=options.address,
        overwrite=options.overwrite,
        report=ProgressLine("neuronpedia"),
    )


def _require_at_least(options: Options, least: int, *flags: str) -> None:
    for flag in flags:
        value = getattr(options, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag.replace('_', '-')} is {value}; it must be at least {least}.")


def main(argv: Sequence[str] | None = None) -> int:
    return launch("features", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
