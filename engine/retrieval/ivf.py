"""Inverted lists over a segment, by faiss: opt-in, for indexes too large to read for every query.

Lists of 8-bit scalar-quantised vectors around k-means centroids (Jegou et al. 2011). They are asked only
where nothing is excluded; what they return is scored exactly like any shortlist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from storage.index import Segment, VectorIndex
from storage.index.segments import mapped

# Vectors a centroid is trained on; faiss warns below 39 and gains nothing above a few hundred.
_TRAINED_ON = 64


class InvertedLists:
    """Inverted lists of one segment. Not thread-safe."""

    def __init__(self, lists: Any) -> None:
        self._lists = lists

    @classmethod
    def open(cls, index: VectorIndex, segment: Segment) -> InvertedLists:
        """Mapped from a local file, read from an object store."""
        import faiss

        name, local = segment.ivf_name, index.snapshot.location.local
        if name is None:
            raise ValueError(f"segment {segment.key} has no inverted lists")
        if local is None:
            return cls(faiss.deserialize_index(mapped(index.snapshot, name)))
        return cls(faiss.read_index(str(local / name), faiss.IO_FLAG_MMAP_IFC))

    @property
    def n_lists(self) -> int:
        return int(self._lists.nlist)

    def near(self, query_D: npt.NDArray[np.float32], k: int, probes: int) -> npt.NDArray[np.int64]:
        """The k rows of the segment that look best in the `probes` lists nearest to the query, ascending; in
        all lists, where those hold fewer.
        """
        self._lists.nprobe = min(probes, self.n_lists)
        _, rows = self._lists.search(query_D[None], k)
        if rows[0][-1] < 0 and probes < self.n_lists:
            return self.near(query_D, k, self.n_lists)
        found: npt.NDArray[np.int64] = np.sort(rows[0][rows[0] >= 0])
        return found


def inverted_lists(vectors_ND: npt.NDArray[np.float16], n_lists: int, seed: int) -> memoryview:
    """Inverted lists of a segment's rows, serialised. The same rows, seed and faiss give the same lists."""
    import faiss

    n, width = vectors_ND.shape
    n_lists = max(1, min(n_lists, n // _TRAINED_ON))
    centres = faiss.IndexFlatIP(width)
    kind = faiss.ScalarQuantizer.QT_8bit
    lists = faiss.IndexIVFScalarQuantizer(centres, width, n_lists, kind, faiss.METRIC_INNER_PRODUCT)
    lists.cp.seed = seed
    sample = np.random.default_rng(seed).choice(n, min(n, n_lists * _TRAINED_ON), replace=False)
    lists.train(vectors_ND[np.sort(sample)].astype(np.float32))
    for start in range(0, n, 65_536):
        lists.add(vectors_ND[start : start + 65_536].astype(np.float32))
    content: npt.NDArray[np.uint8] = faiss.serialize_index(lists)
    return content.data
