"""Libraries of spectra: the shipped one against its source, readers, bad values and gaps, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.errors import SpecfmError, UsageError
from specfm.simulate.spectra import GRID_NM, joined, on_grid, pack, read_library, unpack


def at(nm: float) -> int:
    return int(np.argmin(np.abs(GRID_NM - nm)))


def test_earthlib_comes_with_the_package() -> None:
    spectra = read_library("earthlib")
    assert len(spectra) == 7261 and spectra.range_nm == (400.0, 2450.0)
    assert {"bare.soil", "vegetation.canopy", "built.road"} <= set(spectra.classes)
    assert spectra.spectra_NL.min() >= 0 and spectra.spectra_NL.max() < 1.1
    leaf = spectra.spectra_NL[spectra.class_N == spectra.classes.index("vegetation.canopy")].mean(0)
    assert leaf[at(850)] > 3 * leaf[at(670)], "red edge"


def test_earthlib_is_its_source(data_root: Path) -> None:
    source = np.fromfile(data_root / "earthlib" / "spectra.sli", "<f4").reshape(7261, 180)
    shipped = read_library("earthlib")
    measured = [at(nm) for nm in (400, 550, 1000, 1350, 1460, 1790, 1960, 2450)]
    columns = [0, 15, 60, 95, 96, 129, 130, 179]
    np.testing.assert_allclose(shipped.spectra_NL[:, measured], source[:, columns].clip(0), atol=6e-5)


def test_packed_spectra_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nm, reflectance = np.arange(400.0, 1001.0, 5.0), rng.random((7, 121))
    pack(tmp_path / "some.h5", nm, reflectance, list("abcabca"), "a note")
    spectra = unpack(tmp_path / "some.h5", "some")
    np.testing.assert_allclose(spectra.spectra_NL[:, spectra.known_NL[0]], reflectance, atol=6e-5)
    assert spectra.classes == ("a", "b", "c") and spectra.class_N.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert spectra.range_nm == (400.0, 1000.0)


def test_bad_values_are_unknown_unless_few_or_in_water() -> None:
    nm = np.arange(400.0, 2401.0, 10.0)
    spectrum = np.linspace(0.1, 0.5, len(nm))
    spoiled = spectrum.copy()
    spoiled[(nm >= 1360) & (nm <= 1440)] = -1.23e34  # water vapour: bridged
    spoiled[nm == 600] = np.nan  # one band: bridged
    spoiled[(nm >= 800) & (nm <= 900)] = 99.0  # a hole: unknown
    found = on_grid("lab", nm[::-1], np.stack([spectrum, spoiled])[:, ::-1], ["a", "b"])
    assert found.known_NL[0].sum() == len(np.arange(400, 2401, 5))
    known = found.known_NL[1]
    assert known[at(600)] and known[at(1400)] and not known[at(850)] and known[at(790)] and known[at(910)]
    np.testing.assert_allclose(found.spectra_NL[1, known], found.spectra_NL[0, known], atol=1e-6)
    assert not found.spectra_NL[1, ~known].any()


def test_percent_is_no_reflectance() -> None:
    with pytest.raises(SpecfmError, match="lab: no spectrum has 100 nm of reflectance.*state its scale"):
        on_grid("lab", np.arange(400.0, 900.0), np.full((2, 500), 34.0), ["a", "a"])


def test_ecostress_files(tmp_path: Path) -> None:
    head = "Name: x\nType: {}\nX Units: Wavelength (micrometer{})\nY Units: Reflectance (perce{})\n\n"
    rows = "\n".join(f" {nm / 1000:.4f}\t {nm / 50:.3f}" for nm in range(2500, 399, -10))
    (tmp_path / "vegetation.tree.x.spectrum.txt").write_text(head.format("vegetation", "", "ntage") + rows)
    (tmp_path / "soil.aridisol.y.spectrum.txt").write_text(head.format("soil", "s", "nt") + rows)
    (tmp_path / "soil.thermal.z.spectrum.txt").write_text(
        head.format("soil", "s", "nt") + "\n".join(f"{um}.0 5.0" for um in range(8, 14))
    )
    found = read_library(str(tmp_path))
    assert found.classes == ("soil.aridisol", "vegetation.tree") and len(found) == 2
    np.testing.assert_allclose(found.spectra_NL[:, at(1000)], 0.2, atol=1e-6)
    (tmp_path / "rock.a.b.spectrum.txt").write_text("Name: x\nX Units: Wavelength (micrometer)\n\n0.4 1\n0.5 2\n")
    with pytest.raises(SpecfmError, match="rock.a.b.spectrum.txt: is no spectrum of the ECOSTRESS library"):
        read_library(str(tmp_path))


def test_usgs_matrix(tmp_path: Path) -> None:
    from scipy.io import savemat

    nm = np.arange(400.0, 2500.0, 10.0)
    table = np.column_stack([nm / 1000, np.full_like(nm, 0.01), np.arange(len(nm)), 0 * nm + 0.3, 0 * nm + 0.6])
    texts = ["Wavelengths", "Resolution", "Channel", "Alunite AL706 Na", "Kaolinite CM9"]
    names = np.array([[ord(c) for c in text.ljust(20)] for text in texts], np.uint8)
    savemat(tmp_path / "usgs.mat", {"datalib": table, "names": names})
    found = read_library(str(tmp_path / "usgs.mat"))
    assert found.classes == ("alunite", "kaolinite")
    np.testing.assert_allclose(found.spectra_NL[:, at(1500)], [0.3, 0.6], atol=1e-6)


def test_a_damaged_matrix_is_a_sentence(tmp_path: Path) -> None:
    """One that says it is complex and has no imaginary part: scipy looks beyond the file, and the process ends."""
    from scipy.io import savemat

    path = tmp_path / "usgs.mat"
    savemat(path, {"datalib": np.ones((9, 4)), "names": np.ones((4, 9), np.uint8)})
    data = bytearray(path.read_bytes())
    data[128 + 17] |= 8
    path.write_bytes(bytes(data))
    with pytest.raises(SpecfmError, match="usgs.mat: not a readable MATLAB file .*has 4 of its 5 parts"):
        read_library(str(path))


def test_real_libraries(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_DATA", str(data_root))
    folder = data_root / "spectral_libraries"
    for name, count in (
        ("berlin_library", 75),
        ("urban_library", 3725),
        (str(folder / "ecostress"), 235),
        (str(folder / "usgs" / "USGS_1995_Library.mat"), 498),
    ):
        found = read_library(name)
        assert len(found) == count, name
        assert 0.02 < np.median(found.spectra_NL[found.known_NL]) < 0.8, f"{name} is reflectance of 0 to 1"
        assert found.range_nm[0] <= 460 and found.range_nm[1] >= 2400, name


def test_joined_classes_have_their_names() -> None:
    nm = np.arange(400.0, 900.0, 5.0)
    one = on_grid("one", nm, np.full((2, 100), 0.1), ["soil", "tree"])
    two = on_grid("two", nm, np.full((2, 100), 0.2), ["road", "tree"])
    both = joined("both", [one, two])
    assert [both.classes[i] for i in both.class_N] == ["soil", "tree", "road", "tree"]


def test_unknown_library() -> None:
    with pytest.raises(UsageError, match="'no_such' is no library of spectra: neither earthlib nor a folder"):
        read_library("no_such")


def test_radiance_is_no_library(tmp_path: Path) -> None:
    from specfm.simulate import write_simulation

    cards = write_simulation(tmp_path / "sim", ["sentinel2_msi"], scenes=1, size=(8, 8), quantity="radiance")
    with pytest.raises(SpecfmError, match="holds radiance; spectra of materials are reflectance"):
        read_library(str(cards[0]))
