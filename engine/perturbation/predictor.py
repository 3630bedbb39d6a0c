"""A trained predictor: an ensemble of models around a closed-form prior, in one model directory.

config.json, genes.json, model.safetensors    the first member (`engine.models.bimamba.load` opens it alone)
member_01.safetensors, ...                    the weights of the others
prior.safetensors, gene_sets.json             what the prior was fitted on, and what it knows of genes
drugs.safetensors                             vectors of drugs, where it knows any
perturbation.json                             control label, contexts, trained targets, what was held out

Legend: Q perturbations asked for, G genes, M members.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from engine.models import bimamba
from engine.perturbation.drugs import NO_DRUGS, Drugs
from engine.perturbation.gene_sets import GeneSets
from engine.perturbation.labels import targets as targets_of
from engine.perturbation.prior import ResponsePrior, Screened, Weights
from engine.perturbation.rank_sum import Array
from storage.checkpoints import local_copy
from storage.errors import InputError

FACTS, PRIOR, SETS = "perturbation.json", "prior.safetensors", "gene_sets.json"
DRUGS = "drugs.safetensors"
# Conditions of a forward pass when predicting.
_AT_ONCE = 16


@dataclass(frozen=True)
class Effects:
    """Predicted effects on log1p-normalised expression (10,000 counts a cell)."""

    mean_QG: Array
    """Mean profiles of perturbed cells."""
    delta_QG: Array
    """Their differences from the control."""
    uncertainty_QG: Array
    """Standard deviation of the predicted mean: spread of the members, and how wrong the prior was about
    targets it had not seen.
    """
    prior_QG: Array
    """What the closed-form prior alone says the effect is."""


@dataclass(frozen=True)
class Facts:
    """perturbation.json."""

    control: str
    contexts: list[str]
    """That were trained on."""
    trained: list[str]
    """Perturbations that were trained on, as their targets joined by `+`."""
    held_out: list[str]
    split: str
    members: int
    uses_prior: bool
    head: str
    strength: float
    """How much of what the models add to their start is kept: chosen on targets that members had not seen."""
    cells: str
    """dataset_id of the cell store."""
    perturbation_column: str
    context_column: str | None
    prior_weights: dict[str, float] = field(default_factory=dict)
    dose_column: str | None = None


@dataclass
class Predictor:
    """Predicts effects of perturbations of known genes from a control profile."""

    models: list[bimamba.PerturbationModel]
    prior: ResponsePrior
    facts: Facts
    drugs: Drugs = NO_DRUGS

    @classmethod
    def load(cls, path: str) -> Predictor:
        """Raises InputError or ModelError when the directory is not one of `train-perturbation`."""
        directory = local_copy(path)
        if not (directory / FACTS).is_file():
            raise InputError(
                f"{path}: {FACTS} is missing; expected a directory written by train-perturbation."
            )
        facts = Facts(**json.loads((directory / FACTS).read_text()))
        first = bimamba.load(directory)
        models = [first]
        for number in range(1, facts.members):
            other = copy.deepcopy(first)
            other.load_state_dict(load_file(directory / _member(number)))
            models.append(other.eval())
        drugs = Drugs.load(directory / DRUGS) if (directory / DRUGS).is_file() else NO_DRUGS
        return cls(models, _read_prior(directory, first, facts), facts, drugs)

    def save(self, directory: Path) -> None:
        """Write the directory; `load` opens it."""
        bimamba.save(self.models[0], directory)
        for number, model in enumerate(self.models[1:], start=1):
            weights = {name: part.detach().cpu().contiguous() for name, part in model.state_dict().items()}
            save_file(weights, directory / _member(number), metadata={"format": "pt"})
        screened = self.prior.screened
        tensors = {"delta_PG": screened.delta_PG, "error_G": self.prior.error_G}
        tensors |= {f"control/{name}": mean_G for name, mean_G in self.prior.controls.items()}
        written = {
            name: torch.from_numpy(np.ascontiguousarray(values)).float() for name, values in tensors.items()
        }
        written["n_cells_P"] = torch.from_numpy(screened.n_cells)
        labels = {"targets": list(map(list, screened.targets)), "contexts": list(screened.contexts)}
        save_file(written, directory / PRIOR, metadata={"perturbations": json.dumps(labels)})
        (directory / SETS).write_bytes(self.prior.sets.as_json())
        if self.drugs.dim:
            self.drugs.save(directory / DRUGS)
        (directory / FACTS).write_text(json.dumps(asdict(self.facts), indent=1))

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the predicted genes, in the order of every G."""
        return self.models[0].genes

    def require_known(self, targets: Sequence[tuple[str, ...]]) -> list[str]:
        """Raises InputError for targets that the model can say nothing of; warnings for those it knows
        little of.
        """
        model = self.models[0]
        self.drugs.of(targets)
        every = sorted({name for names in targets for name in names})
        named = [name for name in every if name not in self.drugs]
        numbered = {*model.genes, *model.targets}
        unknown = [gene for gene in named if gene not in numbered and gene not in self.prior.sets]
        if unknown:
            raise InputError(
                f"perturbed genes that the model knows nothing of: {', '.join(unknown[:8])}"
                f"{', ...' if len(unknown) > 8 else ''}. They were neither measured nor perturbed in "
                "training, are in no gene set and no drugs; check the names, or train with --gene-sets (or "
                "give --drug-vectors) that have them."
            )
        trained = {name for label in self.facts.trained for name in targets_of(label, self.facts.control)}
        unseen = [name for name in every if name in self.drugs and name not in trained]
        bare = [gene for gene in named if gene not in trained and gene not in self.prior.sets]
        return [
            f"{gene}: never perturbed in training and in no gene set; what is predicted is little more than "
            "the mean effect"
            for gene in bare
        ] + [f"{name}: a drug not seen in training; it is known by its vector alone" for name in unseen]

    def predict(
        self,
        control_G: Array,
        targets: Sequence[tuple[str, ...]],
        context: str | None = None,
        doses: Sequence[float] | None = None,
    ) -> Effects:
        """Effects in one context. control_G: its mean log1p-normalised profile of control cells.

        targets: genes, and at most one drug, of each perturbation. context: one that was trained on, where
        the model tells contexts apart. doses: of each perturbation's drug; None: 1. The prior knows drugs by
        name and no doses. Raises InputError for unknown targets (`require_known`) and contexts.
        """
        self.require_known(targets)
        place = context or "all"
        prior = ResponsePrior(
            self.prior.screened,
            {**self.prior.controls, place: np.asarray(control_G, np.float64)},
            self.prior.rows,
            self.prior.sets,
            self.prior.weights,
            self.prior.error_G,
        )
        prior_QG = prior.predict(targets, [place] * len(targets))
        start_QG = np.asarray(control_G) + prior_QG * float(self.facts.uses_prior)
        start_QG = np.maximum(start_QG, 0.0)
        mean_MQG = np.stack(
            [expected(model, start_QG, targets, context, self.drugs, doses) for model in self.models]
        )
        mean_MQG = start_QG + self.facts.strength * (mean_MQG - start_QG)
        mean_QG = np.maximum(mean_MQG.mean(axis=0), 0.0)
        variance_QG = mean_MQG.var(axis=0) + self.prior.error_G**2
        return Effects(mean_QG, mean_QG - control_G, np.sqrt(variance_QG), prior_QG)


def expected(
    model: bimamba.PerturbationModel,
    start_QG: Array,
    targets: Sequence[tuple[str, ...]],
    context: str | None,
    drugs: Drugs = NO_DRUGS,
    doses: Sequence[float] | None = None,
) -> Array:
    """[Q, G] mean log1p-normalised profiles by one model, from the profiles it starts at."""
    parts, device = [], model.order_G.device
    # Not inference_mode: weights that ZeRO-3 gathers in it could not be trained any more.
    with torch.no_grad():
        for first in range(0, len(targets), _AT_ONCE):
            asked = targets[first : first + _AT_ONCE]
            given = None if doses is None else doses[first : first + _AT_ONCE]
            conditions = conditions_of(model, asked, [context or "all"] * len(asked), drugs, given)
            start_BG = torch.from_numpy(start_QG[first : first + _AT_ONCE]).float().to(device)
            predicted_BG = model(start_BG, conditions.to(device)).log_normalised()
            parts.append(predicted_BG.double().cpu().numpy())
    return np.concatenate(parts)


def conditions_of(
    model: bimamba.PerturbationModel,
    targets: Sequence[tuple[str, ...]],
    contexts: Sequence[str],
    drugs: Drugs = NO_DRUGS,
    doses: Sequence[float] | None = None,
) -> bimamba.Conditions:
    """Conditions of a model by name. A gene without a number in the model is left to the prior.

    doses: of the drug of each, where it has one; None: 1.
    Raises InputError for a context that the model was not trained on, where it tells contexts apart.
    """
    numbered = {gene: number for number, gene in enumerate((*model.genes, *model.targets))}
    rows = [[numbered[gene] for gene in genes if gene in numbered] for genes in targets]
    drugs_BP = dose_B = None
    if model.config.drug_dim:
        drugs_BP = torch.from_numpy(drugs.of(targets)).float()
        dose_B = torch.tensor(doses or [1.0] * len(targets)) * drugs_BP.any(1)
    names = model.config.contexts
    if not names:
        return bimamba.Conditions.of(rows, drugs_BP, dose_B)
    unknown = sorted(set(contexts) - set(names))
    if unknown:
        raise InputError(
            f"context {', '.join(unknown)}: the model was trained on {', '.join(names)}; to predict new "
            "contexts train with --split context, which tells them apart by their control cells alone."
        )
    return bimamba.Conditions.of(rows, drugs_BP, dose_B, torch.tensor([names.index(one) for one in contexts]))


def _member(number: int) -> str:
    return f"member_{number:02d}.safetensors"


def _read_prior(directory: Path, model: bimamba.PerturbationModel, facts: Facts) -> ResponsePrior:
    from safetensors import safe_open

    with safe_open(directory / PRIOR, framework="np") as stored:
        labels: Mapping[str, Any] = json.loads(stored.metadata()["perturbations"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    screened = Screened(
        tensors["delta_PG"].astype(np.float64),
        [tuple(genes) for genes in labels["targets"]],
        labels["contexts"],
        tensors["n_cells_P"],
    )
    controls = {
        name.removeprefix("control/"): values.astype(np.float64)
        for name, values in tensors.items()
        if name.startswith("control/")
    }
    return ResponsePrior(
        screened,
        controls,
        {gene: number for number, gene in enumerate(model.genes)},
        GeneSets.from_json((directory / SETS).read_bytes()),
        Weights(**facts.prior_weights),
        tensors["error_G"].astype(np.float64),
    )
