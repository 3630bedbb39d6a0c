"""Sizes and options of a model that predicts what a perturbation does, as its config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from engine.models.errors import ModelError
from engine.models.weights import settings_of

MODEL_TYPE = "syncytium-perturbation"
HEADS = ("linear", "probabilistic")
BLOCKS = ("mamba2", "mamba1")
TIES = ("projections", "none")
COMBINATIONS = ("sum", "concat")
REQUIRED = ("n_genes",)
# Chromosomes 1-22, X, Y, and one for everything else (mitochondria, contigs, unknown).
N_CHROMOSOMES = 25

Head = Literal["linear", "probabilistic"]


@dataclass(frozen=True)
class PerturbationConfig:
    """Architecture of a `PerturbationModel`.

    n_genes: genes that are read and predicted. n_targets: further genes that are perturbed but not measured.
    d_model, n_layers: width and depth. block: "mamba2" or "mamba1"; d_state, d_conv, expand, headdim, ngroups
        as in mamba-ssm (headdim and ngroups: Mamba-2 only).
    tie: "projections" (both directions share in_proj and out_proj) or "none". combine: how directions are
        joined, "sum" or "concat" (twice the width into one output map).
    head: "linear" predicts log-normalised expression, "probabilistic" the negative binomial of counts.
    gene_identity_dim, chromosome_dim, locus_dim, pathway_dim: widths of the parts of a gene's features;
        locus_frequencies: octaves of its position on the chromosome. pathway_dim 0: no pathway features.
    condition_dim: width of the vector that every layer is conditioned on.
    n_contexts: cell types, lines or batches it tells apart (0: one). drug_dim: numbers of a drug's vector (0:
        no drugs). basal: whether expression before the perturbation is an input.
    residual: pre-norm residual layers; without, a layer's output replaces its input.
    mean_response: whether each gene has a response of its own to any perturbation beside the layers'.
    identity_dropout: share of training conditions in which targets are known by their features alone, so that
        targets never perturbed in training have a prediction to fall back on.
    target_sum: counts per cell that log-normalised expression refers to. basal_floor: in these units, what
        the probabilistic head adds to a gene's basal expression, so that a silent gene can be switched on.
    control_label, contexts: names of the unperturbed state and of the contexts in their order.
    metadata: provenance; JSON values.
    """

    n_genes: int
    n_targets: int = 0
    d_model: int = 128
    n_layers: int = 4
    d_state: int = 64
    block: str = "mamba2"
    d_conv: int = 4
    expand: int = 2
    headdim: int = 64
    ngroups: int = 1
    tie: str = "projections"
    combine: str = "sum"
    head: str = "linear"
    gene_identity_dim: int = 64
    chromosome_dim: int = 16
    locus_dim: int = 16
    locus_frequencies: int = 16
    pathway_dim: int = 0
    condition_dim: int = 128
    n_contexts: int = 0
    drug_dim: int = 0
    basal: bool = True
    residual: bool = True
    mean_response: bool = True
    identity_dropout: float = 0.0
    target_sum: float = 1e4
    basal_floor: float = 1e-2
    control_label: str = "non-targeting"
    contexts: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", tuple(self.contexts))
        for name, known in {"head": HEADS, "block": BLOCKS, "tie": TIES, "combine": COMBINATIONS}.items():
            if getattr(self, name) not in known:
                raise ModelError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(repr, known))}"
                )
        self._at_least(1, "n_genes", "d_model", "n_layers", "d_state", "d_conv", "expand", "condition_dim")
        self._at_least(1, "gene_identity_dim", "locus_frequencies", "chromosome_dim", "locus_dim")
        self._at_least(0, "n_targets", "pathway_dim", "n_contexts", "drug_dim", "basal_floor")
        if not 0 <= self.identity_dropout <= 1:
            raise ModelError(f"identity_dropout is {self.identity_dropout}; it is a share, 0 to 1")
        if self.target_sum <= 0:
            raise ModelError(f"target_sum is {self.target_sum}; it is a number of counts, above 0")
        if self.head == "probabilistic" and self.basal_floor == 0:
            raise ModelError(
                "basal_floor is 0; a silent gene would have rate 0 for ever. Give a small number"
            )
        if self.contexts and len(self.contexts) != self.n_contexts:
            raise ModelError(f"{len(self.contexts)} context names, but n_contexts is {self.n_contexts}")
        if self.block == "mamba2":
            self._check_heads()

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ModelError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def _check_heads(self) -> None:
        if self.headdim < 1 or self.d_inner % self.headdim:
            raise ModelError(
                f"headdim {self.headdim} does not divide expand x d_model = {self.d_inner}; a divisor is "
                f"{next(size for size in (64, 32, 16, 8, 4, 2, 1) if self.d_inner % size == 0)}"
            )
        if self.ngroups < 1 or (self.d_inner // self.headdim) % self.ngroups:
            raise ModelError(
                f"ngroups {self.ngroups} does not divide the {self.d_inner // self.headdim} heads"
            )

    @property
    def d_inner(self) -> int:
        """Channels inside a block."""
        return self.expand * self.d_model

    @property
    def n_known(self) -> int:
        """Genes that have features: measured ones and further targets."""
        return self.n_genes + self.n_targets

    @property
    def feature_dim(self) -> int:
        """Width of a gene's features before they are brought to d_model."""
        return self.gene_identity_dim + self.pathway_dim + self.chromosome_dim + self.locus_dim


def original(
    n_genes: int = 18_080,
    *,
    prediction_head: str = "linear",
    gene_identity_dim: int = 189,
    pathway_dim: int = 50,
    d_model: int = 512,
    mamba_layers: int = 1,
    **options: Any,
) -> PerturbationConfig:
    """The layout of the virtual_cell prototype (specs/perturbation.md 1.1), under its own option names.

    Its sizes are kept: features of 189 + 50 + 16 + 16 = 271 numbers in that order, eight frequencies of the
    locus, one bidirectional Mamba-2 (state 128, heads of 64) with untied directions that are added up, no
    residual. What was wrong in it is not kept:

    - the negative binomial took the probability of failure for that of success, so fitted means were
      inverted: here a constant fits the mean of the counts (`heads.negative_binomial_loss`);
    - the perturbation was a token in front of the genes, invisible to the backward scan and forgotten by the
      forward scan within a thousand genes: here every gene of every layer is conditioned on it as well;
    - no cell entered the model, so all cells of a perturbation were predicted alike: basal expression is an
      input, and what is predicted is the difference to it;
    - counts had no depth: the library size is part of the mean;
    - the probabilistic head was trained on log-normalised expression: the objective says what it takes;
    - an unknown perturbation silently became the control, ambiguous names took the first match: refused;
    - genes came in the order of the file: sorted by chromosome and start, the order is in the checkpoint;
    - tokens appended to fill a multiple of 16 came first in the flipped scan and leaked into it: padding has
      no step size (dt = 0) and changes nothing;
    - pathway features were unscaled and 99 % one direction (abundance): give them standardised;
    - `mamba_layers` was read by nothing: it is the depth;
    - weight decay shrank A_log, D and dt_bias: they say that they must not be decayed.
    """
    return PerturbationConfig(
        **{
            "n_genes": n_genes,
            "head": prediction_head,
            "gene_identity_dim": gene_identity_dim,
            "pathway_dim": pathway_dim,
            "d_model": d_model,
            "n_layers": mamba_layers,
            "d_state": 128,
            "locus_frequencies": 8,
            "condition_dim": 256,
            "tie": "none",
            "residual": mamba_layers > 1,
            "mean_response": False,
            **options,
        }
    )


def from_json(config: Mapping[str, Any]) -> PerturbationConfig:
    """Configuration from a parsed config.json. Raises ModelError when it is not one of such a model."""
    given = settings_of(
        config, MODEL_TYPE, "a perturbation model", PerturbationConfig.__dataclass_fields__, REQUIRED
    )
    return PerturbationConfig(**given)


def to_json(config: PerturbationConfig) -> dict[str, Any]:
    """config.json that `from_json` opens."""
    return {"model_type": MODEL_TYPE, **asdict(config), "contexts": list(config.contexts)}
