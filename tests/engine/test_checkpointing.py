"""What counts as a checkpoint, and what may be deleted (faults 41 and 50)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from specfm.engine.checkpointing import STATE, TRAINING, Checkpointer, NoCheckpointError
from specfm.engine.run_folder import RunFolder
from specfm.errors import UsageError
from specfm.files import MANIFEST, atomic_write_text, write_manifest
from specfm.locks import LockLostError


def save(checkpointer: Checkpointer, step: int, **state: Any) -> Path:
    saved = checkpointer.save(
        step, lambda to: atomic_write_text(to / "weights", f"{step}"), {"w": torch.full((3,), float(step))}, state
    )
    assert saved is not None
    return saved


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_link_into_another_run_is_no_checkpoint_and_nothing_is_deleted_through_it(tmp_path, caplog):
    """Fault 41: it is the newest by name, then the oldest; it is neither taken up nor retired."""
    other = save(Checkpointer(tmp_path / "other"), 9, score=9.0)
    before = bytes_of(other)
    ours = Checkpointer(tmp_path / "ours", keep=1)
    first = save(ours, 1)
    link = tmp_path / "ours" / "step-00000009"
    link.symlink_to(other)
    assert ours.newest_valid() == first and ours.best() is None
    assert "is a link, which is no checkpoint" in caplog.text
    link.rename(tmp_path / "ours" / "step-00000000")
    save(ours, 2)
    save(ours, 3)
    assert ours.names() == ["step-00000003"]
    assert (tmp_path / "ours" / "step-00000000").is_symlink() and bytes_of(other) == before


def test_a_link_in_the_place_of_a_new_checkpoint_gives_way_alone(tmp_path):
    other = save(Checkpointer(tmp_path / "other"), 4)
    before = bytes_of(other)
    ours = Checkpointer(tmp_path / "ours")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "step-00000004").symlink_to(other)
    (tmp_path / "ours" / "step-00000005").symlink_to(tmp_path / "nowhere")
    for step in (4, 5):
        assert not save(ours, step).is_symlink()
    assert bytes_of(other) == before and ours.names() == ["step-00000005", "step-00000004"]


def test_checkpoints_behind_a_link_are_refused_and_a_linked_run_folder_is_not(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="checkpoints is a link"):
        RunFolder(tmp_path / "run").open(resume=True)
    assert not (tmp_path / "run" / "run.lock").exists()
    (tmp_path / "linked").symlink_to(tmp_path / "other")
    folder = RunFolder(tmp_path / "linked")
    folder.open(resume=False)
    folder.close()


@pytest.mark.parametrize(("left_out", "named"), [(TRAINING, TRAINING), (STATE, STATE), ("model/weights", "model/")])
def test_a_manifest_that_leaves_out_what_a_run_goes_on_from(tmp_path, caplog, left_out, named):
    """Fault 50: without its hash the file may hold anything."""
    ours = Checkpointer(tmp_path)
    good, odd = save(ours, 1), save(ours, 2)
    manifest = json.loads((odd / MANIFEST).read_text())
    manifest["files"] = [row for row in manifest["files"] if row["name"] != left_out]
    (odd / MANIFEST).write_text(json.dumps(manifest))
    assert Checkpointer(tmp_path).newest_valid() == good
    assert f"step-00000002 rejected: its manifest does not list {named}" in caplog.text


def test_a_checkpoint_under_the_name_of_another_step(tmp_path):
    save(Checkpointer(tmp_path), 1).rename(tmp_path / "step-00000008")
    with pytest.raises(NoCheckpointError, match="state.json is of step 1"):
        Checkpointer(tmp_path).newest_valid()


@pytest.mark.parametrize("name", [MANIFEST, STATE])
def test_json_nested_without_end_lets_the_run_fall_back(tmp_path, name):
    good, odd = save(Checkpointer(tmp_path), 1), save(Checkpointer(tmp_path), 2)
    (odd / name).write_text("[" * 200_000)
    if name == STATE:
        (odd / MANIFEST).unlink()
        write_manifest(odd)
    assert Checkpointer(tmp_path).newest_valid() == good


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_run_that_lost_its_folder_writes_publishes_and_retires_nothing(tmp_path, calls):
    """Lost before the save, while the payload is written, and before old ones are retired."""
    left = [calls]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise LockLostError("lost")

    old = save(Checkpointer(tmp_path), 1)
    ours = Checkpointer(tmp_path, keep=1, check=check)
    with pytest.raises(LockLostError):
        save(ours, 2)
    assert old.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-0000000{n}" for n in ((1,) if calls < 2 else (1, 2))]
