"""Cells and texts in one space: two towers, two heads, their losses, and CellWhisperer's checkpoints.

from engine.models import joint
model = joint.create("geneformer-v1", "biobert", width=2048, head="residual")   # or joint.load(directory)
scores = joint.scores(model.embed_texts(["T cells"]), model.embed_cells(tokens), model.scale)
"""

from engine.models.joint.attribution import TextAttribution, attribute_text
from engine.models.joint.checkpoint import create, load, save
from engine.models.joint.config import JointConfig
from engine.models.joint.large_batches import features_in_chunks, gather_rows
from engine.models.joint.locking import lock, set_learning
from engine.models.joint.losses import contrastive_loss, info_nce, same_caption, sigmoid_loss
from engine.models.joint.model import JointModel
from engine.models.joint.objective import ObjectiveOptions, TrainingModule
from engine.models.joint.scoring import TEMPLATES, group_means, prompts, scores
from engine.models.joint.sides import CellSide, TextSide, load_cell_side, load_config, load_text_side
from engine.models.joint.standardising import StandardisedHead, fold, standardise
from engine.models.joint.text_tower import TextTokens, TextTower, load_text_tower

__all__ = [
    "TEMPLATES",
    "CellSide",
    "JointConfig",
    "JointModel",
    "ObjectiveOptions",
    "StandardisedHead",
    "TextAttribution",
    "TextSide",
    "TextTokens",
    "TextTower",
    "TrainingModule",
    "attribute_text",
    "contrastive_loss",
    "create",
    "features_in_chunks",
    "fold",
    "gather_rows",
    "group_means",
    "info_nce",
    "load",
    "load_cell_side",
    "load_config",
    "load_text_side",
    "load_text_tower",
    "lock",
    "prompts",
    "same_caption",
    "save",
    "scores",
    "set_learning",
    "sigmoid_loss",
    "standardise",
]
