"""Mixtures of bands that the stem of a network for one list of bands sees in place of them.

Shapes: B tiles, H W pixels, C bands, K mixtures.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from specfm.errors import SpecfmError, UsageError
from specfm.models.backbone import Backbone
from specfm.models.encoder import Bands
from specfm.models.whitening import Moments, leading


@torch.no_grad()
def fit_mixtures(backbone: Backbone, tiles: Iterable[tuple[Tensor, Bands, Tensor | None]]) -> None:
    """Let the mixtures of a network be what varies most beside the noise, which differences of neighbours tell.

    Minimum noise fraction (Green et al., IEEE TGRS 26, 1988) in closed form, scaled as the stem of an encoder is
    (:func:`specfm.models.whitening.whitening`); no label is needed. Fit the statistics first
    (:meth:`specfm.models.backbone.Backbone.fit_statistics`).

    Args:
        backbone: one with ``mixtures``; its weights must be untrained, for they see other channels from now on.
        tiles: (x_BHWC as stored, bands, mask_BHW) of training data, at least two pixels wide.

    Raises:
        UsageError: a network without mixtures.
        SpecfmError: no two valid pixels are neighbours, or none differ.
    """
    if backbone.mix_KC is None:
        raise UsageError("a network that sees its bands has no mixtures to fit; build it with mixtures=N")
    moments = Moments(len(backbone.mean_C), backbone.device)
    for x_BHWC, bands, mask_BHW in tiles:
        z_BHWC, valid_BHW = backbone.standardised(x_BHWC, bands, mask_BHW)
        moments.add_lattice(z_BHWC.flatten(1, 2), valid_BHW.flatten(1), (z_BHWC.shape[1], z_BHWC.shape[2]), 1)
    if not moments.pairs:
        raise SpecfmError("no two valid pixels are neighbours, so noise cannot be told from material; give wider tiles")
    backbone.mix_KC.copy_(leading(moments, len(backbone.mix_KC)))
