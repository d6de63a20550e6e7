"""Where text names an encoder, a scene or a card, that object does as well; the caller's is never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import specfm
from specfm.cards.card import Card
from specfm.cli import app


@pytest.fixture(scope="module")
def card_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("objects") / "sim"
    asked = ["--sensors", "rosis", "--size", "24", "--scenes", "3"]
    assert CliRunner().invoke(app, ["simulate", "--out", str(out), *asked]).exit_code == 0
    return next(out.glob("*.yaml"))


@pytest.fixture(scope="module")
def card(card_path: Path) -> Card:
    return specfm.load_card(card_path)


@pytest.fixture(scope="module")
def scene(card: Card) -> specfm.Scene:
    return next(card.scenes())


@pytest.fixture(scope="module")
def encoder() -> specfm.Encoder:
    return specfm.load("real_nano")


MAPS: dict[str, dict[str, Any]] = {"embed": {}, "cluster": {"classes": 3}, "search": {"like": (4, 5)}}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("fit", [False, True])
def test_objects_give_what_their_names_give(
    name: str, fit: bool, encoder: specfm.Encoder, scene: specfm.Scene, card_path: Path, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.train()
    run = getattr(specfm, name)
    by_object = run(encoder, scene, out=tmp_path / "a.npy", fit=fit, **MAPS[name])
    assert encoder.training and all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    encoder.eval()
    by_name = run("real_nano", f"{card_path}:{scene.path.stem}", out=tmp_path / "b.npy", fit=fit, **MAPS[name])
    np.testing.assert_allclose(by_object.array, by_name.array, atol=1e-5)


def test_what_says_its_bands_itself_is_a_scene(encoder: specfm.Encoder, scene: specfm.Scene, tmp_path: Path) -> None:
    cube, bands = scene.values().astype(np.float32), specfm.BandGrid(scene.sensor.bands.wavelengths_nm)
    plain = specfm.Scene.from_array(cube, bands)
    same = [plain.to_xarray(), {"image": cube, "wavelengths_nm": bands.wavelengths_nm}]
    wanted = specfm.embed(encoder, plain, out=tmp_path / "0.npy").array
    for i, each in enumerate(same, 1):
        np.testing.assert_allclose(specfm.embed(encoder, each, out=tmp_path / f"{i}.npy").array, wanted, atol=1e-4)


def test_a_probe_of_objects_is_that_of_their_names(encoder: specfm.Encoder, card: Card, card_path: Path) -> None:
    asked = {
        "protocol": "knn", "k": 1, "seeds": 1, "window": 6, "max_per_class": 5, "baselines": False, "cache": "none"
    }  # fmt: skip
    tables = [specfm.probe(encoder, data=data, **asked).rows for data in (card, list(card.scenes()), str(card_path))]
    assert {row["data"] for rows in tables for row in rows} == {card.name}
    assert len({tuple(row["oa"]["mean"] for row in rows) for rows in tables}) == 1


@pytest.mark.slow
def test_an_encoder_becomes_a_file_for_a_sensor(encoder: specfm.Encoder, scene: specfm.Scene, tmp_path: Path) -> None:
    made = specfm.export(encoder, sensor=scene, out=tmp_path / "a.onnx")
    assert made.difference < 1e-3 and made.facts.sensors[0] == scene.sensor


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"checkpoint": np.ones(3)}, r"embed: checkpoint takes text or an object of class Encoder, not array"),
        ({"checkpoint": torch.nn.Linear(2, 2)}, "takes text or an object of class Encoder, not Linear"),
        ({"scenes": np.ones((4, 4, 3))}, r"takes text or an object of class Card or Scene"),
        ({"units": "nm"}, "is a Scene, which describes its files itself"),
    ],
)
def test_other_objects_are_refused(wrong: dict[str, Any], sentence: str, scene: specfm.Scene, tmp_path: Path) -> None:
    with pytest.raises(specfm.UsageError, match=sentence):
        specfm.embed(**{"checkpoint": "real_nano", "scenes": scene, "out": tmp_path / "x.npy", **wrong})


def test_the_help_says_what_is_taken() -> None:
    told = specfm.embed.__doc__ or ""
    assert "checkpoint (str or Encoder): " in told and "scenes (list of str or Card or Scene): " in told
    assert "data (list of str or Card or Scene): " in (specfm.probe.__doc__ or "")


def test_wrapped_encoders_are_the_encoder_within(encoder: specfm.Encoder, scene: specfm.Scene, tmp_path: Path) -> None:
    plain = specfm.embed(encoder, scene, out=tmp_path / "a.npy").array
    for number, wrap in enumerate((lambda e: torch.compile(e, backend="eager"), torch.nn.DataParallel)):
        np.testing.assert_array_equal(specfm.embed(wrap(encoder), scene, out=tmp_path / f"{number}.npy").array, plain)
        assert specfm.load(specfm.save(wrap(encoder), tmp_path / f"saved{number}")).config == encoder.config
    with pytest.raises(specfm.UsageError, match="init: an object of class Encoder stands in no configuration"):
        specfm.finetune("downstream/species_osbs.yaml", {"init": encoder}, dry_run=True)


def test_a_card_is_all_its_scenes_or_its_one(encoder: specfm.Encoder, card: Card, tmp_path: Path) -> None:
    found = specfm.embed(encoder, card, per="specimen", out=tmp_path / "v.csv")
    assert {row["scene"] for row in found.rows} == {f"{card.name}/{name}" for name in card.names()}
    with pytest.raises(specfm.UsageError, match=r"holds 3 scenes; give one of them"):
        specfm.embed(encoder, card, out=tmp_path / "v.npy")
