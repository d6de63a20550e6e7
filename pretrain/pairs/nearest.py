"""Nearest samples elsewhere, found before the first step in a metric that knows noise.

Neighbours share material and *place* (light, view, air, ground); with negatives from elsewhere, place tells pairs
apart best and is what is learnt. The nearest samples of another place share what survives a change of place. (NNCLR,
Dwibedi et al., arXiv 2104.14548, takes neighbours in learnt features; here place is excluded, and mining anew in learnt
features was worse.)

A sample is described by the mean spectrum of its centre patch over its level, whitened by the noise of its own shard
(:func:`whitening_of`); views must show that patch (:mod:`pretrain.windows`). The search is exact, in chunks, among at
most ``candidates`` samples of the shard. Samples whose centre patch has no valid pixel are nobody's neighbours.

Shapes: N samples of a shard (or of all), M candidates, B samples asked for, C bands, E components, K neighbours, L
window pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Nearness, Pairing, Pairs
from pretrain.rng import mix64
from specfm.batch import BandTensors
from specfm.digests import digest_json
from specfm.engine.distributed import World
from specfm.errors import SpecfmError, UsageError
from specfm.models.quadrature import quadrature_weights
from specfm.models.whitening import Moments, whitening
from specfm.shards import ShardSet
from specfm.shards.reader import ShardReader

MOST_PAIRS = 20_000  # of windows whose difference is noise
FEWEST_PAIRS = 100
FARTHEST_SHIFT = 64
MADE_LIKE = 2  # a folder of the run keeps what was mined; a new number where mining changes
_ROWS = 256


@dataclass(frozen=True)
class Mined:
    """What is known of the samples of a shard, or of all shards one after the other.

    Attributes:
        neighbour_NK: local ids, nearest first; -1 where there are fewer.
        radius_N: distance of the ``near``-th one.
        descriptor_NE: in which distances are measured; NaN where nothing is known.
    """

    neighbour_NK: Tensor
    radius_N: Tensor
    descriptor_NE: Tensor


class NearestElsewhere(Pairing):
    """The second view is of one of the nearest samples elsewhere; a sample that has none is paired with itself.

    Args:
        config: how near, how far apart.
        shards: the store.
        patch_size: of the encoder, pixels.
        seed: of the run.
        world: this process among all.
        folder: of the run; what was mined is kept below it.
    """

    def __init__(
        self, config: PairsConfig, shards: ShardSet, patch_size: int, seed: int, world: World, folder: Path
    ) -> None:
        self.config, self.shards, self.patch_size = config, shards, patch_size
        self.seed, self.world, self.folder = seed, world, folder / "neighbours"
        self.mined: Mined | None = None

    def start(self) -> None:
        """Mine every shard (shared out over ranks) unless the run's folder holds what was mined before.

        Raises:
            UsageError: a shard whose windows have no neighbours to measure noise by.
        """
        readers, shift, patch = self.shards.readers, self.config.shift_px, self.patch_size
        self.world.on_main(lambda: sum(len(noise_pairs(reader, disjoint(reader, shift, patch))) for reader in readers))
        paths = [self.folder / f"{reader.path.stem}-{self._digest(reader)}.safetensors" for reader in readers]
        for number, (reader, path) in enumerate(zip(readers, paths, strict=True)):
            if number % self.world.size == self.world.rank and not path.exists():
                _write(path, mine(reader, self.config, self.patch_size))
        self.world.sum(torch.zeros(1, device=self.world.device))  # all have written
        self.mined = _together([_read(path) for path in paths])

    def _digest(self, reader: ShardReader) -> str:
        said = self.config.model_dump(include={"k", "near", "apart_px", "components", "shift_px", "candidates"})
        return digest_json([MADE_LIKE, reader.fingerprint, reader.sensor.bands.digest, self.patch_size, said])

    def partners(self, step: int, shard: int, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        assert self.mined is not None, "start mines"
        number_B = ids + self.shards.offsets[shard]
        neighbour_BK = self.mined.neighbour_NK[torch.from_numpy(number_B)].numpy().astype(np.int64)
        count_B = (neighbour_BK >= 0).sum(1)
        draw_B = mix64(self.seed, 7, step, number_B.astype(np.uint64))
        choice_B = (draw_B % np.maximum(count_B, 1).astype(np.uint64)).astype(np.int64)
        partner_B = np.take_along_axis(neighbour_BK, choice_B[:, None], 1)[:, 0]
        return np.full(len(ids), shard), np.where(count_B > 0, partner_B, ids)

    def nearness(self, pairs: Pairs) -> Nearness:
        assert self.mined is not None, "start mines"
        first_B, second_B = (side.cat("sample_id_B").cpu() for side in pairs.sides)
        space_B = torch.from_numpy(self.shards.locate(first_B.numpy())[0])  # a shard has its own whitening
        described = (self.mined.descriptor_NE[number_B] for number_B in (first_B, second_B))
        found = (*described, self.mined.radius_N[first_B], space_B)
        return Nearness(*(each.to(self.world.device) for each in found))


def mine(reader: ShardReader, config: PairsConfig, patch_size: int) -> Mined:
    """Neighbours elsewhere of all samples of a shard."""
    total = len(reader)
    chosen_M = spread(total, config.candidates)
    moments = moments_of(reader, config.shift_px, patch_size, chosen_M)
    matrix_CC = whitening_of(reader, moments, config.components)
    _, size_C, turn_CC = torch.linalg.svd(matrix_CC)  # the same distances in as few numbers as there are components
    matrix_EC = (size_C[:, None] * turn_CC)[: config.components]
    every = [spectra(reader, rows, patch_size) - moments.mean_D for rows in chunks(np.arange(total))]
    descriptor_NE = torch.cat([some @ matrix_EC.T for some in every]).float()
    neighbour_NK, radius_N = _neighbours(reader, descriptor_NE, chosen_M, config)
    return Mined(neighbour_NK, radius_N, descriptor_NE)


def moments_of(
    reader: ShardReader,
    shift_px: int,
    patch_size: int,
    chosen_M: NDArray[np.int64] | None = None,
    otherwise: str = "set pairs.kind=views",
) -> Moments:
    """Signal and noise of a shard: of :func:`spectra` of the chosen windows, and of their differences side by side.

    Args:
        reader: the shard.
        shift_px: how far apart windows are whose difference is noise, at least (:func:`disjoint`).
        patch_size: of the encoder, pixels.
        chosen_M: local ids; None: up to ``MOST_PAIRS``, evenly spread.
        otherwise: see :func:`noise_pairs`.

    Raises:
        UsageError: too few windows lie side by side.
    """
    sides = noise_pairs(reader, disjoint(reader, shift_px, patch_size), otherwise)
    moments = Moments(len(reader.sensor.bands))
    for rows in chunks(spread(len(reader), MOST_PAIRS) if chosen_M is None else chosen_M):
        moments.add(_known(spectra(reader, rows, patch_size)))
    for rows in chunks(np.arange(len(sides))):
        first, second = sides[rows].T
        moments.add_differences(_known(spectra(reader, first, patch_size) - spectra(reader, second, patch_size)))
    return moments


def disjoint(reader: ShardReader, shift_px: int, patch_size: int) -> int:
    """``shift_px``, or as much more as keeps the middle patches of two windows apart."""
    return max(shift_px, min(patch_size, max(reader.window)))


def whitening_of(reader: ShardReader, moments: Moments, components: int | None = None) -> Tensor:
    """matrix_CC that whitens :func:`spectra` of a shard; 0 along the level.

    Over its level a spectrum has neither noise nor signal along the quadrature weights: what whitening makes of nothing
    is rounding, magnified.

    Raises:
        SpecfmError: too few windows with data lie side by side, or they are all the same.
    """
    try:
        matrix_CC, _ = whitening(moments, components=components)
    except SpecfmError as error:
        raise SpecfmError(f"{reader.path}: {error}") from None
    flat_C = quadrature_weights(BandTensors.from_sensors(reader.sensor))[0]
    flat_C = flat_C / flat_C.norm()
    return matrix_CC - torch.outer(matrix_CC @ flat_C, flat_C)


def _known(spectra_BC: Tensor) -> Tensor:
    return spectra_BC[spectra_BC.isfinite().all(1)]


def _neighbours(
    reader: ShardReader, descriptor_NE: Tensor, chosen_M: NDArray[np.int64], config: PairsConfig
) -> tuple[Tensor, Tensor]:
    index_M = torch.from_numpy(chosen_M)
    group_N, scene_N = torch.from_numpy(reader.group_N), torch.from_numpy(reader.scene_id_N)
    origin_N2 = torch.from_numpy(reader.origin_N2.astype(np.int32))
    one_group = bool((group_N == group_N[0]).all())
    wanted = min(max(config.k, config.near), len(index_M))
    candidate_ME = descriptor_NE[index_M]
    found, radius = [], []
    for rows_B in torch.arange(len(descriptor_NE)).split(_ROWS):
        distance_BM = torch.cdist(descriptor_NE[rows_B], candidate_ME)
        if one_group:
            elsewhere_BM = scene_N[rows_B, None] != scene_N[index_M]
            for place_N in origin_N2.unbind(1):
                elsewhere_BM |= (place_N[rows_B, None] - place_N[index_M]).abs() >= config.apart_px
        else:
            elsewhere_BM = group_N[rows_B, None] != group_N[index_M]
        elsewhere_BM = elsewhere_BM & distance_BM.isfinite()
        distance_BM = torch.where(elsewhere_BM, distance_BM, torch.inf)
        near_BW, place_BW = distance_BM.topk(wanted, dim=1, largest=False)
        neighbour_BK = torch.where(near_BW[:, : config.k].isfinite(), index_M[place_BW[:, : config.k]], -1)
        found.append(neighbour_BK.to(torch.int32))
        # Where fewer than ``near`` are elsewhere, half of them: else nobody would be left to be told apart from.
        known_B = near_BW.isfinite().sum(1)
        last_B = torch.minimum(torch.full_like(known_B, config.near), elsewhere_BM.sum(1) // 2).clamp_max(wanted)
        at_B = near_BW.gather(1, (last_B - 1).clamp_min(0)[:, None])[:, 0]
        radius.append(torch.where(last_B > 0, at_B, 0.0))
    return torch.cat(found), torch.cat(radius)


def spectra(reader: ShardReader, ids: NDArray[np.int64], patch_size: int) -> Tensor:
    """Mean spectrum ``[B, C]`` (float64) of the centre patch of each window over its level; 0 in unusable bands.

    NaN where the patch has no valid pixel.
    """
    x_BHWC, mask_BHW = reader.read(reader.resolve(ids))
    height, width = x_BHWC.shape[1:3]
    top, left = max(0, (height - patch_size) // 2), max(0, (width - patch_size) // 2)
    place = (slice(None), slice(top, top + patch_size), slice(left, left + patch_size))
    bands = BandTensors.from_sensors(reader.sensor)
    x_BPC = torch.from_numpy(np.ascontiguousarray(x_BHWC[place]).astype(np.float64)).flatten(1, 2)
    valid_C = bands.valid_GC[0]
    x_BPC = torch.where(valid_C, x_BPC * bands.scale_G.double() + bands.offset_G.double(), 0.0)
    good_BP = torch.from_numpy(np.ascontiguousarray(mask_BHW[place])).flatten(1) & x_BPC.isfinite().all(-1)
    count_B1 = good_BP.sum(1, keepdim=True).clamp_min(1)
    mean_BC = torch.where(good_BP[..., None], x_BPC, 0.0).sum(1) / count_B1
    level_B = mean_BC.abs() @ quadrature_weights(bands)[0].double()
    return mean_BC / torch.where(level_B > 0, level_B, torch.nan)[:, None]


def noise_pairs(reader: ShardReader, shift_px: int, otherwise: str = "set pairs.kind=views") -> NDArray[np.int64]:
    """Local ids ``[L, 2]`` of windows of a scene that lie side by side, ``shift_px`` apart or as near above it as any.

    Windows without a valid pixel have no neighbours, and spectra of a list have none. ``otherwise``: what a user can do
    who needs no noise.

    Raises:
        UsageError: there are too few.
    """
    told = reader.recipe.get("scenes", ())
    lists = [n for n, scene in enumerate(told) if isinstance(scene, dict) and scene.get("neighbours") is False]
    id_N = np.flatnonzero((reader.valid_N > 0) & ~np.isin(reader.scene_id_N, lists))
    origin_N2, scene_N = reader.origin_N2[id_N].astype(np.int64), reader.scene_id_N[id_N].astype(np.int64)
    span = int(origin_N2.max(initial=0)) + FARTHEST_SHIFT + 1
    key_N = (scene_N * span + origin_N2[:, 0]) * span + origin_N2[:, 1]
    order_N = np.argsort(key_N, kind="stable")
    sorted_N = key_N[order_N]
    for shift in range(shift_px, FARTHEST_SHIFT + 1) if len(id_N) else ():
        sides = []
        for step in (shift, shift * span):
            place_N = np.searchsorted(sorted_N, key_N + step).clip(max=len(key_N) - 1)
            there_N = sorted_N[place_N] == key_N + step
            sides.append(np.stack([np.flatnonzero(there_N), order_N[place_N[there_N]]], 1))
        found = np.concatenate(sides)
        if len(found) >= FEWEST_PAIRS:
            return id_N[found[spread(len(found), MOST_PAIRS)]]
    raise UsageError(
        f"{reader.path}: fewer than {FEWEST_PAIRS} of its windows lie side by side within a scene, {shift_px} to "
        f"{FARTHEST_SHIFT} pixels apart (spectra of a list do not), so noise cannot be told from material; cut more "
        f"windows (specfm shard --stride), leave the domain out (data.exclude), or {otherwise}"
    )


def spread(total: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of 0 ... total-1, evenly spread."""
    return np.arange(total) if total <= most else np.linspace(0, total - 1, most).astype(np.int64)


def chunks(ids: NDArray[np.int64], size: int = 4096) -> list[NDArray[np.int64]]:
    """Runs of ids of bounded size."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _write(path: Path, mined: Mined) -> None:
    from safetensors.torch import save

    from specfm.files import atomic_write_bytes

    path.parent.mkdir(exist_ok=True)
    atomic_write_bytes(path, save({name: getattr(mined, name).contiguous() for name in Mined.__annotations__}))


def _read(path: Path) -> Mined:
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(path)
    return Mined(**tensors)


def _together(mined: list[Mined]) -> Mined:
    """Of all shards, one after the other; descriptors of fewer components are padded with 0."""
    width = max(each.descriptor_NE.shape[1] for each in mined)
    return Mined(
        torch.cat([each.neighbour_NK for each in mined]),
        torch.cat([each.radius_N for each in mined]),
        torch.cat([F.pad(each.descriptor_NE, (0, width - each.descriptor_NE.shape[1])) for each in mined]),
    )
