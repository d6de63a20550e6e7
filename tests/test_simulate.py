"""Simulated scenes: deterministic, physical, labelled, and the same through files and through other sensors' bands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.cards import load_card
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.sensor_table import get_sensor
from specfm.sensors import Sensor
from specfm.simulate import MATERIALS, resample_scene, simulate_scene, write_simulation
from specfm.simulate.materials import FINE_NM, VARIATIONS

PURE = {"blur": 0.0, "variability": 0.0, "illumination": 0.0, "gain": 0.0, "tilt": 0.0, "snr": 1e9}


def test_materials_are_physical_and_distinct() -> None:
    assert len(MATERIALS) >= 8
    spectra = np.stack([material.reflectance() for material in MATERIALS.values()])
    assert spectra.min() > 0 and spectra.max() < 1
    assert np.abs(np.diff(spectra)).max() < 0.02, "smooth on a 1 nm grid"
    differences = np.abs(spectra[:, None] - spectra[None]).max(-1) + np.eye(len(spectra))
    assert differences.min() > 0.005, "no two materials are the same"
    clay, carbonate = MATERIALS["clay_soil"].reflectance(), MATERIALS["carbonate_soil"].reflectance()
    np.testing.assert_allclose(clay[FINE_NM < 2050], carbonate[FINE_NM < 2050], atol=1e-3)
    assert np.abs(clay - carbonate).max() > 0.03, "a pair that only the short-wave infrared tells apart"


def test_vegetation_looks_like_vegetation() -> None:
    leaf = dict(zip(FINE_NM, MATERIALS["broadleaf"].reflectance(), strict=True))
    assert leaf[850.0] > 5 * leaf[676.0], "red edge"
    assert leaf[555.0] > leaf[676.0] and leaf[555.0] > leaf[450.0], "green peak"
    assert leaf[1650.0] > leaf[1455.0], "leaf water"


def test_variation_moves_the_spectrum_the_way_it_says() -> None:
    sand = MATERIALS["sand"]
    assert np.all(sand.reflectance(np.array([1.0, 0, 0])) > sand.reflectance())
    basis = sand.basis()
    assert basis.shape == (1 + VARIATIONS, len(FINE_NM))
    step = 0.2
    for v in range(VARIATIONS):
        exact = sand.reflectance(step * np.eye(VARIATIONS)[v])
        np.testing.assert_allclose(basis[0] + step * basis[1 + v], exact, rtol=0.01)


@pytest.mark.parametrize("quantity", ["surface_reflectance", "toa_reflectance", "radiance", "dn"])
def test_same_seed_same_bytes_other_seed_other_bytes(quantity: str) -> None:
    def make(seed: int) -> Scene:
        return simulate_scene("sentinel2", shape=(40, 24), seed=seed, quantity=quantity, stripes=0.01, nodata=0.05)

    one, two, other = make(4), make(4), make(5)
    np.testing.assert_array_equal(one.read(), two.read())
    np.testing.assert_array_equal(one.labels_HW, two.labels_HW)
    assert (one.read() != other.read()).mean() > 0.5
    assert one.sensor.quantity == quantity and one.dtype.kind in "iu"
    assert (one.read(0, 0) != one.nodata).any(), "not empty"


def test_two_sensors_share_the_ground_of_one_seed() -> None:
    emit, fx10 = (simulate_scene(name, shape=(20, 20), seed=9) for name in ("emit", "fx10"))
    np.testing.assert_array_equal(emit.labels_HW, fx10.labels_HW)
    np.testing.assert_array_equal(emit.groups_HW, fx10.groups_HW)
    assert emit.domain == "emit" and fx10.domain == "specim_fx10"


def test_no_seam_between_blocks_of_rows() -> None:
    """Rows are made 32 at a time; where the blocks meet nothing may show."""
    scene = simulate_scene("sentinel2", ["sand"], shape=(96, 16), seed=2, **{**PURE, "snr": 1e9})
    values = scene.values()
    assert np.nanstd(values[..., 3]) < 1e-3, "one pure material without noise is flat across all blocks"


def test_pure_pixels_are_the_material_seen_through_the_bands() -> None:
    sensor = get_sensor("emit")
    scene = simulate_scene(sensor, ["grass", "sand", "water"], shape=(24, 24), seed=3, **PURE)
    assert scene.labels_HW is not None
    fine = BandGrid(FINE_NM, np.ones_like(FINE_NM))
    _, matrix = fine.resample(sensor.bands)
    values = scene.values()
    for k, name in enumerate(scene.label_names):
        seen = values[scene.labels_HW == k]
        assert len(seen) > 30
        np.testing.assert_allclose(seen.mean(0), matrix @ MATERIALS[name].reflectance(), atol=2e-4)


def test_borders_are_mixed_and_labels_follow_the_largest_share() -> None:
    options = {**PURE, "blur": 1.5, "label_above": 0.6}
    scene = simulate_scene("sentinel2", ["sand", "water"], shape=(48, 48), seed=1, **options)
    assert scene.labels_HW is not None
    red = scene.values()[..., 3]
    sand, water = np.nanmax(red), np.nanmin(red)
    between = (red > water + 0.2 * (sand - water)) & (red < sand - 0.2 * (sand - water))
    assert between.mean() > 0.1, "mixed pixels exist"
    assert 0.02 < (scene.labels_HW == -1).mean() < 0.5
    assert np.all(red[scene.labels_HW == 0] > red[scene.labels_HW == 1].max())
    assert np.all(between[scene.labels_HW == -1])


def test_noise_stripes_and_light_do_what_they_say() -> None:
    def red(**changes: float) -> np.ndarray:
        scene = simulate_scene("sentinel2", ["sand"], shape=(64, 64), seed=0, **{**PURE, **changes})
        return scene.values()[..., 3]

    quiet = red()
    assert quiet.std() / quiet.mean() < 1e-3
    noisy = red(snr=50.0)
    assert noisy.std() / noisy.mean() == pytest.approx(1 / 50, rel=0.25)
    striped = red(stripes=0.02)
    assert striped.mean(0).std() / striped.mean() == pytest.approx(0.02, rel=0.3)
    assert striped.std(0).max() / striped.mean() < 1e-3, "a stripe is constant along its column"
    lit = red(illumination=0.2)
    assert lit.std() / lit.mean() == pytest.approx(0.2, rel=0.3)
    assert red(gain=0.3).mean() != pytest.approx(quiet.mean(), rel=0.01)
    assert red(variability=1.0).std() / quiet.mean() > 0.05


def test_tilt_changes_the_colour_not_the_middle() -> None:
    flat, tilted = (
        simulate_scene("emit", ["sand"], shape=(32, 32), seed=0, **{**PURE, "tilt": tilt}).values() for tilt in (0, 0.2)
    )
    ratio = tilted / flat
    centres = get_sensor("emit").bands.wavelengths_nm
    middle = np.argmin(np.abs(centres - FINE_NM.mean()))
    assert np.nanstd(ratio[..., middle]) < 0.002
    assert np.corrcoef(ratio[..., 0].ravel(), ratio[..., -1].ravel())[0, 1] < -0.9


def test_radiance_shows_the_atmosphere_and_reflectance_does_not() -> None:
    def relative(quantity: str, nm: float) -> float:
        scene = simulate_scene("aviris_ng", ["sand"], shape=(8, 8), seed=0, quantity=quantity, **PURE)
        spectrum = scene.values().mean((0, 1))
        centres = scene.sensor.bands.wavelengths_nm
        at, around = np.argmin(np.abs(centres - nm)), np.abs(np.abs(centres - nm) - 60) < 15
        return float(spectrum[at] / spectrum[around].mean())

    damp, dry = (
        simulate_scene("emit", ["sand"], shape=(8, 8), seed=seed, quantity="radiance", **PURE, humidity=0.5)
        for seed in (0, 1)
    )
    bands = damp.sensor.bands.wavelengths_nm
    pair = [int(np.argmin(np.abs(bands - nm))) for nm in (1060, 940)]
    clear, vapour = (damp.values(bands=pair) / dry.values(bands=pair)).mean((0, 1))
    assert clear == pytest.approx(1, abs=0.05) and abs(vapour - 1) > 0.1, "scenes differ in their water vapour"
    assert relative("radiance", 1380) < 0.2 < 0.8 < relative("surface_reflectance", 1380)
    assert relative("toa_reflectance", 762) < 0.8


def test_missing_pixels_are_masked_and_unlabelled() -> None:
    scene = simulate_scene("emit", shape=(30, 30), seed=0, nodata=0.2)
    assert scene.labels_HW is not None
    lost = ~scene.mask()
    assert lost.mean() == pytest.approx(0.2, abs=0.01)
    assert np.all(scene.labels_HW[lost] == -1)
    assert np.isnan(scene.values()[lost]).all()


def test_counts_saturate_where_the_camera_does() -> None:
    scene = simulate_scene(
        "fx10", ["sand", "blue_metal"], shape=(32, 32), seed=0, quantity="dn", gain=1.5, illumination=1.0
    )
    assert scene.read().max() == scene.saturation
    assert 0 < scene.mask().mean() < 1


def test_bands_where_nothing_is_known_come_out_unusable() -> None:
    sensor = Sensor(BandGrid([900.0, 1000.0, 9000.0, 9100.0], [10.0, 10.0, 100.0, 100.0]))
    scene = simulate_scene(sensor, ["sand"], shape=(8, 8))
    assert scene.sensor.bands.valid.tolist() == [True, True, False, False]
    assert scene.mask().all() and np.isnan(scene.values()[..., 2:]).all()
    with pytest.raises(SpecfmError, match="340-2600"):
        simulate_scene(Sensor(BandGrid([9000.0, 9100.0], [100.0, 100.0])), shape=(8, 8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sensor": "emitt"}, "emit"),
        ({"materials": ["gras"]}, "grass"),
        ({"materials": ["grass", "grass"]}, "once"),
        ({"noise": 3}, "unknown key noise"),
        ({"snr": -1}, "snr"),
        ({"shape": (0, 4)}, "shape"),
    ],
)
def test_bad_use_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        simulate_scene(**{"sensor": "emit", "shape": (8, 8), **arguments})


def test_resampling_a_rich_sensor_gives_what_the_poor_one_would_have_seen() -> None:
    """AVIRIS-NG seen through Sentinel-2's bands equals Sentinel-2 on the same ground (no noise, no air)."""
    options = {**PURE, "variability": 1.0, "blur": 0.7, "quantity": "surface_reflectance"}
    rich, poor = (simulate_scene(name, shape=(24, 24), seed=6, **options) for name in ("aviris_ng", "s2"))
    seen = resample_scene(rich, "sentinel2")
    assert seen.sensor.bands.valid.all() and seen.dtype == np.float32 and seen.sensor.name == "sentinel2_msi"
    np.testing.assert_allclose(seen.values(), poor.values(), rtol=0.01, atol=2e-3)
    np.testing.assert_array_equal(seen.labels_HW, poor.labels_HW)
    window = seen.read(slice(3, 9), slice(0, 20, 2), [11, 2])
    np.testing.assert_allclose(window, seen.read()[3:9, 0:20:2][..., [11, 2]], rtol=1e-6)


def test_resampling_keeps_gaps_and_bad_pixels_out() -> None:
    rich = simulate_scene("fx10", shape=(16, 16), seed=1, nodata=0.1)
    seen = resample_scene(rich, "sentinel2")
    in_range = get_sensor("s2").bands.wavelengths_nm < 1000
    assert seen.sensor.bands.valid.tolist() == in_range.tolist()
    assert np.isnan(seen.values()[..., ~in_range]).all()
    np.testing.assert_array_equal(seen.mask(), rich.mask())
    # one spoilt band must not take the rest of the pixel with it
    cube = rich.read()
    cube[4, 4, 0] = rich.nodata
    spoilt = resample_scene(rich.replace(source=Scene.from_array(cube, rich.sensor).source), "sentinel2").values()[4, 4]
    assert np.isfinite(spoilt[[2, 3, 7]]).all()
    with pytest.raises(SpecfmError, match="range"):
        resample_scene(rich, Sensor(BandGrid([2000.0, 2100.0], [10.0, 10.0])))


def test_files_read_back_as_simulated(tmp_path: Path) -> None:
    cards = write_simulation(
        tmp_path / "sim", ["emit", "aviris", "casi", "s2"], seed=5, scenes=2, size=(20, 16), nodata=0.1, stripes=0.005
    )
    assert [path.stem for path in cards] == ["emit", "aviris_classic_2010s", "casi_1500", "sentinel2_msi"]
    for path in cards:
        scenes = list(load_card(path).scenes())
        assert len(scenes) == 2 and scenes[0].group != scenes[1].group
        for scene in scenes:
            assert scene.shape[:2] == (20, 16) and scene.domain == path.stem
            sensor = get_sensor(path.stem)
            np.testing.assert_allclose(scene.sensor.bands.wavelengths_nm, sensor.bands.wavelengths_nm, atol=1e-3)
            assert scene.labels_HW is not None and scene.groups_HW is not None
            assert set(np.unique(scene.labels_HW)) <= set(range(-1, len(MATERIALS)))
            assert (~scene.mask()).mean() == pytest.approx(0.1, abs=0.02)
            # the same scene made in memory
            key = [5, int(scene.name[-2:]), [c.stem for c in cards].index(path.stem) + 1]
            state = int(np.random.SeedSequence(key).generate_state(1)[0])
            made = simulate_scene(path.stem, None, (20, 16), state, nodata=0.1, stripes=0.005)
            np.testing.assert_array_equal(scene.read(), made.read())
            np.testing.assert_allclose(scene.values(), made.values(), rtol=1e-5)
            np.testing.assert_array_equal(scene.labels_HW, made.labels_HW)
            np.testing.assert_array_equal(scene.groups_HW, made.groups_HW)
            assert scene.sensor.quantity == made.sensor.quantity and scene.nodata == made.nodata
            assert scene.saturation == made.saturation and scene.sensor.level == made.sensor.level


def test_same_ground_option(tmp_path: Path) -> None:
    cards = write_simulation(tmp_path / "sim", ["emit", "s2"], scenes=1, size=(12, 12), same_ground=True)
    first, second = (next(load_card(path).scenes()) for path in cards)
    np.testing.assert_array_equal(first.labels_HW, second.labels_HW)


def test_an_independent_reader_agrees(tmp_path: Path) -> None:
    spectral = pytest.importorskip("spectral", reason="the oracle for ENVI headers is SPy (extra dev)")
    (card,) = write_simulation(tmp_path / "sim", ["neon"], scenes=1, size=(12, 10))
    scene = next(load_card(card).scenes())
    opened = spectral.open_image(str(tmp_path / "sim" / "neon_ais_00.hdr"))
    np.testing.assert_array_equal(np.asarray(opened.load(scale=False)), scene.read())
    np.testing.assert_allclose(opened.bands.centers, scene.sensor.bands.wavelengths_nm, atol=1e-3)


def test_command(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "specfm", "simulate", *args], capture_output=True, text=True)

    out = tmp_path / "sim"
    small = ["--size", "12", "--scenes", "1", "--seed", "7"]
    done = run("--out", str(out), "--sensors", "emit,s2", *small, "--materials", "grass,sand,water", "--set", "snr=90")
    assert done.returncode == 0, done.stderr
    assert [Path(line).stem for line in done.stdout.split()] == ["emit", "sentinel2_msi"]
    assert next(load_card(out / "emit.yaml").scenes()).label_names == ("grass", "sand", "water")
    again = run("--out", str(out), "--sensors", "emit", *small)
    assert again.returncode == 2 and "exists" in again.stderr
    wrong = run("--out", str(tmp_path / "other"), "--sensors", "emit,sentinnel2", *small)
    assert wrong.returncode == 2 and "sentinel2" in wrong.stderr and not (tmp_path / "other").exists()
    unknown = run("--out", str(tmp_path / "other"), "--set", "snrr=3", *small)
    assert unknown.returncode == 2 and "did you mean snr" in unknown.stderr and not (tmp_path / "other").exists()
