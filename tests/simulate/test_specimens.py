"""Simulated specimens: what is known of them is true of the numbers, and the files come back as written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.cards import load_card
from specfm.cli import app
from specfm.errors import UsageError
from specfm.readers import read_scene
from specfm.scene import Scene
from specfm.selected_scene import select_scenes
from specfm.simulate import SPECIES, simulate_specimen, write_specimens


def wing(scene: Scene) -> np.ndarray:
    """Mean reflectance of the specimen [C]."""
    return scene.values()[scene.labels_HW >= 0].mean(0)


def test_the_same_seed_gives_the_same_bytes_and_another_another_specimen() -> None:
    one, same, other = (simulate_specimen("blue_a", (32, 40), seed) for seed in (1, 1, 2))
    assert one.read().tobytes() == same.read().tobytes() and one.read().tobytes() != other.read().tobytes()
    assert one.shape == (32, 40, 408) and one.dtype == np.uint16 and one.mask().all()


@pytest.mark.parametrize("pair", [0, 2, 4, 6])
def test_pairs_share_all_but_the_peak(pair: int) -> None:
    still = {"thickness": 0, "fading": 0, "pose": 0, "curvature": 0, "light": 0, "snr": 1e9}
    first, second = (simulate_specimen(pair + k, (48, 48), 5, **still) for k in (0, 1))
    nm = first.sensor.bands.wavelengths_nm
    difference = np.abs(wing(first) - wing(second))
    near = np.abs(nm - (SPECIES[pair].peak_nm + SPECIES[pair + 1].peak_nm) / 2) < 100
    assert difference[near].max() > 5 * difference[~near].max()


def test_colours_do_not_tell_the_ultraviolet_pair_apart() -> None:
    still = {"thickness": 0, "fading": 0, "pose": 0, "light": 0, "snr": 1e9}
    scenes = [simulate_specimen(k, (48, 48), 5, **still) for k in (0, 1)]
    (rgb, other), (first, second) = ([wing(s) for s in select_scenes(scenes, "rgb")], [wing(s) for s in scenes])
    assert np.abs(rgb - other).max() < 0.02 < 0.06 < np.abs(first - second).max()


def test_thickness_and_curvature_shift_the_peak() -> None:
    still = {"fading": 0, "pose": 0, "light": 0, "snr": 1e9}

    def peak(seed: int, thickness: float, curvature: float) -> float:
        scene = simulate_specimen("blue_b", (48, 48), seed, thickness=thickness, curvature=curvature, **still)
        nm = scene.sensor.bands.wavelengths_nm
        blue = scene.values()[scene.values()[..., np.argmin(np.abs(nm - 470))] > 0.3][..., (nm > 400) & (nm < 560)]
        blue = blue[blue.max(1) < 0.75]  # not the card
        return float(nm[(nm > 400) & (nm < 560)][blue.mean(0).argmax()])

    assert abs(peak(1, 0, 0) - 470) < 2
    assert peak(1, 0, 40) < peak(1, 0, 0) - 5
    assert np.std([peak(seed, 0.02, 0) for seed in range(6)]) > 2


def test_files_come_back_through_the_card(tmp_path: Path) -> None:
    card = write_specimens(tmp_path / "set", species=2, specimens=2, size=(32, 32), seed=4)
    scenes = list(load_card(card).scenes())
    assert [scene.name for scene in scenes] == [
        f"simulated_specimens/{name}_0{k}" for name in ("ultraviolet_a", "ultraviolet_b") for k in (0, 1)
    ]
    assert len({scene.group for scene in scenes}) == 4
    for place, scene in zip([0, 0, 1, 1], scenes, strict=True):
        assert scene.dtype == np.uint16 and scene.shape == (32, 32, 408)
        assert set(np.unique(scene.labels_HW)) == {-1, place}
        assert np.array_equal(scene.groups_HW >= 0, scene.labels_HW >= 0)
        assert 0.05 < wing(scene).mean() < 0.6
    raw = read_scene(tmp_path / "set" / "ultraviolet_a_00.hdr")
    assert "bil" in (tmp_path / "set" / "ultraviolet_a_00.hdr").read_text()
    assert np.allclose(raw.sensor.bands.wavelengths_nm, scenes[0].sensor.bands.wavelengths_nm, atol=1e-3)


def test_command_and_refusals(tmp_path: Path) -> None:
    arguments = ["simulate", "--out", str(tmp_path / "set"), "--specimens", "1", "--species", "1", "--size", "24"]
    done = CliRunner().invoke(app, [*arguments, "--set", "snr=50"])
    assert done.exit_code == 0 and done.output.strip().endswith("specimens.yaml")
    for bad, message in ((["--set", "stripes=1"], "stripes"), (["--species", "9"], "1 to 8 species")):
        again = CliRunner().invoke(app, [*arguments[:2], str(tmp_path / "new"), *arguments[3:], *bad])
        assert again.exit_code == 2 and message in (again.output + str(again.exception))
    for words in (["--sensors", "emit"], ["--library", "earthlib"], ["--materials", "soil"], ["--scenes", "2"],
                  ["--same-ground"]):  # fmt: skip
        unread = CliRunner().invoke(app, [*arguments[:2], str(tmp_path / "new"), *arguments[3:], *words])
        assert unread.exit_code == 2 and f"leave out {words[0]} or --specimens" in " ".join(unread.output.split())
    alone = CliRunner().invoke(app, ["simulate", "--out", str(tmp_path / "new"), "--species", "3"])
    assert alone.exit_code == 2 and "--species says how many of --specimens there are" in alone.output
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="unknown species 'pink'"):
        simulate_specimen("pink")
    with pytest.raises(UsageError, match="at least 24 x 24"):
        simulate_specimen(0, (20, 40))
