"""A language model that reads cells: soft tokens spliced into its input embeddings.

Legend: B conversations, S tokens of the longest, N selections of cells in all of them, U width of the joint
space, K soft tokens of a selection, D width of the language model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.models.chat.config import ChatConfig
from engine.models.chat.projector import Projector
from engine.models.chat.tokenise import SOFT, ChatTokeniser
from engine.models.errors import ModelError


class ChatModel(nn.Module):
    """Projector, language model and tokeniser.

    frozen: the language model is not part of the module's weights: no gradient, no optimiser and no
    checkpoint of it; what trains is the projector alone.
    """

    def __init__(
        self,
        config: ChatConfig,
        projector: Projector,
        language_model: Any,
        tokeniser: Any,
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        found = language_model.get_input_embeddings().weight.shape[1]
        if found != config.model_width:
            raise ModelError(
                f"the language model's embeddings have {found} numbers, the projector makes "
                f"{config.model_width}: they do not belong together"
            )
        self.config, self.projector = config, projector
        self.tokeniser = ChatTokeniser(tokeniser, config)
        if frozen:
            # In a list torch does not see it.
            self._frozen = [language_model.requires_grad_(False).eval()]
        else:
            self.own_language_model = language_model

    @property
    def language_model(self) -> Any:
        return self._frozen[0] if "_frozen" in self.__dict__ else self.own_language_model

    def embed(self, ids_BS: Tensor, cells_NU: Tensor) -> Tensor:
        """Input embeddings x_BSD: of words, and of the selections in the order of their places."""
        language_model = self.language_model
        if "_frozen" in self.__dict__ and language_model.device != cells_NU.device:
            language_model.to(cells_NU.device)
        soft_BS = ids_BS == SOFT
        soft_NKD = self.projector(cells_NU)
        if int(soft_BS.sum()) != soft_NKD.shape[0] * soft_NKD.shape[1]:
            raise ModelError(
                f"{len(cells_NU)} selections of cells for {int(soft_BS.sum()) // self.config.n_tokens} places"
            )
        x_BSD = language_model.get_input_embeddings()(ids_BS.clamp(min=0))
        spliced_BSD: Tensor = x_BSD.masked_scatter(soft_BS.unsqueeze(-1), soft_NKD.to(x_BSD.dtype))
        return spliced_BSD

    def forward(self, ids_BS: Tensor, mask_BS: Tensor, cells_NU: Tensor) -> Tensor:
        """Logits of the next token, BSV. mask_BS: 1 at tokens; padding is on the right."""
        x_BSD = self.embed(ids_BS, cells_NU)
        logits_BSV: Tensor = self.language_model(
            inputs_embeds=x_BSD, attention_mask=mask_BS, use_cache=False
        ).logits
        return logits_BSV

    @torch.no_grad()
    def soft_tokens(self, cells_NU: Tensor) -> Tensor:
        """x_NKD, to send to a language model that runs elsewhere."""
        found_NKD: Tensor = self.projector(cells_NU)
        return found_NKD
