"""What `specfm shard` would write: which scenes go to which shard, what of a folder is kept, and every window.

Shapes: N windows, h w of a window, C bands.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.shards import schema
from specfm.shards.append import Held
from specfm.shards.identity import recipe_digest, scene_identity
from specfm.shards.options import WindowOptions
from specfm.shards.reader import ShardReader
from specfm.shards.windows import ScenePlan, plan_scene
from specfm.shards.workers import Readers

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass
class ShardPlan:
    """One shard to be: its scenes, and after planning their windows.

    Attributes:
        file: name in the folder.
        digest: of inputs and options.
        status: ``write``, ``keep`` (already complete), ``empty``.
        samples: windows it holds.
        labelled: those with a label.
        nbytes: their size.
        skipped: scene name -> why no window of it is kept.
    """

    file: str
    scenes: list[Scene]
    recipe: dict[str, Any]
    digest: str
    plans: list[ScenePlan] = field(default_factory=list)
    status: str = "write"
    samples: int = 0
    labelled: int = 0
    nbytes: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def keep(self, reader: ShardReader) -> None:
        """It is complete already."""
        self.status, self.samples, self.nbytes = "keep", len(reader), reader.path.stat().st_size
        self.labelled = int((reader.label_N >= 0).sum())

    def row(self) -> dict[str, Any]:
        """JSON-safe line of the table that ``--dry-run`` prints."""
        first = self.scenes[0]
        return {
            "file": self.file,
            "status": self.status,
            "domain": first.domain,
            "sensor": first.sensor.name,
            "bands": first.shape[2],
            "dtype": schema.stored_dtype(first.dtype).name,
            "scenes": len(self.scenes),
            "samples": self.samples,
            "labelled": self.labelled,
            "bytes": self.nbytes,
            "skipped": self.skipped,
        }


def grouped(
    scenes: list[Scene],
    options: WindowOptions,
    extra: dict[str, Any],
    held: Held | None,
    pool: Readers,
    progress: Progress | None,
) -> list[ShardPlan]:
    """A plan for each shard that holds scenes, or will; of a folder that is added to, those first that are there."""
    common = {"options": options.to_dict(), **extra}
    if held is not None:
        held.refuse_other_windows(common)
    identities = []
    for identity in pool.map(scene_identity, ((scene,) for scene in scenes)):
        identities.append(identity)
        if progress:
            progress("hash", len(identities), len(scenes))
    shards: list[ShardPlan] = []
    kept: dict[str, list[int]] = {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, scene in enumerate(scenes):
        if held is not None and (there := held.file_of(identities[i])) is not None:
            kept.setdefault(there, []).append(i)
            continue
        kind = schema.stored_dtype(scene.dtype).name
        groups.setdefault((scene.dataset, scene.domain, scene.sensor.digest, kind, scene.label_names), []).append(i)
    for file, members in kept.items():
        assert held is not None
        recipe = held.readers[file].recipe
        shards.append(ShardPlan(file, [scenes[i] for i in members], recipe, recipe_digest(recipe)))
        shards[-1].keep(held.readers[file])
    taken = {shard.file for shard in shards} | set(held.readers if held is not None else ())
    for (dataset, domain, sensor, kind, _), members in groups.items():
        recipe = {**common, "scenes": [identities[i] for i in members]}
        stem = re.sub(r"[^A-Za-z0-9]+", "-", dataset or domain).strip("-").lower() or "shard"
        stem = f"{stem}-{sensor[:8]}-{kind}"
        numbered = (f"{stem}{'' if n == 1 else f'-{n}'}{schema.SUFFIX}" for n in itertools.count(1))
        file = next(name for name in numbered if name not in taken)
        taken.add(file)
        shards.append(ShardPlan(file, [scenes[i] for i in members], recipe, recipe_digest(recipe)))
    return shards


def keep_finished(out: Path, shards: list[ShardPlan], held: Held | None, overwrite: bool) -> None:
    """Decide what of an existing folder is kept; refuse what would be lost."""
    if not out.is_dir() or overwrite:
        return
    present = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    foreign = present - {shard.file for shard in shards} - {schema.MANIFEST} - set(held.readers if held else ())
    other = "choose another --out or pass --overwrite"
    if foreign:
        unlisted = "; delete it: an --append with other scenes left it" if held is not None and held.manifest else ""
        raise UsageError(f"{out} exists and holds {min(foreign)}{unlisted or f'; {other}'}")
    for shard in shards:
        if shard.file not in present or shard.status == "keep":
            continue
        try:
            reader = ShardReader(out / shard.file)
        except SpecfmError as error:
            raise UsageError(f"{error}; delete it, {other}") from None
        if recipe_digest(reader.recipe) != shard.digest:
            raise UsageError(
                f"{reader.path} exists, made from other inputs or options; {other}"
                + (" (--append adds scenes)" if schema.MANIFEST in present and held is None else "")
            )
        shard.keep(reader)
    if schema.MANIFEST in present and held is None and any(shard.status != "keep" for shard in shards):
        raise UsageError(f"{out} exists and is finished; {other} (--append adds scenes)")


def plan_windows(
    shards: list[ShardPlan],
    options: WindowOptions,
    background_HW: NDArray[np.bool_] | None,
    pool: Readers,
    progress: Progress | None,
) -> None:
    """Choose the windows of every scene that is to be written, and count them."""
    todo = [(shard, scene) for shard in shards if shard.status == "write" for scene in shard.scenes]
    found = pool.map(plan_scene, ((scene, options, background_HW) for _, scene in todo))
    for done, ((shard, scene), plan) in enumerate(zip(todo, found, strict=True), 1):
        shard.plans.append(plan)
        if plan.reason:
            shard.skipped[scene.name] = plan.reason
            log.warning("%s: no samples, %s", scene.name, plan.reason)
        if progress:
            progress("plan", done, len(todo))
    pixels = options.window[0] * options.window[1]
    for shard in shards:
        if shard.status != "write":
            continue
        first = shard.scenes[0]
        shard.samples = sum(len(plan) for plan in shard.plans)
        shard.labelled = sum(int((plan.label_N >= 0).sum()) for plan in shard.plans)
        itemsize = schema.stored_dtype(first.dtype).itemsize
        shard.nbytes = shard.samples * pixels * first.shape[2] * itemsize
        shard.status = "write" if shard.samples else "empty"
