"""Options of the training objectives, and what an architecture's part of the loss hands back.

Legend: B tokens of a batch, O output width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from engine.models.errors import ModelError
from engine.models.sae.parallelise import ALONE, FeatureShard


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What the loss is made of; fields that an architecture does not use are ignored by it.

    TopK, BatchTopK, Matryoshka:
      aux_coefficient: weight of AuxK. aux_relative: AuxK as a fraction of the residual's variance times the
      batch's variance, so that its weight does not depend on how good the fit is (OpenAI's form, with
      coefficient 1/32); else the plain squared error (SAELens' form, coefficient 1).
      threshold_rate: step of BatchTopK's running threshold towards each batch's smallest chosen score.
      matryoshka_widths: ascending sizes of the nested prefixes; the whole is added if it is not the last.
      encoder_precision: "bf16" ranks features by a bf16 product and scores the best k + 32 again in fp32;
      "auto" does so on CUDA.
      path: "sparse" never holds activations of all features of a batch, "dense" does, "auto" takes the
      faster of the two by d_sae / k.
    Standard, Gated, JumpReLU:
      sparsity_coefficient: weight of the sparsity penalty. lp_norm: of the standard penalty.
      sparsity_mode: jumprelu's penalty: "step" (L0), "tanh", or "quadratic" around target_l0.
      bandwidth: width of the straight-through estimator's window. ste_to_input: it also moves the encoder.
      pre_act_coefficient: weight of the loss that lifts dead features' pre-activations; None for none.
    """

    aux_coefficient: float = 1.0
    aux_relative: bool = False
    threshold_rate: float = 0.01
    matryoshka_widths: tuple[int, ...] = ()
    encoder_precision: Literal["auto", "fp32", "bf16"] = "auto"
    path: Literal["auto", "sparse", "dense"] = "auto"
    sparsity_coefficient: float = 1.0
    lp_norm: float = 1.0
    sparsity_mode: Literal["step", "tanh", "quadratic"] = "step"
    target_l0: float | None = None
    bandwidth: float = 0.05
    ste_to_input: bool = False
    tanh_scale: float = 4.0
    pre_act_coefficient: float | None = None

    def prefixes(self, d_sae: int) -> tuple[int, ...]:
        """Widths of the nested prefixes, the last being the whole. Raises ModelError unless ascending."""
        widths = self.matryoshka_widths
        if (
            not widths
            or any(a >= b for a, b in zip((0, *widths), widths, strict=False))
            or widths[-1] > d_sae
        ):
            raise ModelError(
                f"matryoshka_widths are {widths}; expected ascending widths from 1 to d_sae ({d_sae})"
            )
        return widths if widths[-1] == d_sae else (*widths, d_sae)


class Knobs(NamedTuple):
    """What a recipe may change from step to step, and the features that this process computes."""

    k: float
    sparsity_coefficient: float
    target_l0: float | None
    shard: FeatureShard = ALONE


class Terms(NamedTuple):
    """An architecture's reconstruction r_BO, further losses by name, active features, mean active number."""

    r_BO: Tensor
    penalties: dict[str, Tensor]
    fired_F: Tensor
    l0: Tensor
