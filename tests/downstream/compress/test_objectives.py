"""What students minimise: put together as said, teachers fixed, exits that are models."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from downstream.compress import losses
from downstream.compress.objectives import DeepToShallow, FromTeacher, Labels, cropped, look
from specfm.errors import UsageError
from tests.downstream.compress.make import model, windows


@pytest.mark.parametrize("kind", ["encoder", "small:cnn2d"])
def test_one_look_is_the_models_own(kind: str) -> None:
    made, (view, y_B) = model(kind), windows()
    seen = look(made, view)
    assert torch.equal(seen.scores_BK, made(view)) and torch.equal(seen.pooled_BD, made.pooled(view))
    loss, scores_BK = Labels()(made, view, y_B, 1)
    assert torch.equal(scores_BK, made(view)) and loss == F.cross_entropy(scores_BK, y_B)


def test_a_smaller_window_is_the_middle_one() -> None:
    view, _ = windows()
    for side in (1, 3, 4, 9):
        part = cropped(view, side).x_BHWC
        assert part.shape[1:3] == (side, side)
        assert torch.equal(part[:, side // 2, side // 2], view.x_BHWC[:, 4, 4])
    pixel = model("small:mlp", window=1)
    assert torch.equal(look(pixel, view).scores_BK, pixel(cropped(view, 1)))


def test_a_teacher_of_other_size() -> None:
    student, teacher, (view, y_B) = model("small:mlp", window=1), model(), windows()
    objective = FromTeacher(student, teacher, temperature=2.0, alpha=0.3, relational=0.5)
    loss, scores_BK = objective(student, view, y_B, 1)
    ours, theirs = look(student, view), look(teacher, view)
    wanted = 0.7 * F.cross_entropy(scores_BK, y_B) + 0.3 * losses.softened_kl(scores_BK, theirs.scores_BK, 2.0)
    assert torch.allclose(loss, wanted + 0.5 * losses.relational(ours.pooled_BD, theirs.pooled_BD))
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters()) and not list(objective.parameters())
    assert FromTeacher(student, teacher, alpha=0.0)(student, view, y_B, 1)[0] == Labels()(student, view, y_B, 1)[0]


def test_hints_and_attention_bridge_widths_and_grids() -> None:
    student, teacher, (view, y_B) = model("small:cnn2d"), model(), windows()
    objective = FromTeacher(student, teacher, alpha=0.0, hints=1.0, attention=1.0)
    plain = FromTeacher(student, teacher, alpha=0.0)(student, view, y_B, 1)[0]
    loss = objective(student, view, y_B, 1)[0]
    loss.backward()
    assert loss > plain and objective.regressor is not None and objective.regressor.weight.grad is not None


def test_an_exit_becomes_the_model() -> None:
    made, (view, y_B) = model(), windows()
    objective = DeepToShallow(made, (1, 2), features=0.1)
    optimizer = torch.optim.SGD([*made.parameters(), *objective.parameters()], 0.01)
    for step in range(3):
        optimizer.zero_grad()
        loss, scores_BK = objective(made, view, y_B, step)
        loss.backward()
        optimizer.step()
    objective.eval()
    for number, exit in enumerate((1, 2)):
        short = objective.shallow(made.eval(), exit)
        features = made.encoder.get_intermediate_layers(view.x_BHWC, view.bands, view.mask_BHW, n=[exit - 1])[0]
        x_BD = objective.norms[number](made.pool(features, view))
        wanted = objective.heads[number]([x_BD[..., None, None]])[..., 0, 0]
        assert len(short.encoder.blocks) == exit and torch.allclose(short(view), wanted, atol=1e-5)
    for exits in ((), (0,), (3,)):
        with pytest.raises(UsageError, match="exits 1 to 2"):
            DeepToShallow(made, exits)
    with pytest.raises(UsageError, match="encoders of ours"):
        DeepToShallow(model("small:mlp"), (1,))
