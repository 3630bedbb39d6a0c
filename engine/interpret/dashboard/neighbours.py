"""Features that write in nearly the same direction, from the autoencoder's own weights."""

from __future__ import annotations

import numpy as np

from engine.interpret.comparison.matching import Partners, partners
from engine.interpret.comparison.similarity import DecoderCosine
from engine.models import sae
from storage.checkpoints import local_copy

NEIGHBOURS = 8


def neighbours_of(path: str) -> Partners:
    """Of every feature the others nearest by cosine of decoder directions, nearest first; itself left out."""
    W_dec = sae.load(local_copy(path)).W_dec.detach()
    found, _ = partners(DecoderCosine(W_dec, W_dec), candidates=NEIGHBOURS + 1)
    itself_FC = found.index_FC == np.arange(len(W_dec))[:, None]
    # One with more copies than are kept may not be among its own nearest: then the last goes.
    itself_FC[~itself_FC.any(axis=1), -1] = True
    shape = (len(W_dec), found.index_FC.shape[1] - 1)
    return Partners(found.index_FC[~itself_FC].reshape(shape), found.similarity_FC[~itself_FC].reshape(shape))
