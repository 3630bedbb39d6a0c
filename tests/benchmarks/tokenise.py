"""Counts to tokens: our tokenisers, which take a block of cells at once, and a loop over cells."""

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import torch
from scipy import sparse

from engine.models import geneformer, tahoe
from engine.models.matching import GeneMatch
from engine.models.tokens import Tokeniser, Tokens
from tests.benchmarks.cpu_time import cpu_seconds
from tests.benchmarks.report import REPOSITORY, Figure, main

ABOUT = """Cells per CPU-second from raw counts to tokens, one thread, on the 2,638 real cells of pbmc3k
(849 genes a cell). Ours takes them in one block; theirs goes from cell to cell the way the originals do:
torch.quantile and bucketize of each cell's counts that are not zero (Tahoe-x1); a row of the normalised
matrix, an argsort, then the tokens as a list, cropped, and each special token inserted (Geneformer, whose
dataset maps a function over lists; what the dataset itself costs is left out). Matching genes to the
vocabulary happens once for a store and is left out on both sides. Tokens are compared: all equal but for
the order of equal values in Geneformer, which the original leaves to an unstable sort. Best of interleaved
passes."""

CELLS = REPOSITORY.parent / "shared" / "data" / "pbmc3k.h5ad"
BLOCK, TARGET = 4_096, 10.0
N_EDGES = 50

Loop = Callable[[sparse.csr_matrix], list[np.ndarray]]


def tahoe_loop(tokeniser: Tokeniser, gene_ids: list[str]) -> Loop:
    """Each cell by itself: `<cls>`, its genes, their counts binned by quantiles."""
    tokens = np.array([tokeniser.vocabulary[gene] for gene in gene_ids])
    cell_token = tokeniser.vocabulary["<cls>"]

    def loop(cells: sparse.csr_matrix) -> list[np.ndarray]:
        made = []
        for row in range(cells.shape[0]):
            entries = slice(cells.indptr[row], cells.indptr[row + 1])
            ids = np.insert(tokens[cells.indices[entries]], 0, cell_token)
            values = torch.from_numpy(np.insert(cells.data[entries].astype(np.float32), 0, -2.0))
            counts = values[1:]
            expressed = counts.nonzero()[:, 0]
            edges = torch.quantile(counts[expressed], torch.linspace(0, 1, N_EDGES))
            binned = torch.zeros_like(counts)
            binned[expressed] = (torch.bucketize(counts[expressed], edges) + 1).float()
            values[1:] = binned
            made.append(np.stack([ids, values.numpy()]))
        return made

    return loop


def geneformer_loop(tokeniser: geneformer.GeneformerTokeniser, gene_ids: list[str]) -> Loop:
    """512 cells are normalised together; then each cell's row is taken out, twice, and ranked."""
    tokens = np.array([tokeniser.vocabulary[gene] for gene in gene_ids])
    medians = np.array([tokeniser.medians[gene] for gene in gene_ids])
    columns = np.arange(len(gene_ids))
    first, last = tokeniser.vocabulary["<cls>"], tokeniser.vocabulary["<eos>"]

    def loop(cells: sparse.csr_matrix) -> list[np.ndarray]:
        made = []
        for start in range(0, cells.shape[0], 512):
            chunk = cells[start : start + 512][:, columns].astype(np.float64)
            scaled = sparse.csr_matrix(chunk / chunk.sum(1) * 10_000 / medians)
            for row in range(scaled.shape[0]):
                values, ids = scaled[row].data, tokens[scaled[row].indices]
                ranked = ids[np.argsort(-values)].tolist()
                begun = np.insert(ranked[: tokeniser.max_tokens - 2], 0, first)
                made.append(np.insert(begun, len(begun), last))
        return made

    return loop


def ours(tokeniser: Tokeniser, match: GeneMatch, cells: sparse.csr_matrix) -> list[Tokens]:
    """Tokens of every cell, in the blocks they were made in."""
    made = []
    for start in range(0, cells.shape[0], BLOCK):
        low, high = cells.indptr[start], cells.indptr[min(start + BLOCK, cells.shape[0])]
        indptr = cells.indptr[start : start + BLOCK + 1].astype(np.int64) - low
        tokens = tokeniser.tokenise(indptr, cells.indices[low:high], cells.data[low:high], match)
        made.append(tokens)
    return made


def require_same(name: str, blocks: list[Tokens], theirs: list[np.ndarray]) -> None:
    made = [block.select([cell]) for block in blocks for cell in range(block.n_cells)]
    for cell, (one, other) in enumerate(zip(made, theirs, strict=True)):
        if name == "Tahoe-x1":
            same = np.array_equal(one.ids_T, other[0]) and np.array_equal(one.values_T, other[1])
        else:
            same = np.array_equal(np.sort(one.ids_T), np.sort(other)) and (one.ids_T == other).mean() > 0.5
        if not same:
            raise RuntimeError(f"{name}: the tokens of cell {cell} differ")


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    torch.set_num_threads(1)
    counts = anndata.read_h5ad(CELLS)
    gene_ids = list(counts.var["ensembl_id"])
    cells = sparse.csr_matrix(counts.X[:200] if smoke else counts.X)
    cells.sort_indices()
    cells = sparse.csr_matrix((cells.data.astype(np.uint16), cells.indices, cells.indptr), shape=cells.shape)
    medians = dict(zip(gene_ids, np.random.default_rng(0).lognormal(0, 0.5, len(gene_ids)), strict=True))
    size = {"d_model": 8, "n_layers": 1, "n_heads": 1, "max_tokens": 4_096}
    of_tahoe = tahoe.create(gene_ids, **size).tokeniser
    of_geneformer = geneformer.create(gene_ids, medians, **size, ffn=8).tokeniser
    figures = []
    for name, tokeniser, loop in (
        ("Tahoe-x1", of_tahoe, tahoe_loop(of_tahoe, gene_ids)),
        ("Geneformer V2", of_geneformer, geneformer_loop(of_geneformer, gene_ids)),
    ):
        match = tokeniser.match(gene_ids)  # once for a store; the loops have the tokens of columns as well
        require_same(name, ours(tokeniser, match, cells), loop(cells))
        best = {"ours": np.inf, "theirs": np.inf}
        for _ in range(1 if smoke else 9):
            best["ours"] = min(best["ours"], cpu_seconds(lambda: ours(tokeniser, match, cells)))  # noqa: B023
            best["theirs"] = min(best["theirs"], cpu_seconds(lambda: loop(cells)))  # noqa: B023
        ours_rate, their_rate = (cells.shape[0] / best[side] for side in ("ours", "theirs"))
        figures.append(
            Figure.ratio(
                f"{name} tokens of pbmc3k", ours_rate, their_rate, "a loop over cells, cells/CPU-s", TARGET
            )
        )
    return figures


if __name__ == "__main__":
    raise SystemExit(main("tokenise", ABOUT, measure))
