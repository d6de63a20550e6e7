"""Launched processes: what they import, when they end, what they say at their start (fault 49)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from specfm.engine import launch
from specfm.engine.launch import lacking_flags

# A launcher that starts a child and waits; the child says its pid and then does nothing but watch.
LAUNCHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
child.wait()
"""
CHILD = """
import os, signal, time
{handler}
from specfm.engine.launch import end_with_launcher
end_with_launcher(every_s=0.05, patience_s=0.3)
print(os.getpid(), flush=True)
while True: time.sleep(0.05)
"""
SAVES = """
def stop(number, frame):
    print("saved", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.parametrize(
    ("handler", "said"), [("", ""), (SAVES, "saved\n"), (DEAF, "")], ids=["starting", "training", "hanging"]
)
def test_a_worker_ends_when_its_launcher_is_killed(repository, handler, said):
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "x"}
    environment.pop("SPECFM_LAUNCHER", None)
    parent = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, CHILD.format(handler=handler)], cwd=repository, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdout is not None and parent.stderr is not None
    child = int(parent.stdout.readline())
    assert not ends(child, 0.3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert ends(child, 5)
    assert parent.stdout.read() == said and "the launcher of this run has gone" in parent.stderr.read()


def test_a_process_of_no_launcher_outlives_its_shell(repository):
    """``nohup python -m pretrain ... &`` in a shell that ends."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    parent = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, CHILD.format(handler="")], cwd=repository, env=environment, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert not ends(child, 0.5)
    os.kill(child, signal.SIGKILL)


def test_torchrun_without_its_flags_is_told_them(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT")  # torchrun's default
    said = lacking_flags()
    assert said is not None and "does not hand on SIGUSR1, SIGUSR2," in said
    wanted = said.partition("--signals-to-handle ")[2].split()[0]
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", wanted)
    assert lacking_flags() is None
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert lacking_flags() is None


def own_files(folder: Path) -> None:
    """What a user may well have in the current folder."""
    (folder / "pretrain.py").write_text("raise SystemExit('the pretrain.py of the user')")
    for name in ("downstream", "pretrain"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the {name}/ of the user')")


def test_workers_import_what_the_launcher_does(tmp_path, repository):
    """Whatever lies in the current folder, and whether specfm is installed, on PYTHONPATH or in a checkout."""
    own_files(tmp_path)
    code = (
        "import os, subprocess, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from specfm.engine.launch import _imports_as_here\n"
        "with _imports_as_here():\n"
        "    subprocess.run([sys.executable, '-m', 'pretrain', '--help'], check=True)\n"
        "assert 'PYTHONSAFEPATH' not in os.environ"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Pretrain an encoder" in done.stdout, done.stderr
    assert Path(launch.ROOT) == repository


def test_the_command_imports_nothing_from_the_current_folder(tmp_path, repository):
    own_files(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-m", "specfm", "pretrain", "nowhere.yaml"], cwd=tmp_path, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "nowhere.yaml" in done.stderr and "of the user" not in done.stderr
