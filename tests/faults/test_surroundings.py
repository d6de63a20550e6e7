"""What a run stands in fails: wandb's own process, the folder it writes into, the storage of one host (33, 9, 44)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.distributed.ranks import free_port
from tests.faults.test_run import children, error_of
from tests.pretrain.runs import launch, make_shards, metrics, run, settings, steps_done, wait_for, weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


def start(out: Path, shards: list[str], *arguments: str, before: tuple[str, ...] = (), **variables: str):
    """``python -m pretrain`` by itself; ``before`` it, what it is to be called by."""
    call = [*before, sys.executable, "-m", "pretrain", "pretrain/debug.yaml", *settings(out, shards, *arguments)]
    return subprocess.Popen(
        call, cwd=out.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "SPECFM_FAULTS": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_process_of_wandb_is_killed(tmp_path: Path, shards: list[str]) -> None:
    """Fault 33: one warning, a whole record, and the run ends as it would have."""
    out = tmp_path / "run"
    keys = ("steps=4000", "optim.lr=1e-5", "checkpoint.every=4000", "wandb.mode=offline")
    process = start(out, shards, *keys, WANDB_MODE="offline")
    wait_for(lambda: steps_done(out) > 2, lambda: process.poll() is None)
    services = [pid for pid in children(process.pid) if "wandb" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert services
    for pid in services:
        os.kill(pid, signal.SIGKILL)
    killed_at = steps_done(out)
    wait_for(lambda: steps_done(out) > killed_at + 10, lambda: process.poll() is None)
    process.terminate()
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and text.count("wandb mirror stopped") == 1, text
    rows = metrics(out)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)) and (out / "REQUEUE").is_file()


# --- a folder that may not be written any more ---


@pytest.fixture
def freeze(tmp_path: Path) -> Iterator[object]:
    """Makes a tree immutable, for root too, and back; as permissions do not bind root."""
    probe = tmp_path / "probe"
    probe.mkdir()
    tool = shutil.which("chattr")
    if tool is None or subprocess.run([tool, "+i", str(probe)], capture_output=True).returncode:
        pytest.skip("chattr +i is not allowed here, and permissions do not bind root")
    subprocess.run([tool, "-i", str(probe)], check=True)
    frozen: list[Path] = []

    def set_to(folder: Path, immutable: bool) -> None:
        frozen.append(folder)
        subprocess.run([tool, "-R", "+i" if immutable else "-i", str(folder)], check=True, capture_output=True)

    yield set_to
    for folder in frozen:
        subprocess.run([tool, "-R", "-i", str(folder)], capture_output=True)


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_run_folder_turns_read_only(tmp_path: Path, shards: list[str], freeze, world: int) -> None:
    """It ends with a sentence once two saves have failed; writable again, it goes on to the same bits."""
    out, keys = tmp_path / "run", ("optim.lr=1e-5", "checkpoint.every=20", "checkpoint.retry_s=0.05")
    job = launch(tmp_path, ["pretrain/debug.yaml", *settings(out, shards, *keys, "steps=4000")], world=world)
    wait_for(lambda: (out / "checkpoints" / "step-00000020").is_dir(), job.processes[0].is_alive)
    freeze(out, True)
    codes = job.wait()
    assert codes == [1] * world and "Traceback" not in job.text, job.text
    assert "two checkpoints in a row could not be written" in error_of(job.text)
    assert not (out / "model").exists()
    freeze(out, False)
    last = max(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))
    steps = f"steps={last + 4}"
    job = launch(tmp_path, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *keys, steps)], world=world)
    assert job.wait() == [0] * world and f"step-{last:08d}" in job.text, job.text
    assert not list((out / "checkpoints").glob(".tmp-*"))


# --- a host that reads other bytes than the rest ---


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> Path:
    """Two ranks, killed after the checkpoint of step 3."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    codes, text = run(out, shards, "steps=6", "checkpoint.every=3", faults="data.read:kill@step=5", world=2)
    assert codes == [-9, -9], text
    return out


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def older(content: bytes) -> bytes:
    assert b'"step": 3' in content
    return content.replace(b'"step": 3', b'"step": 2')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stale_of", "words"),
    [
        ("training.safetensors", flipped, "state of rank 1 differ from those of rank 0"),
        ("model/model.safetensors", flipped, "does not match the sha256"),
        ("state.json", older, "first in the state beside the tensors"),
        ("", None, "state.json cannot be read"),
    ],
)
def test_one_host_sees_a_stale_page_as_a_run_is_taken_up(
    tmp_path: Path, shards: list[str], interrupted: Path, name: str, stale_of: Callable[[bytes], bytes] | None,
    words: str,
) -> None:  # fmt: skip
    """Rank 1 alone, in a mount namespace of its own, finds an older file, or none at all, where rank 0 has verified."""
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    place, stale = out / "checkpoints" / "step-00000003" / name, tmp_path / "stale"
    if stale_of is not None:
        stale.write_bytes(stale_of(place.read_bytes()))
    else:
        stale.mkdir()
    apart = ("unshare", "-m", "sh", "-c", f'mount --bind "{stale}" "{place}" && exec "$@"', "-")
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_RANK": "0"}
    keys = ("steps=6", "checkpoint.every=3", "--resume")
    ranks = [start(out, shards, *keys, before=apart if rank else (), RANK=str(rank), **shared) for rank in (0, 1)]
    texts = [rank.communicate(timeout=100)[0] for rank in ranks]
    text = "".join(texts)
    assert [rank.returncode for rank in ranks] == [1, 1] and "Traceback" not in text, text
    assert words in error_of(text)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    job = launch(tmp_path, ["pretrain/debug.yaml", *settings(out, shards, *keys)], world=2)
    assert job.wait() == [0, 0] and weights(out), job.text
