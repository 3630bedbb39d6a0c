"""Which versions of a cell are computed beside each other: doses of the edits, and controls of each dose.

All versions of a cell travel in one packed batch, so a dose grid costs one forward pass over more tokens and
every comparison is within one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engine.interpret.steering.activity import Activity, like_density
from engine.interpret.steering.edits import Edit, Unit
from engine.models.interventions import FeatureEdit
from storage.errors import InputError

Mode = Literal["delta", "reconstruction"]
Kind = Literal["base", "reconstruction", "edit", "wrong_sign", "random_feature", "noise"]
CONTROLS: tuple[Kind, ...] = ("random_feature", "noise", "wrong_sign")


@dataclass(frozen=True)
class Variant:
    """One version of every cell.

    experiment: which set of edits it belongs to, -1 for the versions that all share. edits: in activations.
    norm_of: the variant whose change of every token this one has the norm of, in a random direction.
    """

    kind: Kind
    experiment: int = -1
    dose: float = 0.0
    edits: tuple[FeatureEdit, ...] = ()
    norm_of: int | None = None


@dataclass(frozen=True)
class Experiment:
    """Edits made together. targets: token ids of the genes the edits are meant for."""

    edits: tuple[Edit, ...]
    targets: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return ",".join(map(str, self.edits))


@dataclass(frozen=True)
class Design:
    """All that decides effects beside cells, encoder and autoencoder.

    mode "reconstruction": the autoencoder's reconstruction replaces the state, edited or not, and edits are
    compared with the unedited reconstruction. layer, pool: of the cell embedding. hide_targets: target genes
    are hidden from the encoder in every version, as genes are in its training.
    """

    hook: str
    mode: Mode
    layer: int
    pool: str
    seed: int
    experiments: tuple[Experiment, ...]
    variants: tuple[Variant, ...]
    hide_targets: bool = False

    def reference(self, variant: int) -> int:
        """What a variant is compared with: the untouched cell, or the unedited reconstruction."""
        return 1 if self.mode == "reconstruction" and variant > 1 else 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Design:
        """The design a lineage holds: a resumed run keeps the units and controls it began with."""

        def tokens_of(value: Any) -> tuple[int, ...] | None:
            return None if value is None else tuple(value)

        return cls(
            **{name: body[name] for name in ("hook", "mode", "layer", "pool", "seed", "hide_targets")},
            experiments=tuple(
                Experiment(tuple(Edit(**edit) for edit in entry["edits"]), tuple(entry["targets"]))
                for entry in body["experiments"]
            ),
            variants=tuple(
                Variant(
                    **entry
                    | {
                        "edits": tuple(
                            FeatureEdit(**edit | {"token_ids": tokens_of(edit["token_ids"])})
                            for edit in entry["edits"]
                        )
                    }
                )
                for entry in body["variants"]
            ),
        )


def target_genes(edits: Sequence[Edit], activity: Activity, n_genes: int = 10) -> tuple[int, ...]:
    """Token ids of the genes the edited features fire on most, each once."""
    found = [token for edit in edits for token in activity.top_genes(edit.feature, n_genes)]
    return tuple(dict.fromkeys(found))


def variants_of(
    experiments: Sequence[Experiment],
    activity: Activity,
    *,
    doses: Sequence[float],
    controls: Sequence[Kind],
    n_random: int,
    unit: Unit,
    mode: Mode,
    seed: int,
    token_ids: tuple[int, ...] | None = None,
) -> tuple[Variant, ...]:
    """The untouched cell first, then every dose of every experiment with its controls.

    token_ids: edits reach tokens of these genes only. Raises InputError for a feature without a unit.
    """
    variants = [Variant("base"), *([Variant("reconstruction")] if mode == "reconstruction" else [])]
    taken = [edit.feature for experiment in experiments for edit in experiment.edits]
    for number, experiment in enumerate(experiments):
        full = tuple(_resolved(edit, edit.feature, activity, unit, token_ids) for edit in experiment.edits)
        n_stand_ins = n_random if "random_feature" in controls else 0
        stand_ins = _stand_ins(experiment, activity, taken, n_stand_ins, seed)
        for dose in doses:
            edited = len(variants)
            variants.append(Variant("edit", number, dose, _at(full, dose)))
            if "wrong_sign" in controls:
                variants.append(Variant("wrong_sign", number, dose, _at(full, -dose)))
            for features in stand_ins:
                edits = tuple(
                    _resolved(edit, feature, activity, unit, token_ids)
                    for edit, feature in zip(experiment.edits, features, strict=True)
                )
                variants.append(Variant("random_feature", number, dose, _at(edits, dose)))
            if "noise" in controls:
                variants.append(Variant("noise", number, dose, norm_of=edited))
    return tuple(variants)


def _stand_ins(
    experiment: Experiment, activity: Activity, taken: Sequence[int], n_random: int, seed: int
) -> list[list[int]]:
    """For each control, a feature of like density in the place of every edited one; none comes twice."""
    used, found = list(taken), []
    for number in range(n_random):
        features = []
        for edit in experiment.edits:
            feature = like_density(activity.density_F, edit.feature, used, seed + number)
            used.append(feature)
            features.append(feature)
        found.append(features)
    return found


def _resolved(
    edit: Edit, feature: int, activity: Activity, unit: Unit, token_ids: tuple[int, ...] | None
) -> FeatureEdit:
    size = float(f"{activity.unit(feature, unit):.6g}") if edit.needs_unit else 1.0
    if size == 0:
        raise InputError(
            f"--edits {edit}: feature {feature} fired on no token that was looked at, so it has no unit; "
            "survey more cells with --survey-cells, give --features, or say --unit absolute."
        )
    return edit.of(feature, size, token_ids)


def _at(edits: Sequence[FeatureEdit], dose: float) -> tuple[FeatureEdit, ...]:
    return tuple(edit.at(dose) for edit in edits)
