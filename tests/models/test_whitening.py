"""The closed form against a slow reference in numpy, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power

from specfm.errors import SpecfmError
from specfm.models.whitening import Moments, whitening

WIDTH = 6


def windows(count: int = 200, seed: int = 0) -> np.ndarray:
    """Windows of 3 x 4 cells ``[B, 12, D]``: few smooth signals far from 0, noise of unequal strength."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(count, 1, 3)) @ rng.normal(size=(3, WIDTH)) * 2 + 50
    return signal + rng.normal(size=(count, 12, WIDTH)) * np.linspace(0.1, 2, WIDTH)


def filled(values_BND: np.ndarray, step: int = 1, pieces: int = 1) -> Moments:
    moments = Moments(values_BND.shape[-1])
    for part in np.array_split(values_BND, pieces):
        moments.add_lattice(torch.from_numpy(part), torch.ones(part.shape[:2], dtype=torch.bool), (3, 4), step)
    return moments


def reference(values_BND: np.ndarray, power: float, components: int | None, damping: float) -> tuple:
    """The formula of the docstring, written down with loops and matrix powers."""
    x = values_BND.reshape(len(values_BND), 3, 4, WIDTH)
    differences = [w[r, c] - w[r + 1, c] for w in x for r in range(2) for c in range(4)]
    differences += [w[r, c] - w[r, c + 1] for w in x for r in range(3) for c in range(3)]
    noise = np.mean([np.outer(d, d) for d in differences], axis=0)
    start = fractional_matrix_power(noise + damping * np.trace(noise) / WIDTH * np.eye(WIDTH), -0.5)
    flat = x.reshape(-1, WIDTH)
    total = np.cov(flat.T, bias=True)
    ratio, vector = np.linalg.eigh(start @ total @ start)
    gain = ratio ** (power - 0.5)
    gain[: WIDTH - (components or WIDTH)] = 0
    matrix = vector @ np.diag(gain) @ vector.T @ start
    matrix /= np.sqrt(np.trace(matrix @ total @ matrix.T) / WIDTH)
    return matrix, -matrix @ flat.mean(0)


@pytest.mark.parametrize(("power", "components", "damping"), [(0.25, None, 1e-5), (0.5, 2, 1e-5), (0.0, None, 0.1)])
def test_it_is_the_formula(power: float, components: int | None, damping: float) -> None:
    values = windows()
    matrix, bias = whitening(filled(values), power, components, damping)
    wanted, offset = reference(values, power, components, damping)
    np.testing.assert_allclose(matrix.numpy(), wanted, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), offset, rtol=1e-8, atol=1e-7)


def test_pieces_and_merged_sums_are_the_whole() -> None:
    values = windows()
    whole, merged = filled(values), filled(values[:70])
    merged.merge(filled(values[70:], pieces=3))
    for moments in (filled(values, pieces=17), merged):
        assert (moments.count, moments.pairs) == (whole.count, whole.pairs)
        for one, other in zip(whitening(moments), whitening(whole), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_vectors_have_mean_zero_and_deviation_one_and_directions_the_power_of_their_ratio() -> None:
    values = windows()
    matrix, bias = whitening(filled(values), power=0.25, damping=0)
    mapped = values.reshape(-1, WIDTH) @ matrix.numpy().T + bias.numpy()
    np.testing.assert_allclose(mapped.mean(0), 0, atol=1e-9)
    assert np.mean(mapped.var(0)) == pytest.approx(1)
    alike, _ = whitening(filled(values), power=0.0, damping=0)  # power 0: every direction counts alike
    np.testing.assert_allclose(
        np.cov((values.reshape(-1, WIDTH) @ alike.numpy().T).T, bias=True), np.eye(WIDTH), atol=1e-9
    )


def test_a_linear_change_of_the_vectors_is_undone_up_to_a_turn() -> None:
    values = windows()
    change = np.random.default_rng(3).normal(size=(WIDTH, WIDTH))
    one, other = values[:20, 0], values[:20, 0] @ change.T + 5
    first, a = whitening(filled(values), damping=0)
    second, b = whitening(filled(values @ change.T + 5), damping=0)
    before, after = one @ first.numpy().T + a.numpy(), other @ second.numpy().T + b.numpy()
    np.testing.assert_allclose(before @ before.T, after @ after.T, rtol=1e-6, atol=1e-8)


def test_a_direction_left_out_is_not_looked_at_and_the_others_are_as_without_it() -> None:
    values = windows()
    along = torch.from_numpy(np.random.default_rng(1).normal(size=WIDTH))
    matrix, bias = whitening(filled(values), damping=1e-9, left_out_D=along)
    vectors = torch.from_numpy(values.reshape(-1, WIDTH))
    moved = vectors + torch.randn(len(vectors), 1, dtype=torch.float64) * along
    torch.testing.assert_close(moved @ matrix.T + bias, vectors @ matrix.T + bias, rtol=1e-5, atol=1e-5)
    rest_DE = torch.linalg.svd(along[None], full_matrices=True).Vh[1:].T  # an orthonormal basis of what is left
    alone, shift = whitening(filled(values @ rest_DE.numpy()), damping=1e-9)
    want = vectors @ rest_DE @ alone.T + shift
    want = want @ want.T
    found = vectors @ matrix.T + bias
    share = WIDTH / (WIDTH - 1)  # the mean variance is that of all directions
    torch.testing.assert_close(found @ found.T, want * share, rtol=1e-3, atol=1e-2)


def test_invalid_cells_and_their_pairs_stay_out() -> None:
    values, valid = windows(20), np.ones((20, 12), bool)
    valid[:, 5] = False
    spoiled = values.copy()
    spoiled[:, 5] = np.nan
    moments = Moments(WIDTH)
    moments.add_lattice(torch.from_numpy(spoiled), torch.from_numpy(valid), (3, 4), 1)
    assert (moments.count, moments.pairs) == (20 * 11, 20 * (17 - 4))
    assert all(torch.isfinite(part).all() for part in whitening(moments))


def test_a_step_of_two_cells_pairs_cells_two_apart() -> None:
    assert filled(windows(1), step=2).pairs == 4 + 6
    assert filled(windows(1), step=3).pairs == 3


@pytest.mark.parametrize(("vectors", "pairs"), [(0, 0), (1, 5), (9, 0)])
def test_too_little_is_refused(vectors: int, pairs: int) -> None:
    moments = Moments(WIDTH)
    moments.add(torch.randn(vectors, WIDTH))
    moments.add_differences(torch.randn(pairs, WIDTH))
    with pytest.raises(SpecfmError, match="too few"):
        whitening(moments)


def test_neighbours_that_never_differ_are_refused() -> None:
    moments = Moments(WIDTH)
    moments.add(torch.ones(9, WIDTH))
    moments.add_differences(torch.zeros(9, WIDTH))
    with pytest.raises(SpecfmError, match="do not differ"):
        whitening(moments)
