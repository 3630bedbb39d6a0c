"""Geneformer V1-12L and V2-104M: our stream against BertForMaskedLM as the official extractor uses it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

from engine import models
from engine.models import Tokens, geneformer
from engine.streaming.members import Member
from engine.streaming.products.embeddings import EmbeddingProduct
from tests.benchmarks.cpu_time import cpu_seconds_in_turns
from tests.benchmarks.encoding.packed import steps
from tests.benchmarks.encoding.real_cells import SHARED, few_cells, real_cells
from tests.benchmarks.report import Figure, main

ABOUT = """Cells per CPU-second through two Geneformer architectures with random weights and the official
vocabularies, float32, one thread, from tokens to cell embeddings of the second-to-last layer (V1: mean over
genes; V2: <cls>). Theirs is transformers' BertForMaskedLM as the official extractor calls it: cells longest
first in padded batches of 100, all hidden states, prediction head computed. Both run every fifth cell of the
fifth of the eight batches that pbmc_facs_garnett (800 cells, whole transcriptome) makes when it is so sorted,
which theirs pads to the longest of the 100: what a row costs does not depend on how many there are."""

BATCH, EVERY = 100, 5
VERSIONS = {"V1-12L": ("V1-40M", "v1", "mean", 1.5), "V2-104M": ("V2-104M", "v2", "cls", 1.3)}


class Extractor:
    """The official extraction of one batch; embeddings holds its result."""

    def __init__(self, directory: Path, tokens: Tokens, longest: int, pool: str) -> None:
        self.bert = transformers.BertForMaskedLM.from_pretrained(directory, output_hidden_states=True).eval()
        self.tokens, self.longest, self.pool = tokens, longest, pool

    @torch.no_grad()
    def steps(self) -> Iterator[None]:
        yield  # after the first of our batches, as that one warms up the libraries
        lengths_C = torch.from_numpy(self.tokens.lengths)
        valid_CS = torch.arange(self.longest)[None] < lengths_C[:, None]
        ids_CS = torch.zeros(valid_CS.shape, dtype=torch.long)
        ids_CS[valid_CS] = torch.from_numpy(self.tokens.ids_T.astype(np.int64))
        x_CSD = self.bert(input_ids=ids_CS, attention_mask=valid_CS.long()).hidden_states[-2]
        if self.pool == "cls":
            self.embeddings = x_CSD[:, 0].numpy()
        else:
            self.embeddings = ((x_CSD * valid_CS[..., None]).sum(1) / lengths_C[:, None]).numpy()


def create(version: str, smoke: bool) -> tuple[geneformer.GeneformerEncoder, Tokens]:
    """The architecture with random weights, and the tokens of one of the extractor's batches, sorted."""
    preset, dictionary, _, _ = VERSIONS[version]
    counts, genes = few_cells() if smoke else real_cells("pbmc_facs_garnett.h5ad")
    sizes: dict[str, Any] = {"preset": preset}
    medians = dict.fromkeys(genes, 1.0)
    if smoke:
        sizes |= {"n_layers": 3, "d_model": 64, "n_heads": 2, "ffn": 128}
    else:
        table = pd.read_parquet(f"{SHARED}/golden/geneformer_dicts/{dictionary}_gene_median.parquet")
        medians = dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))
    encoder = geneformer.create(list(medians), medians, **sizes).eval()
    match = encoder.tokeniser.match(genes)
    tokens = encoder.tokeniser.tokenise(counts.indptr, counts.indices, counts.data, match)
    longest_first = np.argsort(-tokens.lengths, kind="stable")
    batches = [longest_first[start : start + BATCH] for start in range(0, tokens.n_cells, BATCH)]
    return encoder, tokens.select(batches[len(batches) // 2])


def compare(version: str, directory: Path, smoke: bool) -> list[Figure]:
    encoder, batch = create(version, smoke)
    tokens = batch.select(range(0, batch.n_cells, EVERY))
    _, _, pool, target = VERSIONS[version]
    models.save(encoder, directory)
    extractor = Extractor(directory, tokens, int(batch.lengths.max()), pool)
    product = EmbeddingProduct(encoder.n_layers - 2, pool)
    collector = product.collect(encoder, tokens, Member("0", 0, tokens.n_cells))
    spent = cpu_seconds_in_turns({"ours": steps(encoder, tokens, collector), "theirs": extractor.steps()})
    ours, theirs = tokens.n_cells / spent["ours"], tokens.n_cells / spent["theirs"]
    return [
        Figure.ratio(f"{version} cell embeddings", ours, theirs, "BertForMaskedLM, cells per CPU-s", target),
        Figure(
            name=f"{version} largest difference",
            value=float(np.abs(collector.e_CD - extractor.embeddings).max()),
            unit="absolute",
            target=1e-4,
            better="lower",
            ours=float(np.abs(collector.e_CD).max()),
            theirs=float(np.abs(extractor.embeddings).max()),
            theirs_is="largest value",
        ),
    ]


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    torch.set_num_threads(1)
    return [figure for version in VERSIONS for figure in compare(version, scratch / version, smoke)]


if __name__ == "__main__":
    raise SystemExit(main("encode_geneformer", ABOUT, measure))
