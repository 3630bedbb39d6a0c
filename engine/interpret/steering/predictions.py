"""What an encoder predicts of every gene token, under names that tables and metrics use.

    Tahoe-x1     expression, mvc     predicted bin of the gene, by the token's own head and by the cell's
    Geneformer   logit, rank         logit of the gene at its own rank, and how many are higher

Shape legend: T packed tokens, R rows of them, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.models import Encoder, PackedTokens
from engine.models.encoder import Intervention
from engine.models.geneformer.model import GeneformerEncoder
from engine.models.tahoe.model import TahoeEncoder

ROWS_AT_ONCE = 1024
"""Rows whose logits over the vocabulary are held together: 100 MB at 25,000 genes."""


def quantities(encoder: Encoder) -> tuple[str, ...]:
    """Names of what this encoder predicts; none for one without heads."""
    if isinstance(encoder, TahoeEncoder):
        return ("expression", "mvc") if encoder.cell_head is not None else ("expression",)
    if isinstance(encoder, GeneformerEncoder) and encoder.head is not None:
        return ("logit", "rank")
    return ()


def states_and_predictions(
    encoder: Encoder,
    tokens: PackedTokens,
    hooks: Sequence[str],
    interventions: Mapping[str, Intervention] | None = None,
    hidden_T: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States at `hooks` (x_TD each) and predictions (y_T each, by name), in one forward pass.

    hidden_T (bool): tokens that the encoder is not shown, see `shown`. Geneformer's predictions are 0 at
    special tokens.
    """
    names, seen = quantities(encoder), shown(encoder, tokens, hidden_T)
    if isinstance(encoder, TahoeEncoder):
        output = encoder(seen, hooks, predictions=True, generative_T=hidden_T, interventions=interventions)
        return output.hooks, {name: output.predictions[name] for name in names}
    wanted = tuple(hooks) if not names or "final" in hooks else (*hooks, "final")
    states = encoder(seen, wanted, interventions=interventions).hooks
    if not isinstance(encoder, GeneformerEncoder) or not names:
        return states, {}
    return states, _own_gene(encoder, states["final"], tokens.ids_T)


def shown(encoder: Encoder, tokens: PackedTokens, hidden_T: Tensor | None) -> PackedTokens:
    """The tokens as the encoder gets them when some are hidden from it, as in its training.

    Geneformer reads `<mask>` there. Tahoe-x1 keeps the gene, and is told to leave out its value
    (`generative_T`).
    """
    if hidden_T is None or not isinstance(encoder, GeneformerEncoder):
        return tokens
    return replace(tokens, ids_T=tokens.ids_T.masked_fill(hidden_T, encoder.tokeniser.mask_id))


def _own_gene(encoder: GeneformerEncoder, x_TD: Tensor, ids_T: Tensor) -> dict[str, Tensor]:
    """The gene that is there, as the masked-gene head sees it; the logits of few rows at a time."""
    rows_R = encoder.is_gene(ids_T).nonzero().squeeze(1)
    found = {name: torch.zeros(len(ids_T), device=x_TD.device) for name in ("logit", "rank")}
    for part_R in torch.split(rows_R, ROWS_AT_ONCE):
        y_RV = encoder.gene_logits(x_TD[part_R]).float()
        own_R1 = y_RV.gather(1, ids_T[part_R, None])
        found["logit"][part_R] = own_R1.squeeze(1)
        found["rank"][part_R] = (y_RV > own_R1).sum(dim=1).float()
    return found
