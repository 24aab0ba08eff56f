"""The products that training runs faster are the products that PyTorch computes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import profile

from ontogeny import onednn
from ontogeny.language_model.loss import ROWS_AT_ONCE, linear_cross_entropy
from ontogeny.onednn import AVAILABLE, OneDNNLinear, matmul_transposed, weight_gradient


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [gradient.double() for gradient in torch.autograd.grad(loss, leaves)]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


@pytest.mark.parametrize("rows", [1, 5, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 3 * ROWS_AT_ONCE - 7])
@pytest.mark.parametrize(("width", "vocabulary"), [(16, 40), (40, 16)])
def test_the_loss_in_blocks_is_the_cross_entropy_of_all_logits(rows: int, width: int, vocabulary: int) -> None:
    hidden_ND, unembedding_VD = draw(rows, width), draw(vocabulary, width)
    targets_N = torch.arange(rows) * 7 % vocabulary
    exact = functional.cross_entropy(hidden_ND.double() @ unembedding_VD.double().T, targets_N)
    loss = linear_cross_entropy(hidden_ND, unembedding_VD, targets_N)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)
    found, expected = (gradients(3 * value, hidden_ND, unembedding_VD) for value in (loss, exact))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("native", [True, False])
def test_factors_in_bfloat16_are_rounded_and_nothing_else(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "MULTIPLIES_BFLOAT16", native)
    rows, width, vocabulary = ROWS_AT_ONCE + 5, 24, 40
    layer, x, unembedding_VD = nn.Linear(16, width), draw(rows, 16), draw(vocabulary, width)
    targets_N = torch.arange(rows) * 7 % vocabulary
    leaves = (x, unembedding_VD, *layer.parameters())
    with OneDNNLinear(torch.bfloat16):
        loss = linear_cross_entropy(layer(x), unembedding_VD, targets_N, torch.bfloat16)
    hidden_ND = functional.linear(*(leaf.bfloat16().double() for leaf in (x, layer.weight)), layer.bias.double())
    exact = functional.cross_entropy(hidden_ND @ unembedding_VD.bfloat16().double().T, targets_N)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    for found, expected in zip(gradients(loss, *leaves), gradients(exact, *leaves), strict=True):
        assert (found - expected).norm() < 0.01 * expected.norm()


def test_the_loss_of_large_logits_is_finite() -> None:
    hidden_ND, unembedding_VD = torch.full((3, 2), 1e4), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    loss = linear_cross_entropy(hidden_ND, unembedding_VD, torch.tensor([0, 1, 0]))
    assert loss.item() == pytest.approx(0.6931472)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (0, 24)])
def test_linear_layers_by_onednn_are_linear_layers(bias: bool, shape: tuple[int, ...]) -> None:
    layer = nn.Linear(24, 40, bias=bias)
    x = draw(*shape)
    weights = list(layer.parameters())
    expected = layer(x)
    with OneDNNLinear():
        found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    both = [gradients(y.square().sum(), x, *weights) for y in (found, expected)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("product", [matmul_transposed, lambda a, b: weight_gradient(a.t(), b.t())])
@pytest.mark.parametrize(
    "layout",
    [lambda x: x, lambda x: x.t().contiguous().t(), lambda x: torch.cat([x, x], 1)[:, : x.shape[1]]],
    ids=["rows", "columns", "gaps"],
)
@pytest.mark.parametrize("sizes", [(6, 33, 20), (20, 33, 6)])
def test_products_do_not_depend_on_the_layout(
    product: Callable[[Tensor, Tensor], Tensor], layout: Callable[[Tensor], Tensor], sizes: tuple[int, int, int]
) -> None:
    a, b = draw(sizes[0], sizes[1]).detach(), draw(sizes[2], sizes[1]).detach()
    torch.testing.assert_close(product(layout(a), layout(b)), a @ b.T, rtol=1e-5, atol=1e-5)


def test_weights_with_gaps_are_multiplied_by_the_kernel_of_those_without() -> None:
    """The other kernel takes a thousand times as long, and adds up in another order."""
    x, wide = torch.randn(64, 128), torch.randn(128, 384)
    gaps = wide[:, 128:256].T
    assert torch.equal(matmul_transposed(x, gaps), matmul_transposed(x, gaps.contiguous()))


def test_other_precisions_are_left_alone() -> None:
    x, weight = draw(4, 8, dtype=torch.float64), draw(3, 8, dtype=torch.float64)
    with OneDNNLinear():
        y = functional.linear(x, weight)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, x @ weight.T, rtol=1e-14, atol=1e-14)


def test_onednn_runs_in_the_block_and_not_after_it() -> None:
    layer, x = nn.Linear(8, 8), draw(4, 8)
    with profile() as inside, OneDNNLinear():
        layer(x)
    with profile() as outside:
        layer(x)
    ran = ["mkldnn::_linear_pointwise" in {event.name for event in run.events()} for run in (inside, outside)]
    assert ran == [AVAILABLE, False]
