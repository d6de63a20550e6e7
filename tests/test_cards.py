"""Dataset cards: shipped ones validate without data and read right with data; bad ones are refused by a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from specfm.cards import card_names, load_card
from specfm.cards.labels import dominant_class
from specfm.cards.opening import card_scenes, open_scenes
from specfm.cards.schema import band_ranges
from specfm.errors import SpecfmError, UsageError
from specfm.sensor_table import get_row

CLASSIC = ("indian_pines", "salinas", "pavia_university", "pavia_centre", "ksc", "botswana", "houston2013")
BANDS = dict(zip(CLASSIC, (200, 204, 103, 102, 176, 145, 144), strict=True))
PRESENT = [name for name in card_names() if name not in CLASSIC]
HOUSTON = (198, 190, 192, 188, 186, 182, 196, 191, 193, 191, 181, 192, 184, 181, 187)

# scenes, (H, W, C) of the first, pixels per class (-1 = unlabelled): from the manifest of the development scenes
EXPECTED: dict[str, tuple[int, tuple[int, int, int], dict[int, int] | None]] = {
    "salinas_a": (1, (83, 86, 204), {-1: 1790, 0: 391, 1: 1343, 2: 616, 3: 1525, 4: 674, 5: 799}),
    "neon_osbs": (39, (20, 20, 369), dict(enumerate((9018, 124, 4, 3, 54, 6, 154, 4857, 252, 84, 996, 4, 44), -1))),
    "neon_mlbs": (46, (20, 20, 369), None),
    "neon_osbs_multiyear": (53, (5, 7, 369), None),
    "neon_sjer": (1, (30, 30, 426), None),
    "jasper_ridge": (1, (100, 100, 198), None),
    "samson": (1, (95, 95, 156), None),
    "moffett": (1, (50, 50, 189), None),
    "salton_sea": (1, (51, 56, 224), None),
    "santa_barbara": (1, (90, 90, 224), None),
    "san_diego_a": (1, (100, 100, 189), {0: 9942, 1: 58}),
    "san_diego_b": (1, (100, 100, 189), {0: 9866, 1: 134}),
    "aviris_abu_airport_1": (1, (100, 100, 205), {0: 9856, 1: 144}),
    "aviris_abu_beach_1": (1, (150, 150, 188), {0: 22481, 1: 19}),
    "aviris_abu_urban_4": (1, (100, 100, 205), {0: 9728, 1: 272}),
    "emit_mini": (1, (10, 10, 285), None),
    "hydice_urban_had_a": (1, (100, 80, 162), {0: 7981, 1: 19}),
    "hydice_urban_had_b": (1, (80, 100, 162), {0: 7983, 1: 17}),
    "hydice_urban": (1, (34, 78, 162), None),
    "hydice_urban_library": (6, (69, 1, 162), {0: 69, 1: 100, 2: 115, 3: 118, 4: 85, 5: 164}),
    "hyperion_gamsberg": (1, (25, 10, 189), None),
    "hyperion_paris": (1, (72, 72, 128), None),
    "ali_paris": (1, (72, 72, 9), None),
    "corn_kernel": (1, (31, 43, 580), None),
    "landsat_nanjing": (2, (800, 800, 6), {-1: 2 * (640000 - 2363 - 12393), 0: 2 * 12393, 1: 2 * 2363}),
    "pavia_centre_a": (1, (100, 100, 102), {0: 9932, 1: 68}),
    "pavia_centre_b": (1, (105, 120, 102), None),
    "sentinel2_sample": (1, (264, 264, 13), None),
    "enmap_berlin_mini": (1, (7, 10, 177), None),
    "indian_pines_spectra": (1, (695, 1, 200), {**dict.fromkeys(range(13), 50), 13: 15, 14: 15, 15: 15}),
    "houston2013_spectra": (1, (2832, 1, 144), dict(enumerate(HOUSTON))),
    "urban_library": (1, (3725, 1, 224), {0: 1471, 1: 242, 2: 260, 3: 30, 4: 100, 5: 610, 6: 972, 7: 40}),
    "berlin_library": (1, (75, 1, 177), None),
    "cuprite_1997_crop": (1, (50, 50, 91), None),
}  # fmt: skip


@pytest.mark.parametrize("name", card_names())
def test_shipped_cards_validate_without_data(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.domain and card.citation and card.title
    assert bool(card.label_names) == any(part.labels for part in card.parts), "classes need labels, and the reverse"
    for part in card.parts:
        assert part.wavelengths or part.table_bands() or card.wavelength_trust == "high", "bands come from somewhere"


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_scenes_state_their_bands(name: str) -> None:
    card = load_card(name)
    bands = card.parts[0].table_bands()
    assert bands is not None and len(bands) == BANDS[name]
    assert len(card.label_names) in (9, 13, 14, 15, 16)


def test_a_wrong_path_is_not_taken_for_a_shipped_card(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"salinas_a\.yaml does not exist; give the path"):
        load_card(tmp_path / "salinas_a.yaml")
    assert load_card("configs/data/salinas_a.yaml").name == load_card("salinas_a").name == "salinas_a"


def test_indian_pines_drops_the_documented_bands(data_root: Path) -> None:
    """Removed bands of the card give the very list that comes with the development spectra."""
    given = next(load_card("indian_pines_spectra").scenes(data_root)).sensor.bands.wavelengths_nm
    bands = load_card("indian_pines").parts[0].table_bands()
    assert bands is not None
    np.testing.assert_allclose(bands.wavelengths_nm, given, atol=0.01)


@pytest.mark.parametrize("name", PRESENT)
def test_shipped_cards_read_their_scenes(name: str, data_root: Path) -> None:
    card = load_card(name)
    scenes = list(card.scenes(data_root))
    counts: dict[int, int] = {}
    for scene in scenes:
        assert scene.domain == card.domain and scene.group and scene.label_names == tuple(card.label_names)
        assert np.isfinite(scene.sensor.bands.wavelengths_nm[scene.sensor.bands.valid]).all()
        assert len(scene.sensor.bands) == scene.shape[2]
        corner = scene.values(slice(0, 4), slice(0, 4))
        assert np.isfinite(corner[..., scene.sensor.bands.valid]).any()
        if scene.sensor.quantity in ("surface_reflectance", "toa_reflectance"):
            assert 0 <= np.nanmedian(corner[..., scene.sensor.bands.valid]) < 1, "reflectance is a share"
        if scene.labels_HW is not None:
            for value, count in zip(*np.unique(scene.labels_HW, return_counts=True), strict=True):
                counts[int(value)] = counts.get(int(value), 0) + int(count)
    assert all(scene.neighbours == (card.task != "library") for scene in scenes)
    if name in EXPECTED:
        number, shape, labels = EXPECTED[name]
        assert len(scenes) == number and scenes[0].shape == shape
        assert labels is None or counts == labels
    else:
        assert name.startswith("aviris_abu_") and set(counts) == {0, 1}
    if card.task not in ("unlabelled", "library"):
        assert set(counts) - {-1} == set(range(len(card.label_names))), "every class occurs"


def test_neon_plots_are_groups_and_crowns_are_kept(data_root: Path) -> None:
    scenes = list(load_card("neon_osbs").scenes(data_root))
    assert len({scene.group for scene in scenes}) == 39
    species = []
    for scene in scenes:
        assert scene.groups_HW is not None and scene.labels_HW is not None
        assert np.all(scene.groups_HW[scene.labels_HW >= 0] >= 0), "every labelled pixel lies in a crown"
        for crown in np.unique(scene.groups_HW[scene.groups_HW >= 0]):
            labels = scene.labels_HW[scene.groups_HW == crown]
            species.append(len(np.unique(labels[labels >= 0])))
    assert len(species) == 450 and max(species) == 1, "a crown is of one species (or of none where it is not known)"
    shared = set(load_card("neon_osbs").label_names) & set(load_card("neon_mlbs").label_names)
    present = {name: _present(name, data_root) for name in ("neon_osbs", "neon_mlbs")}
    assert present["neon_osbs"] & present["neon_mlbs"] == shared == {"ACRU"}


def _present(name: str, data_root: Path) -> set[str]:
    names = load_card(name).label_names
    seen: set[int] = set()
    for scene in load_card(name).scenes(data_root):
        seen |= set(np.unique(scene.labels_HW).tolist())
    return {names[i] for i in seen if i >= 0}


def test_multiyear_groups_by_tree(data_root: Path) -> None:
    scenes = list(load_card("neon_osbs_multiyear").scenes(data_root))
    trees: dict[str, set[int]] = {}
    for scene in scenes:
        assert scene.labels_HW is not None
        trees.setdefault(scene.group, set()).update(np.unique(scene.labels_HW).tolist())
    assert 10 < len(trees) < len(scenes) / 3 and all(len(labels) == 1 for labels in trees.values())


def test_unmixing_labels_lie_where_the_materials_lie(data_root: Path) -> None:
    """Water is dark in the near infrared and trees have a red edge: the MATLAB pixel order is right."""
    for name in ("jasper_ridge", "samson"):
        scene = next(load_card(name).scenes(data_root))
        nm = scene.sensor.bands.wavelengths_nm
        values = scene.values()
        red, near = (values[..., np.argmin(np.abs(nm - wanted))] for wanted in (670, 860))
        tree, water = (scene.labels_HW == scene.label_names.index(kind) for kind in ("tree", "water"))
        assert np.median(near[tree] / (red[tree] + 1e-6)) > 2
        assert np.median(near[water]) < 0.3 * np.median(near[tree])


def test_lab_scan_has_its_references(data_root: Path) -> None:
    card = load_card("corn_kernel")
    references = card.references(card.parts[0], data_root)
    assert references is not None
    raw = next(card.scenes(data_root))
    white, (dark,) = references
    assert white.shape == dark.shape == raw.shape
    assert dark.values().mean() < 0.2 * white.values().mean()
    assert load_card("salinas_a").references(load_card("salinas_a").parts[0], data_root) is None


# ---------------------------------------------------------------- cards made here


def _folder(tmp_path: Path, raster: np.ndarray | None = None, **changes: Any) -> Path:
    """A card with two small cubes of three bands beside it."""
    cube = np.arange(2 * 3 * 3, dtype=np.int16).reshape(2, 3, 3)
    np.save(tmp_path / "a_1.npy", cube)
    np.save(tmp_path / "a_2.npy", cube + 100)
    if raster is not None:
        np.savez(tmp_path / "labels.npz", **{"a_1": raster, "a_2": raster[::-1]})
    fields = {
        "name": "mine",
        "domain": "test",
        "wavelength_trust": "high",
        "path": "a_*.npy",
        "linear_nm": [500, 700, 3],
        "layout": "HWC",
        **changes,
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in fields.items() if value is not None}))
    return path


def test_bands_of_a_card_number_the_files_own_where_no_instrument_is_named(tmp_path: Path) -> None:
    """They are honoured or refused, whoever states the wavelengths."""
    for key, wanted in (("bands", [True, False, True]), ("removed_bands", [False, True, False])):
        scene = next(load_card(_folder(tmp_path, **{key: "1,3"})).scenes())
        assert scene.sensor.bands.valid.tolist() == wanted
    with pytest.raises(SpecfmError, match="card mine: bands: band 4 is beyond the 3 bands of a_1.npy"):
        next(load_card(_folder(tmp_path, bands="2-4")).scenes())


def test_bands_of_an_instrument_select_where_the_file_states_all_of_them(tmp_path: Path) -> None:
    table = get_row("sentinel2_msi").bands
    shape = {"lines": 2, "samples": 2, "data type": 4, "interleave": "bip", "byte order": 0, "wavelength units": "nm"}

    def card(bands: str, count: int) -> Path:
        listed = ", ".join(f"{centre + 0.7:g}" for centre in table.wavelengths_nm[:count])
        lines = [
            "ENVI",
            *(f"{key} = {value}" for key, value in shape.items()),
            f"bands = {count}",
            f"wavelength = {{{listed}}}",
        ]
        (tmp_path / "cube.hdr").write_text("\n".join(lines))
        np.ones((2, 2, count), np.float32).tofile(tmp_path / "cube.img")
        return _folder(tmp_path, path="cube.hdr", layout=None, linear_nm=None, sensor="sentinel2_msi", bands=bands)

    scene = next(load_card(card("2-4", len(table))).scenes())
    assert np.flatnonzero(scene.sensor.bands.valid).tolist() == [1, 2, 3]
    assert next(load_card(card("2-4", 3)).scenes()).sensor.bands.valid.all()  # the file holds those alone
    with pytest.raises(SpecfmError, match="cube.hdr has 5 bands, neither the 13 of sentinel2_msi nor the 3 that bands"):
        next(load_card(card("2-4", 5)).scenes())


def test_all_problems_of_a_card_are_told_at_once_and_little_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndomin: x\npath: 3\nscale: -1\nbands: 4-2\nlabel_name: [a]\n")
    with pytest.raises(UsageError) as caught:
        load_card(path)
    for said in ("domin; did you mean domain?", "key domain is missing", "path", "scale", "bands", "label_names?"):
        assert said in str(caught.value), said
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 3), np.float32))
    path.write_text("name: mine\ndomain: x\npath: cube.npy\nlayout: HWC\nlinear_nm: [500, 700, 3]\n")
    assert next(load_card(path).scenes()).shape == (2, 2, 3)


RASTER = np.array([[0, 1, 2], [7, 2, 1]])
LABELS = {"path": "labels.npz", "variable": "{stem}"}


def test_a_card_beside_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_DATA", str(tmp_path / "elsewhere"))
    path = _folder(
        tmp_path,
        RASTER,
        labels={**LABELS, "unlabelled": [0, 7]},
        label_names=["oak", "pine"],
        groups={**LABELS, "background": [0]},
        quantity="surface_reflectance",
        scale=0.01,
        level="L2",
        gsd_m=2,
        bad_bands="2",
        nodata=5,
        saturation=90,
        group="{match}",
        group_match="_([0-9])$",
    )
    one, two = load_card(path).scenes()
    assert (one.group, two.group) == ("1", "2") and one.name == "mine/a_1"
    np.testing.assert_array_equal(one.labels_HW, [[-1, 0, 1], [-1, 1, 0]])
    np.testing.assert_array_equal(one.groups_HW, [[-1, 1, 2], [7, 2, 1]])
    np.testing.assert_array_equal(two.labels_HW, [[-1, 1, 0], [-1, 0, 1]])
    sensor = one.sensor
    assert (sensor.quantity, sensor.scale, sensor.level, sensor.gsd_m) == ("surface_reflectance", 0.01, "L2", 2)
    assert sensor.bands.valid.tolist() == [True, False, True]
    np.testing.assert_allclose(sensor.bands.wavelengths_nm, [500, 600, 700])
    np.testing.assert_array_equal(one.mask(), [[True, False, True], [True, True, True]])  # 5 is nodata
    assert not two.mask().any(), "stored values from 90 on are saturated"


def test_remap_takes_names_and_numbers(tmp_path: Path) -> None:
    labels = {**LABELS, "unlabelled": [0], "remap": {1: "pine", 2: 0, 7: "pine"}}
    scene = next(load_card(_folder(tmp_path, RASTER, labels=labels, label_names=["oak", "pine"])).scenes())
    np.testing.assert_array_equal(scene.labels_HW, [[-1, 1, 0], [1, 0, 1]])


def test_an_unknown_label_value_is_never_a_silent_class(tmp_path: Path) -> None:
    card = load_card(_folder(tmp_path, RASTER, labels={**LABELS, "unlabelled": [0]}, label_names=["oak", "pine"]))
    with pytest.raises(SpecfmError, match=r"\[7\] .*label_names or remap"):
        next(card.scenes())


@pytest.mark.parametrize("damage", ["cut", "pickled", "text"])
def test_label_files_that_cannot_be_read_are_named(tmp_path: Path, damage: str) -> None:
    card = load_card(_folder(tmp_path, RASTER, labels={**LABELS, "unlabelled": [0, 7]}, label_names=["oak", "pine"]))
    labels = tmp_path / "labels.npz"
    if damage == "cut":
        labels.write_bytes(labels.read_bytes()[:-30])
    elif damage == "pickled":
        np.savez(labels, a_1=np.array([{}], object), a_2=RASTER)
    else:
        labels.write_text("oak")
    with pytest.raises(SpecfmError, match="labels.npz cannot be read as an array"):
        next(card.scenes())


def test_zero_counts_from_nought_where_it_is_a_class(tmp_path: Path) -> None:
    scene = next(load_card(_folder(tmp_path, RASTER % 2, labels=LABELS, label_names=["no", "yes"])).scenes())
    np.testing.assert_array_equal(scene.labels_HW, RASTER % 2)


def test_masks_table_rows_and_constant(tmp_path: Path) -> None:
    np.save(tmp_path / "oak.npy", np.array([[1, 1, 0], [0, 0, 0]]))
    np.save(tmp_path / "pine.npy", np.array([[0, 1, 1], [0, 0, 0]]))
    (tmp_path / "table.csv").write_text("file,kind\na_1.npy,pine\nother.npy,oak\n")
    (tmp_path / "rows.csv").write_text("kind\n" + "oak\npine\nnone\npine\noak\noak\n")
    names = ["oak", "pine"]

    def labels(rule: dict[str, Any]) -> np.ndarray:
        scene = next(load_card(_folder(tmp_path, labels=rule, label_names=names)).scenes())
        assert scene.labels_HW is not None
        return scene.labels_HW

    masks = labels({"masks": {"pine": "pine.npy", "oak": "oak.npy"}})
    np.testing.assert_array_equal(masks, [[0, -1, 1], [-1, -1, -1]])  # in both: not known
    assert np.all(labels({"table": {"path": "table.csv", "key": "file", "value": "kind"}}) == 1)
    np.testing.assert_array_equal(labels({"rows": {"path": "rows.csv", "value": "kind"}}), [[0, 1, -1], [1, 0, 0]])
    assert np.all(labels({"constant": "oak"}) == 0)


@pytest.mark.parametrize(
    "table",
    [
        "file,kind\na_1.npy,pine\n",
        "\ufeffFile;Kind;note\r\n a_1.npy ;Pine ;seen, twice\r\n",
        "KIND\tnote\tfile\nPINE\t\ta_1.npy\n",
        'file,"Kind"\n"a_1.npy","pine"\n',
    ],
)
def test_a_table_as_spreadsheets_write_it(tmp_path: Path, table: str) -> None:
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    rule = {"table": {"path": "table.csv", "key": "file", "value": "kind"}}
    scene = next(load_card(_folder(tmp_path, labels=rule, label_names=["oak", "pine"])).scenes())
    assert np.all(scene.labels_HW == 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,kind\na_1.npy,yew\n", "a_1.npy carries no label: it is none of label_names"),
        ("file,kind\na_2.npy,oak\n", "a_1.npy carries no label: no row of table.csv has it as file"),
        ("file,kind\na_1.npy,\n", ""),
        ("file,kind\na_1.npy,none\n", ""),
    ],
)
def test_a_scene_that_a_table_leaves_without_a_label_is_told(
    tmp_path: Path, table: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "table.csv").write_text(table)
    rule = {"table": {"path": "table.csv", "key": "file", "value": "kind"}}
    scene = next(load_card(_folder(tmp_path, labels=rule, label_names=["oak", "pine"])).scenes())
    assert np.all(scene.labels_HW == -1)
    assert message in caplog.text if message else "no label" not in caplog.text


def test_numbers_in_a_table_are_remapped_as_yaml_writes_them(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("file,kind\na_1.npy,2\n")
    (tmp_path / "rows.csv").write_text("kind\n" + "1\n2\n3\n2\n1\n1\n")

    def labels(rule: dict[str, Any]) -> np.ndarray:
        rule = {**rule, "remap": {1: "pine", 2: 0}}
        return next(load_card(_folder(tmp_path, labels=rule, label_names=["oak", "pine"])).scenes()).labels_HW

    assert np.all(labels({"table": {"path": "table.csv", "key": "file", "value": "kind"}}) == 0)
    np.testing.assert_array_equal(labels({"rows": {"path": "rows.csv", "value": "kind"}}), [[1, 0, -1], [0, 1, 1]])


@pytest.mark.parametrize(
    ("fields", "message"),
    (
        ({"group": "{match}", "group_match": "a_"}, "group_match 'a_' has no bracket"),
        ({"group_match": "(a"}, "group_match '.a' is no regular expression"),
        ({"labels": {**LABELS, "remap": {"oak": "oak"}}, "label_names": ["oak"]}, "'oak' is no whole number"),
    ),
)
def test_patterns_and_numbers_are_checked_before_any_file(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_card(_folder(tmp_path, **fields))


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("number\n2\n", "bad.csv has no column 'band'"),
        ("band\ntwo\n", "bad.csv: row 1: the column band must hold 1-based band numbers"),
        ("band\n\xb5m\n", "bad.csv is no CSV in UTF-8"),
        ("band\n0\n", "bad band 0 is not among the 3 bands of"),
        ("band\n4\n", "bad band 4 is not among the 3 bands of"),
        ("\ufeffband\n2\n", None),
    ),
)
def test_a_table_of_bad_bands(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "bad.csv").write_bytes(text.encode("latin-1" if "\xb5" in text else "utf-8"))
    card = load_card(_folder(tmp_path, bad_bands="bad.csv"))
    if message is None:
        assert next(card.scenes()).sensor.bands.valid.tolist() == [True, False, True]
    else:
        with pytest.raises(SpecfmError, match=message):
            next(card.scenes())


@pytest.mark.parametrize(
    ("name", "message"), [("labels.png", "cannot be read as an image"), ("labels.tif", "not a readable raster")]
)
def test_pictures_of_labels_that_cannot_be_read_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("junk")
    card = load_card(_folder(tmp_path, labels={"path": name}, label_names=["oak"]))
    with pytest.raises(SpecfmError, match=f"{name}:? {message}"):
        next(card.scenes())


def test_scans_with_references_come_as_reflectance_wherever_a_card_is_used(tmp_path: Path) -> None:
    _folder(tmp_path)
    np.save(tmp_path / "white.npy", np.full((1, 3, 3), 1000.0))
    np.save(tmp_path / "dark.npy", np.full((1, 3, 3), 10.0))
    fields = {"path": "a_*.npy", "white": "white.npy", "dark": "dark.npy"}
    card = load_card(_folder(tmp_path, labels={"constant": "oak"}, label_names=["oak"], **fields))
    for raw, scene in card.scans():
        assert (scene.sensor.quantity, scene.sensor.scale) == ("surface_reflectance", 1e-4)
        np.testing.assert_allclose(scene.values(), (raw.read() - 10.0) / 990.0, atol=1e-4)
        assert scene.labels_HW is not None and scene.group == raw.group
    probed, *_ = card_scenes([str(tmp_path / "mine.yaml")])
    shared = next(iter(open_scenes([str(tmp_path / "mine.yaml")])))
    np.testing.assert_array_equal(probed.read(), shared.read())  # a probe and a map of one card see the same numbers


def test_dominant_class_follows_matlab_order() -> None:
    shares = np.zeros((2, 6))
    shares[0], shares[1] = [0.9, 0.2, 0.6, 0.1, 0.1, 0.1], [0.1, 0.8, 0.4, 0.9, 0.9, 0.9]
    labels = dominant_class(shares, (2, 3), 0.7, "shares")
    np.testing.assert_array_equal(labels, [[0, -1, 1], [1, 1, 1]])  # pixels run down the columns
    np.testing.assert_array_equal(dominant_class(shares.T, (2, 3), 0.7, "shares"), labels)
    with pytest.raises(SpecfmError, match="do not fit"):
        dominant_class(shares, (2, 4), 0.7, "shares")


def test_digest_is_checked(tmp_path: Path) -> None:
    path = _folder(tmp_path, path="a_1.npy", sha256={"a_1.npy": "0" * 64})
    with pytest.raises(SpecfmError, match="sha256 differs"):
        next(load_card(path).scenes())


def test_parts_inherit_the_keys_above_them(tmp_path: Path) -> None:
    parts = [{"path": "a_1.npy"}, {"path": "a_2.npy", "quantity": "dn"}]
    card = load_card(_folder(tmp_path, path=None, quantity="radiance", parts=parts))
    assert [scene.sensor.quantity for scene in card.scenes()] == ["radiance", "dn"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wavelenghts": "x.csv"}, "did you mean wavelengths"),
        (
            {"labels": {"path": "labels.npz", "varible": "x"}, "label_names": ["a"]},
            "did you mean parts.0.labels.variable",
        ),
        ({"labels": {"constant": "elm"}, "label_names": ["oak"]}, "'elm' is not in label_names"),
        ({"labels": {"constant": "oak"}}, "label_names"),
        ({"labels": {"path": "x.npz", "constant": "oak"}, "label_names": ["oak"]}, "exactly one"),
        ({"sensor": "emitt"}, "did you mean emit"),
        ({"sensor": "emit", "linear_nm": None, "removed_bands": "280-300"}, "beyond the 285 bands"),
        ({"bad_bands": None, "removed_bands": "3-1", "sensor": "emit"}, "empty"),
        ({"white": "w.npy"}, "both white and dark"),
        ({"quantity": "reflectance"}, "quantity"),
        ({"wavelength_trust": "sure"}, "wavelength_trust"),
        ({"domain": None}, "domain is missing"),
        ({"folder": "/"}, "unknown key folder"),
        ({"group": "{match}"}, "group_match"),
    ],
)
def test_bad_cards_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_card(_folder(tmp_path, **changes))
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_card_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="salinas_a"):
        load_card("salinas_b")


def test_missing_data_names_path_and_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_DATA", str(tmp_path))
    with pytest.raises(SpecfmError, match="SPECFM_DATA") as caught:
        next(load_card("salinas_a").scenes())
    assert "aviris_salinas_a/SalinasA_corrected.mat" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_missing_labels_are_an_error_not_an_unlabelled_scene(tmp_path: Path) -> None:
    card = load_card(_folder(tmp_path, labels=LABELS, label_names=["oak"]))
    with pytest.raises(SpecfmError, match="labels.npz"):
        next(card.scenes())


def test_band_ranges() -> None:
    assert band_ranges("1-3, 7") == [0, 1, 2, 6]
    for wrong in ("", "a-b", "5-2", "0-3"):
        with pytest.raises(ValueError):
            band_ranges(wrong)
