"""Task models: what they return per pixel, two dates from two sensors, and the folder they are released as."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import specfm
from downstream.features.pooling import encode
from downstream.supervised.folder import load_task, save_task
from downstream.supervised.heads import FUSIONS
from downstream.supervised.model import CHANGE_NAMES, HeadSpec, TaskModel
from downstream.supervised.views import View
from specfm.checkpoint import FILES
from specfm.errors import SpecfmError, UsageError
from specfm.files import IntegrityError
from tests.downstream.tasks.toys import COARSE, FINE
from tests.test_library import library

DENSE = [HeadSpec("linear"), HeadSpec("fpn", (0, 1), 16), HeadSpec("upernet", (0, 1), 16)]
POOLED = [HeadSpec(kind, pooling=p) for kind in ("linear", "pooled") for p in ("mean", "centre", "concat")]
HEADS = [("classification", head) for head in POOLED]
HEADS += [("segmentation", head) for head in DENSE]
HEADS += [("change", HeadSpec("linear", fusion=fusion)) for fusion in FUSIONS] + [("change", DENSE[2])]
IDS = [f"{task}-{h.kind}-{h.fusion if task == 'change' else h.pooling}" for task, h in HEADS]


def made(task: str = "segmentation", head: HeadSpec | None = None, tile: int = 12, **options: object) -> TaskModel:
    torch.manual_seed(1)
    encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3, code_width=32)
    names = CHANGE_NAMES if task == "change" else ("a", "b", "c")
    model = TaskModel(encoder, task, names, tile, head, **options).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tiles(sensor: specfm.Sensor = FINE, side: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + torch.rand(2, side, side, len(sensor.bands), generator=generator)


def second(task: str) -> tuple[object, ...]:
    return (tiles(COARSE, seed=5), COARSE) if task == "change" else (None, None)


@pytest.mark.parametrize(("task", "head"), HEADS, ids=IDS)
def test_probabilities_of_every_pixel(task: str, head: HeadSpec) -> None:
    """The second date of a pair comes from another sensor."""
    model, x = made(task, head), tiles()
    mask = torch.ones(2, 12, 12, dtype=torch.bool)
    mask[0, :5, 3:] = False
    x[1, 7, 2, 0] = torch.nan
    found = model.predict_tile(x, FINE, mask, None, *second(task))
    assert found.shape == (2, 12, 12, model.classes) and found.dtype == torch.float32
    valid = mask.clone()
    valid[1, 7, 2] = False
    assert torch.equal(found.sum(-1) > 0, valid)
    assert torch.allclose(found.sum(-1)[valid], torch.ones(int(valid.sum())), atol=1e-5)
    assert found[valid].std(0).min() > 1e-4  # it does depend on the pixel
    numpy = [a.numpy() if isinstance(a, torch.Tensor) else a for a in (x, FINE, mask, None, *second(task))]
    assert torch.equal(model.predict_tile(*numpy), found)  # type: ignore[arg-type]


@pytest.mark.parametrize(("task", "head"), HEADS, ids=IDS)
def test_what_is_invalid_does_not_count(task: str, head: HeadSpec) -> None:
    model, x, mask = made(task, head), tiles(), torch.ones(2, 12, 12, dtype=torch.bool)
    mask[:, 4:9, 1:7] = False
    dirty = torch.where(mask[..., None], x, torch.tensor(1e6))
    dirty[:, 5, 5] = torch.nan
    clean = model.predict_tile(x, FINE, mask, None, *second(task))
    assert torch.equal(model.predict_tile(dirty, FINE, mask, None, *second(task)), clean)


def test_a_pixel_invalid_at_either_date_is_invalid() -> None:
    model, other = made("change"), torch.ones(2, 12, 12, dtype=torch.bool)
    other[:, 3, 4] = False
    found = model.predict_tile(tiles(), FINE, None, None, tiles(COARSE), COARSE, other)
    assert (found.sum(-1) == 0).nonzero()[:, 1:].tolist() == [[3, 4], [3, 4]]


@pytest.mark.parametrize("head", POOLED, ids=lambda head: f"{head.kind}-{head.pooling}")
def test_classification_gives_each_pixel_the_class_of_its_token(head: HeadSpec) -> None:
    """The labelled pixel in the middle gets the class of the window (of which a mean alone knows nothing)."""
    model, x = made("classification", head, tile=9), tiles(side=9)
    model.fit_standardiser([View(x, FINE)])
    dense = model.predict_tile(x, FINE)
    patches = dense.unflatten(1, (3, 3)).unflatten(3, (3, 3))
    assert torch.allclose(patches, patches[:, :, :1, :, :1].expand_as(patches), atol=1e-6)
    with torch.inference_mode():
        window = model(View(x, FINE)).softmax(1)
    assert torch.allclose(dense[:, 4, 4], window, atol=1e-6) == (head.pooling != "mean")


def test_tiles_of_any_side() -> None:
    model = made("segmentation", DENSE[1])
    assert model.predict_tile(tiles(side=7), FINE).shape == (2, 7, 7, 3)


def test_the_level_can_be_the_scenes() -> None:
    """One brightness for all tiles: a tile twice as bright is then another tile."""
    model, x = made(), tiles()
    own = model.predict_tile(x, FINE), model.predict_tile(2 * x, FINE)
    assert torch.allclose(*own, atol=1e-4)
    fixed = [model.predict_tile(k * x, FINE, None, torch.full((2,), 0.5)) for k in (1, 2)]
    assert not torch.allclose(*fixed, atol=1e-3)


def test_dates_that_do_not_fit_are_refused() -> None:
    change, x = made("change"), tiles()
    with pytest.raises(SpecfmError, match="different extents .12 x 12 and 9 x 9"):
        change.predict_tile(x, FINE, x2_BHWC=tiles(side=9), bands2=FINE)
    with pytest.raises(SpecfmError, match="needs a second date"):
        change.predict_tile(x, FINE)
    with pytest.raises(SpecfmError, match="needs its own bands"):
        change.predict_tile(x, FINE, x2_BHWC=x)
    with pytest.raises(SpecfmError, match="segmentation model takes one date"):
        made().predict_tile(x, FINE, x2_BHWC=x, bands2=FINE)


def test_decisions() -> None:
    model = made("change", threshold=0.7)
    chances = np.array([[0.4, 0.6], [0.2, 0.8], [0.0, 0.0]])
    assert model.decide(chances).tolist() == [0, 1, -1]
    assert made().decide(np.array([[0.1, 0.2, 0.7], [0.0, 0.0, 0.0]])).tolist() == [2, -1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "regression"}, "unknown task"),
        ({"tile": 10}, "not a multiple of the encoder's patch of 3"),
        ({"head": HeadSpec("pyramid")}, "unknown head 'pyramid'"),
        ({"head": HeadSpec("pooled")}, "head.kind=pooled gives one class to a window; choose linear"),
        ({"task": "classification", "head": HeadSpec(pooling="median")}, "unknown pooling 'median'"),
        ({"tile": 1}, "tile 1 is not a multiple"),
        ({"task": "classification", "tile": 0}, "tile 0 is not a multiple"),
        ({"head": HeadSpec(layers=(5,))}, "do not exist in an encoder of 2 blocks"),
        ({"task": "classification", "head": HeadSpec("fpn")}, "classification takes head.kind=linear"),
        ({"task": "change", "head": HeadSpec(fusion="sum")}, "unknown fusion"),
        ({"level": "world"}, "unknown level"),
    ],
)
def test_models_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**change)


@pytest.mark.parametrize(
    ("task", "kind"),
    [("classification", "linear"), ("classification", "pooled"), ("segmentation", "linear"), ("change", "linear")],
)
def test_round_trip(task: str, kind: str, tmp_path) -> None:
    model = made(task, HeadSpec(kind), threshold=0.25 if task == "change" else None, level="sample")
    dates = [[View(tiles(), FINE)], [View(tiles(COARSE), COARSE)]]
    model.fit_standardiser(*(dates if task == "change" else dates[:1]))
    save_task(model, tmp_path / "model", {"split": "abc"})
    assert {p.name for p in (tmp_path / "model").iterdir()} == {*FILES, "MANIFEST.json"}
    again = load_task(tmp_path / "model", task=task)
    assert (again.label_names, again.tile, again.threshold, again.level) == (
        model.label_names,
        12,
        model.threshold,
        "sample",
    )
    assert again.card == {"split": "abc"} and not again.training
    a, b = (m.predict_tile(tiles(), FINE, None, None, *second(task)) for m in (model, again))
    assert torch.equal(a, b)
    with pytest.raises(UsageError, match="exists"):
        save_task(model, tmp_path / "model")


def test_a_model_on_an_aligned_encoder_takes_its_spectra_along(tmp_path) -> None:
    torch.manual_seed(0)
    encoder = specfm.create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3, code_width=32, aligned=True)
    encoder.library = library()
    model = TaskModel(encoder, "segmentation", ("a", "b"), 12).train().eval()
    save_task(model, tmp_path / "model")
    again = load_task(tmp_path / "model")
    assert again.encoder.alignment is not None and again.library.digest == encoder.library.digest
    one, two = (m.predict_tile(tiles(), FINE) for m in (model, again))
    assert torch.equal(one, two)
    again.encoder.align(False)
    assert not torch.equal(again.predict_tile(tiles(), FINE), one)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_refused(file: str, tmp_path) -> None:
    save_task(made(), tmp_path / "model")
    data = bytearray((tmp_path / "model" / file).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model" / file).write_bytes(data)
    with pytest.raises(IntegrityError, match=file):
        load_task(tmp_path / "model")


def test_other_kinds_of_model_are_refused(tmp_path) -> None:
    model = made("change")
    save_task(model, tmp_path / "task")
    specfm.save(model.encoder, tmp_path / "encoder")
    with pytest.raises(SpecfmError, match="holds a change model, not a segmentation model"):
        load_task(tmp_path / "task", task="segmentation")
    with pytest.raises(SpecfmError, match="holds an encoder, not a task model"):
        load_task(tmp_path / "encoder")
    with pytest.raises(SpecfmError, match="holds a task model, not an encoder"):
        specfm.load(tmp_path / "task")
    with pytest.raises(SpecfmError, match="is not a folder"):
        load_task(tmp_path / "nothing")


def test_standardised_features_have_deviation_one_at_each_date() -> None:
    """So what differs between the dates everywhere (season, sensor) is taken out."""
    model, one, two = made("change"), View(tiles(), FINE), View(tiles(COARSE, seed=2), COARSE)
    model.fit_standardiser([one], [two])
    for date, view in enumerate((one, two)):
        tokens = model.standardise(model.layer_features(view)[0].tokens_BND, date).flatten(0, 1)
        assert tokens.mean(0).abs().max() < 1e-3 and (tokens.std(0, correction=0) - 1).abs().max() < 1e-3


def test_nothing_to_standardise_by() -> None:
    with pytest.raises(SpecfmError, match="no valid pixel in the training tiles"):
        made().fit_standardiser([View(tiles(), FINE, torch.zeros(2, 12, 12, dtype=torch.bool))])


@pytest.mark.parametrize("pooling", ["mean", "centre", "mean+centre"])
def test_a_pooled_head_standardises_what_a_probe_takes(pooling: str) -> None:
    """The features of a frozen probe, to the last bit, then mean 0 and deviation 1 of every one of them."""
    model, x = made("classification", HeadSpec("pooled", pooling=pooling)), torch.cat([tiles(seed=s) for s in range(9)])
    mask = torch.ones(x.shape[:3], dtype=torch.bool)
    mask[3] = False  # a window without data: not counted
    model.fit_standardiser([View(x, FINE, mask)])
    with torch.inference_mode():
        pooled = model.pooled(View(x, FINE, mask))
        assert torch.equal(pooled, encode(model.encoder, x, FINE, mask, pooling, 12))
        known = model.standardise(pooled)[mask.any((1, 2))]
    assert known.shape == (17, 48 * len(pooling.split("+")))
    assert known.mean(0).abs().max() < 1e-4 and (known.std(0, correction=0) - 1).abs().max() < 1e-3


def test_a_window_of_one_pixel_is_a_patch_padded() -> None:
    model = made("classification", HeadSpec("pooled"), tile=1)
    found = model.predict_tile(tiles(side=1), FINE)
    assert found.shape == (2, 1, 1, 3) and torch.allclose(found.sum(-1), torch.ones(2, 1, 1))
