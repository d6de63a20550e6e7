"""Exported graphs answer as the encoder does, from a file, for any number of tiles; files say what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import specfm
from specfm.dense.tile_reader import TileReader, scene_level
from specfm.deploy.encoder import OUTPUTS, encoder_facts, encoder_graph
from specfm.deploy.facts import Facts
from specfm.deploy.graph import format_of, traced
from specfm.deploy.runtime import Deployed, date_inputs
from specfm.deploy.write import write
from specfm.errors import SpecfmError, UsageError
from specfm.sensors import Sensor
from specfm.tiles import Tile
from tests.deploy.make import BACKBONES, KINDS, SENSOR, TILE, encoder, off, tiles

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FREE = ("hyper-light", "hyper-joint", "hyper-metadata", "basis", "dofa", "spectral_attention")


def exported(made, sensor: Sensor | None, out: Path, scene_level: bool = True, **options) -> float:
    graph, example = encoder_graph(made, sensor, TILE, scene_level)
    facts = encoder_facts(made, sensor, TILE, "scene" if scene_level else "sample", "0" * 16, "1.0")
    return write(graph, example, OUTPUTS, out, facts, form=format_of(out, None), **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A metadata-only encoder as one file."""
    out = tmp_path_factory.mktemp("plain") / "encoder.onnx"
    exported(encoder("hyper-metadata"), SENSOR, out)
    return out


def check(made, path: Path, sensor: Sensor = SENSOR, level: float | None = 0.6, counts=(1, 4)) -> None:
    deployed = Deployed(path, threads=1)
    for count in counts:
        x_BHWC, mask_BHW = tiles(count)
        level_B = None if level is None else torch.full((count,), level)
        with torch.no_grad():
            wanted = made(x_BHWC, sensor, mask_BHW, level_B=level_B)
        x = x_BHWC.numpy() if deployed.facts.sensors else x_BHWC.numpy() * sensor.scale + sensor.offset
        found = deployed(date_inputs(deployed.facts, 1, x.astype(np.float32), mask_BHW.numpy(), level, sensor))
        assert off(found["tokens_BND"], wanted.tokens_BND) < 1e-5, count
        assert off(found["pooled_BD"], wanted.pooled_BD) < 1e-5, count
        np.testing.assert_array_equal(found["valid_BN"], wanted.token_mask_BN)


def test_a_file_answers_as_the_encoder(plain: Path) -> None:
    check(encoder("hyper-metadata"), plain)


def test_a_mask_may_be_left_out(plain: Path) -> None:
    deployed = Deployed(plain, threads=1)
    x_BHWC, _ = tiles(4)
    given = date_inputs(deployed.facts, 1, x_BHWC.numpy(), np.ones(x_BHWC.shape[:3], bool), 0.6, SENSOR)
    wanted = deployed(given)
    del given["mask_BHW"]
    for name, found in deployed(given).items():
        np.testing.assert_array_equal(found, wanted[name])


def test_a_file_says_what_it_is_and_nothing_of_where_it_was_made(plain: Path, repository: Path) -> None:
    import onnx

    facts = Deployed(plain).facts
    assert facts == Facts("encoder", (SENSOR,), TILE, 2, "scene", "0" * 16, "1.0")
    model = onnx.load(str(plain))
    onnx.checker.check_model(model)
    assert str(repository).encode() not in plain.read_bytes()
    names = {each.name for each in model.graph.initializer}
    assert not [name for name in names if "meta" in name or "mixer" in name]  # no hypernetwork is left
    assert (model.producer_name, model.producer_version) == ("specfm", "1.0")


def test_inspect_tells_of_a_file(plain: Path) -> None:
    [told] = specfm.inspect(plain).rows
    assert (told["kind"], told["bands"], told["tile"]) == ("an exported encoder", ["12 (450-1100 nm)"], TILE)
    assert told["next"] == f"specfm run {plain} SCENE --out features.npy"


def test_what_exists_is_kept(plain: Path) -> None:
    before = plain.read_bytes()
    with pytest.raises(UsageError, match="exists; choose another --out or pass --overwrite"):
        exported(encoder("hyper-metadata"), SENSOR, plain)
    assert plain.read_bytes() == before and [each.name for each in plain.parent.iterdir()] == [plain.name]


def test_strange_files_are_refused(plain: Path, tmp_path: Path) -> None:
    import onnx

    with pytest.raises(SpecfmError, match="no such file"):
        Deployed(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(SpecfmError, match="no ONNX model that can be run"):
        Deployed(tmp_path / "text.onnx")
    model = onnx.load(str(plain))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "bare.onnx"))
    with pytest.raises(SpecfmError, match="was not written by specfm export"):
        Deployed(tmp_path / "bare.onnx")


def test_formats_are_known_by_name_or_suffix() -> None:
    assert format_of(Path("a.ONNX"), None) == "onnx" and format_of(Path("a"), "pt2") == "pt2"
    with pytest.raises(UsageError, match="--format tflite; choose one of onnx, pt2"):
        format_of(Path("a.onnx"), "tflite")
    with pytest.raises(UsageError, match="a.bin: the suffix says no format"):
        format_of(Path("a.bin"), None)


def test_a_part_that_cannot_be_exported_is_named() -> None:
    class Stops(torch.nn.Module):
        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return given[0] if bool((given[0] > 0).any()) else -given[0]

    with pytest.raises(SpecfmError, match="a part that cannot be exported: .*[Dd]ata-dependent"):
        traced(Stops(), {"x": torch.ones(2)}, {})


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *BACKBONES])
def test_every_encoder_in_the_runtime(kind: str, tmp_path: Path) -> None:
    made = encoder(kind)
    level = kind != "no-level"
    assert exported(made, SENSOR, tmp_path / "encoder.onnx", level) < 1e-5
    check(made, tmp_path / "encoder.onnx", level=0.6 if level else None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FREE, "fixed", "specaware"])
def test_real_pixels(kind: str, data_root: Path, tmp_path: Path) -> None:
    scene = next(iter(specfm.load_card("salinas_a").scenes()))
    options = {"fixed": {"channels": scene.shape[2]}, "specaware": {"image_size": 6, "rank": 4}}.get(kind, {})
    made = encoder(kind, **options)
    exported(made, scene.sensor, tmp_path / "encoder.onnx")
    x_BTTC, mask_BTT = TileReader(scene, 1)([Tile(row, col, TILE, TILE) for row in (0, 33, 70) for col in (2, 40)])
    level = scene_level(scene)
    with torch.no_grad():
        wanted = made(
            torch.from_numpy(x_BTTC), scene.sensor, torch.from_numpy(mask_BTT), level_B=torch.full((6,), level)
        )
    deployed = Deployed(tmp_path / "encoder.onnx", threads=1)
    found = deployed(date_inputs(deployed.facts, 1, x_BTTC, mask_BTT, level, scene.sensor))
    assert off(found["tokens_BND"], wanted.tokens_BND) < 1e-5 and off(found["pooled_BD"], wanted.pooled_BD) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", FREE)
def test_bands_as_inputs(kind: str, tmp_path: Path) -> None:
    made = encoder(kind)
    assert exported(made, None, tmp_path / "free.onnx", scene_level=False) < 1e-5
    check(made, tmp_path / "free.onnx", level=None)
    deployed = Deployed(tmp_path / "free.onnx", threads=1)
    for bands in (3, 40):
        nm = np.linspace(500, 2000, bands)
        nm[1] = nm[0]  # two bands of one centre share their cell
        sensor = Sensor(specfm.BandGrid(nm), "surface_reflectance", gsd_m=2.0)
        x = np.random.default_rng(0).random((2, TILE, TILE, bands)).astype(np.float32)
        mask = np.ones(x.shape[:3], bool)
        with torch.no_grad():
            wanted = made(torch.from_numpy(x), sensor).tokens_BND
        assert off(deployed(date_inputs(deployed.facts, 1, x, mask, None, sensor))["tokens_BND"], wanted) < 1e-5, bands


@pytest.mark.slow
def test_torch_program(tmp_path: Path) -> None:
    made, out = encoder("hyper-light"), tmp_path / "encoder.pt2"
    assert exported(made, SENSOR, out) < 1e-6
    told = {"specfm.json": ""}
    program = torch.export.load(out, extra_files=told).module()
    assert Facts.from_json(told["specfm.json"], out).sensors == (SENSOR,)
    x_BHWC, mask_BHW = tiles(5)
    level_B = torch.full((5,), 0.6)
    with torch.no_grad():
        wanted = made(x_BHWC, SENSOR, mask_BHW, level_B=level_B)
    assert off(program(x_BHWC, mask_BHW, level_B)[0].detach(), wanted.tokens_BND) < 1e-6


def test_a_graph_that_is_not_the_model_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from specfm.deploy import write as room

    out = tmp_path / "encoder.pt2"
    out.write_bytes(b"the one before")
    monkeypatch.setattr(room, "_off", lambda *given: 0.5)
    with pytest.raises(SpecfmError, match=r"encoder.pt2: not written, .* differs from the model by 5.0e-01"):
        exported(encoder("hyper-metadata"), SENSOR, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pt2"]
    assert out.read_bytes() == b"the one before"


class _Steep(torch.nn.Module):
    """The last bit of its input moves it by a thousandth."""

    def forward(self, x_BC: torch.Tensor, known_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sin(3e4 * x_BC), known_B


def test_rounding_that_a_model_amplifies_is_no_other_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stem fitted to a clean scene does: float32 itself is no better."""
    from specfm.deploy import write as room

    generator = torch.Generator().manual_seed(0)
    given = {"x_BC": torch.rand(4, 50, generator=generator), "known_B": torch.ones(4, dtype=torch.bool)}
    assert 2e-4 < room._shaken(_Steep(), given) < 4e-3
    monkeypatch.setattr(room, "_off", lambda *given: 2e-3)
    with pytest.raises(SpecfmError, match=r"differs from the model by 2.0e-03"):
        exported(encoder("hyper-metadata"), SENSOR, tmp_path / "steady.pt2")
    monkeypatch.setattr(room, "_shaken", lambda *given: 1e-3)
    assert exported(encoder("hyper-metadata"), SENSOR, tmp_path / "steep.pt2") == 2e-3
    monkeypatch.setattr(room, "_off", lambda *given: 2e-2)
    monkeypatch.setattr(room, "_shaken", lambda *given: 0.5)
    with pytest.raises(SpecfmError, match=r"differs from the model by 2.0e-02"):
        exported(encoder("hyper-metadata"), SENSOR, tmp_path / "chaotic.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["steep.pt2"]
