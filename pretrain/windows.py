"""What a view shows of a window at least, in every stage of a run, and who needs more of it.

Crops of views and of a curriculum lie anywhere in a window, so what is measured or compared at one place of it must be
in all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pretrain.config import PretrainConfig
from pretrain.objectives.base import Objective
from specfm.engine.curriculum import side_of
from specfm.errors import UsageError
from specfm.shards import ShardSet

log = logging.getLogger(__name__)


def refuse_small_windows(
    config: PretrainConfig, shards: ShardSet, objectives: dict[str, Objective], patch_size: int
) -> None:
    """Refuse views of one patch where patches are compared, and views without the patch that pairs were found by.

    Raises:
        UsageError: there are such.
    """
    _say_large_crop(config, shards)
    needy = next((name for name, each in objectives.items() if each.compares_patches), None)
    for where, least in _shown(config, shards, patch_size):
        if needy is not None and all(side <= patch_size for side in least):
            raise UsageError(
                f"{where}: its views are one patch of {patch_size} pixels, and objective.{needy} needs several; set a "
                "smaller model.patch_size, a larger views.crop or curriculum.start_size, or cut wider windows"
            )
    if config.pairs.kind != "nearest_elsewhere":
        return
    for reader, (where, least) in zip(shards.readers, _shown(config, shards, patch_size), strict=False):
        needed = [_around_middle(side, config.model.patch_size) for side in reader.window]
        if any(side < need for side, need in zip(least, needed, strict=True)):
            raise UsageError(
                f"{where}: pairs.kind=nearest_elsewhere compares the middle patch of windows, which crops of "
                f"{'x'.join(map(str, least))} of {'x'.join(map(str, reader.window))} pixels may not show; set "
                f"views.crop and stages of a curriculum to at least {max(needed)} pixels, or leave them out"
            )


def _say_large_crop(config: PretrainConfig, shards: ShardSet) -> None:
    """Of windows smaller than ``views.crop`` all views show the whole."""
    small = {reader.window for reader in shards.readers if min(reader.window) < (config.views.crop or 0)}
    if small:
        sides = ", ".join(f"{height} x {width}" for height, width in sorted(small))
        log.warning(
            "views.crop %d is larger than windows of %s pixels, which views then show whole; cut wider windows "
            "(specfm shard --window), or leave views.crop out",
            config.views.crop,
            sides,
        )


def _shown(config: PretrainConfig, shards: ShardSet, patch_size: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Of every shard, then of simulated windows: where they are from, and the sides of the smallest view of them."""
    stages = [1.0] if config.curriculum is None else [stage.size for stage in config.curriculum.listed()]

    def least(side: int) -> int:
        return min(config.views.crop or side, *(side_of(size, side, patch_size) for size in stages))

    for reader in shards.readers:
        yield str(reader.path), (least(reader.window[0]), least(reader.window[1]))
    if (simulated := config.data.simulated) is not None:
        yield "data.simulated.window", (least(simulated.window), least(simulated.window))


def _around_middle(side: int, patch_size: int) -> int:
    """The least side of a crop that holds the middle patch wherever it lies in a window."""
    first = max(0, (side - patch_size) // 2)
    return max(side - first, min(first + patch_size, side))
