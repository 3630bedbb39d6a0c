"""Steering without Ray and without files: an encoder, an autoencoder and some tokenised cells in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.interpret.steering.activity import label_directions, survey
from engine.interpret.steering.design import (
    CONTROLS,
    Design,
    Experiment,
    Kind,
    Mode,
    target_genes,
    variants_of,
)
from engine.interpret.steering.edits import Edit, Unit, parse_edits
from engine.interpret.steering.effects import Gauge, metric_names, metric_values
from engine.interpret.steering.tables import (
    REPLICATES,
    EffectTables,
    cell_table,
    gene_table,
    summary_table,
    variant_table,
)
from engine.interpret.steering.totals import GeneSums
from engine.models import Encoder, Tokens
from engine.models.encoder import layer_hook
from engine.models.interventions import Reading
from engine.models.sae import SAE
from engine.streaming.packing import pack


def steer(
    encoder: Encoder,
    tokens: Tokens,
    sae: SAE | Reading,
    edits: str | Sequence[Edit],
    *,
    hook: str,
    doses: Sequence[float] = (1.0,),
    controls: Sequence[Kind] = CONTROLS,
    n_random: int = 1,
    unit: str = "max",
    mode: Mode = "delta",
    targets: Sequence[int] | None = None,
    hide_targets: bool = False,
    labels: Sequence[str | None] | None = None,
    layer: int | None = None,
    pool: str | None = None,
    batch_tokens: int = 8192,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> EffectTables:
    """What edits of features do to predicted expression and to embeddings, beside controls.

    edits: `"4711:+3,88:ablate"` or the same as `Edit`s, made together. unit: what amounts are multiples of:
        "max" (the feature's largest activation on these cells), "q0.99" (a quantile) or "absolute".
    doses: multiples of the edits; all doses and controls of a cell travel in one forward pass, so memory is
        that of `batch_tokens` tokens of all versions together, or of one cell that is longer.
    controls: random_feature (of like density), noise (of the same norm, token by token), wrong_sign.
    targets: token ids of the genes meant; by default the ten that the edited features fire on most.
    hide_targets: hide them from the encoder in every version, as genes are hidden in its training.
    labels: one per cell, None for a cell without: shifts along the direction of each label are reported.
    layer, pool: of the embedding; by default the model's own convention.
    sae: an autoencoder, or a `Reading` of one that was trained on gene residuals.
    The autoencoder must be on the encoder's device. Raises InputError, ModelError for what does not fit.
    """
    layer = (encoder.default_layer if layer is None else layer) % encoder.n_layers
    pool = pool or encoder.default_pool
    encoder.require_pool(pool)
    known = sorted({label for label in labels or () if label is not None})
    reading = sae if isinstance(sae, Reading) else Reading.of(encoder, sae)
    found = survey(
        encoder,
        reading,
        tokens,
        hook,
        layer_hook=layer_hook(layer, encoder.n_layers),
        pool=pool,
        batch_tokens=batch_tokens,
        label_C=np.array([known.index(label) if label is not None else -1 for label in labels], np.int32)
        if labels is not None
        else None,
        n_labels=len(known),
    )
    asked = parse_edits(edits) if isinstance(edits, str) else tuple(edits)
    meant = target_genes(asked, found.activity) if targets is None else tuple(targets)
    experiment = Experiment(asked, meant)
    variants = variants_of(
        (experiment,),
        found.activity,
        doses=doses,
        controls=controls,
        n_random=n_random,
        unit=Unit.parse(unit),
        mode=mode,
        seed=seed,
    )
    design = Design(hook, mode, layer, pool, seed, (experiment,), variants, hide_targets)
    gauge = Gauge(encoder, reading, design, label_directions(found))
    metrics = metric_names(gauge.quantities, known)
    values_VCM = np.full((len(variants), tokens.n_cells, len(metrics)), np.nan, np.float32)
    sums = GeneSums.empty(len(variants), len(gauge.quantities), len(encoder.tokeniser.gene_ids))
    for cells in pack(tokens.lengths, max(batch_tokens // len(variants), 1)):
        effects = gauge(tokens.select(cells).to_torch(encoder.device), cells)
        values_VCM[:, cells] = metric_values(effects).cpu().numpy()
        gene_R, base_QR, change_VQR = (
            part.cpu().numpy() for part in (effects.gene_R, effects.base_QR, effects.change_VQR)
        )
        sums.add(gene_R, base_QR, change_VQR)
    table = cell_table(values_VCM, metrics, np.arange(tokens.n_cells))
    gene_ids = encoder.tokeniser.gene_ids
    return EffectTables(
        cells=table,
        genes=gene_table(sums, design, gauge.quantities, gene_ids, gene_ids),
        summary=summary_table(table, metrics, design, seed=seed, replicates=replicates),
        variants=variant_table(design),
    )
