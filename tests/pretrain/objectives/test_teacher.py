"""Distillation without labels: the loss by its formula, a teacher that stays, and a student that comes closer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import specfm
from pretrain.objectives.base import MicroBatch, Surroundings
from pretrain.objectives.config import TeacherConfig
from pretrain.objectives.teacher import Teacher
from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Pairs
from pretrain.views.config import ViewConfig
from specfm import UsageError, create_encoder
from specfm.models import create_backbone
from tests.pretrain.samples import random_batch


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher of another width, patch and depth."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("teacher") / "release"
    specfm.save(create_encoder("nano", patch_size=1, dim=32, depth=2, heads=4), folder)
    return str(folder)


def made(release: str) -> tuple[Teacher, MicroBatch]:
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2)
    around = Surroundings(24, 3, ViewConfig(crop=6), 0, PairsConfig(), encoder)
    objective = Teacher(TeacherConfig(encoder=release, beta=0.5), around)
    return objective, MicroBatch(Pairs.of(random_batch(3, side=8)), encoder, around, 4, 1.0)


def test_the_loss_is_its_formula_and_the_teacher_stays(release: str) -> None:
    objective, part = made(release)
    loss, figures = objective.separate(part)
    said = objective.regressor(part.features.pooled_BD)
    wanted = torch.cat([objective.target(part, view) for view in (0, 1)])
    apart = (said - wanted).abs()
    assert torch.allclose(loss, torch.where(apart < 0.5, apart**2, apart - 0.25).mean())
    assert torch.allclose(wanted.mean(1), torch.zeros(len(wanted)), atol=1e-5) and wanted.shape[1] == 32
    assert torch.allclose(figures["teacher/cosine"], F.cosine_similarity(said, wanted).mean())
    loss.backward()
    teacher = specfm.load(release)
    assert all(torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), _state(objective), strict=True))
    assert {name for head in objective.heads.values() for name, _ in head.named_parameters()} == {"weight", "bias"}


def _state(objective: Teacher) -> list[torch.Tensor]:
    return list(objective._teacher.state_dict().values())


def test_a_student_comes_closer(release: str) -> None:
    objective, part = made(release)
    optimizer = torch.optim.AdamW([*part.encoder.parameters(), *objective.regressor.parameters()], 3e-3)
    found = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = objective.separate(MicroBatch(part.pairs, part.encoder, part.around, 4, 1.0))
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.5 * found[0]


def test_a_teacher_for_one_sensor_is_refused(tmp_path: Path) -> None:
    specfm.save(create_backbone("small:mlp", specfm.BandGrid([500.0, 600.0])), tmp_path / "mlp")
    encoder = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2)
    around = Surroundings(24, 3, ViewConfig(crop=6), 0, PairsConfig(), encoder)
    with pytest.raises(UsageError, match="a network for one list of bands"):
        Teacher(TeacherConfig(encoder=str(tmp_path / "mlp")), around)
