"""Shards read for by a Dask cluster: the same bytes, whoever is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specfm
from specfm.errors import SpecfmError, UsageError
from specfm.readers.own import save_scene
from specfm.scene import Scene
from specfm.shards import write_shards
from specfm.shards.cluster import Cluster
from specfm.shards.cluster import _terms as cluster_terms
from specfm.shards.workers import Workers
from tests.shards.make import ramp_scene, sensor
from tests.shards.test_build import run

distributed = pytest.importorskip("distributed", reason="needs specfm[cluster]")


def same_bytes(one: Path, other: Path) -> None:
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler and two workers in threads of this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0", protocol="tcp", host="127.0.0.1"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def cubes(tmp_path: Path) -> list[str]:
    """Two files of one sensor and one of another, with wavelengths of their own."""
    rng = np.random.default_rng(0)
    for name, channels in (("one", 6), ("two", 6), ("three", 9)):
        cube = rng.integers(1, 5000, (40, 17, channels)).astype("int16")
        save_scene(Scene.from_array(cube, sensor(channels), name=name), tmp_path / f"{name}.h5")
    return [str(tmp_path / f"{name}.h5") for name in ("one", "two", "three")]


def test_same_bytes_as_the_local_run(tmp_path: Path, cubes: list[str], address: str) -> None:
    told: list[tuple[str, int, int]] = []
    specfm.shard(cubes, out=tmp_path / "here", window=5, stride=2, workers=1)
    made = specfm.shard(cubes, out=tmp_path / "there", window=5, stride=2, scheduler=address)
    same_bytes(tmp_path / "here", tmp_path / "there")
    assert {row["read_by"] for row in made.rows} == {f"2 workers of {address} on 127.0.0.1"}
    scenes = [ramp_scene(name="x"), ramp_scene(name="y")]  # in memory, not in files
    for out, scheduler in (("a", None), ("b", address)):
        write_shards(scenes, tmp_path / out, 4, scheduler=scheduler, progress=lambda *each: told.append(each))
    same_bytes(tmp_path / "a", tmp_path / "b")
    assert told[: len(told) // 2] == told[len(told) // 2 :] and told[-1][0] == "write"


def test_dry_run_says_who_would_read(tmp_path: Path, cubes: list[str], address: str) -> None:
    code, text = run("shard", *cubes, "--out", tmp_path / "x", "--window", 5, "--scheduler", address, "--dry-run")
    assert code == 0 and f"read by 2 workers of {address}" in text and not (tmp_path / "x").exists()
    code, text = run("shard", *cubes, "--out", tmp_path / "x", "--window", 5, "--workers", 1, "--dry-run")
    assert code == 0 and "read by this process" in text


def _fails(scene: Scene, error: Exception) -> None:
    raise error


def _waits(scene: Scene, seconds: float) -> str:
    time.sleep(seconds)
    return scene.name


def test_results_come_in_order_and_errors_as_they_are(address: str) -> None:
    scenes = [ramp_scene(name=str(n)) for n in range(9)]
    with Cluster(address) as pool:
        found = pool.map(_waits, [(scene, 0.02 * (n % 3 == 0)) for n, scene in enumerate(scenes)])
        assert list(found) == [scene.name for scene in scenes]
        for error in (SpecfmError("x.hdr is cut short"), OSError("disk gone"), TimeoutError("slow disk")):
            with pytest.raises(type(error), match=str(error)):
                list(pool.map(_fails, [(scenes[0], error)]))


def test_what_a_worker_lacks_is_one_sentence(
    tmp_path: Path, cubes: list[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ramp_scene().replace(path=tmp_path / "elsewhere.h5")
    with Cluster(address) as pool:
        with pytest.raises(SpecfmError, match="elsewhere.h5 is not there for a worker.*same path"):
            list(pool.map(_waits, [(lost, 0.0)]))
        other = {**cluster_terms(), "SPECFM_UNTRUSTED": "1"}
        monkeypatch.setattr("specfm.shards.cluster._terms", _told(other, cluster_terms))
        with pytest.raises(SpecfmError, match="has SPECFM_UNTRUSTED unset, this command 1; start workers"):
            list(pool.map(_waits, [(ramp_scene(), 0.0)]))


def _told(first: dict[str, str], later: Any) -> Any:
    """``_terms`` of a command and its workers, which are one process here."""
    answers = iter([first])
    return lambda: next(answers, None) or later()


def test_bad_use_is_one_sentence(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specfm.shards.cluster.CONNECT_S", 0.3)
    for wrong in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(UsageError, match="no Dask scheduler answers.*dask scheduler"):
            write_shards([ramp_scene()], tmp_path / "x", 4, scheduler=wrong)
    with pytest.raises(UsageError, match="give one of the two"):
        write_shards([ramp_scene()], tmp_path / "x", 4, scheduler=address, workers=2)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SpecfmError, match=r"specfm\[cluster\]"):
        write_shards([ramp_scene()], tmp_path / "x", 4, scheduler=address)
    assert not (tmp_path / "x").exists()


def _dies_once(scene: Scene, mark: Path) -> str:
    if scene.name == "3" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return scene.name


@pytest.mark.slow
def test_a_killed_local_process_costs_a_retry(tmp_path: Path) -> None:
    names = [str(n) for n in range(12)]
    with Workers(2) as pool:
        found = pool.map(_dies_once, [(ramp_scene(name=name), tmp_path / "died") for name in names])
        assert list(found) == names and (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_lost_worker_costs_a_retry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of two workers are killed half-way, one after the other; Dask's nanny starts others."""
    monkeypatch.setattr("specfm.shards.windows.STRIP_BYTES", 1 << 16)  # many small blocks
    monkeypatch.setattr("specfm.shards.cluster.LOOK_S", 0.2)
    rng = np.random.default_rng(0)
    cube = rng.integers(1, 5000, (400, 60, 60)).astype("int16")
    save_scene(Scene.from_array(cube, sensor(60)), tmp_path / "long.h5")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        killed: list[int] = []

        def told(what: str, done: int, total: int) -> None:
            if what == "write" and len(killed) < 2 and done > total * (1 + len(killed)) / 3:
                pids = [row for row in workers().values() if row not in killed]
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        def workers() -> dict[str, int]:
            found: dict[str, int] = {}
            thread = threading.Thread(target=lambda: found.update(client.run(os.getpid)))
            thread.start()
            thread.join()
            return found

        with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
            scenes = [specfm.read_scene(tmp_path / "long.h5")]
            write_shards(scenes, tmp_path / "local", 8, 4, workers=1)
            write_shards(scenes, tmp_path / "there", 8, 4, scheduler=cluster.scheduler_address, progress=told)
        assert len(set(killed)) == 2
    same_bytes(tmp_path / "local", tmp_path / "there")
    assert "is gone; what it had in hand is read again" in caplog.text
