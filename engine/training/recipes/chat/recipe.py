"""The recipe of a chat model: conversations, the projector, and how much of the language model learns.

Legend: B conversations of a batch, S tokens of the longest, L tokens of answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.models import chat
from engine.models.joint.lora import add_lora, merge_lora
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.options import TrainingOptions
from engine.training.prefetch import prefetched
from engine.training.recipe import SCORE, Batch, Share
from engine.training.recipes.chat.examples import examples_of
from engine.training.stored_state import fill_learnt
from storage.checkpoints import local_copy
from storage.errors import InputError

Stage = Literal["projector", "full"]

# Enough for the third digit of a loss; a judgement is to cost little beside the steps between two.
MOST_JUDGED, JUDGED_AT_ONCE = 512, 8


@dataclass(frozen=True, kw_only=True)
class ChatRecipe:
    """Conversations about cells, and what learns from them. Make it with `plan`.

    stage: "projector", the language model stays as it is and is in no checkpoint; "full", both learn.
    start: chat model whose projector is gone on with; None for a fresh one.
    """

    conversations: str
    conversations_hash: str
    joint_fingerprint: str
    language_model: str
    language_fingerprint: str
    config: chat.ChatConfig = field(hash=False)
    stage: Stage
    answer_tokens: float
    """Tokens of answers in a conversation, on average."""
    lora: int = 0
    start: str | None = None
    start_fingerprint: str | None = None
    embeddings: str | None = None
    """Embeddings by the joint model of the cells that conversations name."""
    embeddings_of: str | None = None
    """What they were or will be made from."""
    n_cells: int | None = None
    held_out_share: float = 0.1
    split_seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False
    """Whether a learning language model computes its activations again when it goes back."""
    judge_every: int = 100
    patience: int = 10

    @property
    def actors(self) -> int:
        """None beside the workers: cells are embedded before training begins."""
        return 0

    def lineage(self) -> dict[str, Any]:
        config = {name: value for name, value in asdict(self.config).items() if name != "metadata"}
        return {
            "conversations": self.conversations_hash,
            "joint": self.joint_fingerprint,
            "language_model": self.language_fingerprint,
            "start": self.start_fingerprint,
            "cells": self.embeddings_of,
            "config": config,
            "stage": self.stage,
            "lora": self.lora,
            "held_out": [self.held_out_share, self.split_seed],
            "judge": [self.judge_every, self.patience],
        }

    def build(self, seed: int, shard: FeatureShard = ALONE) -> chat.TrainingModule:
        if shard.world > 1:
            raise InputError("--feature-parallel: a chat model has no features to share out; leave it at 1.")
        dtype = torch.bfloat16 if self.stage == "projector" and self.precision == "bf16" else torch.float32
        language_model = chat.load_language_model(local_copy(self.language_model), dtype)
        return self._module(language_model, self._projector(language_model, seed))

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Nothing depends on the conversations: what learns begins as the seed's or the given model's."""

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        examples = examples_of(self)
        learnt, _ = examples.split(self.held_out_share, self.split_seed)
        stream = prefetched(examples.batches(learnt, start_step, share))
        return map(partial(on_device, device=device), stream)

    def tokens(self, batch: Batch) -> int:
        return int(batch["mask_BS"].sum())

    @torch.no_grad()
    def judge(self, module: nn.Module, share: Share, device: torch.device) -> dict[str, float]:
        """Loss of a token and share of likeliest tokens on the held-out conversations. Collective.

        Nothing where none is held out. All workers do as many forward passes, some of them twice, since
        weights that ZeRO-3 shares out want that; what is done twice counts once.
        """
        module = _chat(module)
        examples = examples_of(self)
        _, held = examples.split(self.held_out_share, self.split_seed)
        if not len(held):
            return {}
        held = np.random.default_rng(0).permutation(held)[:MOST_JUDGED]
        size = -(-len(held) // share.world)
        own = np.resize(held, size * share.world)[share.rank * size : (share.rank + 1) * size]
        n_new = min(max(len(held) - share.rank * size, 0), size)
        sums_3 = torch.zeros(3, dtype=torch.float64, device=device)
        module.eval()
        for start in range(0, size, JUDGED_AT_ONCE):
            batch = examples.batch(own[start : start + JUDGED_AT_ONCE])
            batch["labels_BS"][max(n_new - start, 0) :] = -100
            losses_L, right_L = module.judged(on_device(batch, device))
            found = torch.stack([losses_L.sum(), right_L.sum(), torch.tensor(len(losses_L), device=device)])
            sums_3 += found.double()
        module.train()
        dist.all_reduce(sums_3, group=share.group)
        loss, right, n = sums_3.tolist()
        return {"held_out_loss": loss / n, "held_out_accuracy": right / n, SCORE: -loss / n}

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        """The model directory that `chat.load` opens; the language model in the type it came in."""
        source = local_copy(self.language_model)
        unchanged = source if self.stage == "projector" else None
        if self.lora:
            language_model = chat.load_language_model(source, torch.float32)
        else:
            # Nothing of it is read here: it is copied, or all of it has learnt.
            language_model = chat.empty_language_model(source, "cpu" if unchanged is None else "meta")
        module = self._module(language_model, chat.Projector(self.config))
        fill_learnt(module, state)
        model = module.model
        if unchanged is None:
            merge_lora(model.language_model)
            model.language_model.to(chat.stored_dtype(source))
        model.config = replace(self.config, metadata=self._metadata(options))
        chat.save(model, directory, unchanged=unchanged)

    def require_module(self) -> None:
        """Raises ModelError when the parts do not fit or cannot be trained so. Reads no weights."""
        language_model = chat.empty_language_model(local_copy(self.language_model), "meta")
        self._module(language_model, chat.Projector(self.config))
        if self.start is not None:
            chat.load_projector(local_copy(self.start))

    def _metadata(self, options: TrainingOptions) -> dict[str, Any]:
        examples = examples_of(self)
        learnt, held = examples.split(self.held_out_share, self.split_seed)
        training = {
            "conversations": self.conversations_hash,
            "learnt": len(learnt),
            "held_out": len(held),
            "stage": self.stage,
            "lora": self.lora,
            "batch": options.batch,
            "learning_rate": options.learning_rate,
            "seed": options.seed,
        }
        return {**self.config.metadata, "training": training}

    def _projector(self, language_model: Any, seed: int) -> chat.Projector:
        if self.start is not None:
            return chat.load_projector(local_copy(self.start))
        words_VD: Tensor = language_model.get_input_embeddings().weight
        return chat.fresh_projector(
            self.config, float(words_VD.detach().float().square().mean().sqrt()), seed
        )

    def _module(self, language_model: Any, projector: chat.Projector) -> chat.TrainingModule:
        frozen = self.stage == "projector"
        if not frozen and self.lora:
            add_lora(language_model, self.lora)
        if not frozen and self.recompute:
            language_model.gradient_checkpointing_enable()
        tokeniser = chat.load_tokeniser(local_copy(self.language_model))
        model = chat.ChatModel(self.config, projector, language_model, tokeniser, frozen=frozen)
        return chat.TrainingModule(model.train(), self.answer_tokens)


def on_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _chat(module: nn.Module) -> chat.TrainingModule:
    if not isinstance(module, chat.TrainingModule):
        raise TypeError(f"expected the module that build() made, got {type(module).__name__}")
    return module
