"""The recipe of a sparse autoencoder: everything that decides its weights, and what it leaves behind.

Legend: B tokens of a batch, D width, F features.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.models import sae
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.activation_sources import ActivationSource
from engine.training.recipe import Batch, Share
from engine.training.recipes.sae import architectures
from engine.training.recipes.sae.architectures import ArchitectureName
from engine.training.recipes.sae.module import KnobSchedule, SparseTraining
from engine.training.recipes.sae.statistics import activation_statistics


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

    def __post_init__(self) -> None:
        architectures.require_buildable(
            self.architecture, width=self.width, k=self.k, matryoshka_widths=self.matryoshka_widths
        )

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
        }

    def build(self, seed: int, shard: FeatureShard = ALONE) -> SparseTraining:
        config = architectures.config(self.architecture, self.source.width, self.width, self.k)
        options = architectures.objective(
            self.architecture,
            width=self.width,
            k=self.k,
            aux_coefficient=self.aux_coefficient,
            sparsity_coefficient=self.sparsity_coefficient,
            matryoshka_widths=self.matryoshka_widths,
        )
        objective = sae.objective(
            config,
            options,
            init=architectures.initial(self.architecture),
            seed=seed if self.init_seed is None else self.init_seed,
            shard=shard,
        )
        knobs = KnobSchedule(anneal_steps=self.anneal_steps, sparsity_warmup_steps=self.sparsity_warmup_steps)
        return SparseTraining(objective, self.dead_after_tokens, knobs)

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Mean and scale of the activations, from at least 200,000 tokens drawn as for training."""
        if not isinstance(module, SparseTraining):
            raise TypeError(f"expected the module that build() made, got {type(module).__name__}")
        mean_D, scale = activation_statistics(self.source, share, device)
        module.mean.copy_(mean_D)
        module.scale.fill_(scale)

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        with closing(self.source.batches(start_step, share, device)) as stream:
            for number, x_BD in zip(count(start_step * share.accumulation), stream, strict=False):
                yield {"x_BD": x_BD, "step": torch.tensor(number // share.accumulation)}

    def tokens(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    def export(self, state: Mapping[str, torch.Tensor], directory: Path) -> None:
        """A SAELens directory that takes raw activations: mean, scale and decoder norms are folded in."""
        module = self.build(seed=0)
        module.load_state_dict(dict(state))
        autoencoder = module.objective.sae
        dead = int((module.silent_tokens >= self.dead_after_tokens).sum())
        autoencoder.config.metadata.update(
            {
                **self.source.provenance(),
                "training_architecture": autoencoder.config.architecture,
                "num_dead_features": dead,
            }
        )
        sae.save(sae.fold_input_scaling(autoencoder, module.mean, float(module.scale)), directory)
