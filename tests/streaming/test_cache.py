"""The job `cache` on Ray, and what it refuses."""

import shutil
from collections import namedtuple

import pytest

from jobs import cache
from storage.activations import ActivationCache
from storage.errors import InputError, LineageMismatch
from tests.streaming.in_process import hashes


def options(store, model, output, **more):
    chosen = {"hooks": "resid_post_0,final", "tokens_per_cell": 16, "shard_tokens": 1024, "actors": 2} | more
    return cache.Options(cells=str(store), model=str(model), output=str(output), **chosen)


@pytest.fixture(scope="module")
def finished(tahoe_model, small_store, tmp_path_factory, ray_cluster):
    output = tmp_path_factory.mktemp("cache") / "out"
    return output, cache.run(options(small_store, tahoe_model, output))


def test_what_the_job_reports(finished):
    output, outcome = finished
    stored = ActivationCache.open(str(output))
    assert outcome.counts_out["tokens"] == stored.n_tokens == 299 * 16
    assert outcome.counts_out["bytes"] == stored.snapshot.size
    assert outcome.facts["members"] == len(stored.members) == 5
    assert outcome.facts["expected_tokens"] == pytest.approx(stored.n_tokens, rel=0.05)
    assert outcome.facts["expected_bytes"] == pytest.approx(stored.snapshot.size, rel=0.2)
    assert outcome.lineage == stored.snapshot.lineage_id


def test_a_finished_job_does_nothing(finished, small_store, tahoe_model):
    output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert not cache.run(options(small_store, tahoe_model, output, actors=1)).did_work
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_a_resume_redoes_only_what_is_missing(finished, small_store, tahoe_model, tmp_path):
    output, _ = finished
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "out" / "_log" / "snapshot-00000001.json").unlink()
    (tmp_path / "out" / "_log" / "member-000002.json").unlink()
    (tmp_path / "out" / "final" / "000002.safetensors").unlink()
    outcome = cache.run(options(small_store, tahoe_model, tmp_path / "out"))
    assert outcome.facts["members_resumed"] == 4
    assert hashes(tmp_path / "out") == hashes(output)


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"hooks": "final"}, {"tokens_per_cell": 17}, {"max_tokens": 100}, {"precision": "fp32"}],
)
def test_another_lineage_is_refused_with_both_printed(other, finished, small_store, tahoe_model):
    output, outcome = finished
    with pytest.raises(LineageMismatch) as refused:
        cache.run(options(small_store, tahoe_model, output, **other))
    assert "on disk" in str(refused.value)
    assert "asked for" in str(refused.value)
    assert ActivationCache.open(str(output)).snapshot.lineage_id == outcome.lineage


def test_exit_code_of_another_lineage(finished, small_store, tahoe_model, capsys):
    output, _ = finished
    flags = ["--cells", small_store, "--model", tahoe_model, "--hooks", "embed", "--output", output]
    assert cache.main([str(flag) for flag in flags]) == 2
    message = capsys.readouterr().err
    assert "resid_post_0" in message
    assert "embed" in message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hooks": "resid_post_7"}, "resid_post_7"),
        ({"hooks": ","}, "--hooks"),
        ({"max_tokens": 2}, "--max-tokens 2"),
    ],
)
def test_impossible_options_write_nothing(more, message, small_store, tahoe_model, tmp_path):
    with pytest.raises(InputError, match=message):
        cache.run(options(small_store, tahoe_model, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


def test_a_cache_without_room_is_refused_before_anything_is_written(
    small_store, tahoe_model, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("engine.streaming.sizing.shutil.disk_usage", lambda path: usage(10**9, 10**9, 10_000))
    with pytest.raises(InputError, match="are free"):
        cache.run(options(small_store, tahoe_model, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
