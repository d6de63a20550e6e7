"""Windows are centred on their pixel, cover the edges without mirroring, and pool as documented."""

from __future__ import annotations

import numpy as np
import pytest

from downstream.features.extract import extract, iterate_windows
from downstream.features.spectra import seen_through, spectra
from downstream.splits.samples import collect_samples
from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import pretreat
from tests.downstream.toy_scenes import SENSOR, ToyEncoder, field, plots

FIELD = field(40, 30)


@pytest.mark.parametrize("window", [1, 4, 9])
@pytest.mark.parametrize("strip", [7, 128])
def test_windows_are_what_slicing_gives(window: int, strip: int) -> None:
    scenes = plots(3)
    samples = collect_samples(scenes, window)
    seen = np.zeros(len(samples), int)
    for part in iterate_windows(scenes, samples, window, batch=10, strip=strip):
        cube = part.scene.read()
        height, width, _ = cube.shape
        for k, i in enumerate(part.ids_B):
            seen[i] += 1
            row, col = samples.rc_N2[i] - window // 2
            for a in range(window):
                for b in range(window):
                    inside = 0 <= row + a < height and 0 <= col + b < width
                    assert part.mask_BHW[k, a, b] == inside
                    if inside:
                        np.testing.assert_array_equal(part.x_BHWC[k, a, b], cube[row + a, col + b])
        assert len(part.ids_B) <= 10
    assert (seen == 1).all()


def test_batch_size_does_not_matter_and_edges_are_marked_invalid() -> None:
    encoder = ToyEncoder()
    a = extract(encoder, [FIELD], 9, batch=7)
    b = extract(ToyEncoder(), [FIELD], 9, batch=500)
    np.testing.assert_allclose(a.X_ND, b.X_ND, atol=1e-6)
    assert encoder.invalid > 0 and a.X_ND.shape == (len(a.y_N), 32)


def test_poolings() -> None:
    mean, centre, both = (extract(ToyEncoder(), [FIELD], 9, pooling=p).X_ND for p in ("mean", "centre", "concat"))
    np.testing.assert_array_equal(both, np.concatenate([mean, centre], 1))
    samples = collect_samples([FIELD], 9)
    inner = np.flatnonzero((samples.rc_N2 > 4).all(1) & (samples.rc_N2 < 25).all(1))[3]
    row, col = samples.rc_N2[inner]
    patch = FIELD.read()[row - 1 : row + 2, col - 1 : col + 2].mean((0, 1))
    np.testing.assert_allclose(centre[inner], patch @ ToyEncoder().weight[:12].numpy(), atol=1e-5)


def test_raw_spectra_are_physical_and_skip_invalid_bands_and_pixels() -> None:
    valid = np.ones(12, bool)
    valid[3] = False
    cube = FIELD.read()
    cube[0, 0] = np.nan
    cube[:, :, 3] = 1e9
    sensor = SENSOR.replace(bands=BandGrid(SENSOR.bands.wavelengths_nm, valid=valid), scale=0.5, offset=1.0)
    scene = FIELD.replace(source=type(FIELD.source)(cube), sensor=sensor)
    samples = collect_samples([scene], 3)
    assert not (samples.rc_N2 == 0).all(1).any()
    pixel, mean, nothing = spectra([scene], 3, samples) or pytest.fail("one grid")
    assert nothing is None
    i = int(np.flatnonzero((samples.rc_N2 == [1, 1]).all(1) | (samples.rc_N2 == [0, 1]).all(1))[0])
    row, col = samples.rc_N2[i]
    np.testing.assert_allclose(pixel.X_ND[i], cube[row, col, valid] * 0.5 + 1, rtol=1e-5)
    block = cube[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2][..., valid].reshape(-1, 11)
    np.testing.assert_allclose(mean.X_ND[i], np.nanmean(block, 0) * 0.5 + 1, rtol=1e-5)


@pytest.mark.parametrize(("window", "patch"), [(9, 3), (9, 1), (8, 4), (3, 5)])
def test_the_patch_is_the_square_about_the_labelled_pixel(window: int, patch: int) -> None:
    cube = FIELD.read()
    cube[10:14, 20:30] = np.nan
    scene = FIELD.replace(source=type(FIELD.source)(cube))
    samples = collect_samples([scene], window)
    found = spectra([scene], window, samples, patch=patch)
    assert found is not None and (found.patch is None) == (patch == 1)
    if found.patch is None:
        return
    side = min(patch, window)
    assert found.patch.name == f"{side}x{side} mean"
    for i in range(0, len(samples), 37):
        row, col = samples.rc_N2[i] - side // 2
        block = cube[max(row, 0) : row + side, max(col, 0) : col + side]
        np.testing.assert_allclose(found.patch.X_ND[i], np.nanmean(block, (0, 1)), rtol=1e-5)


def test_spectra_of_different_pretreatments_are_not_compared() -> None:
    scenes = [*plots(2), *(pretreat(scene, ["snv"]) for scene in plots(2))]
    assert spectra(scenes, 3, collect_samples(scenes, 3)) is None


def test_different_grids_are_resampled_to_the_coarser_one() -> None:
    other = SENSOR.replace(bands=BandGrid(np.linspace(460, 880, 6)))
    scenes = [*plots(2), *plots(1, sensor=other)]
    samples = collect_samples(scenes, 3)
    pixel = (spectra(scenes, 3, samples) or pytest.fail("one range")).pixel
    assert pixel.X_ND.shape[1] == 6 and pixel.info["resampled"]
    for scene in (0, 2):
        i = int(np.flatnonzero(samples.scene_N == scene)[7])
        spectrum = scenes[scene].read()[tuple(samples.rc_N2[i])]
        grid = scenes[scene].sensor.bands.wavelengths_nm
        np.testing.assert_allclose(pixel.X_ND[i], np.interp(np.linspace(460, 880, 6), grid, spectrum), rtol=1e-5)


@pytest.mark.parametrize(("window", "same"), [(9, True), (15, True), (12, False)])
def test_in_odd_windows_the_patch_is_what_the_token_of_the_labelled_pixel_sees(window: int, same: bool) -> None:
    samples = collect_samples([FIELD], window)
    inner = (samples.rc_N2 > 8).all(1) & (samples.rc_N2 < 21).all(1)
    token_ND = extract(ToyEncoder(), [FIELD], window, samples, pooling="centre").X_ND[inner]
    found = spectra([FIELD], window, samples, patch=ToyEncoder.patch_size)
    assert found is not None and found.patch is not None and inner.any()
    seen_ND = found.patch.X_ND[inner] @ ToyEncoder().weight[:12].numpy()
    assert np.allclose(seen_ND, token_ND, atol=1e-5) == same


def test_bands_are_kept_averaged_or_interpolated_as_the_grids_tell() -> None:
    grid = BandGrid(np.arange(400.0, 1000, 10), np.full(60, 10.0), np.arange(60) != 7)
    kept = seen_through(grid, grid.subset([3, 20, 59]))
    np.testing.assert_array_equal(kept, np.eye(60, dtype=np.float32)[:, [3, 20, 59]])
    wide = BandGrid([505.0, 700.0], [40.0, 80.0])
    np.testing.assert_allclose(seen_through(grid, wide), grid.resample(wide)[1].T, atol=1e-6)
    points = BandGrid([505.0, 702.0, 1100.0], [2.0, np.nan, 40.0])  # too narrow, of unknown width, outside
    expected = [np.interp([505.0, 702.0, 1100.0], grid.wavelengths_nm[grid.valid], unit) for unit in np.eye(59)]
    found = seen_through(grid, points)
    np.testing.assert_allclose(found[grid.valid], np.stack(expected), atol=1e-6)
    assert not found[7].any()
    np.testing.assert_allclose(seen_through(grid, BandGrid(np.linspace(430, 950, 13))).sum(0), 1, rtol=1e-5)


def test_other_quantities_or_ranges_have_no_common_raw_spectrum() -> None:
    infrared = SENSOR.replace(bands=BandGrid(np.linspace(1500, 2400, 12)))
    for other in (SENSOR.replace(bands=BandGrid(np.linspace(460, 880, 12)), quantity="radiance"), infrared):
        scenes = [*plots(2), *plots(1, sensor=other)]
        assert spectra(scenes, 3, collect_samples(scenes, 3)) is None


def test_refusals() -> None:
    with pytest.raises(UsageError, match="not a multiple of the encoder's patch"):
        extract(ToyEncoder(), [FIELD], 8)
    with pytest.raises(UsageError, match="unknown pooling 'max'"):
        extract(ToyEncoder(), [FIELD], 9, pooling="max")
    with pytest.raises(UsageError, match="guards"):
        extract(ToyEncoder(), [FIELD], 12, collect_samples([FIELD], 9))
    broken = ToyEncoder()
    broken.weight = broken.weight * np.nan
    with pytest.raises(SpecfmError, match="non-finite"):
        extract(broken, [FIELD], 9)
