"""STRING: which proteins work together, as edges between genes.

`protein.links` of one species, `.detailed` (a score for each channel) or `.full` (channels split into direct
and transferred from other species), and `protein.info` for the names. Scores are thousandths.

The combined score is made again where channels are left out: for a model of expression, coexpression would
be circular, and text mining knows what is much written about. As STRING combines: the prior of 0.041 is taken
out of every channel, channels are joined as independent, the prior is put back once.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

PRIOR = 0.041
# Rows worked on at once; the human network has 13.7 million.
_ROWS = 1 << 16

_CHANNELS = ("neighborhood", "fusion", "cooccurence", "coexpression", "experiments", "database", "textmining")
_ENDS = ("protein1", "protein2", "combined_score")
_DIRECT = {"experiments": "experimental"}  # what the detailed file calls it
_TRANSFERRED = tuple(f"{name}_transferred" for name in _CHANNELS if name not in ("fusion", "cooccurence"))
_DETAILED = tuple(_DIRECT.get(name, name) for name in _CHANNELS)
FULL, DETAILED, PLAIN = "full", "detailed", "links"
LINKS = Format(
    "STRING's protein.links",
    (
        Layout(FULL, (*_ENDS, *_CHANNELS, "homology", *_TRANSFERRED)),
        Layout(DETAILED, (*_ENDS, *_DETAILED)),
        Layout(PLAIN, _ENDS),
    ),
    delimiter=" ",
    repeats="unchecked",  # by the kept pairs, below: a hash of each of 13.7 million rows would be 110 MB
)
INFO = Format("STRING's protein.info", (Layout("v11-", ("string_protein_id", "preferred_name")),))


@dataclass(frozen=True)
class Rules:
    """threshold: least score, in thousandths. without: channels left out of it."""

    threshold: int = 700
    without: tuple[str, ...] = ("coexpression", "textmining")


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    if "info" not in files:
        raise InputError("string: no 9606.protein.info, which has the names of the genes; get it too.")
    named = list(read_rows(files["info"][0], INFO, intake))
    names = [name for _, name in named]
    numbers = {protein: number for number, (protein, _) in enumerate(named)}
    (path,) = files["links"]
    version = re.search(r"\.(v\d+(\.\d+)*)\.", path.name)
    intake.release = version[1] if version else ""
    ends, scores = array("i"), array("d")
    rows = read_rows(path, LINKS, intake)
    while batch := list(islice(rows, _ROWS)):
        _add_batch(batch, rules, numbers, ends, scores, path, intake)
    if rules.without and intake.layouts.get(path.name) == PLAIN:
        intake.notes.append(
            f"string: {path.name} has no channels, so the score includes {', '.join(rules.without)}; use "
            "protein.links.detailed"
        )
    pairs = np.array(ends, np.int32).reshape(-1, 2)
    intake.edges = _edges(pairs, np.array(scores, np.float64), names, path, intake)


def _add_batch(
    batch: list[tuple[str, ...]],
    rules: Rules,
    numbers: Mapping[str, int],
    ends: array[int],
    scores: array[float],
    path: Path,
    intake: Intake,
) -> None:
    """Append the edges of some rows that reach the threshold."""
    try:
        values = np.array([row[2:] for row in batch], dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a score that is no number ({error}); download it again.") from error
    combined = _combined(values, intake.layouts[path.name], rules.without)
    strong = combined >= rules.threshold
    intake.dropped[f"score below {rules.threshold}"] += int((~strong).sum())
    for place in np.flatnonzero(strong):
        one, other = numbers.get(batch[place][0], -1), numbers.get(batch[place][1], -1)
        if one < 0 or other < 0:
            intake.dropped["protein not in protein.info"] += 1
            continue
        ends.extend((one, other))
        scores.append(float(combined[place]))


def _combined(
    values: npt.NDArray[np.float64], layout: str, without: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Scores of rows, in thousandths, from (combined, channels...) in the layout's order."""
    if layout == PLAIN or not without:
        return values[:, 0]
    above = np.clip((values[:, 1:] / 1000 - PRIOR) / (1 - PRIOR), 0, 1)
    missed = np.ones(len(values))
    for channel, name in enumerate(_CHANNELS):
        if name in without:
            continue
        score = above[:, channel]
        if layout == FULL:
            score = _with_transferred(name, score, above, values)
        missed *= 1 - score
    return np.round((1 - missed + PRIOR * missed) * 1000)


def _with_transferred(
    name: str,
    score: npt.NDArray[np.float64],
    above: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """A channel of the full file: joined with what other species say; alike proteins co-occur and are named
    together for being alike.
    """
    n_channels = len(_CHANNELS)
    if f"{name}_transferred" in _TRANSFERRED:
        other = above[:, n_channels + 1 + _TRANSFERRED.index(f"{name}_transferred")]
        score = 1 - (1 - score) * (1 - other)
    if name in ("cooccurence", "textmining"):
        score = score * (1 - values[:, 1 + n_channels] / 1000)
    return score


def _edges(
    pairs: npt.NDArray[np.int32],
    scores: npt.NDArray[np.float64],
    names: list[str],
    path: Path,
    intake: Intake,
) -> pd.DataFrame:
    """Each pair of names once, in the order of the alphabet, with its highest score."""
    if len(np.unique(pairs, axis=0)) < len(pairs):
        raise InputError(f"{path}: a pair of proteins is there twice; the file was put together from two.")
    table = pd.DataFrame(_ordered(pairs, names), columns=["gene_a", "gene_b"]).assign(score=scores)
    selves = table["gene_a"] == table["gene_b"]
    intake.dropped["edge of a gene with itself"] += int(selves.sum())
    table = table[~selves].sort_values(["gene_a", "gene_b", "score"], ascending=[True, True, False])
    return table.drop_duplicates(["gene_a", "gene_b"]).reset_index(drop=True)


def _ordered(pairs: npt.NDArray[np.int32], names: list[str]) -> Iterator[tuple[str, str]]:
    for one, other in pairs:
        a, b = names[one], names[other]
        yield (a, b) if a <= b else (b, a)
