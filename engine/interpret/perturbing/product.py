"""Perturbed cells as a product of the stream: pairs of a cell and a perturbation, beside the cell as it is.

pairs/<key>.parquet     rows (perturbation, cell) of a member
perturbations.parquet   one row a perturbation: its genes, mean shifts, intervals, tests
metrics.json            the perturbations that move cells most

Legend: C cells, D width, V perturbed versions of a batch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.interpret.perturbing.edits import Perturbation, TokenEditor
from engine.interpret.perturbing.statistics import perturbation_table
from engine.models import Encoder, PackedTokens, Tokens
from engine.streaming.members import Member, members_by_tokens, token_bound
from engine.streaming.products.product import Source
from storage.activations import gene_table
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.ranged_tables import parquet

KIND = "perturbed_cells"
# A member's cells are encoded once for every perturbation of theirs, so it is smaller than one encoded once.
MEMBERS_WANTED, FEWEST_TOKENS, MOST_TOKENS = 64, 4_096, 131_072
SHOWN = 20


@dataclass(frozen=True)
class PerturbedCellsProduct:
    """What perturbations do to the embeddings of cells.

    request: what was asked, in JSON values. chosen_C: which cells of the store are perturbed. max_tokens: of
    a cell as the model sees it. batch_tokens: budget of a batch of perturbed cells. goal_D: where they could
    move to; None for no goal.
    """

    request: Mapping[str, Any]
    perturbations: tuple[Perturbation, ...]
    chosen_C: npt.NDArray[np.bool_]
    max_tokens: int
    batch_tokens: int
    layer: int
    pool: str
    goal_D: npt.NDArray[np.float32] | None
    base_drug: int | None = None
    """Row of the drug of unperturbed cells, of models with a drug token."""
    drugs: tuple[str, ...] = ()
    """Names of the perturbations, where these are drugs."""

    kind = KIND

    def lineage(self) -> Mapping[str, Any]:
        return {
            "request": dict(self.request),
            "layer": self.layer,
            "pool": self.pool,
            "max_tokens": self.max_tokens,
        }

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of each pair: 1 - cosine and the distance between its embeddings, and by how much the cosine with
        the goal grew.
        """
        return ("shift", "distance", *(() if self.goal_D is None else ("towards_goal",)))

    def members(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> list[MemberPlan]:
        bound = token_bound(nnz_per_cell, max_tokens=max_tokens, tokens_per_cell=None, n_special=n_special)
        wanted = int(bound.sum()) // MEMBERS_WANTED
        return members_by_tokens(bound, min(max(wanted, FEWEST_TOKENS), MOST_TOKENS))

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> PairCollector:
        return PairCollector(self, encoder, tokens, member)

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        read = dataset.location.read
        pairs = pd.concat(
            [pd.read_parquet(io.BytesIO(read(_pairs_name(member.key)))) for member in dataset.members],
            ignore_index=True,
        )
        genes = gene_table(source.tokeniser.gene_ids, source.tokeniser.special_ids, source.store.genes)
        table = perturbation_table(pairs, len(self.perturbations), self.metrics)
        names, ids = genes["gene_name"].tolist(), genes["gene_id"].tolist()
        for column, called in (("gene_names", names), ("gene_ids", ids)):
            table.insert(1, column, [",".join(called[gene] for gene in p.genes) for p in self.perturbations])
        if self.drugs:
            table.insert(1, "drug", list(self.drugs))
        table.insert(1, "kind", [each.kind for each in self.perturbations])
        facts = {
            "n_cells": int(pairs["cell"].nunique()),
            "n_pairs": len(pairs),
            "n_perturbations": len(table),
        }
        body = {**facts, **strongest(table, self.metrics)}
        objects = {
            "perturbations.parquet": parquet(table),
            "metrics.json": json.dumps(body, indent=2, allow_nan=False).encode(),
        }
        return dataset.finish(objects, facts)


class PairCollector:
    """Encodes a member's cells as they are, once, and then each with every perturbation that concerns it."""

    def __init__(
        self, product: PerturbedCellsProduct, encoder: Encoder, tokens: Tokens, member: Member
    ) -> None:
        self.product, self.encoder, self.tokens, self.member = product, encoder, tokens, member
        self.editor = TokenEditor.of(encoder.tokeniser, product.max_tokens)
        self.goal_D = None if product.goal_D is None else torch.as_tensor(product.goal_D).to(encoder.device)
        # Deletions by the genes they need, so that a cell is asked about its own genes only.
        self.by_gene: dict[int, list[int]] = {}
        self.of_any_cell: set[int] = set()
        for number, each in enumerate(product.perturbations):
            if each.kind != "delete":
                self.of_any_cell.add(number)
            for gene in each.genes if each.kind == "delete" else ():
                self.by_gene.setdefault(gene, []).append(number)
        self.found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Tensor]] = []
        self.n_versions_tokens = 0

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        """`tokens` may hold more of a cell than the model sees: the pass is of what the editor makes."""
        chosen = cells[self.product.chosen_C[self.member.start + cells]]
        whole = [self.tokens.select([cell]) for cell in chosen]
        if not whole:
            return lambda: None
        base_drugs = [self.product.base_drug] * len(whole)
        base_CD = self._embedded([self.editor.unperturbed(cell) for cell in whole], base_drugs)
        versions: list[tuple[int, int, Tokens]] = []
        waiting = 0
        for row, cell in enumerate(whole):
            for number in self._concerned(cell):
                version = self.editor.perturbed(cell, self.product.perturbations[number])
                if waiting + version.n_tokens > self.product.batch_tokens and versions:
                    self._measure(versions, chosen, base_CD)
                    versions, waiting = [], 0
                versions.append((row, number, version))
                waiting += version.n_tokens
        if versions:
            self._measure(versions, chosen, base_CD)
        return lambda: None

    def _concerned(self, cell: Tokens) -> list[int]:
        """Numbers of the perturbations that change this cell."""
        perturbations = self.product.perturbations
        found = self.of_any_cell | {
            number for token in cell.ids_T.tolist() for number in self.by_gene.get(token, ())
        }
        return sorted(number for number in found if self.editor.concerns(cell, perturbations[number]))

    def _embedded(self, cells: list[Tokens], drugs: Sequence[int | None]) -> Tensor:
        """e_CD; NaN for a cell without a gene."""
        packed = Tokens.concatenate(cells).to_torch(self.encoder.device)
        rows = [drug for drug in drugs if drug is not None]
        drug_C = torch.tensor(rows, device=self.encoder.device) if rows else None
        return self.encoder.embed(packed, self.product.layer, self.product.pool, drug_C=drug_C).float()

    def _measure(
        self, versions: list[tuple[int, int, Tokens]], cells: npt.NDArray[np.int64], base_CD: Tensor
    ) -> None:
        rows, numbers, tokens = zip(*versions, strict=True)
        drugs = [self.product.perturbations[number].drug for number in numbers]
        perturbed_VD = self._embedded(list(tokens), drugs)
        metric_VM = shifts(base_CD[torch.tensor(rows, device=base_CD.device)], perturbed_VD, self.goal_D)
        self.n_versions_tokens += sum(each.n_tokens for each in tokens)
        self.found.append((np.array(numbers), self.member.start + cells[list(rows)], metric_VM))

    def objects(self) -> Iterator[tuple[str, bytes]]:
        none = [np.zeros(0, np.int64)]
        metrics = [metric_VM.cpu().numpy() for _, _, metric_VM in self.found]
        value_NM = np.concatenate([np.zeros((0, len(self.product.metrics)), np.float32), *metrics])
        table = pd.DataFrame(
            {
                "perturbation": np.concatenate([*none, *(numbers for numbers, _, _ in self.found)]),
                "cell": np.concatenate([*none, *(cells for _, cells, _ in self.found)]),
                **{name: value_NM[:, at] for at, name in enumerate(self.product.metrics)},
            }
        )
        # A cell without genes has no embedding and no shift.
        table = table[np.isfinite(value_NM).all(1)].sort_values(["cell", "perturbation"])
        yield _pairs_name(self.member.key), parquet(table)

    def facts(self) -> Mapping[str, Any]:
        return {
            "start": self.member.start,
            "stop": self.member.stop,
            "n_pairs": sum(len(cells) for _, cells, _ in self.found),
            "n_tokens": self.n_versions_tokens,
        }


def shifts(base_VD: Tensor, perturbed_VD: Tensor, goal_D: Tensor | None) -> Tensor:
    """The metrics of pairs, float32 [V, 2 or 3]; see `PerturbedCellsProduct.metrics`."""
    found = [1 - F.cosine_similarity(base_VD, perturbed_VD), (perturbed_VD - base_VD).norm(dim=1)]
    if goal_D is not None:
        nearer_V = F.cosine_similarity(perturbed_VD, goal_D[None]) - F.cosine_similarity(
            base_VD, goal_D[None]
        )
        found.append(nearer_V)
    return torch.stack(found, 1)


def strongest(table: pd.DataFrame, metrics: tuple[str, ...]) -> dict[str, Any]:
    """The perturbations with the largest mean of each metric, and how many pass a false discovery rate of
    5 %.
    """
    body: dict[str, Any] = {}
    for metric in metrics:
        there = table[table["n_cells"] > 0].sort_values(metric, ascending=False).head(SHOWN)
        named = "drug" if "drug" in there else "gene_names"
        columns = ["kind", named, "n_cells", metric, f"fdr_{metric}"]
        rows = json.loads(there[columns].to_json(orient="records"))
        body[metric] = {"n_significant": int((table[f"fdr_{metric}"] < 0.05).sum()), "highest": rows}
    return body


def _pairs_name(key: str) -> str:
    return f"pairs/{key}.parquet"
