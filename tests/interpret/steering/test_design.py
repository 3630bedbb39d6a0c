"""Versions of a cell: doses, controls, references."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.interpret.steering.design import (
    CONTROLS,
    Design,
    Experiment,
    Variant,
    target_genes,
    variants_of,
)
from engine.interpret.steering.edits import Unit, parse_edits
from engine.models.interventions import FeatureEdit
from storage.errors import InputError


class Activity:
    """Feature j fires on a tenth of the tokens, up to j; 0 never does. Its best genes are 10 j, 10 j + 1."""

    density_F = np.array([0.0, *[0.1] * 9])

    def unit(self, feature: int, unit: Unit) -> float:
        return float(feature)

    def top_genes(self, feature: int, n_genes: int) -> list[int]:
        return [10 * feature, 10 * feature + 1][:n_genes]


def variants(text: str, **options):  # type: ignore[no-untyped-def]
    defaults = {"doses": (0.5, 1.0), "controls": CONTROLS, "n_random": 2, "mode": "delta", "seed": 0}
    experiments = [Experiment(parse_edits(part)) for part in text.split(";")]
    return variants_of(experiments, Activity(), unit=Unit(), **(defaults | options))


def test_every_dose_has_its_controls() -> None:
    found = variants("3:+2,4:ablate")
    kinds = ["edit", "wrong_sign", "random_feature", "random_feature", "noise"]
    assert [variant.kind for variant in found] == ["base", *kinds, *kinds]
    assert found[1].edits == (FeatureEdit(3, "add", 3.0), FeatureEdit(4, "scale", 0.5))
    assert found[2].edits == (FeatureEdit(3, "add", -3.0), FeatureEdit(4, "scale", 1.5))
    assert found[6].edits == (FeatureEdit(3, "add", 6.0), FeatureEdit(4, "scale", 0.0))
    assert (found[5].norm_of, found[10].norm_of) == (1, 6)
    first, second = ([edit.feature for edit in found[at].edits] for at in (3, 4))
    assert len({*first, *second, 3, 4}) == 6  # each stands in once
    assert found[3].edits[0].value == 2 * first[0] * 0.5  # in its own unit
    assert [edit.feature for edit in found[8].edits] == first  # the same at every dose


def test_experiments_and_no_controls() -> None:
    found = variants("3:+2;4:ablate", controls=(), doses=(1.0,))
    assert [(variant.kind, variant.experiment) for variant in found] == [
        ("base", -1),
        ("edit", 0),
        ("edit", 1),
    ]


def test_what_is_compared_with_what() -> None:
    experiment = (Experiment(parse_edits("3:+2"), (5,)),)
    for mode, expected in (("delta", [0, 0]), ("reconstruction", [0, 0, 1])):
        found = variants("3:+2", mode=mode, controls=(), doses=(1.0,))
        design = Design("final", mode, 1, "cls", 0, experiment, found)
        assert [design.reference(number) for number in range(len(found))] == expected
        assert Design.from_json(json.loads(json.dumps(design.as_json()))) == design


def test_edits_of_some_genes_survive_a_lineage() -> None:
    found = variants("3:+2", token_ids=(8, 9), controls=("noise",))
    design = Design("final", "delta", 1, "cls", 0, (), (*found, Variant("base")))
    assert found[1].edits[0].token_ids == (8, 9)
    assert Design.from_json(json.loads(json.dumps(design.as_json()))) == design


def test_a_feature_that_never_fired_has_no_unit() -> None:
    with pytest.raises(InputError, match="feature 0 fired on no token"):
        variants("0:+1")
    assert variants("0:ablate", controls=())[1].edits == (FeatureEdit(0, "scale", 0.5),)


def test_targets_come_once() -> None:
    assert target_genes(parse_edits("3:+1,4:ablate"), Activity(), 2) == (30, 31, 40, 41)
