"""Where genes lie on the genome: a table (gene, chromosome, start) or a GTF annotation."""

from __future__ import annotations

import gzip
import io
import re

import pandas as pd

from storage.errors import InputError
from storage.locations import Location

COLUMNS = ("gene", "chromosome", "start")
_NAME = re.compile(r'gene_name "([^"]+)"')
_ID = re.compile(r'gene_id "([^"]+)"')


def read(path: str) -> pd.DataFrame:
    """gene, chromosome, start (bases, 1-based), one row a gene: by name and, in a GTF, also by id.

    .gtf and .gtf.gz: `gene` features; .parquet, .csv and .tsv (also .gz): the three columns. A name that
    stands at several places in a GTF (pseudo-autosomal genes, repeats) keeps none of them.
    Raises InputError when the file cannot be read or holds no genes.
    """
    try:
        content = Location.of(path).read()
        if path.endswith(".gz"):
            content = gzip.decompress(content)
        stem = path.removesuffix(".gz")
        if stem.endswith(".gtf"):
            table = _gtf(content.decode())
        elif stem.endswith(".parquet"):
            table = pd.read_parquet(io.BytesIO(content))
        else:
            table = pd.read_csv(io.BytesIO(content), sep="," if stem.endswith(".csv") else "\t")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--gene-positions {path}: cannot be read ({error}).") from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"--gene-positions {path}: has no column {', '.join(missing)}; it has "
            f"{', '.join(map(str, table.columns))}. Expected {', '.join(COLUMNS)}, or a GTF file."
        )
    table = table[list(COLUMNS)].drop_duplicates()
    kept = table[~table["gene"].duplicated(keep=False)].reset_index(drop=True)
    if not len(kept):
        raise InputError(f"--gene-positions {path}: holds no gene with one position.")
    return kept


def _gtf(text: str) -> pd.DataFrame:
    rows = []
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) < 9 or fields[2] != "gene":
            continue
        for pattern in (_NAME, _ID):
            found = pattern.search(fields[8])
            if found:
                rows.append((re.sub(r"\.\d+$", "", found[1]), fields[0], int(fields[3])))
    return pd.DataFrame(rows, columns=list(COLUMNS))
