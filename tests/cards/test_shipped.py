"""Shipped cards of data that a user has to bring: what they say is enough to read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.cards import load_card
from specfm.errors import SpecfmError


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_houston_has_labels_as_its_card_says_to_make_them(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    folder = tmp_path / "houston2013"
    folder.mkdir()
    cube_CHW = np.arange(144 * 4 * 6, dtype=np.uint16).reshape(144, 4, 6) + 1
    classes_HW = (np.arange(24).reshape(4, 6) % 16).astype(np.uint8)
    for name, array in (("2013_IEEE_GRSS_DF_Contest_CASI.tif", cube_CHW), ("labels.tif", classes_HW[None])):
        shape = {"count": len(array), "height": 4, "width": 6, "dtype": array.dtype}
        with rasterio.open(folder / name, "w", driver="GTiff", **shape) as file:
            file.write(array)
    card = load_card("houston2013")
    (scene,) = card.scenes(tmp_path)
    assert scene.shape == (4, 6, 144) and len(scene.label_names) == 15
    np.testing.assert_array_equal(scene.labels_HW, classes_HW.astype(int) - 1)
    (folder / "labels.tif").unlink()
    with pytest.raises(SpecfmError, match="no houston2013/labels.tif .*regions of interest"):
        next(card.scenes(tmp_path))


def test_what_has_no_card_cannot_be_read(data_root: Path) -> None:
    """The reasons that stand in the nearest cards still hold."""
    from specfm.readers import read_scene

    patch = data_root / "sentinel2_samples" / "m-eurosat_id_1905.hdf5"
    spectrum = next((data_root / "spectral_libraries" / "ecostress").glob("*.spectrum.txt"))
    matrix = data_root / "spectral_libraries" / "usgs" / "USGS_1995_Library.mat"
    for path, reason in ((patch, "no array with three axes"), (spectrum, "neither ENVI"), (matrix, "layout")):
        with pytest.raises(SpecfmError, match=reason):
            read_scene(path)
