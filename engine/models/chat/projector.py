"""From a vector of the joint space to soft tokens: inputs of a language model that stand for cells.

Source: LLaVA (arXiv:2304.08485), in CellWhisperer's layout `mlp2x_8t_gelu`: two linear layers with a GELU
between, the last of which makes all tokens at once. Weights have the names of theirs, `0` and `2`.
Legend: N selections of cells, U width of the joint space, K soft tokens, D width of the language model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models.chat.config import ChatConfig


class Projector(nn.Sequential):
    """CellWhisperer's hidden layer is as wide as all tokens together, 1.1 billion weights for Mistral 7B; a
    narrower one is an option of ours.
    """

    def __init__(self, config: ChatConfig) -> None:
        super().__init__(
            nn.Linear(config.cell_width, config.hidden_width),
            nn.GELU(),
            nn.Linear(config.hidden_width, config.n_tokens * config.model_width),
        )
        self.n_tokens = config.n_tokens

    def forward(self, cells_NU: Tensor) -> Tensor:
        """Soft tokens x_NKD."""
        x_ND: Tensor = super().forward(cells_NU)  # type: ignore[no-untyped-call]
        return x_ND.view(len(x_ND), self.n_tokens, -1)


def fresh_projector(config: ChatConfig, embedding_rms: float, seed: int) -> Projector:
    """A projector before its first step: its tokens are about as large as the language model's own.

    embedding_rms: root mean square of its input embeddings. Torch's own start makes tokens of unit vectors
    that are ten times larger than those of words, which drown them.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        projector = Projector(config)
        last: nn.Linear = projector[2]  # type: ignore[assignment]
        probes_NU = nn.functional.normalize(torch.randn(256, config.cell_width), dim=1)
        with torch.no_grad():
            found = projector(probes_NU).square().mean().sqrt()
            last.weight.mul_(embedding_rms / found)
            last.bias.mul_(embedding_rms / found)
    return projector
