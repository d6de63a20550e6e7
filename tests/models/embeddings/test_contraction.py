"""The product of patches and kernels, as autograd and autocast see it."""

from __future__ import annotations

import pytest
import torch

from specfm.models.embeddings.contraction import contract


@pytest.mark.parametrize("grids", (1, 3))
@pytest.mark.parametrize("tokens", (4, 200))  # either order of the sums
def test_gradients_are_those_of_the_textbook_also_under_autocast(grids: int, tokens: int) -> None:
    """Autocast multiplies float32 in bfloat16: the gradient has fewer bits than what it is multiplied with."""
    torch.manual_seed(0)
    shapes = ((3, 20, tokens, 9), (grids, 20, 4, 9), (grids, 20, 16), (16, 4, 32))
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    x, basis, hidden, generator = given
    textbook = torch.einsum(
        "bcnp,bcrp,bck,krd->bnd", x, basis.expand(3, -1, -1, -1), hidden.expand(3, -1, -1), generator
    )
    weight = torch.randn_like(textbook)
    expected = torch.autograd.grad((textbook * weight).sum(), given)
    functional = torch.func.grad(lambda basis: (contract(x, basis, hidden, generator) * weight).sum())(basis)
    assert (functional - expected[1]).norm() < 1e-5 * expected[1].norm()
    for few_bits, tolerance in ((False, 1e-5), (True, 3e-2)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=few_bits):
            tokens_BND = contract(*given)
        for found, right in zip(torch.autograd.grad((tokens_BND.float() * weight).sum(), given), expected, strict=True):
            assert found.dtype == torch.float32 and (found - right).norm() < tolerance * right.norm()
