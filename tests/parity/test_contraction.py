"""Property 7: the fast form equals the textbook form, gradients included, whichever contraction order is chosen.

Shapes: B samples, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from specfm import Encoder
from specfm.models.embeddings.contraction import bands_go_first
from specfm.models.patches import Patches
from tests.properties.cases import NAMES, TOLERANCE, build, claiming, comb, cube, difference

# (bands, batch, side): many bands on few tokens, and few bands on many tokens
SIZES = {"bands first": (90, 3, 8), "basis first": (3, 4, 32)}
SHARED = {"bands first": (90, 1, 8), "basis first": (3, 4, 32)}  # with codes that all samples share


def _both(encoder: Encoder, patches: Patches, form: str) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, gradients of all parameters, gradient of the input."""
    encoder.zero_grad()
    leaf = patches.x_BCNP.detach().requires_grad_()
    patches = Patches(leaf, *(getattr(patches, f) for f in list(patches.__dataclass_fields__)[1:]))
    tokens_BND = getattr(encoder.embedding, form)(patches)
    weight_BND = torch.randn(tokens_BND.shape, generator=torch.Generator().manual_seed(1))
    (tokens_BND * weight_BND).sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in encoder.embedding.parameters()]
    return tokens_BND.detach(), torch.cat([g.flatten() for g in gradients]), leaf.grad


@pytest.mark.parametrize("shared", (True, False), ids=("one grid", "a grid each"))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", claiming(7))
def test_7_fast_equals_reference_with_gradients(name: str, size: str, shared: bool) -> None:
    bands, batch, side = SIZES[size]
    grid = comb(bands)
    encoder = build(name, grid, side=side)
    patches = encoder.prepare(cube(grid, batch, side), grid if shared else [grid] * batch)
    fast, slow = _both(encoder, patches, "forward"), _both(encoder, patches, "reference")
    for ours, theirs in zip(fast, slow, strict=True):
        assert theirs.norm() > 0 and difference(ours, theirs) < TOLERANCE["fp32"]


@pytest.mark.parametrize("content", (True, False))
def test_7_both_orders_are_tried_here(content: bool) -> None:
    for size, (bands, batch, side) in (SIZES if content else SHARED).items():
        encoder = build("hyper", comb(bands), content=content)
        patches = encoder.prepare(cube(comb(bands), batch, side), comb(bands))
        basis_GCRP, hidden_GCK, _ = encoder.embedding.factors(patches)
        assert len(basis_GCRP) == (batch if content else 1)
        tokens, (hidden, _, dim) = (side // 2) ** 2, encoder.embedding.basis_KRD.shape
        assert bands_go_first(batch, len(hidden_GCK), bands, tokens, hidden, dim) == (size == "bands first")


@pytest.mark.parametrize("size", SHARED)
def test_7_without_content_too(size: str) -> None:
    bands, batch, side = SHARED[size]
    encoder = build("hyper", comb(bands), content=False)
    patches = encoder.prepare(cube(comb(bands), batch, side), comb(bands))
    for ours, theirs in zip(_both(encoder, patches, "forward"), _both(encoder, patches, "reference"), strict=True):
        assert difference(ours, theirs) < TOLERANCE["fp32"]


def test_7_every_embedding_has_a_reference() -> None:
    assert claiming(7) == NAMES


@pytest.mark.parametrize("name", claiming(9))
def test_9_no_tensor_is_as_large_as_a_token_per_band(name: str) -> None:
    """At C = 425, 224 x 224, p = 8, D = 384; peak memory itself is measured by tests/benchmarks/bench_embedding.py."""
    grid, dim, side, patch = comb(425, 380, 2500, 6.0), 384, 224, 8
    encoder = build(name, grid, patch_size=patch, side=side, dim=dim, **({"rank": 64} if name == "specaware" else {}))
    x_BHWC = torch.from_numpy(np.random.default_rng(0).random((1, side, side, 425), np.float32))
    sizes: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = function(*args, **(kwargs or {}))
            if isinstance(found, Tensor):
                sizes.append(found.numel())
            return found

    with Watch(), torch.inference_mode():
        encoder.embedding(encoder.prepare(x_BHWC, grid))
    tokens = (side // patch) ** 2
    assert len(sizes) > 10 and x_BHWC.numel() <= max(sizes) < tokens * 425 * dim
