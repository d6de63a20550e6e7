"""Tiles cover everything once the weights are divided out, whatever tile, stride and size; memory stays bounded."""

from __future__ import annotations

import numpy as np
import pytest

from specfm.errors import UsageError
from specfm.tiles import (
    HALO_WEIGHT,
    RowBlender,
    Tile,
    TilePlan,
    blend_block,
    blend_weights,
    blended_rows,
    sample_cells,
    starts,
    tile_rows,
)

SHAPES = [(1, 1), (5, 17), (16, 16), (33, 40), (31, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tile", "stride"), [(1, 1), (8, 8), (8, 3), (16, 5), (16, 16)])
def test_tiles_cover_every_cell_and_stay_inside(shape: tuple[int, int], tile: int, stride: int) -> None:
    seen = np.zeros(shape, int)
    for row in tile_rows(shape, tile, stride):
        for t in row:
            assert t.row >= 0 and t.col >= 0 and t.row + t.height <= shape[0] and t.col + t.width <= shape[1]
            seen[t.row : t.row + t.height, t.col : t.col + t.width] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tile", "stride"), [(8, 8), (8, 3), (16, 5)])
def test_blending_tiles_of_one_field_gives_the_field_back(shape: tuple[int, int], tile: int, stride: int) -> None:
    field = np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)
    blender = RowBlender(shape[1], 3)
    rows = list(tile_rows(shape, tile, stride))
    pieces = []
    for i, row in enumerate(rows):
        for t in row:
            part = field[t.row : t.row + t.height, t.col : t.col + t.width]
            blender.add(t, part, np.ones(part.shape[:2], bool))
        assert len(blender._sum) <= tile  # only the open rows are kept
        first, done = blender.finish_above(rows[i + 1][0].row if i + 1 < len(rows) else shape[0])
        assert first == sum(len(p) for p in pieces)
        pieces.append(done)
    np.testing.assert_allclose(np.concatenate(pieces), field, atol=1e-5)


def test_invalid_cells_carry_no_weight_and_uncovered_ones_are_nan() -> None:
    blender = RowBlender(4, 1)
    values = np.full((2, 4, 1), np.nan, np.float32)
    values[:, :2] = 7
    valid = np.zeros((2, 4), bool)
    valid[:, :2] = True
    blender.add(Tile(0, 0, 2, 4), values, valid)
    _, done = blender.finish_above(2)
    assert (done[:, :2] == 7).all() and np.isnan(done[:, 2:]).all()


def test_weights_fall_to_the_border_and_stay_positive() -> None:
    weights = blend_weights(8, 5)
    assert weights.shape == (8, 5) and weights.min() > 0
    assert weights[4, 2] == weights.max() and weights[0, 0] == weights.min()


def test_a_late_tile_is_a_programming_error() -> None:
    blender = RowBlender(4, 1)
    blender.add(Tile(0, 0, 2, 4), np.ones((2, 4, 1), np.float32), np.ones((2, 4), bool))
    blender.finish_above(2)
    with pytest.raises(ValueError, match="after row 2"):
        blender.add(Tile(1, 0, 2, 4), np.ones((2, 4, 1), np.float32), np.ones((2, 4), bool))


@pytest.mark.parametrize(("tile", "stride"), [(4, 5), (0, 1), (4, 0)])
def test_impossible_tilings_are_refused(tile: int, stride: int) -> None:
    with pytest.raises(UsageError):
        starts(10, tile, stride)


def test_an_origin_shifts_the_lattice_and_still_covers_all() -> None:
    assert starts(20, 8, 4) == [0, 4, 8, 12] and starts(20, 8, 4, origin=3) == [0, 3, 7, 11, 12]
    for origin in range(9):
        covered = np.zeros(37, bool)
        for start in starts(37, 8, 5, origin):
            covered[start : start + 8] = True
        assert covered.all()


def test_halo_cells_count_only_where_nothing_else_covers() -> None:
    weights = blend_weights(8, 8, halo=2)
    assert (weights[2:-2, 2:-2] > 0.2).all() and weights[0].max() <= HALO_WEIGHT
    field = np.arange(40, dtype=np.float32)[:, None] + np.arange(24, dtype=np.float32)

    def compute(tiles: list[Tile]) -> tuple[np.ndarray, np.ndarray]:
        values = np.stack([field[t.row : t.row + 8, t.col : t.col + 8] for t in tiles])[..., None].copy()
        inner = np.zeros((8, 8), bool)
        inner[2:-2, 2:-2] = True
        values[:, ~inner] += 100  # what the border of a window sees is wrong
        return values, np.ones(values.shape[:-1], bool)

    plan = TilePlan((40, 24), 8, 4, halo=2)
    done = np.concatenate([rows for _, rows in blended_rows(plan, compute, 3)])[..., 0]
    np.testing.assert_allclose(done[2:-2, 2:-2], field[2:-2, 2:-2], atol=0.01)
    np.testing.assert_allclose(done[0], field[0] + 100, atol=0.01)
    np.testing.assert_array_equal(sample_cells(plan, compute, 10_000, 0, 3)[:, 0], done.ravel())
    block = blend_block(plan, compute, Tile(9, 5, 6, 11), 2)
    np.testing.assert_array_equal(block[..., 0], done[9:15, 5:16])
    with pytest.raises(UsageError, match="stride"):
        TilePlan((40, 24), 8, 5, halo=2)


def test_a_sample_is_drawn_by_seed_and_over_the_whole_grid() -> None:
    def compute(tiles: list[Tile]) -> tuple[np.ndarray, np.ndarray]:
        places = [np.mgrid[t.row : t.row + 4, t.col : t.col + 4].transpose(1, 2, 0) for t in tiles]
        return np.stack(places).astype(np.float32), np.ones((len(tiles), 4, 4), bool)

    plan = TilePlan((400, 400), 4, 4)
    one, two, other = (sample_cells(plan, compute, 500, seed, 7) for seed in (1, 1, 2))
    assert len(one) == 500 and (one == two).all() and not np.array_equal(one, other)
    assert abs(one.mean(0) - 200).max() < 60 and one.std(0).min() > 60
