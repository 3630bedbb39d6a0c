"""Memory of an ingest does not grow with the file: measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

N_GENES, NNZ_PER_CELL = 20_000, 2_000

# Not ru_maxrss: Linux carries it over exec, so that it would be the peak of the test process.
MEASURE = """
import json, sys
from pathlib import Path
from storage.ingest import ingest
snapshot = ingest([sys.argv[1]], sys.argv[2])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([snapshot.facts["nnz"], int(peak.split()[1]) * 1024]))
"""


def write_cells(path: Path, n_cells: int, layout: str) -> Path:
    """Cells x 20,000 genes with 2,000 counts each, written in pieces: 16 MB per 1,000 cells in memory."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as root:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        genes, cells = (
            [f"{prefix}{i:011d}" for i in range(n)] for prefix, n in (("ENSG", N_GENES), ("c", n_cells))
        )
        anndata.io.write_elem(root, "var", pd.DataFrame(index=genes))
        anndata.io.write_elem(root, "obs", pd.DataFrame(index=cells))
        group = root.create_group("X")
        group.attrs.update({"encoding-type": f"{layout}_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([n_cells, N_GENES])
        n_major, n_minor = (n_cells, N_GENES) if layout == "csr" else (N_GENES, n_cells)
        per_major = n_cells * NNZ_PER_CELL // n_major
        group["indptr"] = np.arange(n_major + 1, dtype=np.int64) * per_major
        data = group.create_dataset("data", (n_cells * NNZ_PER_CELL,), "f4", chunks=(1 << 16,))
        indices = group.create_dataset("indices", (n_cells * NNZ_PER_CELL,), "i4", chunks=(1 << 16,))
        step = n_minor // per_major
        for start in range(0, n_major, 500):
            stop = min(start + 500, n_major)
            values = rng.geometric(0.5, (stop - start) * per_major)
            minor = np.arange(per_major) * step + rng.integers(0, step, (stop - start, per_major))
            data[start * per_major : stop * per_major] = values
            indices[start * per_major : stop * per_major] = minor.ravel()
    return path


def peak_bytes(path: Path, output: Path) -> int:
    command = [sys.executable, "-c", MEASURE, str(path), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    nnz, peak = json.loads(done.stdout)
    assert nnz > 0
    return int(peak)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_peak_memory_does_not_grow_with_the_file(tmp_path: Path, layout: str) -> None:
    small = peak_bytes(write_cells(tmp_path / "small.h5ad", 2_500, layout), tmp_path / "small")
    large = peak_bytes(write_cells(tmp_path / "large.h5ad", 20_000, layout), tmp_path / "large")
    # The counts of the large file take 280 MB more than those of the small one (8 bytes each); what may grow
    # is the one compressed shard of each array, 2 bytes a count at most.
    assert large - small < 100 << 20
    assert large < 600 << 20
