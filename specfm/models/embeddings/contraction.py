"""Applying generated kernels to patches without forming them, and the slow textbook form that tests compare with.

Shapes: B samples, N tokens, C bands, P pixels of a patch, D token width, R rank of the spatial basis, K width of the
hypernetwork's last hidden layer, G = 1 or B (kernels shared by all samples, or one set each).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def contract(x_BCNP: Tensor, basis_GCRP: Tensor, hidden_GCK: Tensor, generator_KRD: Tensor) -> Tensor:
    """``token_n = sum_c U_c V_c x_nc`` with ``U_c = sum_k hidden_ck generator_k``; tokens_BND.

    By whichever order is cheaper for these sizes. Bands first: ``Z_nkr = sum_c hidden_ck (V_c x_nc)_r``, then one GEMM
    with the generator whose cost is independent of C. Few bands, many tokens: form the small U of each band and
    contract (c, r) at once. No tensor of shape [B, N, C, D] exists either way.
    """
    batch, channels, tokens, _ = x_BCNP.shape
    hidden, rank, dim = generator_KRD.shape
    seen_BCNR = _seen(x_BCNP.to(basis_GCRP.dtype), basis_GCRP)
    # a graph for any number of samples takes each for itself, one for any number of bands these first
    counted = (batch, hidden_GCK.shape[0]) if isinstance(batch, int) else (1, 1)
    if not isinstance(channels, int) or bands_go_first(*counted, channels, tokens, hidden, dim):
        summed_BKM = hidden_GCK.expand(batch, -1, -1).transpose(1, 2) @ seen_BCNR.flatten(2)
        summed_BKNR = summed_BKM.unflatten(2, (tokens, rank))
        return summed_BKNR.transpose(1, 2).flatten(2) @ generator_KRD.flatten(0, 1)
    semantic_GCRD = (hidden_GCK @ generator_KRD.flatten(1)).unflatten(2, (rank, dim))
    return seen_BCNR.transpose(1, 2).flatten(2) @ semantic_GCRD.flatten(1, 2)


def _seen(x_BCNP: Tensor, basis_GCRP: Tensor) -> Tensor:
    """``V_c x_nc``: seen_BCNR, in the memory order of the patches: neither the cube nor the result is copied."""
    if basis_GCRP.shape[0] == 1:  # all samples in one product per band; its gradient needs no sum over samples
        x_CMP = x_BCNP.transpose(0, 1).flatten(1, 2)
        return _product(x_CMP, basis_GCRP[0]).unflatten(1, (x_BCNP.shape[0], -1)).transpose(0, 1)
    if x_BCNP.stride(0) < x_BCNP.stride(1):
        return _product(x_BCNP.transpose(0, 1), basis_GCRP.transpose(0, 1)).transpose(0, 1)
    return _product(x_BCNP, basis_GCRP)


def _product(x: Tensor, basis: Tensor) -> Tensor:
    """``x @ basis^T`` over the last two axes."""
    return _Product.apply(x, basis) if basis.requires_grad else x @ basis.mT  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """``x @ basis^T`` whose gradient is formed the narrow way round: ``grad^T @ x``.

    Autograd takes ``(x^T @ grad)^T``: the same numbers, but the large x is read by columns, twice the time on CPUs.
    """

    generate_vmap_rule = True  # this and a context of its own: for torch.func

    @staticmethod
    def forward(x: Tensor, basis: Tensor) -> Tensor:
        return x @ basis.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, basis = ctx.saved_tensors
        grad = grad.to(basis.dtype)  # autocast multiplies in fewer bits than it is given
        return grad @ basis if ctx.needs_input_grad[0] else None, grad.mT @ x


def bands_go_first(batch: int, grids: int, channels: int, tokens: int, hidden: int, dim: int) -> bool:
    """True if summing over bands before the generator needs fewer multiplications (per rank and sample)."""
    bands_first = tokens * hidden * (channels + dim)
    basis_first = channels * hidden * dim * grids / batch + tokens * channels * dim
    return bands_first <= basis_first


def per_band_sum(kernel_GCDP: Tensor, x_BCNP: Tensor) -> Tensor:
    """``sum_c kernel_c x_nc`` the textbook way, with every band's own token formed ([B, N, C, D]); slow, for tests."""
    kernel_BCDP = kernel_GCDP.expand(x_BCNP.shape[0], -1, -1, -1)
    return torch.einsum("bcdp,bcnp->bncd", kernel_BCDP, x_BCNP.to(kernel_GCDP.dtype)).sum(2)
