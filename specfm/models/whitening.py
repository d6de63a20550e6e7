"""Whitened linear maps in closed form: what changes between near neighbours is noise, what varies besides is signal.

Works on any vectors that lie on a ground: tokens of an embedding, spectra of patches. Nothing here needs a label. As
minimum noise fraction (Green et al., IEEE TGRS 26, 1988) it takes the noise from differences of neighbours; between
its extremes (a direction keeps its signal-to-noise ratio, or every direction counts alike) it stops where ``power``
says.

Shapes: M vectors, D width, B windows, N vectors of a window on its lattice of h x w cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specfm.errors import SpecfmError
from specfm.whiten_recipe import DAMPING, POWER, WhitenRecipe

LEAST = 1e-12  # share of the largest ratio that a direction counts with at least: what is below is rounding


class Moments:
    """Sums from which mean and covariance of vectors, and the covariance of their differences, follow; in float64.

    Memory is two matrices, however many vectors are added; in which pieces they come makes no difference beyond
    rounding, since values are taken about the mean of those before (Chan, Golub and LeVeque, 1983).

    Args:
        width: of the vectors.
        device: where sums are kept.

    Attributes:
        count: vectors added so far.
        pairs: differences added so far.
        mean_D: of the vectors.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.count = self.pairs = 0
        self.mean_D = torch.zeros(width, dtype=torch.float64, device=device)
        self._scatter_DD = torch.zeros(width, width, dtype=torch.float64, device=device)
        self._difference_DD = torch.zeros_like(self._scatter_DD)

    def add(self, vectors_MD: Tensor) -> None:
        """Take in vectors; all finite."""
        if not len(vectors_MD):
            return
        vectors_MD = vectors_MD.to(self.mean_D)
        mean_D = vectors_MD.mean(0)
        centred_MD = vectors_MD - mean_D
        self._join(len(vectors_MD), mean_D, centred_MD.T @ centred_MD)

    def add_differences(self, differences_MD: Tensor) -> None:
        """Take in differences between neighbours; all finite."""
        differences_MD = differences_MD.to(self.mean_D)
        self.pairs += len(differences_MD)
        self._difference_DD += differences_MD.T @ differences_MD

    def add_lattice(self, vectors_BND: Tensor, valid_BN: Tensor, grid_hw: tuple[int, int], step: int) -> None:
        """Take in windows of vectors on a lattice, with the differences of those ``step`` cells apart in row or column.

        Args:
            vectors_BND: row-major; undefined where not ``valid_BN``.
            valid_BN: True = the vector counts.
            grid_hw: cells of a window.
            step: cells, at least 1.
        """
        self.add(vectors_BND[valid_BN])
        high, wide = grid_hw
        vectors_BhwD, valid_Bhw = vectors_BND.unflatten(1, grid_hw), valid_BN.unflatten(1, grid_hw)
        for axis, size in ((1, high), (2, wide)):
            if size > step:
                near, far = (valid_Bhw.narrow(axis, first, size - step) for first in (0, step))
                low, up = (vectors_BhwD.narrow(axis, first, size - step) for first in (0, step))
                both = near & far
                self.add_differences(low[both].to(self.mean_D) - up[both].to(self.mean_D))

    def whitened(self, recipe: WhitenRecipe, brightness_D: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:func:`whitening` of these; ``brightness_D``: which direction is brightness, if any is."""
        left_out_D = None if recipe.brightness else brightness_D
        return whitening(self, recipe.power, recipe.components, recipe.damping, left_out_D)

    def merge(self, other: Moments) -> None:
        """Take in what ``other`` was given."""
        self._join(other.count, other.mean_D.to(self.mean_D), other._scatter_DD.to(self.mean_D))
        self.pairs += other.pairs
        self._difference_DD += other._difference_DD.to(self.mean_D)

    def _join(self, count: int, mean_D: Tensor, scatter_DD: Tensor) -> None:
        total = self.count + count
        if total:
            apart_D = mean_D - self.mean_D
            self._scatter_DD += scatter_DD + torch.outer(apart_D, apart_D) * (self.count * count / total)
            self.mean_D = self.mean_D + apart_D * (count / total)
            self.count = total

    @property
    def covariance_DD(self) -> Tensor:
        """Of the vectors."""
        return self._scatter_DD / max(self.count, 1)

    @property
    def noise_DD(self) -> Tensor:
        """Half the covariance of the differences: that of one vector's noise."""
        return self._difference_DD / (2 * max(self.pairs, 1))


def whitening(
    moments: Moments,
    power: float = POWER,
    components: int | None = None,
    damping: float = DAMPING,
    left_out_D: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``(W_DD, b_D)`` in float64 of the map ``v -> W v + b``.

    With N the covariance of the differences and T that of the vectors: ``W0 = (N + damping tr(N)/D)^(-1/2)``,
    ``W0 T W0 = V diag(l) V'``, ``W = c V diag(l^(power - 1/2)) V' W0``, ``b = -W mean``. A direction whose variance is
    l times its noise so keeps a deviation of ``c l^power``; c makes the mean variance of the D results 1.

    Args:
        moments: of vectors and of differences between neighbours.
        power: 0 = every direction counts alike, 0.5 = by its signal-to-noise ratio (minimum noise fraction).
        components: keep only so many directions, those of the largest l; the others become 0. None = all.
        damping: share of the mean eigenvalue of N that is added to all.
        left_out_D: a direction of the vectors that the map does not look at.

    Raises:
        SpecfmError: fewer than two vectors, no difference, or vectors that are all the same.
    """
    gain_D, vector_DD, start_DD = _directions(moments, power, damping, left_out_D)
    if components is not None:
        gain_D[: max(len(gain_D) - components, 0)] = 0
    matrix_DD = vector_DD * gain_D @ vector_DD.T @ start_DD
    matrix_DD = matrix_DD / _variance(matrix_DD, moments).sqrt()
    return matrix_DD, -matrix_DD @ moments.mean_D


def leading(moments: Moments, count: int, power: float = POWER, damping: float = DAMPING) -> Tensor:
    """M_KD in float64: the ``count`` directions that :func:`whitening` would keep, each by itself, the largest l first.

    As there, a direction keeps a deviation of ``c l^power``, and c makes the mean variance of the K results 1.

    Raises:
        SpecfmError: as :func:`whitening`.
    """
    gain_D, vector_DD, start_DD = _directions(moments, power, damping, None)
    matrix_KD = ((vector_DD * gain_D).T @ start_DD).flip(0)[:count]
    return matrix_KD / _variance(matrix_KD, moments).sqrt()


def _variance(matrix_KD: Tensor, moments: Moments) -> Tensor:
    """Mean variance of what a map gives."""
    return torch.einsum("ij,jk,ik->", matrix_KD, moments.covariance_DD, matrix_KD) / len(matrix_KD)


def _directions(
    moments: Moments, power: float, damping: float, left_out_D: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations ``l^power / l^.5`` of all directions, rising with l; V; and W0 (times what leaves a direction out)."""
    if moments.count < 2 or not moments.pairs:
        raise SpecfmError(
            f"{moments.count} vectors and {moments.pairs} pairs of neighbours are too few to tell signal from noise"
        )
    noise_DD, covariance_DD = moments.noise_DD, moments.covariance_DD
    project_DD = torch.eye(len(noise_DD)).to(noise_DD)
    if left_out_D is not None and (size := (along_D := left_out_D.to(noise_DD)).norm()) > 0:
        project_DD = project_DD - torch.outer(along_D, along_D) / size**2
        noise_DD, covariance_DD = (project_DD @ each_DD @ project_DD for each_DD in (noise_DD, covariance_DD))
    value_D, vector_DD = torch.linalg.eigh(noise_DD)
    value_D = value_D.clamp_min(0) + damping * value_D.clamp_min(0).mean()
    if not value_D[-1] > 0:
        raise SpecfmError("neighbours do not differ at all, so nothing says what is noise; give data as measured")
    start_DD = vector_DD * value_D.rsqrt() @ vector_DD.T
    ratio_D, vector_DD = torch.linalg.eigh(start_DD @ covariance_DD @ start_DD)  # rising
    gain_D = ratio_D.clamp_min(LEAST * ratio_D[-1].clamp_min(1e-300)) ** (power - 0.5)
    return gain_D, vector_DD, start_DD @ project_DD
