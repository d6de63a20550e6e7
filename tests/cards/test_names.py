"""Scenes of one data set never share a name, a group or an instance, however their files are laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from specfm.cards import load_card
from specfm.cards.names import scene_names
from specfm.cards.opening import card_scenes, open_scene, open_scenes
from specfm.errors import SpecfmError, UsageError
from specfm.shards import ShardSet
from specfm.shards.build import write_shards
from tests.shards.make import ramp_scene

SPECIMENS = ("specimen_a", "specimen_b", "specimen_c")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The usual folders of a lab: one per specimen, the files in each called alike."""
    for number, specimen in enumerate(SPECIMENS):
        folder = tmp_path / "scans" / specimen
        folder.mkdir(parents=True)
        np.save(folder / "raw.npy", np.arange(12 * 10 * 3, dtype=np.int16).reshape(12, 10, 3) + 1 + 50 * number)
        np.save(folder / "classes.npy", np.full((12, 10), number))
    return tmp_path


def card(folder: Path, **changes: Any) -> Path:
    fields = {"name": "leaves", "domain": "lab", "wavelength_trust": "high", "linear_nm": [500, 700, 3], **changes}
    path = folder / "leaves.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_unique_stems_stay_and_repeated_ones_get_their_folders() -> None:
    paths = [Path("d/a/raw.hdr"), Path("d/b/x/raw.hdr"), Path("e/leaf.tif"), Path("d/a/ok.hdr"), Path("d/ok.hdr")]
    assert scene_names(paths) == ["a/raw", "b/x/raw", "leaf", "a/ok", "ok"]
    assert scene_names([Path("lib.mat")] * 2 + [Path("one.mat")], arrays=["soil", "tree", None]) == [
        "lib/soil",
        "lib/tree",
        "one",
    ]
    for pair in ([Path("a.hdr"), Path("a.tif")], [Path("a.mat"), Path("a.mat")]):
        with pytest.raises(SpecfmError, match="would both be scene 'a'; leave one out"):
            scene_names(pair)


def test_a_card_of_folders_gives_every_specimen_its_name_and_group(lab: Path) -> None:
    labels = {"path": "scans/{parent}/classes.npy"}
    path = card(lab, path="scans/*/raw.npy", labels=labels, label_names=["oak", "elm", "ash"])
    scenes = list(load_card(path).scenes())
    assert [scene.name for scene in scenes] == [f"leaves/{specimen}/raw" for specimen in SPECIMENS]
    assert [scene.group for scene in scenes] == [scene.name for scene in scenes]
    assert [int(scene.labels_HW.max()) for scene in scenes] == [0, 1, 2]  # type: ignore[union-attr]
    by_parent = load_card(card(lab, path="scans/*/raw.npy", group="{parent}-{stem}")).scenes()
    assert [scene.group for scene in by_parent] == [f"{specimen}-raw" for specimen in SPECIMENS]
    assert open_scene(f"{path}:specimen_b/raw").name == "leaves/specimen_b/raw"
    with pytest.raises(UsageError, match="specimen_a/raw, specimen_b/raw"):
        open_scene(str(path))


@pytest.mark.parametrize(("named", "index"), [("Oak", 0), ("oak", 1), ("ELM", 2), ("OAK", -1)])
def test_a_table_in_other_capitals(lab: Path, named: str, index: int, caplog: pytest.LogCaptureFixture) -> None:
    """OAK may be Oak or oak: neither is guessed."""
    (lab / "species.csv").write_text("scene,species\n" + "".join(f"{each},{named}\n" for each in SPECIMENS))
    labels = {"table": {"path": "species.csv", "key": "scene", "match": "{parent}", "value": "species"}}
    path = card(lab, path="scans/*/raw.npy", labels=labels, label_names=["Oak", "oak", "elm"])
    for scene in load_card(path).scenes():
        assert set(np.unique(scene.labels_HW)) == {index}  # type: ignore[arg-type]
    assert ("carries no label: it is none of label_names" in caplog.text) == (index == -1)


def test_no_scene_is_opened_that_was_not_asked_for(lab: Path) -> None:
    path = card(lab, path="scans/*/raw.npy")
    for specimen in (SPECIMENS[0], SPECIMENS[2]):
        (lab / "scans" / specimen / "raw.npy").write_bytes(b"damaged")
    assert open_scene(f"{path}:specimen_b/raw").name == "leaves/specimen_b/raw"
    assert [scene.name for scene in card_scenes([str(path)], ["*/specimen_b/*"])] == ["leaves/specimen_b/raw"]
    with pytest.raises(UsageError, match="holds 3 scenes; name one of them as .*:SCENE"):
        open_scene(str(path))
    with pytest.raises(UsageError, match="has no scene 'specimen_z'"):
        open_scene(f"{path}:specimen_z")
    with pytest.raises(UsageError, match="is a card, which describes its files itself"):
        open_scene(f"{path}:specimen_b/raw", units="nm")
    with pytest.raises(UsageError, match=r"no scene of .* matches 'specimen_b\*'; see specfm inspect"):
        card_scenes([str(path)], ["specimen_b*"])
    with pytest.raises(SpecfmError, match="raw.npy"):
        card_scenes([str(path)])


def test_shards_of_namesakes_keep_them_apart(lab: Path) -> None:
    files = [str(lab / "scans" / specimen / "raw.npy") for specimen in SPECIMENS]
    options = {"reader": {"wavelengths": lab / "bands.csv"}, "domain": "lab"}
    (lab / "bands.csv").write_text("band,centre_nm,fwhm_nm\n1,500,5\n2,600,5\n3,700,5\n")
    scenes_of_card = open_scenes([str(card(lab, path="scans/*/raw.npy"))])
    for number, scenes in enumerate((open_scenes(files, **options), scenes_of_card)):  # type: ignore[arg-type]
        out = lab / f"shards-{number}"
        rows = write_shards(scenes, out, window=4, stride=2)
        assert len(rows) == 1 and rows[0]["scenes"] == 3
        shard = ShardSet(out).readers[0]
        assert len(set(shard.group_N.tolist())) == 3 and len(set(shard.group_names.values())) == 3
        instances = [set(shard.instance_id_N[shard.scene_id_N == number].tolist()) for number in range(3)]
        assert not instances[0] & instances[1] and not instances[1] & instances[2]
        assert len(instances[0]) == len(instances[2]) > 1


def test_files_and_scenes_that_no_name_tells_apart_are_refused(lab: Path) -> None:
    np.savez(lab / "scans" / "specimen_a" / "raw.npz", raw=np.zeros(3))
    with pytest.raises(SpecfmError, match=r"card leaves: .*raw.npy and .*raw.npz would both be scene"):
        list(load_card(card(lab, path="scans/specimen_a/raw.*")).scenes())
    with pytest.raises(UsageError, match="two scenes of domain 'ramp' are called 'ramp'"):
        write_shards([ramp_scene(), ramp_scene()], lab / "out", window=4)
    assert not (lab / "out").exists()


def test_dates_called_alike_are_paired_by_their_stem(lab: Path) -> None:
    parts = [
        {"path": "scans/specimen_a/raw.npy", "date": "2001-05-03"},
        {"path": "scans/specimen_b/raw.npy", "date": "2002-05-03"},
    ]
    with pytest.raises(SpecfmError, match=r'group: "\{stem\}"'):
        load_card(card(lab, task="change", parts=parts)).pairs()
    pairs = load_card(card(lab, task="change", parts=parts, group="{stem}")).pairs()
    assert [scene.name for scene in pairs[0]] == ["leaves/specimen_a/raw", "leaves/specimen_b/raw"]


def test_a_path_may_be_a_list_a_folder_or_absolute_and_a_pattern_takes_a_cube_once(lab: Path) -> None:
    header = "ENVI\nsamples = 4\nlines = 2\nbands = 3\ndata type = 2\ninterleave = bip\n"
    for folder in (lab / "scans" / each for each in SPECIMENS):
        (folder / "classes.npy").unlink()
        (folder / "leaf.hdr").write_text(header)
        (folder / "leaf.raw").write_bytes(bytes(48))
        (folder / "leaf.png").write_bytes(b"a picture beside")
    one, two, three = (f"scans/{each}" for each in SPECIMENS)
    names = [f"{each}/leaf" for each in SPECIMENS]
    for path in (
        "scans/*/leaf.*",
        str(lab / "scans/*/leaf.*"),
        [f"{one}/leaf.hdr", f"{two}/leaf.raw", f"{three}/leaf.*"],
    ):
        assert load_card(card(lab, path=path)).names() == names
    assert load_card(card(lab, path=one)).names() == ["leaf", "raw"]
    parts = [{"path": [one, two], "group": "young"}, {"path": f"{three}/raw.npy"}]
    made = load_card(card(lab, path=None, parts=parts))
    assert [part.group for part in made.parts] == ["young", "young", "{card}/{scene}"]
    assert len(list(made.scenes())) == 5


def test_a_folder_of_folders_says_where_the_cubes_are(lab: Path) -> None:
    with pytest.raises(SpecfmError, match=r"in folders below it .*classes.npy.*path: .*scans/\*/classes.npy"):
        list(open_scenes([str(lab / "scans")]))
    (lab / "empty").mkdir()
    with pytest.raises(SpecfmError, match="no cube files in this folder$"):
        list(open_scenes([str(lab / "empty")]))
