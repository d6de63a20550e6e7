"""VICReg against a slow plain form, in value and gradient, and what each of its terms is for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pretrain.objectives.vicreg import vicreg_terms
from specfm.errors import UsageError


def views(count: int = 9, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z1 = torch.randn(count, width, generator=generator, dtype=torch.float64)
    z2 = z1 + 0.5 * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return (0.8 * z1 + 3).requires_grad_(), z2.requires_grad_()


def plain(z1: Tensor, z2: Tensor, eps: float) -> dict[str, Tensor]:
    """The paper's equations, one number at a time."""
    count, width = z1.shape
    found = {name: z1.new_zeros(()) for name in ("invariance", "variance", "covariance")}
    for i in range(count):
        found["invariance"] = found["invariance"] + ((z1[i] - z2[i]) ** 2).sum() / count / width
    for z in (z1, z2):
        for j in range(width):
            for k in range(width):
                a, b = z[:, j] - sum(z[:, j]) / count, z[:, k] - sum(z[:, k]) / count
                covariance = sum(a * b) / (count - 1)
                if j == k:
                    lack = (1 - (covariance + eps).sqrt()).clamp_min(0)
                    found["variance"] = found["variance"] + lack / width / 2
                else:
                    found["covariance"] = found["covariance"] + covariance**2 / width
    return found


@pytest.mark.parametrize("eps", [1e-4, 0.1])
def test_value_and_gradient_of_every_term(eps: float) -> None:
    z1, z2 = views()
    ours, wanted = vicreg_terms(z1, z2, eps), plain(z1, z2, eps)
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        assert value > 0.01
        torch.testing.assert_close(ours[name], value)
        for mine, other in zip(
            *(
                torch.autograd.grad(v[name], (z1, z2), retain_graph=True, materialize_grads=True)
                for v in (ours, wanted)
            ),
            strict=True,
        ):
            torch.testing.assert_close(mine, other)


def test_collapse_costs_variance_and_copies_cost_covariance() -> None:
    same = torch.ones(8, 4)
    terms = vicreg_terms(same, same, eps=1e-4)
    assert terms["invariance"] == terms["covariance"] == 0
    assert float(terms["variance"]) == pytest.approx(1 - math.sqrt(1e-4))
    varied = torch.linspace(-3, 3, 8)[:, None].expand(8, 4)
    terms = vicreg_terms(varied, varied)
    assert terms["variance"] == 0 and terms["covariance"] > 10
    apart = torch.eye(4).repeat(2, 1) * 4
    assert vicreg_terms(apart - apart.mean(0), apart - apart.mean(0))["covariance"] < terms["covariance"] / 2


def test_gradients_stay_finite_where_features_have_collapsed() -> None:
    z = torch.ones(6, 3, requires_grad=True)
    terms = vicreg_terms(z, z)
    assert torch.autograd.grad(terms["variance"] + terms["covariance"], z)[0].isfinite().all()


def test_a_single_sample_and_views_of_different_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 samples"):
        vicreg_terms(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(UsageError, match="two views"):
        vicreg_terms(torch.ones(4, 3), torch.ones(3, 3))
