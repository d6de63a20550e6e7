"""Views that show too little of a window for what is asked of it are refused before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.loop import Pretraining, train
from pretrain.release.card import release_card
from pretrain.windows import _around_middle
from specfm.engine.distributed import World
from specfm.engine.run_folder import RunFolder
from specfm.errors import UsageError
from tests.pretrain.pairs.made import write_plots
from tests.pretrain.runs import debug_config, make_shard

HALVED = "curriculum={stages: 2, start_bands: 1.0, start_size: 0.3, cost: formula}"


@pytest.mark.parametrize("objective", ["masked", "latent", "local"])
@pytest.mark.parametrize(
    ("override", "where"),
    [("views.crop=3", "a.h5"), (HALVED, "a.h5"), ("data.simulated={window: 3, slots: 2}", "data.simulated.window")],
)
def test_one_patch_is_too_little_where_patches_are_compared(
    tmp_path: Path, objective: str, override: str, where: str
) -> None:
    shards = [str(make_shard(tmp_path / "a.h5", "alpha", 5, 24, 0))]
    config = debug_config(tmp_path / "run", shards, "model.patch_size=3", f"objective={{{objective}: {{}}}}", override)
    words = f"{where}: its views are one patch of 3 pixels, and objective.{objective} needs several"
    with pytest.raises(UsageError, match=words):
        train(config)


def test_ranges_of_wavelengths_are_hidden_in_one_patch_too(tmp_path: Path) -> None:
    shards = [str(make_shard(tmp_path / "a.h5", "alpha", 5, 24, 0))]
    settings = ("model.patch_size=3", "objective={masked: {mask: ranges}}", "views.crop=3", "steps=1")
    train(debug_config(tmp_path / "run", shards, *settings))


def test_crops_show_the_patch_that_pairs_are_found_by(tmp_path: Path) -> None:
    shards, world = [str(write_plots(tmp_path / "a.h5", window=12))], World(0, 1, torch.device("cpu"))
    settings = ("pairs.kind=nearest_elsewhere", "model.patch_size=3")

    def made(*overrides: str) -> Pretraining:
        config = debug_config(tmp_path / "run", shards, *settings, *overrides)
        return Pretraining(config, world, RunFolder(tmp_path / "run"))

    made("views.crop=8")
    made()
    with pytest.raises(UsageError, match=r"a.h5: .*crops of 7x7 of 12x12 .*at least 8 pixels"):
        made("views.crop=7")
    with pytest.raises(UsageError, match=r"crops of 3x3 of 12x12"):
        made(HALVED)


@pytest.mark.parametrize(("side", "patch"), [(12, 3), (13, 3), (9, 3), (8, 8), (3, 8), (10, 4), (11, 4)])
def test_the_least_side_is_that_of_the_smallest_crop_that_always_holds_the_middle(side: int, patch: int) -> None:
    first = max(0, (side - patch) // 2)
    middle = set(range(first, min(first + patch, side)))
    holds = [
        all(middle <= set(range(start, start + cut)) for start in range(side - cut + 1)) for cut in range(1, side + 1)
    ]
    assert _around_middle(side, patch) == holds.index(True) + 1


def test_a_crop_wider_than_its_windows_is_said_and_the_card_names_what_was_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards, world = [str(write_plots(tmp_path / "a.h5", window=6))], World(0, 1, torch.device("cpu"))
    config = debug_config(tmp_path / "run", shards, "model.patch_size=3", "views.crop=9")
    run = Pretraining(config, world, RunFolder(tmp_path / "run"))
    assert "views.crop 9 is larger than windows of 6 x 6 pixels" in caplog.text
    assert release_card(config, run.shards, 1, {})["window"] == 6
