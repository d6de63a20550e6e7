"""Encoders to the hub and back without a network: a stand-in takes uploads into the layout of the hub's own cache."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

import specfm
from specfm import SpecfmError, UsageError
from specfm.checkpoint import FILES
from specfm.files import MANIFEST
from tests.properties.cases import comb, cube

GRID = comb(9)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def encoder() -> specfm.Encoder:
    torch.manual_seed(3)
    made = specfm.create_encoder("nano", patch_size=4, dim=48, depth=1, heads=3).eval()
    made.card = {"domains": ["lab"], "license": "cc-by-4.0"}
    return made


def same(a: Any, b: Any) -> bool:
    with torch.inference_mode():
        return torch.equal(a(cube(GRID), GRID).tokens_BND, b(cube(GRID), GRID).tokens_BND)


class Hub:
    """Takes what ``push_to_hub`` sends, as blobs with links to them: how the client keeps downloads."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.asked = cache, list[dict[str, Any]]()

    def create_repo(self, name: str, **how: Any) -> None:
        self.asked.append({"made": name, **how})

    def upload_folder(self, repo_id: str, folder_path: str, **how: Any) -> str:
        self.asked.append({"sent": sorted(os.listdir(folder_path)), **how})
        place = self.cache / f"models--{repo_id.replace('/', '--')}"
        for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
            (place / folder).mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(COMMIT)
        for file in Path(folder_path).iterdir():
            blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.write_bytes(file.read_bytes())
            link = place / "snapshots" / COMMIT / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        return f"https://huggingface.co/{repo_id}/commit/{COMMIT}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: made)
    return made


def test_to_the_hub_and_back(encoder: specfm.Encoder, hub: Hub) -> None:
    address = encoder.push_to_hub("someone/tiny-4", private=True)
    assert address.endswith(COMMIT) and hub.asked[0] == {"made": "someone/tiny-4", "private": True, "exist_ok": True}
    assert hub.asked[1]["sent"] == sorted([*FILES, MANIFEST])
    again = specfm.from_pretrained("someone/tiny-4", cache_dir=hub.cache, local_files_only=True)
    assert same(encoder, again) and again.card == encoder.card and not again.training
    assert same(encoder, specfm.Encoder.from_pretrained("someone/tiny-4", cache_dir=hub.cache, local_files_only=True))


def test_a_changed_byte_is_refused_from_the_hub_too(encoder: specfm.Encoder, hub: Hub) -> None:
    specfm.push_to_hub(encoder, "someone/tiny-4")
    blob = next(hub.cache.glob("*/snapshots/*/card.json")).resolve()
    blob.write_bytes(blob.read_bytes().replace(b"lab", b"fab"))
    with pytest.raises(SpecfmError, match="someone/tiny-4/card.json does not match the sha256"):
        specfm.from_pretrained("someone/tiny-4", cache_dir=hub.cache, local_files_only=True)


def test_what_the_hub_does_not_have_is_a_sentence(tmp_path: Path, encoder: specfm.Encoder) -> None:
    with pytest.raises(SpecfmError, match="someone/nothing is no folder, and the hub did not give it"):
        specfm.from_pretrained("someone/nothing", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(SpecfmError, match="is not a folder"):
        specfm.from_pretrained("nothing")
    with pytest.raises(UsageError, match="give OWNER/NAME"):
        encoder.push_to_hub("tiny")


def test_a_refusal_of_the_hub_is_a_sentence(encoder: specfm.Encoder, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("401 Client Error\nRequest ID: 5")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(SpecfmError, match=r"did not take someone/tiny \(401 Client Error\); log in"):
        encoder.push_to_hub("someone/tiny")


def test_folders_and_shipped_names(encoder: specfm.Encoder, tmp_path: Path) -> None:
    folder = encoder.save_pretrained(tmp_path / "tiny")
    assert same(encoder, specfm.from_pretrained(folder)) and same(encoder, specfm.load(folder))
    assert specfm.from_pretrained("real_nano").num_features == 192


def test_saving_over_a_release(encoder: specfm.Encoder, tmp_path: Path) -> None:
    place = tmp_path / "release"
    specfm.save(encoder, place, {"turn": 1})
    with pytest.raises(ValueError, match="exists; choose another folder, or pass overwrite=True"):
        specfm.save(encoder, place)
    specfm.save_pretrained(encoder, place, card={"turn": 2}, overwrite=True)
    assert specfm.load(place).card == {"turn": 2} and [path.name for path in tmp_path.iterdir()] == ["release"]
    (tmp_path / "empty").mkdir()
    specfm.save(encoder, tmp_path / "empty", overwrite=True)
    assert same(encoder, specfm.load(tmp_path / "empty"))


@pytest.mark.parametrize("what", ["a folder", "more than a release", "a file", "a link", "a link inside"])
def test_only_a_release_is_overwritten(what: str, encoder: specfm.Encoder, tmp_path: Path) -> None:
    place = tmp_path / "place"
    specfm.save(encoder, tmp_path / "other")
    if what == "a folder":
        (place / "thesis").mkdir(parents=True)
        (place / "thesis" / "chapter.tex").write_text("years of work")
    elif what == "more than a release":
        specfm.save(encoder, place)
        (place / "notes.txt").write_text("mine")
    elif what == "a file":
        place.write_text("mine")
    elif what == "a link":
        place.symlink_to(tmp_path / "other")
    else:
        specfm.save(encoder, place)
        (place / "beside").symlink_to(tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="not overwritten"):
        specfm.save(encoder, place, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_save_that_fails_leaves_the_old_release(
    encoder: specfm.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specfm.save(encoder, tmp_path / "release", {"turn": 1})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("specfm.release.write_manifest", full)
    with pytest.raises(OSError):
        specfm.save(encoder, tmp_path / "release", overwrite=True)
    assert specfm.load(tmp_path / "release").card == {"turn": 1} and len(list(tmp_path.iterdir())) == 1


def test_files_speak_to_other_tools(encoder: specfm.Encoder, tmp_path: Path) -> None:
    specfm.save(encoder, tmp_path / "release")
    with safe_open(tmp_path / "release" / "model.safetensors", "pt") as weights:
        told = weights.metadata()
    assert told["format"] == "pt" and json.loads(told["config"]) == {"encoder": encoder.config}
    _, block, text = (tmp_path / "release" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(block)
    assert card["library_name"] == "specfm" and card["license"] == "cc-by-4.0" and "hyperspectral" in card["tags"]
    assert text.startswith("\n# A specfm encoder") and "specfm.from_pretrained(" in text
