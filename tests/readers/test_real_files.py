"""The real files, odd headers included: each is read right (SPy and rasterio as oracles) or refused clearly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError
from specfm.readers import read_scene
from specfm.readers.envi_header import parse_header

ENVI_CUBES = [  # header, options, bands, first and last centre in nm
    ("emit_mini/emit20250324t221005_jpl_unmix_ex.hdr", {"units": "nm"}, 285, 381.0, 2492.9),
    ("hyperion_gamsberg/cubus_gamsberg_subset.hdr", {"units": "nm"}, 189, 426.8, 2324.9),
    ("landsat_nanjing_cd/LT51200382000124BJC00_Nanjing.hdr", {}, 6, 485.0, 2223.0),
    ("readers/isofit/AV320250308t200738_rdn.hdr", {}, 284, 389.75, 2494.0),
    ("readers/isofit/prm20231110t071521_rdn_two_px.hdr", {}, 246, 350.55, 1045.6),
    ("readers/hylite_fenix/Radiometric_8x2_1x1.hdr", {"units": "nm"}, 363, 379.9, 2503.7),
    ("readers/qgispluginsupport/wavelength/envi_wl_fwhm.hdr", {}, 2, 400.0, 500.0),
    ("readers/qgispluginsupport/wavelength/envi_wl_implicit_nm.hdr", {"units": "nm"}, 2, 400.0, 500.0),
    ("readers/qgispluginsupport/wavelength/envi_wl_implicit_um.hdr", {"units": "um"}, 2, 400.0, 500.0),
]
LIBRARIES = [  # header, options, spectra, bands
    ("hyperion_gamsberg/gamsberg_field_library.hdr", {}, 27, 2151),
    ("readers/qgispluginsupport/speclib.hdr", {}, 7, 177),
    ("readers/rstoolbox/vegSpec.sli.hdr", {}, 2, 2151),
    ("spectral_libraries/berlin/library_berlin.sli", {}, 75, 177),
    ("spectral_libraries/roberts2017_urban/roberts2017_urban.hdr", {"units": "um"}, 3725, 224),
]


def centres(path: Path) -> np.ndarray:
    bands = read_scene(path).sensor.bands
    return bands.wavelengths_nm


@pytest.mark.parametrize(("name", "options", "count", "first", "last"), ENVI_CUBES)
def test_envi_cubes_equal_spy(data_root: Path, name: str, options: dict, count: int, first: float, last: float) -> None:
    import spectral.io.envi as spy

    scene = read_scene(data_root / name, **options)
    oracle = np.asarray(spy.open(str(data_root / name), str(scene.path)).open_memmap(interleave="bip"))
    np.testing.assert_array_equal(scene.read(), oracle)
    some = np.arange(0, count, max(1, count // 9))
    np.testing.assert_array_equal(scene.read(slice(0, 1), bands=some), oracle[:1][:, :, some])
    stated = np.array([float(value) for value in parse_header(data_root / name).items("wavelength")])
    grid = scene.sensor.bands
    assert len(grid) == count == len(stated)
    factor = 1000.0 if stated.max() < 100 else 1.0
    np.testing.assert_allclose(grid.wavelengths_nm[grid.valid], stated[grid.valid] * factor)
    assert stated[0] * factor == pytest.approx(first, abs=0.06) and stated[-1] * factor == pytest.approx(last, abs=0.06)


@pytest.mark.parametrize(("name", "options", "count", "bands"), LIBRARIES)
def test_libraries_equal_spy(data_root: Path, name: str, options: dict, count: int, bands: int) -> None:
    import spectral.io.envi as spy

    scene = read_scene(data_root / name, **options)
    assert scene.path is not None
    header = data_root / name if name.endswith(".hdr") else (data_root / name).with_suffix(".hdr")
    oracle = spy.open(str(header), str(scene.path))
    assert scene.shape == (count, 1, bands)
    np.testing.assert_array_equal(scene.read()[:, 0], oracle.spectra)
    assert list(scene.label_names) == [label.strip() for label in oracle.names]


def test_lab_header_without_byte_order(data_root: Path) -> None:
    """SPy refuses these headers; rasterio's ENVI driver reads them and is the oracle here."""
    rasterio = pytest.importorskip("rasterio")
    for name in ("corn-kernel-hyperspectral", "white_reference_crop", "dark_reference_crop"):
        path = data_root / "lab_corn_kernel" / f"{name}.raw"
        scene = read_scene(path)
        assert scene.shape == (31, 43, 580) and scene.dtype == np.uint16
        with rasterio.open(path) as raster:
            np.testing.assert_array_equal(scene.read(), raster.read().transpose(1, 2, 0))
        assert scene.sensor.bands.wavelengths_nm[0] == pytest.approx(366.56, abs=0.1)


def test_bad_band_lists_of_real_headers(data_root: Path) -> None:
    emit = read_scene(data_root / ENVI_CUBES[0][0], units="nm")
    assert 0 < (~emit.sensor.bands.valid).sum() < 60 and emit.nodata == -9999 and emit.mask().all()
    assert read_scene(data_root / ENVI_CUBES[6][0]).sensor.bands.valid.tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emit_mini/emit20250324t221005_jpl_unmix_ex.hdr", "units are never guessed"),
        ("hyperion_gamsberg/cubus_gamsberg_subset.hdr", "units are never guessed"),
        ("readers/qgispluginsupport/wavelength/envi_wl_implicit_nm.hdr", "--units nm or --units um"),
        ("readers/qgispluginsupport/wavelength/envi_wl_implicit_um.hdr", "--units nm or --units um"),
        ("readers/qgispluginsupport/wavelength/enmapbox_envidomain_bandlevel.tif", "unknown unit 'm / n'"),
        ("readers/qgispluginsupport/wavelength/gdal_no_info.tif", "no wavelengths"),
        ("readers/qgispluginsupport/hymap.tif", "no wavelengths"),
        ("readers/qgispluginsupport/envi.hdr", "no data file"),
        ("readers/bimodal/bimodal.hdr", "no wavelengths"),
        ("readers/isofit/AV320250308t200738_loc.hdr", "no wavelengths"),
        ("readers/headers_only/arcgis.hdr", "ESRI"),
        ("readers/headers_only/hylite_image.hdr", "no data file"),
        ("readers/aviris_tiny_scene/tiny_scene.tar.gz", "gzip"),
        ("readers/spectral_python/92AV3GT.GIS", "ERDAS"),
        ("readers/spectral_python/92AV3C.spc", "neither ENVI"),
        ("sentinel2_samples/20201002T221611_20201002T221610_T60HWB.tif", "no wavelengths"),
        ("aviris_salton_sea/salton_sea_roi.mat", "I 51x56x224, rgb 51x56x3"),
        ("aviris_santa_barbara_2014/a_hsi_img_for_VI_demo.mat", "units are never guessed"),
        ("aviris_jasper_ridge/jasperRidge2_R198.mat", "--layout"),
        ("sentinel2_samples/m-eurosat_id_1905.hdf5", "no array with three axes"),
    ],
)
def test_refused_clearly(data_root: Path, name: str, message: str) -> None:
    with pytest.raises(SpecfmError, match=message) as caught:
        read_scene(data_root / name)
    assert str(data_root) in str(caught.value) and "\n" not in str(caught.value)


def test_every_header_without_data_parses(data_root: Path) -> None:
    shapes = {}
    for path in sorted((data_root / "readers" / "headers_only").glob("*.hdr")):
        if path.stem != "arcgis":
            header = parse_header(path)
            header.check()
            wavelengths = header.numbers("wavelength", header.shape[2])
            shapes[path.stem] = (*header.shape, header.units, None if wavelengths is None else len(wavelengths))
    assert shapes == {
        "aviris_cuprite_350x350x188": (350, 350, 188, None, None),
        "aviris_tahoe_Im1": (150, 110, 224, "Nanometers", 224),
        "enmap_berlin": (400, 220, 177, "Micrometers", 177),
        "house_uint16_rad": (120, 192, 128, "nm", 128),
        "hylite_image": (31, 168, 450, "nm", 450),
        "rit_hymap_self_test_refl": (280, 800, 126, None, 126),
    }


def test_geotiff_metadata_of_every_kind(data_root: Path) -> None:
    pytest.importorskip("rasterio")
    folder = data_root / "readers" / "qgispluginsupport"
    np.testing.assert_allclose(centres(folder / "wavelength/gdal_wl_only.tif"), [400, 500])
    np.testing.assert_allclose(centres(folder / "wavelength/staclike.tif"), [4000, 5000])
    fwhm = read_scene(folder / "wavelength/gdal_wl_fwhm.tif").sensor.bands.fwhm_nm
    np.testing.assert_allclose(fwhm, [10, 20])
    dataset = read_scene(folder / "wavelength/enmapbox_envidomain_dslevel.tif").sensor.bands
    assert dataset.valid.tolist() == [False, True] and dataset.wavelengths_nm.tolist() == [400, 500]
    level = read_scene(folder / "wavelength/enmapbox_envidomain_bandlevel.tif", units="nm").sensor.bands
    assert level.wavelengths_nm.tolist() == [400, 500] and level.valid.tolist() == [False, True]
    enmap = read_scene(folder / "enmap.tif")
    assert enmap.shape == (7, 10, 177) and enmap.nodata == -9999 and enmap.sensor.gsd_m == 30
    assert enmap.sensor.bands.wavelengths_nm[0] == pytest.approx(460)


def test_neon_file(data_root: Path) -> None:
    scene = read_scene(data_root / "neon_sjer" / "ex.h5")
    assert scene.shape == (30, 30, 426) and scene.sensor.scale == 1e-4 and scene.nodata == -9999
    assert scene.sensor.bands.wavelengths_nm[0] == pytest.approx(383.5, abs=0.1)
    assert scene.geo is not None and scene.geo.crs_wkt == "EPSG:32611" and scene.mask().all()
    assert 0 < np.nanmedian(scene.values(bands=[100])) < 1


def test_unmixing_matrix_is_an_image(data_root: Path) -> None:
    """Column-major pixels: neighbours of the right image are alike, those of a wrong reshape are not."""
    folder = data_root / "aviris_jasper_ridge"
    options = {"layout": "bands_by_pixels:100x100", "wavelengths": folder / "wavelengths.csv"}
    scene = read_scene(folder / "jasperRidge2_R198.mat", **options)
    assert scene.shape == (100, 100, 198) and scene.sensor.bands.fwhm_nm[0] == 9.53
    from scipy.io import loadmat

    y_CN = loadmat(folder / "jasperRidge2_R198.mat")["Y"]
    np.testing.assert_array_equal(scene.read(7, 3)[0, 0], y_CN[:, 3 * 100 + 7])


def test_bad_bands_full_of_nan_do_not_empty_the_mask(data_root: Path) -> None:
    folder = data_root / "aviris_salton_sea"
    scene = read_scene(folder / "salton_sea_roi.mat", variable="I", wavelengths=folder / "wavelengths.csv")
    cube, valid = scene.read(), scene.sensor.bands.valid  # valid: the bbl variable beside the cube
    assert np.isnan(cube[:, :, ~valid]).any() and np.isfinite(cube[:, :, valid]).all()
    assert scene.mask().all()
