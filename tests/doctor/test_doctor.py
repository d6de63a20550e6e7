"""Every finding comes with a remedy, whatever is broken; a check that breaks itself stops no other."""

from __future__ import annotations

import json
import os
import stat
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from specfm import doctor
from specfm.cli import app
from specfm.doctor import accounts, examine, libraries, machine, storage
from specfm.doctor.finding import Finding


def only(found: Any, about: str = "") -> Finding:
    held = [each for each in found if about in ("", each.about)]
    assert len(held) == 1, held
    return held[0]


def test_here_nothing_is_bad(tmp_path: Path) -> None:
    found = list(examine(tmp_path, 8))
    assert not [each for each in found if each.level == "bad"]
    assert all(each.remedy for each in found if each.level != "good")
    assert {"python", "packages", "torch", "codecs", "encoder", "cores", "storage", "wandb"} <= {f.about for f in found}
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_and_ends_with_1_where_something_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("encoder", "codecs"):
        monkeypatch.setattr(libraries, name, lambda: iter(()))
    whole = CliRunner().invoke(app, ["doctor", "--folder", str(tmp_path), "--megabytes", "8"])
    assert whole.exit_code == 0 and "ok    python" in whole.stdout
    broken = CliRunner().invoke(app, ["doctor", "--folder", str(tmp_path / "none"), "--json"])
    assert broken.exit_code == 1
    listed = json.loads(broken.stdout)
    assert {"level", "about", "found", "remedy"} == set(listed[0])
    assert [each["about"] for each in listed if each["level"] == "bad"] == ["storage"]


def test_a_check_that_breaks_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    for name in ("encoder", "codecs", "packages"):
        monkeypatch.setattr(doctor.libraries, name, lambda: iter(()))
    monkeypatch.setattr(doctor.libraries, "torch_match", broken)
    found = list(examine(tmp_path, 8))
    assert "libcudart" in only(found, "torch").found and only(found, "torch").level == "bad"
    assert only(found, "python").level == "good"


def test_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(libraries.torch_match()).level == "good"
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==1.2.3"])
    found = only(libraries.torch_match())
    assert found.level == "bad" and "1.2.3" in found.found and "pip install" in found.remedy


def test_a_version_that_is_too_old_and_one_that_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "requirements", lambda: ["numpy>=99", "no-such-package>=1", "einops"])
    found = {each.about: each for each in libraries.packages()}
    assert found["numpy"].level == found["no-such-package"].level == "bad"
    assert found["numpy"].remedy == 'pip install "numpy>=99"'
    assert found["packages"].found.startswith("1 of those")


def test_what_specfm_asks_for_is_found_in_a_checkout() -> None:
    names = {each.split(">")[0] for each in libraries.requirements()}
    assert {"torch", "timm", "h5py", "typer"} <= names


def test_a_container_with_fewer_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.cgroup_cores(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cgroup_cores(tmp_path) is None
    assert machine.cgroup_cores(tmp_path / "none") is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    found = only(machine.cores())
    assert found.level == "note" and found.remedy.startswith("export OMP_NUM_THREADS=")


def test_memory_of_a_container(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{1 << 30}\n")
    assert machine.memory_bytes(limit) == 1 << 30
    limit.write_text("max\n")
    whole = machine.memory_bytes(limit)
    assert whole is not None and whole > 1 << 30


def test_a_driver_without_a_torch_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for the CPU" in only(machine.gpus()).found
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = only(machine.gpus())
    assert found.level == "bad" and "driver" in found.remedy


def test_a_rank_without_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = only(machine.launcher(), "launcher")
    assert found.level == "bad" and "RANK" in found.found and "torchrun" in found.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert only(storage.storage(tmp_path, 8)).level == "bad"
    tmp_path.chmod(stat.S_IRWXU)


def test_a_cache_in_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECFM_CACHE", str(tmp_path / "not" / "there"))
    found = only(storage.cache())
    assert "0.0 GiB held" in found.found and not (tmp_path / "not").exists()


def test_wandb_says_what_it_would_do_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "wandb login" in only(accounts.wandb()).remedy
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password SECRET\n")
    found = only(accounts.wandb())
    assert found.level == "good" and "SECRET" not in str(found)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE=offline" in only(accounts.wandb()).found
