"""A card's digests are of the files that are read, all of them, or the card is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from specfm.cards import load_card
from specfm.errors import SpecfmError, UsageError
from specfm.files import sha256_file

HEADER = """ENVI
samples = 4
lines = 3
bands = 2
data type = 2
interleave = bsq
byte order = 0
wavelength units = nm
wavelength = {500, 600}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two ENVI cubes."""
    for number, name in enumerate(("ok", "also")):
        (tmp_path / f"{name}.hdr").write_text(HEADER)
        np.full((2, 3, 4), number + 1, np.int16).tofile(tmp_path / f"{name}.img")
    return tmp_path


def opened(folder: Path, path: str, names: tuple[str, ...] = (), **changes: Any) -> list[str]:
    """Names of the scenes of a card with the true digests of some files, unless others are given."""
    digests = {name: sha256_file(folder / name) for name in names}
    fields = {"name": "mine", "domain": "test", "wavelength_trust": "high", "path": path, "sha256": digests, **changes}
    (folder / "mine.yaml").write_text(yaml.safe_dump(fields))
    return [scene.name for scene in load_card(folder / "mine.yaml").scenes()]


@pytest.mark.parametrize("absolute", [False, True])
def test_a_changed_cube_is_noticed_whatever_names_it(folder: Path, absolute: bool) -> None:
    path = str(folder / "ok.hdr") if absolute else "ok.hdr"
    names = ("ok.hdr", "ok.img")
    digests = {name: sha256_file(folder / name) for name in names}
    assert opened(folder, path, sha256=digests) == opened(folder, "ok.img", names) == ["mine/ok"]
    np.full((2, 3, 4), 9, np.int16).tofile(folder / "ok.img")
    for part in (path, "ok.img"):
        with pytest.raises(SpecfmError, match=r"ok\.img is not the file the card describes \(sha256 differs\)"):
            opened(folder, part, sha256=digests if part != "ok.img" else {"ok.img": digests["ok.img"]})


def test_a_header_alone_is_no_check_of_its_cube(folder: Path) -> None:
    with pytest.raises(SpecfmError, match=r"sha256 has ok\.hdr but not the cube beside it; add ok\.img"):
        opened(folder, "ok.hdr", ("ok.hdr",))
    assert opened(folder, "ok.hdr", ("ok.img",)) == ["mine/ok"]


@pytest.mark.parametrize("name", ["also.img", "nowhere.img", "mine.yaml", "*.hdr"])
def test_a_digest_of_something_else_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(SpecfmError, match="which no part reads; name a data file") as caught:
        opened(folder, "ok.hdr", sha256={name: "0" * 64})
    assert name in str(caught.value)


def test_every_file_of_a_glob_has_its_own_digest(folder: Path) -> None:
    names = ("also.img", "ok.img")
    assert opened(folder, "*.img", names) == opened(folder, "*.img", names[:1]) == ["mine/also", "mine/ok"]
    with pytest.raises(SpecfmError, match=r"ok\.img is not the file"):
        opened(folder, "*.img", sha256={name: sha256_file(folder / "also.img") for name in names})


def test_references_have_digests_too(folder: Path) -> None:
    both = {"white": "also.img", "dark": "ok.img"}
    assert opened(folder, "ok.img", ("ok.img", "also.img"), **both) == ["mine/ok"]


def test_what_is_no_digest_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"sha256\.ok\.img"):
        opened(folder, "ok.img", sha256={"ok.img": "abcd"})
