"""Schedules, guard, signals, watchdog, metrics and optimiser state, each alone."""

from __future__ import annotations

import builtins
import errno
import json
import os
import signal
import time

import pytest
import torch
from torch import nn

from specfm.engine.distributed import World
from specfm.engine.guard import BadStepGuard, DivergedError, StopSignals, Watchdog
from specfm.engine.optimizer import adamw, clip_gradients, optimizer_tensors, restore_optimizer, set_lr
from specfm.engine.record import MetricsLog, WandbMirror, read_metrics
from specfm.engine.schedule import ramp, warmup_cosine
from specfm.engine.sync import AllReduce
from specfm.errors import SpecfmError, UsageError, sentence


def test_warmup_cosine_matches_timm():
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = CosineLRScheduler(
        optimizer, t_initial=90, warmup_t=10, warmup_lr_init=0.1, lr_min=0.05, warmup_prefix=True, t_in_epochs=False
    )
    for step in range(100):
        reference.step_update(step)
        ours = warmup_cosine(step, 100, 10, 1.0, 0.05)
        if step >= 10:  # timm's warm-up starts at its own value; ours reaches the peak in the last warm-up step
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        else:
            assert ours == pytest.approx((step + 1) / 10)


def test_ramp():
    assert [ramp(s, 0.2, 1.0, 4) for s in (0, 2, 4, 9)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert ramp(0, 0.2, 1.0, 0) == 1.0


def test_guard_gives_up_after_four_in_a_row_and_not_before():
    guard = BadStepGuard(consecutive=3)
    for step, bad in enumerate([True, True, True, False, True, True, True], start=1):
        guard.record(step, bad)
    with pytest.raises(DivergedError, match="4 steps in a row, up to step 8") as caught:
        guard.record(8, True)
    assert caught.value.exit_code == 4


def test_guard_lets_no_run_end_with_two_bad_steps():
    guard = BadStepGuard(consecutive=3)
    guard.record(1, True)
    guard.record(2, False)
    guard.record(3, True, last=True)
    guard.record(4, False, last=True)
    guard.record(5, True)
    with pytest.raises(DivergedError, match="2 steps in a row, up to step 6"):
        guard.record(6, True, last=True)


def test_guard_counts_within_its_window_and_survives_a_restart():
    guard = BadStepGuard(consecutive=3, in_window=2, window=10)
    guard.record(1, True)
    guard.record(5, True)
    again = BadStepGuard(consecutive=3, in_window=2, window=10)
    again.restore(json.loads(json.dumps(guard.state())))
    again.record(11, True)  # step 1 has left the window
    with pytest.raises(DivergedError, match="3 of the last 10 steps"):
        again.record(13, True)


def test_stop_signals_only_set_a_flag():
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_closed_terminal_stops_a_run_in_order_unless_nohup_says_otherwise():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_watchdog_names_the_stage_and_the_stack(tmp_path, capsys):
    codes = []
    with Watchdog(0.2, tmp_path / "stacks.txt", give_up=codes.append) as watchdog:
        watchdog.stage("reading data")
        time.sleep(0.6)
    assert codes == [5]
    assert "stage 'reading data'" in capsys.readouterr().err
    assert "test_watchdog_names_the_stage" in (tmp_path / "stacks.txt").read_text()


def test_watchdog_is_quiet_while_there_is_progress(tmp_path):
    codes = []
    with Watchdog(0.5, tmp_path / "stacks.txt", give_up=codes.append) as watchdog:
        for _ in range(8):
            watchdog.stage("step")
            time.sleep(0.1)
    assert codes == [] and not (tmp_path / "stacks.txt").exists()


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


def _modules(seed: int) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.LayerNorm(8)})


def _train(modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        loss = modules["b"](modules["a"](torch.randn(5, 4))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(modules.parameters(), 1.0)
        set_lr(optimizer, 0.1 / (step + 1))
        optimizer.step()


def test_optimizer_state_by_name_resumes_bitwise():
    cpu = torch.device("cpu")
    whole = _modules(0)
    optimizer = adamw(whole, 0.1, 0.05, (0.9, 0.95), cpu)
    _train(whole, optimizer, range(3))
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, whole).items()}
    weights = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    _train(whole, optimizer, range(3, 6))

    again = _modules(1)
    again.load_state_dict(weights)
    second = adamw(again, 0.1, 0.05, (0.9, 0.95), cpu)
    restore_optimizer(second, again, tensors)
    _train(again, second, range(3, 6))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name

    next(again.parameters()).requires_grad_(False)
    name = next(name for name, _ in again.named_parameters())
    with pytest.raises(UsageError, match=f"^{name} was trained before the checkpoint and is to be held now"):
        restore_optimizer(second, again, tensors)


def test_vectors_are_not_decayed():
    optimizer = adamw(_modules(0), 0.1, 0.05, (0.9, 0.95), torch.device("cpu"))
    decayed = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed == {1: 0.0, 2: 0.05}


def test_missing_gradients_are_zero_in_one_process_too():
    """Else weight decay would move an unused parameter with several ranks and not with one."""
    parameter = nn.Parameter(torch.ones(3))
    AllReduce(World(0, 1, torch.device("cpu"))).gradients([parameter])
    assert torch.equal(parameter.grad, torch.zeros(3))


def test_every_rank_tells_an_error_of_the_operating_system_alike(monkeypatch):
    """Whichever of them comes first is the one that is heard."""
    sent = []

    def broadcast(world, value):
        sent.append(value)
        return sent[0]

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/full")

    monkeypatch.setattr(World, "_broadcast_json", broadcast)
    told = []
    for rank in range(2):
        with pytest.raises((OSError, SpecfmError)) as caught:
            World(rank, 2, torch.device("cpu")).on_main(fail)
        told.append(sentence(caught.value))
    assert told == ["runs/full: no space left on device; free some space or choose another place"] * 2
