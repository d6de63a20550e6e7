"""Task models as files: probabilities and whole maps are those of the model, and running one needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import specfm
from downstream.deploy.run import run_to_file
from downstream.deploy.task import OUTPUTS, task_facts, task_graph, taught_sensor
from downstream.maps.predict import predict_to_file
from downstream.supervised.folder import save_task
from downstream.supervised.model import CHANGE_NAMES, HeadSpec, TaskModel
from downstream.supervised.views import View
from specfm.dense.tile_reader import TileReader, scene_level
from specfm.deploy.runtime import Deployed, date_inputs
from specfm.deploy.write import write
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.sensors import Sensor
from specfm.tiles import Tile
from tests.deploy.make import BACKBONES, SENSOR, encoder, off
from tests.downstream.maps.toy_maps import fitted_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NAMES = ("oak", "fir", "elm")
OTHER = Sensor(specfm.BandGrid(np.linspace(500, 900, 7), np.full(7, 20.0)), "surface_reflectance", scale=1e-4)
SPREAD = "mean+centre"


def task(kind: str) -> TaskModel:
    """A model of scores that are far from 0 and 1."""
    torch.manual_seed(0)
    made = {
        "segmentation": lambda: TaskModel(encoder("hyper-light"), "segmentation", NAMES, 6),
        "fpn": lambda: TaskModel(encoder("hyper-metadata", depth=2), "segmentation", NAMES, 6, HeadSpec("fpn", (0, 1))),
        "upernet": lambda: TaskModel(encoder("basis", depth=2), "segmentation", NAMES, 6, HeadSpec("upernet", (0, 1))),
        "classification": lambda: TaskModel(encoder("hyper-light"), "classification", NAMES, 6),
        "pooled": lambda: TaskModel(
            encoder("hyper-metadata"), "classification", NAMES, 6, HeadSpec("pooled", pooling=SPREAD), level="sample"
        ),
        "pixel": lambda: TaskModel(encoder("pixel-tokens"), "classification", NAMES, 6, HeadSpec(pooling="mean+pixel")),
        "network": lambda: TaskModel(encoder(next(iter(BACKBONES))), "classification", NAMES, 6),
        "change": lambda: TaskModel(encoder("hyper-light"), "change", CHANGE_NAMES, 6, threshold=0.4),
        "attention": lambda: TaskModel(
            encoder("hyper-metadata"), "change", CHANGE_NAMES, 6, HeadSpec(fusion="cross_attention")
        ),
    }[kind]()
    for parameter in made.head.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def exported(model: TaskModel, sensors: list[Sensor | None], out: Path, **options) -> float:
    graph, example = task_graph(model, sensors)
    facts = task_facts(model, sensors, "0" * 16, "1.0")
    return write(graph, example, OUTPUTS, out, facts, form="onnx", **options)


def view(sensor: Sensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    physical = rng.uniform(0.1, 0.9, (count, 6, 6, len(sensor.bands)))
    stored = ((physical - sensor.offset) / sensor.scale).astype(np.float32)
    stored[0, 1, 2, 0] = np.nan
    return stored, rng.random((count, 6, 6)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "segmentation", "fpn", "upernet", "classification", "pooled", "pixel", "network", "change", "attention",
    ],
)  # fmt: skip
def test_probabilities_in_the_runtime(kind: str, tmp_path: Path) -> None:
    model = task(kind)
    sensors: list[Sensor | None] = [SENSOR, OTHER] if model.task == "change" else [SENSOR]
    exported(model, sensors, tmp_path / "model.onnx")
    deployed = Deployed(tmp_path / "model.onnx", threads=1)
    assert deployed.facts.kind == model.task and deployed.facts.classes == model.label_names
    level = 0.5 if deployed.facts.level == "scene" else None
    for count in (1, 3):
        words, given = {}, {}
        for number, sensor in enumerate(sensors, 1):
            assert sensor is not None
            turn, (x, mask) = "" if number == 1 else "2", view(sensor, count)
            words |= {f"x{turn}_BHWC": x, f"bands{turn}": sensor, f"mask{turn}_BHW": mask}
            words |= {} if level is None else {f"level{turn}_B": torch.full((count,), level)}
            given |= date_inputs(deployed.facts, number, x, mask, level, sensor)
        wanted = model.predict_tile(**words).numpy()
        found = deployed(given)["probabilities_BHWK"]
        assert 0.02 < wanted[wanted > 0].min() < 0.98 and off(found, wanted) < 1e-5, count
        np.testing.assert_array_equal(found.sum(-1) == 0, wanted.sum(-1) == 0)


@pytest.fixture(scope="module")
def ground() -> tuple[Scene, TaskModel]:
    """A scene of three materials with a hole, and a model fitted to it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (10, 12)).repeat(6, 0).repeat(6, 1).astype(np.int32)
    spectra = rng.uniform(0.2, 0.8, (3, len(SENSOR.bands)))
    cube = spectra[labels] * (1 + 0.05 * rng.normal(size=(*labels.shape, 1)))
    stored = ((cube - SENSOR.offset) / SENSOR.scale).astype(np.float32)
    stored[10:20, 30:40] = np.nan
    scene = Scene.from_array(stored, SENSOR, name="ground", labels_HW=labels)
    return scene, fitted_model([scene], 12, 2)


@pytest.mark.slow
def test_maps_are_those_of_the_model(ground: tuple[Scene, TaskModel], tmp_path: Path) -> None:
    scene, model = ground
    exported(model, [SENSOR], tmp_path / "model.onnx")
    exported(model, [SENSOR], tmp_path / "small.onnx", integers="dynamic")
    shares = predict_to_file(model, [scene], tmp_path / "wanted.npy", preview=False)
    wanted = np.load(tmp_path / "wanted.npy")
    for name, least in (("model", 0.999), ("small", 0.97)):
        deployed = Deployed(tmp_path / f"{name}.onnx", threads=1)
        found_shares = run_to_file(
            deployed, [scene], tmp_path / f"{name}.npy", probabilities=tmp_path / "p.npy", preview=False, overwrite=True
        )
        found = np.load(tmp_path / f"{name}.npy")
        assert (found == wanted).mean() >= least and set(found_shares) == set(shares)
        np.testing.assert_array_equal(found == 0, wanted == 0)
    told = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("wanted", "model")]
    assert told[0]["classes"] == told[1]["classes"] and told[0]["stride"] == told[1]["stride"]
    # the same ground stored otherwise
    other = scene.replace(
        source=Scene.from_array(scene.read() * SENSOR.scale + SENSOR.offset, SENSOR).source,
        sensor=SENSOR.replace(scale=1.0, offset=0.0),
    )
    run_to_file(Deployed(tmp_path / "model.onnx"), [other], tmp_path / "other.npy", preview=False)
    assert (np.load(tmp_path / "other.npy") == wanted).mean() >= 0.999
    with pytest.raises(UsageError, match="7 bands, and .*model.onnx is baked for 12"):
        run_to_file(
            Deployed(tmp_path / "model.onnx"), [Scene.from_array(np.ones((9, 9, 7), np.float32), OTHER)],
            tmp_path / "never.npy",
        )  # fmt: skip


@pytest.mark.slow
def test_the_commands_on_a_real_scene_and_without_torch(data_root: Path, tmp_path: Path) -> None:
    card = "salinas_a"
    made = specfm.load("real_nano")
    model = TaskModel(made, "segmentation", ("a", "b", "c", "d"), 9)
    scene = next(iter(specfm.load_card(card).scenes()))
    x_BHWC, mask_BHW = TileReader(scene, 1)([Tile(row, col, 9, 9) for row in (0, 30, 60) for col in (0, 35, 70)])
    level_B = torch.full((9,), scene_level(scene))
    model.fit_standardiser([View(torch.from_numpy(x_BHWC), scene.sensor, torch.from_numpy(mask_BHW), level_B)])
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.score.weight, std=0.3)
    save_task(model, tmp_path / "task", {"sensors": ["aviris_classic_1990s"]})
    specfm.predict(tmp_path / "task", card, out=tmp_path / "wanted.npy", no_preview=True, stride=4)
    specfm.export(tmp_path / "task", out=tmp_path / "task.onnx", sensor=card)
    specfm.export("real_nano", out=tmp_path / "encoder.onnx", sensor=card)
    code = f"""
import sys, specfm
specfm.run({str(tmp_path / "task.onnx")!r}, {card!r}, out={str(tmp_path / "found.npy")!r}, stride=4)
specfm.run({str(tmp_path / "encoder.onnx")!r}, {card!r}, out={str(tmp_path / "features.npy")!r})
assert not [name for name in sys.modules if name.split('.')[0] in ('torch', 'timm', 'torchvision', 'onnx')]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    wanted, found = np.load(tmp_path / "wanted.npy"), np.load(tmp_path / "found.npy")
    assert len(np.unique(wanted)) > 2 and (wanted == found).mean() >= 0.999
    assert (tmp_path / "found.png").is_file()
    features = np.load(tmp_path / "features.npy")
    assert off(features, made.embed(scene).features_hwD) < 3e-4  # a whitened stem: float32 itself is as far off


def test_a_sensor_is_what_the_model_was_taught() -> None:
    taught = taught_sensor(SENSOR, {"pretreatment": ["snv"]})
    assert taught.pretreatment == ("snv",) and len(taught.bands) == len(SENSOR.bands)
    with pytest.raises(SpecfmError):
        taught_sensor(OTHER, {"bands": {"selection": "importance:3", "wavelengths_nm": [[1650.0]]}})


def test_what_cannot_be_exported_is_refused_at_once(tmp_path: Path) -> None:
    specfm.save(encoder("fixed"), tmp_path / "fixed")
    save_task(task("segmentation"), tmp_path / "task", {})
    for words, message in (
        ({"out": "a.tflite", "sensor": "emit"}, "the suffix says no format"),
        ({"out": "a.onnx"}, "embedding fixed, which is made for known bands.*--sensor"),
        ({"out": "a.pt2", "int8": True}, "--int8 is for ONNX Runtime"),
        ({"out": "a.onnx", "sensor": "nosuch"}, "--sensor: .*nosuch"),
        ({"out": "a.onnx", "sensor": "emit", "tile": 7}, "--tile 7 is not a multiple"),
        ({"out": "a.onnx", "sensor": "emit", "sensor_after": "emit"}, "--sensor-after is for change models"),
        ({"out": "a.onnx", "sensor": "emit"}, "built for 12 bands and was given 285"),
    ):
        with pytest.raises(SpecfmError, match=message):
            specfm.export(tmp_path / "fixed", **{**words, "out": tmp_path / words["out"]})
    for words, message in (
        ({"tile": 9}, "trained on tiles of 6 pixels"),
        ({"level": "sample"}, "trained with level scene"),
    ):
        with pytest.raises(UsageError, match=message):
            specfm.export(tmp_path / "task", out=tmp_path / "a.onnx", sensor="emit", **words)
    save_task(task("change"), tmp_path / "change", {})
    with pytest.raises(UsageError, match="change takes two; leave --calibrate out: with --int8 alone"):
        specfm.export(
            tmp_path / "change", out=tmp_path / "a.onnx", sensor="emit", int8=True, calibrate="salinas_a"
        )  # fmt: skip
    with pytest.raises(SpecfmError, match="not a folder"):
        specfm.export(tmp_path / "none", out=tmp_path / "a.onnx")
    (tmp_path / "there.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="exists"):
        specfm.export(tmp_path / "task", out=tmp_path / "there.onnx", sensor="emit")
    assert not list(tmp_path.glob("a.*"))
