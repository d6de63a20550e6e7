"""One vector a specimen: the mean over its own pixels or one whole view, whatever the batch, as CSV and npy."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import specfm
from specfm.cli import app
from specfm.dense.memory import embed_scene
from specfm.dense.per_specimen import COLUMNS, embed_specimens
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import pretreat
from specfm.simulate import write_specimens
from specfm.specimens import find_specimens, whole_view, whole_views
from tests.test_specimens import drawer


@pytest.fixture(scope="module")
def encoder() -> specfm.Encoder:
    torch.manual_seed(0)
    return specfm.create_encoder("nano", patch_size=4, dim=48, depth=1, heads=3).eval()


def test_a_vector_is_the_mean_over_the_pixels_of_the_specimen(encoder: specfm.Encoder) -> None:
    scene = drawer()
    dense_hwD = embed_scene(encoder, scene).features_hwD
    by_pixel = dense_hwD.repeat(4, 0).repeat(4, 1)[:40, :50]
    found = embed_specimens(encoder, find_specimens(scene))
    for number, vector in zip((1, 4), found.vectors_ND, strict=True):
        assert np.allclose(vector, by_pixel[scene.groups_HW == number].mean(0), atol=1e-5)
    first = {"specimen": "drawer#1", "scene": "drawer", "group": "drawer", "label": "c", "pixels": 189}
    rows, cols = np.nonzero(scene.groups_HW == 1)
    middle = {"row": (rows.min() + rows.max() + 1) // 2, "col": (cols.min() + cols.max() + 1) // 2}
    assert found.rows[0] == {**first, **middle}


def test_pixels_that_a_pretreatment_leaves_nothing_of_are_passed_over(encoder: specfm.Encoder) -> None:
    scene = drawer("float32")
    scene.source.cube_HWC[5:10, 12:24] = 7.0  # flat: no standard normal variate
    treated = pretreat(scene, ["snv"])
    found = embed_specimens(encoder, find_specimens(treated)).vectors_ND
    assert np.isfinite(found).all()
    by_pixel = embed_scene(encoder, treated).features_hwD.repeat(4, 0).repeat(4, 1)[:40, :50]
    assert np.allclose(found[0], np.nanmean(by_pixel[scene.groups_HW == 1], 0), atol=1e-5)
    scene.source.cube_HWC[scene.groups_HW == 1] = 7.0
    with pytest.raises(SpecfmError, match="drawer#1: no pixel is left of it that an encoder can see"):
        embed_specimens(encoder, find_specimens(treated))


def test_a_whole_view_is_one_forward_pass_that_sees_nothing_else(encoder: specfm.Encoder) -> None:
    scene, other = drawer(), drawer()
    other.source.cube_HWC[other.groups_HW < 0] = 1  # another card
    first, second = (embed_specimens(encoder, find_specimens(each), whole=32).vectors_ND for each in (scene, other))
    assert np.array_equal(first, second)
    view = whole_views([scene], 32)[0]
    with torch.inference_mode():
        alone = encoder(view.read().astype(np.float32)[None], view.sensor, torch.from_numpy(view.mask())[None])
    assert np.allclose(first[0], alone.pooled_BD[0].numpy(), atol=1e-5)
    with pytest.raises(UsageError, match="a view of 30 pixels is not a multiple of the encoder's patch of 4; try"):
        embed_specimens(encoder, find_specimens(scene), whole=30)


@pytest.mark.parametrize("whole", [None, 32])
def test_chunks_give_equal_vectors(encoder: specfm.Encoder, whole: int | None) -> None:
    scene = drawer()
    scene = scene.replace(sensor=scene.sensor.replace(gsd_m=1e-4))  # of views of two sizes, two distances
    specimens = find_specimens(scene)
    one, many = (embed_specimens(encoder, specimens, whole=whole, batch_size=size).vectors_ND for size in (1, 64))
    assert np.allclose(one, many, atol=2e-6)
    if whole is not None:
        seen = [whole_view(each, whole) for each in specimens]
        assert len({view.sensor.gsd_m for view in seen}) == 2
        with torch.inference_mode():
            alone = [encoder(view.read()[None].astype(np.float32), view.sensor, view.mask()[None]) for view in seen]
        assert np.allclose(many, np.concatenate([found.pooled_BD.numpy() for found in alone]), atol=2e-6)


def test_files(tmp_path: Path, encoder: specfm.Encoder) -> None:
    found = embed_specimens(encoder, find_specimens(drawer()), facts={"note": "x"})
    assert found.write(tmp_path / "v.csv") == [tmp_path / "v.csv"]
    lines = list(csv.reader((tmp_path / "v.csv").open()))
    assert lines[0] == [*COLUMNS, *(f"f{i + 1}" for i in range(48))]
    assert [line[0] for line in lines[1:]] == ["drawer#1", "drawer#4"]
    numbers = np.array([[float(v) for v in line[len(COLUMNS) :]] for line in lines[1:]], np.float32)
    assert np.array_equal(numbers, found.vectors_ND)
    assert found.write(tmp_path / "v.npy") == [tmp_path / "v.npy", tmp_path / "v.json"]
    assert np.array_equal(np.load(tmp_path / "v.npy", allow_pickle=False), found.vectors_ND)
    facts = json.loads((tmp_path / "v.json").read_text())
    assert facts["note"] == "x" and [row["specimen"] for row in facts["specimens"]] == ["drawer#1", "drawer#4"]
    with pytest.raises(UsageError, match="v.csv"):
        found.write(tmp_path / "v.csv")
    with pytest.raises(UsageError, match=".csv or .npy"):
        found.write(tmp_path / "v.tif")


def test_command(tmp_path: Path, encoder: specfm.Encoder) -> None:
    from specfm.checkpoint import save

    save(encoder, tmp_path / "model")
    card = write_specimens(tmp_path / "set", 2, 2, (32, 32))

    def call(*words: str) -> object:
        return CliRunner().invoke(app, ["embed", str(tmp_path / "model"), *words])

    done = call(str(card), "--per", "specimen", "--out", str(tmp_path / "a.csv"))
    assert done.exit_code == 0 and "4 specimens, 48 features each" in done.output, done.output
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["label"] for row in rows] == ["ultraviolet_a"] * 2 + ["ultraviolet_b"] * 2
    files = [str(tmp_path / "set" / f"ultraviolet_a_0{k}.hdr") for k in (0, 1)]
    threshold = ["--object-threshold", "otsu", "--dark-objects", "--whole", "32", "--bands", "uniform:20"]
    done = call(*files, "--per", "specimen", "--out", str(tmp_path / "b.npy"), *threshold)
    assert done.exit_code == 0 and np.load(tmp_path / "b.npy").shape == (2, 48), done.output
    assert json.loads((tmp_path / "b.json").read_text())["bands"] == "uniform:20"
    for words, said in (
        ([*files, "--out", "c.npy"], "give one scene"),
        ([files[0], "--dark-objects", "--out", "c.npy"], "and --dark-objects are for --per specimen"),
        *(
            ([files[0], "--per", "specimen", "--whole", "32", *tiles, "--out", "c.npy"], "are of tiles")
            for tiles in (("--window", "32"), ("--stride", "8"), ("--level", "sample"))
        ),
        ([files[0], "--per", "wing", "--out", "c.npy"], "give patch or specimen"),
        ([files[0], "--per", "specimen", "--out", "c.tif"], ".csv or .npy"),
        ([files[0], "--per", "specimen", "--even", "--out", "c.csv"], "leave them out with --per specimen"),
    ):
        done = call(*words)
        assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output
