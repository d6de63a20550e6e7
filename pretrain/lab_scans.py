"""Laboratory scans of the multi-domain study: simulated and calibrated, background masked, cut into shards.

Shapes: H W pixels, N patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from specfm.errors import SpecfmError, UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

WINDOW, STRIDE, SEEN_STRIDE = 32, 16, 8  # pixels: a patch, and the step between probed and pretraining patches
TRAY_BELOW = 850.0  # stored mean level (reflectance .085) up to which a pixel is background


def masked(scene: Scene, below: float | str) -> Scene | None:
    """The scene in memory with background as nodata and a label at the centre of each patch; None without a patch.

    Args:
        scene: calibrated; its material labels become one a patch, the most frequent in it.
        below: mean stored level of background, or ``otsu``.
    """
    from specfm.calibration.apply import MASKED
    from specfm.scene import ArraySource
    from specfm.shards.options import WindowOptions
    from specfm.shards.windows import plan_scene

    cut = WindowOptions((WINDOW, WINDOW), (STRIDE, STRIDE), label="majority", object_threshold=below)
    plan = plan_scene(scene, cut)
    if not len(plan):
        return None
    cube_HWC = scene.read()
    cube_HWC[~plan.mask_HW] = MASKED
    labels_HW = np.full(scene.shape[:2], -1, np.int32)
    centre_N2 = plan.origin_N2 + WINDOW // 2
    labels_HW[centre_N2[:, 0], centre_N2[:, 1]] = plan.label_N
    labels_HW[~plan.mask_HW] = -1
    return scene.replace(source=ArraySource(cube_HWC), path=None, labels_HW=labels_HW, nodata=float(MASKED))


def simulate(out: Path, seed: int, count: int, side: int) -> list[Path]:
    """Raw scans of every domain with their references; their cards."""
    from specfm.progress import progress
    from specfm.simulate.lab_materials import DOMAINS
    from specfm.simulate.laboratory import write_laboratory

    with progress("simulate scans", len(DOMAINS) * count) as advance:
        return write_laboratory(out, seed=seed, scans=count, size=(side, side), progress=advance)


def masked_scans(cards: Sequence[Path], out: Path, pretrain_scans: int) -> tuple[list[Scene], list[Scene]]:
    """Masked scans on disk: those to pretrain on, and those to probe on, labelled by material over all domains."""
    from specfm.cards import load_card
    from specfm.readers import read_scene
    from specfm.readers.own import save_scene

    listed = [load_card(card) for card in cards]
    names = tuple(f"{card.domain}/{name}" for card in listed for name in card.label_names)
    seen: list[Scene] = []
    probed: list[Scene] = []
    out.mkdir(parents=True)
    for card in listed:
        first = names.index(f"{card.domain}/{card.label_names[0]}")
        for number, scene in enumerate(card.scenes()):
            kept = masked(scene, TRAY_BELOW)
            if kept is None or kept.labels_HW is None:
                raise SpecfmError(f"{scene.where}: no patch of {WINDOW} pixels shows objects; give a larger --size")
            labels_HW = np.where(kept.labels_HW >= 0, kept.labels_HW + first, -1).astype(np.int32)
            kept = kept.replace(labels_HW=labels_HW, label_names=names, groups_HW=None)
            file = save_scene(kept, out / f"{scene.group}.h5")
            (seen if number < pretrain_scans else probed).append(read_scene(file, name=scene.group))
    return seen, probed


def real_scans(card: str | None, crop: int) -> list[Scene]:
    """The scans of the card, opened, so that what cannot be read is told before the work; no card: none."""
    from specfm.cards import load_card

    if card is None:
        return []
    try:
        scans = list(load_card(card).scenes())
    except SpecfmError as error:
        raise type(error)(f"{error}; to leave the real scan out give --real none") from None
    if (side := _real_side(scans)) < crop:
        raise UsageError(
            f"scans of {card} are {side} pixels wide, less than a view of {crop}; choose another card for --real, or "
            "leave it out: --real none"
        )
    return scans


def _real_side(scans: Sequence[Scene]) -> int:
    return min(WINDOW, *(min(scan.shape[:2]) for scan in scans))


def shard(seen: Sequence[Scene], real: Sequence[Scene], folders: Sequence[Path], crop: int) -> str:
    """Write the shards of simulated scans and, if there are any, of real ones; says how many patches there are."""
    from specfm.shards import write_shards

    patches = sum(row["samples"] for row in write_shards(seen, folders[0], WINDOW, SEEN_STRIDE))
    if not real:
        return f"{patches} patches"
    side = _real_side(real)
    rows = write_shards(real, folders[1], min(side, max(crop, side - 3)), 1, object_threshold="otsu")
    return f"{patches} patches of simulated scans, {sum(row['samples'] for row in rows)} of {real[0].dataset}"
