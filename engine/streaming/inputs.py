"""What a stream starts from, checked before anything is written: the cells, the model, and whether they
fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine import models
from engine.models import GeneMatch, Tokeniser
from engine.models.encoder import layer_hook
from engine.models.joint import JointConfig, load_config
from engine.models.joint.checkpoint import is_joint
from engine.streaming.tokenising import TokeniseMembers
from storage.cells import CellStore
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError

# Below this share of the store's genes known to the model, something is usually wrong with the ids.
LOW_MATCH = 0.5

# <cls> and <drug>, or <cls> and <eos>: no encoder puts more special tokens into a cell.
SPECIAL_PER_CELL = 2

# In `token_classes` of a tokeniser.
CELL_TOKEN = 1


@dataclass(frozen=True)
class ModelFacts:
    """An encoder without its weights. ranks: most tokens of a cell it can encode, None for any number.
    tensor_parallel: numbers of devices that can share it. joint: the configuration of the joint model whose
    cell tower it is, if it is one's; the fingerprint is that of the whole joint model then. drug_token:
    whether its cells have one.
    """

    path: str
    fingerprint: str
    tokeniser: Tokeniser
    hook_names: tuple[str, ...]
    d_model: int
    n_layers: int
    max_tokens: int
    ranks: int | None
    default_layer: int
    default_pool: str
    tensor_parallel: tuple[int, ...] = (1,)
    joint: JointConfig | None = None
    drug_token: bool = False

    @classmethod
    def read(cls, path: str, *, drug_token: bool = False) -> ModelFacts:
        """Of a model directory, local or remote. Raises InputError or ModelError when it is none.

        Weights are hashed for the fingerprint as they lie in their file, and never loaded.
        """
        local = local_copy(path)
        encoder = models.load(local, weights=False, drug_token=drug_token)
        return cls(
            path=path,
            fingerprint=fingerprint(local),
            tokeniser=encoder.tokeniser,
            hook_names=tuple(encoder.hook_names),
            d_model=encoder.d_model,
            n_layers=encoder.n_layers,
            max_tokens=encoder.max_tokens,
            # Geneformer's table of positions ends there; Tahoe-x1 has none and takes cells of any length.
            ranks=getattr(encoder.config, "max_tokens", None),
            default_layer=encoder.default_layer,
            default_pool=encoder.default_pool,
            tensor_parallel=models.tensor_parallel_sizes(encoder),
            joint=load_config(local) if is_joint(local) else None,
            drug_token=drug_token,
        )

    @property
    def has_cell_token(self) -> bool:
        return bool((self.tokeniser.token_classes == CELL_TOKEN).any())

    def token_limit(self, asked: int | None) -> int:
        """Tokens kept of a cell. Raises InputError for a limit that leaves no gene."""
        limit = self.max_tokens if asked is None else asked
        if limit <= SPECIAL_PER_CELL:
            raise InputError(f"--max-tokens {limit}: leaves no room for genes beside the special tokens.")
        if self.ranks is not None and limit > self.ranks:
            raise InputError(
                f"--max-tokens {limit}: {self.path} has positions for {self.ranks} tokens of a cell."
            )
        return limit

    def layer(self, asked: int | None) -> int:
        """The layer that is pooled, counted from 0. Raises ModelError when the model has no such layer."""
        layer = self.default_layer if asked is None else asked
        layer_hook(layer, self.n_layers)
        return layer % self.n_layers

    def hook_of(self, layer: int) -> str:
        return layer_hook(layer, self.n_layers)

    def require_tensor_parallel(self, n_devices: int) -> None:
        """Raises InputError unless so many devices can share the encoder."""
        if n_devices not in self.tensor_parallel:
            raise InputError(
                f"--tensor-parallel {n_devices}: the heads and feed-forward part of {self.path} can "
                f"be shared by {', '.join(map(str, self.tensor_parallel))} devices."
            )

    def require_hooks(self, hooks: Sequence[str]) -> None:
        unknown = [hook for hook in hooks if hook not in self.hook_names]
        if unknown or not hooks:
            raise InputError(
                f"--hooks {','.join(hooks)}: {self.path} has no hook point "
                f"{', '.join(map(repr, unknown)) or '(none given)'}; it has {', '.join(self.hook_names)}."
            )


@dataclass(frozen=True)
class Inputs:
    """The first `n_cells` cells of a store, and a model that knows some of their genes."""

    store: CellStore
    n_cells: int
    model: ModelFacts
    match: GeneMatch

    @classmethod
    def open(
        cls, cells: str, model: str, max_cells: int | None = None, *, drug_token: bool = False
    ) -> Inputs:
        """Raises InputError, with the match report, when the model knows no gene of the store."""
        store = CellStore.open(cells)
        if store.n_cells == 0:
            raise InputError(f"{cells}: the cell store holds no cells.")
        facts = ModelFacts.read(model, drug_token=drug_token)
        match = facts.tokeniser.match(list(store.genes.index))
        if match.n_matched == 0:
            raise InputError(
                f"{cells}: none of its {store.n_genes:,} genes is in the vocabulary of {model}; nothing was "
                f"written.\n{match.report()}"
            )
        return cls(store, min(store.n_cells, max_cells or store.n_cells), facts, match)

    @property
    def warnings(self) -> list[str]:
        if self.match.fraction >= LOW_MATCH:
            return []
        return [f"few genes of the store are known to the model: {self.match.report()}"]

    def tokeniser(self, max_tokens: int | None, seed: int) -> TokeniseMembers:
        return TokeniseMembers(self.model.tokeniser, self.match, max_tokens, seed)
