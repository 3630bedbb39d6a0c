"""The recipe of crosscoders and transcoders: trained as `SparseRecipe` trains, on aligned activations.

Both are BatchTopK, the form that has a directory: a crosscoder's is ours, a transcoder's SAELens'.
Legend: B tokens of a batch, D width of all places together, O output width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from engine.models import sae
from engine.models.sae import crosscoder
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.aligned_activations import AlignedSource
from engine.training.options import TrainingOptions
from engine.training.recipe import Batch, Share
from engine.training.recipes.sae import architectures
from engine.training.recipes.sae.aligned_module import AlignedTraining, label
from engine.training.recipes.sae.finish import (
    ENCODED_TOGETHER,
    MOST_WEIGHTS,
    about_activations,
    held_out,
    measured,
    unexplained,
)
from engine.training.recipes.sae.module import KnobSchedule
from engine.training.recipes.sae.recipe import batches_from
from engine.training.recipes.sae.statistics import Wanted, statistics_of_places
from storage.errors import InputError

AlignedArchitecture = Literal["crosscoder", "transcoder", "skip_transcoder"]
ALIGNED_ARCHITECTURES: tuple[AlignedArchitecture, ...] = get_args(AlignedArchitecture)


@dataclass(frozen=True, kw_only=True)
class AlignedRecipe:
    """`width` features, `k` of them active per token on average, of the same tokens at several places.

    A crosscoder reads and reconstructs all places of the source, a transcoder reads the first and
    reconstructs the second. Fields that `SparseRecipe` has too mean the same here.
    """

    source: AlignedSource
    architecture: AlignedArchitecture
    width: int
    k: int
    dead_after_tokens: int
    aux_coefficient: float = 1 / 32
    anneal_steps: int = 0
    init_seed: int | None = None
    outlier_norm: float = 10.0
    """Tokens whose norm at any place is above so many medians of that place are left out; 0 keeps all."""

    def __post_init__(self) -> None:
        architectures.require_buildable("batchtopk", width=self.width, k=self.k, matryoshka_widths=())
        if self.outlier_norm and self.outlier_norm <= 1:
            raise InputError(f"--outlier-norm {self.outlier_norm}: give more than 1 median norm, or 0.")
        if self.source.width * self.width > MOST_WEIGHTS:
            raise InputError(
                f"--width {self.width}: a {self.architecture} is written by one process; give at most "
                f"{MOST_WEIGHTS // self.source.width} features for {self.source.width} dimensions."
            )
        if self.architecture != "crosscoder" and len(self.source.places) != 2:
            raise InputError(
                f"--arch {self.architecture}: reads one hook and reconstructs one other; found "
                f"{len(self.source.places)} hooks."
            )

    @property
    def actors(self) -> int | None:
        return self.source.actors

    def lineage(self) -> dict[str, Any]:
        return {
            **self.source.lineage(),
            "architecture": self.architecture,
            "width": self.width,
            "k": self.k,
            "dead_after_tokens": self.dead_after_tokens,
            "aux_coefficient": self.aux_coefficient,
            "anneal_steps": self.anneal_steps,
            "init_seed": self.init_seed,
            "outlier_norm": self.outlier_norm,
        }

    @property
    def config(self) -> sae.SAEConfig:
        """Of the autoencoder while it is trained."""
        if self.architecture == "crosscoder":
            return architectures.config("batchtopk", self.source.width, self.width, self.k)
        source, target = self.source.places
        return replace(
            architectures.config("batchtopk", source.width, self.width, self.k),
            apply_b_dec_to_input=False,
            d_out=target.width,
            skip=self.architecture == "skip_transcoder",
        )

    def build(self, seed: int, shard: FeatureShard = ALONE) -> AlignedTraining:
        config = self.config
        options = architectures.objective(
            "batchtopk",
            config.d_in,
            width=self.width,
            k=self.k,
            aux_coefficient=self.aux_coefficient,
            sparsity_coefficient=None,
            matryoshka_widths=(),
        )
        first_weights = seed if self.init_seed is None else self.init_seed
        return AlignedTraining(
            sae.objective(config, options, seed=first_weights, shard=shard),
            self.source.places,
            self.dead_after_tokens,
            KnobSchedule(anneal_steps=self.anneal_steps),
            len(self.source.gene_names()),
        )

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Centre and scale of every place by itself, from at least 200,000 tokens drawn as for training."""
        _training(module).measure(statistics_of_places(self.source, Wanted(self.outlier_norm), share, device))

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        return batches_from(self.source, start_step, share, device)

    def tokens(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    @torch.no_grad()
    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        """A crosscoder directory, or a SAELens transcoder, that takes raw activations.

        The threshold is fitted and FVU and L0 are measured on held-out tokens first.
        """
        module = self.build(seed=0)
        module.load_state_dict(dict(state))
        autoencoder = module.objective.sae
        metadata = self._provenance(state, options) | self._settle(module, options)
        means = [place.get_buffer("mean") for place in module.places]
        scales = [float(place.get_buffer("scale")) for place in module.places]
        if self.architecture == "crosscoder":
            sources = [crosscoder.Source(place.name, place.width) for place in self.source.places]
            whole = crosscoder.Crosscoder(sources, autoencoder, metadata)
            crosscoder.save_crosscoder(crosscoder.fold_source_scaling(whole, means, scales), directory)
        else:
            folded = sae.fold_input_scaling(autoencoder, means[0], scales[0], means[1], scales[1])
            described = folded.config.metadata | metadata | {"target_scale": scales[1]}
            folded.config = replace(folded.config, metadata=described)
            sae.save(folded, directory)

    def _settle(self, module: AlignedTraining, options: TrainingOptions) -> dict[str, Any]:
        """Sets the threshold; what the autoencoder is worth on tokens that come after the last step."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        module.to(device)
        x_BD = held_out(module, self.source, options, device)
        half = max(len(x_BD) // 2, 1)
        source_BD, _ = module.fed(x_BD[:half])
        sae.calibrate_threshold(module.objective.sae, torch.split(source_BD, ENCODED_TOGETHER))
        source_BD, target_BO = module.fed(x_BD[half:] if len(x_BD) > 1 else x_BD)
        found = measured(module.objective.sae, source_BD, target_BO)
        settled = found.as_json()
        if target_BO is None:
            settled["reference_fvu_of_sources"] = [
                unexplained(error_D, variance_D)
                for error_D, variance_D in zip(
                    *(torch.split(part_O, module.widths) for part_O in (found.error_O, found.variance_O)),
                    strict=True,
                )
            ]
        module.cpu()
        return settled

    def _provenance(self, state: Mapping[str, torch.Tensor], options: TrainingOptions) -> dict[str, Any]:
        described = [
            {"name": place.name, **facts}
            for place, facts in zip(self.source.places, self.source.place_provenance(), strict=True)
        ]
        names, dead = self.source.gene_names(), int((state["silent_tokens"] >= self.dead_after_tokens).sum())
        found = {
            **self.source.provenance(),
            "sources": described,
            "training_architecture": self.architecture,
            "training_k": self.k,
            "training_steps": options.steps,
            "training_tokens": options.steps * options.batch,
            "learning_rate": options.learning_rate,
            "aux_coefficient": self.aux_coefficient,
            "seed": options.seed,
            "init_seed": options.seed if self.init_seed is None else self.init_seed,
            "num_dead_features": dead,
            "dead_after_tokens": self.dead_after_tokens,
            "outlier_norm": self.outlier_norm,
            "shuffled_batches": self.source.shuffled_tokens(options.batch) / options.batch,
            "activations": {
                label(number, place): about_activations(_under(state, f"places.{number}."), names)
                for number, place in enumerate(self.source.places)
            },
        }
        if self.architecture != "crosscoder":
            source, target = described
            found |= {"hook_name": source["hook_name"], "hook_name_out": target["hook_name"]}
        return found


def _training(module: nn.Module) -> AlignedTraining:
    if not isinstance(module, AlignedTraining):
        raise TypeError(f"expected the module that build() made, got {type(module).__name__}")
    return module


def _under(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
