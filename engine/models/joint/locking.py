"""Which towers learn. Two letters, cell tower then text tower, as in LiT (arXiv:2111.07991).

L: locked. U: pretrained, and learns once the projection-only warm-up is over. u: starts from random numbers
and learns from the first step. CellWhisperer's first model is "LU".
"""

from __future__ import annotations

import torch
from torch import nn

from engine.models import geneformer, tahoe
from engine.models.errors import ModelError
from engine.models.geneformer.create import initialise as initialise_geneformer
from engine.models.joint.lora import add_lora, has_lora, lora_parameters
from engine.models.joint.model import JointModel
from engine.models.joint.text_tower import TextTower
from engine.models.tahoe.create import initialise as initialise_tahoe

TOWERS = ("cell", "text")


def lock(model: JointModel, mode: str, *, cell_lora: int = 0, text_lora: int = 0, seed: int = 0) -> None:
    """Prepare a model for its first step: towers marked u are drawn anew, what never learns is frozen.

    cell_lora, text_lora: rank of the additions through which a tower marked U learns; 0 trains it whole.
    Raises ModelError for an unknown mode, and for LoRA on a tower that is not marked U.
    """
    letters = _letters(mode)
    for tower, rank in zip(TOWERS, (cell_lora, text_lora), strict=True):
        if rank and letters[tower] != "U":
            raise ModelError(f"LoRA needs a {tower} tower marked U, and the locking mode is {mode!r}")
        module = model.get_submodule(f"{tower}_tower")
        if letters[tower] == "u":
            draw_anew(module, seed)
        if rank and not has_lora(module):
            add_lora(module, rank)
    unread = _unread(model)
    for tower in TOWERS:
        module = model.get_submodule(f"{tower}_tower")
        additions = {id(parameter) for parameter in lora_parameters(module)}
        for name, parameter in module.named_parameters():
            trains = id(parameter) in additions or not additions
            learns = letters[tower] != "L" and trains and not name.startswith(unread[tower])
            parameter.requires_grad_(learns)
    set_learning(model, mode, warming_up=True)


def set_learning(model: JointModel, mode: str, *, warming_up: bool) -> None:
    """Say which towers learn in this phase of training.

    warming_up: only the heads, and towers marked u. The others are in eval mode and give features without a
    gradient. What requires one stays as `lock` left it, for DeepSpeed looks at that once, when it starts.
    """
    letters = _letters(mode)
    learning = {
        tower for tower in TOWERS if letters[tower] == "u" or (letters[tower] == "U" and not warming_up)
    }
    model.locked = frozenset(TOWERS) - learning
    model.train(model.training)


def draw_anew(tower: nn.Module, seed: int) -> None:
    """Random numbers in place of a tower's weights, by its architecture's own rule and this seed."""
    for module in tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    if isinstance(tower, TextTower):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = type(tower.language_model)(tower.language_model.config)
        if getattr(tower.language_model, "pooler", None) is None:
            delattr(fresh, "pooler")
        tower.language_model.load_state_dict(fresh.state_dict())
    elif isinstance(tower, geneformer.GeneformerEncoder):
        initialise_geneformer(tower, seed)
    elif isinstance(tower, tahoe.TahoeEncoder):
        initialise_tahoe(tower, seed)
    else:
        raise ModelError(f"a {type(tower).__name__} cannot be drawn anew")


def _unread(model: JointModel) -> dict[str, tuple[str, ...]]:
    """Parts of each tower that features do not depend on: without a gradient they must not be decayed."""
    layer, n_layers = model.cell_layer % model.cell_tower.n_layers, model.cell_tower.n_layers
    behind = tuple(f"blocks.{i}." for i in range(layer + 1, n_layers))
    heads = ("head.", "expression_head.", "cell_head.", "flag.")
    closing = ("final_norm.",) if behind else ()
    pooler = () if model.text_tower.pool == "pooler" else ("language_model.pooler.",)
    return {"cell": (*heads, *behind, *closing), "text": pooler}


def _letters(mode: str) -> dict[str, str]:
    if len(mode) != 2 or set(mode) - set("LUu"):
        raise ModelError(f"locking mode {mode!r}: expected two of L, U and u, cell tower then text tower")
    return dict(zip(TOWERS, mode, strict=True))
