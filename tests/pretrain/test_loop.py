"""The training loop in one process: independence of micro-batch and threads, resuming, what a run leaves behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import specfm
from pretrain import setup
from pretrain.loop import train
from pretrain.setup import BEFORE_TRUNK
from specfm.errors import UsageError
from tests.pretrain.runs import debug_config, make_shard, make_shards, metrics, settings, weights

PARTS = ("objective.band_prediction.weight=0.5", "steps=6")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shards) -> Path:
    """Six steps with every part of the objective."""
    out = tmp_path_factory.mktemp("plain") / "run"
    return train(debug_config(out, shards, *PARTS, "monitor.every=3"))


@pytest.mark.parametrize(
    "micro", [pytest.param(4, marks=pytest.mark.slow), 5, pytest.param(12, marks=pytest.mark.slow)]
)
def test_the_result_does_not_depend_on_the_micro_batch(tmp_path, shards, plain, micro):
    overrides = (*PARTS, f"optim.micro_batch={micro}")
    out = train(debug_config(tmp_path / "run", shards, *overrides))
    for one, other in zip(metrics(out), metrics(plain), strict=True):
        for key in ("loss", "nt_xent", "bands/charbonnier", "negatives/excluded"):
            assert one[key] == pytest.approx(other[key], rel=1e-6, abs=1e-7), (one["step"], key)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    "overrides", [("data.threads=0",), ("data.threads=3", "data.prefetch=4"), ("monitor.every=1",)]
)
def test_threads_and_monitor_change_no_bit(tmp_path, shards, plain, overrides):
    """Fault 21, and: watching a run does not change it."""
    out = train(debug_config(tmp_path / "run", shards, *PARTS, *overrides))
    assert weights(out) == weights(plain)


def test_gradient_checkpointing_changes_no_loss(tmp_path, shards, plain):
    overrides = (*PARTS, "model.grad_checkpointing=true")
    out = train(debug_config(tmp_path / "run", shards, *overrides))
    assert [row["loss"] for row in metrics(out)] == pytest.approx([row["loss"] for row in metrics(plain)], rel=1e-6)


def test_another_seed_is_another_run(tmp_path, shards, plain):
    out = train(debug_config(tmp_path / "run", shards, *PARTS, "seed=1"))
    assert weights(out) != weights(plain)


def test_the_run_folder_is_complete(plain):
    rows = metrics(plain)
    assert [row["step"] for row in rows] == list(range(1, 7))
    wanted = {"loss", "lr", "samples_per_s", "data_wait_s", "peak_memory_mb", "view_strength", "negatives/excluded"}
    assert all(wanted <= row.keys() for row in rows)
    watched = {
        "knn",
        "knn/alpha",
        "knn/beta",
        "linear",
        "linear/alpha",
        "untrained/knn",
        "untrained/linear",
        "majority",
    }
    assert {"embedding/rank", "embedding/uniformity"} | watched <= rows[-1].keys()
    assert rows[-1]["loss"] < rows[0]["loss"]
    names = {path.name for path in plain.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "checkpoints", "model", "loss.png"}
    card = specfm.load(plain).card
    assert card["steps"] == 6 and card["domains"] == ["alpha", "beta"] and card["config"]["steps"] == 6
    assert card["pretreatment"] == ["none, as measured"]


def test_resuming_a_finished_run_changes_nothing(shards, plain):
    """Fault 22, its last case."""
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*") if path.is_file()}
    train(debug_config(plain, shards, *PARTS, "monitor.every=3"), resume=True)
    assert {path: path.stat().st_mtime_ns for path in plain.rglob("*") if path.is_file()} == before


def test_a_finished_run_can_be_prolonged(tmp_path, shards):
    out = train(debug_config(tmp_path / "run", shards, "steps=4"))
    short = weights(out)
    train(debug_config(out, shards, "steps=6"), resume=True)
    assert [row["step"] for row in metrics(out)] == [1, 2, 3, 4, 5, 6]
    assert specfm.load(out).card["steps"] == 6
    assert specfm.load(out / "model.until-step-4").card["steps"] == 4 and weights(out) != short


def test_init_from_starts_a_new_run_from_weights(tmp_path, shards, plain):
    """Zero learning rate, so that the released weights are those it began with."""
    out = train(debug_config(tmp_path / "run", shards, "steps=1", f"init_from={plain}", "optim.lr=1e-30"))
    assert weights(out) == weights(plain)
    assert metrics(out)[0]["step"] == 1
    with pytest.raises(UsageError, match="another architecture"):
        train(debug_config(tmp_path / "other", shards, f"init_from={plain}", "model.patch_size=9"))
    assert not (tmp_path / "other").exists()


def test_whitening_fits_released_weights_to_other_data(tmp_path, shards, plain):
    """With ``init_from`` a whitened start replaces the stem, and nothing else."""
    out = train(
        debug_config(tmp_path / "run", shards, "steps=1", f"init_from={plain}", "whiten.batches=1", "optim.lr=1e-30")
    )
    before, after = specfm.load(plain).state_dict(), specfm.load(out).state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"stem.weight", "stem.bias"}


def test_a_run_from_weights_remembers_what_they_saw_and_keeps_their_whitened_stem(tmp_path, shards):
    """Else the scenes of the first run would pass for unseen, and a stem that must be held would be trained."""
    first = train(debug_config(tmp_path / "first", shards, "steps=1", "whiten.batches=1", "data.exclude=[beta]"))
    second = train(debug_config(tmp_path / "second", shards, "steps=2", f"init_from={first}", "data.include=[beta]"))
    one, two = specfm.load(first), specfm.load(second)
    assert "beta" not in one.card["domains"] and set(two.card["domains"]) == {*one.card["domains"], "beta"}
    assert set(two.card["sensors"]) >= set(one.card["sensors"]) and set(two.card["scenes"]) >= set(one.card["scenes"])
    assert one.card["whitened"] and two.card["whitened"]
    held = {name for name, tensor in two.state_dict().items() if torch.equal(tensor, one.state_dict()[name])}
    assert all(name in held for name in two.state_dict() if name.split(".")[0] in BEFORE_TRUNK)
    assert not all(name in held for name in two.state_dict() if name.startswith("blocks."))


def test_strength_of_the_views_follows_its_schedule(tmp_path, shards):
    schedule = ("schedule.strength_start=0.2", "schedule.strength_end=0.8", "schedule.strength_steps=3", "steps=5")
    out = train(debug_config(tmp_path / "run", shards, *schedule))
    assert [row["view_strength"] for row in metrics(out)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_bf16_stays_close_to_fp32(tmp_path, shards):
    """At the first step both have the same weights, so only rounding differs."""
    losses = [
        metrics(train(debug_config(tmp_path / name, shards, "steps=1", f"optim.precision={name}")))[0]["loss"]
        for name in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_excluded_domains_are_not_drawn(tmp_path, shards):
    out = train(debug_config(tmp_path / "run", shards, "steps=1", "data.exclude=[beta]"))
    assert specfm.load(out).card["domains"] == ["alpha"]


def test_the_command_prints_a_plan_and_writes_nothing(tmp_path, shards):
    from typer.testing import CliRunner

    from specfm.cli import app

    arguments = ["pretrain", "pretrain/debug.yaml", *settings(tmp_path / "run", shards)]
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "domain alpha: 96 windows in 1 shards" in result.output and "nothing was written" in result.output
    assert not (tmp_path / "run").exists()
    result = CliRunner().invoke(app, [*arguments, "steps=2"])
    assert result.exit_code == 0, result.output
    rows = metrics(tmp_path / "run")
    assert f"{sum(row['samples_per_s'] for row in rows) / 2:.4f}" in result.output  # of all steps, not of the last one
    assert "final loss" in result.output and str(tmp_path / "run" / "model")[:20] in result.output


def test_a_launch_that_a_signal_ended_too_early_is_no_success(tmp_path, shards, plain, monkeypatch):
    """Also where the run is being prolonged and an older model is there."""
    from typer.testing import CliRunner

    from specfm.cli import app

    monkeypatch.setattr("specfm.engine.launch.launch", lambda *_: 0)  # as after a signal, whatever the workers did
    shutil.copytree(plain, tmp_path / "run")
    for steps, requeue, code in ((6, False, 0), (20, False, 1), (20, True, 0)):
        if requeue:
            (tmp_path / "run" / "REQUEUE").write_text("{}")
        overrides = settings(tmp_path / "run", shards, f"steps={steps}")
        result = CliRunner().invoke(app, ["pretrain", "pretrain/debug.yaml", *overrides, "--nproc", "2", "--resume"])
        assert result.exit_code == code, result.output


def test_what_can_hardly_be_meant_is_told(tmp_path, shards, caplog):
    """Before a run and in its plan; it goes on all the same."""
    few = str(make_shard(tmp_path / "c.h5", "gamma", 24, 1, 3))
    config = debug_config(tmp_path / "run", [*shards, few], "steps=2")
    store = setup.open_shards(config)
    store.readers[0].blind = len(store.readers[0])
    told = setup.doubts(config, store, setup.make_sampler(config, store))
    for words, text in zip(("gamma (", "96 of 157", "warmup_steps 3"), told, strict=True):
        assert words in text
    train(config)
    assert "gamma (" in caplog.text and "warmup_steps 3" in caplog.text
    config = debug_config(tmp_path / "none", shards)
    store = setup.open_shards(config)
    assert setup.doubts(config, store, setup.make_sampler(config, store)) == []


@pytest.mark.parametrize(("share", "moves"), [(0, False), (1, True)])
def test_what_a_whitened_stem_amplifies_learns_at_its_own_rate(tmp_path, shards, share, moves):
    def early(steps: int) -> dict[str, torch.Tensor]:
        out = tmp_path / str(steps)
        train(debug_config(out, shards, "whiten.batches=2", f"whiten.lr_share={share}", f"steps={steps}"))
        state = specfm.load(out).state_dict()
        return {name: value for name, value in state.items() if name.split(".")[0] in BEFORE_TRUNK}

    short, long = early(2), early(4)
    assert not torch.equal(short["stem.weight"], torch.eye(len(short["stem.weight"])))
    assert all(torch.equal(short[name], long[name]) for name in short) is not moves


def test_a_run_that_holds_the_embedding_resumes(tmp_path, shards):
    out = tmp_path / "run"
    train(debug_config(out, shards, "whiten.batches=2", "steps=2"))
    train(debug_config(out, shards, "whiten.batches=2", "steps=4"), resume=True)
    assert [row["step"] for row in metrics(out)] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_run_learns_the_same(tmp_path, shards):
    """Embedding and trunk; on the CPU the compiler takes a minute or two."""
    rows = []
    for name, wanted in (("plain", "false"), ("compiled", "true")):
        out = train(debug_config(tmp_path / name, shards, "steps=3", f"model.compile={wanted}"))
        rows.append([row["loss"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())])
        specfm.load(out)
    assert rows[1] == pytest.approx(rows[0], rel=1e-4)
