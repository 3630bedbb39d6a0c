"""CellWhisperer's rule for the top genes of a selection: every cell votes.

Each cell ranks its genes by count over the gene's normaliser, and gives ceil(log2(100 - place)) votes to each
of its first hundred. Source: epigen/CellWhisperer (which genes) and epigen/cellxgene (their votes).
Legend: C cells, G genes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

N_PLACES = 100
# ceil(log2(100 - place)) of places 0 to 99: from 7 votes down to none for the last.
VOTES = np.ceil(np.log2(np.arange(N_PLACES, 0, -1))).astype(np.int64)

Float64 = npt.NDArray[np.float64]


def top_genes(counts_CG: sparse.csr_matrix, normaliser_G: Float64, most: int) -> npt.NDArray[np.int64]:
    """Columns of the genes with most votes, most first; of equal ones the first column.

    normaliser_G: mean log(1 + count) of each gene over cells in general, by whose exponential counts are
    divided. Genes that no cell counts are never among them.
    """
    votes_G = np.zeros(counts_CG.shape[1], np.int64)
    scale_G = np.exp(normaliser_G)
    for start, stop in zip(counts_CG.indptr[:-1], counts_CG.indptr[1:], strict=True):
        genes = counts_CG.indices[start:stop]
        relative = counts_CG.data[start:stop] / scale_G[genes]
        # Of equal ones the first column, as a stable sort of the whole row would have it.
        first = np.lexsort((genes, -relative))[:N_PLACES]
        votes_G[genes[first]] += VOTES[: len(first)]
    order = np.argsort(-votes_G, kind="stable")[:most]
    found: npt.NDArray[np.int64] = order[votes_G[order] > 0]
    return found
