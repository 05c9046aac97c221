import pytest
import torch
import torch.nn.functional as F

from spacy_early_exit.network.layers import linear as module
from spacy_early_exit.network.layers.linear import (
    MULTIPLE,
    Linear,
    linear,
    multiplies_bfloat16,
)
from tests.model.test_devices import trained_for

pytestmark = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this processor does not multiply bfloat16"
)
ROWS = [0, 1, MULTIPLE - 1, MULTIPLE, MULTIPLE + 1, 3 * MULTIPLE - 5]


@pytest.fixture
def rows_of(monkeypatch):
    """The number of rows and the dtype of every product."""
    seen, product = [], F.linear

    def watched(states, weight, bias=None):
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        seen.append((len(states), dtype or states.dtype))
        return product(states, weight, bias)

    monkeypatch.setattr(module.F, "linear", watched)
    return seen


def gradients(of, states, layer):
    """A product and the gradients of its factors."""
    states = states.clone().requires_grad_()
    layer.zero_grad()
    found = of(states)
    (found.float() * torch.arange(found.shape[-1])).sum().backward()
    return found, states.grad, layer.weight.grad.clone(), layer.bias.grad.clone()


@pytest.mark.parametrize("rows", ROWS)
def test_padding_changes_neither_product_nor_gradients(rows, rows_of):
    torch.manual_seed(0)
    layer, states = Linear(96, 40), torch.randn(rows, 96)
    with torch.autocast("cpu", torch.bfloat16):
        plain = gradients(lambda x: F.linear(x, layer.weight, layer.bias), states, layer)
        rows_of.clear()
        ours = gradients(layer, states, layer)
    assert rows_of == [(-(-rows // MULTIPLE) * MULTIPLE, torch.bfloat16)]
    for one, other in zip(ours, plain):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_nothing_is_padded_where_nothing_is_compiled(rows_of):
    states, weight = torch.randn(70, 96), torch.randn(40, 96)
    linear(states, weight)
    linear(states.bfloat16(), weight.bfloat16())  # when predicting: a text may be short
    with torch.autocast("cpu", torch.float16):
        linear(states, weight)
    with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
        linear(states, weight)
    assert [rows for rows, _ in rows_of] == [70] * 4


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_so_train_all_layers(family, mixed, encoders, rows_of):
    trained_for(1, encoders[family], model={"mixed_precision": mixed})
    counts = {rows for rows, dtype in rows_of if dtype == torch.bfloat16}
    others = {rows for rows, dtype in rows_of if dtype == torch.float32}
    assert bool(counts) == mixed and bool(others) != mixed
    assert all(rows % MULTIPLE == 0 for rows in counts)
    assert mixed or any(rows % MULTIPLE for rows in others)
