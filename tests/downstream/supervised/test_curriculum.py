"""What labelled tiles become at a stage: shrunk for a network that sees windows whole, else cropped; bands reduced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from downstream.supervised.curriculum import ViewCurriculum, cropped, middle, shrunk
from downstream.supervised.model import TaskModel
from downstream.supervised.views import View
from specfm.batch import BandTensors
from specfm.config import build_config
from specfm.engine.curriculum import CurriculumConfig, StageConfig
from specfm.engine.optimizer import adamw
from specfm.errors import UsageError
from specfm.models import create_backbone, create_encoder
from tests.downstream.tasks.toys import FINE, SMALL


@dataclass(frozen=True)
class Labelled:
    views: list[View]
    labels: Tensor


def tiles(side: int = 9) -> View:
    x = torch.rand(2, side, side, 24, generator=torch.Generator().manual_seed(0))
    return View(x, BandTensors.from_sensors(FINE), torch.ones(2, side, side, dtype=torch.bool), torch.ones(2))


def staged(task: str = "classification", backbone: bool = False, model: Any = None, **values: Any) -> ViewCurriculum:
    small = {"size": "nano", "patch_size": 3, **(model or SMALL["options"])}
    encoder: Any = create_backbone("timm:test_resnet", FINE) if backbone else create_encoder(**small)  # type: ignore[arg-type]
    model = TaskModel(encoder, task, ["a", "b"], 9)
    optimizer = adamw(torch.nn.ModuleDict({"model": model}), 1e-3, 0.0, (0.9, 0.98), torch.device("cpu"))
    config = build_config(values, CurriculumConfig, "the test")
    return ViewCurriculum(config, 10, model, optimizer, seed=0)


def test_shrinking_averages_valid_pixels_only() -> None:
    view = tiles(8)
    mask = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[0, :2, :2] = False  # a whole pixel of the small tile
    spoilt = replace(view, x_BHWC=torch.where(mask[..., None], view.x_BHWC, torch.inf), mask_BHW=None)
    small = shrunk(spoilt, 4)
    assert small.mask_BHW is not None and not small.mask_BHW[0, 0, 0] and int((~small.mask_BHW).sum()) < 8
    for row in range(4):
        for col in range(4):
            here = mask[1, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            values = view.x_BHWC[1, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2][here]
            if here.any():
                assert torch.allclose(small.x_BHWC[1, row, col], values.mean(0), atol=1e-5)
    assert shrunk(view, 5).x_BHWC.mean() == pytest.approx(float(view.x_BHWC.mean()), abs=0.02)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 8, 9])
def test_cropping_keeps_the_labelled_pixel_in_the_middle(side: int) -> None:
    view = tiles(9)
    small = cropped(view, side)
    assert torch.equal(small.x_BHWC[:, side // 2, side // 2], view.x_BHWC[:, 4, 4])
    assert small.x_BHWC.shape[1:3] == small.mask_BHW.shape[1:] == (side, side)  # type: ignore[union-attr]
    assert len(range(9)[middle(9, side)]) == side


def test_an_encoder_of_ours_sees_cropped_windows_of_merged_bands() -> None:
    batch = [Labelled([tiles()], torch.tensor([0, 1]))]
    found = staged().change(batch, StageConfig(bands=0.25, size=0.7), 1)[0]
    view = found.views[0]
    assert view.x_BHWC.shape == (2, 6, 6, 6) and view.bands.channels == 6 and torch.equal(found.labels, batch[0].labels)
    assert (view.bands.fwhm_nm_GC > 200).all() and view.level_B is batch[0].views[0].level_B
    whole = staged().change(batch, StageConfig(), 1)[0].views[0]
    assert whole is batch[0].views[0]


def test_labels_of_dense_tiles_are_cropped_with_them() -> None:
    labels = torch.arange(162).view(2, 9, 9)
    found = staged("segmentation", backbone=True).change([Labelled([tiles()], labels)], StageConfig(size=0.5), 1)[0]
    assert found.views[0].x_BHWC.shape[1:3] == found.labels.shape[1:] == (4, 4)
    assert torch.equal(found.labels, labels[:, 2:6, 2:6])


def test_a_network_sees_shrunk_windows_of_all_bands() -> None:
    found = staged(backbone=True).change(
        [Labelled([tiles()], torch.tensor([0, 1]))], StageConfig(bands=0.25, size=0.5), 1
    )
    assert found[0].views[0].x_BHWC.shape == (2, 4, 4, 24)


def test_a_network_sees_cropped_windows_where_asked() -> None:
    batch = [Labelled([tiles()], torch.tensor([0, 1]))]
    view = staged(backbone=True, window="crop").change(batch, StageConfig(size=0.5), 1)[0].views[0]
    assert torch.equal(view.x_BHWC, cropped(tiles(), 4).x_BHWC)
    with pytest.raises(UsageError, match="windows that a network of timm classifies"):
        staged(window="shrink")


def test_components_are_for_networks() -> None:
    with pytest.raises(UsageError, match=r"components without wavelengths.*curriculum.reducer=merge, or encoder=timm:"):
        staged(reducer="ica")


def test_an_encoder_of_one_window_size_gets_no_smaller_windows() -> None:
    whole = {"embedding": "specaware", "image_size": 9, "rank": 4, "level": "none", "depth": 1, "dim": 48, "heads": 3}
    with pytest.raises(UsageError, match=r"reads windows of 9x9 alone.*curriculum.start_size=1"):
        staged(model=whole, start_size=0.5)
    assert len(staged(model=whole, start_size=1).stages) == 4
