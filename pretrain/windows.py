"""What views show of a window in every stage of a run, and who needs more of it, or another size.

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
from specfm.models.backbone import AnyEncoder
from specfm.models.one_size import fixed_side
from specfm.shards import ShardSet
from specfm.simulate.pairs import WIDEST

log = logging.getLogger(__name__)
Sides = tuple[int, int]
SIMULATED = "data.simulated.window"


def refuse_windows(
    config: PretrainConfig, shards: ShardSet, objectives: dict[str, Objective], encoder: AnyEncoder
) -> None:
    """Refuse views of a size that the encoder does not read, of one patch where patches are compared, and without the
    patch that pairs were found by.

    Raises:
        UsageError: there are such.
    """
    _say_large_crop(config, shards)
    patch_size = encoder.patch_size
    shown = list(_shown(config, shards, patch_size))
    needy = next((name for name, each in objectives.items() if each.compares_patches), None)
    for where, window, views in shown:
        _refuse_other_sizes(config, where, window, views, encoder)
        if needy is not None and any(max(view) <= patch_size for view in views):
            raise UsageError(
                f"{where}: its views are one patch of {patch_size} pixels, and objective.{needy} needs several; set a "
                "smaller model.patch_size, a larger views.crop or curriculum.start_size, or cut wider windows"
            )
    if config.pairs.kind != "nearest_elsewhere":
        return
    for reader, (where, window, views) in zip(shards.readers, shown, strict=False):
        least, needed = min(views), [_around_middle(side, config.model.patch_size) for side in window]
        if any(side < need for side, need in zip(least, needed, strict=True)):
            raise UsageError(
                f"{where}: pairs.kind=nearest_elsewhere compares the middle patch of windows, which crops of "
                f"{'x'.join(map(str, least))} of {'x'.join(map(str, reader.window))} pixels may not show; set "
                f"views.crop and stages of a curriculum to at least {max(needed)} pixels, or leave them out"
            )


def _refuse_other_sizes(
    config: PretrainConfig, where: str, window: Sides, views: list[Sides], encoder: AnyEncoder
) -> None:
    """Of an encoder that reads windows of one size every view, in every stage, has that."""
    only, patch = fixed_side(encoder), encoder.patch_size
    odd = [view for view in views if {-(-side // patch) * patch for side in view} != {only}]
    if only is None or not odd:
        return
    if min(window) < only and where == SIMULATED:
        remedy = f"set {where}={only}" if only <= WIDEST else f"leave data.simulated out, whose windows reach {WIDEST}"
    elif min(window) < only:
        remedy = f"cut wider windows (specfm shard --window {only}), or set a smaller model.options.image_size"
    elif config.views.crop != only:
        remedy = f"set views.crop={only}"
    else:
        remedy = "set curriculum.start_size=1, or larger sizes of its stages"
    raise UsageError(
        f"{where}: views are {'x'.join(map(str, odd[0]))} pixels, and the encoder reads {only}x{only} alone "
        f"(model.options.image_size); {remedy}"
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


def _shown(config: PretrainConfig, shards: ShardSet, patch_size: int) -> Iterator[tuple[str, Sides, list[Sides]]]:
    """Of every shard, then of simulated windows: where they are from, their sides, those of views stage by stage."""
    stages = [] if config.curriculum is None else [stage.size for stage in config.curriculum.listed()]

    def views(window: Sides) -> list[Sides]:
        crop, (height, width) = config.views.crop or max(window), window
        cut = [(side_of(size, height, patch_size), side_of(size, width, patch_size)) for size in stages] or [window]
        return [(min(crop, height), min(crop, width)) for height, width in cut]

    for reader in shards.readers:
        yield str(reader.path), reader.window, views(reader.window)
    if (simulated := config.data.simulated) is not None:
        side = simulated.window
        yield SIMULATED, (side, side), views((side, side))


def _around_middle(side: int, patch_size: int) -> int:
    """The least side of a crop that holds the middle patch wherever it lies in a window."""
    first = max(0, (side - patch_size) // 2)
    return max(side - first, min(first + patch_size, side))
