"""CellWhisperer's heads, loss and scores against the reference's outputs (shared/golden/cellwhisperer)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.models.joint import group_means, info_nce, scores
from engine.models.joint.cellwhisperer import head_weights
from engine.models.joint.heads import ResidualHead
from engine.models.joint.model import cut
from tests.parity.golden import assert_close

TOLERANCE = 1e-5


class Golden:
    """The reference's heads in ours, and its numbers."""

    def __init__(self, folder: Path) -> None:
        weights = head_weights(load_file(folder / "discriminator.safetensors"))
        found = np.load(folder / "expected.npz")
        self.numbers = {name: found[name] for name in found.files}
        self.scale = weights["log_scale"].exp()
        self.heads = {}
        for head in ("cell_head", "text_head"):
            own = {n.removeprefix(head + "."): t for n, t in weights.items() if n.startswith(head)}
            width_out, width_in = own["shortcut.weight"].shape
            self.heads[head] = ResidualHead(width_in, width_out).eval()
            self.heads[head].load_state_dict(own)

    def tensor(self, name: str) -> Tensor:
        return torch.as_tensor(self.numbers[name])

    @torch.no_grad()
    def embeds(self, features: str, *, training: bool = False) -> Tensor:
        """Unit embeddings of the golden features of that name; training: with the batch's own statistics."""
        head = self.heads["cell_head" if features.startswith("transcriptome") else "text_head"]
        h_BU = head.train(training)(self.tensor(features))
        return cut(h_BU, h_BU.shape[1])


@pytest.fixture
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden" / "cellwhisperer")


@pytest.mark.parametrize("of", ["transcriptome", "text", "query_text"])
def test_embeddings(golden: Golden, of: str) -> None:
    assert_close(golden.embeds(f"{of}_features"), golden.numbers[f"{of}_embeds"], TOLERANCE)


def test_scale_and_logits(golden: Golden) -> None:
    assert_close(golden.scale, golden.numbers["logit_scale"], TOLERANCE)
    texts, cells = golden.embeds("text_features"), golden.embeds("transcriptome_features")
    expected = golden.numbers["logits_per_transcriptome"]
    assert_close(scores(texts, cells, golden.scale).T, expected, 1e-4)


def test_logits_in_training_mode(golden: Golden) -> None:
    """BatchNorm with the statistics of the batch."""
    texts = golden.embeds("text_features", training=True)
    cells = golden.embeds("transcriptome_features", training=True)
    assert_close(scores(texts, cells, golden.scale).T, golden.numbers["train_mode_logits"], 1e-4)


def test_loss(golden: Golden) -> None:
    texts, cells = golden.tensor("text_embeds"), golden.tensor("transcriptome_embeds")
    pairs = torch.eye(len(texts), dtype=torch.bool)
    loss = info_nce(texts, cells, golden.scale, pairs)
    assert_close(loss, golden.numbers["clip_loss"], TOLERANCE)
    weights = golden.tensor("annotation_weights"), golden.tensor("transcriptome_weights")
    weighted = info_nce(texts, cells, golden.scale, pairs, *weights)
    assert_close(weighted, golden.numbers["clip_loss_weighted"], TOLERANCE)


@pytest.mark.parametrize("norm", ["None", "softmax", "zscore", "01norm"])
@pytest.mark.parametrize("average", ["None", "embeddings"])
def test_scores(golden: Golden, average: str, norm: str) -> None:
    cells = golden.tensor("transcriptome_embeds")
    if average == "embeddings":
        names, cells = group_means(cells, list(golden.numbers["groups"]))
        assert names == sorted(set(golden.numbers["groups"]))
    normalise = None if norm == "None" else norm
    found = scores(golden.tensor("query_text_embeds"), cells, golden.scale, normalise=normalise)  # type: ignore[arg-type]
    assert_close(found, golden.numbers[f"scores_avg_{average}_norm_{norm}"], 1e-4)
