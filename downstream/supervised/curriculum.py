"""A curriculum for labelled tiles: what a task model is shown at each stage.

Windows for a network of timm are shrunk (mean over the area), unless ``window: crop`` says otherwise: it has no notion
of how large a pixel is, and its class is that of the window as a whole. Tiles for an encoder of ours are cropped around
their middle, where the labelled pixel of a window lies: the encoder is told the size of a pixel, and its patches keep
their meaning. Dense tiles are cropped in any case, because labels of pixels cannot be averaged. Our encoder reads
merged or chosen bands by their metadata; the stem of a network reduces bands itself (``specfm/engine/stem.py``).

Shapes: B tiles, H W pixels, C bands, s side of a stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from downstream.supervised.model import TaskModel
from downstream.supervised.views import View, valid_pixels
from specfm.batch import BandTensors
from specfm.engine.curriculum import Curriculum, CurriculumConfig, StageConfig, make_reducer, side_of
from specfm.engine.stem import StemStages
from specfm.errors import UsageError
from specfm.models.backbone import Backbone, side_multiple
from specfm.models.one_size import fixed_side


class ViewCurriculum(Curriculum):
    """Stages of a supervised training. Batches are lists of parts with ``views`` and ``labels`` (dataclasses).

    Args:
        config: the stages.
        steps: of the run.
        model: in training.
        optimizer: over its parameters.
        seed: of components that are fitted by chance.

    Raises:
        UsageError: components for an encoder that reads wavelengths, smaller windows for one that reads one size.
    """

    def __init__(
        self, config: CurriculumConfig, steps: int, model: TaskModel, optimizer: torch.optim.Optimizer, seed: int
    ) -> None:
        super().__init__(config, steps)
        encoder, self.seed = model.encoder, seed
        if config.window == "shrink" and not model.sees_windows_whole:
            raise UsageError("curriculum.window shrink is for windows that a network of timm classifies; take crop")
        only = fixed_side(encoder)
        if only is not None and any(side_of(stage.size, only, 1) < only for stage in self.stages):
            raise UsageError(
                f"the encoder reads windows of {only}x{only} alone (model.options.image_size); set "
                "curriculum.start_size=1, or sizes of its stages to 1"
            )
        self.unit, self.shrinks = side_multiple(encoder), model.sees_windows_whole and config.window != "crop"
        self.stem, self.reducer = None, None
        if isinstance(encoder, Backbone):
            self.stem = StemStages(config, encoder, optimizer)
        elif config.physical:
            self.reducer = make_reducer(config)
        else:
            raise UsageError(
                f"curriculum.reducer {config.reducer} gives components without wavelengths, which an encoder that "
                "reads bands cannot use; set curriculum.reducer=merge, or encoder=timm:NAME"
            )

    def fit(self, views: Iterable[View]) -> None:
        """Find what the stem of a network mixes at each stage, from training tiles. Nothing to do for an encoder."""
        if self.stem is not None:
            backbone = self.stem.backbone
            self.stem.fit((backbone.pixels(view.x_BHWC, view.bands, view.mask_BHW) for view in views), self.seed)

    def change(self, batch: list[Any], stage: StageConfig, number: int) -> list[Any]:
        if self.stem is not None and self.plan is not None and self.plan.at(number):
            self.stem.settle(self.plan.since(number))
        return [
            replace(part, views=[self._shown(v, stage) for v in part.views], labels=self._labels(part, stage))
            for part in batch
        ]

    def enter(self, index: int) -> None:
        if self.stem is not None:
            self.stem.enter(index)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.stem is None else self.stem.tensors()

    def take_up(self, tensors: dict[str, Tensor]) -> None:
        if self.stem is not None:
            self.stem.take_up(tensors)

    def _shown(self, view: View, stage: StageConfig) -> View:
        side = side_of(stage.size, view.x_BHWC.shape[1], self.unit)
        if side < view.x_BHWC.shape[1]:
            view = shrunk(view, side) if self.shrinks else cropped(view, side)
        if self.reducer is None or stage.bands == 1:
            return view
        bands = view.bands if isinstance(view.bands, BandTensors) else BandTensors.from_sensors(view.bands)
        x_BHWK, bands = self.reducer.reduce(view.x_BHWC, bands, stage.bands)
        return replace(view, x_BHWC=x_BHWK, bands=bands)

    def _labels(self, part: Any, stage: StageConfig) -> Tensor:
        labels: Tensor = part.labels
        if labels.ndim == 1:
            return labels
        side = side_of(stage.size, labels.shape[1], self.unit)
        return labels[:, middle(labels.shape[1], side), middle(labels.shape[2], side)]


def middle(size: int, side: int) -> slice:
    """``side`` of ``size`` pixels so that the middle one, number size // 2, is the middle one of them."""
    first = size // 2 - side // 2
    return slice(first, first + side)


def cropped(view: View, side: int) -> View:
    """The middle of square tiles."""
    rows, cols = (middle(size, side) for size in view.x_BHWC.shape[1:3])
    mask_BHW = None if view.mask_BHW is None else view.mask_BHW[:, rows, cols]
    return replace(view, x_BHWC=view.x_BHWC[:, rows, cols], mask_BHW=mask_BHW)


def shrunk(view: View, side: int) -> View:
    """Square tiles of ``side`` pixels, each the mean of the valid pixels that it covers; valid if there is one."""
    valid_BHW = valid_pixels(view)
    x_BHWC = view.x_BHWC.float()
    x_BHWC = torch.where(valid_BHW[..., None] & x_BHWC.isfinite(), x_BHWC, 0.0)
    weight_B1ss = F.interpolate(valid_BHW[:, None].float(), (side, side), mode="area")
    total_BCss = F.interpolate(x_BHWC.movedim(-1, 1), (side, side), mode="area")
    x_BssC = (total_BCss / weight_B1ss.clamp_min(1e-12)).movedim(1, -1)
    return replace(view, x_BHWC=x_BssC, mask_BHW=weight_B1ss[:, 0] > 0)
