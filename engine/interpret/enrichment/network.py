"""Do the genes of a feature interact? Edges inside its list against what their degrees alone would give.

Well-studied genes have many partners, so a list of them always holds edges. The expectation is that of a
random graph with the same degrees (Chung and Lu 2002; Pradines and others 2005 test gene lists with it):
sum over pairs of d_i d_j / 2M edges, the observed number Poisson about it.

Shape legend: F lists, G genes of the background, M edges, N edges inside a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

from engine.interpret.enrichment.lists import Background, GeneLists, memberships
from engine.interpret.runs import Float64, Int64
from engine.interpret.statistics import benjamini_hochberg

MIN_SCORE = 700.0
EDGE_COLUMNS = ["feature", "gene_a", "gene_b", "score", "module"]
BETWEEN_MODULES = -1
DRAWS = 499
"""Degree-matched lists drawn where the Poisson approximation is doubtful (less than one edge expected)."""


@dataclass(frozen=True)
class Network:
    """An undirected network of genes of a background; `adjacent_GG` is symmetric, without a diagonal."""

    background: Background
    adjacent_GG: sparse.csr_matrix
    score_GG: sparse.csr_matrix

    @classmethod
    def of(cls, background: Background, edges: pd.DataFrame, min_score: float = MIN_SCORE) -> Network:
        """edges: gene_a, gene_b, score, in one direction or both. Other genes' edges are left out: a list
        could not have held them."""
        chosen = edges[edges["score"] >= min_score]
        places = pd.Index(background.genes)
        a_M, b_M = (places.get_indexer(pd.Index(chosen[name])) for name in ("gene_a", "gene_b"))
        known = (a_M >= 0) & (b_M >= 0) & (a_M != b_M)
        a_M, b_M, score_M = a_M[known], b_M[known], chosen["score"].to_numpy(np.float64)[known]
        shape = (len(background), len(background))
        adjacent = memberships(np.concatenate([a_M, b_M]), np.concatenate([b_M, a_M]), shape)
        low_M, high_M = np.minimum(a_M, b_M), np.maximum(a_M, b_M)
        _, first = np.unique(low_M * np.int64(len(background)) + high_M, return_index=True)
        score = sparse.csr_matrix((score_M[first], (low_M[first], high_M[first])), shape=shape)
        return cls(background, adjacent, score)

    @cached_property
    def degrees(self) -> Int64:
        return np.diff(self.adjacent_GG.indptr).astype(np.int64)

    @property
    def n_edges(self) -> int:
        return self.adjacent_GG.nnz // 2

    def inside(self, genes: Int64) -> sparse.csr_matrix:
        """The part of the network among some genes, in their order."""
        return self.adjacent_GG[genes][:, genes]


def coherence(lists: GeneLists, network: Network, seed: int = 0, alpha: float = 0.05) -> pd.DataFrame:
    """One row per list: edges inside it, expected ones, p and its rate over all lists that could have one.

    network_genes: genes of the list with any edge. p is the Poisson upper tail; where less than one edge is
    expected and p is small, p of degree-matched lists replaces it if that is larger. clustering: mean share
    of a gene's partners in the list that are partners of each other. Lists without a pair have 0 and p 1.
    """
    from scipy import stats

    member_FG = lists.member_FG.astype(np.int64)
    degree_G, doubled = network.degrees, max(2 * network.n_edges, 1)
    edges_F = _edges_inside(member_FG, network.adjacent_GG.astype(np.int64))
    sum_F, squares_F = member_FG @ degree_G, member_FG @ degree_G**2
    expected_F = (sum_F.astype(np.float64) ** 2 - squares_F) / 2 / doubled
    poisson_F = np.where(edges_F > 0, stats.poisson.sf(edges_F - 1, np.maximum(expected_F, 1e-300)), 1.0)
    mapped_F = member_FG @ (degree_G > 0).astype(np.int64)
    p_F = _checked(lists, network, edges_F, expected_F, poisson_F, seed, alpha)
    shapes = [_shape(network, row) for row in _rows(lists, network)]
    q_F = np.ones(len(lists))
    q_F[mapped_F > 1] = benjamini_hochberg(p_F[mapped_F > 1])
    return pd.DataFrame(
        {
            "feature": lists.names_F,
            "network_genes": mapped_F,
            "edges": edges_F,
            "edges_expected": expected_F,
            "edges_p_poisson": poisson_F,
            "edges_p": p_F,
            "edges_q": q_F,
            "mean_degree": [shape[0] for shape in shapes],
            "clustering": [shape[1] for shape in shapes],
            "components": [shape[2] for shape in shapes],
            "largest_component": [shape[3] for shape in shapes],
        }
    )


def _edges_inside(member_FG: sparse.csr_matrix, adjacent_GG: sparse.csr_matrix) -> Int64:
    """Edges among the genes of each row."""
    ends = (member_FG @ adjacent_GG).multiply(member_FG).sum(axis=1)
    return np.asarray(ends, np.int64).ravel() // 2


def _rows(lists: GeneLists, network: Network) -> Iterator[Int64]:
    """The genes of each list that have any edge."""
    member = lists.member_FG
    for start, stop in zip(member.indptr, member.indptr[1:], strict=False):
        genes = member.indices[start:stop].astype(np.int64)
        yield genes[network.degrees[genes] > 0]


def _shape(network: Network, genes: Int64) -> tuple[float, float, int, int]:
    """(mean degree inside, mean local clustering, components, size of the largest) of some genes."""
    if not genes.size:
        return 0.0, 0.0, 0, 0
    inside = network.inside(genes).astype(np.int64)
    degree = np.diff(inside.indptr)
    triangles = np.asarray((inside @ inside).multiply(inside).sum(axis=1)).ravel()
    pairs = degree * (degree - 1)
    clustering = np.divide(triangles, pairs, out=np.zeros(genes.size), where=pairs > 0)
    n_components, component = csgraph.connected_components(inside, directed=False)
    return (
        float(degree.mean()),
        float(clustering.mean()),
        int(n_components),
        int(np.bincount(component).max()),
    )


def _checked(
    lists: GeneLists,
    network: Network,
    edges_F: Int64,
    expected_F: Float64,
    poisson_F: Float64,
    seed: int,
    alpha: float,
) -> Float64:
    """p of lists with few expected edges: the larger of Poisson's and that of degree-matched lists."""
    p_F = poisson_F.copy()
    band_G = np.floor(np.log2(network.degrees + 1)).astype(np.int64)
    of_band = {int(band): np.flatnonzero(band_G == band) for band in np.unique(band_G)}
    adjacent = network.adjacent_GG.astype(np.int64)
    for row in np.flatnonzero((expected_F < 1) & (poisson_F <= alpha)):
        rng = np.random.default_rng([seed, int(lists.names_F[row])])
        genes = lists.member_FG.indices[lists.member_FG.indptr[row] : lists.member_FG.indptr[row + 1]]
        drawn = np.stack([rng.choice(of_band[int(band_G[gene])], DRAWS) for gene in genes], axis=1)
        rows = np.repeat(np.arange(DRAWS), len(genes))
        matched = memberships(rows, drawn.ravel(), (DRAWS, len(band_G))).astype(np.int64)
        edges = _edges_inside(matched, adjacent)
        p_F[row] = max(poisson_F[row], (1 + int((edges >= edges_F[row]).sum())) / (DRAWS + 1))
    return p_F


def edge_table(lists: GeneLists, network: Network, first: int, stop: int) -> pd.DataFrame:
    """Edges inside each of the lists [first, stop), with the module both ends are in (Leiden, modularity), or
    -1 between modules."""
    names = np.array(network.background.genes, object)
    parts = [
        _edges_of(network, names, int(lists.names_F[first + place]), genes)
        for place, genes in enumerate(_rows(lists.part(first, stop), network))
    ]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else empty_edges()


def _edges_of(network: Network, names: np.ndarray, feature: int, genes: Int64) -> pd.DataFrame:
    inside = network.score_GG[genes][:, genes].tocoo()
    if not inside.nnz:
        return empty_edges()
    order = np.lexsort((inside.col, inside.row))
    a_N, b_N = inside.row[order].astype(np.int64), inside.col[order].astype(np.int64)
    module_G = modules(len(genes), a_N, b_N)
    return pd.DataFrame(
        {
            "feature": feature,
            "gene_a": names[genes[a_N]],
            "gene_b": names[genes[b_N]],
            "score": inside.data[order],
            "module": np.where(module_G[a_N] == module_G[b_N], module_G[a_N], BETWEEN_MODULES),
        }
    )[EDGE_COLUMNS]


def modules(n_genes: int, a_N: Int64, b_N: Int64) -> Int64:
    """Module of each gene of a small graph, the largest first; deterministic."""
    import igraph  # type: ignore[import-untyped]
    import leidenalg  # type: ignore[import-untyped]

    graph = igraph.Graph(n=n_genes, edges=list(zip(a_N.tolist(), b_N.tolist(), strict=True)))
    found = leidenalg.find_partition(graph, leidenalg.ModularityVertexPartition, seed=1)
    return np.asarray(found.membership, np.int64)


def empty_edges() -> pd.DataFrame:
    types = {"feature": np.int64, "gene_a": object, "gene_b": object, "score": np.float64, "module": np.int64}
    return pd.DataFrame({name: pd.Series(dtype=types[name]) for name in EDGE_COLUMNS})
