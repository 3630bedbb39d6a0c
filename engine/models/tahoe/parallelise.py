"""How a Tahoe-x1 block is shared by the ranks of a tensor-parallel group."""

from __future__ import annotations

from engine.models.layers.parallel import COLUMNS, QKV_COLUMNS, ROWS, Split

# Layer of a block -> its split. The gate is there with GLU only; it multiplies `up` column by column.
PLAN: dict[str, Split] = {
    "attention.qkv": QKV_COLUMNS,
    "attention.out": ROWS,
    "ffn.up": COLUMNS,
    "ffn.gate": COLUMNS,
    "ffn.down": ROWS,
}
