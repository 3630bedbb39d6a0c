"""Merging the states of many members on Ray: a tree for each range of features, and one for the tokens.

    states of 16 members -> leaf (task) \
    states of 16 members -> leaf (task)  > join of 8 (task) -> ... -> one state

A task holds one range of features of some members, so memory is bounded however many features there are.
Merging is exact, so the shape of the tree cannot show in a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.interpret.state import FeatureTotals, PassPlan, TokenTotals
from storage.commits import Dataset
from storage.feature_states import read_range, read_tokens

LEAF_MEMBERS = 16
FAN_IN = 8
# States a leaf holds unmerged: merging touches every key, so each arrival is not merged by itself.
MERGE_EVERY = 4
RETRIES = 3


@dataclass(frozen=True)
class Reduction:
    """The committed states of a pass, to be merged inside a Ray session."""

    states: Dataset
    plan: PassPlan

    def tokens(self) -> Any:
        """Reference to the merged `TokenTotals`."""
        return self._grow(None)

    def range(self, number: int) -> Any:
        """Reference to the merged `FeatureTotals` of one range of features."""
        return self._grow(number)

    def _grow(self, number: int | None) -> Any:
        import ray

        leaf = ray.remote(num_cpus=1, max_retries=RETRIES)(merged_members)
        join = ray.remote(num_cpus=1, max_retries=RETRIES)(_joined)
        keys = [member.key for member in self.states.members]
        level = [
            leaf.remote(self.states, self.plan, keys[start : start + LEAF_MEMBERS], number)
            for start in range(0, len(keys), LEAF_MEMBERS)
        ]
        while len(level) > 1:
            level = [
                join.remote(self.plan, *level[start : start + FAN_IN])
                for start in range(0, len(level), FAN_IN)
            ]
        return level[0]


def merged_members(
    states: Dataset, plan: PassPlan, keys: Sequence[str], number: int | None
) -> TokenTotals | FeatureTotals:
    """What some members add up to: about tokens (None), or about one range of features."""
    waiting: list[Any] = []
    for key in keys:
        if number is None:
            waiting.append(TokenTotals.of_arrays(read_tokens(states, key)))
        else:
            waiting.append(FeatureTotals.of_arrays(read_range(states, key, number)))
        if len(waiting) > MERGE_EVERY:
            waiting = [_joined(plan, *waiting)]
    merged: TokenTotals | FeatureTotals = _joined(plan, *waiting)
    return merged


def _joined(plan: PassPlan, *parts: Any) -> Any:
    return type(parts[0]).merge(plan, parts)
