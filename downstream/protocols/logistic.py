"""Multinomial logistic regression for a whole grid of strengths at once, in torch: for CUDA.

Shape suffixes: G strengths, M samples, D features, K classes, P parameters (K weights and a bias each), R pairs kept.
The objective, its scaling and its stopping rule are scikit-learn's (mean log-loss + |w|^2 / (2 C M), bias not
penalised, largest gradient below ``tol``), so the tests hold both to the same solution. The problems of the grid share
every matrix product and nothing else: each has its own L-BFGS directions and line search (Liu & Nocedal 1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PAIRS = 10  # curvature pairs kept by L-BFGS
HALVINGS = 25


@dataclass(frozen=True)
class GridFit:
    """Weights of every strength: ``weight_GKP`` with the bias last, in the order of ``classes_K``."""

    weight_GKP: Any
    classes_K: np.ndarray
    converged_G: np.ndarray

    def probability(self, x_MD: np.ndarray) -> np.ndarray:
        """Class probabilities ``[G, M, K]``."""
        import torch

        x = torch.as_tensor(x_MD, dtype=self.weight_GKP.dtype, device=self.weight_GKP.device)
        logit_GMK = torch.einsum("md,gkd->gmk", x, self.weight_GKP[..., :-1]) + self.weight_GKP[:, None, :, -1]
        return logit_GMK.softmax(-1).cpu().numpy()


def fit_grid(
    x_MD: np.ndarray, y_M: np.ndarray, grid: tuple[float, ...], *, weight_M: np.ndarray | None = None,
    max_iter: int = 3000, tol: float = 1e-4, device: str = "cpu",
) -> GridFit:  # fmt: skip
    """Fit one model per strength of ``grid`` (inverse regularisation, as scikit-learn's ``C``).

    Args:
        x_MD: standardised features.
        y_M: classes, any integers.
        grid: strengths.
        weight_M: of samples in the log-loss, mean 1; None: all 1.
        max_iter: L-BFGS iterations; strengths that stop there are marked as not converged.
        tol: largest absolute gradient at which a strength is done.
        device: torch device; sums are in float64.
    """
    import torch

    classes_K, index_M = np.unique(y_M, return_inverse=True)
    x = torch.as_tensor(np.ascontiguousarray(x_MD), dtype=torch.float64, device=device)
    x_MP = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    target_M = torch.as_tensor(index_M.reshape(-1), device=device)
    count, features = x.shape
    ridge_G = 1 / (torch.tensor(grid, dtype=torch.float64, device=device) * count)
    ridge_GKP = ridge_G[:, None, None].expand(len(grid), len(classes_K), features + 1).clone()
    ridge_GKP[..., -1] = 0
    rows_M = torch.arange(count, device=device)
    weight_M = np.ones(count) if weight_M is None else weight_M
    share_M = torch.as_tensor(weight_M, dtype=torch.float64, device=device) / count

    def loss_and_gradient(weight_GKP: Any, ridge: Any) -> tuple[Any, Any]:
        logit_GMK = torch.einsum("mp,gkp->gmk", x_MP, weight_GKP)
        log_GMK = logit_GMK.log_softmax(-1)
        loss_G = -log_GMK[:, rows_M, target_M] @ share_M + 0.5 * (ridge * weight_GKP**2).sum((1, 2))
        error_GMK = log_GMK.exp_()
        error_GMK[:, rows_M, target_M] -= 1
        error_GMK *= share_M[:, None]
        return loss_G, torch.einsum("gmk,mp->gkp", error_GMK, x_MP) + ridge * weight_GKP

    final_GKP = torch.zeros_like(ridge_GKP)
    converged_G = np.zeros(len(grid), bool)
    open_G = torch.arange(len(grid), device=device)  # strengths still being fitted
    weight, ridge = final_GKP.clone(), ridge_GKP
    loss_G, slope = loss_and_gradient(weight, ridge)
    steps: list[Any] = []
    changes: list[Any] = []
    for turn in range(max_iter + 1):
        done_G = slope.abs().amax((1, 2)) <= tol
        if done_G.any() or turn == max_iter:
            final_GKP[open_G] = weight
            converged_G[open_G[done_G].cpu().numpy()] = True
            keep_G = ~done_G
            if not keep_G.any() or turn == max_iter:
                break
            open_G, weight, slope, loss_G, ridge = (t[keep_G] for t in (open_G, weight, slope, loss_G, ridge))
            steps, changes = [s[keep_G] for s in steps], [c[keep_G] for c in changes]
        direction = _direction(slope, steps, changes)
        downhill_G = (direction * slope).sum((1, 2))
        uphill_G = downhill_G >= 0  # numerical trouble: fall back to the gradient
        direction = torch.where(uphill_G[:, None, None], -slope, direction)
        downhill_G = torch.where(uphill_G, -(slope**2).sum((1, 2)), downhill_G)
        length_G = torch.ones_like(loss_G)
        if not steps:
            length_G = (1 / slope.abs().sum((1, 2))).clamp_max(1.0)
        for _ in range(HALVINGS):
            moved = weight + length_G[:, None, None] * direction
            new_loss_G, new_slope = loss_and_gradient(moved, ridge)
            bad_G = new_loss_G > loss_G + 1e-4 * length_G * downhill_G + 1e-15 * loss_G.abs()
            if not bad_G.any():
                break
            length_G = torch.where(bad_G, length_G / 2, length_G)
        steps.append(moved - weight)
        changes.append(new_slope - slope)
        del steps[:-PAIRS], changes[:-PAIRS]
        weight, slope, loss_G = moved, new_slope, new_loss_G
    return GridFit(final_GKP, classes_K, converged_G)


def _direction(slope: Any, steps: list[Any], changes: list[Any]) -> Any:
    """Minus the inverse curvature times the gradient, by the two loops of L-BFGS; one recursion per strength."""
    import torch

    q, stack = slope.clone(), []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        curve_G = (step * change).sum((1, 2))
        rho_G = torch.where(curve_G > 1e-300, 1 / curve_G.clamp_min(1e-300), 0.0)  # a pair without curvature is skipped
        alpha_G = rho_G * (step * q).sum((1, 2))
        q -= alpha_G[:, None, None] * change
        stack.append((step, change, rho_G, alpha_G))
    if stack:
        step, change, rho_G, _ = stack[0]
        scale_G = (step * change).sum((1, 2)) / (change**2).sum((1, 2)).clamp_min(1e-300)
        q *= torch.where(rho_G > 0, scale_G, 1.0)[:, None, None]
    for step, change, rho_G, alpha_G in reversed(stack):
        q += (alpha_G - rho_G * (change * q).sum((1, 2)))[:, None, None] * step
    return -q
