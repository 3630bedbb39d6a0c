"""Small autoencoders with numbers that would show a forgotten norm, bias or threshold."""

import torch

from engine.models import sae

WRITTEN = ["standard", "topk", "jumprelu", "gated"]
ALL_ARCHITECTURES = [*WRITTEN, "batchtopk", "matryoshka_batchtopk"]


def random_sae(architecture: str, **options: object) -> sae.SAE:
    """12 -> 48 features; decoder rows of very different norm."""
    if "topk" in architecture:
        options = {"k": 5, "rescale_acts_by_decoder_norm": True} | options
    autoencoder = sae.SAE(sae.SAEConfig(architecture, 12, 48, **options))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in autoencoder.state_dict().values():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
        autoencoder.W_dec.mul_(torch.linspace(0.2, 3, 48)[:, None])
        for name in ("threshold", "topk_threshold"):
            if name in autoencoder.state_dict():
                autoencoder.state_dict()[name].abs_()
    return autoencoder
