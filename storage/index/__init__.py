"""Vector index: immutable segments that are opened without a copy, under a manifest that is swapped whole.

    transform/short.safetensors     how a vector becomes its short code; one for the whole index
    segments/<key>/vectors.f16      `[N, D]` float16, unit length
    segments/<key>/short.i8         `[N, S]` int8: the short codes, for the first pass of a search
    segments/<key>/norms.f32        `[N]` length of each vector as it came
    segments/<key>/ids.i64          `[N]` cell id: number of the cell over all that was ever indexed
    segments/<key>/obs.arrow        annotations, Arrow IPC, dictionary-encoded, uncompressed
    segments/<key>/ivf.faiss        optional inverted lists
    deleted/<key>-<hash>.bits       bitmap of deleted rows, one bit each, first row in the highest bit

The manifest is the newest snapshot of the commit protocol. Appending, deleting and compacting write new
objects and then create the next snapshot, once: of two writers that race one is told to start again, and a
reader keeps the version it opened.
"""

from storage.index.reader import KIND, Segment, VectorIndex
from storage.index.segments import SegmentArrays
from storage.index.short_codes import ShortCodes

__all__ = ["KIND", "Segment", "SegmentArrays", "ShortCodes", "VectorIndex"]
