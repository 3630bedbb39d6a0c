"""Caches of the same cells at several hooks and by another model, whose activations say what they are of."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from storage.activations import encode_shard, finish_activations, gene_table, shard_name
from storage.commits import Dataset, MemberPlan
from storage.locations import Location

N_CELLS, N_GENES, N_CODES = 120, 30, 12
HOOKS = {"resid_post_0": 16, "resid_post_1": 16}
# Small beside the codes, so that it is no part of what is learnt.
LABEL = 1e-5


def codes(cell: np.ndarray, gene: np.ndarray) -> torch.Tensor:
    """Sparse, the same for a gene of a cell wherever it is looked at."""
    drawn = np.random.default_rng(5).random((N_CELLS, N_GENES, N_CODES))
    return torch.from_numpy(np.where(drawn < 0.15, drawn / 0.15, 0)[cell, gene]).float()


def labels(x_BD: torch.Tensor) -> torch.Tensor:
    """100 x cell + gene of activations of one place."""
    return (x_BD[:, -1].double() / LABEL).round().long()


def directions(name: str, width: int) -> torch.Tensor:
    seed = sum(name.encode())
    return torch.randn(N_CODES, width, generator=torch.Generator().manual_seed(seed))


def write_cache(
    path: Path,
    *,
    model: str,
    hooks: dict[str, int],
    genes: list[str],
    cells_per_member: int,
    seed: int,
    store: str = "store",
) -> str:
    """Four of five genes of each cell in random order; activations are codes in directions of their own about
    an offset, and a last column that says cell and gene (`labels`)."""
    location = Location.of(path)
    members = [
        MemberPlan(f"{n:06d}", {"start": start, "stop": min(start + cells_per_member, N_CELLS)})
        for n, start in enumerate(range(0, N_CELLS, cells_per_member))
    ]
    dataset = Dataset.plan(location, kind="activations", lineage={"model": model}, members=members)
    known = np.array([int(gene.removeprefix("ENSG").split(".")[0]) for gene in genes])
    for member in members:
        random = np.random.default_rng([seed, member.facts["start"]])
        cell, token = np.meshgrid(
            np.arange(member.facts["start"], member.facts["stop"]), np.arange(len(genes))
        )
        kept = random.permutation(np.flatnonzero(random.random(cell.size) < 0.8))
        cell, token = cell.ravel()[kept], token.ravel()[kept]
        columns = (cell, token, token, 0 * token, {"model": model, "store": store, "seed": str(seed)})
        writer = dataset.member(member.key)
        for hook, width in hooks.items():
            acts = codes(cell, known[token] % N_GENES) @ directions(model + hook, width) + 3
            acts[:, -1] = torch.from_numpy((cell * 100 + known[token]) * LABEL)
            writer.put(shard_name(hook, member.key), encode_shard(acts, *columns))
        writer.commit({**member.facts, "n_tokens": len(cell)})
    names = pd.DataFrame({"gene_name": genes}, index=genes)
    finish_activations(dataset, gene_table(genes, frozenset(), names))
    return str(location)


@pytest.fixture(scope="session")
def two_hooks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache of one model at two hooks."""
    return write_cache(
        tmp_path_factory.mktemp("two_hooks") / "cache",
        model="a",
        hooks=HOOKS,
        genes=[f"ENSG{number}" for number in range(N_GENES)],
        cells_per_member=40,
        seed=0,
    )


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Caches of two models with members of other sizes; the second knows fewer genes, with versions, in
    another order."""
    folder = tmp_path_factory.mktemp("two_models")
    one = write_cache(
        folder / "a",
        model="a",
        hooks={"resid_post_3": 20},
        genes=[f"ENSG{number}" for number in range(N_GENES)],
        cells_per_member=50,
        seed=1,
    )
    other = write_cache(
        folder / "b",
        model="b",
        hooks={"resid_post_5": 12},
        genes=[f"ENSG{number}.2" for number in reversed(range(5, N_GENES))],
        cells_per_member=24,
        seed=2,
    )
    return one, other
