"""Two autoencoders of which half the features are the same, compared, with feature tables of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from engine.models import sae
from jobs import compare_saes
from jobs.anatomy import DONE
from storage.checkpoints import fingerprint
from tests.interpret.enrichment.example import FEATURES, write_features

SHARED = 12
"""Feature i of ours, below this number, is feature SHARED - 1 - i of the other; the rest are their own."""


@dataclass(frozen=True)
class Compared:
    folder: Path

    def path(self, name: str) -> str:
        """`ours`, `theirs`: autoencoders. `features`, `other-features`: their tables. `comparison`."""
        return str(self.folder / name)


def write_compared(folder: Path) -> Compared:
    found = Compared(folder)
    with torch.random.fork_rng():
        for seed, name in enumerate(("ours", "theirs")):
            model = sae.create(
                64, FEATURES, 4, seed=seed, metadata={"model": "m", "hook_name": "resid_post_1"}
            )
            if name == "theirs":
                model.load_state_dict(_sharing(model, sae.load(found.path("ours"))))
            sae.save(model, folder / name)
    saes = [word for name in ("ours", "theirs") for word in ("--sae", found.path(name))]
    assert compare_saes.main([*saes, "--output", found.path("comparison")]) == DONE
    for seed, (tables, name) in enumerate((("features", "ours"), ("other-features", "theirs"))):
        write_features(folder / tables, seed=seed, sae=fingerprint(folder / name))
    return found


def _sharing(theirs: torch.nn.Module, ours: torch.nn.Module) -> dict[str, torch.Tensor]:
    weights = {name: part.clone() for name, part in theirs.state_dict().items()}
    weights["W_dec"][:SHARED] = ours.state_dict()["W_dec"][:SHARED].flip(0)
    return weights
