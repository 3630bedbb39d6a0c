"""`syncytium attribute`: which features of a sparse autoencoder an encoder's output rests on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.attribution.run import AttributionRequest


@dataclass(kw_only=True)
class Options(JobOptions):
    """Rank all features by what ablating them would change in a metric of each cell (attribution patching:
    one backward pass), look at the strongest by integrated gradients, and ablate the first of them."""

    cells: str
    """Cell store, as `ingest` writes it."""
    model: str
    """Encoder directory: the one the autoencoder was trained on."""
    sae: str
    """Autoencoder directory: SAELens' format, as `train-sae` writes it."""
    metric: str = "loss"
    """loss: the encoder's training loss on genes hidden from it. gene:GENE: what it predicts of that gene
    when it is hidden (mvc:GENE: by Tahoe-x1's other head). label:VALUE: the cell embedding along the
    direction towards a value of --label."""
    label: str | None = None
    """obs column of --metric label:VALUE."""
    top_share: float = 0.01
    """Share of the features, the strongest, that get integrated gradients (10 steps)."""
    ablated: int = 40
    """Features, the strongest, that are ablated one by one."""
    survey_cells: int = 512
    """With --metric label:VALUE: cells looked at for the direction."""
    hook: str | None = None
    """Hook point of the features. Default: the one the autoencoder was trained at."""
    layer: int | None = None
    """With --metric label:VALUE: block whose output is pooled. Default: the model's convention."""
    pool: Literal["cls", "mean"] | None = None
    """With --metric label:VALUE: how it is pooled. Default: the model's convention."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. Default: the model's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the encoder computes in."""
    batch_tokens: int = 4096
    """Budget of a packed batch; its intermediates are kept for the backward pass."""


def run(options: Options) -> Outcome:
    from engine.interpret.attribution.run import attribute_cells
    from jobs.anatomy.streaming import subject_of

    output = options.output_location
    request = _request(options)
    inputs, recipe = subject_of(options)
    found = attribute_cells(
        inputs,
        request,
        output,
        recipe=recipe,
        address=options.address,
        overwrite=options.overwrite,
        report=ProgressLine("attribute"),
    )
    facts = found.snapshot.facts
    return Outcome(
        lineage=found.snapshot.lineage_id,
        counts_in={"cells": inputs.n_cells, "features": inputs.n_features},
        counts_out={"features_fired": facts["n_features_fired"], "cells_with_the_metric": facts["n_cells"]},
        throughput={"cells_per_second": round(inputs.n_cells / max(found.seconds, 1e-9), 3)},
        facts=dict(facts),
        did_work=found.did_work,
    )


def _request(options: Options) -> "AttributionRequest":
    from engine.interpret.attribution import Depth
    from engine.interpret.attribution.run import AttributionRequest
    from engine.interpret.steering.run import SurveyRequest

    if not 0 <= options.top_share <= 1:
        raise InputError(f"--top-share is {options.top_share}; it must lie between 0 and 1.")
    for flag, value in (("ablated", options.ablated), ("survey-cells", options.survey_cells)):
        if value < 1:
            raise InputError(f"--{flag} is {value}; it must be at least 1.")
    survey = SurveyRequest(options.survey_cells, options.layer, options.pool)
    return AttributionRequest(options.metric, Depth(options.top_share, options.ablated), options.seed, survey)


def main(argv: Sequence[str] | None = None) -> int:
    return launch("attribute", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
