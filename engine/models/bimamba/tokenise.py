"""What a model knows of its genes beforehand: names, order along the genome, chromosome and locus.

Legend: G genes (measured ones first, then targets that are not measured).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models.errors import ModelError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Bases of GRCh38 (Genome Reference Consortium).
GRCH38 = {
    "1": 248_956_422,
    "2": 242_193_529,
    "3": 198_295_559,
    "4": 190_214_555,
    "5": 181_538_259,
    "6": 170_805_979,
    "7": 159_345_973,
    "8": 145_138_636,
    "9": 138_394_717,
    "10": 133_797_422,
    "11": 135_086_622,
    "12": 133_275_309,
    "13": 114_364_328,
    "14": 107_043_718,
    "15": 101_991_189,
    "16": 90_338_345,
    "17": 83_257_441,
    "18": 80_373_285,
    "19": 58_617_616,
    "20": 64_444_167,
    "21": 46_709_983,
    "22": 50_818_468,
    "X": 156_040_895,
    "Y": 57_227_415,
}
CHROMOSOMES = tuple(GRCH38)
OTHER = len(CHROMOSOMES)
UNKNOWN_LOCUS = 0.5
_SHOWN = 5


@dataclass(frozen=True)
class GeneLoci:
    """Where each gene lies.

    chromosome_G: index into CHROMOSOMES; 24 for all others and for genes of unknown position.
    locus_G: start as a share of the chromosome's length, 0 to 1; 0.5 where unknown.
    """

    chromosome_G: Ints
    locus_G: Floats

    def order(self, n_genes: int) -> Ints:
        """The first `n_genes` genes sorted by chromosome and start, unknown ones last, ties as given."""
        order: Ints = np.lexsort((self.locus_G[:n_genes], self.chromosome_G[:n_genes])).astype(np.int64)
        return order


def gene_loci(genes: Sequence[str], positions: Any = None) -> GeneLoci:
    """Loci of genes from a table of positions.

    positions: anything with columns `gene` (named as `genes` are), `chromosome` ("chr1" or "1") and `start`
        (bases): a DataFrame or a dictionary of arrays. None: no position is
        known. Genes it lacks are unknown.
    Raises ModelError for missing columns, starts that are no positions, or a gene with two positions.
    """
    chromosome_G = np.full(len(genes), OTHER, np.int64)
    locus_G = np.full(len(genes), UNKNOWN_LOCUS, np.float32)
    if positions is None:
        return GeneLoci(chromosome_G, locus_G)
    named = _columns(positions)
    place = {gene: row for row, gene in enumerate(named["gene"])}
    if len(place) < len(named["gene"]):
        names, counts = np.unique(np.asarray(named["gene"], str), return_counts=True)
        twice = names[counts > 1][:_SHOWN].tolist()
        raise ModelError(f"gene positions: {', '.join(twice)} have two rows; keep one row a gene")
    rows_G = np.array([place.get(gene, -1) for gene in genes], np.int64)
    known_G = rows_G >= 0
    chromosome_R = np.array([_chromosome(name) for name in named["chromosome"]], np.int64)
    share_R = _shares(chromosome_R, named["start"])
    chromosome_G[known_G] = chromosome_R[rows_G[known_G]]
    locus_G[known_G] = share_R[rows_G[known_G]]
    return GeneLoci(chromosome_G, locus_G)


def _columns(positions: Any) -> dict[str, Any]:
    columns = ("gene", "chromosome", "start")
    names = set(positions.keys() if isinstance(positions, Mapping) else positions.columns)
    if missing := [name for name in columns if name not in names]:
        raise ModelError(f"gene positions: no column {', '.join(missing)}; needed are {', '.join(columns)}")
    found = {name: list(positions[name]) for name in columns}
    start = np.asarray(found["start"], np.float64)
    if not (np.isfinite(start) & (start >= 0)).all():
        raise ModelError("gene positions: `start` must be a number of bases, 0 or more, in every row")
    return found | {"start": start}


def _chromosome(name: Any) -> int:
    text = str(name)
    text = text[3:] if text[:3].lower() == "chr" else text
    return CHROMOSOMES.index(text.upper()) if text.upper() in CHROMOSOMES else OTHER


def _shares(chromosome_R: Ints, start_R: npt.NDArray[np.float64]) -> Floats:
    """Start by length of the chromosome: GRCh38's, or the farthest start where another genome's is longer.

    Genes outside the 24 chromosomes have no locus.
    """
    longest = np.array(list(GRCH38.values()), np.float64)
    inside_R = chromosome_R != OTHER
    np.maximum.at(longest, chromosome_R[inside_R], start_R[inside_R])
    share_R = np.full(len(start_R), UNKNOWN_LOCUS, np.float32)
    share_R[inside_R] = start_R[inside_R] / longest[chromosome_R[inside_R]]
    return share_R
