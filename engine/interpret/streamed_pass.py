"""A feature pass without a cache: the encoder's activations go to the autoencoder in the process that made
them, and what is written is what they add up to.

A product of the stream (`engine.streaming`) like embeddings and caches: same members, encoders and commits.

Shape legend: T tokens of a member, R gene tokens of a packed batch, D width of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.interpret.codes import sparse_codes
from engine.interpret.expression import Expression
from engine.interpret.features import GeneTokens, Observer
from engine.interpret.inputs import EncodedInputs
from engine.interpret.passes import Progress, Spent, autoencoder, gene_means, objects_of, plan_lineage
from engine.interpret.state import PassPlan
from engine.models import Encoder, PackedTokens, Tokens
from engine.streaming.forward import encode_cells
from engine.streaming.inputs import Inputs
from engine.streaming.members import Member, members_by_tokens, token_bound
from engine.streaming.packing import token_positions
from engine.streaming.products.product import Source
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.replicas import EncoderSpec, load_encoder
from engine.streaming.run import encode
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.feature_states import KIND
from storage.locations import Location

# Tokens of a member: a sixty-fourth of all, within what an encoder on a CPU does in a minute and what a GPU
# does in one.
MEMBERS_WANTED, FEWEST_TOKENS, MOST_TOKENS = 64, 16_384, 524_288
SAMPLE_CELLS = 8


@dataclass(frozen=True)
class StreamedPass:
    """Looks at every gene token the encoder is given."""

    inputs: EncodedInputs
    recipe: Recipe
    workers: Workers

    def lineage(self) -> Mapping[str, Any]:
        recipe = self.recipe
        return {
            "model": self.inputs.stream.model.fingerprint,
            "max_tokens": recipe.max_tokens,
            "compute": recipe.precision,
            "token_seed": recipe.seed,
            "batch_tokens": recipe.batch_tokens,
        }

    def most_tokens(self) -> int:
        stream = self.inputs.stream
        return int(_bound(stream.store.nnz_per_cell[: stream.n_cells], self.recipe.max_tokens, 0).sum())

    def sample_peak(self) -> float:
        import ray

        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        sample = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_sample_peak)
        peak: float = ray.get(sample.remote(self.inputs, self.recipe, "cuda" if gpus else "cpu"))
        return peak

    def observe(self, plan: PassPlan, edges: Sequence[int], states: Location, report: Progress) -> Spent:
        encoding = encode(
            self.inputs.stream,
            FeatureStateProduct(self.inputs, plan, tuple(edges)),
            states,
            recipe=self.recipe,
            workers=self.workers,
            report=lambda done, total, unit, beside: report(done, total, unit),
        )
        return Spent(encoding.spent.tokens, encoding.spent.peak_memory_bytes or None)


def _bound(nnz_per_cell: npt.NDArray[Any], max_tokens: int | None, n_special: int) -> npt.NDArray[Any]:
    return token_bound(nnz_per_cell, max_tokens=max_tokens, tokens_per_cell=None, n_special=n_special)


def _sample_peak(inputs: EncodedInputs, recipe: Recipe, device: str) -> float:
    """The largest activation of a feature on the first cells."""
    encoder = load_encoder(
        EncoderSpec(inputs.stream.model.path, recipe.precision, recipe.batch_tokens, 1, device)
    )
    tokenise = inputs.stream.tokeniser(recipe.max_tokens, recipe.seed)
    tokens = tokenise.tokens(inputs.store.read(0, min(SAMPLE_CELLS, inputs.n_cells)))
    plan = PassPlan(inputs.n_features, len(inputs.genes))
    sample = StateCollector(inputs, plan, (), encoder, tokens, Member("sample", 0, tokens.n_cells))
    encode_cells(encoder, tokens, sample, recipe.batch_tokens)
    return float(sample.observer.state().features.pairs.peak_P.max(initial=0.0))


@dataclass(frozen=True)
class FeatureStateProduct:
    """The state of a feature pass over each member."""

    inputs: EncodedInputs
    plan: PassPlan
    edges: tuple[int, ...]

    kind = KIND

    def lineage(self) -> Mapping[str, Any]:
        inputs = self.inputs
        label = inputs.label.name if inputs.label else None
        subject = {"sae": inputs.sae_fingerprint, "hook": inputs.hook, "label": label}
        return subject | plan_lineage(self.plan, self.edges)

    def members(
        self, nnz_per_cell: npt.NDArray[Any], max_tokens: int | None, n_special: int
    ) -> list[MemberPlan]:
        bound = _bound(nnz_per_cell, max_tokens, n_special)
        wanted = int(bound.sum()) // MEMBERS_WANTED
        return members_by_tokens(bound, min(max(wanted, FEWEST_TOKENS), MOST_TOKENS))

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> StateCollector:
        return StateCollector(self.inputs, self.plan, self.edges, encoder, tokens, member)

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        return dataset.finish()


class StateCollector:
    """Runs the autoencoder on each batch where the encoder ran, and adds the codes up on the host."""

    def __init__(
        self,
        inputs: EncodedInputs,
        plan: PassPlan,
        edges: Sequence[int],
        encoder: Encoder,
        tokens: Tokens,
        member: Member,
    ) -> None:
        self.inputs, self.edges, self.encoder, self.member = inputs, edges, encoder, member
        which = inputs.sae_path, inputs.sae_fingerprint, str(encoder.device)
        self.autoencoder, self.gene_means_GD = autoencoder(*which), gene_means(*which)
        self.observer = Observer(plan, inputs.label.code_C if inputs.label else None)
        self.offsets = tokens.offsets
        self.is_gene_T = inputs.gene_tokens[tokens.ids_T]
        self.tokens = _gene_tokens(inputs, tokens, member.start)

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        places = token_positions(self.offsets, cells)
        rows = np.flatnonzero(self.is_gene_T[places])
        hook = self.inputs.hook
        output = self.encoder(tokens, hooks=(hook,), rows_T=torch.from_numpy(rows))
        codes = sparse_codes(
            self.autoencoder,
            output.hooks[hook],
            self.observer.plan.n_features,
            gene_T=self.tokens.gene_T[places[rows]],
            gene_means_GD=self.gene_means_GD,
        )
        return lambda: self.observer.add(self.tokens.at(places[rows]), codes)

    def objects(self) -> Iterator[tuple[str, bytes]]:
        yield from objects_of(self.observer.state(), self.member.key, self.edges)

    def facts(self) -> Mapping[str, Any]:
        n_tokens = int(self.observer.tokens_G.sum())
        return {"start": self.member.start, "stop": self.member.stop, "n_tokens": n_tokens}


def _gene_tokens(inputs: EncodedInputs, tokens: Tokens, first_cell: int) -> GeneTokens:
    """Of every token of a member; expression is looked up once, since batches take cells from all over it."""
    stream: Inputs = inputs.stream
    expression = Expression(inputs.store, stream.match.column_to_token, len(inputs.genes))
    cell_T, gene_T = first_cell + tokens.cell_T, tokens.ids_T.astype(np.int64)
    return GeneTokens(cell_T, gene_T, tokens.position_T, expression(cell_T, gene_T))
