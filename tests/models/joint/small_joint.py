"""A small text model on disk, small joint models, and checkpoints as CellWhisperer's trainer writes them."""

import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from engine.models import joint
from engine.models.joint.cellwhisperer import HEAD_KEYS
from tests.models.small_models import small_geneformer

WORDS = ["t", "b", "cell", "##s", "blood", "monocyte", "a", "sample", "of", "tissue", "liver", "nk"]
TEXTS = ["T cells", "a sample of blood", "monocyte", "B cells of a tissue sample", "liver"]


def bert(**sizes: Any) -> BertModel:
    """A random BERT for the words above, noise on every weight."""
    given = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    torch.manual_seed(1)
    model = BertModel(BertConfig(vocab_size=len(WORDS) + 5, max_position_embeddings=16, **(given | sizes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def text_directory(directory: Path) -> Path:
    """A BERT directory as an author would upload it: vocab.txt, config.json, model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    bert().save_pretrained(directory)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    return directory


def small_joint(folder: Path, **options: Any) -> joint.JointModel:
    """Geneformer and BERT in 8 dimensions, Matryoshka widths 4 and 8."""
    text_tower = joint.load_text_tower(text_directory(folder / "bert"))
    return joint.create(small_geneformer(), text_tower, **({"width": 8, "dims": (4, 8)} | options))


def discriminator(cell_width: int, text_width: int, width: int) -> dict[str, Tensor]:
    """Random projection heads under CellWhisperer's names."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"expand": (width, -1), "mix": (width, width), "shortcut": (width, -1)}
    weights: dict[str, Tensor] = {"model.discriminator.temperature": torch.tensor(2.5)}
    for theirs, ours in HEAD_KEYS.items():
        head, layer = ours.split(".")
        inner = cell_width if head == "cell_head" else text_width
        shape = [inner if size == -1 else size for size in shapes.get(layer, (width,))]
        weights[f"{theirs}.weight"] = torch.randn(shape, generator=generator)
        if layer != "expand":
            weights[f"{theirs}.bias"] = torch.randn(width, generator=generator)
        if layer == "batch_norm":
            weights[f"{theirs}.running_mean"] = torch.randn(width, generator=generator)
            weights[f"{theirs}.running_var"] = torch.rand(width, generator=generator) + 0.5
            weights[f"{theirs}.num_batches_tracked"] = torch.tensor(7)
    return weights


def lightning_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, locking_mode: str = "LU", **extra: Any
) -> dict[str, Tensor]:
    """Writes a checkpoint of the layout of `cellwhisperer_clip_v1.ckpt`; returns its state dict.

    Its configuration is pickled as objects of CellWhisperer's classes, which do not exist when it is read.
    """
    state: dict[str, Any] = {f"model.text_model.{name}": part for name, part in bert().state_dict().items()}
    if locking_mode[1] == "L":
        state = {}
    if locking_mode[0] != "L":
        from engine.models.geneformer.checkpoint import KEYS

        exported = KEYS.export(small_geneformer(special_tokens=False))
        prefix = "model.transcriptome_model.geneformer_model."
        state |= {prefix + name: part + 0.01 for name, part in exported.items()}
    state |= discriminator(cell_width=16, text_width=12, width=24)
    module = _module(monkeypatch, "cellwhisperer.jointemb.config", "TranscriptomeTextDualEncoderConfig")
    cells = _module(monkeypatch, "cellwhisperer.jointemb.geneformer_model", "GeneformerConfig")
    losses = _module(monkeypatch, "cellwhisperer.jointemb.loss.config", "LossConfig")
    config, cell_config, loss = module(), cells(), losses()
    cell_config.__dict__ = {"model_type": "geneformer", "emb_mode": "cell", "emb_layer": -1}
    config.__dict__ = {
        "projection_dim": 24,
        "locking_mode": locking_mode,
        "transcriptome_config": cell_config,
        "text_config": bert().config,
    }
    optimizer = {
        "state": {0: {"exp_avg": torch.zeros(3)}},
        "param_groups": [{"lr": 1e-5, "betas": (0.9, 0.98)}],
    }
    checkpoint = {
        "epoch": 15,
        "global_step": 32000,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.3), "dirpath": Path("/x")}},
        "optimizer_states": [optimizer],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"model_config": config, "loss_config": loss, "learning_rate": 1e-5},
    }
    torch.save(checkpoint | extra, path)
    for name in [name for name in sys.modules if name.startswith("cellwhisperer")]:
        monkeypatch.delitem(sys.modules, name)
    return state


def _module(monkeypatch: pytest.MonkeyPatch, name: str, class_name: str) -> type:
    """A class that pickles as `name.class_name` for as long as the modules are there."""
    made = type(class_name, (), {"__module__": name, "__qualname__": class_name})
    for depth in range(1, name.count(".") + 2):
        package = ".".join(name.split(".")[:depth])
        if package not in sys.modules:
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    setattr(sys.modules[name], class_name, made)
    return made
