"""DisGeNET's API, page by page: it has no file to download, and answers only about genes it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake
from engine.interpret.databases.remotes import Remote
from engine.interpret.databases.transfer import Key, Unavailable, fetch, forget
from storage import durable_files

# Genes a request asks about: what clients of the API are written for.
_GENES = 10
_GENE_KINDS = Format(
    "HGNC's gene table", (Layout("54 columns", ("entrez_id", "locus_group")),), quoted=True, comment=""
)


def coding_genes(hgnc: Path) -> list[str]:
    """NCBI ids of the protein-coding genes, in the order of HGNC's table."""
    rows = read_rows(hgnc, _GENE_KINDS, Intake())
    return [ncbi for ncbi, group in rows if ncbi and group == "protein-coding gene"]


def fetch_pages(
    folder: Path, remote: Remote, genes: Sequence[str], key: Key, say: Callable[[str], None]
) -> None:
    """Every page about these genes as a JSON file; pages that are there are not asked for again.

    Raises Unavailable, after which the next run goes on.
    """
    target = folder / remote.name
    durable_files.make_directories(target)
    for first in range(0, len(genes), _GENES):
        asked = genes[first : first + _GENES]
        query = f"gene_ncbi_id={','.join(asked)}&source=CURATED&type=disease"
        for number in _pages(target, f"disgenet_{asked[0]}-{asked[-1]}"):
            page = target / f"disgenet_{asked[0]}-{asked[-1]}_{number:03d}.json"
            if not page.exists():
                _fetch_page(f"{remote.urls[0]}?{query}&page_number={number}", page, key)
        say(f"disgenet: {min(first + _GENES, len(genes)):,} of {len(genes):,} genes")


def _pages(target: Path, name: str) -> Iterator[int]:
    """Numbers of the pages of one question; each is there before the next number is asked for."""
    for number in count():
        yield number
        paging = json.loads((target / f"{name}_{number:03d}.json").read_text()).get("paging", {})
        if (number + 1) * paging.get("pageSize", 100) >= paging.get("totalElements", 0):
            return


def _fetch_page(url: str, page: Path, key: Key) -> None:
    part = page.with_name(page.name + ".part")
    fetch(url, part, key, {"Authorization": key.value})
    try:
        if not isinstance(json.loads(part.read_bytes()).get("payload"), list):
            raise ValueError("no payload")
    except (ValueError, AttributeError) as error:
        forget(part)
        raise Unavailable(f"{url}: not a page of associations ({error})") from None
    durable_files.take_over(part, page)
    forget(part)
