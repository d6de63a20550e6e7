"""A stem for every domain or scene of the shards, in closed form from their own windows, before the first step.

Noise belongs to an acquisition: one whitened stem for all sensors (``pretrain/whiten.py``) costs each of them. Here
every sample goes through the stem of its domain or scene, all of which stay as they are; the encoder's own stem, for
sensors that it is not fitted to, is that of all of them together.

Shapes: B samples, N tokens, D width, S acquisitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretrain.pairs.nearest import chunks, noise_pairs, spread
from pretrain.views.plain import middle
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.dense.fit_tokens import add_lattices, empty_moments, lattices, stems_of, whitened
from specfm.errors import SpecfmError, UsageError
from specfm.models.backbone import Backbone
from specfm.models.encoder import Encoder
from specfm.models.pixels import patch_middles
from specfm.models.stem import Acquisition, Stem, Stems
from specfm.models.whitening import Moments
from specfm.progress import progress
from specfm.shards import ShardReader, ShardSet
from specfm.whiten_recipe import WhitenRecipe

Per = Literal["sensor", "scene"]
PATCHES = 20_000  # most patches of a scene that are looked at
WINDOWS = 256  # read at once
MOST_BYTES = 2 << 30  # of all stems


def acquisitions(shards: ShardSet, per: Per) -> list[Acquisition]:
    """Domains in the order of their ids, then scenes in that of theirs, where each has a stem."""
    sensors: dict[str, set[str]] = {name: set() for name in shards.domain_names}
    for reader in shards.readers:
        sensors[reader.domain].add(reader.sensor.name or "")
    found = [Acquisition(name, min(names) if len(names) == 1 else "") for name, names in sensors.items()]
    counts = np.diff(shards.scene_offsets)
    for reader, count in zip(shards.readers, counts, strict=True) if per == "scene" else ():
        called = [*reader.scene_names, *(f"scene {n}" for n in range(len(reader.scene_names), count))]
        found += [Acquisition(reader.domain, reader.sensor.name or "", name) for name in called]
    return found


def allocate(encoder: Encoder, shards: ShardSet, per: Per) -> None:
    """Hold a stem for every acquisition, to be filled by :func:`compute` or from another process.

    Raises:
        UsageError: they would take too much memory, or the encoder's tokens are aligned.
    """
    listed, width, kinds = acquisitions(shards, per), encoder.num_features, len(stems_of(encoder))
    if (size := len(listed) * kinds * width * (width + 1) * 4) > MOST_BYTES:
        raise UsageError(
            f"whiten.per={per}: {len(listed)} stems of width {width} would take {size / 2**30:.1f} GiB; use "
            "whiten.per=sensor, or fewer scenes"
        )
    encoder.stems = Stems(
        tuple(listed), torch.zeros(kinds, len(listed), width, width), torch.zeros(kinds, len(listed), width)
    )


def compute(encoder: Encoder, shards: ShardSet, per: Per, recipe: WhitenRecipe) -> None:
    """Fill the stems of all acquisitions that :func:`allocate` made room for, and the encoder's own.

    Raises:
        UsageError: a scene (or domain) without enough neighbouring patches.
    """
    stems = encoder.stems
    assert stems is not None
    encoder.stems = None  # tokens before any stem
    domains = {name: empty_moments(encoder) for name in shards.domain_names}
    scenes = [(r, s) for r, reader in enumerate(shards.readers) for s in np.unique(reader.scene_id_N)]
    rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
    with progress(f"stems of {'scenes' if per == 'scene' else 'domains'}", len(scenes)) as advance:
        for shard, scene in scenes:
            reader = shards.readers[shard]
            moments = scene_moments(encoder, reader, int(scene), recipe)
            for whole, part in zip(domains[reader.domain], moments, strict=True):
                whole.merge(part)
            if per == "scene":
                number = len(domains) + int(shards.scene_offsets[shard] + scene)
                rows[number] = _whitened(encoder, moments, recipe, per, stems.acquisitions[number].scene)
            advance()
    everything = empty_moments(encoder)
    for number, (name, moments) in enumerate(domains.items()):
        rows[number] = _whitened(encoder, moments, recipe, per, name)
        for whole, part in zip(everything, moments, strict=True):
            whole.merge(part)
    for stem, (weight_DD, bias_D) in zip(
        stems_of(encoder), _whitened(encoder, everything, recipe, per, "all"), strict=True
    ):
        stem.set(weight_DD, bias_D)
    for number, maps in rows.items():
        for kind, (weight_DD, bias_D) in enumerate(maps):
            stems.weight_KSDD[kind, number], stems.bias_KSD[kind, number] = weight_DD, bias_D
    encoder.stems = stems


def _whitened(
    encoder: Encoder, moments: Sequence[Moments], recipe: WhitenRecipe, per: Per, where: str
) -> list[tuple[Tensor, Tensor]]:
    try:
        return whitened(encoder, moments, recipe, f"whiten.per={per}: {where}")
    except SpecfmError as error:
        remedy = "cut more of it (specfm shard --window or --stride)" + (
            ", or use whiten.per=sensor" if per == "scene" else ", or leave it out (data.exclude)"
        )
        raise UsageError(f"{error}; here: {remedy}") from None


def scene_moments(encoder: Encoder, reader: ShardReader, scene: int, recipe: WhitenRecipe) -> list[Moments]:
    """Moments of the tokens of a scene's windows; the noise from patches inside them where they are wide enough.

    Where they are not, from windows of the scene whose places differ by the shift, or by as little more as any do.
    """
    moments, patch = empty_moments(encoder), encoder.patch_size
    cells = [-(-(encoder.fixed_side or side) // patch) for side in reader.window]
    ids = np.flatnonzero((reader.scene_id_N == scene) & (reader.valid_N > 0))
    ids = ids[spread(len(ids), max(1, PATCHES // (cells[0] * cells[1])))]
    bands, step = BandTensors.from_sensors(reader.sensor), recipe.step(patch)
    with encoder.plain():
        for x_BHWC, mask_BHW in _read(encoder, reader, ids):
            add_lattices(moments, lattices(encoder, x_BHWC, bands, mask_BHW), step)
        if max(cells) <= step:
            sides = noise_pairs(reader, max(recipe.shift, patch), "set whiten.per=run")
            _add_pairs(encoder, moments, reader, sides[reader.scene_id_N[sides[:, 0]] == scene], bands)
    return moments


@torch.no_grad()
def _add_pairs(
    encoder: Encoder, moments: Sequence[Moments], reader: ShardReader, sides: NDArray[np.int64], bands: BandTensors
) -> None:
    """Differences of the tokens at one place of two windows."""
    for first, second in zip(*(_read(encoder, reader, ids) for ids in sides.T), strict=True):
        seen = [_tokens(encoder, x_BHWC, bands, mask_BHW) for x_BHWC, mask_BHW in (first, second)]
        for kind, ((one_BND, one_BN), (two_BND, two_BN)) in enumerate(zip(*seen, strict=True)):
            both_BN = one_BN & two_BN
            moments[kind].add_differences(one_BND[both_BN].double() - two_BND[both_BN].double())


def _tokens(encoder: Encoder, x_BHWC: Tensor, bands: BandTensors, mask_BHW: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Tokens before each stem, and which of them count."""
    patches = encoder.prepare(x_BHWC, bands, mask_BHW)
    found = [(encoder.generated(patches), patches.pixels_BN >= 1)]
    if encoder.pixel:
        places = patch_middles(patches.grid_hw, encoder.patch_size, encoder.device)
        pixels = encoder.pixels(x_BHWC, mask_BHW, patches, places)
        found.append((encoder.generated(pixels), pixels.token_mask_BN))
    return found


def _read(encoder: Encoder, reader: ShardReader, ids: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    for some in chunks(ids, WINDOWS):
        x_BHWC, mask_BHW = (torch.from_numpy(each) for each in reader.read(reader.resolve(some)))
        yield middle(x_BHWC, encoder.fixed_side), middle(mask_BHW, encoder.fixed_side)


@dataclass(frozen=True)
class StemRouter:
    """Tells every sample of a batch of these shards which stem is its own.

    Attributes:
        per: None: all share one stem.
        domains: how many there are.
        stem: of an encoder that may bring stems of other shards, where ``per`` is None: the names of the sensors
            decide, and are asked here, since views leave some names out.
    """

    per: Per | None
    domains: int
    stem: Stem | None = None

    def part(self, part: BatchPart) -> BatchPart:
        """A part with its stems named."""
        if self.per is None:
            row_G = None if self.stem is None else self.stem.rows_of(part.bands.names)
            return part if row_G is None else part.replace(stem_B=row_G.expand(len(part)))
        return part.replace(stem_B=part.domain_B if self.per == "sensor" else part.scene_id_B + self.domains)

    def __call__(self, batch: Batch) -> Batch:
        """A batch with its stems named."""
        return Batch(tuple(self.part(part) for part in batch))


def share_stems(modules: nn.ModuleDict) -> None:
    """Averages and teachers go through the encoder's stems of acquisitions, which are no part of their weights."""
    encoder = modules["encoder"]
    assert isinstance(encoder, Encoder | Backbone)
    for other in modules.modules():
        if isinstance(other, Encoder) and other is not encoder:
            other.stems = encoder.stems
