"""The one pass over the cache: every dictionary looks at the same tokens, member by member.

Each member is one Ray task; its state comes back and is added to those of the members before it, in their
order, so the number of workers cannot show in a result. Memory follows the features and the genes they fire
on, not the tokens.

Shape legend: T tokens, D width, C cells of a chunk, F features.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from engine.interpret.evaluation.activity import Activity, CellCodes, cell_codes, unit_of
from engine.interpret.evaluation.cell_bins import EXACT_UP_TO, CellBins
from engine.interpret.evaluation.cell_means import CellMeans
from engine.interpret.evaluation.dictionaries import (
    TOKENS_AT_ONCE,
    Activations,
    Dictionary,
    activations_of,
    joined,
)
from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.evaluation.reconstruction import Reconstruction
from engine.interpret.evaluation.tokens import (
    EVALUATED,
    PROBED,
    WholeCells,
    drawn,
    members_with_cells,
    read_cells,
)
from engine.interpret.features import whole_cell_chunks
from engine.interpret.passes import Progress
from engine.interpret.runs import (
    CountRun,
    Float32,
    Float64,
    Int64,
    counted,
    empty_counts,
    merge_counts,
    segments,
)

RETRIES = 3
TASKS_PER_GPU = 4
MOST_GENES = 1 << 17
"""More than any cell has."""


@dataclass(frozen=True)
class PassPlan:
    """What all members must share. shift_D: see `Reconstruction`. bins, units: of every dictionary.

    share: of cells that are evaluated. probe_share: of the evaluated cells with a label, those kept for
    probes.
    """

    shift_D: Float64
    bins: tuple[CellBins, ...]
    units: tuple[float, ...]
    share: float
    probe_share: float
    seed: int


@dataclass
class TokenState:
    """What some members add up to. label_cells_L: evaluated cells with a gene, by label. depth: how many of
    them have how many genes, by label * `MOST_GENES` + genes."""

    reconstruction: Reconstruction
    activities: list[Activity]
    means: CellMeans
    label_cells_L: Int64
    depth: CountRun
    n_cells: int = 0

    @classmethod
    def empty(
        cls, inputs: EvaluationInputs, plan: PassPlan, dictionaries: Sequence[Dictionary]
    ) -> TokenState:
        widths = tuple(dictionary.n_features for dictionary in dictionaries)
        return cls(
            Reconstruction.empty(plan.shift_D, len(inputs.groups.names), len(widths)),
            [Activity.empty(width, len(inputs.genes), inputs.n_labels) for width in widths],
            CellMeans(widths),
            np.zeros(inputs.n_labels, np.int64),
            empty_counts(),
        )

    def merge(self, other: TokenState) -> None:
        """Add the state of a later member."""
        self.reconstruction.merge(other.reconstruction)
        for mine, theirs in zip(self.activities, other.activities, strict=True):
            mine.merge(theirs)
        self.means.merge(other.means)
        self.label_cells_L += other.label_cells_L
        self.depth = merge_counts([self.depth, other.depth])
        self.n_cells += other.n_cells


def plan_pass(
    inputs: EvaluationInputs,
    calibration: WholeCells,
    dictionaries: Sequence[Dictionary],
    mean_D: torch.Tensor,
    *,
    share: float,
    probe_cells: int,
    seed: int,
    device: str = "cpu",
) -> PassPlan:
    """Ranges and units from the calibration cells."""
    bins, units = [], []
    n_cells = inputs.n_cells * min(share, 1.0)
    for dictionary in dictionaries:
        codes = _codes_by_cell(dictionary.to(device), calibration, device)
        exact = n_cells * dictionary.n_features <= EXACT_UP_TO
        of_sample = CellBins.of_sample(codes.feature_P, codes.peak_P, dictionary.n_features)
        bins.append(CellBins() if exact else of_sample)
        units.append(unit_of(float(codes.peak_P.max(initial=0.0))))
    labelled = max(len(inputs.labelled()) * min(share, 1.0), 1.0)
    probe_share = probe_cells / labelled
    return PassPlan(mean_D.double().numpy(), tuple(bins), tuple(units), share, probe_share, seed)


def look(
    inputs: EvaluationInputs, plan: PassPlan, dictionaries: Sequence[Dictionary], report: Progress
) -> tuple[TokenState, int]:
    """The state of all members, and the largest peak memory of a worker. Called inside a Ray session."""
    import ray

    resources = ray.cluster_resources()
    gpus = {"num_gpus": 1 / TASKS_PER_GPU} if resources.get("GPU") else {}
    task = ray.remote(num_cpus=1, max_retries=RETRIES, **gpus)(_look_at_member)
    # One more than can run: the state of a member of a wide autoencoder is a few hundred megabytes.
    window = 1 + max(1, int(resources.get("CPU", 1)))
    shared = ray.put(inputs), ray.put(plan), ray.put(list(dictionaries))
    members = members_with_cells(inputs)
    state, peak = TokenState.empty(inputs, plan, dictionaries), 0
    waiting, running = deque(members), deque[Any]()
    while waiting or running:
        while waiting and len(running) < window:
            running.append(task.remote(*shared, waiting.popleft(), bool(gpus)))
        # In the order of members: float sums must not depend on who was first.
        found, memory = ray.get(running.popleft())
        state.merge(found)
        peak = max(peak, memory)
        report(len(members) - len(waiting) - len(running), len(members), "members")
    return state, peak


def _look_at_member(
    inputs: EvaluationInputs, plan: PassPlan, dictionaries: Sequence[Dictionary], member: int, on_gpu: bool
) -> tuple[TokenState, int]:
    device = "cuda" if on_gpu else "cpu"
    moved = [dictionary.to(device) for dictionary in dictionaries]
    state = member_state(inputs, plan, moved, member, device)
    return state, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def member_state(
    inputs: EvaluationInputs,
    plan: PassPlan,
    dictionaries: Sequence[Dictionary],
    member: int,
    device: str = "cpu",
) -> TokenState:
    """State of one member of the cache, by its number."""
    state = TokenState.empty(inputs, plan, dictionaries)
    cells = read_cells(inputs, member, plan.seed, EVALUATED, plan.share)
    state.n_cells = len(segments(cells.cell_T))
    for start, stop in whole_cell_chunks(cells.cell_T):
        chunk = cells.at(slice(start, stop))
        stratum_T = chunk.kind_T * state.reconstruction.n_groups + inputs.groups.code_C[chunk.cell_T]
        x_TD = chunk.x_TD.float()
        if not torch.isfinite(x_TD).all():
            raise ValueError("The activations hold NaN or infinity: the cache is damaged.")
        for first, last in _pieces(len(chunk)):
            state.reconstruction.add_tokens(x_TD[first:last], stratum_T[first:last])
        _add_codes(state, inputs, plan, dictionaries, chunk, stratum_T, device)
    return state


def _add_codes(
    state: TokenState,
    inputs: EvaluationInputs,
    plan: PassPlan,
    dictionaries: Sequence[Dictionary],
    chunk: WholeCells,
    stratum_T: np.ndarray,
    device: str,
) -> None:
    """What every dictionary makes of a chunk of whole cells: errors of all tokens, codes of those of
    `inputs.kind` (called genes here, as they nearly always are)."""
    gene_rows = np.flatnonzero(chunk.kind_T == inputs.kind)
    genes = chunk.at(gene_rows)
    starts_C = segments(genes.cell_T)
    cell_C, slot_T, tokens_C = _slots(genes, starts_C)
    label_C = None if inputs.label is None else inputs.label.code_C[cell_C].astype(np.int64)
    by_cell = []
    for number, dictionary in enumerate(dictionaries):
        parts = []
        for first, last in _pieces(len(chunk)):
            x_TD = chunk.x_TD[first:last].to(device).float()
            explained = dictionary.explain(x_TD)
            active_T = (explained.value_TK > 0).sum(1).cpu().numpy()
            state.reconstruction.add_errors(number, x_TD, explained.r_TD, active_T, stratum_T[first:last])
            parts.append(activations_of(explained, first))
        fired = _of_genes(joined(parts), gene_rows, len(chunk)) if parts else None
        if fired is None:
            continue
        codes = cell_codes(fired, slot_T, max(len(cell_C), 1))
        state.activities[number].add(
            fired, codes, genes.gene_T, label_C, plan.bins[number], plan.units[number]
        )
        by_cell.append(codes)
    if label_C is not None and len(cell_C):
        known = np.flatnonzero(label_C >= 0)
        state.label_cells_L += np.bincount(label_C[known], minlength=inputs.n_labels)
        depth_C = label_C[known] * MOST_GENES + np.minimum(tokens_C[known], MOST_GENES - 1)
        state.depth = merge_counts([state.depth, counted(depth_C, inputs.n_labels * MOST_GENES)])
        chosen_C = (label_C >= 0) & drawn(plan.seed, PROBED, cell_C, plan.probe_share)
        state.means.add(cell_C, chosen_C, tokens_C, _means(genes.x_TD, starts_C, tokens_C), by_cell)


def _of_genes(fired: Activations, gene_rows: np.ndarray, n_tokens: int) -> Activations:
    """The activations of gene tokens, which are counted anew."""
    place_T = np.full(n_tokens, -1, np.int64)
    place_T[gene_rows] = np.arange(len(gene_rows))
    kept = np.flatnonzero(place_T[fired.token_N] >= 0)
    return Activations(place_T[fired.token_N[kept]], fired.feature_N[kept], fired.value_N[kept])


def _codes_by_cell(dictionary: Dictionary, genes: WholeCells, device: str) -> CellCodes:
    parts = [
        activations_of(dictionary.explain(genes.x_TD[first:last].to(device).float()), first)
        for first, last in _pieces(len(genes))
    ]
    cell_C, slot_T, _ = _slots(genes, segments(genes.cell_T))
    return cell_codes(joined(parts), slot_T, max(len(cell_C), 1))


def _slots(genes: WholeCells, starts_C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells in order, each token's place among them, and tokens of each."""
    tokens_C = np.diff(np.append(starts_C, len(genes)))
    return genes.cell_T[starts_C], np.repeat(np.arange(len(starts_C)), tokens_C), tokens_C


def _means(x_TD: torch.Tensor, starts_C: np.ndarray, tokens_C: np.ndarray) -> Float32:
    sums_CD = np.add.reduceat(x_TD.float().numpy(), starts_C, axis=0, dtype=np.float64)
    means_CD: Float32 = (sums_CD / tokens_C[:, None]).astype(np.float32)
    return means_CD


def _pieces(n_tokens: int) -> Iterator[tuple[int, int]]:
    return pairwise([*range(0, n_tokens, TOKENS_AT_ONCE), n_tokens]) if n_tokens else iter(())
