"""Averages of the encoder in a run: the released one and a teacher's; their recursion, resuming, bad steps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import specfm
from pretrain.loop import train
from specfm.errors import UsageError
from tests.pretrain.runs import debug_config, make_shards, metrics, run, weights

SETTINGS = (
    "steps=6", "checkpoint.every=1", "checkpoint.keep=9", "monitor.every=6", "whiten.batches=1", "ema.decay=0.6",
    "objective.latent.momentum=0.5", "objective.latent.momentum_end=0.8", "objective.latent.momentum_steps=4",
    "objective.latent.predictor={width: 24, depth: 1, heads: 2}",
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: Any) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any, shards: list[str]) -> Path:
    return train(debug_config(tmp_path_factory.mktemp("whole") / "run", shards, *SETTINGS))


def states(out: Path, number: int) -> dict[str, dict[str, Tensor]]:
    """Weights after a step: of the encoder, of its average, of the teacher."""
    folder = out / "checkpoints" / f"step-{number:08d}"
    tensors = load_file(folder / "training.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    return {
        "encoder": part("module/encoder."),
        "average": load_file(folder / "model" / "model.safetensors"),
        "teacher": part("module/latent_teacher."),
    }


def test_both_averages_follow_their_recursion(whole: Path) -> None:
    before = states(whole, 1)
    for number in range(2, 7):
        now = states(whole, number)
        assert now["encoder"].keys() == now["average"].keys() == now["teacher"].keys()
        for name, decay in (
            ("average", min(0.6, number / (9 + number))),
            ("teacher", 0.5 + 0.3 * min((number - 1) / 4, 1)),
        ):
            for key, weight in now["encoder"].items():
                wanted = decay * before[name][key] + (1 - decay) * weight
                torch.testing.assert_close(now[name][key], wanted, rtol=1e-5, atol=1e-7)
        before = now
    assert not torch.equal(before["encoder"]["blocks.0.mlp.fc1.weight"], before["average"]["blocks.0.mlp.fc1.weight"])


def test_copies_start_from_the_whitened_stem(whole: Path) -> None:
    found = states(whole, 1)
    assert not torch.equal(found["encoder"]["stem.weight"], torch.eye(len(found["encoder"]["stem.weight"])))
    for name in ("average", "teacher"):
        assert torch.equal(found[name]["stem.weight"], found["encoder"]["stem.weight"])  # held behind a whitened stem


def test_the_average_is_released_and_the_card_says_so(whole: Path) -> None:
    last = states(whole, 6)
    encoder = specfm.load(whole)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, last["average"][key])
    assert encoder.card["weights"] == "running average over steps, decay 0.6"
    assert "running average over steps, decay 0.6" in (whole / "model" / "README.md").read_text()


def test_resuming_restores_every_average_bit_by_bit(tmp_path: Path, shards: list[str], whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "model")
    for number in (4, 5, 6):
        shutil.rmtree(out / "checkpoints" / f"step-{number:08d}")
    train(debug_config(out, shards, *SETTINGS), resume=True)
    assert weights(out) == weights(whole)
    now, then = states(out, 6), states(whole, 6)
    for name in now:
        assert all(torch.equal(value, then[name][key]) for key, value in now[name].items())
    last, wanted = metrics(out)[-1], metrics(whole)[-1]
    for key in ("knn", "linear", "untrained/knn", "untrained/linear", "majority", "embedding/rank"):
        assert last[key] == wanted[key]  # what the run began with is kept, not worked out anew
    with pytest.raises(UsageError, match="ema"):
        train(debug_config(out, shards, *SETTINGS, "ema=null", "steps=8"), resume=True)


@pytest.mark.slow
def test_a_bad_step_moves_no_average(tmp_path: Path, shards: list[str]) -> None:
    codes, text = run(tmp_path / "run", shards, *SETTINGS, faults="step.loss:nan@step=4")
    assert codes == [0], text
    assert [row["step"] for row in metrics(tmp_path / "run") if row["bad_step"]] == [4]
    before, after = states(tmp_path / "run", 3), states(tmp_path / "run", 5)
    assert not (tmp_path / "run" / "checkpoints" / "step-00000004").exists()
    for key, weight in after["encoder"].items():
        wanted = 0.8 * before["teacher"][key] + 0.2 * weight
        torch.testing.assert_close(after["teacher"][key], wanted, rtol=1e-5, atol=1e-7)


def test_two_ranks_keep_the_averages_of_one(tmp_path: Path, shards: list[str], whole: Path) -> None:
    codes, text = run(tmp_path / "run", shards, *SETTINGS, world=2)
    assert codes == [0, 0], text
    now, then = states(tmp_path / "run", 6), states(whole, 6)
    for name in now:
        for key, value in now[name].items():
            torch.testing.assert_close(value, then[name][key], rtol=1e-3, atol=2e-5)
