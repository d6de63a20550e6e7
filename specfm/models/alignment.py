"""Alignment: what a sensor tells the encoder, put as one ideal sensor of evenly spaced bands would have told it.

Where several sensors are compared: as the poorest of them would have told it.

An embedding that reads any list of bands still reads each list a little differently: a range that ends 50 nm earlier, a
gap or a wider response moves every token by about as much. A whitened stem, which amplifies what is small, turns that
into the largest difference there is, and nearest neighbours across sensors fail. But the encoder can say for itself by
how much: spectra like those of its pretraining are seen through the bands of a sensor and through those of the ideal
one, and the linear map from the first tokens to the second has a closed form. It needs no label and no scene of the
sensor.

What one sensor of a comparison cannot see, no map can give it; in the others it is a difference that means nothing
(measured: 13 wide bands held out from 200 narrow ones, 1-NN AA .58 mapped to the ideal sensor, .98 to the poorest).

Shapes: L spectra, C bands, B samples, N tokens, D width, G = 1 or B band grids.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from specfm.bands import BandGrid
from specfm.batch import BandTensors
from specfm.digests import digest_parts
from specfm.library import STEP_NM, Library
from specfm.models.patches import Patches
from specfm.models.quadrature import effective_fwhm_nm
from specfm.sensors import QUANTITIES, Sensor

log = logging.getLogger(__name__)
# Of the mean eigenvalue: between an offset alone and least squares, which overfits what a sensor does not show. Nearest
# neighbours across sensors change little from .03 to 1.
RIDGE = 0.1
HOME_RIDGE = 1e-4  # spectra of the very acquisition, and a stem that makes noise as large as signal
LEAST_COVERED = 0.8  # share of a sensor's bands that the library must cover; the others are not looked at
HELD = 64  # grids whose maps are kept
DECIDES = ("wavelengths_nm_GC", "fwhm_nm_GC", "valid_GC", "quantity_G", "level_G", "gsd_m_G")  # of a grid, its map


class StemEncoder(Protocol):
    """What alignment needs of an encoder: everything before its trunk."""

    patch_size: int
    num_features: int
    embedding: nn.Module

    @property
    def stem(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    def prepare(self, x_BHWC: Tensor, bands: BandTensors) -> Patches: ...

    def generated(self, patches: Patches) -> Tensor: ...


class Alignment:
    """Maps of stem tokens, one per list of bands, fitted when those bands are first met.

    ``t -> A t + b`` with ``A = I + argmin_M |M (t - mean) - (t0 - t)|^2 + RIDGE s |M|^2``, all about their means: t are
    the stem's tokens of the library seen through some bands, t0 those through the ideal sensor's, s the mean eigenvalue
    of the covariance of t; b takes the mean of t into that of t0. Sensors of pretraining are mapped too, or they would
    differ from each other as before. Bands outside the library's range are taken for unusable. A sensor with too many
    of these, or of unknown widths, is left as it is, with a warning.

    With ``sensors``, tokens are then mapped once more in the same way, to those that the poorest of these has after its
    own map: the sensor whose tokens are furthest from the ideal ones. That one itself stays where it is.

    Where the library has a ``home``, the stem was made for the sensor of these bands and the library for it (an encoder
    fitted to an acquisition): tokens are put as *that* sensor would have told them, and no further; its own stay.

    Args:
        library: what the bands are shown.
        sensors: those that will be compared.
    """

    def __init__(self, library: Library, sensors: Sequence[Sensor] = ()):
        self.library = library
        self.sensors = tuple(sorted({each.digest: each for each in sensors}.items()))
        self._maps: dict[Any, tuple[Tensor, Tensor]] = {}
        self._ideal: tuple[Any, Tensor | None] = (None, None)  # weights, tokens_LD through the ideal sensor
        self._poorest: tuple[Any, Tensor | None] = (None, None)  # the same of the poorest sensor, mapped
        self._left: set[Any] = set()

    def covers(self, bands: BandTensors) -> list[bool]:
        """Which grids can be mapped."""
        inside_GC = self._inside(bands)
        enough_G = inside_GC.sum(1) >= LEAST_COVERED * bands.valid_GC.sum(1).clamp_min(1)
        known_G = ((effective_fwhm_nm(bands) > 0) | ~inside_GC).all(1)
        return (enough_G & known_G & inside_GC.any(1)).tolist()

    def narrow(self, bands: BandTensors) -> BandTensors:
        """The bands that may be looked at; grids that cannot be mapped stay as they are."""
        covered_G1 = torch.tensor(self.covers(bands), device=bands.valid_GC.device)[:, None]
        return bands.replace(valid_GC=torch.where(covered_G1, self._inside(bands), bands.valid_GC))

    def __call__(self, encoder: StemEncoder, bands: BandTensors, tokens_BND: Tensor) -> Tensor:
        """Stem tokens of samples with these bands (narrowed before), aligned."""
        weights, moved = _weights(encoder), []
        samples = tokens_BND.split(1) if len(bands) > 1 else (tokens_BND,)
        for row, (covered, some_BND) in enumerate(zip(self.covers(bands), samples, strict=True)):
            one = bands.select(torch.tensor([row], device=bands.valid_GC.device))
            key = (weights, one.names, *(getattr(one, name).cpu().numpy().tobytes() for name in DECIDES))
            if not covered:
                if key not in self._left:
                    self._left.add(key)
                    log.warning("a sensor of %d bands cannot be aligned: %s", int(one.valid_GC.sum()), self.why)
                moved.append(some_BND)
                continue
            if key not in self._maps:
                if len(self._maps) >= HELD:
                    self._maps.pop(next(iter(self._maps)))
                self._maps[key] = self.fit(encoder, one)
            matrix_DD, bias_D = self._maps[key]
            # in float64: the stem's tokens are large numbers that differ little
            moved.append((some_BND.double() @ matrix_DD.T + bias_D).to(some_BND.dtype))
        return torch.cat(moved) if len(moved) > 1 else moved[0]

    @property
    def why(self) -> str:
        """What is missing where a sensor cannot be mapped."""
        return (
            f"{LEAST_COVERED:.0%} of its bands must lie within {self.library.low_nm:.0f} to "
            f"{self.library.high_nm:.0f} nm and have known widths"
        )

    @property
    def digest(self) -> str:
        """Says which sensors are compared; empty for the ideal one."""
        return digest_parts([" ".join(digest for digest, _ in self.sensors)], 64) if self.sensors else ""

    def fit(self, encoder: StemEncoder, bands: BandTensors) -> tuple[Tensor, Tensor]:
        """(A_DD, b_D) in float64 for one grid that is covered."""
        # whatever mode the caller is in, or the map would not serve the next one
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(encoder.device.type, enabled=False):
            t_LD = self._seen_through(encoder, bands)
            matrix_DD, bias_D = _ridge(
                t_LD, self.ideal_tokens(encoder), RIDGE if self.library.home is None else HOME_RIDGE
            )
            if len(self.sensors) > 1 and self.library.home is None:
                again_DD, more_D = _ridge(t_LD @ matrix_DD.T + bias_D, self._poorest_tokens(encoder))
                matrix_DD, bias_D = again_DD @ matrix_DD, again_DD @ bias_D + more_D
            return matrix_DD, bias_D

    def _seen_through(self, encoder: StemEncoder, bands: BandTensors) -> Tensor:
        """tokens_LD (float64): the stem's, of the library seen through one grid that is covered."""
        keep_C, fwhm_C = self._inside(bands)[0], effective_fwhm_nm(bands)[0].cpu().numpy()
        bands = bands.replace(
            wavelengths_nm_GC=bands.wavelengths_nm_GC[:, keep_C],
            fwhm_nm_GC=bands.fwhm_nm_GC[:, keep_C],
            valid_GC=bands.valid_GC[:, keep_C],
            scale_G=torch.ones_like(bands.scale_G),
            offset_G=torch.zeros_like(bands.offset_G),
        )
        grid = BandGrid(bands.wavelengths_nm_GC[0].cpu().numpy(), fwhm_C[keep_C.cpu().numpy()])
        return stem_tokens(encoder, self.library.seen_through(grid), bands)

    def _poorest_tokens(self, encoder: StemEncoder) -> Tensor:
        """tokens_LD (float64): of the sensor whose mapped tokens are furthest from the ideal ones; those of the ideal
        sensor where none of them can be mapped.
        """
        weights, (held, tokens_LD) = _weights(encoder), self._poorest
        if tokens_LD is None or held != weights:
            ideal_LD = self.ideal_tokens(encoder)
            tokens_LD, furthest = ideal_LD, 0.0
            for _, sensor in self.sensors:
                bands = BandTensors.from_sensors(sensor).to(encoder.device)
                if not self.covers(bands)[0]:
                    continue
                t_LD = self._seen_through(encoder, bands)
                matrix_DD, bias_D = _ridge(t_LD, ideal_LD)
                mapped_LD = t_LD @ matrix_DD.T + bias_D
                distance = float((mapped_LD - ideal_LD).square().sum())
                if distance > furthest:
                    tokens_LD, furthest = mapped_LD, distance
            self._poorest = weights, tokens_LD
        return tokens_LD

    def _inside(self, bands: BandTensors) -> Tensor:
        low, high = self.library.low_nm - STEP_NM / 2, self.library.high_nm + STEP_NM / 2
        return bands.valid_GC & (bands.wavelengths_nm_GC >= low) & (bands.wavelengths_nm_GC <= high)

    def ideal_tokens(self, encoder: StemEncoder) -> Tensor:
        """tokens_LD (float64): the stem's, of the library seen by the ideal sensor, or by that of its home."""
        weights, (held, tokens_LD) = _weights(encoder), self._ideal
        if tokens_LD is None or held != weights:
            library = self.library
            tokens_LD = torch.zeros(len(library), encoder.num_features, dtype=torch.float64, device=encoder.device)
            for quantity in np.unique(library.quantity_L).tolist():
                mine_L = library.quantity_L == quantity
                sensor = library.home or Sensor(library.grid, QUANTITIES[quantity] if quantity >= 0 else None)
                found = stem_tokens(encoder, library.spectra_LS[mine_L], BandTensors.from_sensors(sensor))
                tokens_LD[torch.from_numpy(mine_L).to(encoder.device)] = found
            self._ideal = weights, tokens_LD
        return tokens_LD


def _ridge(t_LD: Tensor, goal_LD: Tensor, share: float = RIDGE) -> tuple[Tensor, Tensor]:
    """(A_DD, b_D) of the map from one set of tokens to the other (see :class:`Alignment`)."""
    mean_D, goal_D = t_LD.mean(0), goal_LD.mean(0)
    centred_LD = t_LD - mean_D
    gram_DD = centred_LD.T @ centred_LD
    unit_DD = torch.eye(len(gram_DD), dtype=gram_DD.dtype, device=gram_DD.device)
    ridge = share * gram_DD.diagonal().mean().clamp_min(1e-30)
    change_DD = torch.linalg.solve(gram_DD + ridge * unit_DD, centred_LD.T @ (goal_LD - goal_D - centred_LD))
    matrix_DD = unit_DD + change_DD.T
    return matrix_DD, goal_D - matrix_DD @ mean_D


def _weights(encoder: StemEncoder) -> Any:
    """What changes when torch changes the weights (not when they are written to through ``.data``)."""
    parameters = (*encoder.embedding.parameters(), *encoder.stem.parameters())
    return encoder.device, *((id(p), 0 if p.is_inference() else p._version) for p in parameters)


def stem_tokens(encoder: StemEncoder, spectra_LC: NDArray[np.float32], bands: BandTensors) -> Tensor:
    """tokens_LD (float64): one flat patch of each spectrum."""
    side, found = encoder.patch_size, []
    for some_LC in torch.from_numpy(np.array(spectra_LC)).split(256):
        patches = encoder.prepare(some_LC[:, None, None].expand(-1, side, side, -1), bands)
        found.append(encoder.stem(encoder.generated(patches))[:, 0].double())
    return torch.cat(found)
