"""A store of sixty labelled cells, activations of its tokens in three shards, and a fitting autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.storage import inputs as count_files

HOOK, OTHER_HOOK = "resid_post_1", "resid_post_0"
WIDTH, FEATURES, ACTIVE = 8, 24, 3
CELLS, GENES, SPECIAL = 60, 40, 2
TOKENS_PER_CELL = 30
MODEL = "fingerprint-of-the-encoder"


@dataclass(frozen=True)
class Place:
    """Paths of the three inputs of `features`."""

    sae: Path
    cache: Path
    cells: Path

    @property
    def flags(self) -> list[str]:
        return ["--sae", str(self.sae), "--cache", str(self.cache), "--cells", str(self.cells)]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("features")
    store = write_store(folder / "store")
    write_cache(folder / "cache", store)
    write_autoencoder(folder / "sae")
    return Place(folder / "sae", folder / "cache", folder / "store")


def write_store(path: Path) -> str:
    """Ingest sixty random cells; returns the id of the store."""
    from storage.cells import CellStore
    from storage.ingest import ingest

    adata = count_files.cells(CELLS, GENES)
    adata.write_h5ad(path.with_suffix(".h5ad"))
    ingest([str(path.with_suffix(".h5ad"))], str(path))
    return CellStore.open(str(path)).dataset_id


def write_cache(path: Path, store: str, *, width: int = WIDTH, model: str = MODEL) -> None:
    """Three members of twenty cells; token ids 0 and 1 are special and carry huge activations."""
    import pandas as pd

    from storage.activations import encode_shard, finish_activations, gene_table, shard_name
    from storage.commits import Dataset, MemberPlan
    from storage.locations import Location

    rng = np.random.default_rng(0)
    members = [
        MemberPlan(f"{number:06d}", {"start": 20 * number, "stop": 20 * number + 20}) for number in range(3)
    ]
    dataset = Dataset.plan(
        Location.of(path), kind="activations", lineage={"seed": 0, "store": store}, members=members
    )
    metadata = {"model": model, "store": store, "seed": "0"}
    for member in members:
        n_tokens = 20 * TOKENS_PER_CELL
        cell = rng.permutation(
            np.repeat(np.arange(member.facts["start"], member.facts["stop"]), TOKENS_PER_CELL)
        )
        gene = rng.integers(0, GENES + SPECIAL, n_tokens)
        direction = torch.from_numpy(np.random.default_rng(1).standard_normal((GENES + SPECIAL, width)))
        acts = direction[gene] + 0.5 * torch.from_numpy(rng.standard_normal((n_tokens, width)))
        acts[torch.from_numpy(gene < SPECIAL)] *= 50
        writer = dataset.member(member.key)
        for hook in (HOOK, OTHER_HOOK):
            place = np.arange(n_tokens)
            content = encode_shard(
                acts.to(torch.bfloat16), cell, gene, place, 2 * (gene < SPECIAL), {**metadata, "hook": hook}
            )
            writer.put(shard_name(hook, member.key), content)
        writer.commit({**member.facts, "n_tokens": n_tokens})
    ids = ["<pad>", "<cls>", *(f"ENSG{number:011d}" for number in range(GENES))]
    names = pd.DataFrame({"gene_name": [f"G{number}" for number in range(GENES)]}, index=ids[SPECIAL:])
    finish_activations(dataset, gene_table(ids, frozenset(range(SPECIAL)), names))


def write_autoencoder(path: Path, *, width: int = WIDTH, hook: str | None = HOOK, model: str = MODEL) -> None:
    from engine.models import sae

    metadata = {"model": model} | ({"hook_name": hook} if hook else {})
    sae.save(sae.create(width, FEATURES, ACTIVE, seed=0, metadata=metadata), path)
