"""What the columns and labels of screens are called, and which genes a label perturbs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.errors import InputError

PERTURBATION_COLUMNS = ("target_gene", "gene", "perturbation", "condition")
"""VCC and cell-eval, State, scPerturb, GEARS."""
CONTEXT_COLUMNS = ("context", "cell_type", "celltype", "cell_line")
CONTROL_LABELS = ("non-targeting", "control", "ctrl", "DMSO_TF", "DMSO", "NT")
TOGETHER = "+"
"""Between the targets of one label: `A+B`, and GEARS' `A+ctrl` for A alone."""
# A drug with its dose; not the gene clusters that end in @.
_DOSED = re.compile(r"(.+)@(\d+\.?\d*(?:e[+-]?\d+)?)")
ANY_CONTEXT = "all"
"""The context of cells of a screen without one."""


@dataclass(frozen=True)
class Contract:
    """How one community writes a screen to AnnData."""

    perturbation: str
    control: str | None
    """None: control cells must not be in a prediction."""
    contexts: tuple[str, ...]
    """obs columns that all hold the context."""
    counts: bool
    """X holds integer counts, else log1p of normalised ones."""
    single: str = "{}"
    """How a single target is written."""


CONTRACTS = {
    "cell-eval": Contract("target_gene", "non-targeting", ("cell_type", "celltype"), counts=False),
    "vcc2025": Contract("target_gene", "non-targeting", ("cell_type", "celltype"), counts=False),
    "vcc2026": Contract("target_gene", None, ("context",), counts=True),
    "gears": Contract("condition", "ctrl", ("cell_type",), counts=False, single="{}+ctrl"),
    "scperturb": Contract("perturbation", "control", ("cell_line",), counts=True),
    "state": Contract("gene", "non-targeting", ("cell_type",), counts=False),
}


def perturbation_column(where: str, columns: Sequence[str], asked: str | None) -> str:
    """The column that says what was done to each cell. Raises InputError when that is not clear."""
    if asked is not None:
        return _present(where, columns, asked, "--perturbation")
    found = [name for name in PERTURBATION_COLUMNS if name in columns]
    if len(found) != 1:
        raise InputError(
            f"{where}: obs has {' and '.join(found) if found else 'none'} of the columns that name a "
            f"perturbation ({', '.join(PERTURBATION_COLUMNS)}); say which by --perturbation. "
            f"obs has {', '.join(columns)}."
        )
    return found[0]


def context_column(where: str, columns: Sequence[str], asked: str | None) -> str | None:
    """The column of the context; None unless asked for. Raises InputError when there is no such column."""
    return None if asked is None else _present(where, columns, asked, "--context")


def dose_column(where: str, columns: Sequence[str], asked: str | None) -> str | None:
    """The column of doses; None unless asked for. Raises InputError when there is no such column."""
    return None if asked is None else _present(where, columns, asked, "--dose")


def control_label(where: str, labels: Iterable[str], asked: str | None) -> str:
    """The label of unperturbed cells. Raises InputError when there are none or several may be meant."""
    known = sorted(set(labels))
    shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
    if asked is not None:
        if asked not in known:
            raise InputError(
                f"{where}: no cell has the control label {asked!r} (--control); without control cells "
                f"there is no effect to measure. Labels there: {shown}."
            )
        return asked
    found = [label for label in CONTROL_LABELS if label in known]
    if len(found) != 1:
        raise InputError(
            f"{where}: {' and '.join(found) if found else 'none'} of the usual control labels "
            f"({', '.join(CONTROL_LABELS)}) found; say which label control cells have by --control. "
            f"Labels there: {shown}."
        )
    return found[0]


def parts(label: str, control: str) -> tuple[str, ...]:
    """What a label does to a cell, sorted; nothing for the control. `A+ctrl` is A, `B+A` is A and B; a dose
    stays: `B+drug@0.1`.
    """
    found = {part.strip() for part in label.split(TOGETHER)}
    return tuple(sorted(found - {control, "", *CONTROL_LABELS})) if label != control else ()


def targets(label: str, control: str) -> tuple[str, ...]:
    """Names of the genes and drugs of a label, without doses, sorted; none for the control."""
    return tuple(sorted({_DOSED.sub(r"\1", part) for part in parts(label, control)}))


def dose(label: str) -> float:
    """Of the drug in a label, in the unit of the screen; 1 where none is said."""
    found = [_DOSED.fullmatch(part.strip()) for part in label.split(TOGETHER)]
    return next((float(match[2]) for match in found if match), 1.0)


def with_doses(
    where: str, labels: npt.NDArray[np.object_], doses: npt.NDArray[np.float64], control: str
) -> npt.NDArray[np.object_]:
    """Labels of cells with the dose that each was given, where there is one: `drug@0.1`.

    Raises InputError for negative doses and for doses of several drugs at once.
    """
    given = ~np.isnan(doses) & (labels != control)
    if (doses[given] < 0).any():
        raise InputError(f"{where}: a dose of {doses[given].min():g}; doses are 0 or more.")
    several = [label for label in labels[given] if TOGETHER in label]
    if several:
        raise InputError(f"{where}: {several[0]} has one dose for several perturbations; leave it empty.")
    found = labels.copy()
    found[given] = [f"{label}@{amount:g}" for label, amount in zip(labels[given], doses[given], strict=True)]
    return found


def canonical(labels: npt.NDArray[np.object_], control: str) -> npt.NDArray[np.object_]:
    """Labels by their parts, so that `A+ctrl` of one file is `A` of another; the control stays itself."""
    names = {label: TOGETHER.join(parts(label, control)) or control for label in np.unique(labels)}
    return np.array([names[label] for label in labels], dtype=object)


def written(parts_of: Sequence[str], contract: Contract) -> str:
    """The label of some parts in a contract."""
    return contract.single.format(parts_of[0]) if len(parts_of) == 1 else TOGETHER.join(parts_of)


def gene_rows(named: Sequence[str], genes: Sequence[str]) -> dict[str, int]:
    """Numbers of the measured genes among those named."""
    wanted = set(named)
    return {gene: number for number, gene in enumerate(genes) if gene in wanted}


def _present(where: str, columns: Sequence[str], asked: str, flag: str) -> str:
    if asked not in columns:
        raise InputError(f"{where}: obs has no column {asked!r} ({flag}); it has {', '.join(columns)}.")
    return asked
