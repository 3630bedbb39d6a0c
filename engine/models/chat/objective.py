"""The chat model's training objective: what the assistant says next, and nothing else.

Legend: B conversations of a micro-batch, S tokens of the longest, N selections of cells, U width of the joint
space, V vocabulary, L tokens of answers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.chat.model import ChatModel
from engine.models.chat.tokenise import NO_LABEL
from engine.models.objective import Loss


class TrainingModule(nn.Module):
    """The model with its loss; a training loop calls `forward` alone.

    answer_tokens: tokens of answers in a conversation, on average over the whole training file. The loss is a
    sum over tokens divided by it, so that a token counts alike in whatever micro-batch it is.
    """

    def __init__(self, model: ChatModel, answer_tokens: float) -> None:
        super().__init__()
        self.model, self.answer_tokens = model, answer_tokens

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """batch: ids_BS, labels_BS, mask_BS of `tokenise.padded` and cells_NU."""
        losses_L, right_L = self.judged(batch)
        loss = losses_L.sum() / (len(batch["ids_BS"]) * self.answer_tokens)
        return Loss(loss, {"answer_accuracy": right_L.float().mean()})

    def judged(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(cross entropy, whether it was the likeliest) of each token of the answers, L."""
        logits_BSV = self.model(batch["ids_BS"], batch["mask_BS"], batch["cells_NU"])
        after_BS = batch["labels_BS"][:, 1:]
        said_BS = after_BS != NO_LABEL
        logits_LV, labels_L = logits_BSV[:, :-1][said_BS].float(), after_BS[said_BS]
        with torch.no_grad():
            right_L = logits_LV.argmax(1) == labels_L
        return F.cross_entropy(logits_LV, labels_L, reduction="none"), right_L
