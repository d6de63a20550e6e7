"""An encoder of windows of one size alone trains on crops of wider ones to its end; what it cannot read is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import specfm
from pretrain.config import PretrainConfig
from pretrain.loop import train
from pretrain.stems import allocate, compute
from pretrain.views.plain import middle, pooled
from pretrain.windows import refuse_windows
from specfm import BandGrid, Sensor, UsageError
from specfm.batch import Batch
from specfm.config import load_config
from specfm.shards import ShardSet
from tests.pretrain.pairs.made import write_plots
from tests.pretrain.runs import metrics
from tests.pretrain.samples import part
from tests.properties.cases import cube

SIDE, WINDOW = 16, 24
SMALL = (
    "device=cpu", "steps=5", "data.global_batch=8", "data.divisor=2", "data.threads=1", "data.prefetch=1",
    "model.patch_size=4", f"views.crop={SIDE}", "model.options.dim=24", "model.options.depth=1",
    "model.options.heads=3", f"model.options.image_size={SIDE}", "model.options.rank=4",
    "objective.masked.decoder={width: 16, depth: 1, heads: 2, rank: 4, code_width: 128}",
    "objective.masked.window_steps=2", "optim.warmup_steps=1", "optim.precision=fp32", "optim.micro_batch=4",
    "checkpoint.every=3", "monitor.every=2", "monitor.features_every=2", "wandb.mode=disabled",
)  # fmt: skip


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return str(write_plots(tmp_path / "a.h5", window=WINDOW, stride=12))


def preset(out: Path, shard: str, *overrides: str) -> PretrainConfig:
    words = [f"out={out}", f"data.shards=[{shard}]", *SMALL, *overrides]
    return load_config("pretrain/specaware.yaml", PretrainConfig, words)


def test_the_preset_trains_to_its_end_on_windows_wider_than_its_crop(tmp_path: Path, shard: str) -> None:
    out = train(preset(tmp_path / "run", shard))
    rows = metrics(out)
    assert len(rows) == 5 and {"untrained/knn", "knn", "linear"} <= rows[3].keys()
    assert all("embedding/rank" in rows[number] for number in (1, 3, 4)), rows[3].keys()
    encoder = specfm.load(out)
    assert encoder.fixed_side == SIDE
    scene = specfm.Scene.from_array(cube(BandGrid(np.linspace(420, 2400, 12)), side=20)[0].numpy(), sensor())
    assert encoder.embed(scene).features_hwD.shape == (5, 5, 24)


def sensor() -> Sensor:
    return Sensor(BandGrid(np.linspace(420, 2400, 12)), quantity="surface_reflectance")


def tiny(trunk: str = "mae", image_size: int = SIDE) -> specfm.Encoder:
    torch.manual_seed(0)
    sizes = {"dim": 24, "depth": 1, "heads": 3, "image_size": image_size, "rank": 4, "level": "none", "trunk": trunk}
    return specfm.create_encoder("nano", "specaware", 4, **sizes).eval()


def test_the_middle_of_windows_is_looked_at_and_all_of_it_by_other_encoders() -> None:
    seen = part(cube(sensor().bands, batch=3, side=WINDOW + 1), sensor())
    batch, place = Batch((seen,)), slice(4, 4 + SIDE)
    encoder = tiny()
    expected_BD = encoder(seen.x_BHWC[:, place, place], seen.bands).pooled_BD
    assert torch.equal(pooled(encoder, batch), expected_BD)
    assert torch.allclose(pooled(encoder, batch, 2), expected_BD, atol=1e-5)
    any_size = specfm.create_encoder("nano", patch_size=4, dim=48, depth=1, heads=3).eval()
    assert torch.equal(pooled(any_size, batch), any_size(batch).pooled_BD)
    with pytest.raises(UsageError, match=r"windows of 12 x 12 pixels are smaller than the 16 x 16 .* --window 16"):
        middle(torch.zeros(1, 12, 12), SIDE)


def test_stems_of_acquisitions_are_fitted_to_the_middle_too(shard: str) -> None:
    encoder, shards = tiny("stem"), ShardSet([shard])
    recipe = load_config("pretrain/debug.yaml", PretrainConfig, ["out=x", "data.shards=[x]"]).whiten.recipe
    allocate(encoder, shards, "sensor")
    compute(encoder, shards, "sensor", recipe)
    assert encoder.stems is not None and encoder.stems.weight_KSDD.isfinite().all()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("views.crop=12", r"a\.h5: views are 12x12 pixels, and the encoder reads 16x16 alone .*set views\.crop=16"),
        ("views.crop=null", r"a\.h5: views are 24x24 .*set views\.crop=16"),
        ("curriculum={stages: 2, start_size: 0.5, cost: formula}", r"views are 12x12 .*set curriculum\.start_size=1"),
        ("data.simulated={slots: 2}", r"data\.simulated\.window: views are 9x9 .*set data\.simulated\.window=16"),
        ("model.options.image_size=32", r"cut wider windows \(specfm shard --window 32\), or set a smaller"),
        ("model.options.aligned=true", r"options aligned and pixel are not for an encoder whose embedding reads"),
    ],
)
def test_views_of_another_size_are_refused_at_the_start(tmp_path: Path, shard: str, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        train(preset(tmp_path / "run", shard, override))
    assert not (tmp_path / "run").exists()


def test_the_remedies_work(tmp_path: Path, shard: str) -> None:
    simulated = "data.simulated={slots: 1, window: 16, sensors: [enmap], drawn: 0}"
    train(preset(tmp_path / "one", shard, simulated, "steps=2"))
    train(preset(tmp_path / "two", shard, "curriculum={stages: 2, start_size: 1, cost: formula}", "steps=2"))


def test_simulated_windows_that_cannot_be_so_wide_are_to_be_left_out(tmp_path: Path, shard: str) -> None:
    config = preset(tmp_path / "run", shard, "views.crop=80", "data.simulated={slots: 2}")
    encoder = tiny(image_size=80)
    with pytest.raises(UsageError, match="leave data.simulated out, whose windows reach 64"):
        refuse_windows(config, SimpleNamespace(readers=[]), {}, encoder)  # type: ignore[arg-type]


def test_other_shards_of_the_monitor_have_windows_as_wide(tmp_path: Path, shard: str) -> None:
    small = write_plots(tmp_path / "small.h5", window=12, stride=12)
    with pytest.raises(UsageError, match=r"windows of 12 x 12 pixels are smaller than the 16 x 16 .*monitor\.shards"):
        train(preset(tmp_path / "run", shard, f"monitor.shards=[{small}]"))
