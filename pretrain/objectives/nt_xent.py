"""NT-Xent (SimCLR, arXiv 2002.05709): exact, in tiles, over all ranks, with weights for negatives that may be false.

Shapes: B local samples, N samples over all ranks (rank-major), D features, S samples of a tile (2 S rows of logits).
The two views lie first: ``z_2ND``. Only the normalised features and one log-sum-exp per row outlive the forward pass:
no matrix of logits larger than one tile exists.

Why a custom backward: with ``e_ij = exp(s_ij / T)``, symmetric in i and j, the gradient of ``sum_i g_i lse_i`` is
``dz_i = 1/T sum_j (g_i w_ij / L_i + g_j w_ji / L_j) e_ij z_j``: one matrix product per tile once every rank knows all
``g_j / L_j``. So the backward pass gathers 2 N numbers instead of reducing 2 N D of them, and one process computes each
tile above the diagonal once for both of its sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.objectives.collect import all_gather, world
from pretrain.objectives.config import MIN_TEMPERATURE
from specfm.errors import UsageError


class NegativeRule(Protocol):
    """What NT-Xent asks of a rule about false negatives. Samples are counted over all ranks, rank-major."""

    stats: dict[str, float]

    def pair(self, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
        """Weights of a tile of samples.

        Returns:
            ``w_rc``, the weight of sample c as a negative of anchor r, and ``w_cr`` the reverse, also laid out (rows,
            cols); 1 = full negative, 0 = excluded. The entry of a sample with itself must be 1 (its positive).
        """
        ...


def nt_xent(
    z1_BD: Tensor,
    z2_BD: Tensor,
    temperature: float = 0.2,
    rule: NegativeRule | None = None,
    tile: int = 1024,
    gather: bool = True,
) -> tuple[Tensor, dict[str, float]]:
    """Normalised temperature-scaled cross entropy between two views; same value and gradient as lightly's NTXentLoss.

    Over several ranks each returns the mean over its own rows, and its backward pass gives the gradient of the *sum* of
    all ranks' losses: with DDP's averaging the parameters get the gradient of the global mean.

    Args:
        z1_BD: projections of the first views, any float dtype, not normalised. Logits are float32 (float64 stays), also
            under autocast. Every rank must bring the same B.
        z2_BD: projections of the second views, in the same order.
        temperature: at least 0.025.
        rule: weights of the negatives; positives always count. None: all weigh 1.
        tile: rows of logits held at once (two per sample).
        gather: take negatives from all ranks of the process group, if there is one.

    Returns:
        The loss (scalar) and, as floats to log, what the rule reports (empty without one).

    Raises:
        UsageError: temperature or tile out of range, or views of different shapes.
    """
    if not temperature >= MIN_TEMPERATURE:
        raise UsageError(f"temperature {temperature!r} is too low; give at least {MIN_TEMPERATURE}")
    if tile < 2:
        raise UsageError(f"tile {tile!r} is too small; give at least 2 rows")
    if z1_BD.shape != z2_BD.shape or z1_BD.ndim != 2:
        raise UsageError(f"two views of shape (batch, features) expected, got {z1_BD.shape} and {z2_BD.shape}")
    with exact_matmul(z1_BD.device.type):
        z_2BD = torch.stack([z1_BD, z2_BD])
        z_2BD = F.normalize(z_2BD if z_2BD.dtype == torch.float64 else z_2BD.float(), dim=-1)
        positive_B = (z_2BD[0] * z_2BD[1]).sum(-1) / temperature
        lse_2B = _LogSumExp.apply(z_2BD, temperature, rule, max(1, tile // 2), gather)
        loss = lse_2B.mean() - positive_B.mean()
    return loss, dict(rule.stats) if rule is not None else {}


@contextmanager
def exact_matmul(device_type: str) -> Iterator[None]:
    """Full float32 products whatever autocast and the global matmul precision say: T = .05 multiplies errors by 20."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


class _LogSumExp(torch.autograd.Function):
    """``lse_i = log sum_{j != i} w_ij exp(z_i . z_j / T)`` for the local rows, over the columns of all ranks."""

    @staticmethod
    def forward(
        ctx: Any, z_2BD: Tensor, temperature: float, rule: NegativeRule | None, samples: int, gather: bool
    ) -> Tensor:
        rank, size = world() if gather else (0, 1)
        z_2ND = all_gather(z_2BD, dim=1) if size > 1 else z_2BD.detach()
        count = z_2BD.shape[1]
        tiles = _Tiles(z_2ND, temperature, rule, samples, rank * count, (rank + 1) * count)
        total_2N = z_2ND.new_zeros(z_2ND.shape[:2])
        for rows, cols, e, weights in tiles:
            total_2N[:, rows] += _reduce(e, None if weights is None else weights[0], dim=1)
            if tiles.mirrored(rows, cols):
                total_2N[:, cols] += _reduce(e, None if weights is None else weights[1], dim=0)
        total_2B = total_2N[:, rank * count : (rank + 1) * count]
        ctx.save_for_backward(z_2ND, total_2B)
        ctx.settings = (temperature, rule, samples, rank, size)
        return total_2B.log() + 1.0 / temperature

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z_2ND, total_2B = ctx.saved_tensors
        temperature, rule, samples, rank, size = ctx.settings
        count = total_2B.shape[1]
        with exact_matmul(z_2ND.device.type):
            # the whole of g_i / L_i, the only thing a rank must learn from the others
            share_2B = grads[0] / total_2B
            share_2N = all_gather(share_2B, dim=1) if size > 1 else share_2B
            tiles = _Tiles(z_2ND, temperature, rule, samples, rank * count, (rank + 1) * count)
            grad_2ND = torch.zeros_like(z_2ND)
            for rows, cols, e, weights in tiles:
                blend = _blend(share_2N[:, rows], share_2N[:, cols], weights).mul_(e)
                grad_2ND[:, rows] += (blend @ tiles.flat(cols)).view(2, -1, z_2ND.shape[2])
                if tiles.mirrored(rows, cols):
                    grad_2ND[:, cols] += (blend.T @ tiles.flat(rows)).view(2, -1, z_2ND.shape[2])
            grad_2BD = grad_2ND[:, rank * count : (rank + 1) * count] / temperature
        return grad_2BD, None, None, None, None


class _Tiles:
    """Walks tiles of ``exp((z_i . z_j - 1) / T)``: (row samples, column samples, e of (2 Sr, 2 Sc), rule weights).

    When the rows are all samples (one process) only tiles on and above the diagonal are visited; ``mirrored`` says that
    a tile stands for its transpose too.
    """

    def __init__(
        self, z_2ND: Tensor, temperature: float, rule: NegativeRule | None, samples: int, start: int, stop: int
    ):
        self.z_2ND, self.temperature, self.rule = z_2ND, temperature, rule
        total = z_2ND.shape[1]
        self.all_rows = stop - start == total
        self.rows = [slice(i, min(i + samples, stop)) for i in range(start, stop, samples)]
        every = [slice(i, min(i + samples, total)) for i in range(0, total, samples)]
        self.cols = self.rows if self.all_rows else every
        self.parts = {(s.start, s.stop): z_2ND[:, s].flatten(0, 1) for s in [*self.rows, *self.cols]}

    def flat(self, block: slice) -> Tensor:
        """Features (2 S, D) of a block: first views, then second views."""
        return self.parts[block.start, block.stop]

    def mirrored(self, rows: slice, cols: slice) -> bool:
        """True when this tile also stands for the one across the diagonal."""
        return self.all_rows and rows.start != cols.start

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, tuple[Tensor, Tensor] | None]]:
        for rows in self.rows:
            for cols in self.cols:
                if self.all_rows and cols.start < rows.start:
                    continue
                e = self.flat(rows) @ self.flat(cols).T
                e.sub_(1.0).div_(self.temperature).exp_()
                _drop_self(e, rows, cols)
                yield rows, cols, e, None if self.rule is None else self.rule.pair(rows, cols)


def _drop_self(e: Tensor, rows: slice, cols: slice) -> None:
    """Zero the similarity of each view with itself (never with the other view of its sample)."""
    first, last = max(rows.start, cols.start), min(rows.stop, cols.stop)
    if first >= last:
        return
    sample = torch.arange(first, last, device=e.device)
    for view in (0, 1):
        row = sample - rows.start + view * (rows.stop - rows.start)
        col = sample - cols.start + view * (cols.stop - cols.start)
        e[row, col] = 0.0


def _reduce(e: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    """(2, S) sums of a tile along columns (``dim=1``) or rows (``dim=0``), weighted by a (Sr, Sc) matrix."""
    if weight is None:
        return e.sum(dim).view(2, -1)
    rows, cols = weight.shape
    e4 = e.view(2, rows, 2, cols)
    return (e4 * weight[None, :, None, :]).sum((0, 1) if dim == 0 else (2, 3))


def _blend(share_2R: Tensor, share_2C: Tensor, weights: tuple[Tensor, Tensor] | None) -> Tensor:
    """(2 Sr, 2 Sc) factor ``g_i w_ij / L_i + g_j w_ji / L_j`` of a tile."""
    if weights is None:
        return share_2R.reshape(-1, 1) + share_2C.reshape(1, -1)
    w_rc, w_cr = (w.to(share_2R.dtype).contiguous() for w in weights)
    blend = share_2R[:, :, None, None] * w_rc[None, :, None, :]
    blend = blend + share_2C[None, None, :, :] * w_cr[None, :, None, :]
    return blend.reshape(2 * len(w_rc), -1)
