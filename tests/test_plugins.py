"""A package made by the tests brings a reader, an embedding and an objective; nothing of it is imported too early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import specfm
from pretrain.config import PretrainConfig
from specfm import SpecfmError, UsageError
from specfm.cli import app
from specfm.config import load_config, to_yaml
from specfm.plugins import PluginError, plugins
from tests.properties.cases import comb, cube

GRID = comb(9)

READER = """
import numpy as np
from specfm.readers.found import Found
from specfm.scene import ArraySource

def sniff(path, start):
    return start.startswith(b"TOYCUBE")

def read(path):
    _, shape, numbers = path.read_text().split(";")
    cube = np.array(numbers.split(), np.float32).reshape([int(n) for n in shape.split()])
    return Found(ArraySource(cube), path, wavelengths=np.linspace(450, 900, cube.shape[2]), units="nm")
"""
EMBEDDING = '''
import torch
from torch import nn

class Bright(nn.Module):
    """How bright each pixel of a patch is over all its bands."""

    def __init__(self, dim, patch_size, gain=1.0):
        super().__init__()
        self.gain, self.linear = gain, nn.Linear(patch_size**2, dim)

    def forward(self, patches):
        return self.linear(self.gain * torch.einsum("bcnp,gc->bnp", patches.x_BCNP, patches.weights_GC[:1]))
'''
OBJECTIVE = '''
import torch
from torch import nn
from pretrain.objectives.base import Objective
from specfm.config import Strict

class Agree(Objective):
    """A small head tells the features of one view from those of the other."""

    class Settings(Strict):
        weight: float = 1.0
        margin: float = 0.0

    def __init__(self, settings, around):
        self.weight, self.margin = settings.weight, settings.margin
        self.head = nn.Linear(around.width, around.width)
        self.heads = {"agree": self.head}

    def separate(self, part):
        one, two = (part.features.pooled_BD[part.rows_of(view)] for view in ("first", "second"))
        loss = (self.head(one) - two).square().mean() + self.margin
        return loss, {"agree": loss.detach()}
'''


def install(folder: Path, name: str, entries: str, **modules: str) -> Path:
    """A package as pip lays it out: modules, and a dist-info with its entry points."""
    package = name.replace("-", "_")
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("")
    for module, text in modules.items():
        (folder / package / f"{module}.py").write_text(text)
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entries)
    return folder


def whole(folder: Path, name: str) -> Path:
    package = name.replace("-", "_")
    entries = (
        f"[specfm.readers]\ntoy = {package}.reader\n[specfm.embeddings]\nbright = {package}.embedding:Bright\n"
        f"[specfm.objectives]\nagree = {package}.objective:Agree\n"
    )
    return install(folder, name, entries, reader=READER, embedding=EMBEDDING, objective=OBJECTIVE)


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(whole(tmp_path / "site", "toy-plugin")))


def toy_file(path: Path, shape: tuple[int, int, int] = (6, 9, 9)) -> Path:
    numbers = np.random.default_rng(0).uniform(0.1, 0.9, shape).ravel()
    path.write_text("TOYCUBE;" + " ".join(map(str, shape)) + ";" + " ".join(f"{n:.4f}" for n in numbers))
    return path


def test_a_reader(brought: None, tmp_path: Path) -> None:
    scene = specfm.read_scene(toy_file(tmp_path / "scan.toy"), nodata=0)
    assert scene.shape == (6, 9, 9) and scene.sensor.bands.wavelengths_nm[-1] == 900
    (row,) = specfm.inspect(tmp_path / "scan.toy").rows
    assert row["scene"]["shape"] == [6, 9, 9]
    with pytest.raises(SpecfmError, match="is toy, whose axes are known"):
        specfm.read_scene(tmp_path / "scan.toy", layout="CHW")
    (tmp_path / "other.toy").write_text("nothing of the kind")
    with pytest.raises(SpecfmError, match="neither ENVI, GeoTIFF"):
        specfm.read_scene(tmp_path / "other.toy")


def test_an_embedding(brought: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    made = specfm.create_encoder("nano", "bright", 4, dim=48, depth=1, heads=3, gain=2.0).eval()
    assert made.config["embedding"] == "bright" and made.config["gain"] == 2.0
    specfm.save(made, tmp_path / "release")
    again = specfm.load(tmp_path / "release")
    assert torch.equal(again(cube(GRID), GRID).tokens_BND, made(cube(GRID), GRID).tokens_BND)
    with pytest.raises(UsageError, match="does not take these options"):
        specfm.create_encoder("nano", "bright", 4, colour=1)
    monkeypatch.setattr("specfm.plugins.entry_points", lambda group: [])
    with pytest.raises(SpecfmError, match="unknown embedding 'bright'; .* or install the package that brings it"):
        specfm.load(tmp_path / "release")


def test_an_objective(brought: None, tmp_path: Path) -> None:
    words = ["simulate", "--out", str(tmp_path / "sim"), "--sensors", "specim_fx10", "--size", "24"]
    assert CliRunner().invoke(app, words).exit_code == 0
    specfm.shard(next((tmp_path / "sim").glob("*.yaml")), out=tmp_path / "shards", window=6, stride=3)
    settings = {
        "data.shards": tmp_path / "shards", "out": tmp_path / "run", "steps": 4, "data.global_batch": 16,
        "monitor.every": 0, "model.embedding": "bright", "model.options": {"dim": 48, "depth": 1, "heads": 3},
        "model.patch_size": 3, "objective": {"plugins": {"agree": {"margin": 0.25}}}, "optim.lr": 1e-3,
    }  # fmt: skip
    run = specfm.pretrain("pretrain/debug.yaml", settings)
    losses = [row["loss"] for row in run.rows]
    assert run.finished and all(loss > 0.25 for loss in losses)
    again = load_config(tmp_path / "run" / "config.yaml", PretrainConfig)
    assert again.objective.plugins == {"agree": {"margin": 0.25}} and "agree" in to_yaml(again)
    assert specfm.load(run.model).config["embedding"] == "bright"


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("{plugins: {agree: {wieght: 1}}}", "unknown key wieght; did you mean weight"),
        ("{plugins: {agree: {weight: 0}}}", "nothing is learnt"),
        ("{plugins: {nothing: {}}}", "unknown objective 'nothing'; choose one of agree"),
        ("{plugins: {vicreg: {}}}", "vicreg is an objective of specfm; write objective.vicreg"),
    ],
)
def test_refusals_of_objectives(brought: None, objective: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config("pretrain/debug.yaml", PretrainConfig, ["data.shards=x", "out=y", f"objective={objective}"])


def test_nothing_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    folder = whole(tmp_path / "site", "toy-lazy")
    code = f"""
import sys; sys.path.insert(0, {str(folder)!r})
import specfm, pretrain.config
from specfm.plugins import plugins
assert list(plugins("specfm.readers")) == ["toy"]
specfm.create_encoder("nano", "hyper", 4)
assert not [name for name in sys.modules if name.startswith("toy_lazy")]
specfm.create_encoder("nano", "bright", 4)
assert sorted(name for name in sys.modules if name.startswith("toy_lazy.")) == ["toy_lazy.embedding"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("group", "value", "use", "message"),
    [
        ("embeddings", "parts:Missing", "embedding", "cannot be loaded from .*Missing.*update that package"),
        ("embeddings", "parts:number", "embedding", "is no subclass of torch.nn.Module"),
        ("embeddings", "broken", "embedding", r"cannot be loaded from .*broken \(ZeroDivisionError"),
        ("objectives", "parts:number", "objective", "is no subclass of pretrain.objectives.base.Objective"),
        ("objectives", "parts:Bare", "objective", "has no Settings"),
        ("readers", "parts:Wrong", "reader", "gives int for .*, not specfm.readers.found.Found"),
        ("readers", "parts:Failing", "reader", r"cannot read .*scan.toy \(IndexError"),
    ],
)
def test_what_goes_wrong_names_the_package(
    group: str, value: str, use: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    parts = """
from pretrain.objectives.base import Objective
number = 3
class Bare(Objective):
    def separate(self, part): ...
class Wrong:
    sniff = staticmethod(lambda path, start: True)
    read = staticmethod(lambda path: 5)
class Failing(Wrong):
    read = staticmethod(lambda path: [][0])
"""
    name = f"odd-plugin-{request.node.callspec.indices['group']}{abs(hash(value)) % 10**6}"
    package = name.replace("-", "_")
    entries = f"[specfm.{group}]\nodd = {package}.{value}\n"
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", name, entries, parts=parts, broken="1 / 0")))
    with pytest.raises(PluginError, match=message) as error:
        if use == "embedding":
            specfm.create_encoder("nano", "odd", 4)
        elif use == "reader":
            specfm.read_scene(toy_file(tmp_path / "scan.toy"))
        else:
            load_config(
                "pretrain/debug.yaml", PretrainConfig, ["data.shards=x", "out=y", "objective={plugins: {odd: {}}}"]
            )
    assert f"{use} 'odd' of {name} 1.2" in str(error.value)


def test_two_packages_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first-plugin", "second-plugin"):
        monkeypatch.syspath_prepend(str(whole(tmp_path / name, name)))
    with pytest.raises(PluginError, match="'toy' of .*-plugin 1.2 is also brought by .*-plugin 1.2"):
        plugins("specfm.readers")


def test_specfms_own_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = "[specfm.embeddings]\nhyper = evil_plugin.parts:Hyper\n"
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "evil-plugin", entries, parts="raise SystemExit(3)")))
    assert "HyperEmbedding" in type(specfm.create_encoder("nano", "hyper", 4).embedding).__name__
