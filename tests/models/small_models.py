"""Small random encoders and count matrices for unit tests."""

import numpy as np
import scipy.sparse
import torch

from engine.models import geneformer, tahoe
from engine.models.tokens import Tokens

GENES = [f"ENSG{i:011d}" for i in range(40)]


def counts(n_cells: int = 12, n_genes: int = 40, seed: int = 0) -> scipy.sparse.csr_matrix:
    """Raw counts with cells of very different depth, the third one empty."""
    random = np.random.default_rng(seed)
    dense = random.poisson(random.gamma(1.0, 1.0, (n_cells, 1)), (n_cells, n_genes)).astype(np.float32)
    dense[:, 0] += 1  # no other cell is empty
    dense[2] = 0
    return scipy.sparse.csr_matrix(dense)


def small_tahoe(**sizes: int) -> tahoe.TahoeEncoder:
    encoder = tahoe.create(GENES, **({"n_layers": 2, "d_model": 16, "n_heads": 2} | sizes))
    return perturbed(encoder)


def small_geneformer(*, special_tokens: bool = True, **sizes: int) -> geneformer.GeneformerEncoder:
    medians = {gene: 1.0 + i % 7 for i, gene in enumerate(GENES)}
    sizes = {"n_layers": 3, "d_model": 16, "n_heads": 2, "ffn": 24, "max_tokens": 64} | sizes
    return perturbed(geneformer.create(GENES, medians, special_tokens=special_tokens, **sizes))


@torch.no_grad()
def perturbed(encoder):  # type: ignore[no-untyped-def]
    """Noise on every weight, so that no bias is zero and no norm the identity."""
    generator = torch.Generator().manual_seed(3)
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return encoder.eval()


def tokens_of(encoder, n_cells: int = 12, **options: int) -> Tokens:  # type: ignore[no-untyped-def]
    cells = counts(n_cells)
    match = encoder.tokeniser.match(GENES)
    found: Tokens = encoder.tokeniser.tokenise(cells.indptr, cells.indices, cells.data, match, **options)
    return found
