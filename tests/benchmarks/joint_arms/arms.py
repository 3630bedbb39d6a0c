"""The arms: one encoder, and joint models that are trained on it by our recipe and by CellWhisperer's.

Legend: C cells, K captions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from engine import models
from engine.captions import CaptionSource
from engine.captions.source import encode_captions
from engine.models import geneformer, joint
from engine.streaming.inputs import Inputs
from engine.streaming.products.embeddings import EmbeddingProduct
from engine.streaming.recipe import Recipe as Encoding
from engine.training.options import TrainingOptions
from engine.training.recipes import encoder
from engine.training.recipes.joint import PRESETS, Split, Values, make_features, plan
from engine.training.run import run_training
from jobs.demo_text import minilm_directory
from storage.cells import CellStore
from storage.locations import Location
from storage.shuffled_cells import read_cells
from tests.benchmarks.joint_arms.cells import TEMPLATE, Cells, medians_of_markers
from tests.streaming.in_process import encode_here

ENCODED_AT_ONCE = 128
MAX_TOKENS = 128


@dataclass(frozen=True)
class Ours:
    """Settings of our recipe. rate: of heads and tower; thinning: least share of a cell's molecules shown."""

    steps: int = 200
    batch: int = 64
    rate: float = 1e-3
    thinning: float = 0.3
    balance: str | None = None


@dataclass(frozen=True)
class Original:
    """Settings of CellWhisperer's recipe, whose batch is its own 512."""

    rate: float = 4e-5
    epochs: float = 4


@dataclass(frozen=True)
class Sizes:
    """Cells of a set to learn from and to test on; steps of the encoder and of heads alone; runs an arm."""

    cells: int
    test_cells: int
    encoder_steps: int
    head_steps: int
    seeds: int


FULL = Sizes(500, 1_000, 100, 300, 3)
SMALL = Sizes(40, 40, 2, 3, 1)
SMALL_OURS, SMALL_ORIGINAL = Ours(steps=3, batch=16), Original(epochs=0.1)


@dataclass(frozen=True)
class Arms:
    """Trains joint models of these cells into `folder`, but for cells of some donors."""

    folder: Path
    cells: Cells
    sizes: Sizes
    held_out: tuple[str, ...] = ()

    def encoder(self) -> str:
        """A Geneformer of two layers for the marker genes, trained on its own objective."""
        medians = medians_of_markers(self.cells)
        sizes = {"n_layers": 2, "d_model": 64, "n_heads": 4, "ffn": 128, "max_tokens": MAX_TOKENS}
        fresh = geneformer.create(list(medians), medians, special_tokens=False, **sizes)  # type: ignore[arg-type]
        models.save(fresh, self.folder / "fresh")
        recipe = encoder.plan(self.cells.store, "geneformer", model=str(self.folder / "fresh"))
        options = TrainingOptions(
            steps=self.sizes.encoder_steps, batch=32, workers=0, learning_rate=1e-3, warmup_steps=1
        )
        run_training(recipe, options, Location.of(self.folder / "encoder"))
        return str(self.folder / "encoder")

    def features(self, tower: str) -> str:
        """The encoder's embeddings of all cells."""
        inputs = Inputs.open(self.cells.store, tower)
        product = EmbeddingProduct(inputs.model.layer(None), inputs.model.default_pool)
        output = self.folder / "features"
        encode_here(inputs, product, output, Encoding(inputs.model.token_limit(None)))
        return str(output)

    def shuffled(self) -> str:
        """Everybody's caption given to somebody else."""
        captions = np.random.default_rng(0).permutation(self.cells.caption_C)
        names = [str(name) for name in CellStore.open(self.cells.store).obs([]).index]
        path = self.folder / "shuffled.parquet"
        path.write_bytes(encode_captions(names, pd.Series(captions)))
        return str(path)

    def ours(self, tower: str, name: str, settings: Ours, seed: int = 0) -> joint.JointModel:
        """Our recipe, whose cell tower learns with the heads; what is not said is the default preset's."""
        given = {"locking": "UL", "thinning": settings.thinning, "balance": settings.balance}
        training = {"steps": settings.steps, "batch": settings.batch, "learning_rate": settings.rate}
        return self._trained(tower, name, None, {**_default_preset(), **given}, training, seed)

    def heads_alone(
        self, tower: str, name: str, features: str, captions: str | None = None, seed: int = 0
    ) -> joint.JointModel:
        """Our recipe with both towers locked. captions: a file instead of the template."""
        given = {"locking": "LL", "cell_features": features}
        training = {"steps": self.sizes.head_steps, "batch": 128, "learning_rate": PRESETS["default"].lr}
        return self._trained(tower, name, captions, {**_default_preset(), **given}, training, seed)

    def original(
        self, tower: str, name: str, features: str, settings: Original, seed: int = 0
    ) -> joint.JointModel:
        """CellWhisperer's: cell tower frozen, text tower learning, a pair's own text the one positive."""
        preset = PRESETS["cellwhisperer"]
        learnt = len(self.cells.label_C) - len(self.cells.rows_of(self.held_out))
        batch = min(preset.batch, learnt)
        steps = max(2, round(settings.epochs * learnt / batch))
        given = {
            "width": preset.dims[-1],
            "dims": preset.dims,
            "head": preset.head,
            "locking": preset.locking,
            "standardise": preset.standardise,
            "cell_features": features,
            "max_text_tokens": 32,
            "objective": joint.ObjectiveOptions(positives=preset.positives, largest_scale=None),
            "projection_steps": round(preset.projection_warmup * steps),
        }
        rates = {
            "learning_rate": settings.rate,
            "final_fraction": preset.final_fraction,
            "betas": preset.betas,
        }
        return self._trained(tower, name, None, given, {"steps": steps, "batch": batch, **rates}, seed)

    def _trained(
        self,
        tower: str,
        name: str,
        captions: str | None,
        given: dict[str, Any],
        training: dict[str, Any],
        seed: int,
    ) -> joint.JointModel:
        output = Location.of(self.folder / f"{name}-{seed}")
        steps = training["steps"]
        planned = plan(
            self.cells.store,
            CaptionSource(None if captions else TEMPLATE, captions),
            tower,
            str(minilm_directory()),
            output,
            # Judged once, after the last step, whose weights are the ones that count.
            split=Split(hold_out=Values("donor", self.held_out)) if self.held_out else Split(share=0.0),
            judge_every=steps,
            patience=0,
            **given,
        )
        make_features(planned.recipe, output)
        options = TrainingOptions(
            workers=0,
            warmup_steps=steps // 20,
            checkpoint_every=steps,
            weight_decay=0.01,
            seed=seed,
            **training,
        )
        run_training(planned.recipe, options, output)
        return joint.load(self.folder / f"{name}-{seed}")


def _default_preset() -> dict[str, Any]:
    preset = PRESETS["default"]
    return {
        "width": preset.dims[-1],
        "dims": preset.dims,
        "head": preset.head,
        "objective": joint.ObjectiveOptions(positives=preset.positives),
    }


@torch.no_grad()
def scores_of(
    model: joint.JointModel, cells: Cells, rows: npt.NDArray[np.int64], captions: list[str]
) -> npt.NDArray[np.float32]:
    """Cosine of these cells with every caption `[C, K]`."""
    store = CellStore.open(cells.store)
    tokeniser = model.cell_tower.tokeniser
    match = tokeniser.match(list(store.genes.index))
    parts = []
    for start in range(0, len(rows), ENCODED_AT_ONCE):
        read = read_cells(store, rows[start : start + ENCODED_AT_ONCE])
        parts.append(model.embed_cells(tokeniser.tokenise(read.indptr, read.indices, read.counts, match)))
    cells_CU, texts_KU = torch.cat(parts).nan_to_num(), model.embed_texts(captions)
    scores: npt.NDArray[np.float32] = (cells_CU @ texts_KU.T).numpy()
    return scores
