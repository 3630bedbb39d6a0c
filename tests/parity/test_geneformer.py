"""Geneformer against the reference's outputs (shared/golden/geneformer) and against transformers' BERT."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
import transformers

from engine import models
from engine.models import geneformer
from engine.models.geneformer.tokenise import GeneformerTokeniser
from engine.models.layers.pooling import gene_sums
from tests.parity.golden import assert_close, packed_tokens, padded, table, tokenised

TOLERANCE = 2e-5
TOKENISED = [("v1", "v1_tokenize", 2048), ("v2", "v2_tokenize_small", 4096)]


class Tiny:
    """The golden V1-style model with its dictionaries beside it, its cells in the reference's order."""

    def __init__(self, shared: Path, directory: Path) -> None:
        self.source = shared / "golden" / "geneformer" / "tiny_model_v1"
        files = [*self.source.glob("*_dictionary.json"), *(self.source / "model").iterdir()]
        for file in files:
            shutil.copyfile(file, directory / file.name)
        self.encoder = models.load(directory)
        self.expected = np.load(self.source / "expected.npz")
        self.valid_CS = self.expected["attention_mask"] > 0
        ids_CS = self.expected["input_ids"]
        self.tokens = packed_tokens(ids_CS, np.zeros(ids_CS.shape, np.float32), self.valid_CS)
        self.cell_types = ["alpha", "beta", "alpha", "beta", "gamma", "gamma", "alpha", "beta", "beta"]


@pytest.fixture
def tiny(shared: Path, tmp_path: Path) -> Tiny:
    return Tiny(shared, tmp_path)


def test_tokens_of_the_tiny_model(tiny: Tiny) -> None:
    tokens = tokenised(tiny.source / "counts.h5ad", tiny.encoder.tokeniser)
    cell_ids = list(anndata.read_h5ad(tiny.source / "counts.h5ad").obs["cell_id"])
    tokens = tokens.select([cell_ids.index(cell) for cell in tiny.expected["cell_id"]])
    np.testing.assert_array_equal(tokens.lengths, tiny.expected["length"])
    np.testing.assert_array_equal(tokens.ids_T, tiny.expected["input_ids"][tiny.valid_CS])


def test_hidden_states(tiny: Tiny) -> None:
    hooks = ("embed", "resid_post_0", "resid_post_1", "resid_post_2", "final")
    with torch.no_grad():
        states = tiny.encoder(tiny.tokens, hooks).hooks
    for number, hook in enumerate(hooks[:4]):
        assert_close(padded(states[hook], tiny.valid_CS), tiny.expected[f"hidden_{number}"], TOLERANCE)
    assert torch.equal(states["final"], states["resid_post_2"])


@pytest.mark.parametrize(("layer", "golden"), [(None, "-1"), (1, "-1"), (-2, "-1"), (2, "0"), (-1, "0")])
def test_cell_embeddings(tiny: Tiny, layer: int | None, golden: str) -> None:
    assert_close(
        tiny.encoder.embed(tiny.tokens, layer=layer), tiny.expected[f"cell_emb_layer{golden}"], TOLERANCE
    )


@pytest.mark.parametrize(("hook", "golden"), [("resid_post_1", "-1"), ("final", "0")])
def test_gene_embeddings(tiny: Tiny, hook: str, golden: str) -> None:
    with torch.no_grad():
        x_TD = tiny.encoder(tiny.tokens, (hook,)).hooks[hook]
    tokeniser = tiny.encoder.tokeniser
    sum_VD, count_V = gene_sums(x_TD, tiny.tokens.ids_T, len(tokeniser.gene_ids))
    rows = [tokeniser.vocabulary[gene] for gene in tiny.expected["gene_emb_index"]]
    found = (sum_VD / count_V[:, None])[rows]
    assert_close(found, tiny.expected[f"gene_emb_layer{golden}"], TOLERANCE)


def test_masked_gene_logits(tiny: Tiny) -> None:
    with torch.no_grad():
        logits_TV = tiny.encoder(tiny.tokens, (), predictions=True).predictions["logits"]
    last = int(tiny.tokens.layout.offsets[-2])
    assert_close(logits_TV[:8], tiny.expected["mlm_logits_cell0_first8"], TOLERANCE)
    assert_close(logits_TV[last : last + 8], tiny.expected["mlm_logits_last_cell_first8"], TOLERANCE)


@pytest.mark.parametrize("state", ["alpha", "beta"])
def test_state_embeddings(tiny: Tiny, state: str) -> None:
    """Mean cell embedding of a cell state, the goal of an in silico perturbation."""
    e_CD = tiny.encoder.embed(tiny.tokens)
    of_state = torch.tensor([cell_type == state for cell_type in tiny.cell_types])
    assert_close(e_CD[of_state].mean(0), tiny.expected[f"state_{state}"], TOLERANCE)


@pytest.fixture(params=TOKENISED, ids=["V1", "V2"])
def golden_cells(request: pytest.FixtureRequest, shared: Path) -> tuple[GeneformerTokeniser, Path]:
    version, folder, max_tokens = request.param
    dictionaries = shared / "golden" / "geneformer_dicts"
    tokens, medians, mapping = (
        table(dictionaries / f"{version}_{kind}.parquet")
        for kind in ("token_dictionary", "gene_median", "ensembl_mapping")
    )
    tokeniser = GeneformerTokeniser(tokens, medians, mapping, max_tokens)
    return tokeniser, shared / "golden" / "geneformer" / folder


def test_tokens_as_the_reference_crops_them(golden_cells: tuple[GeneformerTokeniser, Path]) -> None:
    tokeniser, folder = golden_cells
    expected = np.load(folder / "expected.npz")
    tokens = tokenised(folder / "counts.h5ad", tokeniser, keep="filter_pass")
    np.testing.assert_array_equal(tokens.lengths, expected["length"])
    np.testing.assert_array_equal(tokens.offsets, expected["offsets"])
    np.testing.assert_array_equal(tokens.ids_T, expected["input_ids"])


def test_uncropped_tokens_with_canonical_ties(golden_cells: tuple[GeneformerTokeniser, Path]) -> None:
    tokeniser, folder = golden_cells
    expected = np.load(folder / "expected.npz")
    tokens = tokenised(folder / "counts.h5ad", tokeniser, keep="filter_pass", max_tokens=100_000)
    genes_T = tokens.ids_T[tokeniser.token_classes[tokens.ids_T] == 0]
    np.testing.assert_array_equal(genes_T, expected["uncropped_ids_canonical_ties"])
    n_specials = 2 if tokeniser.has_specials else 0
    np.testing.assert_array_equal(tokens.lengths - n_specials, np.diff(expected["uncropped_offsets"]))
    # The reference's own order agrees up to ties.
    group_T = expected["tie_group"]
    cell_T = np.repeat(np.arange(tokens.n_cells), np.diff(expected["uncropped_offsets"]))
    order = np.lexsort((expected["uncropped_ids"], group_T, cell_T))
    ours = np.lexsort((genes_T, group_T, cell_T))
    np.testing.assert_array_equal(expected["uncropped_ids"][order], genes_T[ours])


def test_whole_model_against_transformers(tmp_path: Path) -> None:
    """A V2-style model with random weights: every hidden state and the head, over unequal cells."""
    torch.manual_seed(0)
    genes = [f"ENSG{i:011d}" for i in range(60)]
    medians = {gene: 1.0 + i for i, gene in enumerate(genes)}
    ours = geneformer.create(
        genes, medians, n_layers=3, d_model=24, n_heads=3, ffn=40, max_tokens=50, dropout=0.1, seed=1
    )
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    models.save(ours, tmp_path)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    lengths = [50, 7, 7, 31]
    ids_CS = torch.randint(2, 64, (len(lengths), 50))
    valid_CS = torch.arange(50)[None] < torch.tensor(lengths)[:, None]
    ids_CS[~valid_CS] = 0
    with torch.no_grad():
        expected = theirs(ids_CS, attention_mask=valid_CS.long(), output_hidden_states=True)
    valid = valid_CS.numpy()
    tokens = packed_tokens(ids_CS.numpy(), np.zeros(valid.shape, np.float32), valid)
    hooks = ("embed", "resid_post_0", "resid_post_1", "resid_post_2")
    with torch.no_grad():
        found = models.load(tmp_path)(tokens, hooks, predictions=True)
    for number, hook in enumerate(hooks):
        assert_close(found.hooks[hook], expected.hidden_states[number][valid_CS].numpy(), TOLERANCE)
    assert_close(found.predictions["logits"], expected.logits[valid_CS].numpy(), TOLERANCE)


def test_hooks_inside_a_block_add_up(tiny: Tiny) -> None:
    """attn_out and mlp_out are what is added to the residual stream before each norm."""
    with torch.no_grad():
        states = tiny.encoder(tiny.tokens, tiny.encoder.hook_names).hooks
        block = tiny.encoder.blocks[1]
        middle_TD = block.norm1(states["resid_pre_1"] + states["attn_out_1"])
        after_TD = block.norm2(middle_TD + states["mlp_out_1"])
    assert torch.equal(after_TD, states["resid_post_1"])


def test_saved_again_it_is_the_same_model(tiny: Tiny, tmp_path: Path) -> None:
    models.save(tiny.encoder, tmp_path / "again")
    again = models.load(tmp_path / "again")
    assert again.config == tiny.encoder.config
    assert torch.equal(again.embed(tiny.tokens), tiny.encoder.embed(tiny.tokens))


def test_bfloat16_stays_close(tiny: Tiny, tmp_path: Path) -> None:
    half = models.load(tmp_path, precision="bf16")
    cosine = torch.cosine_similarity(half.embed(tiny.tokens), tiny.encoder.embed(tiny.tokens))
    assert cosine.min() > 0.999
