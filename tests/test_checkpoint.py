"""Release folders: round trips of every embedding, and everything that must be refused."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import specfm
from specfm import SpecfmError, UsageError
from specfm.checkpoint import FILES, SHIPPED, find_release, release_digest, shipped_encoders
from specfm.files import IntegrityError, write_manifest
from specfm.models import EMBEDDINGS
from tests.properties.cases import comb, cube, options_for

GRID = comb(9)


def saved(folder: Path, name: str = "hyper", **options: Any) -> specfm.Encoder:
    """A nano encoder published in ``folder``."""
    torch.manual_seed(3)
    encoder = specfm.create_encoder("nano", name, 4, **{**options_for(name, GRID), **options}).eval()
    specfm.save(encoder, folder, {"domains": ["lab", "field"]})
    return encoder


def rewritten(folder: Path, name: str, data: bytes) -> None:
    """Change one file and make the manifest agree, as someone would who knows the format."""
    (folder / name).write_bytes(data)
    write_manifest(folder, kind="specfm-encoder")


@pytest.mark.parametrize("name", sorted(EMBEDDINGS))
def test_round_trip(name: str, tmp_path: Path) -> None:
    encoder = saved(tmp_path / "release", name)
    again = specfm.load(tmp_path / "release")
    assert not again.training and again.config == encoder.config and again.card == {"domains": ["lab", "field"]}
    x_BHWC = cube(GRID)
    with torch.inference_mode():
        a, b = encoder(x_BHWC, GRID), again(x_BHWC, GRID)
    assert torch.equal(a.tokens_BND, b.tokens_BND) and torch.equal(a.pooled_BD, b.pooled_BD)


def test_options_travel(tmp_path: Path) -> None:
    saved(tmp_path / "release", rank=4, content=False, sensor_names=("A", "B"), level="none", depth=2)
    again = specfm.load(tmp_path / "release")
    assert again.embedding.rank == 4 and again.embedding.content is None and again.level == "none"
    assert again.embedding.meta.sensor_names == ("A", "B") and len(again.blocks) == 2


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    saved(tmp_path / "release")
    assert {p.name for p in (tmp_path / "release").iterdir()} == {*FILES, "MANIFEST.json"}
    assert "lab" in (tmp_path / "release" / "README.md").read_text()
    assert len(release_digest(tmp_path / "release")) == 16


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    encoder = saved(tmp_path / "release")
    before = (tmp_path / "release" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        specfm.save(encoder, tmp_path / "release")
    assert (tmp_path / "release" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_refused(file: str, tmp_path: Path) -> None:
    saved(tmp_path / "release")
    data = bytearray((tmp_path / "release" / file).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "release" / file).write_bytes(data)
    with pytest.raises(IntegrityError, match=file):
        specfm.load(tmp_path / "release")


@pytest.mark.parametrize("file", (*FILES, "MANIFEST.json"))
def test_a_missing_or_short_file_is_refused(file: str, tmp_path: Path) -> None:
    saved(tmp_path / "release")
    path = tmp_path / "release" / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(SpecfmError, match=file):
        specfm.load(tmp_path / "release")
    path.unlink()
    with pytest.raises(SpecfmError):
        specfm.load(tmp_path / "release")


def test_files_the_manifest_does_not_list_are_never_read(tmp_path: Path) -> None:
    encoder = saved(tmp_path / "release")
    (tmp_path / "release" / "pytorch_model.bin").write_bytes(b"junk")
    assert specfm.load(tmp_path / "release").config == encoder.config
    manifest = json.loads((tmp_path / "release" / "MANIFEST.json").read_text())
    manifest["files"] = [row for row in manifest["files"] if row["name"] != "model.safetensors"]
    (tmp_path / "release" / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(SpecfmError, match="model.safetensors"):
        specfm.load(tmp_path / "release")


@pytest.mark.parametrize("target", ("model.safetensors", "config.json", "MANIFEST.json"))
def test_symbolic_links_are_refused(target: str, tmp_path: Path) -> None:
    saved(tmp_path / "release")
    path = tmp_path / "release" / target
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="symbolic link"):
        specfm.load(tmp_path / "release")


@pytest.mark.parametrize("name", ("../outside", "/etc/hostname", "a/../../b"))
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    saved(tmp_path / "release")
    path = tmp_path / "release" / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["files"].append({**manifest["files"][0], "name": name})
    path.write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="leave the folder"):
        specfm.load(tmp_path / "release")


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda c: c.update(format=99), "format 99"),
        (lambda c: c.pop("format"), "format None"),
        (lambda c: c.pop("encoder"), "format"),
        (lambda c: c["encoder"].update(size="giant"), "unknown encoder size 'giant'"),
        (lambda c: c["encoder"].update(dim=384), "does not fit its config.json.*other shape"),
        (lambda c: c["encoder"].update(depth=5), "does not fit its config.json.*missing"),
        (lambda c: c["encoder"].update(depth=3), "does not fit its config.json.*unknown"),
        (lambda c: c["encoder"].update(surprise=1), "does not take these options.*surprise"),
        (lambda c: c["encoder"].update(patch_size="4"), "config.json does not describe an encoder"),
        (lambda c: c["encoder"].update(dim=-8), "config.json does not describe an encoder"),
    ),
)
def test_a_config_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path / "release")
    config = json.loads((tmp_path / "release" / "config.json").read_text())
    change(config)
    rewritten(tmp_path / "release", "config.json", json.dumps(config).encode())
    with pytest.raises(SpecfmError, match=message):
        specfm.load(tmp_path / "release")


@pytest.mark.parametrize("data", (b"", b"\x80\x04}.", b"\xff" * 64))
def test_weights_that_are_no_safetensors_are_refused(data: bytes, tmp_path: Path) -> None:
    saved(tmp_path / "release")
    rewritten(tmp_path / "release", "model.safetensors", data)
    with pytest.raises(SpecfmError, match="model.safetensors"):
        specfm.load(tmp_path / "release")


@pytest.mark.parametrize("data", (b"[]", b"{", b"\xff\xfe"))
def test_a_config_that_is_no_json_object_is_refused(data: bytes, tmp_path: Path) -> None:
    saved(tmp_path / "release")
    rewritten(tmp_path / "release", "config.json", data)
    with pytest.raises(SpecfmError, match="config.json"):
        specfm.load(tmp_path / "release")


def test_a_training_checkpoint_and_a_run_can_be_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 200, 30):
        saved(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "model", depth=1 + step // 100)
    newest = tmp_path / "run" / "checkpoints" / "step-00000200"
    assert find_release(newest) == find_release(tmp_path / "run") == newest / "model"
    assert len(specfm.load(tmp_path / "run").blocks) == 3
    (newest / "model" / "model.safetensors").write_bytes(b"cut short")
    with caplog.at_level(logging.WARNING):
        assert find_release(tmp_path / "run").parent.name == "step-00000030"  # the newest that is whole


@pytest.mark.parametrize("path", ("absent", "empty"))
def test_a_path_without_an_encoder_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecfmError, match=path):
        specfm.load(tmp_path / path)


def test_names_of_shipped_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name finds an encoder that comes with specfm; a folder of that name goes first; others are listed."""
    first = saved(tmp_path / "weights" / "seven")
    monkeypatch.setattr("specfm.checkpoint.SHIPPED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    assert specfm.load("seven").config == first.config
    with pytest.raises(SpecfmError, match=r"nothing is not a folder.*comes with specfm \(seven\)"):
        specfm.load("nothing")
    with pytest.raises(SpecfmError, match="is not a folder"):
        specfm.load("some/seven")  # a path, not a name
    saved(tmp_path / "seven", "basis")
    assert specfm.load("seven").config["embedding"] == "basis"


def test_shipped_encoders_are_whole() -> None:
    """Every encoder that comes with specfm loads, reads a sensor it never saw, and says nothing of a machine."""
    assert "real_nano" in shipped_encoders()
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 10 * 2**20
    for name in shipped_encoders():
        encoder = specfm.load(name)
        assert encoder.card["domains"] and encoder.card["scenes"]
        card = (SHIPPED / name / "card.json").read_text() + (SHIPPED / name / "README.md").read_text()
        assert not re.search(r'"(/|[A-Za-z]:\\)', card), "a path of the machine that trained it"
        features = encoder(cube(GRID, batch=1), GRID)
        assert bool(features.pooled_BD.isfinite().all())


def test_the_same_encoder_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    """Metadata of safetensors come in an order of their own each time, unless they are put in one."""
    from safetensors import safe_open

    encoder = specfm.create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2)
    written = set()
    for turn in range(8):
        specfm.save(encoder, tmp_path / str(turn))
        written.add((tmp_path / str(turn) / "model.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0" / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt" and list(file.keys())
