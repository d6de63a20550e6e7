"""Two processes, whole and in parts: killed at every point of a save, the run taken up ends in the same bits (5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pretrain.runs import launch, make_shards, metrics, run, settings, weights

STEPS = ("steps=8", "checkpoint.every=2", "checkpoint.retry_s=0.05", "optim.micro_batch=2", "guard.peer_timeout_s=10")
STRATEGIES = ("ddp", "fsdp2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shards) -> dict[str, Path]:
    """The same run by each strategy, never disturbed."""
    outs = {}
    for strategy in STRATEGIES:
        outs[strategy] = tmp_path_factory.mktemp(strategy) / "run"
        codes, text = run(outs[strategy], shards, *STEPS, f"parallel={strategy}", world=2)
        assert codes == [0, 0], text
    return outs


def names(out: Path) -> list[str]:
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def resumed(out: Path, shards: list[str], *keys: str) -> str:
    job = launch(out.parent, ["pretrain/debug.yaml", "--resume", *settings(out, shards, *keys)], world=2)
    assert job.wait() == [0, 0], job.text
    return job.text


def assert_same_run(out: Path, wanted: Path) -> None:
    assert weights(out) == weights(wanted)
    for name in ("training.safetensors", "model/model.safetensors"):
        found, expected = (each / "checkpoints" / "step-00000008" / name for each in (out, wanted))
        assert found.read_bytes() == expected.read_bytes(), name
    rows, expected_rows = ([(r["step"], r["loss"], r["grad_norm"]) for r in metrics(each)] for each in (out, wanted))
    assert rows == expected_rows


def by_strategy(*faults: str) -> list[object]:
    """Every fault with every strategy; the first with fsdp2 stands for all in the fast tests."""
    cases = [(strategy, fault) for fault in faults for strategy in reversed(STRATEGIES)]
    return [pytest.param(*case, marks=[] if place == 0 else pytest.mark.slow) for place, case in enumerate(cases)]


@pytest.mark.parametrize(
    ("strategy", "fault"),
    by_strategy("ckpt.mid_payload:kill@step=4", "ckpt.before_manifest:kill@step=4", "ckpt.after_publish:kill@step=4",
                "ckpt.mid_delete:kill@step=6", "ckpt.mid_payload:kill@step=2"),
)  # fmt: skip
def test_rank_0_killed_while_it_saves(tmp_path, shards, undisturbed, strategy, fault):
    """Faults 1 to 4 on two ranks."""
    out, keys = tmp_path / "run", (*STEPS, f"parallel={strategy}")
    codes, text = run(out, shards, *keys, faults=fault, world=2)
    assert codes == [-9, 1] and "Traceback" not in text
    resumed(out, shards, *keys)
    assert names(out) == ["step-00000006", "step-00000008"]
    assert_same_run(out, undisturbed[strategy])


@pytest.mark.parametrize(
    ("strategy", "fault"),
    [("fsdp2", "parts.assemble:kill@step=4:rank=1:hit>=4"),  # the second block of the second save
     pytest.param("fsdp2", "replicas.compare:kill@step=4:rank=1", marks=pytest.mark.slow),
     pytest.param("ddp", "replicas.compare:kill@step=4:rank=1", marks=pytest.mark.slow)],
)  # fmt: skip
def test_another_rank_killed_inside_a_save(tmp_path, shards, undisturbed, strategy, fault):
    """Fault 5: rank 0 raises, and nothing is published of what one of them took no part in."""
    out, keys = tmp_path / "run", (*STEPS, f"parallel={strategy}")
    codes, text = run(out, shards, *keys, faults=fault, world=2)
    assert codes == [1, -9] and "another process of the run has ended" in text and "Traceback" not in text
    assert names(out) == ["step-00000002"]
    assert "step-00000002" in resumed(out, shards, *keys)
    assert_same_run(out, undisturbed[strategy])
