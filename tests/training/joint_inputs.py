"""Real blood cells of two donors as a cell store, a small encoder for their genes, its embeddings of them."""

from pathlib import Path

import anndata
import numpy as np
import pytest

N_CELLS = 400
WORDS = ["b", "cd4", "cd8", "cd14", "fc", "##gr3", "##a", "t", "cell", "mono", "##cyte", "+", "from", "beta"]


@pytest.fixture(scope="session")
def donor_cells(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 400 cells of the donors 101 and 107 (Kang et al. 2018), five cell types."""
    from storage.ingest import ingest

    folder = tmp_path_factory.mktemp("donors")
    whole = anndata.read_h5ad(shared / "data" / "pbmc_lupus_ifnb_kang.h5ad")
    rows = np.sort(np.random.default_rng(0).choice(whole.n_obs, N_CELLS, replace=False))
    whole[rows].copy().write_h5ad(folder / "cells.h5ad")
    ingest([str(folder / "cells.h5ad")], str(folder / "store"))
    return str(folder / "store")


@pytest.fixture(scope="session")
def cell_tower(donor_cells: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained two-layer Geneformer that ranks genes against their medians in these cells."""
    from engine import models
    from engine.models import geneformer
    from storage.cells import CellStore

    store = CellStore.open(donor_cells)
    counts = store.read(0, store.n_cells).to_csr()
    per_10k = counts.multiply(1e4 / counts.sum(1)).tocsc()
    medians = {
        gene: float(np.median(column)) if len(column := per_10k[:, i].data) else 0.0
        for i, gene in enumerate(store.genes.index)
    }
    directory = tmp_path_factory.mktemp("cell_tower")
    sizes = {"n_layers": 2, "d_model": 32, "n_heads": 2, "ffn": 32, "max_tokens": 96}
    models.save(geneformer.create(list(medians), medians, special_tokens=False, **sizes), directory)  # type: ignore[arg-type]
    return str(directory)


@pytest.fixture(scope="session")
def text_tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT for the words of these cells' labels."""
    import torch
    from transformers import BertConfig, BertModel

    directory = tmp_path_factory.mktemp("text_tower")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS) + 5, **sizes)).save_pretrained(directory)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    return str(directory)


@pytest.fixture(scope="session")
def cell_features(donor_cells: str, cell_tower: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tower's embeddings of the cells."""
    from engine.streaming.inputs import Inputs
    from engine.streaming.products.embeddings import EmbeddingProduct
    from engine.streaming.recipe import Recipe
    from tests.streaming.in_process import encode_here

    inputs = Inputs.open(donor_cells, cell_tower)
    output = tmp_path_factory.mktemp("features") / "cells"
    product = EmbeddingProduct(inputs.model.layer(None), inputs.model.default_pool)
    encode_here(inputs, product, output, Recipe(inputs.model.token_limit(None)))
    return str(output)
