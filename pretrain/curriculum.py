"""A curriculum for pretraining: what a batch is cut and reduced to before its views are made.

Windows are cropped, not resized: an encoder of ours is told how large a pixel is, and its noise and texture belong to
that size. Bands are merged or chosen with their metadata, so it reads them like another sensor's. Views, objectives and
the step see a smaller batch and know nothing of stages.

Shapes: B samples, H W window, h w of the stage, C bands.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pretrain.pairs.pairing import Pairs
from pretrain.rng import SHARED, Keys
from pretrain.views.spatial import SpatialPlan
from specfm.batch import Batch, BatchPart
from specfm.engine.curriculum import Curriculum, CurriculumConfig, StageConfig, make_reducer, side_of
from specfm.errors import UsageError


class BatchCurriculum(Curriculum):
    """Stages of a pretraining.

    Args:
        config: the stages.
        steps: of the run.
        seed: of the crops, which follow from step and sample id.
        patch_size: of the encoder; sides of a stage are multiples of it.

    Raises:
        UsageError: a reducer whose components have no wavelengths, or windows that are to be shrunk.
    """

    def __init__(self, config: CurriculumConfig, steps: int, seed: int, patch_size: int) -> None:
        super().__init__(config, steps)
        if not config.physical:
            raise UsageError(
                f"curriculum.reducer {config.reducer} gives components without wavelengths, which this encoder cannot "
                "read; set curriculum.reducer=merge"
            )
        if config.window == "shrink":
            raise UsageError(
                "curriculum.window shrink changes the size of a pixel, which the encoder is told; take crop"
            )
        self.seed, self.patch_size, self.reducer = seed, patch_size, make_reducer(config)

    def change(self, batch: Pairs, stage: StageConfig, number: int) -> Pairs:
        """Both sides with smaller windows of fewer bands; as they are where the stage has all of both."""
        first = self._changed(batch.first, stage, number)
        second = first if batch.second is batch.first else self._changed(batch.second, stage, number)
        return replace(batch, first=first, second=second)

    def _changed(self, batch: Batch, stage: StageConfig, number: int) -> Batch:
        parts = [self._cropped(part, stage, number - 1) for part in batch]
        if stage.bands != 1:
            for i, part in enumerate(parts):
                x_BHWK, bands = self.reducer.reduce(part.x_BHWC, part.bands, stage.bands)
                parts[i] = part.replace(x_BHWC=x_BHWK, bands=bands)
        return Batch(tuple(parts))

    def _cropped(self, part: BatchPart, stage: StageConfig, step: int) -> BatchPart:
        """One crop a sample, the same for all its views, anywhere in the window."""
        batch, height, width = part.x_BHWC.shape[:3]
        high, wide = (side_of(stage.size, side, self.patch_size) for side in (height, width))
        if (high, wide) == (height, width):
            return part
        keys, device = Keys.of(part.sample_id_B, self.seed, step, SHARED), part.x_BHWC.device
        row_B, col_B = (
            keys.integer(f"stage{axis}", torch.full((batch,), room + 1, device=device))
            for axis, room in enumerate((height - high, width - wide))
        )
        row_Bh1 = row_B[:, None, None] + torch.arange(high, device=device)[None, :, None]
        col_B1w = col_B[:, None, None] + torch.arange(wide, device=device)[None, None, :]
        sample_B11 = torch.arange(batch, device=device)[:, None, None]
        offset_B2 = torch.stack([row_B, col_B], 1)
        plan = SpatialPlan((sample_B11 * height + row_Bh1) * width + col_B1w, offset_B2)
        return part.replace(
            x_BHWC=plan.crop(part.x_BHWC),
            mask_BHW=None if part.mask_BHW is None else plan.crop(part.mask_BHW),
            origin_B2=part.origin_B2 + offset_B2.to(part.origin_B2.dtype),
        )
