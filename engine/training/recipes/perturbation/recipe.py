"""Training a perturbation predictor: conditions are the examples; the cells of one share its forward pass.

Legend: B conditions of a batch, C cells of a batch, G genes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.models import bimamba
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.perturbation import gene_positions
from engine.perturbation.drugs import NO_DRUGS, Drugs
from engine.perturbation.gene_sets import NOTHING_KNOWN, GeneSets
from engine.perturbation.labels import dose
from engine.perturbation.normalise import log_normalised
from engine.perturbation.predictor import conditions_of
from engine.perturbation.prior import ResponsePrior, fit, guessed_by_others
from engine.perturbation.rank_sum import Array
from engine.perturbation.screen import Group, Screen
from engine.training.options import TrainingOptions
from engine.training.prefetch import prefetched
from engine.training.recipe import Batch, Share
from engine.training.recipes.perturbation.ensemble import Ensemble, left_out
from engine.training.recipes.perturbation.finish import publish
from engine.training.recipes.perturbation.live_metrics import held_out_now
from engine.training.recipes.perturbation.measured import ScreenSource, require_controls
from engine.training.recipes.perturbation.pathways import features
from engine.training.recipes.perturbation.split import Split, SplitBy
from storage.cells import CellStore
from storage.errors import InputError
from storage.ingest.scan import fingerprint


@dataclass(frozen=True, kw_only=True)
class PerturbationRecipe:
    """A screen, how it is split, and the models to train on it. Make it with `plan`."""

    source: ScreenSource
    dataset_id: str
    split: Split
    config: bimamba.PerturbationConfig
    targets: tuple[str, ...]
    """Perturbed genes that nobody measured."""
    members: int = 1
    """Models of different seeds, each trained without some of the targets."""
    cells_per_condition: int = 0
    """Cells drawn of a condition in each step; 0: its mean over all cells (linear head only)."""
    uses_prior: bool = True
    """Whether models start from a closed-form guess (`engine.perturbation.prior`) instead of the control."""
    gene_sets: tuple[str, ...] = ()
    gene_positions: str | None = None
    n_codes: int = 16
    """Pathway features by the autoencoder; the others of `config.pathway_dim` come from gene sets."""
    checkpoint_layers: bool = False
    drug_vectors: str | None = None
    """Table of drugs (`engine.perturbation.drugs`)."""
    judge_every: int = 20
    """Steps between looks at what is held out."""
    patience: int = 0
    """What is held out ends no run."""
    knowledge: Mapping[str, str] = field(default_factory=dict)
    """File -> fingerprint, of gene sets and positions."""

    @property
    def actors(self) -> int:
        """None beside the workers: its examples are profiles."""
        return 0

    def lineage(self) -> dict[str, Any]:
        source = asdict(self.source) | {"cells": self.dataset_id}
        return {
            "screen": source,
            "split": [self.split.by, *self.split.held_out],
            "config": {name: value for name, value in asdict(self.config).items() if name != "metadata"},
            "members": self.members,
            "cells_per_condition": self.cells_per_condition,
            "uses_prior": self.uses_prior,
            "n_codes": self.n_codes,
            "knowledge": sorted(self.knowledge.values()),
        }

    def build(self, seed: int, shard: FeatureShard = ALONE) -> nn.Module:
        if shard.world > 1:
            raise InputError("--feature-parallel: belongs to autoencoders; leave it at 1.")
        genes = self.source.open().genes
        positions = gene_positions.read(self.gene_positions) if self.gene_positions else None
        nothing = np.zeros((len(genes) + len(self.targets), self.config.pathway_dim))
        models = []
        for number in range(self.members):
            model = bimamba.create(
                self.config,
                genes,
                targets=self.targets,
                positions=positions,
                pathways=nothing,
                seed=_seed(seed, number),
            )
            model.checkpoint_layers = self.checkpoint_layers
            models.append(model)
        return Ensemble(models)

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Sets the pathway features: they come from control cells and gene sets."""
        if not self.config.pathway_dim:
            return
        found = features(
            self.source.open(),
            self.targets,
            self.sets,
            n_codes=self.n_codes,
            n_components=self.config.pathway_dim - self.n_codes,
            seed=share.seed,
        )
        for model in _models(module):
            model.gene_tokens.pathways_GP.copy_(torch.from_numpy(found))

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        for batch in prefetched(self._batches(_models(module)[0], start_step, share)):
            yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def judge(self, module: nn.Module, share: Share, device: torch.device) -> dict[str, float]:
        """The same on every worker, without a score: what is held out chooses no checkpoint."""
        if not self.split.held_out:
            return {}
        module.eval()
        found = held_out_now(self, _models(module))
        module.train()
        return found

    def tokens(self, batch: Batch) -> int:
        return int(batch["basal_BG"].numel())

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        module = self.build(seed=0)
        module.load_state_dict(dict(state))
        publish(self, [model.eval() for model in _models(module)], directory, options.seed)

    @cached_property
    def sets(self) -> GeneSets:
        return GeneSets.read(list(self.gene_sets)) if self.gene_sets else NOTHING_KNOWN

    @cached_property
    def drugs(self) -> Drugs:
        return Drugs.read(self.drug_vectors) if self.drug_vectors else NO_DRUGS

    @cached_property
    def prior(self) -> ResponsePrior:
        """Fitted on the training perturbations."""
        measured = self.source.measured()
        screened = measured.screened(self.split.training(measured.screen))
        rows = {gene: number for number, gene in enumerate(measured.screen.genes)}
        return fit(screened, measured.controls, rows, self.sets)

    @cached_property
    def start_PG(self) -> Array:  # noqa: N802 - shape suffix
        """Profiles that models start from for the training perturbations, each guessed by the others."""
        controls = self.source.measured().controls
        screened = self.prior.screened
        start_PG = np.stack([controls[context] for context in screened.contexts])
        if not self.uses_prior:
            return start_PG
        return np.maximum(start_PG + guessed_by_others(self.prior), 0.0)

    def _batches(
        self, model: bimamba.PerturbationModel, start_step: int, share: Share
    ) -> Iterator[dict[str, torch.Tensor]]:
        """CPU batches of one worker: each condition once an epoch, in an order drawn anew."""
        measured = self.source.measured()
        screen = measured.screen
        groups = self.split.training(screen)
        start_PG = self.start_PG
        if self.config.head == "probabilistic":
            # Control cells are examples too: they say how genes scatter.
            contexts = list(measured.controls)
            groups = [*groups, *((context, screen.control) for context in contexts)]
            start_PG = np.concatenate([start_PG, np.stack([measured.controls[one] for one in contexts])])
        targets = [screen.targets(label) for _, label in groups]
        doses = [dose(label) for _, label in groups]
        conditions = conditions_of(model, targets, [context for context, _ in groups], self.drugs, doses)
        left_out_PM = torch.from_numpy(left_out(targets, self.members))
        for start, stop in share.ranges(start_step):
            chosen = [_example(position, len(groups), share.seed) for position in range(start, stop)]
            batch = {
                "basal_BG": torch.from_numpy(start_PG[chosen]).float(),
                "targets_BK": conditions.targets_BK[chosen],
                "left_out_BM": left_out_PM[chosen],
            }
            for name in ("context_B", "drugs_BP", "dose_B"):
                tensor = getattr(conditions, name)
                if tensor is not None:
                    batch[name] = tensor[chosen]
            if self.cells_per_condition:
                batch |= self._cells(screen, [groups[number] for number in chosen], start, share.seed)
            else:
                means = np.stack([measured.means[groups[number]] for number in chosen])
                batch["expression_CG"] = torch.from_numpy(means).float()
            yield batch

    def _cells(
        self, screen: Screen, groups: Sequence[Group], start: int, seed: int
    ) -> dict[str, torch.Tensor]:
        """Some cells of each condition of a batch; the position in the stream says which."""
        rows, condition = [], []
        for number, group in enumerate(groups):
            rng = np.random.default_rng(np.random.SeedSequence([seed, start + number]))
            there = screen.groups[group]
            rows.append(rng.choice(there, self.cells_per_condition, replace=True))
            condition.append(np.full(self.cells_per_condition, number))
        cells = np.concatenate(rows)
        unique, back = np.unique(cells, return_inverse=True)
        counts_CG = screen.read(unique)[back]
        found = {"condition_C": torch.from_numpy(np.concatenate(condition))}
        if self.config.head == "linear":
            return found | {"expression_CG": torch.from_numpy(log_normalised(counts_CG).toarray())}
        return found | {"counts_CG": torch.from_numpy(counts_CG.toarray().astype(np.float32))}


def plan(
    source: ScreenSource,
    split_by: SplitBy,
    *,
    head: str = "linear",
    held_out: Sequence[str] = (),
    hold_out_share: float = 0.2,
    sizes: Mapping[str, Any] | None = None,
    members: int = 1,
    cells_per_condition: int | None = None,
    uses_prior: bool = True,
    gene_sets: Sequence[str] = (),
    positions: str | None = None,
    n_codes: int = 16,
    n_components: int = 32,
    checkpoint_layers: bool = False,
    drug_vectors: str | None = None,
    judge_every: int = 20,
    seed: int = 0,
) -> PerturbationRecipe:
    """Check inputs and make the recipe. Raises InputError or ModelError before anything is written."""
    if judge_every < 1:
        raise InputError(f"--judge-every {judge_every}: at least 1 step.")
    if members < 1 or n_codes < 0 or n_components < 0:
        raise InputError("--members must be at least 1, --pathway-dim and --set-components at least 0.")
    if source.dose and not drug_vectors:
        raise InputError("--dose: the model knows a dose beside a drug's numbers; give --drug-vectors.")
    drugs = Drugs.read(drug_vectors) if drug_vectors else NO_DRUGS
    store = CellStore.open(source.cells)
    screen = source.open()
    drugs.require_apart(screen.genes, source.cells)
    require_controls(screen)
    split = Split.of(screen, split_by, named=held_out, share=hold_out_share, seed=seed)
    hits = [screen.targets(label) for _, label in screen.groups]
    if drugs.dim and not drugs.of(hits).any():
        raise InputError(f"--drug-vectors {drug_vectors}: none of its drugs is a label of {source.cells}.")
    measured = set(screen.genes)
    targets = tuple(sorted({one for hit in hits for one in hit if one not in measured and one not in drugs}))
    sets = GeneSets.read(list(gene_sets)) if gene_sets else NOTHING_KNOWN
    # To be applied to new contexts, a model must tell them apart by their cells, not by their names.
    contexts = sorted({str(one) for one in screen.contexts}) if split_by == "perturbation" else []
    named = tuple(contexts) if len(contexts) > 1 else ()
    config = bimamba.PerturbationConfig(
        **{
            "n_genes": len(screen.genes),
            "n_targets": len(targets),
            "head": head,
            "pathway_dim": n_codes + (n_components if sets.sizes else 0),
            "n_contexts": len(named),
            "contexts": named,
            "drug_dim": drugs.dim,
            "control_label": source.control,
            **(sizes or {}),
        }
    )
    cells = cells_per_condition if cells_per_condition is not None else (64 if head != "linear" else 0)
    if cells < 0 or (head != "linear" and cells == 0):
        raise InputError(
            f"--cells-per-condition {cells}: at least 1 for the probabilistic head, which is trained on "
            "counts of single cells; 0 is the mean of all cells, for the linear head."
        )
    files = [*gene_sets, *(path for path in (positions, drug_vectors) if path)]
    if positions:
        gene_positions.read(positions)
    return PerturbationRecipe(
        source=source,
        dataset_id=store.dataset_id,
        split=split,
        config=config,
        targets=targets,
        members=members,
        cells_per_condition=cells,
        uses_prior=uses_prior,
        gene_sets=tuple(gene_sets),
        gene_positions=positions,
        n_codes=n_codes,
        checkpoint_layers=checkpoint_layers,
        drug_vectors=drug_vectors,
        judge_every=judge_every,
        knowledge={path: fingerprint([path]) for path in files},
    )


def _example(position: int, n: int, seed: int) -> int:
    """Which condition a position of the endless stream is."""
    epoch, place = divmod(position, n)
    return int(np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(n)[place])


def _models(module: nn.Module) -> list[bimamba.PerturbationModel]:
    models: list[bimamba.PerturbationModel] = module.models  # type: ignore[assignment]
    return models


def _seed(seed: int, member: int) -> int:
    return int(np.random.SeedSequence([seed, member]).generate_state(1)[0]) if member else seed
