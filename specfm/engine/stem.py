"""The stem of a timm backbone through a curriculum: few mixtures of its bands at first, then more, then the bands.

A backbone has one channel a band, so it cannot be shown fewer bands as our encoder can; it reduces them itself, by a
matrix in front of its stem that is part of the model. At a switch the stem's weights and their optimiser state are
carried over (:meth:`specfm.models.Backbone.set_channels`), so that the function stays what it was as far as the new
mixtures can tell: exactly for ``pca``, for divided groups of ``merge``, and for the last step to the bands themselves.

Shapes: C bands of the backbone, K mixtures, n pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from specfm.engine.curriculum import make_reducer
from specfm.engine.curriculum_config import CurriculumConfig
from specfm.engine.optimizer import replace_parameter
from specfm.models.backbone import Backbone
from specfm.reducers import Fitted, Moments, Principal, Reducer, bands_of
from specfm.reducers.components import MOST_PIXELS


class StemStages:
    """Mixtures of a backbone's bands, one matrix a stage.

    Args:
        config: the curriculum.
        backbone: in training.
        optimizer: over its parameters.
    """

    def __init__(self, config: CurriculumConfig, backbone: Backbone, optimizer: torch.optim.Optimizer) -> None:
        self.config, self.backbone, self.optimizer = config, backbone, optimizer
        self.mixes: list[Tensor | None] = []
        norms = (each for each in backbone.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm))
        self._norms = {norm: norm.momentum for norm in norms if norm.momentum is not None}

    def fit(self, pixels: Iterable[Tensor], seed: int) -> None:
        """Find the mixtures of every stage and enter the first.

        Args:
            pixels: standardised ones of training data, [n, C] each (:meth:`specfm.models.Backbone.pixels`); looked at
                for components only.
            seed: of components that are fitted by chance.
        """
        bands, stages = self.backbone.bands, self.config.listed()
        count = int(bands.valid.sum())
        reducer = self._reducer(pixels, seed)
        self.mixes = [
            torch.from_numpy(reducer.plan(bands, k).matrix_KC[:, bands.valid].copy()) if k < count else None
            for k in (bands_of(stage.bands, count) for stage in stages)
        ]
        self.enter(0)

    def enter(self, index: int) -> None:
        """Give the stem the mixtures of a stage."""
        replace_parameter(self.optimizer, *self.backbone.set_channels(self.mixes[index]))

    def settle(self, since: int) -> None:
        """Forget statistics of batch norm that the stages before left: those of smaller windows are others.

        At first they are plain means over the batches of the stage, then the usual moving ones.

        Args:
            since: number of the step within its stage, from 1.
        """
        for norm, momentum in self._norms.items():
            norm.momentum = max(momentum, 1 / since)

    def tensors(self) -> dict[str, Tensor]:
        """The mixtures by stage, for a checkpoint."""
        return {f"curriculum/mix-{i}": mix for i, mix in enumerate(self.mixes) if mix is not None}

    def take_up(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave, and enter the first stage."""
        self.mixes = [tensors.get(f"curriculum/mix-{i}") for i in range(len(self.config.listed()))]
        self.enter(0)

    def _reducer(self, pixels: Iterable[Tensor], seed: int) -> Reducer:
        if self.config.physical:
            return make_reducer(self.config)
        bands = self.backbone.bands
        if self.config.reducer == "pca":
            moments = Moments(int(bands.valid.sum()))
            for x_nC in pixels:
                moments.add(x_nC)
            return Principal(bands, moments)
        held, count = [], 0
        for x_nC in pixels:
            held.append(x_nC.cpu())
            count += len(x_nC)
            if count >= MOST_PIXELS:
                break
        return Fitted(bands, self.config.reducer, torch.cat(held).double().numpy(), seed)
