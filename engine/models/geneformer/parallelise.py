"""How a Geneformer block is shared by the ranks of a tensor-parallel group."""

from __future__ import annotations

from engine.models.layers.parallel import COLUMNS, ROWS, Split

# Layer of a block -> its split. Outputs of query, key and value are head by head.
PLAN: dict[str, Split] = {
    "attention.query": COLUMNS,
    "attention.key": COLUMNS,
    "attention.value": COLUMNS,
    "attention.out": ROWS,
    "ffn.up": COLUMNS,
    "ffn.down": ROWS,
}
