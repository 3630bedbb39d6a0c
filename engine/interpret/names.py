"""What numbers in a feature pass are called.

Shape legend: F features, G token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.interpret.runs import Float64


@dataclass(frozen=True)
class Names:
    """What numbers in a state are called: per token id, per cell row, per label."""

    gene_id_G: Sequence[str]
    gene_name_G: Sequence[str]
    cell_names: Sequence[str]
    cell_labels: Sequence[str | None] | None = None
    """Label of each cell row, None where it has none; None altogether without a label column."""
    labels: Sequence[str] = ()
    feature_columns: Mapping[str, Float64] = field(default_factory=dict)
    """Further columns of the feature table, `[F]` of all features."""
