"""Training tiles: they never show a pixel of another side, they see rare classes and borders, and follow the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from downstream.supervised.model import HeadSpec, TaskModel
from downstream.supervised.views import turn
from downstream.tasks.config import FinetuneConfig
from downstream.tasks.data import Crops, cut_raster, label_rasters, make_place, make_samples, near_border
from downstream.tasks.evaluate import best_threshold, predict_samples
from specfm import create_encoder
from specfm.errors import SpecfmError, UsageError
from tests.downstream.tasks.toys import COARSE, NAMES, blocks, config, scene


def wide(seed: int = 0, side: int = 60) -> np.ndarray:
    """Two common classes and a rare one in a few places."""
    rng = np.random.default_rng(seed)
    labels = blocks(side, side, 12, 2, rng)
    for row, col in [(5, 5), (30, 50), (50, 20), (55, 55), (12, 40), (40, 8)]:
        labels[row : row + 2, col : col + 2] = 2
    return labels


def crops_of(tmp_path, labels: np.ndarray, task: str = "segmentation", **data: object):
    settings = config(tmp_path / "run", tmp_path / "none.yaml", task, data=data, split={"block": 12, "min_groups": 2})
    places = [make_place([scene(labels, name="one")])]
    samples, splits = make_samples(places, settings)
    split = splits[0]
    rasters = label_rasters(places, samples, split.train_I, split.classes)
    return Crops(places, rasters, len(split.classes), settings), places, samples, split, settings


@pytest.mark.parametrize(("task", "tile"), [("segmentation", 6), ("segmentation", 9), ("classification", 9)])
def test_no_training_tile_shows_a_pixel_of_another_side(tmp_path, task: str, tile: int) -> None:
    crops, places, samples, split, _ = crops_of(tmp_path, wide(), task, tile=tile)
    held = np.zeros(places[0].shape, bool)
    others = samples.rc_N2[np.concatenate([split.val_I, split.test_I])]
    held[others[:, 0], others[:, 1]] = True
    assert held.sum() > 500
    for step in range(60):
        for part in crops(step):
            for row, col in part.corners:
                assert not held[max(row, 0) : row + tile, max(col, 0) : col + tile].any()


def test_labels_turn_with_their_tile(tmp_path) -> None:
    """The class can be read off the spectrum, so labels and values must still belong together."""
    crops, *_ = crops_of(tmp_path, wide())
    seen = 0
    for step in range(5):
        for part in crops(step):
            x, labels = part.views[0].x_BHWC.numpy(), part.labels.numpy()
            nm = part.views[0].bands.wavelengths_nm_GC[0].numpy()
            peak = nm[x.argmax(-1)]
            guess = np.abs(peak[..., None] - np.array([600.0, 900.0, 1700.0])).argmin(-1)
            known = labels >= 0
            seen += known.sum()
            assert (guess[known] == labels[known]).all()
    assert seen > 300


def test_crops_are_a_function_of_the_step(tmp_path) -> None:
    crops, *_ = crops_of(tmp_path, wide())
    again, *_ = crops_of(tmp_path, wide())
    assert torch.equal(crops(7)[0].views[0].x_BHWC, again(7)[0].views[0].x_BHWC)
    assert not torch.equal(crops(7)[0].views[0].x_BHWC, crops(8)[0].views[0].x_BHWC)


def test_rare_classes_and_borders_are_seen_more_often(tmp_path) -> None:
    even = crops_of(tmp_path, wide(), crops={"rare": 0.0, "boundary": 0.0})[0]
    rare = crops_of(tmp_path, wide(), crops={"rare": 1.0, "boundary": 0.0})[0]
    border = crops_of(tmp_path, wide(), crops={"rare": 0.0, "boundary": 1.0})[0]
    share = [c.share_M[c.label_M == 2].sum() / c.share_M.sum() for c in (even, rare)]
    assert share[0] < 0.05 and share[1] == pytest.approx(1 / 3)
    near = near_border(border.rasters[0], 3)[border.rc_M2[:, 0], border.rc_M2[:, 1]]
    assert border.share_M[near].sum() == pytest.approx(1) and 0 < near.mean() < 0.95


def test_class_weights(tmp_path) -> None:
    crops = crops_of(tmp_path, wide())[0]
    balanced, root, none = (crops.class_weights(how).numpy() for how in ("balanced", "sqrt", "none"))
    assert balanced * crops.counts_K == pytest.approx(np.full(3, balanced[0] * crops.counts_K[0]))
    assert (root**2)[2] / (root**2)[0] == pytest.approx(balanced[2] / balanced[0]) and none.tolist() == [1, 1, 1]


def test_near_border_and_cuts() -> None:
    labels = np.full((6, 9), -1)
    labels[:, :3], labels[:, 5:] = 0, 1
    assert np.flatnonzero(near_border(labels, 3)[0]).tolist() == [2, 5]  # 2 to 5 are three apart
    cut = cut_raster(labels, -2, 7, 4)
    assert (cut[:2] == -1).all() and cut[2:, :2].tolist() == [[1, 1], [1, 1]] and (cut[:, 2:] == -1).all()
    assert len({turn(np.arange(6).reshape(2, 3), k).tobytes() for k in range(8)}) == 8


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"split": {"guard": 4}}, "split.guard 4 is below data.tile - 1 = 5"),
        ({"split": {"rule": "random_pixels"}}, "leaks in task segmentation"),
        ({"data": {"tyle": 6}}, "unknown key data.tyle; did you mean data.tile"),
        ({"optim": {"layer_deca": 0.5}}, "did you mean optim.layer_decay"),
        ({"data": {"crops": {"rare": 0.8, "boundary": 0.4}}}, "at most 1"),
        ({"data": {"second_sensor": "enmap"}}, "second_sensor is for task change"),
        ({"optim": {"min_lr": 1.0}}, "above optim.lr"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(tmp_path, sections: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(tmp_path / "run", tmp_path / "card.yaml", "segmentation", **sections)


def test_classes_too_small_to_split(tmp_path) -> None:
    """A class with one sample is left out and said so; where too few are left, that is refused."""
    labels = wide()
    labels[labels == 2] = 0
    labels[30, 30] = 2
    *_, split, _ = crops_of(tmp_path, labels)
    assert split.classes == (0, 1) and any("1 samples in 1 blocks" in notice for notice in split.notices)
    lonely = np.zeros((24, 24), int)
    lonely[3, 3] = 1
    with pytest.raises(SpecfmError, match=r"only 1 class\(es\)"):
        crops_of(tmp_path, lonely)


def test_two_dates_of_different_extent_are_refused() -> None:
    with pytest.raises(
        SpecfmError, match="a and b are not on one grid: they differ in extent .24 x 24 and 24 x 30 pixels."
    ):
        make_place([scene(np.zeros((24, 24), int), name="a"), scene(np.zeros((24, 30), int), COARSE, name="b")])


def test_a_split_file_of_other_data_is_refused(tmp_path) -> None:
    from downstream.splits.split import save_split

    *_, split, settings = crops_of(tmp_path, wide())
    save_split(split, tmp_path / "split.json")
    given = FinetuneConfig(**{**settings.model_dump(), "split": {"files": str(tmp_path / "split.json")}})
    again = make_samples([make_place([scene(wide(), name="one")])], given)[1][0]
    assert again.digest == split.digest
    with pytest.raises(SpecfmError, match="was made for other data"):
        make_samples([make_place([scene(wide(seed=1), name="one")])], given)
    wider = given.model_copy(update={"data": given.data.model_copy(update={"tile": 12})})
    with pytest.raises(SpecfmError, match="guards windows of 6 pixels; the window here is 12"):
        make_samples([make_place([scene(wide(), name="one")])], wider)


def test_every_asked_pixel_is_predicted(tmp_path) -> None:
    _, places, samples, split, _ = crops_of(tmp_path, wide(side=31))
    torch.manual_seed(0)
    model = TaskModel(
        create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3), "segmentation", NAMES[:3], 6, HeadSpec()
    )
    found = predict_samples(model, places, samples, split.test_I, batch=7)
    assert found.sum(1) == pytest.approx(np.ones(len(split.test_I)), abs=1e-5)
    turned = predict_samples(model, places, samples, split.test_I[::-1], batch=64)[::-1]
    assert np.allclose(found, turned, atol=1e-5)


def test_the_best_threshold_is_the_best() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        score, changed = rng.integers(0, 12, 30) / 10, rng.random(30) < 0.3
        threshold, f1 = best_threshold(score, changed)

        def at(cut: float, score=score, changed=changed) -> float:
            found = score > cut
            return 2 * (found & changed).sum() / max(found.sum() + changed.sum(), 1)

        assert at(threshold) == pytest.approx(f1) and f1 == pytest.approx(max(at(c) for c in [-1.0, *score]))
