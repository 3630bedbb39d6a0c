"""Effects of edits as a product of the stream: one pass over the cells, all versions of a cell at once.

cells/<key>.parquet           rows (variant, cell) of a member: every metric of every cell
gene_sums/<key>.safetensors   what the changes of its genes add up to
*.parquet, metrics.json       of all cells, written at the end (`engine.interpret.steering.tables`)
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load, save

from engine.interpret.steering.design import Design
from engine.interpret.steering.effects import Gauge, metric_names, metric_values
from engine.interpret.steering.reading import open_reading
from engine.interpret.steering.tables import (
    cell_table,
    gene_table,
    metrics_of,
    summary_table,
    variant_table,
)
from engine.interpret.steering.totals import GeneSums
from engine.models import Encoder, PackedTokens, Tokens
from engine.streaming.copies import HostCopy
from engine.streaming.members import Member, members_by_tokens, token_bound
from engine.streaming.products.product import Source
from storage.activations import gene_table as names_of_genes
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.ranged_tables import parquet

KIND = "effects"
# A member holds every version of its cells, so it is smaller than one that is encoded once.
MEMBERS_WANTED, FEWEST_TOKENS, MOST_TOKENS = 64, 8_192, 131_072


@dataclass(frozen=True)
class EffectProduct:
    """What a design does to every cell.

    request: what was asked for, in JSON values; the design is what it came to. labels, directions_LD: whose
    directions in the space of embeddings shifts are measured along.
    """

    sae_path: str
    sae_fingerprint: str
    request: Mapping[str, Any]
    design: Design
    labels: tuple[str, ...]
    directions_LD: npt.NDArray[np.float32]

    kind = KIND

    def lineage(self) -> Mapping[str, Any]:
        return {
            "sae": self.sae_fingerprint,
            "request": dict(self.request),
            "labels": list(self.labels),
            "design": self.design.as_json(),
        }

    def members(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> list[MemberPlan]:
        bound = token_bound(nnz_per_cell, max_tokens=max_tokens, tokens_per_cell=None, n_special=n_special)
        wanted = int(bound.sum()) // MEMBERS_WANTED
        return members_by_tokens(bound, min(max(wanted, FEWEST_TOKENS), MOST_TOKENS))

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> EffectCollector:
        reading = open_reading(encoder, self.sae_path, self.sae_fingerprint)
        gauge = Gauge(encoder, reading, self.design, self.directions_LD)
        return EffectCollector(gauge, tokens, member, self.labels)

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        keys = [member.key for member in dataset.members]
        read = dataset.location.read
        cells = pd.concat(
            [pd.read_parquet(io.BytesIO(read(_cells_name(key)))) for key in keys], ignore_index=True
        )
        genes = names_of_genes(source.tokeniser.gene_ids, source.tokeniser.special_ids, source.store.genes)
        sums = GeneSums.merged(len(genes), (load(read(_sums_name(key))) for key in keys))
        metrics = [name for name in cells.columns if name not in ("variant", "cell")]
        quantities = [name.removeprefix("on_target_") for name in metrics if name.startswith("on_target_")]
        gene_names = genes["gene_name"].tolist()
        variants = variant_table(self.design)
        summary = summary_table(cells, metrics, self.design, seed=self.design.seed)
        by_gene = gene_table(sums, self.design, quantities, genes["gene_id"].tolist(), gene_names)
        body = metrics_of(summary, variants, self.design, gene_names)
        n_cells = int(cells["cell"].nunique())
        objects = {
            "variants.parquet": parquet(variants),
            "summary.parquet": parquet(summary),
            "genes.parquet": parquet(by_gene),
            "metrics.json": json.dumps({"n_cells": n_cells, **body}, indent=2).encode(),
        }
        facts = {
            "n_cells": n_cells,
            "n_variants": len(variants),
            "n_genes": int((sums.count_G > 0).sum()),
            "quantities": quantities,
        }
        return dataset.finish(objects, facts)


class EffectCollector:
    """Gathers the effects of one member on the host."""

    def __init__(self, gauge: Gauge, tokens: Tokens, member: Member, labels: tuple[str, ...]) -> None:
        self.gauge, self.member, self.tokens = gauge, member, tokens
        self.metrics = metric_names(gauge.quantities, labels)
        n_versions, n_quantities = len(gauge.design.variants), len(gauge.quantities)
        shape = (n_versions, tokens.n_cells, len(self.metrics))
        self.values_VCM = np.full(shape, np.nan, np.float32)
        self.sums = GeneSums.empty(n_versions, n_quantities, len(gauge.encoder.tokeniser.gene_ids))

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        effects = self.gauge(tokens, self.member.start + cells)
        values_VCM = HostCopy(metric_values(effects))
        by_gene = [HostCopy(part) for part in (effects.gene_R, effects.base_QR, effects.change_VQR)]

        def place() -> None:
            self.values_VCM[:, cells] = values_VCM.wait().numpy()
            gene_R, base_QR, change_VQR = (part.wait().numpy() for part in by_gene)
            self.sums.add(gene_R, base_QR, change_VQR)

        return place

    def objects(self) -> Iterator[tuple[str, bytes]]:
        with_tokens = np.flatnonzero(self.tokens.lengths)
        table = cell_table(self.values_VCM[:, with_tokens], self.metrics, self.member.start + with_tokens)
        yield _cells_name(self.member.key), parquet(table)
        arrays = {name: np.ascontiguousarray(array) for name, array in self.sums.arrays().items()}
        yield _sums_name(self.member.key), save(arrays)

    def facts(self) -> Mapping[str, Any]:
        return {
            "start": self.member.start,
            "stop": self.member.stop,
            "n_tokens": self.tokens.n_tokens,
            "n_empty": len(self.tokens.empty_cells),
        }


def _cells_name(key: str) -> str:
    return f"cells/{key}.parquet"


def _sums_name(key: str) -> str:
    return f"gene_sums/{key}.safetensors"
