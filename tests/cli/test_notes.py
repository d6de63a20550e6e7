"""Where wavelengths come from is said on stderr by every command that opens files, once, and never on stdout."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.cli import app
from specfm.cli._notes import printed_notes, reader_notes

log = logging.getLogger("specfm.readers.some")


@pytest.fixture
def silent(tmp_path: Path) -> tuple[Path, Path]:
    """Three files without wavelengths in a folder, and a list for them."""
    folder, bands = tmp_path / "cubes", tmp_path / "bands.csv"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        np.save(folder / f"{name}.npy", np.random.default_rng(seed).random((9, 8, 5), np.float32))
    bands.write_text("band,centre_nm\n" + "".join(f"{i},{500 + 10 * i}\n" for i in range(5)))
    return folder, bands


def run(*arguments: object) -> tuple[int, str, list[str]]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr.splitlines()


def test_shard_says_where_wavelengths_come_from(silent: tuple[Path, Path], tmp_path: Path) -> None:
    folder, bands = silent
    options = ("--wavelengths", bands, "--out", tmp_path / "out", "--window", 4, "--dry-run", "--json")
    code, out, err = run("shard", folder, *options)
    assert code == 0 and json.loads(out)["shards"]
    said = f"{folder / 'a.npy'} is silent about wavelengths; taken from {bands}"
    assert err == [f"note: {said}", f"note: 2 more like: {said}"]
    assert run("shard", folder / "b.npy", *options)[2] == [f"note: {said.replace('a.npy', 'b.npy')}"]


def test_it_is_said_before_an_error(silent: tuple[Path, Path], tmp_path: Path) -> None:
    folder, bands = silent
    code, _, err = run("inspect", folder / "a.npy", "--wavelengths", bands, "--layout", "no")
    assert code == 2 and len(err) == 1
    code, out, err = run("inspect", folder / "a.npy", "--wavelengths", bands)
    assert code == 0 and err == [] and "taken from" in out  # inspect prints its notes with the scene


def test_warnings_are_called_so_and_other_handlers_rest(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("specfm.readers")
    before = (logger.handlers, logger.level, logger.propagate)
    notes: list[str] = []
    with printed_notes():
        log.warning("%s: odd %s", "x", "thing")
        log.warning("%s: odd %s", "x", "thing")
        log.info("%s: plain", "x")
        with reader_notes(lambda record: notes.append(record.getMessage())):
            log.info("%s: collected", "x")
    assert capsys.readouterr().err.splitlines() == ["warning: x: odd thing", "note: x: plain"]
    assert notes == ["x: collected"] and (logger.handlers, logger.level, logger.propagate) == before


def test_a_card_with_a_list_of_its_own_is_not_said_to_use_the_table(silent: tuple[Path, Path], tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text(
        "name: c\ndomain: c\npath: cubes/a.npy\nwavelengths: bands.csv\nsensor: neon_ais\nwavelength_trust: high\n"
    )
    code, out, err = run("shard", card, "--out", tmp_path / "out", "--window", 4, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["shards"][0]["sensor"] == "neon_ais"
    assert err == [f"note: {silent[0] / 'a.npy'} is silent about wavelengths; taken from the band list given for it"]
