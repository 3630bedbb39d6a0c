"""Real blood cells, a small joint model that was trained on half of them, and an index of all."""

from pathlib import Path

import anndata
import numpy as np
import torch
from transformers import BertConfig, BertModel

from engine.models import geneformer, joint
from engine.retrieval.build import IndexOptions, Source, build
from engine.retrieval.texts import describe_joint
from engine.streaming.inputs import Inputs
from engine.streaming.joint_embeddings import joint_product
from engine.streaming.recipe import Recipe
from storage.index import VectorIndex
from storage.ingest import ingest
from storage.locations import Location
from tests.streaming.in_process import encode_here

WIDTH = 32
WORDS = (
    "cell cells t b cd4 cd8 + naive memory natural killer monocyte dendritic platelet cd14 fcgr3a a of the "
    "sample activated and from blood not plasma liver"
)


def text_directory(directory: Path) -> Path:
    """A random BERT for the words above."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    return directory


def trained_joint(cells: anndata.AnnData, directory: Path) -> None:
    """A joint model of random towers whose heads have learned the cells' types from every other cell."""
    counts, genes = cells.X.tocsr(), list(cells.var["ensembl_id"])
    per_10k = counts.multiply(1e4 / np.maximum(counts.sum(1), 1)).tocsc()
    medians = [
        float(np.median(column)) if len(column := per_10k[:, i].data) else 0.0 for i in range(len(genes))
    ]
    sizes = {"n_layers": 2, "d_model": 32, "n_heads": 2, "ffn": 32, "max_tokens": 128}
    tower = geneformer.create(genes, dict(zip(genes, medians, strict=True)), special_tokens=False, **sizes)
    texts = joint.load_text_tower(text_directory(directory / "bert"), pool="mean")
    model = joint.create(tower.eval(), texts, width=WIDTH, dims=(16, WIDTH), head="residual")
    joint.lock(model, "LL")
    labels, of_cell = np.unique(cells.obs["cell_type"].astype(str), return_inverse=True)
    match = model.cell_tower.tokeniser.match(genes)
    tokens = model.cell_tower.tokeniser.tokenise(counts.indptr, counts.indices, counts.data, match)
    features = model.cell_features(tokens)
    of_text = model.text_features(model.text_tower.tokenise([str(label) for label in labels]))
    learned = np.flatnonzero(np.isfinite(features[:, 0].numpy()))[::2]
    label_B = torch.as_tensor(of_cell[learned])
    batch = {
        "cell_features_BD": features[learned],
        "text_features_BD": of_text[label_B],
        "captions_B": label_B,
    }
    module = joint.TrainingModule(model, joint.ObjectiveOptions()).train()
    optimizer = torch.optim.Adam([part for part in module.parameters() if part.requires_grad], lr=3e-3)
    for _ in range(140):
        optimizer.zero_grad()
        module(batch).loss.backward()
        optimizer.step()
    joint.save(model.eval(), directory / "joint")


def index_of(store: Path, joint_directory: Path, folder: Path) -> VectorIndex:
    """The cells of a store, embedded in this process, in two segments."""
    inputs = Inputs.open(str(store), str(joint_directory))
    encode_here(inputs, joint_product(inputs.model), folder / "embeddings", Recipe(128))
    source = Source.open(str(folder / "embeddings"), None, None)
    options = IndexOptions(short_width=16, segment_cells=-(-source.n_cells // 2))
    known = describe_joint(str(joint_directory))
    return build(source, Location.of(folder / "index"), options, joint=known)[0]


def stored(cells: anndata.AnnData, folder: Path) -> Path:
    cells.write_h5ad(folder / "cells.h5ad")
    ingest([str(folder / "cells.h5ad")], str(folder / "store"))
    return folder / "store"
