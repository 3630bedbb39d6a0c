import gzip
from pathlib import Path

import pytest

from engine.perturbation.gene_positions import read
from storage.errors import InputError


def test_a_gtf_gives_genes_by_name_and_id_without_those_of_two_places(tmp_path: Path) -> None:
    lines = [
        "#!genome-build GRCh38",
        'chr1\tx\tgene\t1000\t2000\t.\t+\t.\tgene_id "ENSG01.4"; gene_name "A";',
        'chr1\tx\texon\t1000\t1100\t.\t+\t.\tgene_id "ENSG01.4"; gene_name "A";',
        'chrX\tx\tgene\t500\t900\t.\t-\t.\tgene_id "ENSG02.1"; gene_name "P";',
        'chrY\tx\tgene\t500\t900\t.\t-\t.\tgene_id "ENSG03.1"; gene_name "P";',
    ]
    (tmp_path / "a.gtf.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    table = read(str(tmp_path / "a.gtf.gz")).set_index("gene")
    assert sorted(table.index) == ["A", "ENSG01", "ENSG02", "ENSG03"]
    assert table.loc["A"].tolist() == ["chr1", 1000]


def test_a_table_needs_its_three_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("gene,chromosome,start\nA,1,5\n")
    assert read(str(tmp_path / "t.csv")).iloc[0].tolist() == ["A", 1, 5]
    (tmp_path / "u.tsv").write_text("symbol\tchr\nA\t1\n")
    with pytest.raises(InputError, match="gene, chromosome, start"):
        read(str(tmp_path / "u.tsv"))
