"""Alignment: what a camera tells the encoder, put as one ideal camera of evenly spaced bands would have told it.

An embedding that reads any list of bands still reads each list a little differently: a range that ends 50 nm earlier, a
gap or a wider response moves every token by about as much. A whitened stem, which amplifies what is small, turns that
into the largest difference there is, and nearest neighbours across cameras fail. But the encoder can say for itself by
how much: spectra like those of its pretraining are seen through the bands of a camera and through those of the ideal
one, and the linear map from the first tokens to the second has a closed form. It needs no label and no scene of the
camera.

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
from specfm.library import Library, see_through

if TYPE_CHECKING:
    from specfm.models.encoder import Encoder

# Of the mean eigenvalue: between an offset alone and least squares, which overfits what a camera does not show. Nearest
# neighbours across cameras change little from .03 to 1.
RIDGE = 0.1
HELD = 64  # grids whose maps are kept
DECIDES = ("wavelengths_nm_GC", "fwhm_nm_GC", "quantity_G", "level_G", "gsd_m_G")  # of a grid, its map


class Alignment:
    """Maps of stem tokens, one per list of bands, fitted when those bands are first met.

    ``t -> A t + b`` with ``A = I + argmin_M |M (t - mean) - (t0 - t)|^2 + RIDGE s |M|^2``, all about their means: t are
    the stem's tokens of the library seen through some bands, t0 those through :attr:`Library.common_grid`, s the mean
    eigenvalue of the covariance of t; b takes the mean of t into that of t0. Cameras of pretraining are mapped too, or
    they would differ from each other as before.

    Args:
        library: what the bands are shown.
    """

    def __init__(self, library: Library):
        self.library = library
        self._maps: dict[Any, tuple[Tensor, Tensor] | None] = {}
        self._ideal: tuple[Any, list[Tensor]] = (None, [])  # weights, tokens_LD of each sensor's spectra

    def __call__(self, encoder: Encoder, bands: BandTensors, tokens_BND: Tensor) -> Tensor:
        """Stem tokens of samples with these bands, aligned."""
        weights = _weights(encoder)
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
        """(A_DD, b_D) for one list of bands, all of them usable; None where the library covers too few of them."""
        if not bands.channels:
            return None
        grid = BandGrid(bands.wavelengths_nm_GC[0].cpu().numpy(), bands.fwhm_nm_GC[0].cpu().numpy())
        seen, ideal = [], []
        for number, (sensor, spectra_LC) in enumerate(self.library):
            through = see_through(sensor.bands, spectra_LC, grid)
            if through is not None:
                covered_C, view_LC = through
                narrowed = bands.replace(
                    valid_GC=torch.tensor(covered_C, device=bands.valid_GC.device)[None],
                    scale_G=torch.ones_like(bands.scale_G),
                    offset_G=torch.zeros_like(bands.offset_G),
                )
                seen.append(_stem_tokens(encoder, view_LC, narrowed))
                ideal.append(self._ideal_tokens(encoder)[number])
        if not seen:
            return None
        t_LD, t0_LD = torch.cat(seen), torch.cat(ideal)
        mean_D, mean0_D = t_LD.mean(0), t0_LD.mean(0)
        centred_LD = t_LD - mean_D
        gram_DD = centred_LD.T @ centred_LD
        unit_DD = torch.eye(len(gram_DD), dtype=gram_DD.dtype, device=gram_DD.device)
        ridge = RIDGE * gram_DD.diagonal().mean().clamp_min(1e-30)
        change_DD = torch.linalg.solve(gram_DD + ridge * unit_DD, centred_LD.T @ (t0_LD - mean0_D - centred_LD))
        matrix_DD = unit_DD + change_DD.T
        return matrix_DD, mean0_D - matrix_DD @ mean_D

    def _ideal_tokens(self, encoder: Encoder) -> list[Tensor]:
        weights = _weights(encoder)
        if self._ideal[0] != weights:
            grid, found = self.library.common_grid, []
            for sensor, spectra_LC in self.library:
                through = see_through(sensor.bands, spectra_LC, grid)
                assert through is not None, "the common range is part of each"
                bands = BandTensors.from_sensors(
                    sensor.replace(bands=BandGrid(grid.wavelengths_nm, grid.fwhm_nm, through[0]))
                )
                found.append(_stem_tokens(encoder, through[1], bands))
            self._ideal = weights, found
        return self._ideal[1]


def _weights(encoder: Encoder) -> Any:
    """What changes when the weights do that the maps were fitted with."""
    return (encoder.device, *(p._version for p in (*encoder.embedding.parameters(), *encoder.stem.parameters())))


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
