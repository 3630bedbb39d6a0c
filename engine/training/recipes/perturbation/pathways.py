"""Features of genes that do not need their name: how they vary over control cells, and the sets they are in.

Legend: C control cells, G genes, K known genes (measured ones and further targets), P features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from torch import nn

from engine.perturbation.gene_sets import GeneSets
from engine.perturbation.normalise import log_normalised
from engine.perturbation.rank_sum import Array
from engine.perturbation.screen import Screen

# The autoencoder's input is as wide as there are cells; more of them than this change nothing any more.
CELLS = 2048
HIDDEN, EPOCHS, RATE, GENES_AT_ONCE = 256, 40, 1e-3, 1024


def features(
    screen: Screen, targets: Sequence[str], sets: GeneSets, *, n_codes: int, n_components: int, seed: int
) -> Array:
    """[K, n_codes + n_components]: codes of the autoencoder (0 for genes nobody measured) and components of
    gene sets; every column has mean 0 and variance 1 over the genes it is known of.
    """
    found = np.zeros((len(screen.genes) + len(targets), n_codes + n_components))
    if n_codes:
        found[: len(screen.genes), :n_codes] = codes(_control_cells(screen, seed), n_codes, seed)
    if n_components:
        found[:, n_codes:] = sets.components([*screen.genes, *targets], n_components)
    return found


def codes(log_CG: sparse.csr_matrix, n_codes: int, seed: int) -> Array:
    """[G, n_codes] of an autoencoder whose examples are genes: their log1p expression over control cells.

    On the CPU, where the same seed gives the same features on every worker.
    """
    x_GC = torch.from_numpy(np.asarray(log_CG.T.todense(), dtype=np.float32))
    x_GC = x_GC - x_GC.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = min(HIDDEN, x_GC.shape[1])
        encoder = nn.Sequential(nn.Linear(x_GC.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, n_codes))
        decoder = nn.Sequential(nn.Linear(n_codes, hidden), nn.ReLU(), nn.Linear(hidden, x_GC.shape[1]))
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)
        for _ in range(EPOCHS):
            for rows_BC in torch.split(x_GC[torch.randperm(len(x_GC))], GENES_AT_ONCE):
                loss = (decoder(encoder(rows_BC)) - rows_BC).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            code_GP = encoder(x_GC).numpy().astype(np.float64)
    spread = code_GP.std(axis=0)
    return np.asarray((code_GP - code_GP.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0))


def _control_cells(screen: Screen, seed: int) -> sparse.csr_matrix:
    cells = np.flatnonzero(screen.perturbations == screen.control).astype(np.int64)
    if len(cells) > CELLS:
        cells = np.sort(np.random.default_rng(seed).choice(cells, CELLS, replace=False))
    return log_normalised(screen.read(cells))
