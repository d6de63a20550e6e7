"""Distances between dates, and what of a model is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from downstream.tasks import simple
from downstream.tasks.data import make_place
from downstream.tasks.train import Member, make_model
from specfm import create_encoder
from tests.downstream.tasks.toys import COARSE, FINE, NAMES, blocks, config, scene


def pair(after=FINE):
    rng = np.random.default_rng(3)
    before = blocks(24, 24, 6, 3, rng)
    changed = np.zeros((24, 24), bool)
    changed[6:12, 6:18] = True
    later = np.where(changed, (before + 1) % 3, before)
    return make_place([scene(before, name="a"), scene(later, after, seed=1, name="b")]), changed


def test_the_spectral_angle_is_blind_to_brightness() -> None:
    x = np.random.default_rng(0).random((5, 7))
    assert simple.spectral_angle(x, 3 * x) == pytest.approx(np.zeros(5), abs=1e-7)
    assert simple.spectral_angle(np.eye(2), np.eye(2)[::-1]) == pytest.approx(np.full(2, np.pi / 2))


@pytest.mark.parametrize("after", [FINE, COARSE], ids=["same sensor", "another sensor"])
def test_distances_find_what_changed(after) -> None:
    """Also where the second date has six bands in place of 24."""
    place, changed = pair(after)
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3).eval()
    maps = simple.spectral_maps([place])
    assert set(maps) == {"spectral angle", "spectral difference"}
    for name, (distance,) in (maps | {"features": simple.feature_maps([place], encoder, 12)}).items():
        assert distance.shape == (24, 24)
        if name != "features" or after is FINE:
            assert distance[changed].min() > np.quantile(distance[~changed], 0.9), name


def test_the_change_vector_forgets_what_changed_everywhere() -> None:
    x = np.random.default_rng(0).random((50, 4))
    assert simple.change_vector(x, 2 * x + 1) == pytest.approx(np.zeros(50), abs=1e-9)


@pytest.mark.parametrize(("mode", "expected"), [("frozen", set()), ("partial", {"blocks.1", "norm"}), ("full", None)])
def test_modes_train_what_they_say(tmp_path, mode: str, expected: set[str] | None) -> None:
    settings = config(tmp_path / "run", tmp_path / "card", "segmentation", train_blocks=1)
    source = create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3)
    model = make_model(settings, source, Member("x", "y", True, mode, 0), NAMES[:3])  # type: ignore[arg-type]
    trained = {
        n.removesuffix(".weight").removesuffix(".bias") for n, p in model.encoder.named_parameters() if p.requires_grad
    }
    if expected is None:
        assert all(p.requires_grad for p in model.parameters())
    else:
        assert {n for n in trained if not any(n == e or n.startswith(f"{e}.") for e in expected)} == set()
        assert all(any(n.startswith(e) for n in trained) for e in expected)
    assert torch.equal(model.encoder.stem.weight, source.stem.weight)
    other = make_model(settings, source, Member("x", "y", False, mode, 0), NAMES[:3])  # type: ignore[arg-type]
    assert not torch.equal(other.encoder.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(("pretrained", "batches", "held"), [(True, 4, True), (True, 0, False), (False, 4, False)])
def test_a_whitened_stem_stays_as_pretraining_left_it(tmp_path, pretrained: bool, batches: int, held: bool) -> None:
    settings = config(tmp_path / "run", tmp_path / "card", "segmentation")
    source = create_encoder("nano", patch_size=3, dim=48, depth=2, heads=3)
    source.card = {"config": {"whiten": {"batches": batches}}}
    model = make_model(settings, source, Member("x", "y", pretrained, "full", 0), NAMES[:3])
    still = {name.split(".")[0] for name, p in model.encoder.named_parameters() if not p.requires_grad}
    assert still == ({"embedding", "stem", "stem_norm", "brightness"} if held else set())
