"""Foreign pickles: what is read, what is refused, and that nothing of a pickle ever runs."""

import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import models
from engine.models import tahoe
from engine.models.errors import ModelError, UnsafePickle
from engine.models.foreign import load_dictionary, open_tensors
from engine.models.geneformer.dictionaries import read_dictionaries
from tests.models.small_models import small_geneformer, small_tahoe


class Call:
    """Pickles as a call of `function(*arguments)`, which pickle.load would make."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def malicious(tmp_path: Path) -> list[Any]:
    """Calls that would leave a file behind."""
    import os
    import subprocess

    trace = tmp_path / "executed"
    return [
        Call(os.system, f"touch {trace}"),
        Call(eval, f"open({str(trace)!r}, 'w')"),
        Call(exec, f"open({str(trace)!r}, 'w')"),
        Call(open, str(trace), "w"),
        Call(subprocess.check_call, ["touch", str(trace)]),
        Call(Path.touch, trace),
    ]


@pytest.mark.parametrize("attack", range(6))
def test_a_malicious_dictionary_is_refused_and_nothing_runs(tmp_path: Path, attack: int) -> None:
    file = tmp_path / "token_dictionary_gc95M.pkl"
    file.write_bytes(pickle.dumps({"ENSG1": malicious(tmp_path)[attack]}))
    with pytest.raises(UnsafePickle, match="nothing of it was run"):
        load_dictionary(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("attack", range(6))
@pytest.mark.parametrize("place", ["model", "trainer"])
def test_a_malicious_checkpoint_is_refused_and_nothing_runs(tmp_path: Path, attack: int, place: str) -> None:
    encoder = small_tahoe()
    models.save(encoder, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights: dict[str, Any] = dict(tahoe.checkpoint.KEYS.export(encoder))
    state: dict[str, Any] = {"model": weights, "trainer": 1}
    (weights if place == "model" else state)["extra"] = malicious(tmp_path)[attack]
    torch.save({"state": state}, tmp_path / "best-model.pt")
    with pytest.raises(UnsafePickle, match="nothing of it was run"):
        models.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_malicious_dictionary_beside_a_model_is_refused(tmp_path: Path) -> None:
    models.save(small_geneformer(), tmp_path)
    (tmp_path / "gene_median_dictionary.json").unlink()
    (tmp_path / "gene_median_dictionary_gc95M.pkl").write_bytes(pickle.dumps(malicious(tmp_path)[0]))
    with pytest.raises(UnsafePickle, match=r"gene_median_dictionary_gc95M\.pkl"):
        models.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_trainer_objects_beside_the_weights_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composer pickles its trainer too; those classes need not be installed and never run."""
    module = types.ModuleType("composer.core.time")

    class Timestamp(dict):  # type: ignore[type-arg]
        ran = False

        def __setstate__(self, state: Any) -> None:
            Timestamp.ran = True

    Timestamp.__module__, Timestamp.__qualname__ = module.__name__, "Timestamp"
    module.Timestamp = Timestamp  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "composer", types.ModuleType("composer"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    stamp = Timestamp(epoch=3)
    stamp.batch = 4
    weight = torch.randn(3, 2)
    optimizer = {"exp_avg": torch.randn(5), "betas": (0.9, 0.95), "dtype": torch.bfloat16, "seen": {1, 2}}
    state = {"model": OrderedDict(weight=weight), "timestamp": [stamp], "optimizers": optimizer}
    torch.save(
        {"state": state, "rng": np.random.default_rng(0).bit_generator.state}, tmp_path / "best-model.pt"
    )
    monkeypatch.delitem(sys.modules, module.__name__)
    found = open_tensors(tmp_path / "best-model.pt", inside=("state", "model"))
    assert found.keys() == {"weight"}
    assert torch.equal(found["weight"].read(()), weight)
    assert not Timestamp.ran


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    expected = {
        "view": base[1:, ::2],
        "transposed": base.T,
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "half": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True, False]),
    }
    torch.save(expected, tmp_path / "model.bin")
    found = open_tensors(tmp_path / "model.bin")
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    read = {name: stored.read(()) for name, stored in found.items()}
    assert all(torch.equal(read[name], expected[name]) for name in expected)
    assert all(read[name].dtype == expected[name].dtype for name in expected)
    assert torch.equal(found["view"].read((slice(0, 1),)), base[1:2, ::2])


def test_damaged_and_other_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "best-model.pt"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match=r"best-model.pt: not a torch.save archive"):
        open_tensors(file)
    torch.save({"state": {}}, file)
    with pytest.raises(ModelError, match="'model' is missing"):
        open_tensors(file, inside=("state", "model"))
    torch.save({"loss": 1.0}, file)
    with pytest.raises(ModelError, match="holds no tensors"):
        open_tensors(file)


@pytest.mark.parametrize("protocol", range(6))
def test_dictionaries_of_numbers_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    """V1's token ids are numpy int16 in the official pickle, medians are numpy float64."""
    expected = {
        "int16": np.int16(-5),
        "float64": np.float64(1.25),
        "float": 2.5,
        "int": 2**40,
        "big": np.array(3, ">i4")[()],
    }
    file = tmp_path / "dictionary.pkl"
    file.write_bytes(pickle.dumps(expected, protocol=protocol))
    found = load_dictionary(file)
    assert found == expected
    assert {type(number) for number in found.values()} == {int, float}


def test_dictionary_pickles_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "dictionary.pkl"
    file.write_bytes(pickle.dumps(["ENSG1"]))
    with pytest.raises(ModelError, match="expected a pickled dict, found list"):
        load_dictionary(file)
    file.write_bytes(b"\x80\x04truncated")
    with pytest.raises(ModelError, match="damaged"):
        load_dictionary(file)


def test_official_pickles_beside_a_model(tmp_path: Path) -> None:
    tokens = {"<pad>": np.int16(0), "<mask>": np.int16(1), "ENSG00000000003": np.int16(2)}
    files = {
        "token_dictionary_gc95M.pkl": tokens,
        "gene_median_dictionary_gc95M.pkl": {"ENSG00000000003": np.float64(1.5)},
        "ensembl_mapping_dict_gc95M.pkl": {"TSPAN6": "ENSG00000000003"},
    }
    for name, dictionary in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(dictionary))
    found = read_dictionaries(tmp_path)
    assert found.tokens == {"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2}
    assert found.medians == {"ENSG00000000003": 1.5}
    assert found.mapping == {"TSPAN6": "ENSG00000000003"}
