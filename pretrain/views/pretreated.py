"""Laboratory pretreatment as a view: some samples are seen as measured, others after SNV, a derivative or no continuum.

A pair of which one side is pretreated asks for what both still tell: neither level nor slope nor the sharpness of an
absorption alone. Done on the host by :mod:`specfm.pretreatment`, as probes and shards do it, after everything else that
changes values.

Shapes: B samples, h w crop, K bands of the view, N spectra.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pretrain.rng import Keys
from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.errors import SpecfmError
from specfm.pretreatment import pretreat_spectra


def pretreated(
    x_BhwK: Tensor, mask_Bhw: Tensor, bands: BandTensors, steps: tuple[str, ...], chosen_B: Tensor
) -> tuple[Tensor, Tensor, BandTensors]:
    """The chosen samples pretreated; their quantity is unknown then, as that of pretreated shards.

    Pixels whose spectrum has no shape (SNV of a flat one) are masked, bands without a value unusable. A sample whose
    bands do not allow it (a derivative needs neighbours) stays as measured.

    Args:
        x_BhwK: physical values.
        mask_Bhw: valid pixels.
        bands: of the view, G = 1 or B.
        steps: in order (:mod:`specfm.pretreatment.steps`).
        chosen_B: which samples.

    Returns:
        x_BhwK, mask_Bhw, and bands with a row for each sample.
    """
    bands = bands.expand(len(x_BhwK))
    x_BhwK, mask_Bhw = x_BhwK.clone(), mask_Bhw.clone()
    valid_GC, quantity_G = bands.valid_GC.clone(), bands.quantity_G.clone()
    wavelengths_GC, given_GC = bands.wavelengths_nm_GC.cpu().numpy(), bands.valid_GC.cpu().numpy()
    for sample in torch.nonzero(chosen_B).flatten().tolist():
        seen_hw = mask_Bhw[sample].clone()
        grid = BandGrid(wavelengths_GC[sample], valid=given_GC[sample])
        try:
            found_NK, left = pretreat_spectra(x_BhwK[sample][seen_hw].cpu().numpy(), grid, steps)
        except SpecfmError:
            continue
        good_N = np.isfinite(found_NK[:, left.valid]).all(1)
        if not good_N.any():
            continue
        found_NK[~good_N] = 0
        found_NK[:, ~left.valid] = 0
        x_BhwK[sample][seen_hw] = torch.from_numpy(found_NK).to(x_BhwK)
        mask_Bhw[sample][seen_hw] = torch.from_numpy(good_N).to(mask_Bhw.device)
        valid_GC[sample] = torch.from_numpy(left.valid.copy()).to(valid_GC.device)
        quantity_G[sample] = -1
    return x_BhwK, mask_Bhw, bands.replace(valid_GC=valid_GC, quantity_G=quantity_G)


def chosen(own: Keys, share: float) -> Tensor:
    """Which samples of a view are pretreated, ``[B]``."""
    return own.uniform("pretreatment") < share
