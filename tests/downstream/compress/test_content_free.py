"""Doing without content: a student gives its teacher's tokens on ground it never saw, and its bands are one matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import specfm
from downstream.compress.content_free import Field, content_free, without_content
from downstream.supervised.folder import save_task
from downstream.supervised.model import CHANGE_NAMES, TaskModel
from specfm.deploy.bake import bake
from specfm.errors import UsageError
from specfm.models.embeddings import FixedEmbedding
from specfm.scene import Scene
from tests.deploy.make import SENSOR, encoder
from tests.downstream.tasks.toys import field_card, scene
from tests.downstream.toy_scenes import field

TILE = 6


@pytest.mark.parametrize("kind", ["hyper-light", "hyper-joint"])
def test_a_student_learns_the_tokens_of_ground_it_never_saw(kind: str) -> None:
    teacher = encoder(kind)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student, told = content_free(teacher, [field(40, 30)], TILE, level="scene", steps=60)
    assert told["error"] < 0.5 * told["error_dropped"] and told["cosine"] > told["cosine_dropped"] > 0
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    baked, _ = bake(student, SENSOR)
    assert isinstance(baked.embedding, FixedEmbedding) and student.config["content"] is False
    again, same = content_free(teacher, [field(40, 30)], TILE, level="scene", steps=60)
    assert same == told


def test_content_that_says_nothing_is_left_out_as_it_is() -> None:
    teacher = specfm.create_encoder("nano", patch_size=2, dim=24, depth=1, heads=2).eval()
    student, told = content_free(teacher, [field(40, 30)], TILE, level="sample")
    assert told["steps"] == 0 and told["error"] < 1e-5
    names = set(student.state_dict())
    assert all(torch.equal(v, student.state_dict()[n]) for n, v in teacher.state_dict().items() if n in names)


def test_the_strip_is_not_learnt_from() -> None:
    rows_HW = np.broadcast_to(np.arange(40.0)[:, None, None], (40, 30, 12)).astype(np.float32)
    cut = Field(Scene.from_array(rows_HW, SENSOR, name="rows"), TILE, "sample")
    learnt = {int(v) for _ in range(40) for v in cut.drawn(8, np.random.default_rng(3)).x_BHWC[..., 0].unique()}
    held = {int(v) for view in cut.looked_at(8) for v in view.x_BHWC[..., 0].unique()}
    assert held == set(range(32, 40)) and max(learnt) < 32 and cut.level is None
    with pytest.raises(UsageError, match="small: 10 x 9 pixels leave no room .*--content-free"):
        Field(Scene.from_array(rows_HW[:10, :9], SENSOR, name="small"), TILE, "sample")


def test_what_cannot_do_without_content_says_so() -> None:
    for kind, words in (
        ("hyper-metadata", "does not look at content"),
        ("basis", "does not look at content"),
        ("timm:resnet10t", "does not look at content"),
        ("specaware", "embedding specaware cannot do without content"),
        ("spectral_attention", "embedding spectral_attention cannot do without content"),
    ):
        with pytest.raises(UsageError, match=words):
            without_content(encoder(kind))
    change = TaskModel(encoder("hyper-light"), "change", CHANGE_NAMES, TILE)
    with pytest.raises(UsageError, match="takes two"):
        content_free(change, [field()], TILE, level="scene")
    hole = Scene.from_array(np.full((40, 30, 12), np.nan, np.float32), SENSOR, name="hole")
    with pytest.raises(UsageError, match="hole: has no valid pixel"):
        content_free(encoder("hyper-light"), [hole], TILE, level="sample")


def test_pixel_tokens_are_learnt_too() -> None:
    teacher = encoder("pixel-tokens", content="light")
    student, told = content_free(teacher, [field(40, 30)], TILE, level="sample", steps=30)
    assert told["error"] < told["error_dropped"] and student.pixel


@pytest.mark.slow
def test_exporting_without_content(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    card = str(field_card(tmp_path / "data"))
    ground = scene(np.zeros((9, 9), int))
    model = TaskModel(encoder("hyper-light"), "segmentation", ("a", "b", "c"), TILE)
    torch.nn.init.normal_(model.head.score.weight, std=0.3)
    save_task(model, tmp_path / "task", {"sensors": [ground.sensor.name]})
    specfm.save(model.encoder, tmp_path / "encoder")
    with pytest.raises(UsageError, match="--content-free is for the bands of one sensor"):
        specfm.export(tmp_path / "task", out=tmp_path / "a.onnx", content_free=[card])
    with pytest.raises(UsageError, match="baked for 285"):
        specfm.export(tmp_path / "task", out=tmp_path / "a.onnx", sensor="emit", content_free=[card])
    for name, more in (("task", {"agreement", "confidence"}), ("encoder", set())):
        whole = specfm.export(tmp_path / name, out=tmp_path / "whole.onnx", sensor=card, overwrite=True)
        found = specfm.export(
            tmp_path / name, out=tmp_path / f"{name}.onnx", sensor=card, content_free=[card], content_free_steps=40,
            tile=TILE,
        )  # fmt: skip
        told = specfm.deploy.runtime.Deployed(found.path).facts.student
        assert told == found.facts.student and told["error"] < told["error_dropped"]
        assert set(told) == {"steps", "error", "cosine", "error_dropped", "cosine_dropped", *more}
        assert found.size < whole.size and not whole.facts.student
    assert specfm.inspect(tmp_path / "task.onnx").rows[0]["without_content"]["agreement"] > 0.8
