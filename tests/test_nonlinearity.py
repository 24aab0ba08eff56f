"""Which latents fire, and what they learn from it."""

import pytest
import torch
from devices import on_every_device, random
from torch import Tensor

from ontogeny.crosscoder import products, site_gate
from ontogeny.crosscoder.nonlinearity import (
    SAMPLED_FROM,
    Gate,
    firing_above,
    jumprelu,
    kth_largest,
    largest_of_batch,
    topk,
)
from ontogeny.crosscoder.products import product
from ontogeny.crosscoder.site_gate import Activity, decode_gated
from ontogeny.crosscoder.threshold_gradient import near_sums


def small(device: str) -> tuple[Tensor, Tensor]:
    """Pre-activations and decoder norms of two rows and four latents."""
    h_BL = torch.tensor([[3.0, 2.0, -5.0, 1.0], [0.5, -1.0, 4.0, 0.1]], device=device)
    return h_BL, torch.tensor([0.1, 1.0, 2.0, 4.0], device=device)


def batch_topk(h_BL: Tensor, norms_L: Tensor, k: int) -> tuple[Tensor, Tensor]:
    firing_BL, least = largest_of_batch(h_BL * norms_L, k)
    return torch.where(firing_BL, h_BL, 0.0), least


@pytest.mark.parametrize("k", [1, 7, 50, 60])
@on_every_device
def test_kth_largest_equals_a_full_sort(k: int, device: str) -> None:
    values = random(20, 50, device=device)
    expected = values.sort(dim=-1, descending=True).values[:, min(k, 50) - 1 : min(k, 50)]
    assert torch.equal(kth_largest(values, k), expected)
    assert torch.equal(kth_largest(values.flatten(), 20 * k), expected.new_tensor([_kth(values, 20 * k)]))


@on_every_device
@pytest.mark.parametrize("kind", ["normal", "sparse", "tied", "equal", "sorted"])
def test_kth_largest_of_many_entries_equals_a_full_sort(kind: str, device: str) -> None:
    values = random(3 * SAMPLED_FROM + 5, device=device)
    if kind == "sparse":
        values = torch.where(values > 2.0, values, 0.0)
    elif kind == "tied":
        values = values.round()
    elif kind == "equal":
        values = torch.ones_like(values)
    elif kind == "sorted":
        values = values.sort().values
    for k in (1, 2, 100, SAMPLED_FROM, len(values) - 1, len(values), len(values) + 1):
        assert kth_largest(values, k).item() == _kth(values, k)


def _kth(values: Tensor, k: int) -> float:
    return float(values.flatten().sort(descending=True).values[min(k, values.numel()) - 1])


@on_every_device
def test_topk_ranks_by_what_a_latent_adds_and_not_by_its_pre_activation(device: str) -> None:
    h_BL, norms_L = small(device)
    assert topk(h_BL, norms_L, 1).tolist() == [[0, 0, 0, 1.0], [0, 0, 4.0, 0]]
    assert topk(h_BL, norms_L, 2).tolist() == [[0, 2.0, 0, 1.0], [0, 0, 4.0, pytest.approx(0.1)]]


@on_every_device
def test_topk_never_keeps_a_latent_below_zero(device: str) -> None:
    h_BL, norms_L = small(device)
    assert topk(h_BL, norms_L, 4).tolist() == [[3.0, 2.0, 0, 1.0], [0.5, 0, 4.0, pytest.approx(0.1)]]


@on_every_device
def test_batch_topk_shares_k_a_row_over_the_batch(device: str) -> None:
    h_BL, norms_L = small(device)
    f_BL, least = batch_topk(h_BL, norms_L, 1)
    assert f_BL.tolist() == [[0, 0, 0, 1.0], [0, 0, 4.0, 0]]
    assert least.tolist() == [4.0]
    f_BL, least = batch_topk(torch.stack((h_BL[1], -h_BL[1].abs())), norms_L, 1)
    assert f_BL.tolist() == [[0, 0, 4.0, pytest.approx(0.1)], [0, 0, 0, 0]]
    assert least.item() == pytest.approx(0.4)


@on_every_device
def test_batch_topk_with_fewer_active_latents_than_k_keeps_them_all_and_says_zero(device: str) -> None:
    h_BL, norms_L = small(device)
    f_BL, least = batch_topk(h_BL, norms_L, 4)
    assert torch.equal(f_BL, h_BL.relu())
    assert least.tolist() == [0.0]


@on_every_device
def test_batch_topk_and_its_threshold_agree(device: str) -> None:
    h_BL, norms_L = random(64, 100, device=device), random(100, seed=1, device=device).abs()
    f_BL, least = batch_topk(h_BL, norms_L, 5)
    assert f_BL.count_nonzero() == 64 * 5
    assert torch.equal(f_BL, firing_above(h_BL, norms_L, least * (1 - 1e-12)))


@on_every_device
def test_jumprelu_fires_on_what_a_latent_adds(device: str) -> None:
    h_BL, norms_L = small(device)
    threshold_L = torch.tensor([0.5, 2.0, 1.0, 0.3], device=device)
    f_BL = jumprelu(h_BL, norms_L, Gate(threshold_L, threshold_L.log(), 1.0))
    assert f_BL.tolist() == [[0, 0, 0, 1.0], [0, 0, 4.0, pytest.approx(0.1)]]


@on_every_device
def test_jumprelu_threshold_learns_through_the_rectangle_alone(device: str) -> None:
    h_BL = torch.tensor(
        [[0.50], [0.60], [0.35], [5.0], [-0.01]], dtype=torch.float64, requires_grad=True, device=device
    )
    norms_L = torch.tensor([2.0], dtype=torch.float64, requires_grad=True, device=device)
    threshold_L = torch.tensor([1.1], dtype=torch.float64, device=device)
    log_threshold_L = threshold_L.log().requires_grad_()
    weight_BL = torch.tensor([[1.0], [10.0], [100.0], [1000.0], [10000.0]], dtype=torch.float64, device=device)
    (jumprelu(h_BL, norms_L, Gate(threshold_L, log_threshold_L, 0.5)) * weight_BL).sum().backward()  # type: ignore[no-untyped-call]
    # z = h n is 1.0 and 1.2 within 0.25 of the threshold; f = J(z) / n, dJ / dlog t = -t^2 / w.
    assert log_threshold_L.grad is not None
    assert h_BL.grad is not None
    assert log_threshold_L.grad.tolist() == pytest.approx([-(1.1**2) / 0.5 / 2.0 * 11.0])
    assert h_BL.grad.flatten().tolist() == [0.0, 10.0, 0.0, 1000.0, 0.0]
    assert norms_L.grad is None


@on_every_device
def test_a_latent_without_a_decoder_learns_nothing_and_spoils_nothing(device: str) -> None:
    h_BL = random(8, 1, device=device).requires_grad_()
    log_threshold_L = torch.tensor([-2.3], dtype=torch.float64, requires_grad=True, device=device)
    gate = Gate(log_threshold_L.detach().exp(), log_threshold_L, 2.0)
    W_dec_LSD = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True, device=device)
    norms_LS = torch.zeros(1, 2, device=device)
    gated = decode_gated(h_BL, W_dec_LSD, norms_LS, gate, Activity(True, None))
    for output in (gated.decoded_BSD, gated.activity_L, jumprelu(h_BL, norms_LS[:, 0], gate)):
        leaves = (h_BL, log_threshold_L, W_dec_LSD)
        gradients = torch.autograd.grad(output.sum(), leaves, retain_graph=True, materialize_grads=True)
        assert all((gradient == 0).all() for gradient in gradients)


class Site:
    """Tensors of a gated crosscoder, and the plain expressions that hold the whole code."""

    def __init__(self, device: str) -> None:
        self.h_BL = random(32, 20, device=device).requires_grad_()
        self.W_dec_LSD = random(20, 3, 6, seed=1, device=device).requires_grad_()
        self.log_threshold_L = (random(20, seed=2, device=device) * 0.3).requires_grad_()
        self.gate = Gate(self.log_threshold_L.detach().exp(), self.log_threshold_L, 1.5)
        self.norms_LS = self.W_dec_LSD.norm(dim=-1)

    def code_BSL(self) -> Tensor:
        return torch.stack([jumprelu(self.h_BL, norms_L, self.gate) for norms_L in self.norms_LS.T], dim=1)

    def gradients(self, output: Tensor) -> list[Tensor]:
        weight = random(*output.shape, seed=3).to(output.device)
        leaves = (self.h_BL, self.W_dec_LSD, self.log_threshold_L)
        return list(torch.autograd.grad((output * weight).sum(), leaves, retain_graph=True, materialize_grads=True))


@on_every_device
@pytest.mark.parametrize("tanh_scale", [None, 4.0])
def test_decoding_site_by_site_equals_the_plain_expressions_of_the_whole_code(
    tanh_scale: float | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_gate, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(site_gate, "LATENTS_AT_ONCE", 7)
    site = Site(device)
    fast = decode_gated(site.h_BL, site.W_dec_LSD, site.norms_LS, site.gate, Activity(True, tanh_scale))
    code_BSL = site.code_BSL()
    added_BSL = code_BSL * site.norms_LS.T
    assert 0.1 < (code_BSL > 0).double().mean() < 0.9
    decoded_BSD = torch.einsum("bsl,lsd->bsd", code_BSL, site.W_dec_LSD)
    activity_L = added_BSL.mean(0).sum(0) if tanh_scale is None else (tanh_scale * added_BSL).tanh().mean((0, 1))
    for found, plain in zip(fast, (decoded_BSD, activity_L), strict=True):
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(site.gradients(found), site.gradients(plain))
    unmeasured = decode_gated(site.h_BL, site.W_dec_LSD, site.norms_LS, site.gate, Activity(False, tanh_scale))
    assert (unmeasured.activity_L == 0).all()
    torch.testing.assert_close(site.gradients(unmeasured.decoded_BSD), site.gradients(decoded_BSD))


@on_every_device
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_sums_near_thresholds_equal_the_eager_expression(precision: torch.dtype, tolerance: float, device: str) -> None:
    shapes = (64, 20), (20, 3), (64, 3, 6), (20, 3, 6), (20,)
    drawn = [random(*shape, seed=seed, device=device).float() for seed, shape in enumerate(shapes)]
    h_BL, norms_LG, gradient_BGV, W_dec_LGV, threshold_L = drawn
    norms_LG, threshold_L = norms_LG.abs(), threshold_L.abs()
    gate = Gate(threshold_L, torch.zeros_like(threshold_L), 1.5)
    near_LG, count_LG = near_sums(gradient_BGV, W_dec_LGV, h_BL, norms_LG, gate, precision)
    near_BLG = (h_BL[:, :, None] * norms_LG - gate.threshold_L[:, None]).abs() < 0.75
    plain_LG = (near_BLG * torch.einsum("bgv,lgv->blg", gradient_BGV, W_dec_LGV)).sum(0)
    torch.testing.assert_close(count_LG, near_BLG.sum(0).float())
    assert (near_LG - plain_LG).norm() < tolerance * plain_LG.norm()


@pytest.mark.parametrize("native", [True, False])
@on_every_device
def test_bfloat16_products_keep_types_and_three_digits(
    native: bool, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(products, "MULTIPLIES_BFLOAT16", native)
    a, b = (
        random(40, 50, device=device).float().requires_grad_(),
        random(50, 60, seed=1, device=device).float().requires_grad_(),
    )
    weight = random(40, 60, seed=2, device=device).float()
    exact, low = a @ b, product(a, b, torch.bfloat16)
    assert low.dtype == torch.float32
    assert not torch.equal(exact, low)
    for one, other in zip((exact, low), (low, exact), strict=True):
        assert (one - other).norm() < 0.01 * exact.norm()
    for exact_gradient, gradient in zip(
        torch.autograd.grad((exact * weight).sum(), (a, b)),
        torch.autograd.grad((low * weight).sum(), (a, b)),
        strict=True,
    ):
        assert gradient.dtype == torch.float32
        assert (gradient - exact_gradient).norm() < 0.01 * exact_gradient.norm()
