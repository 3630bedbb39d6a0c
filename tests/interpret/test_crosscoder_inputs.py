"""What crosscoders fire on: the places they read, laid side by side, and what does not belong to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.interpret.cached_pass import CachedPass, observe_shards
from engine.interpret.crosscoder_inputs import CrosscoderInputs
from engine.interpret.gene_ranking import TableOptions
from engine.interpret.scores import feature_moments
from engine.interpret.state import PassPlan
from engine.interpret.tables import tabulate
from engine.models.sae.crosscoder import Crosscoder, Source, load_crosscoder, save_crosscoder
from storage.activations import ActivationCache
from storage.cells import CellStore
from storage.errors import InputError
from tests.interpret.inputs import (
    CELLS,
    FEATURES,
    GENES,
    HOOK,
    MODEL,
    OTHER_HOOK,
    SPECIAL,
    WIDTH,
    Place,
    write_cache,
)

HOOKS = (OTHER_HOOK, HOOK)
NARROW, OTHER_MODEL = 6, "fingerprint-of-another"


def write_crosscoder(path: Path, places: list[tuple[str, str, int]]) -> None:
    sources = [Source(f"{model} {hook}", width) for model, hook, width in places]
    described = [
        {"name": source.name, "hook_name": hook, "model": model}
        for source, (model, hook, _) in zip(sources, places, strict=True)
    ]
    found = Crosscoder.create(sources, FEATURES, 3, seed=0)
    found.metadata = {"sources": described}
    found.sae.topk_threshold.fill_(0.5)
    with torch.no_grad():
        found.sae.W_dec[: FEATURES // 2, places[0][2] :] = (
            0  # half of the features write at the first place only
        )
    save_crosscoder(found, path)


@pytest.fixture(scope="module")
def two_caches(place: Place, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    other = tmp_path_factory.mktemp("other") / "cache"
    store = CellStore.open(str(place.cells)).dataset_id
    write_cache(other, store, width=NARROW, model=OTHER_MODEL)
    return [str(place.cache), str(other)]


def opened(
    folder: Path, places: list[tuple[str, str, int]], caches: list[str], cells: Path
) -> CrosscoderInputs:
    write_crosscoder(folder, places)
    return CrosscoderInputs.open(str(folder), caches, str(cells))


def fired(inputs: CrosscoderInputs, x_TD: torch.Tensor) -> list[int]:
    codes = load_crosscoder(inputs.sae_path).sae.encode(x_TD).detach().numpy()
    return [int(number) for number in (codes > 0).sum(axis=0)]


def test_hooks_of_one_cache(place: Place, tmp_path: Path) -> None:
    inputs = opened(tmp_path, [(MODEL, hook, WIDTH) for hook in HOOKS], [str(place.cache)], place.cells)
    cache, rows = ActivationCache.open(str(place.cache)), []
    for record in cache.members:
        parts = [cache.read(hook, record.key) for hook in HOOKS]
        kept = torch.from_numpy(parts[0].gene >= SPECIAL)
        rows.append(torch.cat([part.acts.float() for part in parts], dim=1)[kept])
    state = observe_shards(inputs, PassPlan(FEATURES, GENES + SPECIAL), range(3))
    expected = fired(inputs, torch.cat(rows))
    assert feature_moments(state).fired_F.tolist() == expected
    assert sum(expected) > 0
    assert CachedPass(inputs).most_tokens() == cache.n_tokens
    table = tabulate(state, inputs.names(), TableOptions(partners=0)).features
    shares = table[[f"share_{MODEL} {hook}" for hook in HOOKS]].to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert (shares[: FEATURES // 2, 1] == 0).all()
    assert (shares[FEATURES // 2 :, 1] > 0).all()


def test_caches_of_two_models_meet_by_gene_within_a_cell(
    place: Place, tmp_path: Path, two_caches: list[str]
) -> None:
    inputs = opened(tmp_path, [(MODEL, HOOK, WIDTH), (OTHER_MODEL, HOOK, NARROW)], two_caches, place.cells)
    tables = []
    for path in two_caches:
        cache, seen = ActivationCache.open(path), dict[tuple[int, int], torch.Tensor]()
        for record in cache.members:
            tokens = cache.read(HOOK, record.key)
            for cell, gene, x_D in zip(tokens.cell.tolist(), tokens.gene.tolist(), tokens.acts, strict=True):
                if gene >= SPECIAL:
                    seen.setdefault((cell, gene), x_D.float())
        tables.append(seen)
    first, other = tables
    together = sorted(first.keys() & other.keys())
    rows = torch.stack([torch.cat([first[token], other[token]]) for token in together])
    state = observe_shards(inputs, PassPlan(FEATURES, GENES + SPECIAL), range(3))
    assert state.tokens.n_tokens == len(together) == CachedPass(inputs).most_tokens()
    assert feature_moments(state).fired_F.tolist() == fired(inputs, rows)
    assert state.tokens.n_cells == CELLS


WRONG: dict[str, tuple[list[tuple[str, str, int]], str]] = {
    "order": ([(OTHER_MODEL, HOOK, NARROW), (MODEL, HOOK, WIDTH)], "of model fingerprint-of-the-encoder"),
    "hook": ([(MODEL, "final", WIDTH), (OTHER_MODEL, HOOK, NARROW)], "reads the hook point final"),
    "width": ([(MODEL, HOOK, WIDTH), (OTHER_MODEL, HOOK, WIDTH)], "has width 6"),
    "number": ([(MODEL, HOOK, WIDTH)] * 3, "reads 3 places"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_belong_together_is_refused(
    place: Place, tmp_path: Path, two_caches: list[str], case: str
) -> None:
    places, reason = WRONG[case]
    with pytest.raises(InputError, match=reason):
        opened(tmp_path, places, two_caches, place.cells)
