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
from tests.benchmarks.joint_arms.cells import TEMPLATE, Cells, held_donors, medians_of_markers
from tests.streaming.in_process import encode_here

ENCODED_AT_ONCE = 128
MAX_TOKENS = 192


@dataclass(frozen=True)
class Sizes:
    """Cells of a set; steps of the encoder and of our recipe, pairs of a step; epochs of CellWhisperer's,
    whose batch is its own 512."""

    cells: int
    encoder_steps: int
    steps: int
    batch: int
    epochs: float


FULL = Sizes(500, 100, 160, 128, 4)
SMALL = Sizes(40, 2, 3, 16, 0.1)


@dataclass(frozen=True)
class Arms:
    """Trains joint models of these cells into `folder`."""

    folder: Path
    cells: Cells
    sizes: Sizes

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
        """Everybody's caption given to somebody else, of those that are learnt from."""
        learnt = np.flatnonzero(~self.cells.held_C)
        captions = self.cells.caption_C.copy()
        captions[learnt] = captions[np.random.default_rng(0).permutation(learnt)]
        names = [str(name) for name in CellStore.open(self.cells.store).obs([]).index]
        path = self.folder / "shuffled.parquet"
        path.write_bytes(encode_captions(names, pd.Series(captions)))
        return str(path)

    def ours(self, tower: str, name: str, *, captions: str | None = None, **others: Any) -> joint.JointModel:
        """Our recipe; what is not said is the default preset's. captions: a file instead of the template."""
        preset = PRESETS["default"]
        given = {"width": preset.dims[-1], "dims": preset.dims, "head": preset.head, "patience": 0, **others}
        given.setdefault("objective", joint.ObjectiveOptions(positives=preset.positives))
        rate = 2e-3 if given.get("locking") == "LL" else 1e-3
        return self._trained(
            tower,
            name,
            captions,
            given,
            {"steps": self.sizes.steps, "batch": self.sizes.batch, "learning_rate": rate},
        )

    def original(self, tower: str, features: str) -> joint.JointModel:
        """CellWhisperer's: cell tower frozen, text tower learning, a pair's own text the one positive, and
        the rate and epochs of its ablation study (specs/joint_and_chat.md section 5)."""
        preset = PRESETS["cellwhisperer"]
        learnt = int((~self.cells.held_C).sum())
        batch = min(preset.batch, learnt)
        steps = max(2, round(self.sizes.epochs * learnt / batch))
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
        rates = {"learning_rate": 4e-5, "final_fraction": preset.final_fraction, "betas": preset.betas}
        return self._trained(tower, "original", None, given, {"steps": steps, "batch": batch, **rates})

    def _trained(
        self, tower: str, name: str, captions: str | None, given: dict[str, Any], training: dict[str, Any]
    ) -> joint.JointModel:
        output = Location.of(self.folder / name)
        steps = training["steps"]
        planned = plan(
            self.cells.store,
            CaptionSource(None if captions else TEMPLATE, captions),
            tower,
            str(minilm_directory()),
            output,
            # No arm looks at the cells it is measured with: held out, and judged once, at the end.
            split=Split(hold_out=Values("donor", held_donors(self.cells))),
            judge_every=steps,
            **given,
        )
        make_features(planned.recipe, output)
        options = TrainingOptions(
            workers=0, warmup_steps=steps // 20, checkpoint_every=steps, weight_decay=0.01, **training
        )
        run_training(planned.recipe, options, output)
        return joint.load(self.folder / name)


@torch.no_grad()
def scores_of(model: joint.JointModel, cells: Cells, captions: list[str]) -> npt.NDArray[np.float32]:
    """Cosine of every held-out cell with every caption `[C, K]`."""
    store = CellStore.open(cells.store)
    tokeniser = model.cell_tower.tokeniser
    match = tokeniser.match(list(store.genes.index))
    held = np.flatnonzero(cells.held_C)
    parts = []
    for start in range(0, len(held), ENCODED_AT_ONCE):
        rows = read_cells(store, held[start : start + ENCODED_AT_ONCE])
        parts.append(model.embed_cells(tokeniser.tokenise(rows.indptr, rows.indices, rows.counts, match)))
    cells_CU, texts_KU = torch.cat(parts).nan_to_num(), model.embed_texts(captions)
    scores: npt.NDArray[np.float32] = (cells_CU @ texts_KU.T).numpy()
    return scores
