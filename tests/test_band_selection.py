"""Band selection: the same words everywhere, only the asked bands are read, and each form takes what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specfm.band_selection import RGB_NM, BandSelection
from specfm.bands import BandGrid
from specfm.errors import UsageError
from specfm.scene import ArraySource, Scene
from specfm.selected_scene import select_scenes, selected
from specfm.sensor_table import get_sensor
from specfm.shards import ShardSet
from specfm.shards.build import write_shards
from specfm.shards.identity import scene_content, scene_identity

SPECIMEN = get_sensor("specimen_408").bands


def chosen(text: Any, bands: BandGrid = SPECIMEN, **options: Any) -> np.ndarray:
    return BandSelection.parse(text).indices(bands, **options)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("rgb", "rgb"),
        ({"rgb": True}, "rgb"),
        ({"sample": [1, 5, "7-9"]}, "sample:1,5,7,8,9"),
        ("sample:1-3,40", "sample:1,2,3,40"),
        ({"sample": 4}, "sample:4"),
        ({"uniform": 20}, "uniform:20"),
        ("regions", "regions:4"),
        ({"regions": ["Blue", "red"]}, "regions:blue,red"),
        ({"window": [400, 700.5]}, "window:400-700.5"),
        ("importance:3", "importance:3"),
        ({"pca": 30}, "pca:30"),
    ],
)
def test_texts_and_mappings_are_one(given: Any, text: str) -> None:
    assert str(BandSelection.parse(given)) == text
    assert BandSelection.parse(text) == BandSelection.parse(given)


@pytest.mark.parametrize(
    "given", ["rgbd", "uniform:0", "uniform", "window:700-400", "rgb:3", {"rgb": True, "pca": 3}, 7, "pca:-1", None]
)
def test_other_words_are_refused_with_the_forms(given: Any) -> None:
    with pytest.raises(UsageError, match="bands are chosen by rgb, sample:1-9,40"):
        BandSelection.parse(given)


def test_rgb_is_nearest_by_wavelength() -> None:
    assert np.abs(SPECIMEN.wavelengths_nm[chosen("rgb")] - RGB_NM).max() < 0.6
    with pytest.raises(UsageError, match="no bands near 650, 550, 450 nm"):
        chosen("rgb", BandGrid(np.linspace(1000, 2000, 20)))


def test_uniform_is_even_in_nm_and_distinct() -> None:
    index = chosen("uniform:20")
    steps = np.diff(SPECIMEN.wavelengths_nm[index])
    assert len(index) == 20 and index[0] == 0 and index[-1] == 407
    assert np.abs(steps - 462 / 19).max() < 1.2
    crowded = BandGrid(np.r_[np.linspace(400, 410, 50), 800.0])  # by index this would be one colour
    index = chosen("uniform:5", crowded)
    assert len(set(index.tolist())) == 5 and 50 in index
    assert chosen("uniform:51", crowded).tolist() == list(range(51))
    with pytest.raises(UsageError, match="52 bands are asked for, 51 are usable"):
        chosen("uniform:52", crowded)


def test_regions_of_the_specimen_sensor() -> None:
    centres = SPECIMEN.wavelengths_nm
    for name, low, high in [("uv", 348, 400), ("blue", 400, 480), ("green", 480, 550), ("red", 550, 650)]:
        found = centres[chosen({"regions": [name]})]
        assert found.min() >= low and found.max() < high and len(found) == ((centres >= low) & (centres < high)).sum()
    assert len(chosen("regions")) == 20  # five regions of four
    assert len(chosen("regions:2")) == 10
    with pytest.raises(UsageError, match="no usable band lies in swir2"):
        chosen("regions:swir2")
    with pytest.raises(UsageError, match="unknown region 'pink'"):
        chosen("regions:pink")


def test_numbers_are_one_based_and_in_order() -> None:
    assert chosen("sample:408,1-2").tolist() == [407, 0, 1]
    with pytest.raises(UsageError, match="there is no band 409 among 408"):
        chosen("sample:409")
    with pytest.raises(UsageError, match="name a band twice"):
        chosen("sample:3,1-3")
    with pytest.raises(UsageError, match="1-based numbers"):
        chosen("sample:0")


def test_unusable_bands_are_left_out_unless_named() -> None:
    bands = BandGrid(np.linspace(400, 800, 9), valid=np.arange(9) % 2 == 0)
    assert chosen("window:400-800", bands).tolist() == [0, 2, 4, 6, 8]
    assert chosen("uniform:2", bands).tolist() == [0, 8]
    assert chosen("sample:2", bands).tolist() == [1]


def test_importance_finds_the_bands_that_vary_on_their_own() -> None:
    rng = np.random.default_rng(0)
    pixels = 0.01 * rng.normal(size=(500, 40))
    for band, strength in ((7, 3.0), (21, 2.0), (33, 1.0)):  # three sources, each with its neighbours
        pixels[:, band - 1 : band + 2] += np.array([0.8, 1.0, 0.8]) * strength * rng.normal(size=(500, 1))
    bands = BandGrid(np.linspace(400, 800, 40))
    assert chosen("importance:3", bands, pixels_MC=pixels).tolist() == [7, 21, 33]
    with pytest.raises(UsageError, match="fitted on pixels"):
        chosen("importance:3", bands)
    with pytest.raises(UsageError, match="3 bands by importance need more than 3 pixels"):
        chosen("importance:3", bands, pixels_MC=pixels[:3])


@dataclass(frozen=True)
class Counting(ArraySource):
    """Remembers which bands it was asked for."""

    asked: list[Any] = field(default_factory=list)

    def read(self, rows: range, cols: range, bands: Any) -> np.ndarray:
        self.asked.append(None if bands is None else bands.tolist())
        return super().read(rows, cols, bands)


def scene(seed: int = 0, bands: int = 30) -> Scene:
    cube = np.random.default_rng(seed).integers(1, 5000, (24, 20, bands)).astype(np.uint16)
    base = Scene.from_array(cube, BandGrid(np.linspace(400, 900, bands)), name=f"scan {seed}", domain="lab")
    return base.replace(source=Counting(cube))


@pytest.mark.parametrize("text", ["rgb", "sample:9,3", "uniform:6", "window:500-600"])
def test_only_the_asked_bands_are_read(text: str) -> None:
    whole = scene()
    (narrow,) = select_scenes([whole], text)
    index = chosen(text, whole.sensor.bands)
    assert np.array_equal(narrow.read(), whole.source.cube_HWC[..., index])
    assert np.array_equal(narrow.read(slice(2, 4), 3, [1]), whole.source.cube_HWC[2:4, 3:4, index[[1]]])
    narrow.mask()
    assert {band for each in whole.source.asked for band in each} <= set(index.tolist())
    assert narrow.sensor.bands == whole.sensor.bands.subset(index)


def test_a_pixel_is_valid_by_the_chosen_bands_alone() -> None:
    whole = scene().replace(saturation=6000)
    whole.source.cube_HWC[3, 4, 20] = 6000
    assert not whole.mask()[3, 4]
    assert selected(whole, np.arange(5)).mask()[3, 4]


def test_what_a_scene_is_known_by_changes_with_its_bands() -> None:
    kinds = [each for text in (None, "uniform:6", "sample:1-6") for each in select_scenes([scene()], text)]
    assert len({str(scene_identity(each)) for each in kinds}) == 3
    assert len({scene_content(each) for each in kinds}) == 1  # a scene that was seen is seen, whatever its bands


@pytest.mark.parametrize("text", ["rgb", "sample:5,1", "uniform:7", "importance:4"])
def test_shards_cut_with_bands_hold_what_full_shards_give(tmp_path: Path, text: str) -> None:
    scenes = [scene(0), scene(1)]
    write_shards(scenes, tmp_path / "full", 8)
    full = ShardSet(tmp_path / "full", bands=text)
    if text.startswith("importance"):  # fitted on other pixels of the same scenes
        text = "sample:" + ",".join(str(band + 1) for band in full.readers[0].index_K)
    write_shards(scenes, tmp_path / "few", 8, bands=text)
    few = ShardSet(tmp_path / "few")
    ids = np.arange(len(few))[::-1]
    (x, mask), (y, other) = few.readers[0].read(ids), full.readers[0].read(ids)
    assert np.array_equal(x, y) and np.array_equal(mask, other)
    assert few.readers[0].sensor == full.readers[0].sensor
    assert few.readers[0].shape == full.readers[0].shape and few.readers[0].nbytes == full.readers[0].nbytes
    for name, values in few.readers[0].statistics.items():
        assert np.allclose(values, full.readers[0].statistics[name]), name


def test_damage_is_still_found_where_some_bands_are_read(tmp_path: Path) -> None:
    write_shards([scene(0)], tmp_path / "full", 8)
    (file,) = (tmp_path / "full").glob("*.h5")
    reader = ShardSet(tmp_path / "full", bands="rgb").readers[0]
    body = bytearray(file.read_bytes())
    body[int(reader.patches.offsets_N[3]) + 1] ^= 1
    file.write_bytes(body)
    assert ShardSet(tmp_path / "full", bands="rgb").readers[0].check_crcs() == [3]


def test_components_are_no_bands(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose bands instead: importance:N"):
        write_shards([scene()], tmp_path / "out", 8, bands={"pca": 3})
