"""The Triton kernels against PyTorch's operations."""

import importlib.util

import pytest
import torch

from engine.models import sae
from engine.models.sae import kernels, sparse_ops


def test_tensors_on_a_cpu_never_reach_the_kernels() -> None:
    assert kernels.fused_for(torch.zeros(1)) is None


def triton_kernels():  # type: ignore[no-untyped-def]
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return kernels.fused_for(torch.zeros(1, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("width", [33, 512, 1152])
def test_kernels_equal_torch(width: int) -> None:
    fused, generator = triton_kernels(), torch.Generator().manual_seed(0)
    table = torch.randn(300, width, generator=generator)
    left_MD = torch.randn(70, width, generator=generator)
    bag_N = torch.randint(0, 70, (5_000,), generator=generator).sort().values
    source_N = torch.randint(0, 300, (5_000,), generator=generator)
    weight_N = torch.randn(5_000, generator=generator)
    bounds = torch.searchsorted(bag_N, torch.arange(71))
    expected = sparse_ops.bag_sum(weight_N, source_N, bounds, table)
    found = fused.bag_sum(weight_N.cuda(), source_N.cuda(), bounds.cuda(), table.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-4)
    expected = sparse_ops.sampled_products(left_MD, bag_N, bounds, source_N, table)
    found = fused.sampled_products(left_MD.cuda(), bag_N.cuda(), source_N.cuda(), table.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka_batchtopk"])
def test_a_step_on_the_gpu_equals_one_on_the_cpu(architecture: str) -> None:
    triton_kernels()
    config = sae.SAEConfig(architecture, 64, 2_048, k=8, rescale_acts_by_decoder_norm=True)
    options = sae.ObjectiveOptions(path="sparse", encoder_precision="fp32", matryoshka_widths=(256,))
    x_BD = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    dead_F = torch.arange(2_048) < 500
    gradients = []
    for device in ("cpu", "cuda"):
        module = sae.objective(config, options).to(device)
        module(x_BD.to(device), dead_F.to(device)).loss.backward()
        gradients.append([weight.grad.cpu() for weight in module.parameters() if weight.grad is not None])
    for cpu, gpu in zip(*gradients, strict=True):
        assert float((cpu - gpu).abs().max()) <= 1e-4 * float(cpu.abs().max())
