"""Alignment: what a camera of other bands would have told the encoder, had it been one that pretraining knew.

An embedding that reads any list of bands still reads each list a little differently: a range that ends 50 nm earlier, a
gap or a wider response moves every token by about as much. A whitened stem, which amplifies what is small, turns that
into the largest difference there is, and nearest neighbours across cameras fail. But the encoder can say for itself by
how much: spectra it was pretrained on are seen through the new bands, and the linear map that takes those tokens back
to the ones of the bands they were measured with has a closed form. No labels and no scene of the new camera are needed.

Shapes: L spectra, C bands, B samples, N tokens, D width, G = 1 or B band grids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.library import Library, same_bands, see_through

if TYPE_CHECKING:
    from specfm.models.encoder import Encoder

# Of the mean eigenvalue, between an offset alone and least squares, which overfits what the new bands do not show. Of
# .3, 1, 3 and 10 on five real sensors (1-NN) .74, .73, .73, .71 and .63 without; on crowns of an unseen sensor by
# itself, where there is nothing to gain, -, .49, .49, .52 and .55.
RIDGE = 1.0
HELD = 64  # grids whose maps are kept
DECIDES = ("wavelengths_nm_GC", "fwhm_nm_GC", "quantity_G", "level_G", "gsd_m_G")  # of a grid, its map


class Alignment:
    """Maps of stem tokens, one per list of bands, made when those bands are first seen.

    ``t -> A t + b`` with ``A = I + argmin_M |(t - mean) M - (t0 - t)|^2 + RIDGE s |M|^2``: t are the stem's tokens of
    the library seen through the new bands, t0 those through the bands they were measured with, s the mean eigenvalue of
    the covariance of t; b takes the means into each other. Bands of a sensor in the library map to themselves.

    Args:
        library: what is seen through new bands.
    """

    def __init__(self, library: Library):
        self.library = library
        self._maps: dict[Any, tuple[Tensor, Tensor] | None] = {}

    def __call__(self, encoder: Encoder, bands: BandTensors, tokens_BND: Tensor) -> Tensor:
        """Stem tokens of samples with these bands, aligned."""
        # maps hold for the weights that they were fitted with
        weights = (encoder.device, *(p._version for p in (*encoder.embedding.parameters(), *encoder.stem.parameters())))
        found = []
        for row in range(len(bands)):
            usable = _usable(bands, row)
            key = (weights, usable.names, *(getattr(usable, name).cpu().numpy().tobytes() for name in DECIDES))
            if key not in self._maps:
                if len(self._maps) >= HELD:
                    self._maps.clear()
                self._maps[key] = self.fit(encoder, usable)
            found.append(self._maps[key])
        if len(found) == 1:
            return _apply(found[0], tokens_BND)
        return torch.cat(
            [_apply(each, tokens_1ND) for each, tokens_1ND in zip(found, tokens_BND.split(1), strict=True)]
        )

    @torch.no_grad()
    def fit(self, encoder: Encoder, bands: BandTensors) -> tuple[Tensor, Tensor] | None:
        """(A_DD, b_D) for one list of bands, all of them usable; None where nothing is to be moved.

        That is where the bands are those of a sensor in the library, or where the library covers less than half of
        them, so that it could not say.
        """
        if not bands.channels:
            return None
        grid = _grid(bands)
        if any(same_bands(grid, sensor.bands) for sensor in self.library.sensors):
            return None
        seen, measured = [], []
        for sensor, spectra_LC in zip(self.library.sensors, self.library.spectra_LC, strict=True):
            through = see_through(sensor.bands, spectra_LC, grid)
            if through is None:
                continue
            covered_C, view_LC = through
            narrowed = bands.replace(
                valid_GC=torch.tensor(covered_C, device=bands.valid_GC.device)[None],
                scale_G=torch.ones_like(bands.scale_G),
                offset_G=torch.zeros_like(bands.offset_G),
            )
            seen.append(_stem_tokens(encoder, view_LC, narrowed))
            measured.append(_stem_tokens(encoder, spectra_LC, BandTensors.from_sensors(sensor)))
        if not seen:
            return None
        t_LD, t0_LD = torch.cat(seen), torch.cat(measured)
        mean_D, mean0_D = t_LD.mean(0), t0_LD.mean(0)
        centred_LD = t_LD - mean_D
        gram_DD = centred_LD.T @ centred_LD
        unit_DD = torch.eye(len(gram_DD), dtype=gram_DD.dtype, device=gram_DD.device)
        ridge = RIDGE * gram_DD.diagonal().mean().clamp_min(1e-30)
        change_DD = torch.linalg.solve(gram_DD + ridge * unit_DD, centred_LD.T @ (t0_LD - mean0_D - centred_LD))
        matrix_DD = unit_DD + change_DD.T
        return matrix_DD, mean0_D - matrix_DD @ mean_D


def _stem_tokens(encoder: Encoder, spectra_LC: NDArray[np.float32], bands: BandTensors) -> Tensor:
    """tokens_LD (float64): one flat patch of each spectrum."""
    side = encoder.patch_size
    x_LC = torch.from_numpy(np.where(np.isfinite(spectra_LC), spectra_LC, 0.0).astype(np.float32))
    found = []
    for some_LC in x_LC.split(256):
        patches = encoder.prepare(some_LC[:, None, None].expand(-1, side, side, -1), bands)
        found.append(encoder.stem(encoder.generated(patches))[:, 0].double())
    return torch.cat(found)


def _apply(found: tuple[Tensor, Tensor] | None, tokens_BND: Tensor) -> Tensor:
    if found is None:
        return tokens_BND
    matrix_DD, bias_D = found
    # in float64: the stem's tokens are large numbers that differ little
    return (tokens_BND.double() @ matrix_DD.T + bias_D).to(tokens_BND.dtype)


def _usable(bands: BandTensors, row: int) -> BandTensors:
    """One row without its unusable bands, so that padding changes nothing."""
    one = bands.select(torch.tensor([row], device=bands.valid_GC.device))
    keep_C = one.valid_GC[0]
    return one.replace(
        wavelengths_nm_GC=one.wavelengths_nm_GC[:, keep_C],
        fwhm_nm_GC=one.fwhm_nm_GC[:, keep_C],
        valid_GC=one.valid_GC[:, keep_C],
    )


def _grid(bands: BandTensors) -> BandGrid:
    return BandGrid(bands.wavelengths_nm_GC[0].cpu().numpy(), bands.fwhm_nm_GC[0].cpu().numpy())
