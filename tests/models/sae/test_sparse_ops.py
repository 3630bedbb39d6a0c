"""The sparse step against dense autograd written out here: same loss, same gradients, no dense tensor."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.models import sae
from engine.models.sae import selection
from engine.models.sae.sparse_ops import ActivePairs, decode_at, encode_at
from engine.models.sae.topk_family import encoder_of

D, F, K = 16, 256, 6


def training(architecture: str = "topk", k: float = K, **options: object) -> sae.TrainingModule:
    """Decoder norms far from 1, biases far from 0: ignoring either would show."""
    config = sae.SAEConfig(architecture, D, F, k=k, rescale_acts_by_decoder_norm=True)
    if architecture == "matryoshka_batchtopk":
        options["matryoshka_widths"] = (32, 100, F)
    found = sae.objective(config, sae.ObjectiveOptions(**{"path": "sparse"} | options), seed=3)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        found.sae.W_dec.mul_(torch.linspace(0.3, 2, F)[:, None])
        found.sae.b_enc.copy_(0.2 * torch.randn(F, generator=generator))
        found.sae.b_dec.copy_(0.2 * torch.randn(D, generator=generator))
    return found


def inputs(kind: str) -> Tensor:
    x_BD = torch.randn(48, D, generator=torch.Generator().manual_seed(0))
    if kind == "tied":  # whole tokens alike, and a token of zeros
        x_BD[1:20] = x_BD[0]
        x_BD[20] = 0
    return x_BD


def dense_loss(module: sae.TrainingModule, x_BD: Tensor, dead_F: Tensor) -> Tensor:
    """The definition, from activations of all features of the batch."""
    model = module.sae
    norm_F = model.W_dec.norm(dim=1)
    h_BF = ((x_BD - model.b_dec) @ model.W_enc + model.b_enc) * norm_F
    if model.config.architecture == "topk":
        # With ties any k largest do; ours are taken so that the gradients can be compared.
        encoder = encoder_of(model, "fp32", "cpu")
        chosen, _ = selection.best_features(x_BD - model.b_dec.detach(), encoder, K, selection.Scratch())
        value_BK = h_BF.gather(1, chosen.index_BK)
        torch.testing.assert_close(value_BK.sum(1), h_BF.topk(K, dim=1).values.sum(1))
        a_BF = torch.zeros_like(h_BF).scatter(1, chosen.index_BK, value_BK.relu())
    else:
        flat = h_BF.relu().flatten()
        value_N, index_N = flat.topk(int(module.k * len(x_BD)))
        a_BF = torch.zeros_like(flat).scatter(0, index_N, value_N).view_as(h_BF)
    unit_FD = model.W_dec / norm_F[:, None]
    widths = module.options.matryoshka_widths or (F,)
    loss = x_BD.new_zeros(())
    for width in widths:
        r_BD = a_BF[:, :width] @ unit_FD[:width] + model.b_dec
        loss = loss + (r_BD - x_BD).pow(2).sum(1).mean()
    k_dead = min(D // 2, int(dead_F.sum()))
    value_BK, index_BK = h_BF.masked_fill(~dead_F, -torch.inf).topk(k_dead, dim=1)
    z_BF = torch.zeros_like(h_BF).scatter(1, index_BK, value_BK)
    aux = (z_BF @ unit_FD - (x_BD - r_BD).detach()).pow(2).sum(1).mean()
    return loss + min(int(dead_F.sum()) / (D // 2), 1) * aux


def gradients(module: sae.TrainingModule, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


@pytest.mark.parametrize("n_dead", [3, 60])
@pytest.mark.parametrize("path", ["sparse", "dense"])
# Which of the tied pairs of a whole batch are chosen is not defined, so only topk gets tied tokens.
@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("topk", "random"), ("topk", "tied"), ("batchtopk", "random"), ("matryoshka_batchtopk", "random")],
)
def test_gradients_equal_dense_autograd(architecture: str, kind: str, path: str, n_dead: int) -> None:
    module, x_BD = training(architecture, path=path), inputs(kind)
    dead_F = torch.arange(F) < n_dead
    expected = dense_loss(module, x_BD, dead_F)
    found = module(x_BD, dead_F)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, dense in zip(gradients(module, found.loss), gradients(module, expected), strict=True):
        assert float((ours - dense).abs().max()) <= 1e-5 * float(dense.abs().max())


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_more_chosen_than_positive(architecture: str) -> None:
    module, x_BD = training(architecture, k=200), inputs("random")
    with torch.no_grad():
        module.sae.b_enc.fill_(-3.0)
    found = module(x_BD)
    a_BF = ((x_BD - module.sae.b_dec) @ module.sae.W_enc + module.sae.b_enc).relu()
    assert 0 < found.metrics["l0"].item() < 100
    expected = (a_BF @ module.sae.W_dec + module.sae.b_dec - x_BD).pow(2).sum(1).mean()
    for ours, dense in zip(gradients(module, found.loss), gradients(module, expected), strict=True):
        assert float((ours - dense).abs().max()) <= 1e-5 * float(dense.abs().max())


def test_gradients_of_the_input() -> None:
    module, x_BD = training(), inputs("random").requires_grad_()
    token_N = torch.arange(48).repeat_interleave(2)
    feature_N = torch.randint(0, F, (96,), generator=torch.Generator().manual_seed(4))
    h_BF = (x_BD - module.sae.b_dec) @ module.sae.W_enc + module.sae.b_enc
    pairs = ActivePairs(token_N, feature_N, 48, 48, F)
    h_N = h_BF[token_N, feature_N]
    ours = encode_at(x_BD, module.sae.b_dec, module.sae.W_enc_FD, module.sae.b_enc, h_N.detach(), pairs)
    (found,) = torch.autograd.grad(decode_at(ours, module.sae.W_dec, pairs).square().sum(), x_BD)
    dense_BD = torch.zeros(48, D).index_add(0, token_N, h_N[:, None] * module.sae.W_dec[feature_N])
    (expected,) = torch.autograd.grad(dense_BD.square().sum(), x_BD)
    torch.testing.assert_close(found, expected)


def test_steps_repeat_bit_for_bit() -> None:
    dead_F = torch.arange(F) < 60
    first, again = (gradients(m, m(inputs("random"), dead_F).loss) for m in (training(), training()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


class LargestResult(TorchDispatchMode):
    """Notes the size of the largest tensor any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, Tensor):
                self.largest = max(self.largest, part.numel())
        return result


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka_batchtopk"])
def test_no_dense_activation_exists(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selection.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setattr(selection, "MIN_ROWS", 4)
    module, x_BD = training(architecture), torch.randn(400, D)
    with LargestResult() as seen:
        module(x_BD, torch.arange(F) < 200).loss.backward()
    assert seen.largest < 400 * F // 2
