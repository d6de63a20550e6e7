"""What reads windows of one size alone, converted or trained here, goes through the commands with their defaults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import specfm
from pretrain.loop import train
from specfm import UsageError
from specfm.cli import app
from specfm.convert.specaware import convert_specaware
from tests.convert.test_specaware import whole_state
from tests.parity.test_specaware import DIM, GRID, PATCH, SIDE
from tests.pretrain.pairs.made import write_plots
from tests.pretrain.test_one_size import preset

QUICK = ("--seeds", "2", "--init-seeds", "1", "--max-per-class", "8", "--protocol", "knn", "--no-scratch")


def call(*words: str | Path) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def refused(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2, done.output
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plots of two materials in 12 bands with a card; one scene of them smaller than the windows."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(28, 40), (28, 40), (28, 40), (10, 24)]):
        labels = rng.integers(0, 2, (height // 2, width // 4)).repeat(2, 0).repeat(4, 1)
        spectra = np.linspace(0.2, 0.6, 12) * np.array([[1.0], [0.5]])
        np.save(root / f"p{number}.npy", (spectra[labels] + 0.01 * rng.normal(size=(*labels.shape, 12))).astype("f4"))
        np.save(root / f"p{number}_labels.npy", labels.astype(np.int32))
    centres = np.linspace(420, 2400, 12)
    (root / "bands.csv").write_text(
        "band,centre_nm,fwhm_nm\n" + "".join(f"{i},{c},10\n" for i, c in enumerate(centres))
    )
    (root / "card.yaml").write_text(
        "name: plots\ndomain: field\ntask: classification\npath: p?.npy\nwavelengths: bands.csv\n"
        "quantity: surface_reflectance\nwavelength_trust: high\nlabels: {path: '{stem}_labels.npy'}\n"
        "label_names: [oak, pine]\ngroup: '{stem}'\nobject: {threshold: 0.3}\n"
    )
    return root


@pytest.fixture(scope="module", params=["converted", "trained", "trained on its own size"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    if request.param == "converted":
        save_file(whole_state(decoder=False), root / "published.safetensors")
        convert_specaware(root / "published.safetensors", root / "model")
        return root / "model"
    window = SIDE if request.param.endswith("size") else 24
    train(preset(root / "run", str(write_plots(root / "a.h5", window=window, stride=10)), "steps=2"))
    return root / "run"


def test_the_commands_take_its_size_where_none_is_named(folder: Path, model: Path, tmp_path: Path) -> None:
    scene, card = f"{folder / 'card.yaml'}:p0", folder / "card.yaml"
    call("embed", model, scene, "--out", tmp_path / "dense.npy")
    assert np.load(tmp_path / "dense.npy").shape == (7, 10, DIM)
    assert json.loads((tmp_path / "dense.json").read_text())["window"] == SIDE
    call("embed", model, scene, "--out", tmp_path / "each.csv", "--per", "specimen")
    call("cluster", model, scene, "--classes", "2", "--out", tmp_path / "map.npy")
    call("probe", model, "--data", card, *QUICK, "--out", tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["window"] for row in rows} == {SIDE}


def test_other_windows_are_refused_with_its_own(folder: Path, model: Path, tmp_path: Path) -> None:
    scene = f"{folder / 'card.yaml'}:p0"
    words = "24: this encoder reads windows of 16 x 16 pixels alone; set 16"
    for more in (("--window", "24"), ("--per", "specimen", "--whole", "24")):
        assert words in " ".join(refused("embed", model, scene, "--out", tmp_path / "x.npy", *more).split())
    told = refused(
        "probe", model, "--data", folder / "card.yaml", *QUICK, "--window", "24", "--out", tmp_path / "probe"
    )
    assert words in " ".join(told.split())
    encoder = specfm.load(model)
    with pytest.raises(UsageError, match="which lists of spectra have not; take another encoder"):
        encoder.embed(np.ones((3, len(GRID)), np.float32), GRID)
    with pytest.raises(UsageError, match="cannot be aligned whose embedding reads windows of one size"):
        encoder.align()


def test_what_lies_beyond_a_small_scene_counts_as_invalid(model: Path) -> None:
    encoder = specfm.load(model)
    rng = np.random.default_rng(1)
    cube_HWC = rng.uniform(0.1, 0.6, (10, 24, len(GRID))).astype(np.float32)
    found = encoder.embed(cube_HWC, GRID).features_hwD
    assert found.shape == (-(-10 // PATCH), 24 // PATCH, DIM) and np.isfinite(found).all()
    alone = encoder.embed(cube_HWC[:, :16], GRID, stride=SIDE).features_hwD
    padded = np.full((1, SIDE, SIDE, len(GRID)), np.nan, np.float32)
    padded[0, :10] = cube_HWC[:, :16]
    by_hand = encoder(padded, GRID).tokens_BND.detach().numpy().reshape(4, 4, DIM)
    assert np.allclose(alone, by_hand[:3], atol=1e-5)
