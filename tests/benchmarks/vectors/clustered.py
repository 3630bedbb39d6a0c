"""Made-up joint embeddings: cells in classes of Zipf sizes, classes in families, text a gap away.

Real ones crowd along few directions, their classes are of very unequal size, and captions lie on another
part of the sphere than cells do (Liang et al. 2022); each makes a search harder, so each is here.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

Float32 = npt.NDArray[np.float32]

CLASSES, FAMILIES = 300, 30
_BLOCK = 65_536


class Clustered(NamedTuple):
    """cells `[N, D]`, text and held-out cells `[Q, D]`, all of unit length; obs with the `family` and `type`
    of each cell and a `batch` that has nothing to do with them.
    """

    cells: Float32
    text: Float32
    held_out: Float32
    obs: pd.DataFrame


def clustered(n_cells: int, width: int, n_queries: int, seed: int = 0) -> Clustered:
    generator = np.random.default_rng(seed)
    spectrum = (np.arange(1, width + 1) ** -0.6).astype(np.float32)
    families = generator.normal(size=(FAMILIES, width)) * spectrum
    family_of = generator.integers(FAMILIES, size=CLASSES)
    centres = (families[family_of] + 0.6 * generator.normal(size=(CLASSES, width)) * spectrum).astype(
        np.float32
    )
    sizes = 1 / np.arange(1, CLASSES + 1)
    kind = generator.choice(CLASSES, n_cells + 2 * n_queries, p=sizes / sizes.sum())
    rows = np.empty((len(kind), width), np.float32)
    for start in range(0, len(kind), _BLOCK):
        some = kind[start : start + _BLOCK]
        noise = generator.standard_normal((len(some), width), dtype=np.float32) * spectrum
        rows[start : start + _BLOCK] = _unit(centres[some] + 0.7 * noise)
    gap = 0.5 * generator.normal(size=width).astype(np.float32) * spectrum[::-1]
    text = _unit(
        centres[kind[n_cells : n_cells + n_queries]] + 0.5 * rows[n_cells : n_cells + n_queries] + gap
    )
    obs = pd.DataFrame(
        {
            "family": pd.Categorical([f"family {number}" for number in family_of[kind[:n_cells]]]),
            "type": pd.Categorical([f"type {number}" for number in kind[:n_cells]]),
            "batch": generator.integers(1_000, size=n_cells),
        },
        index=[f"cell{row}" for row in range(n_cells)],
    )
    return Clustered(rows[:n_cells], text, rows[n_cells + n_queries :], obs)


def conditions(obs: pd.DataFrame) -> dict[str, str]:
    """Conditions that pass about half, a twentieth and a two-hundredth of the cells: whole families or types,
    as a tissue does, and rows drawn at random.
    """
    made = {}
    for column, share in (("family", 0.5), ("family", 0.05), ("type", 0.005)):
        counts = obs[column].value_counts()
        kept, total = [], 0
        # From the small ones up, so that small shares are met.
        for value, count in counts[::-1].items():
            if total + count <= share * len(obs) or not kept:
                kept.append(value)
                total += count
        made[f"whole, {share:.1%}"] = f"{column} in ({', '.join(repr(value) for value in kept)})"
    for share in (0.5, 0.05, 0.005):
        made[f"random, {share:.1%}"] = f"batch < {int(share * 1_000)}"
    return made


def _unit(rows: Float32) -> Float32:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
