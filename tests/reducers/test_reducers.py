"""Reducers: which bands, what they are called, what becomes of values; components from training pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from specfm.band_selection import REGIONS
from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.errors import UsageError
from specfm.reducers import (
    PHYSICAL,
    Fitted,
    Listed,
    Merge,
    Moments,
    Principal,
    Reducer,
    Regions,
    Uniform,
    Window,
    bands_of,
)
from specfm.reducers.base import allocate
from specfm.sensors import Sensor

NM = np.concatenate([np.arange(400, 1340, 10.0), np.arange(1460, 1790, 10.0), np.arange(1970, 2460, 10.0)])
BANDS = BandGrid(NM, np.full(len(NM), 11.0), np.arange(len(NM)) % 17 != 3)
USABLE = int(BANDS.valid.sum())


def cubes(bands: BandGrid = BANDS, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 3, len(bands), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PHYSICAL)
@pytest.mark.parametrize("k", [3, 7, 40, USABLE])
def test_k_bands_with_wavelengths_and_values_in_the_units_of_the_cube(kind: str, k: int) -> None:
    found = PHYSICAL[kind]().plan(BANDS, k)
    assert found.bands is not None and len(found.bands) == k and found.bands.valid.all()
    assert np.allclose(found.matrix_KC.sum(1), 1) and not found.matrix_KC[:, ~BANDS.valid].any()
    assert np.allclose(found.matrix_KC[:, BANDS.valid] @ NM[BANDS.valid], found.bands.wavelengths_nm)
    assert len(np.unique(found.bands.wavelengths_nm)) == k


def test_merged_bands_are_wider_and_reach_over_no_gap() -> None:
    found = Merge().plan(BANDS, 12)
    assert found.bands is not None
    for row, centre in zip(found.matrix_KC, found.bands.wavelengths_nm, strict=True):
        members = NM[row > 0]
        assert np.diff(members).max() <= 20 and members.min() < centre < members.max()
    span = np.array([np.ptp(NM[row > 0]) for row in found.matrix_KC])
    assert (found.bands.fwhm_nm > 0.6 * span).all() and (found.bands.fwhm_nm < span + 22).all()
    gappy = BandGrid([500, 501, 502, 700, 701, 702, 900, 901, 902, 1100, 1101, 1102])
    few = Merge().plan(gappy, 3).bands  # fewer groups than pieces between gaps: gaps are crossed
    assert few is not None and few.fwhm_nm.max() > 200


def test_values_of_a_cube_as_stored() -> None:
    """Merging counts with a scale and unusable NaN gives what merging reflectance gives; the metadata goes along."""
    x = cubes()
    sensor = Sensor(BANDS, scale=1e-4, offset=-0.1, gsd_m=5.0, name="toy")
    counts = ((x + 0.1) * 1e4).round()
    stored = counts.clone()
    stored[..., ~BANDS.valid] = torch.nan
    y, bands = Merge().reduce(stored, BandTensors.from_sensors(sensor), 0.25)
    k = bands_of(0.25, USABLE)
    assert y.shape == (2, 3, 3, k) and bands.names == ("toy",) and float(bands.gsd_m_G) == 5.0
    matrix = torch.from_numpy(Merge().plan(BANDS, k).matrix_KC).float()
    physical = counts * 1e-4 - 0.1
    assert torch.allclose(y * bands.scale_G + bands.offset_G, physical @ matrix.T, atol=1e-4)
    assert torch.equal(Merge().reduce(counts.to(torch.int16), BandTensors.from_sensors(sensor), 0.25)[0], y)


def test_samples_of_several_sensors_are_padded() -> None:
    other = BandGrid(np.linspace(450, 900, 8))
    bands = BandTensors.from_sensors([BANDS, other])
    x = torch.rand(2, 3, 3, len(BANDS))
    y, found = Uniform().reduce(x, bands, 0.5)
    assert y.shape[-1] == found.channels == bands_of(0.5, USABLE) and found.valid_GC.sum(1).tolist() == [y.shape[-1], 4]
    alone, one = Uniform().reduce(x[1:, ..., :8], BandTensors.from_sensors(other), 0.5)
    assert torch.allclose(y[1:, ..., :4], alone) and not y[1, ..., 4:].any()
    assert torch.equal(one.wavelengths_nm_GC[0], found.wavelengths_nm_GC[1, :4])


def test_a_sensor_without_a_usable_band_stays_without_one() -> None:
    nothing = BandGrid([500.0, 600.0], valid=[False, False])
    y, bands = Merge().reduce(torch.full((1, 2, 2, 2), torch.nan), BandTensors.from_sensors(nothing), 0.5)
    assert not bands.valid_GC.any() and torch.equal(y, torch.zeros(1, 2, 2, 1))


def numbers(reducer: Reducer, k: int) -> list[int]:
    return reducer.plan(BANDS, k).matrix_KC.argmax(1).tolist()


def test_which_bands_are_chosen() -> None:
    usable = np.flatnonzero(BANDS.valid).tolist()
    middle = numbers(Window(), 9)
    assert middle == usable[usable.index(middle[0]) :][:9] and set(middle) < set(numbers(Window(), 20))
    gaps = np.diff([usable.index(i) for i in numbers(Uniform(), 16)])
    assert gaps.min() >= USABLE // 16 and gaps.max() <= USABLE // 16 + 1
    picked = NM[numbers(Regions(), 12)]
    counts = {name: int(((picked >= low) & (picked < high)).sum()) for name, (low, high) in REGIONS.items()}
    assert counts == {"uv": 0, "blue": 2, "green": 2, "red": 2, "nir": 2, "swir1": 2, "swir2": 2}
    assert numbers(Listed([30, 2, 4, 9]), 3) == [29, 1, 8]  # the fourth band is unusable
    shuffled = np.random.default_rng(0).permutation(len(NM))
    found = Merge().plan(BANDS.subset(shuffled), 10).bands
    assert found is not None and np.allclose(found.wavelengths_nm, Merge().plan(BANDS, 10).bands.wavelengths_nm)  # type: ignore[union-attr]


@pytest.mark.parametrize(("sizes", "k", "given"), [([9, 9], 5, [3, 2]), ([1, 9, 9], 7, [1, 3, 3]), ([2, 2], 4, [2, 2])])
def test_places_are_shared_evenly(sizes: list[int], k: int, given: list[int]) -> None:
    assert allocate(sizes, k) == given


@pytest.mark.parametrize(("k", "count"), [(0.25, 50), (0.001, 3), (1.0, 200), (7, 7), (500, 200), (2, 3)])
def test_shares_and_numbers_of_bands(k: float, count: int) -> None:
    assert bands_of(k, 200) == count


@pytest.mark.parametrize("listed", [[], [0], [3, 3]])
def test_a_list_holds_each_band_once(listed: Sequence[int]) -> None:
    with pytest.raises(UsageError, match="each band once, counted from 1"):
        Listed(listed)


def test_a_band_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="band 900 of the list does not exist in a sensor of"):
        Listed([900]).plan(BANDS, 1)
    with pytest.raises(UsageError, match="no band of the list is usable"):
        Listed([4]).plan(BANDS, 1)


def pixels(n: int = 500) -> torch.Tensor:
    """Three sources in ten bands, with noise."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    sources = torch.rand(n, 3, generator=generator, dtype=torch.float64) ** 3
    return sources @ mixing + 0.01 * torch.randn(n, 10, generator=generator, dtype=torch.float64)


TEN = BandGrid(np.linspace(400, 900, 11), valid=np.arange(11) != 5)


def standardised() -> torch.Tensor:
    x = pixels()
    return (x - x.mean(0)) / x.std(0, unbiased=False)


def test_principal_components_are_those_of_scikit_learn_and_nested() -> None:
    from sklearn.decomposition import PCA

    moments = Moments(10)
    for piece in pixels().split(77):
        moments.add(piece)
    reducer = Principal(TEN, moments)
    five = reducer.plan(TEN, 5).matrix_KC
    assert five.shape == (5, 11) and not five[:, 5].any()
    assert np.array_equal(five[:3], reducer.plan(TEN, 3).matrix_KC)
    ours = five[:, TEN.valid] / np.linalg.norm(five[:, TEN.valid], axis=1, keepdims=True)
    theirs = PCA(5).fit(standardised().numpy())
    assert np.allclose(np.abs((ours * theirs.components_).sum(1)), 1, atol=1e-6)
    seen = standardised().numpy() @ five[:, TEN.valid].T
    assert np.allclose(seen.std(0), 1, rtol=1e-3)  # all as loud


@pytest.mark.parametrize("kind", ["ica", "factors"])
def test_fitted_components_are_linear_and_repeatable(kind: str) -> None:
    reducer = Fitted(TEN, kind, standardised().numpy(), seed=3)
    rows = reducer.plan(TEN, 3).matrix_KC[:, TEN.valid]
    assert np.array_equal(rows, Fitted(TEN, kind, standardised().numpy(), seed=3).plan(TEN, 3).matrix_KC[:, TEN.valid])
    seen = standardised().numpy() @ rows.T
    assert np.abs(np.corrcoef(seen.T) - np.eye(3)).max() < 0.1  # uncorrelated, as both methods want it
    left = standardised().numpy() - seen @ np.linalg.lstsq(seen, standardised().numpy(), rcond=None)[0]
    assert (left**2).sum() < 0.05 * (standardised().numpy() ** 2).sum()


def test_components_have_no_wavelengths_and_one_sensor() -> None:
    reducer = Fitted(TEN, "ica", standardised().numpy())
    with pytest.raises(UsageError, match="no wavelengths, so an encoder that reads bands cannot use them; use merge"):
        reducer.reduce(torch.rand(1, 2, 2, 11), BandTensors.from_sensors(TEN), 3)
    with pytest.raises(UsageError, match="belong to the sensor that they were fitted to"):
        reducer.plan(BANDS, 3)
