"""The windows of an acquisition that a fit reads, and what is collected from them in bounded memory.

Windows of the encoder's own size are read at even places, so that light and content are those that it meets in use.

Shapes: B windows, H W pixels of a window, C bands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from specfm.batch import BandTensors
from specfm.dense.fit_tokens import FitEncoder, add_lattices, empty_moments, lattices, window_side
from specfm.dense.home import HomeSpectra
from specfm.dense.tile_reader import fitting_batch, refuse_odd_numbers
from specfm.digests import digest_parts
from specfm.errors import UsageError
from specfm.scene import Scene
from specfm.tiles import STRIP_BYTES
from specfm.whiten_recipe import WhitenRecipe
from specfm.window import read_window

WINDOWS = 256  # read at once


class Survey:
    """Collects from the scenes of one acquisition.

    Args:
        encoder: whose embedding is looked at.
        scenes: all that will be added.
        recipe: of the whitening to come.
        patches: most that are looked at, over all of them.

    Attributes:
        moments: of the tokens before each stem.
        spectra: those of middle patches.

    Raises:
        UsageError: no patch to look at.
    """

    def __init__(self, encoder: FitEncoder, scenes: Sequence[Scene], recipe: WhitenRecipe, patches: int) -> None:
        if patches < 1:
            raise UsageError(f"a fit needs patches to look at, not {patches}")
        self.encoder, self.recipe, self.side = encoder, recipe, window_side(encoder, recipe)
        cells = (self.side // encoder.patch_size) ** 2
        self._stride = 1
        places = sum(math.prod(map(len, self._corners(scene))) for scene in scenes)
        self._stride = max(1, math.ceil(math.sqrt(places * cells / patches)))
        windows = sum(math.prod(map(len, self._corners(scene))) for scene in scenes)
        self.moments = empty_moments(encoder)
        self.spectra = HomeSpectra(windows)

    def add(self, scene: Scene) -> str:
        """Take in the windows of a scene; a digest of what was read.

        Raises:
            UsageError: a list of spectra.
        """
        if not scene.neighbours:
            raise UsageError(
                f"{scene.where}: is a list of spectra without neighbours, so nothing says what is noise; fit the "
                "encoder to the scene that they are from, or leave fit out"
            )
        refuse_odd_numbers(scene)
        encoder, side = self.encoder, self.side
        bands, step = BandTensors.from_sensors(scene.sensor), self.recipe.step(encoder.patch_size)
        rows, cols = self._corners(scene)
        parts: list[str] = [scene.sensor.digest]
        with encoder.plain():
            for row in rows:
                for some in _beside(cols, side, scene.shape[2]):
                    # in one piece: many formats read whole lines anyway
                    strip_HWC, mask_HW = read_window(scene, row, some[0], side, some[-1] + side - some[0])
                    x_BHWC = np.stack([strip_HWC[:, col - some[0] :][:, :side] for col in some])
                    mask_BHW = np.stack([mask_HW[:, col - some[0] :][:, :side] for col in some])
                    parts.append(digest_parts([x_BHWC, mask_BHW]))
                    self.spectra.add(scene.sensor, x_BHWC, mask_BHW, encoder.patch_size)
                    found = lattices(encoder, torch.from_numpy(x_BHWC), bands, torch.from_numpy(mask_BHW))
                    add_lattices(self.moments, found, step)
        return digest_parts(parts)

    def _corners(self, scene: Scene) -> tuple[range, range]:
        """First rows and first columns of the windows that are read."""
        rows, cols = (range(0, max(size - self.side, 0) + 1, self._stride) for size in scene.shape[:2])
        return rows, cols


def _beside(cols: range, side: int, bands: int) -> Iterator[range]:
    """First columns of windows of one row that are read, and then encoded, at once."""
    pixel = side * bands * 4  # bytes of a column of a strip in float32
    fit_in = (STRIP_BYTES // pixel - side) // cols.step + 1
    most = max(1, min(fit_in, fitting_batch(WINDOWS, side, bands)))
    for start in range(0, len(cols), most):
        yield cols[start : start + most]
