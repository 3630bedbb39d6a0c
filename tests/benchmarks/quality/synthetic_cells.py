"""Cells with ground truth: every token is a sum of known directions, some of them shared by its whole cell.

Legend: B tokens of a batch, C tokens of a cell, D width, G gene directions, P program directions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from storage.activations import encode_shard, finish_activations, gene_table, shard_name
from storage.commits import Dataset, MemberPlan
from storage.locations import Location

WIDTH, GENES, PROGRAMS, TOKENS_PER_CELL = 128, 600, 300, 256
# A token holds its own gene, another that goes along with it, and most of the programs its cell runs.
COMPANIONS, PROGRAMS_PER_CELL, PROGRAM_SHOWS = 1, 8, 0.7
NOISE = 0.3
# Genes differ in how often they are seen, as n^-0.7.
FREQUENCY_EXPONENT = 0.7


HOOK = "resid_post_0"


@dataclass(frozen=True)
class SyntheticCells:
    """gamma: length of a constant added to all tokens, in units of their RMS deviation from the mean."""

    gamma: float = 0.0

    def stream(self, batch: int, buffer_cells: int | None) -> Iterator[torch.Tensor]:
        """Endless batches x_BD from the first cell on, the tokens of `buffer_cells` cells shuffled together;
        None keeps cells whole and in order. Every choice sees the same tokens."""
        held = torch.empty(0, WIDTH)
        step = buffer_cells or 1
        for first in count(0, step):
            buffer = torch.cat([self.cell(first + number) for number in range(step)])
            if buffer_cells:
                order = np.random.default_rng([1, first]).permutation(len(buffer))
                buffer = buffer[torch.from_numpy(order)]
            held = torch.cat([held, buffer])
            while len(held) >= batch:
                yield held[:batch]
                held = held[batch:]

    def write_cache(self, path: Path, n_cells: int, shard_cells: int = 128) -> Path:
        """The first cells as an activation cache, in float32: bfloat16 would round away what an offset of
        ten times the spread leaves."""
        ids = [f"G{number}" for number in range(TOKENS_PER_CELL)]
        starts = range(0, n_cells, shard_cells)
        members = [
            MemberPlan(f"{number:06d}", {"start": start, "stop": min(start + shard_cells, n_cells)})
            for number, start in enumerate(starts)
        ]
        lineage = {"gamma": self.gamma, "hook": HOOK}
        dataset = Dataset.plan(Location.of(path), kind="activations", lineage=lineage, members=members)
        for member in members:
            cells = np.arange(member.facts["start"], member.facts["stop"])
            acts = torch.cat([self.cell(int(cell)) for cell in cells])
            order = np.random.default_rng([2, int(cells[0])]).permutation(len(acts))
            gene = np.tile(np.arange(TOKENS_PER_CELL), len(cells))[order]
            cell = np.repeat(cells, TOKENS_PER_CELL)[order]
            writer = dataset.member(member.key)
            content = encode_shard(
                acts[torch.from_numpy(order)], cell, gene, gene, 0 * gene, {"seed": "0", "hook": HOOK}
            )
            writer.put(shard_name(HOOK, member.key), content)
            writer.commit({**member.facts, "n_tokens": len(acts)})
        finish_activations(dataset, gene_table(ids, frozenset(), pd.DataFrame()))
        return path

    def cell(self, number: int) -> torch.Tensor:
        """x_CD of one cell; a function of its number alone."""
        rng = np.random.default_rng([0, number])
        weight = np.zeros((TOKENS_PER_CELL, GENES + PROGRAMS), np.float32)
        rows = np.arange(TOKENS_PER_CELL)
        for _ in range(1 + COMPANIONS):
            gene = rng.choice(GENES, TOKENS_PER_CELL, p=self._frequency)
            weight[rows, gene] += rng.uniform(0.5, 1.5, TOKENS_PER_CELL)
        programs = rng.choice(PROGRAMS, PROGRAMS_PER_CELL, replace=False)
        shows = rng.random((TOKENS_PER_CELL, PROGRAMS_PER_CELL)) < PROGRAM_SHOWS
        weight[:, GENES + programs] = shows * rng.uniform(0.5, 1.5, shows.shape)
        noise = rng.standard_normal((TOKENS_PER_CELL, WIDTH)).astype(np.float32)
        x_CD = torch.from_numpy(weight) @ self.directions + NOISE / WIDTH**0.5 * torch.from_numpy(noise)
        return x_CD + self._offset

    @cached_property
    def directions(self) -> torch.Tensor:
        """Unit rows [G + P, D]: genes, then programs."""
        generator = torch.Generator().manual_seed(0)
        return torch.nn.functional.normalize(torch.randn(GENES + PROGRAMS, WIDTH, generator=generator), dim=1)

    @cached_property
    def _frequency(self) -> np.ndarray:
        frequency = np.arange(1, GENES + 1) ** -FREQUENCY_EXPONENT
        return frequency / frequency.sum()

    @cached_property
    def _offset(self) -> torch.Tensor:
        if not self.gamma:
            return torch.zeros(WIDTH)
        plain = SyntheticCells()
        x_BD = torch.cat([plain.cell(number) for number in range(64)])
        mean_D = x_BD.mean(0)
        spread = float((x_BD - mean_D).square().sum(1).mean().sqrt())
        axis = torch.nn.functional.normalize(
            torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)), dim=0
        )
        return self.gamma * spread * axis - mean_D
