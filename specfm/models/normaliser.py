"""Statistics of training data that an encoder takes off its input: per band, or one for the whole data set.

The four ways to normalise a cube, and where an encoder has them (``create_encoder`` options):

per sample  ``level=sample``: divided by the sample's mean magnitude; ``level=patch`` (default): by each patch's too
per pixel   ``level=pixel``: each pixel's spectrum divided by its own mean magnitude, so that its shape alone is left
per band    ``normalise=band``: minus the mean, by the deviation of each band over the training data
data set    ``normalise=dataset``: the same with one mean and one deviation for all bands

The first two need nothing but the sample. The others are fitted on training data before the first step of pretraining,
after the level is divided out, and travel with the weights. They are kept as functions of wavelength, so that another
sensor's bands are normalised too: beyond the wavelengths that training saw, the nearest statistics hold.

Shapes: B samples, C bands, N tokens, P pixels of a patch, G = 1 or B band grids, L knots.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from specfm.errors import SpecfmError
from specfm.models.patches import Patches

KNOTS_NM = (300.0, 2600.0, 921)  # every 2.5 nm
KINDS = ("none", "band", "dataset")
FLOOR = 1e-3  # least deviation, in units of the level: below it a band hardly varies and would be all noise


class Normaliser(nn.Module):
    """``x -> (x - mean) / deviation`` on patches, with statistics by wavelength.

    Args:
        kind: ``band`` or ``dataset``.
    """

    mean_L: Tensor
    deviation_L: Tensor
    fitted: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean_L", torch.zeros(KNOTS_NM[2]))
        self.register_buffer("deviation_L", torch.ones(KNOTS_NM[2]))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, batches: Iterable[Patches]) -> None:
        """Take the statistics of training data; patches of any sensors, before they are normalised.

        Raises:
            SpecfmError: no valid pixel among them.
        """
        knots_L = np.linspace(*KNOTS_NM)
        weight_L, sum_L, square_L = (np.zeros_like(knots_L) for _ in range(3))
        for patches in batches:
            for grid in range(len(patches.bands)):
                rows = slice(None) if len(patches.bands) == 1 else slice(grid, grid + 1)
                used = patches.token_mask_BN[rows]
                x_MPC = patches.x_BCNP[rows].permute(0, 2, 3, 1)[used].double()
                valid_C = patches.bands.valid_GC[grid]
                if not x_MPC.numel() or not bool(valid_C.any()):
                    continue
                nm_C = patches.bands.wavelengths_nm_GC[grid, valid_C].cpu().numpy()
                mean_C, square_C = (v.mean((0, 1))[valid_C] for v in (x_MPC, x_MPC.square()))
                if self.kind == "dataset":
                    share_C = patches.weights_GC[grid, valid_C].double()
                    mean_C, square_C = ((v * share_C).sum().expand_as(v) for v in (mean_C, square_C))
                order = np.argsort(nm_C, kind="stable")
                inside_L = (knots_L >= nm_C.min() - 2.5) & (knots_L <= nm_C.max() + 2.5)
                count_L = inside_L * float(len(x_MPC))
                weight_L += count_L
                # variances are interpolated, not squares, which would count the slope between two bands as spread
                between = mean_C.cpu().numpy()[order], (square_C - mean_C.square()).cpu().numpy()[order]
                mean_L, variance_L = (np.interp(knots_L, nm_C[order], values) for values in between)
                sum_L += count_L * mean_L
                square_L += count_L * (variance_L + mean_L**2)
        seen_L = weight_L > 0
        if not seen_L.any():
            raise SpecfmError("no valid pixel to fit the encoder's normalisation on; look at the masks of the shards")
        mean_L, square_L = sum_L[seen_L] / weight_L[seen_L], square_L[seen_L] / weight_L[seen_L]
        if self.kind == "dataset":
            mean_L, square_L = (np.full_like(v, np.average(v, weights=weight_L[seen_L])) for v in (mean_L, square_L))
        deviation_L = np.sqrt(np.maximum(square_L - mean_L**2, FLOOR**2))
        for buffer, found_L in ((self.mean_L, mean_L), (self.deviation_L, deviation_L)):
            buffer.copy_(torch.from_numpy(np.interp(knots_L, knots_L[seen_L], found_L)))
        self.fitted.fill_(True)

    def forward(self, patches: Patches) -> Patches:
        """Patches with normalised values; unusable bands and empty tokens stay 0.

        Raises:
            SpecfmError: the statistics were never fitted.
        """
        mean_GC, deviation_GC = patches.bands.once("normaliser", lambda: self._statistics(patches))
        x_BCNP = (patches.x_BCNP - mean_GC[:, :, None, None]) / deviation_GC[:, :, None, None]
        here = patches.bands.valid_GC[:, :, None, None] & patches.token_mask_BN[:, None, :, None]
        return replace(patches, x_BCNP=torch.where(here, x_BCNP, 0.0))

    def _statistics(self, patches: Patches) -> tuple[Tensor, Tensor]:
        """Mean and deviation at the bands (G, C)."""
        if not self.fitted:
            raise SpecfmError(
                f"this encoder is made with normalise={self.kind} and has no statistics of training data yet; pretrain "
                "it (specfm pretrain fits them), or call encoder.fit_normaliser(batches)"
            )
        return self._at(self.mean_L, patches), self._at(self.deviation_L, patches)

    def _at(self, values_L: Tensor, patches: Patches) -> Tensor:
        """Values at the bands (G, C), interpolated between knots."""
        first, last, count = KNOTS_NM
        place_GC = (patches.bands.wavelengths_nm_GC.nan_to_num(nan=first) - first) / (last - first) * (count - 1)
        place_GC = place_GC.to(values_L.dtype).clamp(0, count - 1)
        low_GC = place_GC.long().clamp_max(count - 2)
        return torch.lerp(values_L[low_GC], values_L[low_GC + 1], place_GC - low_GC)
