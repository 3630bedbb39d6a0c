"""Every target of a screen predicted by models that never saw it: each fold of targets left out once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engine.perturbation import baselines
from engine.perturbation.baselines import REPLICATE
from engine.perturbation.drawn_cells import DrawnCells
from engine.perturbation.evaluation.context import Cells, Contender, Reference
from engine.perturbation.labels import ANY_CONTEXT as ANY
from engine.perturbation.normalise import DEPTH
from engine.perturbation.predictor import Predictor
from engine.perturbation.rank_sum import Array
from engine.perturbation.screen import Screen
from engine.training.options import TrainingOptions
from engine.training.recipes.perturbation import plan
from engine.training.recipes.perturbation.finish import known_of
from engine.training.recipes.perturbation.measured import ScreenSource
from engine.training.run import run_training
from storage.locations import Location

MODEL, PRIOR = "model", "prior"


@dataclass(frozen=True)
class Protocol:
    """How the screen is cut and what is trained."""

    folds: int
    steps: int
    members: int
    seeds: tuple[int, ...]
    gene_sets: tuple[str, ...]
    sizes: dict[str, object]
    learning_rate: float
    weight_decay: float


def predictions(source: ScreenSource, protocol: Protocol, scratch: Path) -> dict[str, dict[str, Array]]:
    """Contender -> target -> predicted effect [G]; the model once a seed, `model 0`, `model 1`, ..."""
    measured = source.measured()
    labels = sorted(label for _, label in measured.means if label != measured.screen.control)
    control_G = measured.controls[ANY]
    found: dict[str, dict[str, Array]] = {}
    for fold in range(protocol.folds):
        held_out = labels[fold :: protocol.folds]
        targets = [(label,) for label in held_out]
        for seed in protocol.seeds:
            predictor = _trained(source, protocol, held_out, seed, scratch / f"{fold}_{seed}")
            effects = predictor.predict(control_G, targets)
            for number, label in enumerate(held_out):
                found.setdefault(f"{MODEL} {seed}", {})[label] = effects.delta_QG[number]
                found.setdefault(PRIOR, {})[label] = effects.prior_QG[number]
        known = known_of(measured, [group for group in measured.means if _trains(group, held_out)], ANY)
        for name in baselines.NAMES:
            for label in held_out:
                delta_G = baselines.predict(name, known, (label,), ANY)
                if delta_G is not None:
                    found.setdefault(name, {})[label] = delta_G
    return found


def scores(source: ScreenSource, found: dict[str, dict[str, Array]], seed: int) -> pd.DataFrame:
    """One row a contender and target: metrics of mean profiles, and of genes tested on cells drawn around
    them, as many as the real ones. `replicate`: half of the real cells against the other half.
    """
    measured, rng = source.measured(), np.random.default_rng(seed)
    screen = measured.screen
    reference = Reference(_cells(screen, screen.control), differential=True)
    counts_CG = reference.control.counts_CG
    assert counts_CG is not None
    drawn = DrawnCells(counts_CG)
    labels = sorted(found[PRIOR])
    rows_of = {label: screen.target_rows(label) for label in labels}
    names = [*found, REPLICATE]
    contenders = {name: Contender(name, reference.mean_G, reference.mean_G, rows_of) for name in names}
    for label in labels:
        cells = _cells(screen, label)
        real = reference.measured(cells)
        for name, deltas in found.items():
            if label in deltas:
                mean_G = np.maximum(reference.mean_G + deltas[label], 0)
                scattered = Cells.of(drawn.draw(mean_G, cells.n, rng), "counts", DEPTH)
                contenders[name].add(label, real, reference.measured(scattered), mean_G)
        first, second = np.array_split(rng.permutation(cells.n), 2)
        halves = reference.measured(cells.some(first)), reference.measured(cells.some(second))
        contenders[REPLICATE].add(label, halves[0], halves[1], halves[1].mean_G)
    tables = []
    for name, contender in contenders.items():
        contender.finish(reference.profile)
        tables += [{"contender": name, "target": label, **row} for label, row in contender.rows.items()]
    return pd.DataFrame(tables)


def _trained(
    source: ScreenSource, protocol: Protocol, held_out: list[str], seed: int, folder: Path
) -> Predictor:
    recipe = plan(
        source,
        "perturbation",
        held_out=held_out,
        sizes=protocol.sizes,
        members=protocol.members,
        gene_sets=protocol.gene_sets,
        seed=seed,
    )
    options = TrainingOptions(
        steps=protocol.steps,
        batch=8,
        learning_rate=protocol.learning_rate,
        weight_decay=protocol.weight_decay,
        warmup_steps=protocol.steps // 20,
        betas=(0.9, 0.95),
        workers=0,
        seed=seed,
    )
    run_training(recipe, options, Location.of(folder))
    return Predictor.load(str(folder))


def _trains(group: tuple[str, str], held_out: list[str]) -> bool:
    return group[1] not in held_out and group[1] != "non-targeting"


def _cells(screen: Screen, label: str) -> Cells:
    ((_, matrix_CG),) = screen.stream([(ANY, label)])
    return Cells.of(matrix_CG, screen.scale, DEPTH)
