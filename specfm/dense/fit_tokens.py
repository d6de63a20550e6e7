"""What a fit works on: the tokens of windows before the stems, in sums from which whitened maps follow.

Shapes: B windows, H W pixels of a window, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from specfm.batch import BandTensors
from specfm.errors import SpecfmError
from specfm.models.patches import Patches
from specfm.models.pixels import patch_middles
from specfm.models.stem import Stem
from specfm.models.whitening import Moments
from specfm.whiten_recipe import WhitenRecipe

if TYPE_CHECKING:
    from specfm.bands import BandGrid
    from specfm.library import Library
    from specfm.sensors import Sensor

WINDOW_PATCHES = 3  # side of a window where the encoder's card names none


class FitEncoder(Protocol):
    """What a fit needs of an encoder: everything up to its stems."""

    patch_size: int
    num_features: int
    card: dict[str, Any]
    aligned: bool
    library: Library | None
    brightness: torch.nn.Linear | None
    training: bool

    @property
    def fixed_side(self) -> int | None: ...

    @property
    def aligned_to(self) -> list[Sensor] | None: ...

    @property
    def stem(self) -> Stem: ...

    @property
    def pixel_stem(self) -> Stem | None: ...

    @property
    def device(self) -> torch.device: ...

    def prepare(self, x_BHWC: Tensor, bands: BandTensors, mask_BHW: Tensor | None = None) -> Patches: ...

    def generated(self, patches: Patches) -> Tensor: ...

    def pixels(self, x_BHWC: Tensor, mask_BHW: Tensor | None, patches: Patches, place_Q2: Tensor) -> Patches: ...

    def train(self, mode: bool = True) -> Any: ...

    def plain(self) -> AbstractContextManager[None]: ...

    def align(self, on: bool = True, sensors: Sequence[Sensor | BandGrid | str] = ()) -> Any: ...


def stems_of(encoder: FitEncoder) -> list[Stem]:
    """The stems that are fitted."""
    return [stem for stem in (encoder.stem, encoder.pixel_stem) if stem is not None]


def empty_moments(encoder: FitEncoder) -> list[Moments]:
    """Nothing summed yet, for each of :func:`stems_of`."""
    return [Moments(encoder.num_features, encoder.device) for _ in stems_of(encoder)]


def whitened(
    encoder: FitEncoder, moments: Sequence[Moments], recipe: WhitenRecipe, where: str
) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each stem.

    Raises:
        SpecfmError: fewer pairs of neighbouring patches than directions; ``where`` they were looked for is named.
    """
    fewest, width = min(each.pairs for each in moments), len(moments[0].mean_D)
    if fewest < width:
        raise SpecfmError(
            f"{where}: {fewest} pairs of neighbouring patches with data are too few to tell the noise of {width} "
            "directions; fit several scenes of the acquisition together, or a larger piece of it"
        )
    try:
        brightness_D = None if encoder.brightness is None else encoder.brightness.weight.detach()[:, 0]
        return [each.whitened(recipe, brightness_D) for each in moments]
    except SpecfmError as error:
        raise SpecfmError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Lattice:
    """Tokens of windows of one size.

    Attributes:
        tokens_BND: row-major; undefined where not valid.
        valid_BN: all pixels of the patch, or the pixel, are valid.
        grid_hw: cells of a window.
    """

    tokens_BND: Tensor
    valid_BN: Tensor
    grid_hw: tuple[int, int]


@torch.no_grad()
def lattices(encoder: FitEncoder, x_BHWC: Tensor, bands: BandTensors, mask_BHW: Tensor | None = None) -> list[Lattice]:
    """Tokens of windows before each of :func:`stems_of`."""
    patches = encoder.prepare(x_BHWC, bands, mask_BHW)
    found = [Lattice(encoder.generated(patches), patches.pixels_BN >= 1, patches.grid_hw)]
    if encoder.pixel_stem is not None:
        places = patch_middles(patches.grid_hw, encoder.patch_size, encoder.device)
        pixels = encoder.pixels(x_BHWC, mask_BHW, patches, places)
        found.append(Lattice(encoder.generated(pixels), pixels.token_mask_BN, patches.grid_hw))
    return found


def add_lattices(moments: Sequence[Moments], found: Sequence[Lattice], step: int) -> None:
    """Take tokens of windows into the moments of :func:`stems_of`; ``step``: cells between those that are compared."""
    for each, lattice in zip(moments, found, strict=True):
        each.add_lattice(lattice.tokens_BND, lattice.valid_BN, lattice.grid_hw, step)


def window_side(encoder: FitEncoder, recipe: WhitenRecipe) -> int:
    """Side of the windows that are read, pixels: as pretrained, and wide enough to hold two patches to compare."""
    if encoder.fixed_side is not None:
        return encoder.fixed_side
    patch = encoder.patch_size
    window = encoder.card.get("window") or 0
    known = (max(window) if isinstance(window, list | tuple) else int(window)) // patch
    return max(known or WINDOW_PATCHES, recipe.step(patch) + 1) * patch
