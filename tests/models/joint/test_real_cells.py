"""Real blood cells: heads on frozen towers, both with random weights, find held-out cells by their label."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from transformers import BertConfig, BertModel

from engine.models import geneformer, joint
from engine.models.encoder import Encoder

TRAINED = 350  # cells; the other half is held out


def tower_for(cells: anndata.AnnData) -> Encoder:
    """A random Geneformer for the cells' own genes, ranked against their non-zero medians."""
    per_10k = cells.X.multiply(1e4 / cells.X.sum(1)).tocsc()
    medians = {
        gene: float(np.median(column)) if len(column := per_10k[:, i].data) else 0.0
        for i, gene in enumerate(cells.var["ensembl_id"])
    }
    sizes = {"n_layers": 2, "d_model": 64, "n_heads": 4, "ffn": 64, "max_tokens": 256}
    return geneformer.create(list(medians), medians, special_tokens=False, **sizes).eval()  # type: ignore[arg-type]


def text_tower_for(texts: list[str], directory: Path) -> joint.TextTower:
    """A random BERT for the words of these texts."""
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    return joint.load_text_tower(directory, pool="mean")


def test_held_out_cells_are_found_by_their_label(shared: Path, tmp_path: Path) -> None:
    cells = anndata.read_h5ad(shared / "data" / "pbmc68k_reduced.h5ad")
    order = np.random.default_rng(0).permutation(cells.n_obs)
    labels, of_cell = np.unique(cells.obs["cell_type"].astype(str).to_numpy()[order], return_inverse=True)
    asked = joint.prompts(list(labels), "validation")
    model = joint.create(tower_for(cells), text_tower_for(asked, tmp_path), width=32, head="residual")
    joint.lock(model, "LL")
    tokeniser, counts = model.cell_tower.tokeniser, cells.X[order]
    match = tokeniser.match(list(cells.var["ensembl_id"]))
    tokens = tokeniser.tokenise(counts.indptr, counts.indices, counts.data, match)
    cell_features = model.cell_features(tokens)
    text_features = model.text_features(model.text_tower.tokenise(asked))

    module = joint.TrainingModule(model, joint.ObjectiveOptions()).train()
    optimizer = torch.optim.Adam([part for part in module.parameters() if part.requires_grad], lr=3e-3)
    label_B = torch.as_tensor(of_cell[:TRAINED])
    batch = {
        "cell_features_BD": cell_features[:TRAINED],
        "text_features_BD": text_features[label_B],
        "captions_B": label_B,
    }
    for _ in range(140):  # half as many, and the heads' running statistics lag behind their weights
        optimizer.zero_grad()
        module(batch).loss.backward()
        optimizer.step()
    model.eval()

    held_out = of_cell[TRAINED:]
    scores_TC = joint.scores(model.embed_texts(asked), model.embed_cells(tokens.select(range(TRAINED, 700))))
    right = scores_TC.argmax(0).numpy() == held_out
    best_cell = held_out[scores_TC.argmax(1).numpy()]
    common = pd.Series(of_cell[:TRAINED]).value_counts()
    assert right.mean() > common.iloc[0] / TRAINED + 0.15  # above naming the most common label every time
    assert (best_cell[common.index[:4]] == common.index[:4]).sum() >= 3
