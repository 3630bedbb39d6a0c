"""What `auto` stands for, on machines of several kinds."""

import pytest
import torch

from engine.models import precision_here


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, "fp32"),
        ({"avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
    ],
)
def test_the_cpu_decides_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision_here("auto") == expected


@pytest.mark.parametrize(("able", "expected"), [(False, "fp32"), (True, "bf16")])
def test_the_gpu_decides_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, able: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not able})
    assert precision_here("auto") == expected


def test_what_is_named_is_taken() -> None:
    assert (precision_here("fp32"), precision_here("bf16")) == ("fp32", "bf16")
