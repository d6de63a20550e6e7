"""Objectives of distillation against their formulas, written out slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from downstream.compress import losses

B, K, D = 5, 4, 6


def scores(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kl(teacher: np.ndarray, student: np.ndarray, t: float) -> float:
    """T^2 sum_k p log(p / q), sample by sample."""
    total = 0.0
    for z, s in zip(teacher, student, strict=True):
        p, q = (np.exp(v / t) / np.exp(v / t).sum() for v in (z, s))
        total += t * t * float((p * np.log(p / q)).sum())
    return total / len(teacher)


def test_softened_kl() -> None:
    student, teacher = scores(0, B, K), scores(1, B, K)
    assert float(losses.softened_kl(student, teacher, 3.0)) == pytest.approx(kl(teacher.numpy(), student.numpy(), 3.0))
    assert float(losses.softened_kl(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-12)


def test_relational_and_its_gradient_where_samples_are_equal() -> None:
    ours, theirs = scores(0, B, D), scores(1, B, 3)

    def huber(a: float, b: float) -> float:
        return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5

    def distances(x: np.ndarray) -> np.ndarray:
        d = np.array([[math.dist(a, b) for b in x] for a in x])
        return d / d[d > 0].mean()

    def angle(x: np.ndarray, i: int, j: int, k: int) -> float:
        a, b = x[j] - x[i], x[k] - x[i]
        size = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / size) if size > 0 else 0.0

    a, b = ours.numpy(), theirs.numpy()
    wanted = np.mean([huber(p, q) for p, q in zip(distances(a).ravel(), distances(b).ravel(), strict=True)])
    triplets = [(i, j, k) for i in range(B) for j in range(B) for k in range(B)]
    wanted += 2 * np.mean([huber(angle(a, *t), angle(b, *t)) for t in triplets])
    assert float(losses.relational(ours, theirs)) == pytest.approx(wanted)
    equal = torch.ones(B, D, requires_grad=True)
    losses.relational(equal, theirs.float()).backward()
    assert equal.grad is not None and equal.grad.isfinite().all()


def test_attention_maps() -> None:
    ours, theirs = scores(0, B, 9, D), scores(1, B, 9, 3)
    maps = [np.array([[np.mean(t**2) for t in sample] for sample in x.numpy()]) for x in (ours, theirs)]
    maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    assert float(losses.attention(ours, theirs)) == pytest.approx(float(((maps[0] - maps[1]) ** 2).mean()))
    assert float(losses.attention(5 * theirs, theirs)) == pytest.approx(0, abs=1e-12)


def test_mutual_learning_moves_each_by_itself() -> None:
    z = scores(0, 3, B, K).requires_grad_()
    found = losses.mutual(z, 2.0)
    wanted = (
        sum(kl(z[b].detach().numpy(), z[a].detach().numpy(), 2.0) for a in range(3) for b in range(3) if a != b) / 2
    )
    assert float(found) == pytest.approx(wanted)
    (gradient,) = torch.autograd.grad(found, z)
    alone = z.detach().clone().requires_grad_()
    first = sum(losses.softened_kl(alone[0], z[b].detach(), 2.0) for b in (1, 2)) / 2
    assert torch.allclose(gradient[0], torch.autograd.grad(first, alone)[0][0])


def test_targets_of_peers() -> None:
    z, q, k = scores(0, 3, B, K), scores(1, 3, B, 2), scores(2, 3, B, 2)
    found = losses.peer_targets(z, q, k)
    for sample in range(B):
        for a in range(3):
            weight = np.exp([float(q[a, sample] @ k[b, sample]) for b in range(3)])
            wanted = sum(w * z[b, sample].numpy() for b, w in enumerate(weight / weight.sum()))
            assert np.allclose(found[a, sample].numpy(), wanted)


def test_ramp_up() -> None:
    assert losses.ramp_up(0, 80) == pytest.approx(math.exp(-5)) and losses.ramp_up(40, 80) == pytest.approx(
        math.exp(-1.25)
    )
    assert losses.ramp_up(80, 80) == losses.ramp_up(1000, 80) == 1
