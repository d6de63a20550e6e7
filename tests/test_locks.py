"""One process at a time in a folder: locks that beat, are taken over from the dead, and are missed by who lost them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from specfm.files import atomic_write_json
from specfm.locks import LockedError, LockLostError, RunLock


def test_a_held_lock_names_host_and_pid(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(LockedError, match=f"pid {os.getpid()} on this host"):
            RunLock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, repository):
    code = (
        "import sys,time; from specfm.locks import RunLock\n"
        "RunLock(sys.argv[1]).acquire(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"pid {child.pid}"):
        RunLock(tmp_path).acquire()
    child.send_signal(signal.SIGKILL)
    child.wait()
    with RunLock(tmp_path):
        assert (tmp_path / "run.lock").exists()


def test_a_reused_pid_is_not_the_holder(tmp_path):
    """Same host, same live pid, another start time: the holder is gone and its number was given away."""
    with RunLock(tmp_path):
        text = json.loads((tmp_path / "run.lock").read_text())
    if text["started"] is None:
        pytest.skip("this system does not tell when a process began")
    atomic_write_json(tmp_path / "run.lock", {**text, "started": "1"})
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["started"] == text["started"]


def held_elsewhere(folder: Path, silent_s: float, **facts: Any) -> Path:
    """The lock of a process that cannot be seen from here, last heard of ``silent_s`` ago."""
    path = folder / "run.lock"
    atomic_write_json(path, {"host": "far-away", "machine": "other", "pid": 7, "started": "1", "token": "x", **facts})
    beat = time.time() - silent_s
    os.utime(path, (beat, beat))
    return path


def test_a_lock_of_another_host_is_taken_over_only_after_silence(tmp_path, caplog):
    """Fault 43: a lost node; the job is started again on another one."""
    held_elsewhere(tmp_path, 200)
    with pytest.raises(LockedError, match="pid 7 on host far-away, last heard of 200 s ago"):
        RunLock(tmp_path).acquire()
    held_elsewhere(tmp_path, 301)
    with RunLock(tmp_path):
        assert "pid 7 on host far-away has been silent for 301 s" in caplog.text


def test_a_live_pid_of_another_container_is_not_read_as_dead_or_alive(tmp_path):
    """Fault 42: the same host name, another namespace of pids. Neither a pid that does not exist here nor one that
    does says anything; a lock that beats is held."""
    for pid in (2**22 + 1, os.getpid()):
        held_elsewhere(tmp_path, 1, host=socket.gethostname(), pid=pid)
        with pytest.raises(LockedError, match=f"pid {pid} on host"):
            RunLock(tmp_path).acquire()
        held_elsewhere(tmp_path, 301, host=socket.gethostname(), pid=pid)
        with RunLock(tmp_path):
            pass


def test_a_holder_in_another_namespace_of_pids_keeps_its_lock(tmp_path, repository):
    """As above with a real one (where this user may make it): its pid there is 1 or 2."""
    code = (
        "import sys,time; from specfm.locks import RunLock\n"
        "RunLock(sys.argv[1], beat_s=0.1).acquire(); print('held', flush=True); time.sleep(60)"
    )
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("namespaces cannot be made here")
    child = subprocess.Popen(
        [*unshare, sys.executable, "-c", code, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    try:
        with pytest.raises(LockedError, match="which lives"):
            RunLock(tmp_path, wait=True, beat_s=0.1, silent_s=2).acquire()
    finally:
        child.kill()
        child.wait()
    with RunLock(tmp_path, wait=True, beat_s=0.1, silent_s=0.5):
        pass


def test_who_may_wait_finds_out_whether_the_holder_lives(tmp_path, caplog):
    path = held_elsewhere(tmp_path, 0)
    beating = threading.Timer(0.3, lambda: os.utime(path))
    beating.start()
    with pytest.raises(LockedError, match="which lives"):
        RunLock(tmp_path, wait=True, beat_s=0.2, silent_s=60).acquire()
    held_elsewhere(tmp_path, 0)
    began = time.monotonic()
    with RunLock(tmp_path, wait=True, beat_s=0.2, silent_s=0.5):
        assert 0.4 < time.monotonic() - began < 5
    assert "waiting whether it lives" in caplog.text


def test_a_held_lock_beats(tmp_path):
    with RunLock(tmp_path, beat_s=0.02):
        os.utime(tmp_path / "run.lock", (1.0, 1.0))
        deadline = time.monotonic() + 5
        while (tmp_path / "run.lock").stat().st_mtime == 1.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_holder_that_wakes_notices_and_leaves_the_new_lock_alone(tmp_path, caplog):
    sleeping = RunLock(tmp_path, beat_s=0.01).acquire()
    sleeping.check()
    path = held_elsewhere(tmp_path, 1)
    with pytest.raises(LockLostError, match=f"pid {os.getpid()}.*pid 7 on host far-away took it over"):
        sleeping.check()
    before = path.stat().st_mtime
    time.sleep(0.1)
    assert path.stat().st_mtime == before  # it does not keep another's lock alive
    sleeping.release()
    assert path.exists() and "removed or changed while held" in caplog.text
    path.unlink()
    with pytest.raises(LockLostError, match="taken over or removed"):
        sleeping.check()


def test_a_lock_that_beats_while_it_is_judged_is_put_back(tmp_path):
    path = held_elsewhere(tmp_path, 400)
    content, beat = path.read_bytes(), path.stat().st_mtime
    os.utime(path)
    RunLock(tmp_path)._take_away(content, beat)
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["run.lock"]


def test_only_one_of_many_gets_a_stale_lock(tmp_path, repository):
    """Several processes find the lock of a dead one at the same moment; exactly one takes it over."""
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": None}
    atomic_write_json(tmp_path / "run.lock", dead)
    code = (
        "import sys,time; from specfm.locks import RunLock, LockedError\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "try: RunLock(sys.argv[1]).acquire(); print('held'); time.sleep(1)\n"
        "except LockedError: print('refused')\n"
    )
    at = str(time.time() + 1.0)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), at], cwd=repository, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = sorted(child.communicate()[0].strip() for child in children)
    assert said == ["held", "refused", "refused", "refused"]
