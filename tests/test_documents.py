"""JSON and YAML: plain values or one sentence that says where, never what."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from specfm.documents import DocumentError, parse_json, parse_yaml, read_json
from specfm.files import IntegrityError, read_manifest
from specfm.shards.manifest import read_manifest as read_shards
from specfm.shards.schema import ShardError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 2000-13-45", "month must be in 1..12"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("a: !!int ''", "cannot be read"),
        ("a: !!bool x", "cannot be read"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ('a: "\\ud800"', "surrogate"),
        ("a: &a [*a]", "inside what it names"),
        ("a: *secret", "undefined alias$|undefined alias\\)"),
        ("a: 1\na: 2", "a is given twice .line 2."),
        ("[" * 100_000, "nested too deep"),
        ("{a: " * 200 + "1" + "}" * 200, "nested too deep; at most 64"),
        (BOMB, "too many values, aliases resolved"),
        ("a: [unclosed", "is not plain YAML .line"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(DocumentError, match=message) as caught:
        parse_yaml(text, "f.yaml")
    said = str(caught.value)
    assert said.startswith("f.yaml") and "\n" not in said and "secret" not in said and "unclosed" not in said
    assert time.process_time() - start < 10


def test_yaml_that_is_read() -> None:
    assert parse_yaml("base: &b {a: 1}\nx: {<<: *b, c: 2}\ny: [*b, *b]", "f")["x"] == {"a": 1, "c": 2}
    assert parse_yaml("", "f") is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 1_000_000, "nested too deep"),
        (b"[" * 70 + b"]" * 70, "nested too deep; at most 64"),
        (b'"\\ud800"', "half a surrogate pair"),
        (b"1" * 5000, "a number too long"),
        (b'{"secret": ', "line 1 column"),
        (b'"\xe9"', "no UTF-8"),
    ],
)
def test_json_that_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as caught:
        parse_json(data, "f.json")
    assert "secret" not in str(caught.value)


def test_limits_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b"[" * 70 + b"]" * 70)
    monkeypatch.setenv("SPECFM_MAX_NESTING", "70")
    assert len(read_json(path)) == 1
    monkeypatch.setenv("SPECFM_MAX_JSON_BYTES", "139")
    with pytest.raises(DocumentError, match="has 140 bytes; at most 139 are read"):
        read_json(path)


def test_a_nested_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.json").write_bytes(b'{"format": ' + b"[" * 100_000)
    with pytest.raises(IntegrityError, match="nested too deep"):
        read_manifest(tmp_path)


def test_a_manifest_that_lists_a_name_no_file_can_have(tmp_path: Path) -> None:
    row = {"name": "x" * 300, "size": 1, "sha256": ""}
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"format": 1, "files": [row]}))
    with pytest.raises(IntegrityError, match="a name of 300 characters"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": None}, "no proper list of shards"),
        ({"shards": [{"file": "a.h5"}]}, "no proper list of shards"),
        ({"shards": ["a.h5"]}, "no proper list of shards"),
        ({"format_version": "x"}, "no number 'format_version'"),
        ({"format_version": 99}, "update specfm"),
        ({"shards": [{"file": "../a.h5", "size": 1, "sha256": "", "fingerprint": ""}]}, "not a plain file name"),
    ],
)
def test_a_manifest_of_shards_without_its_keys(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    manifest = {"format": "specfm-shards", "format_version": 1, "shards": [], **changes}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=message):
        read_shards(tmp_path)


def test_a_broken_configuration_is_kept_aside_on_resume(tmp_path: Path) -> None:
    from specfm.config import Strict
    from specfm.engine.run_folder import RunFolder

    class Config(Strict):
        steps: int = 3

    folder = RunFolder(tmp_path)
    folder.config.write_bytes(b"steps: [\xe9" + b"[" * 3000)
    folder.write_config(Config(), 7)
    assert folder.config.read_text() == "{steps: 3}\n" and (tmp_path / "config.until-step-00000007.yaml").is_file()
