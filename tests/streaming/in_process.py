"""The stages one after the other in this process: what a product makes, without the cost of a Ray run."""

from pathlib import Path

import xxhash

from engine.streaming.encoders import Assignment, EncodeMembers, OwnReading
from engine.streaming.inputs import Inputs
from engine.streaming.members import Member
from engine.streaming.products.product import Product, Source
from engine.streaming.recipe import Recipe
from engine.streaming.replicas import EncoderSpec
from engine.streaming.run import plan
from engine.streaming.sink import commit
from engine.streaming.source import one_row
from storage.commits import Snapshot
from storage.locations import Location


def encode_here(inputs: Inputs, product: Product, output: Path, recipe: Recipe) -> Snapshot:
    dataset = plan(inputs, product, recipe, Location.of(output))
    reading = OwnReading(inputs.store, recipe.max_tokens, recipe.seed)
    spec = EncoderSpec(
        inputs.model.path,
        recipe.precision,
        recipe.batch_tokens,
        threads=1,
        device="cpu",
        drug_token=inputs.model.drug_token,
    )
    encoder = EncodeMembers(spec, Assignment(dataset, product, "test", courteous=True), reading)
    for member in dataset.pending():
        for row in encoder(one_row(Member.of(member))):
            commit(row["encoded"][0])
    return product.finish(dataset, Source(inputs.store, inputs.n_cells, inputs.model.tokeniser))


def hashes(output: Path) -> dict[str, str]:
    """Of every object of a dataset: what a run says about itself (times, memory) is not part of it."""
    return {
        path.relative_to(output).as_posix(): xxhash.xxh3_128_hexdigest(path.read_bytes())
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }
