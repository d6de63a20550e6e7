"""Control: the plain linear patch embedding of a sensor whose bands never change.

Shapes: B samples, N tokens, C bands, P pixels of a patch, D token width, G = 1 or B band grids.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from specfm.bands import BandGrid
from specfm.batch import FILLER_NM
from specfm.errors import SpecfmError, UsageError
from specfm.models.embeddings.contraction import per_band_sum
from specfm.models.patches import Patches


class FixedEmbedding(nn.Module):
    """``token_n = W x_n + b``: a Conv2d stem as a matrix product. Band order is part of the weights.

    Args:
        dim: D.
        patch_size: p.
        channels: C; any grid with as many bands is taken.
        grid: a :class:`BandGrid`'s dictionary instead; then only that grid is taken.

    Raises:
        UsageError: neither or both of ``channels`` and ``grid``.
    """

    # An absent band (2), other samplings (3), other band counts (5) and mixed grids (6) are what it cannot have.
    claims = frozenset({4, 7, 8, 9})
    linear_in_patches = True  # once the bands are known

    def __init__(self, dim: int, patch_size: int, channels: int | None = None, grid: dict[str, Any] | None = None):
        super().__init__()
        if (channels is None) == (grid is None):
            raise UsageError("embedding 'fixed' serves one sensor; give channels=COUNT or grid=BandGrid.to_dict()")
        self.grid = None if grid is None else BandGrid.from_dict(grid)
        self.channels = len(self.grid) if self.grid is not None else int(channels or 0)
        self.dim, self.pixels = dim, patch_size**2
        self.linear = nn.Linear(self.channels * self.pixels, dim)

    def forward(self, patches: Patches) -> Tensor:
        """tokens_BND.

        Raises:
            SpecfmError: another band count or another grid than the one it was built for.
        """
        self._check(patches)
        return self.linear(patches.x_BCNP.transpose(1, 2).flatten(2))

    def reference(self, patches: Patches) -> Tensor:
        """tokens_BND with every band's own token formed; slow, for the tests."""
        self._check(patches)
        kernel_CDP = self.linear.weight.unflatten(1, (self.channels, self.pixels)).transpose(0, 1)
        return per_band_sum(kernel_CDP[None], patches.x_BCNP) + self.linear.bias

    def _check(self, patches: Patches) -> None:
        found = patches.x_BCNP.shape[1]
        if found != self.channels:
            raise SpecfmError(f"embedding 'fixed' was built for {self.channels} bands and was given {found}")
        if self.grid is None:
            return
        seen_GC = patches.bands.wavelengths_nm_GC
        own_C = torch.from_numpy(self.grid.wavelengths_nm.copy()).nan_to_num(nan=FILLER_NM).to(seen_GC.device)
        if not torch.allclose(seen_GC, own_C, rtol=1e-6, atol=0):
            raise SpecfmError("embedding 'fixed' was built for another band grid; resample the cube to it first")
