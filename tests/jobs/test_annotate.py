"""`annotate` from the command line; and that CELLxGENE opens what it wrote."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import anndata
import pytest

from engine.retrieval.annotation import parts
from jobs.annotate import main
from tests.retrieval.blood import TYPES, Blood, blood, small_counts

__all__ = ["blood", "small_counts"]


def flags(blood: Blood, output: Path, *more: str) -> list[str]:
    given = ["--cells", blood.store, "--joint", blood.joint, "--labels", ",".join(TYPES), "--clusters"]
    return [*given, "--output", str(output), *more]


@pytest.mark.usefixtures("ray_cluster")
def test_from_cells_to_the_file(
    blood: Blood, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "CELLS_FOR_TASKS", 1)  # what many cells go through
    output = tmp_path / "cellxgene.h5ad"
    small = ["--max-cells", "60", "--top-genes", "5", "--landmarks", "16", "--actors", "1"]
    command = flags(blood, output, *small, "--cluster-columns", "cell_type", "--json")
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["counts_out"]["cells"] == 60
    assert record["facts"]["landmarks"] == 16
    found = anndata.read_h5ad(output)
    assert found.shape == (60, 13714)
    assert found.uns["syncytium"]["lineage_id"] == record["lineage"]
    # The embeddings and parts that were made on the way are in the file, and nowhere else.
    assert [path.name for path in tmp_path.iterdir()] == ["cellxgene.h5ad"]
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "--min-confidence", "0.9"]) == 2
    assert "other inputs or options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--labels", "one"], "at least 2"),
        (["--templates", "no place"], "--templates"),
        (["--cluster-columns", "colour"], "no such obs column"),
        (["--landmarks", "2"], "--landmarks"),
        (["--embeddings", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    blood: Blood, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    command = flags(blood, tmp_path / "x.h5ad")
    assert main([*command, *more]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cellxgene_opens_it(blood: Blood, tmp_path: Path) -> None:
    """The real server, from its own environment: $SYNCYTIUM_CELLXGENE, or `cellxgene` on the path."""
    program = os.environ.get("SYNCYTIUM_CELLXGENE") or shutil.which("cellxgene")
    if program is None:
        pytest.skip("needs cellxgene: pip install cellxgene in another environment, set SYNCYTIUM_CELLXGENE")
    output = tmp_path / "cellxgene.h5ad"
    made = ["--embeddings", blood.embeddings, "--cluster-columns", "cell_type", "--landmarks", "16"]
    assert main(flags(blood, output, *made)) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [program, "launch", str(output), "--host", "127.0.0.1", "--port", str(port), "--disable-annotations"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        address = f"http://127.0.0.1:{port}/api/v0.2"
        schema = json.loads(answer(f"{address}/schema", server))["schema"]
        columns = {column["name"]: column for column in schema["annotations"]["obs"]["columns"]}
        assert schema["dataframe"]["nObs"] == 300
        assert schema["layout"]["obs"][0]["name"] == "cellwhisperer_umap"
        assert set(columns["cell_type"]["categories"]) == set(TYPES)
        assert {"leiden", "cluster_label", "cell_type_label", "zero_shot_confidence"} <= set(columns)
        properties = json.loads(answer(f"{address}/config", server))["config"]["corpora_props"]
        assert properties["default_embedding"] == "X_cellwhisperer_umap"
    finally:
        server.terminate()
        server.wait()


def answer(url: str, server: subprocess.Popen) -> bytes:
    """What the server says, once it has loaded the file."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        if server.poll() is not None:
            pytest.fail(f"cellxgene ended: {server.stdout.read().decode()}")
        try:
            with opener.open(url, timeout=60) as response:
                return response.read()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    pytest.fail("cellxgene did not answer in two minutes")
