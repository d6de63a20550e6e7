"""Mirrors of the record: they get its rows, and none of them ever ends a run."""

import sys
from pathlib import Path

import pytest

from specfm.engine.config import RunConfig
from specfm.engine.mirrors import TensorboardMirror, WandbMirror, open_mirrors


class BrokenRun:
    def log(self, *_, **__):
        raise ConnectionError("service died")

    def finish(self):
        raise ConnectionError("service died")


def test_wandb_never_ends_a_run(tmp_path, monkeypatch, caplog):
    """Fault 33: the service dies in log, in finish, or at the start."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", lambda **_: BrokenRun())
    mirror = WandbMirror("offline", "p", tmp_path, {})
    mirror.write({"step": 1, "loss": 1.0})
    mirror.write({"step": 2, "loss": 1.0})
    mirror.close()
    WandbMirror("offline", "p", tmp_path, {}).close()

    def broken(**_):
        raise RuntimeError("no network")

    monkeypatch.setattr(wandb, "init", broken)
    WandbMirror("auto", "p", tmp_path, {}).write({"step": 1})
    text = caplog.text
    assert text.count("mirror stopped: service died") == 1
    assert "did not finish cleanly" in text and "mirror is off: no network" in text


def test_wandb_is_offline_unless_logged_in(tmp_path, monkeypatch):
    import wandb

    seen = []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(wandb, "init", lambda **options: seen.append(options["mode"]))
    WandbMirror("auto", "p", tmp_path, {})
    WandbMirror("online", "p", tmp_path, {})
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    WandbMirror("auto", "p", tmp_path, {})
    WandbMirror("disabled", "p", tmp_path, {})
    assert seen == ["offline", "offline", "online"]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from event files."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    held = EventAccumulator(str(folder))
    held.Reload()
    return {name: [(e.step, pytest.approx(e.value)) for e in held.Scalars(name)] for name in held.Tags()["scalars"]}


def test_tensorboard_reads_back_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    config = RunConfig(out=str(tmp_path), tensorboard=True)
    wandb, mirror = open_mirrors(config, tmp_path)
    mirror.write({"step": 1, "loss": 2.5, "bad_step": False, "embedding/rank": 3, "note": "text", "knn": {"a": 0.5}})
    mirror.write({"step": 2, "loss": float("nan"), "bad_step": True, "embedding/rank": None})
    mirror.close()
    mirror.close()
    assert curves(tmp_path / "tensorboard") == {
        "loss": [(1, 2.5)], "bad_step": [(1, 0.0), (2, 1.0)], "embedding/rank": [(1, 3.0)], "knn/a": [(1, 0.5)],
    }  # fmt: skip


def test_tensorboard_forgets_steps_that_are_done_again(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    first = TensorboardMirror(tmp_path)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": float(step)})
    first.close()
    again = TensorboardMirror(tmp_path, resumed_step=1)
    again.write({"step": 2, "loss": 20.0})
    again.close()
    assert curves(tmp_path) == {"loss": [(1, 1.0), (2, 20.0)]}


def test_tensorboard_is_asked_for(tmp_path):
    assert [type(each) for each in open_mirrors(RunConfig(out="x"), tmp_path)] == [WandbMirror]
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_never_ends_a_run(tmp_path, monkeypatch, caplog):
    """Not installed, a folder that is a file, and a writer that fails later."""
    (tmp_path / "file").write_text("")
    TensorboardMirror(tmp_path / "file").write({"step": 1, "loss": 1.0})
    assert "tensorboard mirror is off" in caplog.text
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    mirror = TensorboardMirror(tmp_path / "events")
    mirror.write({"step": 1, "loss": 1.0})
    mirror.close()
    assert "pip install 'specfm[tensorboard]'" in caplog.text

    class Broken:
        def add_scalar(self, *_):
            raise OSError("disk full")

    mirror.client = Broken()
    mirror.write({"step": 1, "loss": 1.0})
    mirror.write({"step": 2, "loss": 1.0})
    assert caplog.text.count("tensorboard mirror stopped: disk full") == 1
