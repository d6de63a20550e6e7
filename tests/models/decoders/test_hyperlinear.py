"""HyperLinear: the factored readout against the textbook form, gradients included, and an independent transcription.

Shapes: B samples, L tokens, T tokens read, S bands, P pixels, W width, E code width.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from specfm.models.decoders import HyperLinear
from tests.properties.cases import difference

B, L, T, W, E, SIDE, RANK = 3, 11, 5, 12, 16, 2, 4


def inputs(bands: int, grids: int = B) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z_BLW, exists_BL (the last sample has none), code_GSE, tokens_BT."""
    torch.manual_seed(1)
    exists_BL = torch.rand(B, L) < 0.8
    exists_BL[-1] = False
    tokens_BT = torch.stack([torch.randperm(L)[:T] for _ in range(B)])
    return torch.randn(B, L, W), exists_BL, torch.randn(grids, bands, E), tokens_BT


def made(start: float | None = 0.5) -> HyperLinear:
    torch.manual_seed(0)
    module = HyperLinear(W, SIDE, RANK, E, start=start)
    with torch.no_grad():
        module.bias[-1].weight.normal_(std=0.1)  # starts at 0, which would hide mistakes
    return module


@pytest.mark.parametrize("bands", [2, 60], ids=["V formed", "bands mixed last"])
@pytest.mark.parametrize("grids", [1, B])
def test_the_factored_form_has_the_outputs_and_gradients_of_the_textbook(bands: int, grids: int) -> None:
    found, gradients = [], []
    for form in ("forward", "reference"):
        module, (z_BLW, exists_BL, code_GSE, tokens_BT) = made(), inputs(bands, grids)
        z_BLW.requires_grad_()
        code_GSE.requires_grad_()
        pred_BSTP = getattr(module, form)(z_BLW, exists_BL, code_GSE, tokens_BT)
        assert pred_BSTP.shape == (B, bands, T, SIDE**2)
        pred_BSTP.sin().sum().backward()
        found.append(pred_BSTP)
        gradients.append({name: p.grad for name, p in [*module.named_parameters(), ("z", z_BLW), ("code", code_GSE)]})
    assert difference(*found) < 1e-5
    for name, wanted in gradients[1].items():
        assert wanted is not None and wanted.abs().max() > 0, name
        torch.testing.assert_close(gradients[0][name], wanted, rtol=2e-4, atol=2e-5, msg=name)


def test_both_orders_of_contraction_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two cases above are two roads."""
    from specfm.models.decoders import hyperlinear

    asked: list[bool] = []
    rule = hyperlinear.bands_go_first
    monkeypatch.setattr(hyperlinear, "bands_go_first", lambda *sizes: asked.append(rule(*sizes)) or asked[-1])
    for bands in (2, 60):
        made()(*inputs(bands))
    assert asked == [False, True]


def test_outputs_are_those_of_the_formulas() -> None:
    module, (z_BLW, exists_BL, code_GSE, tokens_BT) = made(None), inputs(7)
    exists_BL[:] = True
    s = dict(module.named_parameters())

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), s[f"{name}.weight"], s[f"{name}.bias"])

    query = linear("query", z_BLW.mean(1))
    attention = torch.softmax((linear("key", z_BLW) @ query[:, :, None])[..., 0] / math.sqrt(64), 1)
    context = (attention[..., None] * linear("value", z_BLW)).sum(1)
    m = linear("context.2", F.gelu(linear("context.0", context)))[:, None].expand(-1, 7, -1)
    first, second = linear("fusion.first", code_GSE), linear("fusion.second", m)
    fused = first + F.gelu(norm("fusion.join.1", linear("fusion.join.0", torch.cat([first, second], -1))))
    g = fused + m

    def generate(name: str) -> Tensor:
        return linear(f"{name}.6", F.gelu(linear(f"{name}.4", F.gelu(linear(f"{name}.1", norm(f"{name}.0", g))))))

    u, v = generate("spatial").unflatten(-1, (SIDE**2, RANK)), generate("semantic").unflatten(-1, (RANK, W))
    bias = linear("bias.3", F.gelu(linear("bias.1", norm("bias.0", g))))
    wanted = torch.stack(
        [
            torch.stack([u[b, c] @ (v[b, c] @ z_BLW[b, n]) + bias[b, c] for n in tokens_BT[b]])
            for b in range(B)
            for c in range(7)
        ]
    ).unflatten(0, (B, 7))
    assert difference(module(z_BLW, exists_BL, code_GSE, tokens_BT), wanted) < 1e-5


def test_tokens_that_do_not_exist_change_nothing() -> None:
    module, (z_BLW, exists_BL, code_GSE, tokens_BT) = made(), inputs(6)
    exists_BL[:] = True
    exists_BL[:, :3] = False
    tokens_BT = tokens_BT.clamp_min(3)
    before = module(z_BLW, exists_BL, code_GSE, tokens_BT)
    z_BLW[:, :3] = torch.nan
    assert torch.equal(module(z_BLW, exists_BL, code_GSE, tokens_BT), before)


def test_predictions_start_where_told() -> None:
    torch.manual_seed(0)
    z_BLW, exists_BL, code_GSE, tokens_BT = inputs(40)
    pred = HyperLinear(W, SIDE, RANK, E, start=1.0)(z_BLW, exists_BL, code_GSE, tokens_BT)
    assert 0.7 < pred.mean() < 1.3 and pred.std() > 0.05
    assert HyperLinear(W, SIDE, RANK, E, start=None)(z_BLW, exists_BL, code_GSE, tokens_BT).abs().max() < 0.05
