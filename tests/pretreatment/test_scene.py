"""Pretreated scenes: what is asked for, what its sensor says, and that every reader of a card gets them.

Shapes: H W C of a scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.cards import load_card
from specfm.cards.opening import open_scenes
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import measured, otherwise_taught, parse_steps, pretreat, pretreat_spectra
from specfm.readers import read_scene
from specfm.readers.own import save_scene
from specfm.scene import Scene
from specfm.sensors import Sensor
from specfm.shards import ShardSet
from specfm.shards.build import write_shards
from specfm.shards.identity import scene_content, scene_identity
from specfm.simulate import resample_scene

SENSOR = Sensor(BandGrid(np.linspace(450, 900, 40)), "surface_reflectance", scale=1e-4, level="L2", name="toy")


def made(seed: int = 0, **fields: object) -> Scene:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.normal(0, 60, (9, 11, 40)), -1) + 4000
    return Scene.from_array(smooth.astype(np.int16), SENSOR, name="lab", nodata=-9999, **fields)


@pytest.mark.parametrize("name", ["snv", "continuum", "sg0", "sg1:15", "sg2:7:3", "sg1:40nm", "sg1:12.5nm:3", " SNV "])
def test_names_are_read_and_written(name: str) -> None:
    (step,) = parse_steps([name])
    assert parse_steps([str(step)]) == (step,)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["msc"], "unknown pretreatment 'msc'; give snv, continuum"),
        (["sg3"], "unknown pretreatment 'sg3'"),
        (["sg1:10"], "odd number of bands"),
        (["sg1:3:3"], "above the degree 3"),
        (["sg2:11:1"], "degree of the polynomial is 2 to 6"),
        (["sg1:0nm"], "wider than 0 nm"),
        (["snv", "continuum"], "continuum after snv"),
        (["sg1", "continuum"], "continuum after sg1:11:2"),
        (["snv", "snv"], "asked for twice"),
    ],
)
def test_what_makes_no_sense_is_refused(names: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_steps(names)


def test_smoothing_may_come_before_a_continuum() -> None:
    assert [str(step) for step in parse_steps(["sg0", "continuum", "snv"])] == ["sg0:11:2", "continuum", "snv"]


def test_a_scene_is_pretreated_as_it_is_read() -> None:
    scene = made()
    cube = scene.read()
    cube[2, 3] = -9999
    cube[4, 5] = 0  # fill
    cube[6, 7, 1:] = cube[6, 7, 0]  # flat
    scene = scene.replace(source=type(scene.source)(cube))
    seen = pretreat(scene, ["snv", "sg1:7"])
    expected, bands = pretreat_spectra(cube.reshape(-1, 40) * 1e-4, SENSOR.bands, ["snv", "sg1:7"])
    valid_HW = scene.mask()
    valid_HW[6, 7] = False
    np.testing.assert_array_equal(seen.mask(), valid_HW)
    np.testing.assert_allclose(seen.read()[valid_HW], expected.reshape(9, 11, 40)[valid_HW], rtol=1e-3, atol=1e-6)
    assert np.isnan(seen.read()[~valid_HW]).all()
    part = seen.read(slice(1, 8, 3), slice(2, 6), [5, 0])
    np.testing.assert_array_equal(part, seen.read()[1:8:3, 2:6][..., [5, 0]])
    np.testing.assert_array_equal(seen.values()[valid_HW], seen.read()[valid_HW])
    assert (seen.dtype, seen.nodata, seen.sensor.scale, seen.sensor.bands) == (np.float32, None, 1.0, bands)
    assert pretreat(scene, []) is scene


def test_the_sensor_says_what_was_done_and_models_are_told_no_quantity() -> None:
    sensor = pretreat(made(), ["snv", "sg1"]).sensor
    assert sensor.pretreatment == ("snv", "sg1:11:2") and sensor.quantity == "surface_reflectance"
    assert Sensor.from_dict(sensor.to_dict()) == sensor
    assert "pretreatment" not in SENSOR.to_dict()
    told = BandTensors.from_sensors([SENSOR, sensor]).quantity_G.tolist()
    assert told[0] >= 0 and told[1] == -1
    digests = {pretreat(made(), steps).sensor.digest for steps in ([], ["snv"], ["sg1"], ["sg1:9"], ["sg1", "snv"])}
    assert len(digests) == 5


def test_steps_go_on_from_those_that_were_done() -> None:
    twice, once = pretreat(pretreat(made(), ["snv"]), ["sg1"]), pretreat(made(), ["snv", "sg1"])
    assert twice.sensor == once.sensor
    np.testing.assert_allclose(twice.read(), once.read(), atol=1e-6)
    with pytest.raises(UsageError, match="continuum after snv"):
        pretreat(twice, ["continuum"])


def test_bands_without_a_value_are_unusable_and_a_sensor_without_any_is_refused() -> None:
    wide = Sensor(BandGrid(np.r_[450:700:10.0, 865.0, 1610.0, 2190.0]), "surface_reflectance")
    cube = np.random.default_rng(0).random((3, 3, 28)).astype(np.float32)
    seen = pretreat(Scene.from_array(cube, wide), ["sg1:5"])
    assert seen.sensor.bands.valid.tolist() == [True] * 25 + [False] * 3 and seen.mask().all()
    assert np.isnan(seen.read()[..., 25:]).all()
    few = Sensor(BandGrid([490.0, 865.0]), "surface_reflectance")
    with pytest.raises(SpecfmError, match="pair: pretreatment sg1:11:2 needs 3 bands side by side"):
        pretreat(Scene.from_array(cube[..., :2], few, name="pair"), ["sg1"])


def test_the_scene_as_measured_is_found_again(tmp_path: Path) -> None:
    scene = made()
    labels_HW = np.full((9, 11), -1, np.int32)
    seen = pretreat(pretreat(scene, ["sg0"]), ["snv"]).replace(labels_HW=labels_HW)
    back = measured(seen)
    assert back.sensor == SENSOR and back.nodata == -9999 and back.labels_HW is labels_HW
    np.testing.assert_array_equal(back.read(), scene.read())
    assert measured(scene) is scene
    kept = read_scene(save_scene(seen, tmp_path / "kept.h5"))
    assert kept.sensor == seen.sensor
    np.testing.assert_array_equal(kept.read(), seen.read())
    with pytest.raises(SpecfmError, match=r"kept.h5: holds spectra pretreated by sg0:11:2, snv"):
        resample_scene(kept, "enmap")


def test_another_sensor_sees_light_not_what_was_made_of_it() -> None:
    target = Sensor(BandGrid(np.linspace(480, 860, 20), np.full(20, 30.0)), name="other")
    seen = resample_scene(pretreat(made(), ["snv"]), target)
    expected = pretreat(resample_scene(made(), target), ["snv"])
    assert seen.sensor == expected.sensor and seen.name == "lab@other"
    np.testing.assert_array_equal(seen.read(), expected.read())


def test_identity_follows_the_steps_and_content_does_not() -> None:
    scene = made()
    kinds = [scene, *(pretreat(scene, steps) for steps in (["snv"], ["sg1"], ["sg1:9"]))]
    assert len({str(scene_identity(each)) for each in kinds}) == 4
    assert len({scene_content(each) for each in kinds}) == 1


def test_shards_hold_pretreated_windows_and_objects_are_found_by_brightness(tmp_path: Path) -> None:
    cube = made().read()
    cube[:, :6] //= 8  # dark background; snv takes the difference out
    scene = made().replace(source=made().source.__class__(cube), domain="lab")
    for name, each in (("treated", pretreat(scene, ["snv"])), ("plain", scene)):
        write_shards([each], tmp_path / name, window=3, stride=1, min_valid=1.0, object_threshold="otsu")
    (treated,), (plain,) = (ShardSet([tmp_path / name]).readers for name in ("treated", "plain"))
    assert len(treated) == len(plain) > 0 and treated.sensor.pretreatment == ("snv",)
    x_NHWC, mask_NHW = treated.read(np.arange(len(treated)))
    y_NHWC, _ = plain.read(np.arange(len(plain)))
    expected, _ = pretreat_spectra(y_NHWC[mask_NHW] * 1e-4, SENSOR.bands, ["snv"])
    np.testing.assert_allclose(x_NHWC[mask_NHW], expected, rtol=1e-3, atol=1e-4)


def test_saturation_of_counts_is_not_one_of_what_was_made_of_them(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).integers(100, 4000, (6, 6, 40)).astype(np.uint16)
    cube[2, 3] = 4095
    cube[2, 3, 7] = 9
    np.save(tmp_path / "scan.npy", cube)
    lines = ["name: c", "domain: lab", "wavelength_trust: high", "path: scan.npy", "linear_nm: [450, 900, 40]"]
    (tmp_path / "c.yaml").write_text("\n".join([*lines, "quantity: dn", "pretreatment: snv", ""]))
    (scene,) = open_scenes([str(tmp_path / "c.yaml")], {"saturation": 4095})
    assert np.argwhere(~scene.mask()).tolist() == [[2, 3]]


def test_a_card_says_it_once_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).integers(100, 4000, (6, 6, 40)).astype(np.uint16)
    np.save(tmp_path / "scan.npy", cube)
    lines = ["name: c", "domain: lab", "wavelength_trust: high", "path: scan.npy", "linear_nm: [450, 900, 40]"]
    (tmp_path / "c.yaml").write_text("\n".join([*lines, "quantity: dn", "pretreatment: [snv, 'sg1:9']", ""]))
    (scene,) = load_card(tmp_path / "c.yaml").scenes()
    assert scene.sensor.pretreatment == ("snv", "sg1:9:2") and scene.dtype == np.float32
    ((raw, _),) = load_card(tmp_path / "c.yaml").scans()
    np.testing.assert_array_equal(raw.read(), cube)
    (tmp_path / "c.yaml").write_text("\n".join([*lines, "pretreatment: detrend", ""]))
    with pytest.raises(UsageError, match="unknown pretreatment 'detrend'"):
        load_card(tmp_path / "c.yaml")


def test_a_real_lab_scan_is_calibrated_then_pretreated(data_root: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "configs/data/corn_kernel.yaml").read_text()
    (tmp_path / "corn.yaml").write_text(text + "pretreatment: [sg0:15, continuum]\n")
    (plain,) = load_card("corn_kernel").scenes()
    (seen,) = load_card(tmp_path / "corn.yaml").scenes()
    assert plain.sensor.quantity == "surface_reflectance" and seen.sensor.pretreatment == ("sg0:15:2", "continuum")
    mask_HW = plain.mask()
    assert mask_HW.mean() > 0.9
    np.testing.assert_array_equal(seen.mask(), mask_HW)
    ratio = seen.read()[mask_HW][:, seen.sensor.bands.valid]
    assert ratio.min() >= 0 and ratio.max() == 1
    smooth, bands = pretreat_spectra(plain.values()[mask_HW], plain.sensor.bands, ["sg0:15"])
    hull = smooth[:, bands.valid] / np.maximum(ratio, 1e-9)
    assert (hull[smooth[:, bands.valid] > 0] >= smooth[:, bands.valid][smooth[:, bands.valid] > 0] * (1 - 1e-4)).all()


def test_an_encoder_that_learnt_from_other_spectra_is_told_of() -> None:
    plain, treated = made(), pretreat(made(), ["snv"])
    of_both = {"pretraining": {"scenes": [], "pretreatment": ["none, as measured", "snv"]}}
    assert otherwise_taught(of_both, [plain, treated]) is None
    assert otherwise_taught(None, [treated]) is None and otherwise_taught({}, [treated]) is None  # untrained
    old = {"scenes": ["x"]}
    assert otherwise_taught(old, [plain]) is None
    said = "the encoder learnt from other spectra (pretreatment: none, as measured) than these (snv)"
    assert otherwise_taught(old, [plain, treated]) == said
    only = {"scenes": ["x"], "pretreatment": ["snv"]}
    assert str(otherwise_taught(only, [plain])).endswith("(pretreatment: snv) than these (none, as measured)")
    assert otherwise_taught(only, [pretreat(made(), ["sg1"])]) is not None
