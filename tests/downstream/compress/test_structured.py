"""Structured pruning: parts are really gone, releases hold what is left, every network or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from downstream.compress.structured import IMPORTANCE, drop_blocks, prune_structured
from downstream.supervised.folder import load_task, save_task
from specfm.errors import SpecfmError, UsageError
from tests.downstream.compress.make import KINDS, model, windows

pytest.importorskip("torch_pruning")


def size(made: torch.nn.Module) -> int:
    return sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_is_smaller_and_comes_back(kind: str, tmp_path: Path) -> None:
    made, labelled = model(kind), windows()
    before = made(labelled[0])
    importance = IMPORTANCE[list(KINDS).index(kind) % 2]
    pruned = prune_structured(made, 0.5, importance, [labelled])
    assert size(pruned.encoder.blocks) < 0.7 * size(made.encoder.blocks)
    assert torch.equal(made(labelled[0]), before)
    assert pruned.encoder.num_features == made.encoder.num_features
    again = prune_structured(pruned, 0.3, "magnitude")
    assert size(again) < size(pruned)
    save_task(again, tmp_path / "model")
    assert torch.equal(load_task(tmp_path / "model")(labelled[0]), again(labelled[0]))


def test_heads_go_as_wholes_and_training_goes_on() -> None:
    pruned, (view, y_B) = prune_structured(model(), 0.3, "magnitude"), windows()
    for block in pruned.encoder.blocks:
        assert block.attn.num_heads == 2 and block.attn.qkv.out_features == 3 * 2 * block.attn.head_dim
        assert block.attn.proj.in_features == 2 * block.attn.head_dim and block.mlp.fc1.out_features < 96
    torch.nn.functional.cross_entropy(pruned.train()(view), y_B).backward()
    assert all(p.grad is not None for p in pruned.encoder.blocks.parameters())


def test_the_least_important_go() -> None:
    made = model("small:mlp")
    with torch.no_grad():
        made.encoder.net.layers[0][0].weight[::2] *= 1e-4
        made.encoder.net.layers[0][1].weight[::2] = 1e-4
        made.encoder.net.layers[1][0].weight[:, ::2] *= 1e-4
    view, _ = windows()
    pruned = prune_structured(made, 0.5, "magnitude")
    assert torch.allclose(pruned(view), made(view), atol=1e-4)


def test_blocks_are_dropped(tmp_path: Path) -> None:
    made, (view, _) = prune_structured(model(), 0.3, "magnitude"), windows()
    short = drop_blocks(made, 2)
    assert len(short.encoder.blocks) == 1 and len(made.encoder.blocks) == 3
    features = made.encoder.get_intermediate_layers(view.x_BHWC, view.bands, n=[0])[0]
    assert torch.allclose(short(view), made.of_pooled(made.pool(features, view)), atol=1e-6)
    save_task(short, tmp_path / "model")
    assert torch.equal(load_task(tmp_path / "model")(view), short(view))


def test_what_cannot_be_taken_out() -> None:
    with pytest.raises(UsageError, match="importance is 'size'"):
        prune_structured(model(), 0.5, "size")
    with pytest.raises(UsageError, match="ratio is 1"):
        prune_structured(model(), 1.0, "magnitude")
    with pytest.raises(UsageError, match="taylor needs labelled tiles"):
        prune_structured(model(), 0.5, "taylor")
    with pytest.raises(SpecfmError, match="one layer between image and features"):
        prune_structured(model("small:mlp", options={"depth": 1}), 0.5, "magnitude")
    for count in (0, 3):
        with pytest.raises(UsageError, match="1 to 2 can be taken out"):
            drop_blocks(model(), count)
    with pytest.raises(UsageError, match="blocks is for encoders of ours"):
        drop_blocks(model("small:mlp"), 1)
