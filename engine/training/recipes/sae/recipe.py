"""The recipe of a sparse autoencoder: everything that decides its weights, and what it leaves behind.

Legend: B tokens of a batch, D width, F features.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.models import sae
from engine.models.sae.config import TRAINING_FORMS
from engine.models.sae.gene_means import save_gene_means
from engine.models.sae.model import per_feature_names
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.activation_sources import ActivationSource, TokenBatch
from engine.training.options import TrainingOptions
from engine.training.recipe import Batch, Share
from engine.training.recipes.sae import architectures
from engine.training.recipes.sae.architectures import ArchitectureName
from engine.training.recipes.sae.finish import MOST_WEIGHTS, about_activations, layer_of, settle
from engine.training.recipes.sae.module import KnobSchedule, SparseTraining
from engine.training.recipes.sae.statistics import ActivationStatistics, Wanted, statistics_of
from engine.training.stored_state import rows
from storage.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SparseRecipe:
    """An autoencoder of `width` features, about `k` of them active per token."""

    source: ActivationSource
    architecture: ArchitectureName = "topk"
    width: int
    k: int
    """Active features: of every token (topk), on average (batchtopk, matryoshka), aimed at (jumprelu)."""
    dead_after_tokens: int
    """Tokens without activity after which a feature is dead, and is helped."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK; 0 leaves dead features dead."""
    sparsity_coefficient: float | None = None
    """Weight of the sparsity penalty of jumprelu, gated and standard; None for the architecture's own."""
    sparsity_warmup_steps: int = 0
    """Steps over which that penalty grows from 0."""
    anneal_steps: int = 0
    """Steps over which k comes down from a quarter of D."""
    matryoshka_widths: tuple[int, ...] = ()
    """Sizes of the nested prefixes; empty for a sixteenth, an eighth, a quarter, a half and the whole."""
    init_seed: int | None = None
    """Seed of the initial weights; None for the run's, which also orders the tokens."""
    outlier_norm: float = 10.0
    """Tokens whose norm is above so many medians are left out; 0 keeps all."""
    gene_residual: bool = False
    """Train on what is left of an activation without the mean of its gene's activations."""
    statistics: ActivationStatistics | None = field(default=None, compare=False, repr=False)
    """Of the source's activations, where they have been measured already."""

    def __post_init__(self) -> None:
        architectures.require_buildable(
            self.architecture, width=self.width, k=self.k, matryoshka_widths=self.matryoshka_widths
        )
        if self.outlier_norm and self.outlier_norm <= 1:
            raise InputError(f"--outlier-norm {self.outlier_norm}: give more than 1 median norm, or 0.")

    @property
    def wanted(self) -> Wanted:
        """What is to be measured before training."""
        return Wanted(self.outlier_norm, self.gene_residual)

    @property
    def actors(self) -> int | None:
        return self.source.actors

    def lineage(self) -> dict[str, Any]:
        return {
            **self.source.lineage(),
            "architecture": self.architecture,
            "width": self.width,
            "k": self.k,
            "dead_after_tokens": self.dead_after_tokens,
            "aux_coefficient": self.aux_coefficient,
            "sparsity_coefficient": self.sparsity_coefficient,
            "sparsity_warmup_steps": self.sparsity_warmup_steps,
            "anneal_steps": self.anneal_steps,
            "matryoshka_widths": list(self.matryoshka_widths),
            "init_seed": self.init_seed,
            "outlier_norm": self.outlier_norm,
            "gene_residual": self.gene_residual,
        }

    def build(self, seed: int, shard: FeatureShard = ALONE) -> SparseTraining:
        config = architectures.config(self.architecture, self.source.width, self.width, self.k)
        options = architectures.objective(
            self.architecture,
            self.source.width,
            width=self.width,
            k=self.k,
            aux_coefficient=self.aux_coefficient,
            sparsity_coefficient=self.sparsity_coefficient,
            matryoshka_widths=self.matryoshka_widths,
        )
        objective = sae.objective(
            config,
            options,
            init=architectures.initial(self.architecture, self.width, self.k),
            seed=seed if self.init_seed is None else self.init_seed,
            shard=shard,
        )
        knobs = KnobSchedule(anneal_steps=self.anneal_steps, sparsity_warmup_steps=self.sparsity_warmup_steps)
        return SparseTraining(
            objective,
            self.dead_after_tokens,
            knobs,
            n_genes=len(self.source.gene_names()),
            gene_residual=self.gene_residual,
        )

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Centre, scale and what else is measured, from at least 200,000 tokens drawn as for training."""
        if not isinstance(module, SparseTraining):
            raise TypeError(f"expected the module that build() made, got {type(module).__name__}")
        found = self.statistics
        if found is None:
            (found,) = statistics_of([(self.source, self.wanted)], share, device).values()
        module.measure(found)

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        return batches_from(self.source, start_step, share, device)

    def tokens(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        """A SAELens directory that takes raw activations: mean, scale and decoder norms are folded in.

        Written piece by piece of the features, on a CPU. Where the whole fits a process, thresholds are
        fitted first and FVU and L0 measured, on held-out tokens. Beside it lie the means of genes where those
        have to be taken off.
        """
        config = architectures.config(self.architecture, self.source.width, self.width, self.k)
        metadata = self._provenance(state, options)
        fitted: dict[str, torch.Tensor] = {}
        if config.d_in * config.d_sae <= MOST_WEIGHTS:
            module = self.build(seed=0)
            module.load_state_dict(dict(state))
            metadata |= settle(module, self.source, options)
            if config.architecture in TRAINING_FORMS:
                fitted["topk_threshold"] = module.objective.sae.topk_threshold

        def weights(start: int, stop: int) -> dict[str, torch.Tensor]:
            return piece_of(state, config, start, stop) | fitted

        if self.gene_residual:
            save_gene_means(state["gene_means"], directory)
        sae.export_piecewise(
            replace(config, metadata=config.metadata | metadata),
            weights,
            state["mean"],
            float(state["scale"]),
            directory,
        )

    def _provenance(self, state: Mapping[str, torch.Tensor], options: TrainingOptions) -> dict[str, Any]:
        coefficient = self.sparsity_coefficient
        if coefficient is None:
            coefficient = architectures.sparsity_weight(self.architecture, self.source.width)
        return {
            **self.source.provenance(),
            "hook_layer": layer_of(self.source.hook),
            "training_architecture": architectures.SAELENS_NAMES.get(self.architecture, self.architecture),
            "training_k": self.k if self.architecture in architectures.AIMED_AT else None,
            "training_steps": options.steps,
            "training_tokens": options.steps * options.batch,
            "learning_rate": options.learning_rate,
            "sparsity_coefficient": coefficient,
            "aux_coefficient": self.aux_coefficient,
            "seed": options.seed,
            "init_seed": options.seed if self.init_seed is None else self.init_seed,
            "num_dead_features": int((state["silent_tokens"] >= self.dead_after_tokens).sum()),
            "dead_after_tokens": self.dead_after_tokens,
            "outlier_norm": self.outlier_norm,
            "gene_residual": self.gene_residual,
            "shuffled_batches": self.source.shuffled_tokens(options.batch) / options.batch,
            "activations": about_activations(state, self.source.gene_names()),
        }


def piece_of(
    state: Mapping[str, torch.Tensor], config: sae.SAEConfig, start: int, stop: int
) -> dict[str, torch.Tensor]:
    """Features start .. stop of the autoencoder in a training state, as a state dict of its own."""
    prefix = "objective.sae."
    cut = per_feature_names(config.architecture)
    return {
        name.removeprefix(prefix): rows(state, name, start, stop)
        if name.removeprefix(prefix) in cut
        else state[name]
        for name in state
        if name.startswith(prefix)
    }


def batches_from(
    source: ActivationSource, start_step: int, share: Share, device: torch.device
) -> Iterator[Batch]:
    """A source's micro-batches with the steps they belong to."""
    with closing(source.batches(start_step, share, device)) as stream:
        for number, batch in zip(count(start_step * share.accumulation), stream, strict=False):
            yield batch_of(batch, number // share.accumulation)


def batch_of(tokens: TokenBatch, step: int) -> Batch:
    """What the training module takes."""
    return {"x_BD": tokens.x_BD, "gene_B": tokens.gene_B, "step": torch.tensor(step)}
