"""Atomic publishing and manifests."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple

import pytest

from specfm.engine.faults import flip_byte
from specfm.errors import UsageError
from specfm.files import (
    MANIFEST,
    TEMPORARY_PREFIX,
    IntegrityError,
    atomic_write_json,
    clear_stages,
    keep_aside,
    publish_file,
    publish_folder,
    refuse_existing,
    refuse_unwritable,
    remove_folder,
    remove_temporaries,
    require_free_space,
    sha256_file,
    staged_folder,
    verify_manifest,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "release"
    (path / "sub").mkdir(parents=True)
    (path / "a.bin").write_bytes(bytes(range(256)))
    (path / "sub" / "b.txt").write_text("text")
    write_manifest(path, kind="test")
    return path


def test_atomic_write_keeps_the_old_content_when_the_rename_fails(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    atomic_write_json(path, {"a": 1})

    def broken(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="broken"):
        atomic_write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(tmp_path / "x.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_publish_file_refuses_an_existing_name(tmp_path):
    (tmp_path / "new").write_text("new")
    (tmp_path / "final").write_text("old")
    with pytest.raises(UsageError, match="exists"):
        publish_file(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "old"
    publish_file(tmp_path / "new", tmp_path / "final", overwrite=True)
    assert (tmp_path / "final").read_text() == "new" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("check", [refuse_unwritable, lambda path: refuse_existing(path, overwrite=True)])
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, check):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    check(tmp_path / "folder" / "deep" / "new.npy")
    with pytest.raises(UsageError, match="folder is a folder; choose another --out"):
        check(tmp_path / "folder")
    with pytest.raises(UsageError, match="file is not a folder, so nothing can be written below it"):
        check(tmp_path / "file" / "deep" / "new.npy")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="folder may not be written; choose another --out"):
        check(tmp_path / "folder" / "new.npy")


def test_staged_folder_is_published_whole_or_not_at_all(tmp_path):
    with staged_folder(tmp_path / "out" / "m") as stage:
        (stage / "a").write_text("a")
        assert not (tmp_path / "out" / "m").exists()
    assert (tmp_path / "out" / "m" / "a").read_text() == "a"
    with pytest.raises(RuntimeError, match="half-way"):
        with staged_folder(tmp_path / "out" / "n") as stage:
            (stage / "a").write_text("a")
            raise RuntimeError("half-way")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m"]
    with pytest.raises(UsageError, match="exists"):
        with staged_folder(tmp_path / "out" / "m"):
            pass
    with pytest.raises(UsageError, match="exists"):
        publish_folder(tmp_path / "out", tmp_path / "out" / "m")


def test_leftovers_are_removed_and_published_folders_stay(tmp_path, folder):
    (tmp_path / ".tmp-x-1").mkdir()
    (tmp_path / ".tmp-y").write_text("half")
    assert len(remove_temporaries(tmp_path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["release"]
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_keep_aside_finds_a_free_name(tmp_path, folder):
    copy = shutil.copytree(folder, tmp_path / "second")
    assert keep_aside(folder, "old").name == "old"
    assert keep_aside(copy, "old").name == "old.2"


def test_manifest_verifies(folder):
    manifest = verify_manifest(folder)
    assert [row["name"] for row in manifest["files"]] == ["a.bin", "sub/b.txt"]
    assert manifest["files"][0]["sha256"] == sha256_file(folder / "a.bin")
    assert manifest["kind"] == "test"


def _edit(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGE = {
    "flipped byte": (lambda f: flip_byte(f / "a.bin"), "a.bin does not match"),
    "cut short": (lambda f: os.truncate(f / "a.bin", 10), "has 10 bytes, its manifest says 256"),
    "missing file": (lambda f: (f / "sub" / "b.txt").unlink(), "b.txt is missing"),
    "missing manifest": (lambda f: (f / MANIFEST).unlink(), "not a complete folder"),
    "broken manifest": (lambda f: (f / MANIFEST).write_text("{"), "cannot be read"),
    "foreign manifest": (lambda f: (f / MANIFEST).write_text("{}"), "not a manifest"),
    "no list": (lambda f: _edit(f, lambda m: m.update(files=[{"name": 3}])), "no proper list"),
    "later format": (lambda f: _edit(f, lambda m: m.update(format=3, specfm="9.9")), r"specfm 9.9 \(format 3 > 1\)"),
    "path out": (lambda f: _edit(f, lambda m: m["files"][0].update(name="../x")), "would leave the folder"),
    "absolute path": (lambda f: _edit(f, lambda m: m["files"][0].update(name="/etc/passwd")), "would leave the folder"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_folders_are_refused(folder, kind):
    damage, words = DAMAGE[kind]
    damage(folder)
    with pytest.raises(IntegrityError, match=words):
        verify_manifest(folder)


@pytest.mark.parametrize("place", ["a.bin", "sub", MANIFEST])
def test_symbolic_links_are_refused(folder, tmp_path, place):
    real = tmp_path / "elsewhere"
    os.rename(folder / place, real)
    os.symlink(real, folder / place)
    with pytest.raises(IntegrityError, match="symbolic link"):
        verify_manifest(folder)


def test_free_space_is_checked_before(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 90, 10))
    require_free_space(tmp_path, 10)
    with pytest.raises(OSError, match="10 bytes free, 11 needed") as caught:
        require_free_space(tmp_path, 11)
    assert caught.value.errno == errno.ENOSPC


def test_of_a_link_only_the_link_is_removed(tmp_path):
    """Wherever a published folder is deleted: what a link points to belongs to somebody else."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights").write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("one", "two", f"{TEMPORARY_PREFIX}three"):
        (out / name).symlink_to(other)
    remove_folder(out / "one")
    clear_stages(out, ["two"], "demo", overwrite=True)
    remove_temporaries(out)
    assert list(out.iterdir()) == [] and (other / "weights").read_text() == "x"
