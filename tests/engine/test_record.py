"""The record of a run."""

from __future__ import annotations

import builtins
import errno

from specfm.engine.record import MetricsLog, read_metrics


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
