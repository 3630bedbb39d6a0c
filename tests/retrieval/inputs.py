"""Embeddings of made-up cells that lie in clusters, as a trained encoder's do."""

import numpy as np
import pandas as pd

from engine.retrieval.build import IndexOptions, Source, build
from storage import embeddings
from storage.commits import Dataset, MemberPlan
from storage.index import VectorIndex
from storage.locations import Location

WIDTH, CLUSTERS = 48, 12
TISSUES = ("blood", "lung", "skin")


def clustered(n_cells: int, seed: int = 0, width: int = WIDTH) -> tuple[np.ndarray, pd.DataFrame]:
    """Vectors around centres, of varied length, and obs in which tissue follows from the cluster."""
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1) ** -0.7
    centres = np.random.default_rng(99).normal(size=(CLUSTERS, width)) * spectrum
    cluster = generator.integers(CLUSTERS, size=n_cells)
    vectors = centres[cluster] + 0.5 * generator.normal(size=(n_cells, width)) * spectrum
    vectors *= generator.uniform(0.5, 2.0, size=(n_cells, 1))
    types = pd.Series([f"type {number}" for number in cluster], dtype=object)
    types[generator.random(n_cells) < 0.1] = None
    obs = pd.DataFrame(
        {
            "tissue": pd.Categorical([TISSUES[number % 3] for number in cluster], categories=TISSUES),
            "cell_type": types.to_numpy(),
            "n_genes": generator.integers(100, 5_000, size=n_cells),
            "is_control": generator.random(n_cells) < 0.3,
            "score": np.where(generator.random(n_cells) < 0.2, np.nan, generator.random(n_cells)),
        },
        index=[f"cell{seed}-{row}" for row in range(n_cells)],
    )
    return vectors.astype(np.float32), obs


def write_embeddings(
    place: Location | str, e_CD: np.ndarray, obs: pd.DataFrame, chunk: int = 512, model: str = "m"
) -> None:
    starts = range(0, len(e_CD), chunk)
    members = [
        MemberPlan(f"{number:06d}", {"start": start, "stop": min(start + chunk, len(e_CD))})
        for number, start in enumerate(starts)
    ]
    lineage = {"model": model, "embeddings": {"layer": 1, "pool": "cls"}}
    dataset = Dataset.plan(place, kind=embeddings.KIND, lineage=lineage, members=members)
    for member in dataset.pending():
        start, stop = member.facts["start"], member.facts["stop"]
        writer = dataset.member(member.key)
        writer.put(
            embeddings.chunk_name(member.key), embeddings.embedding_chunk(e_CD[start:stop], member.key, start)
        )
        writer.put(embeddings.token_counts_name(member.key), np.zeros(stop - start, "<i4").tobytes())
        writer.commit(member.facts)
    embeddings.finish_embeddings(dataset, obs)


def built(
    place: Location, n_cells: int = 3_000, segment_cells: int = 1_024, **options: object
) -> VectorIndex:
    """An index of clustered cells at `place`/index, its embeddings beside it."""
    write_embeddings(place / "embeddings", *clustered(n_cells))
    source = Source.open(place / "embeddings", None, None)
    wanted = IndexOptions(short_width=16, segment_cells=segment_cells, **options)  # type: ignore[arg-type]
    return build(source, place / "index", wanted)[0]


def brute_force(e_CD: np.ndarray, query_D: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """The k nearest allowed cells by cosine, computed in float64."""
    unit = e_CD / np.linalg.norm(e_CD, axis=1, keepdims=True).astype(np.float64)
    scores = np.where(allowed, unit @ (query_D / np.linalg.norm(query_D)), -np.inf)
    return np.argsort(-scores, kind="stable")[: min(k, int(allowed.sum()))]
