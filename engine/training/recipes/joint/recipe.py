"""The recipe of a joint model: two towers, their heads, and the pairs they learn from.

Legend: B pairs of a batch, D width of features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from engine import models
from engine.captions import CaptionSource
from engine.models import joint
from engine.models.joint.locking import TOWERS
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.options import TrainingOptions
from engine.training.prefetch import prefetched
from engine.training.recipe import Batch, Share
from engine.training.recipes.joint.held_out import batches_of, judge, on_device
from engine.training.recipes.joint.pairs import pairs_of
from engine.training.recipes.joint.split import Split, Values
from engine.training.stored_state import fill_learnt
from storage.checkpoints import local_copy
from storage.errors import InputError

# Pairs whose features say how features are standardised.
MEASURED_PAIRS = 2048


@dataclass(frozen=True, kw_only=True)
class JointRecipe:
    """Cells with captions, two towers, and how they learn. Make it with `plan`."""

    cells: str
    dataset_id: str
    n_cells: int
    captions: CaptionSource
    captions_id: str
    """Hash of every cell's caption."""
    cell_tower: str
    cell_fingerprint: str
    text_tower: str
    text_fingerprint: str
    width: int = 512
    dims: tuple[int, ...] = ()
    head: Literal["residual", "sphere"] = "sphere"
    cell_layer: int | None = None
    cell_pool: str | None = None
    max_tokens: int | None = None
    """Tokens kept of a longer cell; None: the tower's own limit."""
    max_text_tokens: int = 128
    objective: joint.ObjectiveOptions = field(default_factory=joint.ObjectiveOptions)
    locking: str = "LL"
    cell_lora: int = 0
    text_lora: int = 0
    projection_steps: int = 0
    """First steps, in which towers marked U stand still."""
    tower_speed: float = 1.0
    """Learning rate of the towers, as a share of that of the heads."""
    standardise: bool = True
    leave_out: tuple[Values, ...] = ()
    split: Split = field(default_factory=Split)
    split_seed: int = 0
    token_seed: int = 0
    """Of the sample of genes of cells that are too long, where cells are not drawn for training."""
    balance: str | None = None
    balance_temperature: float = 2.0
    thinning: float = 1.0
    """Least share of a cell's molecules that a learning cell tower is shown; 1: always all of them."""
    cell_features: str | None = None
    """Embeddings of the cells, of a locked cell tower."""
    text_features: str | None = None
    """Embeddings of the captions, of a locked text tower."""
    weights: str | None = None
    """File of weights of samples."""
    judge_every: int = 100
    patience: int = 10

    @property
    def actors(self) -> int:
        """None beside the workers: features of locked towers are there before training begins."""
        return 0

    def lineage(self) -> dict[str, Any]:
        return {
            "cells": self.dataset_id,
            "n_cells": self.n_cells,
            "captions": self.captions_id,
            "cell_tower": self.cell_fingerprint,
            "text_tower": self.text_fingerprint,
            "width": self.width,
            "dims": list(self.dims),
            "head": self.head,
            "cell_layer": self.cell_layer,
            "cell_pool": self.cell_pool,
            "max_tokens": self.max_tokens,
            "max_text_tokens": self.max_text_tokens,
            "objective": {k: v for k, v in asdict(self.objective).items() if k != "chunk"},
            "locking": self.locking,
            "lora": [self.cell_lora, self.text_lora],
            "projection_steps": self.projection_steps,
            "tower_speed": self.tower_speed,
            "standardise": self.standardise,
            "leave_out": [[values.column, *values.values] for values in self.leave_out],
            "split": {**self.split.lineage(), "seed": self.split_seed},
            "token_seed": self.token_seed,
            "balance": [self.balance, str(self.balance_temperature)] if self.balance else None,
            "thinning": self.thinning,
            "weights": self.weights is not None,
            "judge": [self.judge_every, self.patience],
        }

    def build(self, seed: int, shard: FeatureShard = ALONE) -> joint.TrainingModule:
        """The training module; towers whose features are in a dataset are not in it."""
        if shard.world > 1:
            raise InputError("--feature-parallel: a joint model has no features to share out; leave it at 1.")
        return self._module(seed, whole=False)

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Standardises by the features of the first pairs, with the towers as they are before step 0."""
        module = _joint(module)
        if not self.standardise:
            return
        model = module.model
        pairs = pairs_of(self)
        alone = Share(0, 1, share.batch, 1, share.seed)
        model.to(device).eval()
        cells, texts = [], []
        with closing(pairs.batches(model, 0, alone)) as stream, torch.no_grad():  # type: ignore[type-var]
            for batch in islice(stream, batches_of(pairs, MEASURED_PAIRS, share.batch)):
                batch = on_device(batch, device)
                cells.append(module.cell_features(batch))
                texts.append(module.text_features(batch)[batch["text_of_pair_B"]])
        for head, f_BD in ((model.cell_head, torch.cat(cells)), (model.text_head, torch.cat(texts))):
            if isinstance(head, joint.StandardisedHead):
                head.measure(f_BD)
        model.train()

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        stream = prefetched(pairs_of(self).batches(_joint(module).model, start_step, share))
        return map(partial(on_device, device=device), stream)

    def tokens(self, batch: Batch) -> int:
        """Pairs: where features were computed before, there are no tokens to count."""
        return len(batch["captions_B"])

    def judge(self, module: nn.Module, share: Share, device: torch.device) -> dict[str, float]:
        return judge(_joint(module), pairs_of(self), share, device)

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        """The model directory that `joint.load` opens: towers and all, standardisation folded in."""
        module = self._module(options.seed, whole=True)
        computed = tuple(f"model.{tower}_tower." for tower in self._with_features())
        fill_learnt(module, state, without=computed)
        model = module.model
        joint.fold(model)
        pairs = pairs_of(self)
        trained = {
            "cells": self.dataset_id,
            "training_cells": len(pairs.learnt),
            "held_out_cells": len(pairs.held_out),
            "captions": len(pairs.captions.texts),
            "locking": self.locking,
            "objective": asdict(self.objective),
            "batch": options.batch,
            "learning_rate": options.learning_rate,
            "seed": options.seed,
            "split": self.split.lineage(),
        }
        model.config = replace(model.config, metadata={"training": trained})
        joint.save(model, directory)

    def _with_features(self) -> list[str]:
        given = {"cell": self.cell_features, "text": self.text_features}
        return [tower for tower in TOWERS if given[tower]]

    def _module(self, seed: int, *, whole: bool) -> joint.TrainingModule:
        """whole: with the weights of towers whose features are in a dataset."""
        computed = [] if whole else self._with_features()
        cells = models.load(local_copy(self.cell_tower), weights="cell" not in computed)
        texts = joint.load_text_tower(local_copy(self.text_tower), max_tokens=self.max_text_tokens)
        model = joint.create(
            cells,
            texts,
            width=self.width,
            dims=self.dims,
            head=self.head,
            cell_layer=self.cell_layer,
            cell_pool=self.cell_pool,
            sigmoid=self.objective.kind == "siglip",
            seed=seed,
        )
        joint.lock(model, self.locking, cell_lora=self.cell_lora, text_lora=self.text_lora, seed=seed)
        self._set_pace(model)
        for tower in computed:
            setattr(model, f"{tower}_tower", nn.Identity())
        if self.standardise:
            joint.standardise(model)
        return joint.TrainingModule(model, self.objective)

    def _set_pace(self, model: joint.JointModel) -> None:
        """All that may learn has gradients from the first step on, as DeepSpeed wants it; towers marked U
        have a learning rate only after the heads' warm-up."""
        joint.set_learning(model, self.locking, warming_up=False)
        for tower, letter in zip(TOWERS, self.locking, strict=True):
            for weight in model.get_submodule(f"{tower}_tower").parameters():
                weight.speed = self.tower_speed  # type: ignore[attr-defined]
                weight.learns_from = self.projection_steps if letter == "U" else 0  # type: ignore[attr-defined]


def _joint(module: nn.Module) -> joint.TrainingModule:
    if not isinstance(module, joint.TrainingModule):
        raise TypeError(f"expected the module that build() made, got {type(module).__name__}")
    return module
