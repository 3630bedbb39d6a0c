"""CellWhisperer's way to embed cells: each alone, padded to the longest of the data set, heads computed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers

from engine.models import Tokens
from engine.models.joint import CellSide
from engine.models.joint.model import cut


class OneByOne:
    """The cells it is given, in steps of one; embeddings holds the results."""

    def __init__(self, encoder: Path, side: CellSide, tokens: Tokens, longest: int) -> None:
        self.bert = transformers.BertForMaskedLM.from_pretrained(encoder, output_hidden_states=True).eval()
        self.side, self.tokens, self.longest = side, tokens, longest
        self.embeddings: list[np.ndarray] = []

    @torch.no_grad()
    def steps(self) -> Iterator[None]:
        for cell in range(self.tokens.n_cells):
            ids_T = torch.from_numpy(self.tokens.select([cell]).ids_T.astype(np.int64))
            ids_1S = torch.zeros(1, self.longest, dtype=torch.long)
            ids_1S[0, : len(ids_T)] = ids_T
            valid_1S = (torch.arange(self.longest) < len(ids_T))[None].long()
            x_1SD = self.bert(input_ids=ids_1S, attention_mask=valid_1S).hidden_states[-2]
            mean_1D = x_1SD[0, : len(ids_T)].mean(0, keepdim=True)
            self.embeddings.append(cut(self.side.cell_head(mean_1D), self.side.config.width).numpy()[0])
            yield
