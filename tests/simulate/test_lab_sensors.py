"""Known laboratory sensors see a tray under a lamp: counts, references beside, materials of any library.

Shapes: H W of a scan, C bands, S scans.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.bands import BandGrid
from specfm.cards import load_card
from specfm.cards.opening import open_scene
from specfm.cli import app
from specfm.errors import SpecfmError, UsageError
from specfm.sensor_table import get_sensor, known_sensors
from specfm.sensors import Sensor
from specfm.simulate import MATERIALS, write_simulation
from specfm.simulate.catalogue import MEANING, WRITTEN, chosen_materials, list_materials
from specfm.simulate.laboratory import LOT, sensor_domain, simulate_scan
from specfm.simulate.materials import FINE_NM

LABORATORY = [row.name for row in known_sensors().values() if row.platform == "laboratory"]


@pytest.mark.parametrize("name", LABORATORY)
def test_a_scan_calibrates_to_its_materials_without_sun_and_air(name: str, tmp_path: Path) -> None:
    same = {"materials": ["sand", "grass"], "variability": 0.0}
    (card,) = write_simulation(tmp_path / "sim", [name], seed=3, scenes=1, size=(48, 48), **same)  # type: ignore[arg-type]
    ((raw, given),) = load_card(card).scans()
    assert (raw.sensor.quantity, raw.sensor.level, raw.dtype.name) == ("dn", "raw", "uint16")
    assert given.sensor.quantity == "surface_reflectance" and given.sensor.name == name
    np.testing.assert_allclose(raw.sensor.bands.wavelengths_nm, get_sensor(name).bands.wavelengths_nm, atol=1e-3)
    assert raw.labels_HW is not None and set(np.unique(raw.labels_HW)) == {-1, 0, 1}
    _, matrix_CL = BandGrid(FINE_NM, np.ones_like(FINE_NM)).resample(get_sensor(name).bands)
    lit = given.sensor.bands.valid & (given.sensor.bands.wavelengths_nm > 420)  # the lamp is dark in the ultraviolet
    for number, material in enumerate(("sand", "grass")):
        seen = np.nanmean(given.values()[raw.labels_HW == number], 0)[lit]
        true = (matrix_CL @ MATERIALS[material].basis()[0])[lit]
        bright = seen.mean() / true.mean()  # objects are round, and shade themselves
        assert 0.6 < bright < 1.1 and np.sqrt(((seen / bright - true) ** 2).mean()) < 0.05 * true.mean(), material
    tray = np.nanmedian(given.values()[raw.labels_HW < 0], 0)[lit]
    assert tray.max() < 0.08, "black felt"
    part = load_card(card).parts[0]
    files = {"white": card.parent / part.white.path, "dark": card.parent / part.dark[0]}  # type: ignore[union-attr,index]
    told = {**files, "white_reflectance": part.white.reflectance, "saturation": part.saturation}  # type: ignore[union-attr]
    np.testing.assert_array_equal(open_scene(str(card.parent / part.path), **told).read(), given.read())


def test_a_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    for out, seed in (("one", 5), ("two", 5), ("other", 6)):
        write_simulation(tmp_path / out, ["fx17", "emit"], seed=seed, scenes=1, size=(24, 24))
    one, two, other = (
        {file.name: file.read_bytes() for file in (tmp_path / out).iterdir()} for out in ("one", "two", "other")
    )
    assert one == two and one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if name.endswith((".bil", ".bsq", ".yaml")))


def test_what_has_no_room_on_the_tray_has_its_turn() -> None:
    domain = sensor_domain(get_sensor("fx10"), chosen_materials(None))
    seen: set[int] = set()
    for number in range(4):
        labels_HW = simulate_scan(domain, (2 * LOT, 2 * LOT), 1, number).scene.labels_HW
        assert labels_HW is not None
        shown = set(np.unique(labels_HW).tolist()) - {-1}
        assert len(shown) == 4
        seen |= shown
    assert seen == set(range(len(MATERIALS)))
    labels_HW = simulate_scan(domain, (48, 48), 1).scene.labels_HW
    assert set(np.unique(labels_HW)) == set(range(-1, len(MATERIALS))), "all, where there is room"


def test_materials_of_a_library_and_bands_beyond_what_it_knows(tmp_path: Path) -> None:
    out = tmp_path / "sim"
    arguments = ["simulate", "--out", str(out), "--library", "earthlib", "--sensors", "fx10,hyspex_swir_384"]
    done = CliRunner().invoke(app, [*arguments, "--materials", "soil,canopy,bark", "--size", "48", "--scenes", "1"])
    assert done.exit_code == 0, done.output
    (vnir,), (swir,) = (list(load_card(out / f"{name}.yaml").scenes()) for name in ("specim_fx10", "hyspex_swir_384"))
    assert vnir.label_names == ("bare.soil", "vegetation.canopy", "npv.bark") and vnir.sensor.bands.valid.all()
    beyond = swir.sensor.bands.wavelengths_nm > 2460
    assert beyond.any() and not swir.sensor.bands.valid[beyond].any()
    assert swir.sensor.bands.valid[swir.sensor.bands.wavelengths_nm < 2440].all()
    red, near = (int(np.argmin(abs(vnir.sensor.bands.wavelengths_nm - nm))) for nm in (670, 800))
    leaves = np.nanmean(vnir.values()[vnir.labels_HW == 1], 0)
    assert leaves[near] > 3 * leaves[red], "green plants"
    thermal = Sensor(BandGrid([9000.0, 9100.0], [50.0, 50.0]), name="thermal")
    with pytest.raises(SpecfmError, match="no band of thermal lies in 400-2450 nm"):
        sensor_domain(thermal, chosen_materials("earthlib"))


def test_options_that_no_tray_reads_are_refused_and_variability_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"snr, stripes: scans on a tray \(specim_fx10\) read quantity and vari"):
        write_simulation(tmp_path / "no", ["fx10"], snr=3, stripes=0.1)
    with pytest.raises(UsageError, match="specim_fx10: a scan of 8 x 8 pixels has no room for lots; give at least 12"):
        write_simulation(tmp_path / "no", ["fx10"], size=(8, 8))
    assert not (tmp_path / "no").exists()
    spread = []
    for variability in (0.0, 2.0):
        out, given = tmp_path / f"v{variability:g}", {"materials": ["grass"], "variability": variability}
        (card,) = write_simulation(out, ["fx17"], scenes=4, size=(24, 24), **given)  # type: ignore[arg-type]
        scenes = load_card(card).scenes()
        mean_SC = np.array([np.nanmean(scene.values()[scene.labels_HW == 0], 0) for scene in scenes])
        spread.append(float((mean_SC.std(0) / mean_SC.mean(0)).mean()))
    assert spread[0] < 0.04 and spread[1] > 0.08, "without it, lamp and shading alone differ"


def test_a_ground_for_laboratory_sensors_where_it_is_asked_for(tmp_path: Path) -> None:
    (reflectance,) = write_simulation(
        tmp_path / "a", ["fx10"], scenes=1, size=(12, 12), quantity="surface_reflectance", snr=500
    )
    fx10, emit = write_simulation(tmp_path / "b", ["fx10", "emit"], scenes=1, size=(12, 12), same_ground=True)
    assert load_card(reflectance).parts[0].white is None and load_card(fx10).parts[0].white is None
    first, second = (next(load_card(card).scenes()) for card in (fx10, emit))
    np.testing.assert_array_equal(first.labels_HW, second.labels_HW)


def test_the_list_says_what_every_material_is() -> None:
    assert set(MEANING) == {name for named in WRITTEN.values() for name in named}
    for library, count, words in (
        (None, 14, "clay_soil soil with iron and clay"),
        ("laboratory", 21, "robusta_green coffee: raw beans: less oil"),
        ("earthlib", 27, "npv.bark dry plants 400-2450 33"),
    ):
        rows = list_materials(library)
        assert len(rows) == count and all(row["what"] for row in rows)
        usable = [row["name"] for row in rows if row["usable"]]
        assert usable == [material.name for material in chosen_materials(library)]
        shown = CliRunner().invoke(app, ["simulate", "--list", *(["--library", library] if library else [])])
        assert shown.exit_code == 0 and words in " ".join(shown.output.split())
    silent = CliRunner().invoke(app, ["simulate", "--seed", "1"])
    assert silent.exit_code == 2 and "give --out FOLDER" in silent.stderr
