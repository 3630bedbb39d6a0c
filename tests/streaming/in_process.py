"""The fused stages run one after the other in this process: what a product makes, without the cost of a Ray run."""

from functools import partial
from pathlib import Path

from engine.streaming.encoders import Assignment, EncodeMembers, EncoderSpec
from engine.streaming.inputs import Inputs
from engine.streaming.members import Member
from engine.streaming.pipeline import read_and_tokenise
from engine.streaming.products.product import Product, Source
from engine.streaming.recipe import Recipe
from engine.streaming.run import plan
from engine.streaming.sink import commit
from engine.streaming.source import one_row
from storage.commits import Snapshot
from storage.locations import Location


def encode_here(inputs: Inputs, product: Product, output: Path, recipe: Recipe) -> Snapshot:
    dataset = plan(inputs, product, recipe, Location.of(output))
    feed = partial(read_and_tokenise, inputs.store, inputs.tokeniser(recipe.max_tokens, recipe.seed))
    spec = EncoderSpec(inputs.model.path, recipe.precision, recipe.batch_tokens, threads=1, device="cpu")
    encoder = EncodeMembers(spec, Assignment(dataset, product, "test", courteous=True), feed)
    for member in dataset.pending():
        for row in encoder(one_row(Member.of(member))):
            commit(row["encoded"][0])
    return product.finish(dataset, Source(inputs.store, inputs.n_cells, inputs.model.tokeniser))
