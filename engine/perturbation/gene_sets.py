"""What is known of genes before any cell is seen: the sets they are in (pathways, complexes, programmes).

Two targets are alike when they share sets; a shared set of few genes counts more than one of many.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from engine.perturbation.rank_sum import Array
from storage.errors import InputError
from storage.locations import Location

# Smaller sets say nothing of any other gene, larger ones nothing of anyone.
LEAST, MOST = 3, 1000
_GENOME = 20_000


@dataclass(frozen=True)
class GeneSets:
    """Genes by the sets they are in; empty sets of knowledge are allowed."""

    genes: Mapping[str, tuple[int, ...]]
    """Gene -> numbers of its sets, ascending."""
    sizes: tuple[int, ...]
    """Genes in each set."""

    @classmethod
    def read(cls, paths: Sequence[str]) -> GeneSets:
        """GMT files (name, description, genes; tab-separated, also .gz).

        Raises InputError for a file that cannot be read or a line that is no set.
        """
        genes: dict[str, list[int]] = {}
        sizes: list[int] = []
        for path in paths:
            for number, line in enumerate(_lines(path), start=1):
                fields = line.rstrip("\r\n").split("\t")
                if len(fields) < 3:
                    raise InputError(
                        f"{path}: line {number} has {len(fields)} fields, expected name, description and "
                        "genes, separated by tabs (GMT)."
                    )
                members = {gene.strip() for gene in fields[2:] if gene.strip()}
                if LEAST <= len(members) <= MOST:
                    for gene in members:
                        genes.setdefault(gene, []).append(len(sizes))
                    sizes.append(len(members))
        return cls({gene: tuple(sets) for gene, sets in genes.items()}, tuple(sizes))

    @classmethod
    def from_json(cls, content: bytes) -> GeneSets:
        read = json.loads(content)
        return cls({gene: tuple(sets) for gene, sets in read["genes"].items()}, tuple(read["sizes"]))

    def as_json(self) -> bytes:
        return json.dumps({"sizes": self.sizes, "genes": self.genes}, separators=(",", ":")).encode()

    def __contains__(self, gene: str) -> bool:
        return gene in self.genes

    def likeness(self, left: Sequence[str], right: Sequence[str]) -> Array:
        """[left, right] in 0 .. 1: squared cosine of set memberships weighted by rarity; 1 for a gene itself.

        Squared, so that a few widely shared sets do not make all genes relatives.
        """
        found = np.asarray((self._unit(left) @ self._unit(right).T).todense()) ** 2
        place = {gene: number for number, gene in enumerate(right)}
        for number, gene in enumerate(left):
            if gene in place:
                found[number, place[gene]] = 1.0
        return found

    def components(self, genes: Sequence[str], n: int) -> Array:
        """[genes, n] leading components of memberships, standardised; zeros for genes in no set."""
        unit = self._unit(genes).toarray()
        found = np.zeros((len(genes), n))
        known = np.flatnonzero(unit.any(axis=1))
        if len(known) > 1:
            left, size, _ = np.linalg.svd(unit[known] - unit[known].mean(axis=0), full_matrices=False)
            k = min(n, len(size))
            values = (left * size)[:, :k]
            spread = values.std(axis=0)
            found[known, :k] = values / np.where(spread > 1e-9, spread, 1.0)
        return found

    def members(self, genes: Sequence[str]) -> Array:
        """[genes, sets] 1 where a gene is in a set."""
        return np.asarray(self._memberships(genes).todense())

    def _unit(self, genes: Sequence[str]) -> sparse.csr_matrix:
        """[genes, sets] rows of length 1, or 0 for genes in no set."""
        matrix = self._memberships(genes)
        matrix.data = np.log(_GENOME / np.array(self.sizes, dtype=np.float64))[matrix.indices]
        length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        return sparse.csr_matrix(sparse.diags_array(1 / np.where(length > 0, length, 1.0)) @ matrix)

    def _memberships(self, genes: Sequence[str]) -> sparse.csr_matrix:
        sets = [self.genes.get(gene, ()) for gene in genes]
        columns = np.array([number for row in sets for number in row], dtype=np.int64)
        pointers = np.cumsum([0, *map(len, sets)])
        return sparse.csr_matrix(
            (np.ones(len(columns)), columns, pointers), shape=(len(genes), len(self.sizes))
        )


NOTHING_KNOWN = GeneSets({}, ())


def _lines(path: str) -> Iterable[str]:
    try:
        content = Location.of(path).read()
        if path.endswith(".gz"):
            content = gzip.decompress(content)
        return io.StringIO(content.decode())
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(f"--gene-sets {path}: cannot be read as a GMT file ({error}).") from error
