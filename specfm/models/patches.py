"""From a cube as stored to clean, scaled patches: the part of every embedding that is not an embedding.

Shapes: B samples, H W pixels, C bands, N tokens (K kept of them), P = p*p pixels of a patch, G = 1 or B band grids.
A cut cube before its tokens and pixels are flat: rows r and cols c of tokens, rows p and cols q of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specfm.batch import BandTensors
from specfm.errors import UsageError
from specfm.models.quadrature import quadrature_weights

BAND_BLOCK = 32  # bands whose magnitudes are held at a time
DARKEST = 0.05  # a patch's level counts as at least this share of its sample's, or shadows would be all noise


@dataclass(frozen=True)
class Patches:
    """What an embedding reads.

    Attributes:
        x_BCNP: float32, physical values divided by the sample's level; 0 in unusable bands and empty tokens. Invalid
            pixels of a partly valid patch hold the mean of its valid ones. In memory the bands come first if one grid
            serves all samples, else the samples.
        pixels_BN: share of valid pixels per token (float32).
        token_mask_BN: True = token has a valid pixel.
        position_BN2: (row, col) of each token in the token grid.
        grid_hw: its size.
        bands: metadata, G = 1 or B.
        weights_GC: float32 quadrature weights.
        log_level_B: natural log of the level that was divided out of the sample.
        log_patch_level_BN: the same of each patch, relative to its sample's; 0 unless ``level`` is ``patch``.
        stem_B: which of the encoder's stems of acquisitions; None where the names of the sensors decide.
    """

    x_BCNP: Tensor
    pixels_BN: Tensor
    token_mask_BN: Tensor
    position_BN2: Tensor
    grid_hw: tuple[int, int]
    bands: BandTensors
    weights_GC: Tensor
    log_level_B: Tensor
    log_patch_level_BN: Tensor
    stem_B: Tensor | None = None


def patchify(
    x_BHWC: Tensor,
    bands: BandTensors,
    mask_BHW: Tensor | None,
    patch_size: int,
    *,
    level: str = "sample",
    level_B: Tensor | None = None,
    keep_BK: Tensor | None = None,
) -> Patches:
    """Cut, clean and scale a cube.

    Physical values are ``stored * scale + offset``. Unusable bands, masked pixels and pixels with a non-finite value in
    a usable band never enter arithmetic. A side that ``patch_size`` does not divide is padded with invalid pixels.
    Tokens outside ``keep_BK`` are dropped before anything is computed, level included, so they cannot leak.

    Args:
        x_BHWC: stored values, any numeric dtype.
        bands: G = 1 or B.
        mask_BHW: True = valid.
        patch_size: side of a patch, pixels.
        level: ``sample`` divides by the quadrature-weighted mean magnitude of the sample; ``patch`` also by that of
            each patch, relative to the sample's (its logarithm is kept); ``pixel`` by that of each pixel, so that the
            shape of its spectrum alone is left; ``none`` by 1.
        level_B: physical level to divide by instead (``scene`` scaling of tiled maps).
        keep_BK: token indices to embed (masked pretraining).

    Raises:
        UsageError: shapes that do not fit.
    """
    if x_BHWC.ndim != 4:
        raise UsageError(
            f"expected a cube of shape (batch, rows, cols, bands), got {tuple(x_BHWC.shape)}"
            + ("; give one sample as x[None]" if x_BHWC.ndim == 3 else "")
        )
    batch, height, width, channels = x_BHWC.shape
    if not x_BHWC.numel():
        raise UsageError(f"the cube of shape {tuple(x_BHWC.shape)} is empty; give at least one sample and pixel")
    if bands.channels != channels:
        if bands.channels == x_BHWC.shape[1]:
            raise UsageError(
                f"a cube of shape {tuple(x_BHWC.shape)} has its {bands.channels} bands first; bands go last: "
                "x.permute(0, 2, 3, 1)"
            )
        padded = f", or of a padded cube BandTensors.from_sensors(sensor, channels={channels})"
        raise UsageError(
            f"the cube has {channels} bands but its metadata describes {bands.channels}; give the sensor of exactly "
            f"these bands{padded if channels > bands.channels else ''}"
        )
    if len(bands) not in (1, batch):
        raise UsageError(f"{len(bands)} band grids given for {batch} samples; give one, or one per sample")
    if mask_BHW is not None and mask_BHW.shape != x_BHWC.shape[:3]:
        raise UsageError(
            f"the mask has shape {tuple(mask_BHW.shape)} but the cube is {(batch, height, width)}; give one per pixel"
        )
    if level_B is not None and level_B.shape != (batch,):
        raise UsageError(f"level_B has shape {tuple(level_B.shape)}; give one level for each of {batch} samples")
    p = patch_size
    pad_rows, pad_cols = -height % p, -width % p
    rows, cols = (height + pad_rows) // p, (width + pad_cols) // p

    pixel_BHW = torch.ones_like(x_BHWC[..., 0], dtype=torch.bool) if mask_BHW is None else mask_BHW.to(torch.bool)
    if pad_rows or pad_cols:
        x_BHWC = F.pad(x_BHWC.to(torch.float32), (0, 0, 0, pad_cols, 0, pad_rows))
        pixel_BHW = F.pad(pixel_BHW, (0, pad_cols, 0, pad_rows))
    x_BrcpqC = _cut(x_BHWC, rows, cols, p)
    pixel_BNP = _cut(pixel_BHW[..., None], rows, cols, p).reshape(batch, rows * cols, p * p)
    position_BN2 = token_places(batch, rows, cols, x_BHWC.device)
    if keep_BK is not None:
        take = keep_BK[:, :, None]
        x_BNPC = x_BrcpqC.to(torch.float32).reshape(batch, rows * cols, p * p, channels)
        x_BrcpqC = x_BNPC.gather(1, take[..., None].expand(-1, -1, *x_BNPC.shape[2:]))
        pixel_BNP = pixel_BNP.gather(1, take.expand(-1, -1, pixel_BNP.shape[2]))
        position_BN2 = position_BN2.gather(1, take.expand(-1, -1, 2))

    weights_GC = bands.once("quadrature", lambda: quadrature_weights(bands).to(torch.float32))
    x_BCNP, pixel_BNP, holes = _clean(x_BrcpqC, pixel_BNP, bands)
    magnitude_BN = _magnitude(x_BCNP, pixel_BNP, weights_GC)
    count_BN = pixel_BNP.sum(-1)
    if level_B is None:
        level_B = torch.ones(batch, device=x_BCNP.device) if level == "none" else _mean_level(magnitude_BN, count_BN)
    level_B = level_B.to(torch.float32).clamp_min(1e-12)
    divisor_BN = level_B[:, None].expand_as(magnitude_BN)
    if level == "patch":
        divisor_BN = torch.where(count_BN > 0, magnitude_BN.maximum(DARKEST * divisor_BN), divisor_BN)

    divisor_B1N_ = divisor_BN[:, None, :, None]
    if level == "pixel":
        own_BNP = _pixel_magnitude(x_BCNP, weights_GC).maximum(DARKEST * divisor_BN[..., None])
        divisor_B1N_ = torch.where(pixel_BNP, own_BNP, divisor_BN[..., None])[:, None]
    x_BCNP = x_BCNP / divisor_B1N_ if x_BCNP.requires_grad else x_BCNP.div_(divisor_B1N_)
    if holes:
        mean_BCN = x_BCNP.sum(-1) / count_BN.clamp_min(1)[:, None]
        x_BCNP = x_BCNP.addcmul_(mean_BCN[..., None], (~pixel_BNP[:, None]).to(torch.float32))
    return Patches(
        x_BCNP,
        count_BN / float(p * p),
        count_BN > 0,
        position_BN2,
        (rows, cols),
        bands,
        weights_GC,
        level_B.log(),
        (divisor_BN / level_B[:, None]).log(),
    )


def sample_level(x_BHWC: Tensor, bands: BandTensors, mask_BHW: Tensor | None = None) -> Tensor:
    """level_B: weighted mean magnitude (physical units) over valid pixels and bands; 1 where there is none."""
    pixel_BHW = torch.ones_like(x_BHWC[..., 0], dtype=torch.bool) if mask_BHW is None else mask_BHW
    weights_GC = bands.once("quadrature", lambda: quadrature_weights(bands).to(torch.float32))
    x_BCNP, pixel_BNP, _ = _clean(x_BHWC.unsqueeze(1), pixel_BHW.flatten(1).unsqueeze(1), bands)
    return _mean_level(_magnitude(x_BCNP, pixel_BNP, weights_GC), pixel_BNP.sum(-1))


def _clean(x_BN__C: Tensor, pixel_BNP: Tensor, bands: BandTensors) -> tuple[Tensor, Tensor, bool]:
    """Physical x_BCNP with 0 in unusable bands and pixels; which pixels are usable; False if surely all of them are.

    The cube is copied once, into the order that the embedding reads: a fresh buffer costs several times what passing
    over it does (the first touch of every page). All that follows works in place, on memory of our own. One grid: band
    by band, so that the samples of a band make one matrix product; else sample by sample.
    """
    batch, tokens, pixels = pixel_BNP.shape
    x = x_BN__C.movedim(-1, 0) if len(bands) == 1 else x_BN__C.movedim(-1, 1)
    x = torch.empty(x.shape, device=x.device).copy_(x)
    x_BCNP = x.view(-1, batch, tokens, pixels).transpose(0, 1) if len(bands) == 1 else x.view(batch, -1, tokens, pixels)
    valid_GC11 = bands.valid_GC[:, :, None, None]
    if _some(~valid_GC11):
        x_BCNP.masked_fill_(~valid_GC11, 0.0)
    x_BCNP.mul_(bands.scale_G.view(-1, 1, 1, 1)).add_(torch.where(valid_GC11, bands.offset_G.view(-1, 1, 1, 1), 0.0))
    pixel_BNP = pixel_BNP & x_BCNP.sum(1).isfinite() & bands.valid_GC.any(1)[:, None, None]
    holes = _some(~pixel_BNP)
    if holes:
        x_BCNP.masked_fill_(~pixel_BNP[:, None], 0.0)
    return x_BCNP, pixel_BNP, holes


def _some(mask: Tensor) -> bool:
    """False if nothing is marked. Not asked of a GPU, which would have to be waited for, nor of a graph that is being
    compiled or exported, which must serve all cubes: there it is always True."""
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    return mask.device.type != "cpu" or traced or bool(mask.any())


def _blocks(x_BCNP: Tensor, weights_GC: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Some bands at a time, or their magnitudes would be a copy of the whole cube; in a graph all, however many."""
    if torch.compiler.is_exporting():
        return [(x_BCNP, weights_GC)]
    return zip(x_BCNP.split(BAND_BLOCK, 1), weights_GC.split(BAND_BLOCK, 1), strict=True)


def _magnitude(x_BCNP: Tensor, pixel_BNP: Tensor, weights_GC: Tensor) -> Tensor:
    """Quadrature-weighted mean magnitude of each patch over its valid pixels; 0 where there is none."""
    total_BN = x_BCNP.new_zeros(x_BCNP.shape[0], x_BCNP.shape[2])
    # Outside autocast: in bf16 the level, which divides everything, would be off by up to 0.4 %.
    with torch.autocast(x_BCNP.device.type, enabled=False):
        for x_BcNP, weights_Gc in _blocks(x_BCNP, weights_GC):
            total_BN = total_BN + (x_BcNP.abs().sum(-1) * weights_Gc[..., None]).sum(1)
    return total_BN / pixel_BNP.sum(-1).clamp_min(1)


def _pixel_magnitude(x_BCNP: Tensor, weights_GC: Tensor) -> Tensor:
    """Quadrature-weighted mean magnitude of each pixel, [B, N, P]; 0 of one that is not valid."""
    total_BNP = x_BCNP.new_zeros(x_BCNP.shape[0], *x_BCNP.shape[2:])
    with torch.autocast(x_BCNP.device.type, enabled=False):
        for x_BcNP, weights_Gc in _blocks(x_BCNP, weights_GC):
            total_BNP = total_BNP + (x_BcNP.abs() * weights_Gc[..., None, None]).sum(1)
    return total_BNP


def _mean_level(magnitude_BN: Tensor, count_BN: Tensor) -> Tensor:
    level_B = (magnitude_BN * count_BN).sum(1) / count_BN.sum(1).clamp_min(1)
    return torch.where(level_B > 0, level_B, 1.0)


def _cut(x_BHWC: Tensor, rows: int, cols: int, p: int) -> Tensor:
    """A view (batch, token row, token col, pixel row, pixel col, band): nothing is copied."""
    return x_BHWC.unflatten(2, (cols, p)).unflatten(1, (rows, p)).transpose(2, 3)


def cut_patches(x_BHWC: Tensor, patch_size: int) -> Tensor:
    """x_BNPC: patches row-major, as :func:`patchify` cuts them; sides are padded with 0 as needed."""
    height, width = x_BHWC.shape[1:3]
    x_BHWC = F.pad(x_BHWC, (0, 0, 0, -width % patch_size, 0, -height % patch_size))
    rows, cols = x_BHWC.shape[1] // patch_size, x_BHWC.shape[2] // patch_size
    return _cut(x_BHWC, rows, cols, patch_size).flatten(1, 2).flatten(2, 3)


def token_places(batch: int, rows: int, cols: int, device: torch.device) -> Tensor:
    """position_BN2: (row, col) of every token, row-major."""
    row, col = torch.meshgrid(torch.arange(rows, device=device), torch.arange(cols, device=device), indexing="ij")
    return torch.stack([row.flatten(), col.flatten()], dim=-1).expand(batch, -1, -1)


def as_tensor(x: Tensor | np.ndarray) -> Tensor:
    """A cube as a tensor; an array that torch cannot look into (byte order, reversed axes) is copied first."""
    if isinstance(x, Tensor):
        if x.is_complex() or x.dtype == torch.bool:
            raise UsageError(f"a cube holds whole or real numbers, got a tensor of {x.dtype}; convert it first")
        return x
    x = np.asarray(x)
    if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
        raise UsageError(f"a cube holds whole or real numbers, got an array of {x.dtype}; convert it first")
    return torch.from_numpy(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))
