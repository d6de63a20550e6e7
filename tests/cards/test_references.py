"""White and dark of a card: read as every command reads them, from files with headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from specfm.cards import load_card
from specfm.cards.opening import open_scene, open_scenes
from specfm.cli import app
from specfm.errors import SpecfmError, UsageError
from specfm.files import sha256_file
from tests.calibration.lab import Lab, write_card, write_envi


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Files of a sensor without dark current: scan of 8 ms, white of 4 ms, dark of 8 ms, and their headers say so."""
    made = Lab()
    made.current_WC[:] = 0
    for name, light, time in (("scan", made.truth_HWC, 8), ("white", 1.0, 4), ("dark", 0.0, 8)):
        write_envi(tmp_path / f"{name}.raw", made.counts(light, time), f"tint = {time:.2f}\n")
    return made


def assert_true(card: Path, lab: Lab, factor: float = 1.0) -> None:
    (scene,) = load_card(card).scenes()
    np.testing.assert_allclose(scene.values(), lab.truth_HWC * factor, atol=2e-3)


def test_times_of_the_headers_are_divided_out(tmp_path: Path, lab: Lab) -> None:
    assert_true(write_card(tmp_path), lab)


def test_the_card_wins_over_the_headers(tmp_path: Path, lab: Lab) -> None:
    assert_true(write_card(tmp_path, integration_ms={"scan": 4, "white": 4, "dark": 4}), lab, 2.0)


def test_the_card_speaks_where_headers_are_silent(tmp_path: Path, lab: Lab) -> None:
    for name, light, time in (("scan", lab.truth_HWC, 8), ("white", 1.0, 4)):
        write_envi(tmp_path / f"{name}.raw", lab.counts(light, time))
    assert_true(write_card(tmp_path), lab, 2.0)
    assert_true(write_card(tmp_path, integration_ms={"scan": 8, "white": 4}), lab)


def test_a_dark_for_each_time(tmp_path: Path, lab: Lab) -> None:
    lab.current_WC[:] = 60
    for name, light, time in (("scan", lab.truth_HWC, 8), ("white", 1.0, 4), ("dark", 0.0, 8), ("dark4", 0.0, 4)):
        write_envi(tmp_path / f"{name}.raw", lab.counts(light, time))
    times = {"scan": 8, "white": 4, "dark": [8, 4]}
    assert_true(write_card(tmp_path, dark=["dark.raw", "dark4.raw"], integration_ms=times), lab)
    with pytest.raises(UsageError, match=r"integration_ms.dark has 1 times for 2 dark references"):
        load_card(write_card(tmp_path, dark=["dark.raw", "dark4.raw"], integration_ms={"dark": 8}))


def test_a_panel_of_half_the_light_by_number_and_by_table(tmp_path: Path, lab: Lab) -> None:
    write_envi(tmp_path / "white.raw", lab.counts(0.5, 4), "tint = 4\n")
    assert_true(write_card(tmp_path, white={"path": "white.raw", "reflectance": 0.5}), lab)
    (tmp_path / "panel.csv").write_text("wavelength_nm,reflectance\n400,0.5\n1000,0.5\n")
    assert_true(write_card(tmp_path, white={"path": "white.raw", "reflectance": "panel.csv"}), lab)
    assert_true(write_card(tmp_path, white={"path": "white.raw"}), lab, 2.0)
    (tmp_path / "panel.csv").write_text("wavelength_nm,reflectance\n400,0.5\n900,0.5\n")
    with pytest.raises(SpecfmError, match="panel.csv: covers 400-900 nm and the scan 450-950 nm"):
        list(load_card(write_card(tmp_path, white={"path": "white.raw", "reflectance": "panel.csv"})).scenes())
    with pytest.raises(SpecfmError, match="no other.csv below"):
        list(load_card(write_card(tmp_path, white={"path": "white.raw", "reflectance": "other.csv"})).scenes())


def test_references_need_no_group_of_their_own(tmp_path: Path, lab: Lab) -> None:
    for part in ("scan", "white", "dark"):
        for suffix in (".raw", ".hdr"):
            (tmp_path / f"{part}{suffix}").rename(tmp_path / f"{'leaf_7' if part == 'scan' else part}{suffix}")
    fields = {"path": "leaf_*.raw", "group": "plant {match}", "group_match": r"_(\d+)$"}
    (scene,) = load_card(write_card(tmp_path, **fields)).scenes()
    assert scene.group == "plant 7"
    np.testing.assert_allclose(scene.values(), lab.truth_HWC, atol=2e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"white": {"path": "white.raw", "reflectance": 50}}, "write 50 % as 0.5"),
        ({"white": {"reflectance": 0.5}}, "path is missing"),
        ({"white": {"path": "white.raw", "reflectanse": 0.5}}, "did you mean .*reflectance"),
        ({"integration_ms": {"scan": 0}}, "integration_ms.scan"),
        ({"integration_ms": {"scan": 8}, "white": None, "dark": None}, "name them with white and dark"),
        ({"dark": []}, "dark"),
    ],
)
def test_bad_keys_are_refused_before_any_file(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_card(write_card(tmp_path, **fields))


def test_bands_of_another_binning_are_refused_by_both_sizes(tmp_path: Path, lab: Lab) -> None:
    write_envi(tmp_path / "white.raw", lab.counts(1.0, 4)[..., ::2])
    with pytest.raises(SpecfmError, match=r"white reference .*white.raw has 3 bands, the scan 6"):
        list(load_card(write_card(tmp_path)).scenes())


def test_a_stated_limit_marks_bands_of_the_white_bad(tmp_path: Path, lab: Lab) -> None:
    counts = np.minimum(lab.counts(1.0, 4), 16383)
    counts[..., [0, 3]] = 16383
    write_envi(tmp_path / "white.raw", counts, "tint = 4\nbit depth = 14\n")
    (scene,) = load_card(write_card(tmp_path)).scenes()
    assert np.flatnonzero(~scene.sensor.bands.valid).tolist() == [0, 3]
    good = [1, 2, 4, 5]
    np.testing.assert_allclose(scene.values(bands=good), lab.truth_HWC[..., good], atol=2e-3)


def test_cards_and_options_of_files_give_the_same_numbers(tmp_path: Path, lab: Lab) -> None:
    """One mechanism: ``shard`` on files, commands that map one scene, and cards."""
    (card,) = load_card(write_card(tmp_path, white={"path": "white.raw", "reflectance": 0.9})).scenes()
    white, dark = tmp_path / "white.raw", tmp_path / "dark.raw"
    told = {"white": white, "dark": [dark], "white_reflectance": "0.9"}
    (file,) = open_scenes([str(tmp_path / "scan.raw")], told)
    np.testing.assert_array_equal(file.read(), card.read())
    np.testing.assert_array_equal(open_scene(str(tmp_path / "lab.yaml")).read(), card.read())
    with pytest.raises(UsageError, match="--white-reflectance is of a white reference"):
        list(open_scenes([str(tmp_path / "scan.raw")], {"white_reflectance": 0.9}))


def test_shard_and_inspect_tell_what_they_found(tmp_path: Path, lab: Lab) -> None:
    scan, white, dark = (tmp_path / f"{name}.raw" for name in ("scan", "white", "dark"))
    options = ["--white", white, "--dark", dark, "--out", tmp_path / "out", "--window", "4", "--dry-run", "--json"]
    ran = CliRunner().invoke(app, ["shard", str(scan), *map(str, options), "--white-reflectance", "0.5"])
    assert ran.exit_code == 0, ran.stderr
    said = f"(tint = 8.00) and white reference {white} (tint = 4.00) differ and are divided out"
    assert ran.stderr.startswith("warning: ") and said in ran.stderr and ran.stderr.count("\n") == 1
    shown = CliRunner().invoke(app, ["inspect", str(write_card(tmp_path)), "--json"])
    (result,) = json.loads(shown.stdout)
    assert result["sensor"]["quantity"] == "dn", "what was measured is shown"
    assert any(said in note for note in result["notes"])


def test_references_are_opened_and_averaged_once_for_all_scans(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specfm import readers
    from specfm.calibration import apply

    for name in ("scan2", "scan3"):
        write_envi(tmp_path / f"{name}.raw", lab.counts(lab.truth_HWC, 8), "tint = 8.00\n")
    opened, averaged = [], []
    read_scene, read_reference = readers.read_scene, apply.read_reference
    monkeypatch.setattr(
        readers, "read_scene", lambda path, **more: opened.append(path.stem) or read_scene(path, **more)
    )
    monkeypatch.setattr(apply, "read_reference", lambda *a, **b: averaged.append(a[0].name) or read_reference(*a, **b))
    for scenes in (
        load_card(write_card(tmp_path, path="scan*.raw")).scenes(),
        open_scenes([str(tmp_path)], {"white": tmp_path / "white.raw", "dark": [tmp_path / "dark.raw"]}),
    ):
        opened.clear()
        averaged.clear()
        read = list(scenes)
        assert sorted(opened) == ["dark", "scan", "scan2", "scan3", "white"] and len(averaged) == 2
        for scene in read:
            np.testing.assert_allclose(scene.values(), lab.truth_HWC, atol=2e-3)
    opened.clear()
    assert CliRunner().invoke(app, ["inspect", str(write_card(tmp_path, path="scan*.raw"))]).exit_code == 0
    assert sorted(opened) == ["dark", "scan", "scan2", "scan3", "white"]


def test_every_command_that_takes_files_takes_their_references() -> None:
    """Those without them take cards alone, which name their own."""
    from specfm import change, cluster, embed, inspect, predict, search, shard

    for command in (change, cluster, embed, inspect, predict, search, shard):
        options = {each.name for each in command.options}  # type: ignore[attr-defined]
        assert {"white", "white_reflectance", "dark", "saturation"} <= options, command.__name__


def test_features_of_a_file_with_references_are_those_of_its_card(tmp_path: Path, lab: Lab) -> None:
    import specfm

    specfm.save(specfm.create_encoder("nano", patch_size=4, dim=48, depth=1, heads=3), tmp_path / "encoder")
    card = write_card(tmp_path, white={"path": "white.raw", "reflectance": 0.5})
    white, dark, scan = (tmp_path / f"{name}.raw" for name in ("white", "dark", "scan"))
    told = {"white": white, "dark": dark, "white_reflectance": 0.5}
    specfm.embed(tmp_path / "encoder", card, out=tmp_path / "card.npy")
    specfm.embed(tmp_path / "encoder", scan, out=tmp_path / "file.npy", **told)
    np.testing.assert_array_equal(np.load(tmp_path / "file.npy"), np.load(tmp_path / "card.npy"))
    specfm.embed(tmp_path / "encoder", scan, out=tmp_path / "raw.npy")
    assert not np.array_equal(np.load(tmp_path / "raw.npy"), np.load(tmp_path / "card.npy"))
    with pytest.raises(UsageError, match=r"is a card, .* write in it what --white, --white-reflectance, --dark would"):
        specfm.embed(tmp_path / "encoder", card, out=tmp_path / "both.npy", **told)


def test_inspect_shows_values_before_and_after_calibration_side_by_side(tmp_path: Path, lab: Lab) -> None:
    from specfm import inspect

    options = {"white": tmp_path / "white.raw", "dark": tmp_path / "dark.raw"}
    results = inspect(tmp_path / "scan.raw", **options), inspect(write_card(tmp_path)), inspect(tmp_path, **options)
    for found in results:
        (row,) = found.rows
        bands = row["given"]["bands"]
        assert [band["number"] for band in bands] == [1, 3, 4, 6]
        stored = open_scene(str(tmp_path / "scan.raw")).read()
        for band in bands:
            of_band = stored[..., band["number"] - 1], lab.truth_HWC[..., band["number"] - 1]
            for which, expected in zip(("stored", "given"), of_band, strict=True):
                for key, value in (("low", expected.min()), ("high", expected.max()), ("mean", expected.mean())):
                    assert band[which][key] == pytest.approx(value, abs=2e-3), (band["number"], which, key)
    shown = CliRunner().invoke(app, ["inspect", str(write_card(tmp_path))])
    first = results[0].rows[0]["given"]["bands"][0]
    assert f"band 1, {first['nm']:.0f} nm: {first['stored']['low']:.6g} to " in shown.stdout


def test_every_scan_may_have_references_of_its_own(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, lamp in (("a", 1.0), ("b", 0.5)):
        (tmp_path / folder).mkdir()
        for stem in ("one", "two"):
            write_envi(tmp_path / folder / f"{stem}.raw", lab.counts(lab.truth_HWC * lamp, 8))
            write_envi(tmp_path / folder / f"WHITEREF_{stem}.raw", lab.counts(lamp, 8))
        write_envi(tmp_path / folder / "dark.raw", lab.counts(0.0, 8))
    named: dict[str, Any] = {"white": "{parent}/WHITEREF_{stem}.raw", "dark": "{parent}/dark.raw"}
    card = load_card(write_card(tmp_path, path="*/*.raw", **named))
    assert card.names() == ["a/one", "a/two", "b/one", "b/two"], "references are no scans"
    for scene in card.scenes():
        np.testing.assert_allclose(scene.values(), lab.truth_HWC, atol=4e-3)
    (tmp_path / "b" / "WHITEREF_two.raw").unlink()
    with pytest.raises(SpecfmError, match=r"no b/WHITEREF_two\.raw below"):
        list(load_card(write_card(tmp_path, path="b/two.raw", **named)).scenes())
    digest = {"a/WHITEREF_one.raw": sha256_file(tmp_path / "a" / "WHITEREF_one.raw")}
    (scene,) = load_card(write_card(tmp_path, path="a/one.raw", sha256=digest, **named)).scenes()
    with pytest.raises(SpecfmError, match=r"WHITEREF_one\.raw is not the file"):
        list(
            load_card(write_card(tmp_path, path="a/one.raw", sha256=dict.fromkeys(digest, "0" * 64), **named)).scenes()
        )
