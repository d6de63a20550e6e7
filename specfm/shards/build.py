"""`specfm shard`: scenes to a folder of shards, in parallel over blocks of windows, resumable, bounded in memory.

One shard per data set (card), domain, sensor, stored type and list of classes. The parent opens scenes and writes;
workers (spawned processes, or those of a Dask cluster) read pixels. The folder's ``manifest.json`` is written last:
without it the folder is unfinished, and the same command goes on where it stopped, keeping every finished shard whose
inputs and options have the same digest.

Shapes: N windows, h w of a window, C bands.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.band_selection import NO_COMPONENTS, BandSelection
from specfm.digests import digest_parts
from specfm.errors import SpecfmError, UsageError
from specfm.files import remove_temporaries
from specfm.locks import RunLock
from specfm.scene import Scene
from specfm.selected_scene import select_scenes
from specfm.shards import schema
from specfm.shards.append import Held
from specfm.shards.manifest import read_manifest, write_manifest
from specfm.shards.options import CODEC, WINDOW, WindowOptions
from specfm.shards.plan import Progress, ShardPlan, grouped, keep_finished, plan_windows
from specfm.shards.windows import blocks, cut, valid_pixels
from specfm.shards.workers import Readers, Workers, usual_workers
from specfm.shards.writer import ShardWriter
from specfm.specimens import whole_views

log = logging.getLogger(__name__)


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
        shards = grouped(listed, options, extra, held, pool, progress)
        if not dry_run:
            keep_finished(out, shards, held, overwrite)
        plan_windows(shards, options, background_HW, pool, progress)
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
