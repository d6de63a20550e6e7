"""The record of a run, and its mirror."""

from __future__ import annotations

import builtins
import errno

from specfm.engine.record import MetricsLog, WandbMirror, read_metrics


def test_metrics_are_flushed_rows_without_nan(tmp_path):
    log = MetricsLog(tmp_path)
    log.write({"step": 1, "loss": float("nan")})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": None}]  # readable before close
    log.close()


def test_resuming_moves_later_rows_aside(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(1, 6):
        log.write({"step": step})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 6, "lo')  # cut by a kill
    log = MetricsLog(tmp_path, resumed_step=3)
    log.write({"step": 4, "again": True})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert read_metrics(tmp_path)[-1]["again"]
    assert (tmp_path / "metrics.superseded.jsonl").read_text().splitlines()[:2] == ['{"step": 4}', '{"step": 5}']


def test_a_full_disk_costs_rows_and_one_warning(tmp_path, monkeypatch, caplog):
    """Fault 10."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no space left")

    log = MetricsLog(tmp_path)
    monkeypatch.setattr(builtins, "open", full)
    log.write({"step": 1})
    log.write({"step": 2})
    log.close()
    assert sum("no space left" in record.message for record in caplog.records) == 1


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
