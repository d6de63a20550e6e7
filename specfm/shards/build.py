"""`specfm shard`: scenes to a folder of shards, in parallel over blocks of windows, resumable, bounded in memory.

One shard per data set (card), domain, sensor, stored type and list of classes. The parent opens scenes and writes;
workers (spawned processes, or those of a Dask cluster) read pixels. The folder's ``manifest.json`` is written last:
without it the folder is unfinished, and the same command goes on where it stopped, keeping every finished shard whose
inputs and options have the same digest.

Shapes: N windows, h w of a window, C bands.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.band_selection import NO_COMPONENTS, BandSelection, select_scenes
from specfm.digests import digest_parts
from specfm.errors import SpecfmError, UsageError
from specfm.files import remove_temporaries
from specfm.locks import RunLock
from specfm.scene import Scene
from specfm.shards import schema
from specfm.shards.append import Held
from specfm.shards.identity import recipe_digest, scene_identity
from specfm.shards.manifest import read_manifest, write_manifest
from specfm.shards.options import CODEC, WINDOW, WindowOptions
from specfm.shards.reader import ShardReader
from specfm.shards.windows import ScenePlan, blocks, cut, plan_scene, valid_pixels
from specfm.shards.workers import Readers, Workers, usual_workers
from specfm.shards.writer import ShardWriter
from specfm.specimens import whole_views

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


def write_shards(
    scenes: Iterable[Scene],
    out: Path | str,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    *,
    min_valid: float = WindowOptions.min_valid,
    label: str = WindowOptions.label,
    labelled_only: bool = WindowOptions.labelled_only,
    object_threshold: float | str | None = WindowOptions.object_threshold,
    dark_objects: bool = WindowOptions.dark_objects,
    background_HW: NDArray[np.bool_] | None = None,
    whole: int | None = None,
    bands: str | BandSelection | None = None,
    codec: str = CODEC,
    workers: int | None = None,
    scheduler: str | None = None,
    append: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Cut scenes into windows and write them as a folder of shards.

    Args:
        scenes: opened scenes; ``scene.domain`` names the domain (default: the sensor's name, else the scene's).
        out: folder; made if needed. A finished one is refused unless it holds exactly these shards, or ``overwrite``.
        window: pixels, one number or (rows, columns); None is 32, and 1 where all scenes are lists of spectra.
        stride: pixels, likewise; None is half the window, at least 1.
        min_valid: see :class:`WindowOptions`.
        label: see :class:`WindowOptions`.
        labelled_only: see :class:`WindowOptions`.
        object_threshold: see :class:`WindowOptions`.
        dark_objects: see :class:`WindowOptions`.
        background_HW: True where a pixel is background; must fit every scene.
        whole: one window a specimen instead: the whole of it on so many pixels a side, its mask kept
            (:mod:`specfm.specimens`); windows are then of that size. Objects are told from background as above;
            ``stride``, ``min_valid`` and ``label`` have nothing to say: its label is that of most of its pixels.
        bands: keep these only (:mod:`specfm.band_selection`); no other is read from the cubes, and a pixel is valid by
            these alone. ``importance`` is fitted on pixels of all scenes of a band grid.
        codec: one of :data:`specfm.shards.schema.CODECS`.
        workers: reading processes; 1 = none but this one. None = one for each core, at most 8, where there is enough to
            read that starting them pays (:func:`specfm.shards.workers.usual_workers`). A script that uses several must
            begin its work under ``if __name__ == "__main__"``, as always with spawned processes.
        scheduler: address of a Dask cluster whose workers read, in place of processes of this machine
            (:mod:`specfm.shards.cluster`). The shards are the same byte by byte; this process writes them.
        append: add scenes to a finished folder (:mod:`specfm.shards.append`): those that it holds stay as they are.
        overwrite: replace what is there.
        dry_run: plan only; nothing is written.
        progress: called with (what, done, total).

    Returns:
        One JSON-safe row per shard (see :meth:`ShardPlan.row`), with ``read_by``: who reads for it.

    Raises:
        UsageError: ``out`` exists, bad option.
        SpecfmError: no window is kept in any scene, unreadable scene.
    """
    out = Path(out)
    sides = _pair(WINDOW if window is None else window)
    steps = (max(1, sides[0] // 2), max(1, sides[1] // 2)) if stride is None else _pair(stride)
    options = WindowOptions(sides, steps, min_valid, label, labelled_only, object_threshold, dark_objects)
    schema.codec_options(codec, (*sides, 1))
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; give 1 or more")
    if append and overwrite:
        raise UsageError("append keeps what is there, overwrite replaces it; give one of the two")
    if workers is not None and scheduler is not None:
        raise UsageError("workers are processes of this machine, a scheduler has its own; give one of the two")
    if not dry_run and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose another --out")
    listed = [scene if scene.domain else scene.replace(domain=scene.sensor.name or scene.name) for scene in scenes]
    if not listed:
        raise UsageError("no scenes to shard")
    _refuse_namesakes(listed)
    if bands is not None:
        if BandSelection.parse(bands).kind == "pca":
            raise UsageError(NO_COMPONENTS.format(what="shards keep"))
        listed = select_scenes(listed, bands)
    if window is None and not any(scene.neighbours for scene in listed):
        options = replace(options, window=(1, 1), stride=(1, 1) if stride is None else steps)
    if whole is not None:
        listed = _whole(listed, whole, options, background_HW, window, stride)
        # whatever share of the square a specimen fills, it is wanted
        options, background_HW = WindowOptions((whole, whole), (whole, whole), 0.0, labelled_only=labelled_only), None
    with _readers(listed, workers, scheduler) as pool:
        extra = {"codec": codec, "background": None if background_HW is None else digest_parts([background_HW])}
        held = Held(out, None if progress is None else lambda n, of: progress("open", n, of)) if append else None
        shards = _group(listed, options, extra, held, pool, progress)
        if not dry_run:
            _look_at(out, shards, held, overwrite)
        _plan(shards, options, background_HW, pool, progress)
        if not any(shard.samples for shard in shards):
            why = "; ".join(f"{name}: {reason}" for s in shards for name, reason in list(s.skipped.items())[:3])
            raise SpecfmError(f"no window is kept in any scene ({why}); choose a smaller --window or --min-valid")
        if not dry_run:
            out.mkdir(parents=True, exist_ok=True)
            with RunLock(out, ".shard.lock"):
                _write(out, shards, options, codec, held, overwrite, pool, progress)
        by = pool.describe()
    return [{**shard.row(), "read_by": by if shard.status == "write" else ""} for shard in shards]


def _readers(scenes: list[Scene], workers: int | None, scheduler: str | None) -> Readers:
    if scheduler is None:
        return Workers(usual_workers(scenes) if workers is None else workers)
    from specfm.shards.cluster import Cluster

    return Cluster(scheduler)


def _whole(
    scenes: list[Scene], side: int, options: WindowOptions, background_HW: NDArray[np.bool_] | None, window: Any,
    stride: Any,
) -> list[Scene]:  # fmt: skip
    """A view of every specimen.

    Raises:
        UsageError: a choice of windows that says nothing of whole specimens.
    """
    usual = WindowOptions()
    if (
        (window is not None and _pair(window) != (side, side))
        or stride is not None
        or (options.min_valid, options.label) != (usual.min_valid, usual.label)
    ):
        raise UsageError(
            f"whole specimens are windows of {side} pixels, whatever share of them they fill, with the label of most "
            "of their pixels; leave window, stride, min_valid and label out"
        )
    return whole_views(scenes, side, lambda scene: valid_pixels(scene, options, background_HW))


def _refuse_namesakes(scenes: list[Scene]) -> None:
    """Blocks and groups are numbered by domain and name: windows of two scenes of one name would pass for the same."""
    seen: dict[tuple[str, str], Scene] = {}
    for scene in scenes:
        other = seen.setdefault((scene.domain, scene.name), scene)
        if other is not scene:
            raise UsageError(
                f"two scenes of domain {scene.domain!r} are called {scene.name!r} ({other.where}, {scene.where}); "
                "leave one out, or give cards and scenes names of their own"
            )


# -- planning ----------------------------------------------------------------------------------------------------


def _group(
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


def _look_at(out: Path, shards: list[ShardPlan], held: Held | None, overwrite: bool) -> None:
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


def _plan(
    shards: list[ShardPlan],
    options: WindowOptions,
    background_HW: NDArray[np.bool_] | None,
    pool: Readers,
    progress: Progress | None,
) -> None:
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


# -- writing ----------------------------------------------------------------------------------------------------


def _write(
    out: Path,
    shards: list[ShardPlan],
    options: WindowOptions,
    codec: str,
    held: Held | None,
    overwrite: bool,
    pool: Readers,
    progress: Progress | None,
) -> None:
    remove_temporaries(out)  # what a killed writer left; the lock says that no other is at work
    before = held.refuse_changed(out) if held is not None else None
    old: list[str] = []
    if overwrite and (out / schema.MANIFEST).exists():
        try:
            old = [row["file"] for row in read_manifest(out)["shards"]]
        except SpecfmError as error:
            log.warning("%s; it is replaced", error)
        (out / schema.MANIFEST).unlink()
    total = sum(shard.samples for shard in shards if shard.status == "write")
    done = 0
    for shard in shards:
        if shard.status != "write":
            continue
        for size in _write_one(out / shard.file, shard, options, codec, overwrite, pool):
            done += size
            if progress:
                progress("write", done, total)
    for name in set(old) - {shard.file for shard in shards}:
        (out / name).unlink(missing_ok=True)
    listed = {row["file"] for row in before["shards"]} if before is not None else set()
    new = [shard.file for shard in shards if shard.status != "empty" and shard.file not in listed]
    if new and (before is not None or not (out / schema.MANIFEST).exists()):  # else every shard was kept
        write_manifest(out, new, before)


def _write_one(
    path: Path, shard: ShardPlan, options: WindowOptions, codec: str, overwrite: bool, pool: Readers
) -> Iterator[int]:
    members = [(n, scene, plan) for n, (scene, plan) in enumerate(zip(shard.scenes, shard.plans, strict=True))]
    jobs = [(n, s, p, rows) for n, s, p in members if len(p) for rows in blocks(p, s, options.window)]
    first = shard.scenes[0]
    with ShardWriter(
        path,
        options.window,
        first.sensor,
        first.dtype,
        first.domain,
        codec,
        count=shard.samples,
        label_names=first.label_names,
        scene_names=[scene.name for scene in shard.scenes],
        group_names={plan.group: plan.group_name for _, _, plan in members if len(plan)},
        recipe=shard.recipe,
        overwrite=overwrite,
    ) as writer:
        cubes = pool.map(cut, ((scene, plan.origin_N2[rows], options.window) for _, scene, plan, rows in jobs))
        for (number, _, plan, rows), block in zip(jobs, cubes, strict=True):
            writer.add(
                block,
                plan.masks(rows, options.window),
                label=plan.label_N[rows],
                group=plan.group,
                instance_id=plan.instance_N[rows],
                origin=plan.origin_N2[rows],
                scene_id=number,
            )
            yield len(block)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
