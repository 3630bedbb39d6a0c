"""Which perturbations are trained on and which are held out: whole targets or whole contexts, never cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.perturbation.screen import Group, Screen
from storage.errors import InputError

SplitBy = Literal["perturbation", "context"]


@dataclass(frozen=True)
class Split:
    """held_out: target genes (by perturbation) or contexts (by context). Empty: train on everything."""

    by: SplitBy
    held_out: tuple[str, ...]

    @classmethod
    def of(
        cls, screen: Screen, by: SplitBy, *, named: Sequence[str] = (), share: float = 0.2, seed: int = 0
    ) -> Split:
        """The split of a screen: what is named, else a share of targets or contexts drawn by the seed.

        Raises InputError for unknown names, or when one side would be empty.
        """
        if not 0 <= share < 1:
            raise InputError(f"--hold-out-share {share}: a share of targets or contexts, 0 to below 1.")
        known = _targets(screen) if by == "perturbation" else sorted({str(one) for one in screen.contexts})
        if by == "context" and len(known) < 2:
            raise InputError(
                f"--split context: {screen.where} has one context"
                f"{'' if known[0] != 'all' else '; name its column by --context'}. Use --split perturbation."
            )
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise InputError(
                f"--held-out {', '.join(unknown)}: {screen.where} has no such {by}; it has "
                f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
            )
        n = max(1, round(share * len(known))) if share else 0
        drawn = np.random.default_rng(seed).permutation(known)[:n].tolist()
        split = cls(by, tuple(sorted(named or drawn)))
        if not split.training(screen):
            raise InputError(
                f"--held-out: nothing is left of {screen.where} to train on; every perturbation hits one of "
                f"{', '.join(split.held_out[:8])}."
            )
        return split

    def training(self, screen: Screen) -> list[Group]:
        """Perturbed groups that are trained on; combinations with a held-out target are not among them."""
        return [group for group in _perturbed(screen) if not self._is_out(screen, group)]

    def validation(self, screen: Screen) -> list[Group]:
        """Perturbed groups that are held out."""
        return [group for group in _perturbed(screen) if self._is_out(screen, group)]

    def _is_out(self, screen: Screen, group: Group) -> bool:
        context, label = group
        if self.by == "context":
            return context in self.held_out
        return bool(set(screen.targets(label)) & set(self.held_out))


def _perturbed(screen: Screen) -> Iterable[Group]:
    return [group for group in screen.groups if group[1] != screen.control]


def _targets(screen: Screen) -> list[str]:
    return sorted({gene for _, label in _perturbed(screen) for gene in screen.targets(label)})
