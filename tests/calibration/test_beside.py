"""References beside a scan are found by their names, offered, and never used unasked."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.calibration.beside import references_beside
from specfm.cards import load_card
from specfm.cards.opening import open_scene
from specfm.cli import app
from specfm.errors import UsageError
from tests.calibration.lab import Lab, write_envi

OWN = ("WHITEREF_{}", "DARKREF_{}"), ("{}_white", "{}_dark"), ("white_reference {}", "dark_reference {}")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(("white", "dark"), OWN)
def test_those_called_after_the_scan_go_before_others(tmp_path: Path, white: str, dark: str) -> None:
    for scan in ("leaf_1", "leaf_2"):
        touch(tmp_path, f"{scan}.raw", f"{white.format(scan)}.raw", f"{dark.format(scan)}.raw")
    touch(tmp_path, "panel.csv", "spectra.csv")
    found = references_beside(tmp_path / "leaf_2.raw")
    assert found is not None and found.panel == tmp_path / "panel.csv"
    assert (found.white.stem, found.dark.stem) == (white.format("leaf_2"), dark.format("leaf_2"))


def test_what_is_not_plain_is_not_offered(tmp_path: Path) -> None:
    touch(tmp_path, "leaf.raw", "white.hdr", "dark.raw", "whiteboard.raw", "darkness.raw")
    assert references_beside(tmp_path / "leaf.raw") is None, "of another type, or another word"
    touch(tmp_path, "white.raw")
    found = references_beside(tmp_path / "leaf.raw")
    assert found is not None and found.panel is None and found.white.name == "white.raw"
    assert references_beside(tmp_path / "white.raw") is None, "itself a reference"
    touch(tmp_path, "white_2.raw")
    assert references_beside(tmp_path / "leaf.raw") is None, "which of two"


def test_a_scan_is_told_of_them_and_its_card_takes_them_where_the_marks_are_taken_out(tmp_path: Path) -> None:
    lab = Lab()
    lab.current_WC[:] = 0
    for name, light in (("scan", lab.truth_HWC), ("white", 1.0), ("dark", 0.0)):
        write_envi(tmp_path / f"{name}.raw", lab.counts(light, 4))
    (tmp_path / "panel.csv").write_text("wavelength_nm,reflectance\n300,0.5\n2600,0.5\n")
    scan, white, dark = (str(tmp_path / f"{name}.raw") for name in ("scan", "white", "dark"))
    shown = CliRunner().invoke(app, ["inspect", scan, "--card", str(tmp_path / "mine.yaml")])
    assert shown.exit_code == 0, shown.output
    assert f"references seem to lie beside it: --white {white} --dark {dark} makes" in shown.stdout
    assert "given as" not in shown.stdout, "nothing is calibrated by a guess"
    text = (tmp_path / "mine.yaml").read_text()
    assert load_card(tmp_path / "mine.yaml").parts[0].white is None
    for line in ("white: ", "dark: "):
        text = text.replace(f"# {line}", line)
    (tmp_path / "mine.yaml").write_text(text)
    (scene,) = load_card(tmp_path / "mine.yaml").scenes()
    np.testing.assert_allclose(scene.values(), lab.truth_HWC * 0.5, atol=2e-3)
    told = ["--white", white, "--dark", dark, "--white-reflectance", str(tmp_path / "panel.csv"), "--overwrite"]
    shown = CliRunner().invoke(app, ["inspect", scan, "--card", str(tmp_path / "mine.yaml"), *told])
    assert shown.exit_code == 0 and "given as    surface_reflectance" in shown.stdout
    (same,) = load_card(tmp_path / "mine.yaml").scenes()
    np.testing.assert_array_equal(same.read(), scene.read())
    file = open_scene(scan, white=white, dark=[dark], white_reflectance=tmp_path / "panel.csv")
    np.testing.assert_array_equal(file.read(), scene.read())


def test_a_card_of_a_scan_with_references_of_its_own_says_how_many_scans_would_name_them(tmp_path: Path) -> None:
    lab = Lab()
    for stem in ("leaf", "twig"):
        for name, light in (("", lab.truth_HWC), ("_white", 1.0), ("_dark", 0.0)):
            write_envi(tmp_path / f"{stem}{name}.raw", lab.counts(light, 4))
    card = tmp_path / "mine.yaml"
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "leaf.raw"), "--card", str(card)])
    assert shown.exit_code == 0, shown.output
    text = card.read_text()
    assert 'of many scans: white "{folder}/{stem}_white.raw", dark "{folder}/{stem}_dark.raw"' in text
    assert 'a pattern for many files alike: "*.raw"' in text
    for mark, line in (("# white: ", "white: "), ("# dark: ", "dark: "), ("# object: ", "object: ")):
        assert mark in text
        text = text.replace(mark, line)
    text = text.replace('path: "leaf.raw"', 'path: "*.raw"').replace("leaf_", "{stem}_")
    card.write_text(text)
    assert load_card(card).parts[0].object is not None
    card.write_text(text.replace("object: ", "# object: "))  # these scans hold nothing else
    scenes = list(load_card(card).scenes())
    assert [scene.name for scene in scenes] == ["leaf/leaf", "leaf/twig"]
    assert all(scene.sensor.quantity == "surface_reflectance" for scene in scenes)


def test_each_scan_in_a_folder_of_its_own_beside_its_references(tmp_path: Path) -> None:
    lab = Lab()
    for stem in ("a", "b"):
        folder = tmp_path / "day" / stem / "capture"
        folder.mkdir(parents=True)
        for name, light in (("scan", lab.truth_HWC), ("WHITEREF_scan", 1.0), ("DARKREF_scan", 0.0)):
            write_envi(folder / f"{name}.raw", lab.counts(light, 4))
    card = tmp_path / "mine.yaml"
    shown = CliRunner().invoke(
        app, ["inspect", str(tmp_path / "day" / "a" / "capture" / "scan.hdr"), "--card", str(card)]
    )
    assert shown.exit_code == 0, shown.output
    told = re.search(r"of many scans: white (.*), dark (.*)", card.read_text())
    assert told is not None and told[1] == '"{folder}/WHITEREF_{stem}.hdr"'
    for path in ('"day/*/capture/scan.*"', "[day/a/capture, day/b/capture]"):
        card.write_text(
            f"name: mine\ndomain: lab\npath: {path}\nwhite: {told[1]}\ndark: {told[2]}\ngroup: '{{parent}}'\n"
        )
        scenes = list(load_card(card).scenes())
        assert [scene.name for scene in scenes] == ["mine/a/capture/scan", "mine/b/capture/scan"]
        assert all(scene.sensor.quantity == "surface_reflectance" for scene in scenes)
    card.write_text(card.read_text().replace("{parent}", "{folder}"))
    with pytest.raises(UsageError, match="group uses {folder}"):
        load_card(card)
