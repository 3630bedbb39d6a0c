"""Cells in the common space of a joint model, by the same stream that makes any other embeddings."""

from __future__ import annotations

from engine.models import Precision
from engine.streaming.inputs import Inputs, ModelFacts
from engine.streaming.packing import BATCH_TOKENS
from engine.streaming.products.embeddings import JointEmbeddingProduct
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.run import Encoding, Progress, encode
from storage.errors import InputError
from storage.locations import Location


def joint_product(model: ModelFacts) -> JointEmbeddingProduct:
    """What the stream makes with a joint model. Raises InputError for a model that is none."""
    if model.joint is None:
        raise InputError(
            f"{model.path}: not a joint model; expected the directory that train-joint or convert writes, "
            "with cell/ and text/ in it"
        )
    return JointEmbeddingProduct(model.path, model.joint.width)


def embed_joint(
    cells: str,
    joint: str,
    output: Location | str,
    *,
    max_tokens: int | None = None,
    precision: Precision = "fp32",
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    workers: Workers | None = None,
    max_cells: int | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> tuple[Encoding, Inputs]:
    """Embed the cells of a store with a joint model while they stream: what `embed --model JOINT` does, for
    jobs that go on from there (`index`, `annotate`, `evaluate-joint`).

    cells, joint: paths of a cell store and of a joint model directory. max_tokens: tokens kept of a cell,
    None for the model's own limit. precision, seed, batch_tokens: as in Recipe. workers, report: as for
    `encode`. max_cells: the first so many cells.
    Returns what the run did, and the inputs (their warnings are worth passing on). At `output` lies an
    embeddings dataset then (`storage.embeddings.Embeddings.open`): X float32 `[cells, width]`, unit rows in
    the order of the store, rows of NaN for cells without tokens; obs of the store and `n_tokens`. Its lineage
    names the fingerprint of the whole joint model under `model`. A killed run resumes; a finished one does
    nothing. Raises InputError as `Inputs.open` does, and for a model that is not joint.
    """
    inputs = Inputs.open(cells, joint, max_cells)
    product = joint_product(inputs.model)
    encoding = encode(
        inputs,
        product,
        Location.of(output),
        recipe=Recipe(inputs.model.token_limit(max_tokens), precision, seed, batch_tokens),
        workers=workers,
        overwrite=overwrite,
        report=report,
    )
    return encoding, inputs
