"""Gene ids: versions, missing ids, duplicates, tables of symbols, unions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storage.errors import InputError
from storage.gene_tables import GeneTable
from storage.genes import find_id_column, is_ensembl_id, resolve, union_of_genes, without_version

HGNC = (
    "hgnc_id\tsymbol\tname\talias_symbol\tprev_symbol\tensembl_gene_id\n"
    "HGNC:1\tTP53\ttumor protein p53\tp53|LFS1\t\tENSG00000141510\n"
    "HGNC:2\tSEPTIN2\tseptin 2\tDIFF6|SHARED\tNEDD5|SEPT2\tENSG00000168385\n"
    "HGNC:3\tMARCHF1\tE3 ligase\tSHARED\tMARCH1\tENSG00000145416\n"
)


def var(ids: list[str], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"ensembl_id": ids, "biotype": ["coding"] * len(ids)}, index=names)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("ENSG00000000003.15", "ENSG00000000003"),
        ("ENSMUSG00000051951", "ENSMUSG00000051951"),
        ("ENSG00000182378.14_PAR_Y", "ENSG00000182378"),
        ("ENSGR0000182378", "ENSGR0000182378"),
        ("RP11-34P13.3", "RP11-34P13.3"),
        ("AC000001.1", "AC000001.1"),
    ],
)
def test_only_ensembl_ids_lose_their_suffix(name: str, plain: str) -> None:
    assert without_version(name) == plain
    assert is_ensembl_id(name) == name.startswith("ENS")


def test_id_column_is_found_by_its_values() -> None:
    frame = var(["ENSG00000000003", "ENSG00000000005"], ["TSPAN6", "TNMD"])
    assert find_id_column(frame) == "ensembl_id"
    assert find_id_column(frame.rename(columns={"ensembl_id": "Gene_IDs"})) == "Gene_IDs"
    assert find_id_column(frame.set_index("ensembl_id")) == "index"
    assert find_id_column(frame.drop(columns="ensembl_id").assign(gene_ids=["TSPAN6", "TNMD"])) is None


def test_store_var_keeps_columns_and_names() -> None:
    genes = resolve(var(["ENSG00000000003.15", ""], ["TSPAN6", "LOC1"]), "ensembl_id")
    assert genes.var.index.tolist() == ["ENSG00000000003", "LOC1"]
    assert genes.var["gene_name"].tolist() == ["TSPAN6", "LOC1"]
    assert genes.var["ensembl_id"].tolist() == ["ENSG00000000003.15", ""]
    assert genes.var.columns.tolist() == ["ensembl_id", "biotype", "gene_name"]
    assert (genes.report.n_missing, genes.report.n_versions_stripped, genes.report.n_merged) == (1, 1, 0)


def test_columns_of_one_gene_are_merged_and_counted() -> None:
    genes = resolve(var(["ENSG01.1", "ENSG02", "ENSG01.2", ""], list("abcd")), "ensembl_id")
    assert genes.of_column.tolist() == [0, 1, 0, 2]
    assert genes.var["gene_name"].tolist() == ["a", "b", "d"]
    assert (genes.report.n_merged, genes.report.n_exact_duplicates) == (1, 0)
    assert "ENSG01 x2" in genes.report.text()


def test_hgnc_table_maps_symbols_previous_symbols_and_aliases(tmp_path: Path) -> None:
    path = tmp_path / "hgnc_complete_set.txt"
    path.write_text(HGNC)
    table = GeneTable.read(path)
    assert table.find(["TP53"]) == ("ENSG00000141510", "symbol")
    assert table.find(["MARCH1"]) == ("ENSG00000145416", "previous")
    assert table.find(["p53"]) == ("ENSG00000141510", "alias")
    assert table.find(["SHARED"]) == ("", "ambiguous")
    assert table.find(["nothing", "SEPT2"]) == ("ENSG00000168385", "previous")
    assert table.find(["tp53"]) == ("", "unmatched")

    frame = pd.DataFrame(index=["SEPT2", "SEPTIN2", "TP53", "ENSG00000145416.3", "GFP"])
    genes = resolve(frame, None, table)
    assert genes.var.index.tolist() == ["ENSG00000168385", "ENSG00000141510", "ENSG00000145416", "GFP"]
    assert genes.of_column.tolist() == [0, 0, 1, 2, 3]
    assert genes.report.by_table == {"previous": 1, "symbol": 2, "ensembl_id": 1, "unmatched": 1}
    assert genes.report.unmatched_examples == ["GFP"]


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet", ".tsv.gz"])
@pytest.mark.parametrize("header", [True, False])
def test_two_column_tables(tmp_path: Path, suffix: str, header: bool) -> None:
    frame = pd.DataFrame({"any": ["TP53", "TNMD"], "thing": ["ENSG00000141510.4", "ENSG00000000005"]})
    path = tmp_path / f"genes{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False, header=header)
    assert GeneTable.read(path).find(["TP53"]) == ("ENSG00000141510", "symbol")


def test_table_without_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genes.csv"
    path.write_text("symbol,length\nTP53,100\n")
    with pytest.raises(InputError, match="no Ensembl id and symbol columns"):
        GeneTable.read(path)
    with pytest.raises(InputError, match="does not exist"):
        GeneTable.read(tmp_path / "absent.tsv")


def test_union_keeps_first_appearance_and_maps_each_file() -> None:
    one, two = (resolve(frame, "ensembl_id").var for frame in (
        var(["ENSG02", "ENSG01"], ["b", "a"]), var(["ENSG03", "ENSG01"], ["c", "A"])
    ))  # fmt: skip
    union, (first, second) = union_of_genes([one, two])
    assert union.index.tolist() == ["ENSG02", "ENSG01", "ENSG03"]
    assert union["gene_name"].tolist() == ["b", "a", "c"]
    assert np.array_equal(first, [0, 1])
    assert np.array_equal(second, [2, 1])
