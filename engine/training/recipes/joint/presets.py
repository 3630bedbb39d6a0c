"""Recipes of joint training under a name: what the flags say where none is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.models.joint.losses import LossKind
from engine.models.joint.objective import Positives
from engine.training.options import Decay


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Shares are of the steps; `epochs` of the training cells."""

    head: Literal["residual", "sphere"]
    dims: tuple[int, ...]
    loss: LossKind = "infonce"
    positives: Positives = "caption"
    locking: str = "LL"
    learn_scale: bool = True
    largest_scale: float | None = 100.0
    standardise: bool = True
    batch: int = 512
    epochs: float
    lr: float
    decay: Decay = "cosine"
    final_fraction: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.03
    projection_warmup: float = 0.0


PRESETS = {
    # Features of frozen towers are computed once, so epochs are cheap.
    "default": Preset(
        head="sphere",
        positives="distinct",
        dims=(64, 128, 256, 512),
        epochs=60,
        lr=3e-3,
        learn_scale=True,
    ),
    # specs/joint_and_chat.md section 1, v1: one positive a pair, text tower unlocked after the warm-up of the
    # heads, temperature without limit. Trained in bf16: --precision bf16.
    "cellwhisperer": Preset(
        head="residual",
        dims=(2048,),
        positives="pair",
        locking="LU",
        largest_scale=None,
        standardise=False,
        epochs=16,
        lr=1e-5,
        final_fraction=0.05,
        betas=(0.9, 0.98),
        projection_warmup=0.03,
    ),
    # specs/serving.md section 6: a sphere of 512 dimensions cut to 64, 128 and 256, temperature frozen at
    # 0.07, all pairs of a caption positives.
    "lingocell": Preset(
        head="sphere",
        dims=(64, 128, 256, 512),
        locking="LU",
        learn_scale=False,
        epochs=16,
        lr=1e-4,
        betas=(0.9, 0.98),
        projection_warmup=0.03,
    ),
}
