"""BandGrid: units, refusals, quadrature, merging, resampling (SPy as the oracle), digests.

Shapes: C bands, K bands after merging or resampling.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from specfm import BandGrid, SpecfmError
from specfm.bands import to_nm, widths_to_nm
from specfm.batch import BandTensors
from specfm.models.quadrature import effective_fwhm_nm, quadrature_weights

NAN = float("nan")
GRIDS = {
    "even": BandGrid(np.linspace(400, 2400, 201), np.full(201, 10.0)),
    "unsorted with ties": BandGrid([700, 500, 500, 650, 1600, 900], [10, 10, 20, 0, 40, 12]),
    "widths unknown": BandGrid([490, 560, 665, 842, 1610, 2190]),
    "gaps": BandGrid([450, 460, 470, 1500, 1510, 2300], np.full(6, 8.0)),
    "one band": BandGrid([550], [10]),
    "one band, width unknown": BandGrid([550]),
    "one centre thrice": BandGrid([550, 550, 550], [10, 20, 0]),
    "bad bands": BandGrid([0, 500, NAN, 700, 710, 655], [5, 5, 5, 0, 9, 9], [0, 1, 0, 1, 1, 1]),
    "nothing usable": BandGrid([500, 600], None, [0, 0]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_torch_and_numpy_quadrature_agree(name: str) -> None:
    grid = GRIDS[name]
    bands = BandTensors.from_sensors([grid, GRIDS["even"]], channels=201)  # padded, beside another grid
    count = len(grid)
    np.testing.assert_allclose(quadrature_weights(bands)[0, :count].numpy(), grid.weights, rtol=1e-12, atol=1e-15)
    assert not quadrature_weights(bands)[0, count:].any()
    np.testing.assert_allclose(
        effective_fwhm_nm(bands)[0, :count].numpy(), np.nan_to_num(grid.effective_fwhm_nm), rtol=1e-12
    )


@pytest.mark.parametrize("name", GRIDS)
def test_weights_are_shares(name: str) -> None:
    grid = GRIDS[name]
    assert grid.weights.sum() == pytest.approx(float(grid.valid.any()))
    assert np.all((grid.weights > 0) == grid.valid)


def test_weights_by_hand() -> None:
    # half-distances 5 | 5, 10 | 10, 10 mirrored | capped at 3 FWHM = 30 on both outer sides of the gap
    grid = BandGrid([500, 510, 530, 1000], [10, 10, 10, 10])
    cells = np.array([5 + 5, 5 + 10, 10 + 30, 30 + 30])
    np.testing.assert_allclose(grid.weights, cells / cells.sum())
    # unknown FWHM: the cap is 3 times the median spacing (20 nm)
    unknown = BandGrid([500, 510, 530, 1000])
    cells = np.array([5 + 5, 5 + 10, 10 + 60, 60 + 60])
    np.testing.assert_allclose(unknown.weights, cells / cells.sum())
    shared = BandGrid([500, 510, 510, 520], np.full(4, 10.0))
    np.testing.assert_allclose(shared.weights, np.array([10, 5, 5, 10]) / 30)


def test_weights_integrate_a_smooth_curve_whatever_the_sampling() -> None:
    rng = np.random.default_rng(0)
    dense = np.linspace(400, 2400, 400)
    ragged = np.concatenate([np.linspace(400, 900, 20), rng.permutation(np.linspace(925, 2400, 120))])
    curve = lambda lam: 0.3 + 0.2 * np.sin(lam / 300)
    fine, rough = BandGrid(dense), BandGrid(ragged)
    assert rough.weights @ curve(ragged) == pytest.approx(fine.weights @ curve(dense), rel=0.01)
    assert abs(curve(ragged).mean() / (fine.weights @ curve(dense)) - 1) < 1  # a plain mean would drift instead


@pytest.mark.parametrize(
    ("values", "units", "fwhm"),
    (
        ([0.5, 1.0, 10.0], "um", [0.01, 0.02, 0.5]),
        ([0.5, 1.0, 10.0], " Micrometers ", [0.01, 0.02, 0.5]),
        ([0.5, 1.0, 10.0], "microns", [0.01, 0.02, 0.5]),
        ([500, 1000, 10_000], "Nanometers", [10, 20, 500]),
        ([20_000, 10_000, 1000], "cm-1", [400, 200, 50]),
    ),
)
def test_units(values: list[float], units: str, fwhm: list[float]) -> None:
    grid = BandGrid.from_units(values, units, fwhm)
    np.testing.assert_allclose(grid.wavelengths_nm, [500, 1000, 10_000], rtol=1e-9)
    np.testing.assert_allclose(grid.fwhm_nm, [10, 20, 500], rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (([0.5, 0.6],), "micrometres.*units"),
        (([500_000, 600_000],), "units"),
        (([500, NAN],), "band 2 of .*not a number"),
        (([500, float("inf")],), "band 2 of 2"),
        (([],), "empty"),
        ((["red", "green"],), "numbers"),
        (([500, 600], [10]), "2 wavelengths but 1 FWHM"),
        (([500, 600], None, [True]), "2 wavelengths but 1 valid"),
        (([500, 600], [10, -1]), "positive"),
        (([500, 600], [10, 5000]), "exceeds its band centre.*units"),
        (([500, 600, 700], [0.01, 0.01, 0.01]), "micrometres.*units"),
    ),
)
def test_refusals_say_what_is_wrong(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        BandGrid(*arguments)


def test_unknown_unit_is_refused() -> None:
    with pytest.raises(SpecfmError, match="unknown wavelength unit 'index'"):
        BandGrid.from_units([1, 2, 3], "index")


def test_a_grid_cannot_change() -> None:
    grid, given = BandGrid([500, 600]), np.array([500.0, 600.0])
    with pytest.raises(ValueError):
        grid.wavelengths_nm[0] = 1
    copied = BandGrid(given)
    given[0] = 900
    assert copied.wavelengths_nm[0] == 500


def test_subset_takes_indices_and_masks_in_order() -> None:
    grid = BandGrid([700, 500, 600], [7, 5, 6], [1, 0, 1])
    taken = grid.subset([2, 0])
    assert taken.wavelengths_nm.tolist() == [600, 700] and taken.fwhm_nm.tolist() == [6, 7]
    assert grid.subset(np.array([True, True, False])).valid.tolist() == [True, False]


@pytest.mark.parametrize(
    ("action", "message"),
    (
        (lambda g: g.subset([0, 99]), r"band index \[0, 99\] lies outside 0..6"),
        (lambda g: g.subset([True, False]), r"one entry per band \(7\), got shape \(2,\)"),
        (lambda g: g.subset([]), "no band is left"),
        (lambda g: g.subset(np.zeros(7, bool)), "no band is left"),
        (lambda g: g.subset([0.5]), "list of integers, a mask or a slice"),
        (lambda g: g.merge([[0, 99]]), "band index.*lies outside 0..6"),
        (lambda g: g.merge([[1], [0, 0]]), r"group 1 of bands to merge, \[0, 0\], names a band twice"),
        (lambda g: g.merge([[0, -7]]), "names a band twice"),
        (lambda g: g.merge([]), "no group of bands"),
    ),
)
def test_bands_that_do_not_exist_are_refused(action: object, message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        action(BandGrid(np.linspace(400, 1000, 7)))


def test_merge_takes_masks_too() -> None:
    grid = BandGrid(np.linspace(400, 1000, 7))
    mask = np.arange(7) < 3
    merged, matrix_KC = grid.merge([mask])
    assert merged == grid.merge([[0, 1, 2]])[0] and matrix_KC.sum() == pytest.approx(1.0)


def test_merge_keeps_metadata_physical() -> None:
    grid = BandGrid([500, 510, 520, 530, 600], [10, 10, 10, 10, 25], [1, 1, 1, 0, 1])
    merged, matrix_KC = grid.merge([[0, 1, 2], [3], [4], [2, 3]])
    assert merged.valid.tolist() == [True, False, True, True]
    np.testing.assert_allclose(matrix_KC.sum(1), [1, 0, 1, 1])
    np.testing.assert_allclose(merged.wavelengths_nm[0], matrix_KC[0] @ [500, 510, 520, 530, 600])
    sigma = 10 / 2.3548200450309493
    spread = matrix_KC[0, :3] @ (np.array([500, 510, 520]) - merged.wavelengths_nm[0]) ** 2
    assert merged.fwhm_nm[0] == pytest.approx(2.3548200450309493 * np.sqrt(sigma**2 + spread))
    assert merged.wavelengths_nm[2] == 600 and merged.fwhm_nm[2] == 25  # a group of one is that band
    assert merged.wavelengths_nm[3] == 520 and matrix_KC[3, 3] == 0
    spectrum = np.array([1.0, 2.0, 3.0, 1e9, 5.0])
    assert (matrix_KC @ spectrum)[2] == 5 and (matrix_KC @ spectrum)[0] < 3


def test_merge_of_singles_is_the_grid_itself() -> None:
    grid = GRIDS["unsorted with ties"]
    merged, matrix_KC = grid.merge([[i] for i in range(len(grid))])
    assert merged == grid and np.array_equal(matrix_KC, np.eye(len(grid)))


def test_resample_agrees_with_spy() -> None:
    """SPy cuts the target's Gaussian off at half its maximum, where 0.761 of its mass is left."""
    spectral = pytest.importorskip("spectral", reason="needs spectral (extra dev)")
    rng = np.random.default_rng(0)
    source = BandGrid(np.arange(400, 1000, 2.0), np.full(300, 2.0))  # bands side by side: SPy's extents are our cells
    target = BandGrid(np.sort(rng.uniform(450, 950, 30)), rng.uniform(8, 40, 30))
    lists = (source.wavelengths_nm, target.wavelengths_nm, source.fwhm_nm, target.fwhm_nm)
    theirs_KC = spectral.BandResampler(*lists).matrix
    grid, ours_KC = source.resample(target)
    distance_KC = np.abs(source.wavelengths_nm[None] - target.wavelengths_nm[:, None])
    inside_KC = distance_KC + 1.0 < target.fwhm_nm[:, None] / 2
    assert grid == target and inside_KC.sum(1).min() >= 3
    np.testing.assert_allclose(ours_KC[inside_KC], 0.7609681085504878 * theirs_KC[inside_KC], rtol=1e-4)
    smooth = 0.4 + 0.3 * np.sin(source.wavelengths_nm / 40)
    np.testing.assert_allclose(ours_KC @ smooth, theirs_KC @ smooth, atol=0.02)


def test_resample_marks_what_the_source_does_not_cover() -> None:
    source = BandGrid(np.arange(500, 901, 5.0), np.full(81, 6.0), np.arange(81) != 40)
    target = BandGrid([450, 498, 700, 800, 901, 1200], [20, 20, 20, 20, 20, 20], [1, 1, 1, 0, 1, 1])
    grid, matrix_KC = source.resample(target)
    assert grid.valid.tolist() == [False, True, True, False, True, False]
    np.testing.assert_allclose(matrix_KC.sum(1), [0, 1, 1, 0, 1, 0])
    assert not matrix_KC[:, 40].any()  # an unusable source band is never read


def test_resample_of_a_single_band_of_unknown_width_is_refused() -> None:
    with pytest.raises(SpecfmError, match="unknown FWHM"):
        GRIDS["even"].resample(BandGrid([700]))


def test_digest_is_stable_and_tells_grids_apart() -> None:
    grid = BandGrid([450.5, 560.25, 840.0], [10, NAN, 30], [True, True, False])
    assert grid.digest == "6e88526a1a6fbbfd"  # stored in shards and checkpoints: must never change
    assert BandGrid.from_units([0.4505, 0.56025, 0.84], "um", [0.01, NAN, 0.03], [1, 1, 0]) == grid
    others = [
        BandGrid([450.5, 560.25, 840.0], [10, NAN, 30]),
        BandGrid([450.5, 560.25, 840.0], [10, 20, 30], [1, 1, 0]),
        BandGrid([450.6, 560.25, 840.0], [10, NAN, 30], [1, 1, 0]),
        BandGrid([560.25, 450.5, 840.0], [NAN, 10, 30], [1, 1, 0]),
    ]
    assert len({g.digest for g in [grid, *others]}) == 5
    assert len({grid, *others, BandGrid.from_dict(grid.to_dict())}) == 5


@pytest.mark.parametrize("name", GRIDS)
def test_dictionary_round_trip_is_strict_json(name: str) -> None:
    text = json.dumps(GRIDS[name].to_dict(), allow_nan=False)
    assert BandGrid.from_dict(json.loads(text)) == GRIDS[name]


def test_repr_names_the_range() -> None:
    assert repr(GRIDS["even"]) == "BandGrid(201 bands, 201 usable, 400.0-2400.0 nm)"
    assert "no usable band" in repr(GRIDS["nothing usable"])


def test_padding_filler_never_matters() -> None:
    a = BandTensors.from_sensors(GRIDS["gaps"], channels=9)
    b = a.replace(wavelengths_nm_GC=torch.where(a.valid_GC, a.wavelengths_nm_GC, 7777.0))
    assert torch.equal(quadrature_weights(a), quadrature_weights(b))


def test_widths_in_wavenumbers_of_centres_in_any_unit() -> None:
    for centres, units in (([800.0, 2500.0], "nm"), ([0.8, 2.5], "um"), ([12500.0, 4000.0], "cm-1")):
        centres_nm = to_nm(centres, units)
        np.testing.assert_allclose(centres_nm, [800, 2500])
        np.testing.assert_allclose(widths_to_nm([100, 100], "cm-1", centres_nm), [6.4, 62.5])


def test_errors_number_bands_from_one_in_the_whole_list() -> None:
    with pytest.raises(SpecfmError, match="wavelength of band 4 of 5 .from 1. is not a number"):
        BandGrid([500, 510, 520, np.nan, 540], valid=[True, False, True, True, True])
