"""Times and memory of the files of a scene, measured together once everything is trained.

Shapes: B windows.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from downstream.compress import measure
from downstream.compress.deployed import timing_inputs
from downstream.compress.ground import Ground
from downstream.deploy.run import run_to_file
from downstream.results.files import hardware
from specfm.deploy.runtime import Deployed
from specfm.digests import digest_json
from specfm.documents import read_json
from specfm.files import atomic_write_json, sha256_file

BATCHES, THREADS = (1, 64), (1, 2)
KEPT = "costs.json"


def machine() -> str:
    """What it was measured on."""
    return hardware("cpu")


def of_files(out: Path, ground: Ground, cells: dict[str, dict[str, Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """Costs of the first split's file of every pipeline; those of the same files on this machine are read again.

    Args:
        out: folder of the benchmark.
        ground: the scene.
        cells: of the first split, by pipeline.
        rounds: of timing.

    Returns:
        By pipeline: ``latency_ms`` by batch and threads, ``peak_bytes``, ``pixels_per_s`` and ``cpu_s_per_mpixel`` of a
        map of the scene.
    """
    paths = {name: out / "files" / cell["file"] for name, cell in cells.items()}
    key = digest_json(
        {"machine": machine(), "rounds": rounds, "scene": ground.digest}
        | {name: sha256_file(path) for name, path in paths.items()}
    )
    kept: dict[str, Any] = read_json(out / KEPT) if (out / KEPT).is_file() else {}
    if key not in kept:
        kept[key] = _measured(ground, cells, paths, rounds)
        atomic_write_json(out / KEPT, kept)
    found: dict[str, dict[str, Any]] = kept[key]
    return found


def _measured(
    ground: Ground, cells: dict[str, dict[str, Any]], paths: dict[str, Path], rounds: int
) -> dict[str, dict[str, Any]]:
    side, names = ground.side(0), list(paths)
    found: dict[str, dict[str, Any]] = {name: {"latency_ms": {}} for name in names}
    for batch in BATCHES:
        inputs = [timing_inputs(side, cells[name]["tile"], batch) for name in names]
        for threads in THREADS:
            seconds = measure.latencies([paths[name] for name in names], inputs, threads=threads, rounds=rounds)
            for name, value in zip(names, seconds, strict=True):
                found[name]["latency_ms"][f"{batch}x{threads}"] = round(1e3 * value, 4)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found[name]["peak_bytes"] = measure.peak_memory(paths[name], BATCHES[-1])
            found[name] |= _map_rate(paths[name], ground, Path(folder) / "map.tif")
    return found


def _map_rate(path: Path, ground: Ground, out: Path) -> dict[str, Any]:
    """Pixels a second of a map of the first scene, reading and writing included."""
    scene, deployed = ground.scenes[0], Deployed(path)
    began, cpu = time.perf_counter(), time.process_time()
    run_to_file(deployed, [scene], out)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    pixels = scene.shape[0] * scene.shape[1]
    return {"pixels_per_s": round(pixels / wall_s, 1), "cpu_s_per_mpixel": round(1e6 * cpu_s / pixels, 3)}
