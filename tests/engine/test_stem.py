"""A stem that changes over: the function stays, and so does what the optimiser knows; training goes on alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from specfm.bands import BandGrid
from specfm.config import build_config
from specfm.engine.curriculum import CurriculumConfig
from specfm.engine.optimizer import adamw, optimizer_tensors, replace_parameter, restore_optimizer
from specfm.engine.stem import StemStages
from specfm.models import Backbone, create_backbone
from specfm.models.networks import stem_of

BANDS = BandGrid(np.linspace(450, 900, 13), valid=np.arange(13) != 4)


def cubes(seed: int) -> torch.Tensor:
    """Smooth spectra, as neighbouring bands are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(8, 9, 9, 13, generator=generator).cumsum(-1)


def made(reducer: str, **values: object) -> tuple[StemStages, Backbone, torch.optim.Optimizer, nn.ModuleDict]:
    torch.manual_seed(0)
    backbone = create_backbone("timm:test_resnet", BANDS)
    modules = nn.ModuleDict({"model": backbone})
    backbone.fit_statistics([(cubes(0), BANDS, None)])
    optimizer = adamw(modules, 1e-3, 0.01, (0.9, 0.98), torch.device("cpu"))
    stages = [{"bands": 3}, {"bands": 6}, {}]
    config = build_config({"stages": stages, "reducer": reducer, **values}, CurriculumConfig, "the test")
    stem = StemStages(config, backbone, optimizer)
    stem.fit([backbone.pixels(cubes(0), BANDS)], seed=0)
    return stem, backbone, optimizer, modules


def step(backbone: Backbone, optimizer: torch.optim.Optimizer, seed: int) -> float:
    backbone.train()
    loss = backbone(cubes(seed), BANDS).pooled_BD.square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize("reducer", ["pca", "merge"])
def test_the_function_is_the_same_before_and_after_each_switch(reducer: str) -> None:
    """Components are nested; six groups of two divide three groups of four."""
    stem, backbone, optimizer, _ = made(reducer)
    for number, width in ((1, 6), (2, 12)):
        for seed in range(2):
            step(backbone, optimizer, seed)
        before = backbone.eval()(cubes(9), BANDS).tokens_BND.detach()
        stem.enter(number)
        after = backbone.eval()(cubes(9), BANDS).tokens_BND
        assert torch.allclose(after, before, atol=1e-5 * float(before.abs().max()))
        assert stem_of(backbone.net).weight.shape[1] == width
        moved = step(backbone, optimizer, 5)
        assert np.isfinite(moved)
    assert backbone.mix_KC is None and backbone.config["mixtures"] is None


@pytest.mark.parametrize("reducer", ["window", "uniform", "regions", "ica", "factors", "list"])
def test_other_reducers_change_over_too(reducer: str) -> None:
    stem, backbone, optimizer, _ = made(reducer, **({"bands": [1, 13, 7, 3, 9, 2]} if reducer == "list" else {}))
    assert stem_of(backbone.net).weight.shape[1] == 3
    step(backbone, optimizer, 0)
    stem.enter(1)
    assert stem_of(backbone.net).weight.shape[1] == 6
    before = backbone.eval()(cubes(9), BANDS).tokens_BND.detach()
    stem.enter(2)  # the bands themselves span everything
    assert torch.allclose(backbone.eval()(cubes(9), BANDS).tokens_BND, before, atol=1e-4 * float(before.abs().max()))
    assert np.isfinite(step(backbone, optimizer, 1))


def test_the_optimiser_goes_on_with_what_it_knows() -> None:
    """Nested components: averages of the old columns stay, new columns begin with no momentum and a usual rate."""
    stem, backbone, optimizer, modules = made("pca")
    for seed in range(3):
        step(backbone, optimizer, seed)
    weight = stem_of(backbone.net).weight
    old = {field: value.clone() for field, value in optimizer.state[weight].items()}
    others = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    stem.enter(1)
    new = stem_of(backbone.net).weight
    state = optimizer.state[new]
    assert torch.allclose(state["exp_avg"][:, :3], old["exp_avg"]) and not state["exp_avg"][:, 3:].any()
    assert torch.allclose(state["exp_avg_sq"][:, :3], old["exp_avg_sq"]) and (state["exp_avg_sq"][:, 3:] > 0).all()
    assert state["step"] == old["step"]
    now = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    assert set(others) - set(now) == {id(weight)} and set(now) - set(others) == {id(new)}
    assert weight not in optimizer.state and len(list(modules.parameters())) == len(now)


def test_taking_up_restores_stem_and_optimiser_bit_by_bit() -> None:
    stem, backbone, optimizer, modules = made("pca")
    step(backbone, optimizer, 0)
    stem.enter(1)
    step(backbone, optimizer, 1)
    held = {**stem.tensors(), **optimizer_tensors(optimizer, modules)}
    kept = {name: tensor.clone() for name, tensor in held.items()}
    weights = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    other, twin, again, both = made("merge")
    other.take_up(kept)
    other.enter(1)
    both.load_state_dict(weights)
    restore_optimizer(again, both, kept)
    for number in (1, 2):
        stem.enter(number)
        other.enter(number)
        assert step(backbone, optimizer, 7 + number) == step(twin, again, 7 + number)
    assert all(torch.equal(a, b) for a, b in zip(modules.parameters(), both.parameters(), strict=True))


def test_statistics_of_batch_norm_are_those_of_the_stage() -> None:
    stem, backbone, _, _ = made("pca")
    norm = next(m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    for seed in range(20):
        backbone.train()(cubes(seed) * 5, BANDS)
    stem.enter(1)
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].mean((0, 2, 3))))
    for since in range(1, 5):
        stem.settle(since)
        backbone.train()(cubes(since), BANDS)
    assert torch.allclose(norm.running_mean, torch.stack(seen).mean(0), atol=1e-6)  # type: ignore[arg-type]
    stem.settle(1000)
    assert norm.momentum == pytest.approx(0.1)


def test_a_parameter_that_is_not_trained_yet_is_replaced_as_well() -> None:
    one, two = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 4))
    optimizer = torch.optim.AdamW([one])
    replace_parameter(optimizer, one, two, torch.eye(3, 4))
    assert optimizer.param_groups[0]["params"][0] is two and not optimizer.state
