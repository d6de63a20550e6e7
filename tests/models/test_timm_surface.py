"""The surface of timm on encoders and backbones: the same numbers as their own methods, and classifiers that travel.

Shapes: B samples, N tokens, h w token grid, D width, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import FeatureInfo

import specfm
from specfm import Batch, UsageError
from specfm.models import fresh_like
from tests.pretrain.samples import part, sensor_of
from tests.properties.cases import comb, cube

GRID = comb(9)


def encoder(**options: Any) -> Any:
    torch.manual_seed(3)
    return specfm.create_encoder("nano", patch_size=4, **{"dim": 48, "depth": 3, "heads": 3, **options}).eval()


def backbone() -> Any:
    torch.manual_seed(3)
    return specfm.create_backbone("timm:resnet10t", GRID.to_dict()).eval()


def test_intermediates_are_the_layers() -> None:
    made, x_BHWC = encoder(), cube(GRID)
    tokens_BND, maps = made.forward_intermediates(x_BHWC, GRID, norm=True)
    assert torch.equal(tokens_BND, made.forward_features(x_BHWC, GRID)) and len(maps) == 3
    layers = made.get_intermediate_layers(x_BHWC, GRID, n=[0, 1, 2])
    for map_BDhw, layer in zip(maps, layers, strict=True):
        height, width = layer.grid_hw[0]
        assert map_BDhw.shape == (2, 48, height, width)
        assert torch.equal(map_BDhw[:, :, 0, 1], layer.tokens_BND[:, 1])
        assert torch.equal(map_BDhw[:, :, 1, 0], layer.tokens_BND[:, width])
    plain = made.get_intermediate_layers(x_BHWC, GRID, n=[1], norm=False)[0]
    (only,) = made.forward_intermediates(x_BHWC, GRID, indices=[-2], output_fmt="NLC", intermediates_only=True)
    assert torch.equal(only, plain.tokens_BND)
    early, _ = made.forward_intermediates(x_BHWC, GRID, indices=[0, 1], stop_early=True)
    assert torch.equal(early, made.norm(plain.tokens_BND))


def test_indices_are_those_of_timm() -> None:
    """In a model of timm too the last n, and listed ones in the order of the blocks."""
    theirs = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=32, num_classes=0).eval()
    ours, image = encoder(), torch.zeros(1, 3, 32, 32)
    for indices in (None, 1, 2, [2, 0], [-1], [1, 1]):
        there = theirs.forward_intermediates(image, indices, intermediates_only=True)
        here = ours.forward_intermediates(cube(GRID), GRID, indices=indices, intermediates_only=True)
        assert len(here) == len(there)
    both = ours.forward_intermediates(cube(GRID), GRID, intermediates_only=True)
    swapped = ours.forward_intermediates(cube(GRID), GRID, indices=[2, 0], intermediates_only=True)
    assert torch.equal(swapped[0], both[0]) and torch.equal(swapped[1], both[2])


def test_no_block_after_the_last_one_asked_for_is_run() -> None:
    made = encoder()
    made.blocks[2].forward = lambda *_, **__: pytest.fail("the last block was run")
    made.get_intermediate_layers(cube(GRID), GRID, n=[0, 1])
    made.forward_intermediates(cube(GRID), GRID, indices=[1], stop_early=True)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"indices": [3]}, "blocks 0 to 2, so it cannot give indices=\\[3\\]"),
        ({"indices": 4}, "indices=4"),
        ({"indices": 0}, "indices=0"),
        ({"indices": []}, "indices="),
        ({"output_fmt": "NHWC"}, "choose NCHW or NLC"),
        ({"return_prefix_tokens": True}, "no class token"),
    ],
)
def test_refusals_of_intermediates(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder().forward_intermediates(cube(GRID), GRID, **how)


def test_parts_of_two_sizes_have_no_map_of_one() -> None:
    parts = tuple(part(torch.rand(2, side, side, 9) + 0.1, sensor_of(450, 900, 9)) for side in (4, 8))
    made = encoder()
    with pytest.raises(UsageError, match="differ in size.*NLC"):
        made.forward_intermediates(Batch(parts))
    _, tokens = made.forward_intermediates(Batch(parts), output_fmt="NLC")
    assert tokens[0].shape == (4, 4, 48)


def test_class_tokens_go_along() -> None:
    made = encoder(trunk="mae", layer_scale=0)
    assert made.num_prefix_tokens == 1 and encoder().num_prefix_tokens == 0
    _, pairs = made.forward_intermediates(cube(GRID), GRID, norm=True, return_prefix_tokens=True)
    features = made(cube(GRID), GRID)
    assert torch.equal(pairs[-1][1][:, 0], features.class_BD) and pairs[-1][0].ndim == 4
    made.reset_classifier(0, "token")
    assert torch.equal(made.forward_head(features), features.class_BD)
    with pytest.raises(UsageError, match="hold no class token"):
        made.forward_head(features.tokens_BND)


def test_facts_about_features() -> None:
    made = encoder()
    assert FeatureInfo(made.feature_info, 2).reduction() == [4, 4]
    assert FeatureInfo(made.feature_info, (0,)).channels() == [48]
    assert made.feature_info[2]["module"] == "blocks.2" and made.get_submodule("blocks.2") is made.blocks[2]
    made.card = {"window": 12, "license": "mit"}
    told = made.pretrained_cfg
    assert told["input_size"] == (None, 12, 12) and told["license"] == "mit" and told["num_classes"] == 0
    assert set(told) <= {*timm.create_model("resnet10t").pretrained_cfg}


def test_without_a_classifier_the_head_pools() -> None:
    made = encoder()
    features = made(cube(GRID), GRID)
    assert made.num_classes == 0 and isinstance(made.get_classifier(), torch.nn.Identity)
    assert torch.equal(made.forward_head(features), features.pooled_BD)
    assert torch.allclose(made.forward_head(features.tokens_BND), features.pooled_BD, atol=1e-5)


@pytest.mark.parametrize("make", [encoder, backbone])
def test_a_classifier_travels(make: Any, tmp_path: Path) -> None:
    made = make()
    before = made.config
    made.reset_classifier(5)
    features = made(cube(GRID), GRID)
    logits_BK = made.forward_head(features)
    assert logits_BK.shape == (2, 5) and made.get_classifier() is made.head
    assert torch.equal(logits_BK, made.head(made.forward_head(features, pre_logits=True)))
    specfm.save(made, tmp_path / "release", {})
    again = specfm.load(tmp_path / "release")
    assert again.num_classes == 5 and torch.equal(again.forward_head(again(cube(GRID), GRID)), logits_BK)
    assert fresh_like(made).num_classes == 5
    made.reset_classifier(2, "")
    assert made.forward_head(features).shape == (*features.tokens_BND.shape[:2], 2)
    made.reset_classifier(0)
    assert made.config == before and not [name for name in made.state_dict() if name.startswith("head")]


def test_a_classifier_learns() -> None:
    made = encoder().train()
    made.reset_classifier(2)
    x_BHWC, wanted_B = cube(GRID), torch.tensor([0, 1])
    x_BHWC[1] = x_BHWC[1] * torch.linspace(0.2, 3, x_BHWC.shape[-1])  # a spectrum that rises
    optimizer = torch.optim.AdamW(made.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(made.forward_head(made(x_BHWC, GRID)), wanted_B)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, "max"), "unknown global_pool 'max'"),
        ((3, "token"), "no class token"),
        ((-1,), "whole number from 0, not -1"),
        ((True,), "whole number from 0"),
    ],
)
def test_refusals_of_classifiers(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder().reset_classifier(*arguments)


def test_a_backbone_has_the_surface_of_its_one_block() -> None:
    made, x_BHWC = backbone(), cube(GRID)
    tokens_BND, maps = made.forward_intermediates(x_BHWC, GRID)
    assert len(made.feature_info) == len(maps) == 1 and torch.equal(tokens_BND, made.forward_features(x_BHWC, GRID))
    assert maps[0].shape[1] == made.num_features == made.feature_info[0]["num_chs"]


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_a_classifier_goes_with_the_precision_of_the_trunk(kind: str) -> None:
    made, x_BHWC = encoder(), cube(GRID)
    made.reset_classifier(5)
    with torch.no_grad():
        before = made.forward_head(made(x_BHWC, GRID))
        getattr(made, kind)()
        after = made.forward_head(made(x_BHWC, GRID))
    assert after.dtype == made.norm.weight.dtype != torch.float32
    torch.testing.assert_close(after.float(), before, rtol=0.05, atol=0.05)
