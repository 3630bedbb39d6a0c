"""Cells to tokens to packed batches to encoder actors to committed shards, on Ray Data."""
