"""A stem for every domain or scene: from the shards, per sample in training, kept and taken up again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import specfm
from pretrain import setup
from pretrain.loader import Loader
from pretrain.loop import train
from pretrain.stems import StemRouter, acquisitions, scene_moments
from specfm import BandGrid, Encoder, Sensor
from specfm.dense.fit_tokens import add_lattices, empty_moments, lattices
from specfm.errors import SpecfmError, UsageError
from specfm.models.stem import Stem
from specfm.shards import ShardSet, ShardWriter
from specfm.whiten_recipe import WhitenRecipe
from tests.pretrain.runs import debug_config, launch, make_shards, metrics, run, settings, weights


def make_shard(path: Path, domain: str, bands: int, seed: int, side: int = 9, spacing: int = 9) -> str:
    """Two scenes of 40 windows of fields with noise that grows with the wavelength; origins on a square lattice."""
    rng = np.random.default_rng(seed)
    sensor = Sensor(BandGrid(np.linspace(420, 2400, bands)), scale=1e-4, name=f"{domain} camera")
    count = 80
    field = np.repeat(np.repeat(rng.uniform(0.2, 0.8, (count, 3, 3, bands)), 3, 1), 3, 2)[:, :side, :side]
    x = field + rng.normal(0, 1, field.shape) * np.geomspace(0.002, 0.1, bands)
    at = np.arange(count) % 40
    with ShardWriter(path, (side, side), sensor, "int16", domain, count=count, scene_names=("east", "west")) as shard:
        shard.add(
            np.clip(x * 1e4, 0, 32767).astype(np.int16), np.ones((count, side, side), bool),
            label=np.full(count, -1), group=np.zeros(count, np.int64), instance_id=np.arange(count),
            origin=np.stack([at // 8, at % 8], 1) * spacing, scene_id=np.arange(count) // 40,
        )  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("shards")
    return [make_shard(folder / "a.h5", "alpha", 24, 1), make_shard(folder / "b.h5", "beta", 30, 2)]


def made(out: Path, shards: list[str], *overrides: str) -> tuple[Encoder, ShardSet]:
    """The encoder of a run before its first step."""
    config = debug_config(out, shards, *overrides)
    store = setup.open_shards(config)
    modules, _ = setup.make_modules(config)
    setup.make_room(config, store, modules)
    setup.whiten(config, store, setup.make_sampler(config, store), modules)
    return modules["encoder"], store


def stem_tokens(encoder: Encoder, store: ShardSet, shard: int, scene: int | None, row: int) -> torch.Tensor:
    """Stem tokens of the windows of a scene (None: of the shard) through one of the stems."""
    reader = store.readers[shard]
    ids = np.flatnonzero((reader.scene_id_N == scene) | (scene is None))
    x_BHWC, mask_BHW = (torch.from_numpy(each) for each in reader.read(ids))
    with torch.no_grad():
        tokens_BND = encoder.generated(encoder.prepare(x_BHWC, reader.sensor, mask_BHW))
        return encoder.stem(tokens_BND, torch.tensor([row])).flatten(0, 1)


def test_every_domain_has_its_own_and_the_encoder_that_of_all(tmp_path: Path, shards: list[str]) -> None:
    encoder, store = made(tmp_path / "run", shards, "whiten.per=sensor", "whiten.power=0.5")
    assert encoder.stems is not None
    assert [(each.domain, each.sensor) for each in encoder.stems.acquisitions] == [
        ("alpha", "alpha camera"), ("beta", "beta camera"),
    ]  # fmt: skip
    for shard in (0, 1):
        tokens = stem_tokens(encoder, store, shard, None, shard)
        assert tokens.mean(0).abs().max() < 0.02 and float(tokens.var(0).mean()) == pytest.approx(1, abs=0.02)
    assert stem_tokens(encoder, store, 0, None, 1).mean(0).abs().max() > 0.1
    both = torch.cat([stem_tokens(encoder, store, shard, None, -1) for shard in (0, 1)])
    assert both.mean(0).abs().max() < 0.02


def test_every_scene_has_its_own(tmp_path: Path, shards: list[str]) -> None:
    encoder, store = made(tmp_path / "run", shards, "whiten.per=scene")
    assert encoder.stems is not None
    assert [each.scene for each in encoder.stems.acquisitions] == ["", "", "east", "west", "east", "west"]
    assert acquisitions(store, "scene") == list(encoder.stems.acquisitions)
    for shard, scene, row in ((0, 0, 2), (0, 1, 3), (1, 1, 5)):
        assert stem_tokens(encoder, store, shard, scene, row).mean(0).abs().max() < 0.02


def test_samples_are_routed_to_theirs(tmp_path: Path, shards: list[str]) -> None:
    config = debug_config(tmp_path / "run", shards)
    store = setup.open_shards(config)
    _, batch = next(iter(Loader(store, setup.make_sampler(config, store)).iterate(0, 1)))
    assert all(part.stem_B is None for part in StemRouter(None, 2)(batch))
    assert torch.equal(StemRouter("sensor", 2)(batch).cat("stem_B"), batch.cat("domain_B"))
    for part in StemRouter("scene", 2)(batch):
        assert part.stem_B is not None
        for row, sample in zip(part.stem_B.tolist(), part.sample_id_B.tolist(), strict=True):
            shard, local = store.locate([sample])
            assert row == 2 + 2 * int(shard[0]) + int(store.readers[int(shard[0])].scene_id_N[local[0]])


def test_narrow_windows_are_compared_with_those_beside_them(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "n.h5", "narrow", 24, 3, side=3, spacing=4)
    store = ShardSet([path])
    torch.manual_seed(0)
    encoder = specfm.create_encoder("nano", patch_size=3, dim=16, depth=1, heads=2)
    found = scene_moments(encoder, store.readers[0], 1, WhitenRecipe())[0]
    assert (found.count, found.pairs) == (40, 4 * 8 + 5 * 7)
    x_BHWC, mask_BHW = (torch.from_numpy(each) for each in store.readers[0].read(np.arange(40, 80)))
    alone = empty_moments(encoder)
    bands = specfm.BandTensors.from_sensors(store.readers[0].sensor)
    add_lattices(alone, lattices(encoder, x_BHWC, bands, mask_BHW), 1)
    torch.testing.assert_close(found.covariance_DD, alone[0].covariance_DD)
    assert alone[0].pairs == 0


def test_what_cannot_be_told_from_material_is_refused(tmp_path: Path, shards: list[str]) -> None:
    lonely = make_shard(tmp_path / "n.h5", "narrow", 24, 3, side=3, spacing=90)
    with pytest.raises(UsageError, match=r"n\.h5: fewer than 100 .* or set whiten\.per=run"):
        made(tmp_path / "one", [lonely], "whiten.per=sensor", "views.crop=3")
    few = make_shard(tmp_path / "f.h5", "few", 24, 3, side=3, spacing=4)
    with pytest.raises(UsageError, match=r"whiten\.per=scene: east: 67 pairs .* or use whiten\.per=sensor"):
        made(
            tmp_path / "two",
            [few],
            "whiten.per=scene",
            "views.crop=3",
            "model.options.dim=192",
            "model.options.heads=3",
        )
    for overrides, message in (
        (("whiten.per=scene", "whiten.batches=2"), "whiten.batches is of per: run"),
        (("whiten.per=scene", "model.options.aligned=true"), "whiten.per must be run"),
        (("whiten.batches=2", "model.options.pixel=true"), "whiten.per=sensor or scene"),
    ):
        with pytest.raises(SpecfmError, match=message):
            debug_config(tmp_path / "three", shards, *overrides)


@pytest.mark.parametrize("per", ["sensor", "scene"])
def test_a_run_trains_behind_them_and_releases_the_recipe(tmp_path: Path, shards: list[str], per: str) -> None:
    options = (f"whiten.per={per}", "whiten.power=0.5", "model.options.pixel=true", "monitor.every=6")
    out = train(debug_config(tmp_path / "run", shards, *options))
    encoder = specfm.load(out)
    assert encoder.card["whiten"] == {
        "per": per, "shift": 3, "power": 0.5, "components": None, "damping": 1e-5, "brightness": False,
    }  # fmt: skip
    assert encoder.card["whitened"] and encoder.stems is not None and encoder.pixel
    assert [each.domain for each in encoder.stems.acquisitions] == ["alpha", "beta"]
    before, _ = made(tmp_path / "other", shards, *options)
    assert before.stems is not None
    assert torch.equal(before.stems.weight_KSDD[:, :2], encoder.stems.weight_KSDD)
    assert torch.equal(before.stem.weight, encoder.stem.weight)
    assert not torch.equal(before.blocks[0].attn.qkv.weight, encoder.blocks[0].attn.qkv.weight)
    assert all(np.isfinite(row["loss"]) for row in metrics(out))


def test_resuming_takes_them_up_and_ends_in_the_same_weights(tmp_path: Path, shards: list[str]) -> None:
    options = ("whiten.per=scene", "checkpoint.every=4", "checkpoint.beside=false")  # that of step 4 stands
    whole = train(debug_config(tmp_path / "whole", shards, *options))
    codes, text = run(tmp_path / "cut", shards, *options, faults="data.read:kill@step=7")
    assert codes == [-9], text
    kept = specfm.load(sorted((tmp_path / "cut" / "checkpoints").glob("step-*"))[-1]).stems
    assert kept is not None and len(kept.acquisitions) == 6
    train(debug_config(tmp_path / "cut", shards, *options), resume=True)
    assert weights(tmp_path / "cut") == weights(whole)
    one, other = specfm.load(whole).stems, specfm.load(tmp_path / "cut").stems
    assert one is not None and other is not None and one.to_bytes() == other.to_bytes()


def test_stems_of_other_acquisitions_are_not_taken_up(tmp_path: Path, shards: list[str]) -> None:
    """A domain more would shift the numbers that samples find their stem by."""
    train(debug_config(tmp_path / "run", shards, "whiten.per=sensor", "steps=2", "checkpoint.every=2"))
    more = [make_shard(tmp_path / "0.h5", "a first one", 24, 4), *shards]
    for given, per in ((more, "sensor"), (shards, "scene"), (shards, "run")):
        changed = debug_config(tmp_path / "run", given, f"whiten.per={per}", "data.allow_changed=true", "steps=4")
        with pytest.raises(UsageError, match=f"stems in .* are of other domains or scenes than those of .*={per} and"):
            train(changed, resume=True)


@pytest.mark.slow
def test_two_ranks_and_micro_batches_give_the_losses_of_one(tmp_path: Path, shards: list[str]) -> None:
    options = ("whiten.per=scene", "model.options.pixel=true")
    alone = train(debug_config(tmp_path / "one", shards, *options))
    codes, text = run(tmp_path / "two", shards, *options, "optim.micro_batch=4", world=2)
    assert codes == [0, 0], text
    for one, other in zip(metrics(alone), metrics(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.slow
def test_what_starts_from_such_an_encoder_keeps_or_replaces_them(
    tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, rows_of = [], Stem.rows_of

    def asked(stem: Stem, names: tuple[str | None, ...]) -> torch.Tensor | None:
        seen.append(names)
        return rows_of(stem, names)

    first = train(debug_config(tmp_path / "first", shards, "whiten.per=sensor", "steps=2", "model.patch_size=3"))
    kept = train(debug_config(tmp_path / "kept", shards, f"init_from={first}", "steps=2", "model.patch_size=3"))
    assert specfm.load(kept).stems is not None and specfm.load(kept).card["whiten"]["per"] == "sensor"
    monkeypatch.setattr(Stem, "rows_of", asked)
    named = ("views.attribute_dropout=1.0", "objective={latent: {}, masked: {}}", "model.patch_size=3")
    taken = train(debug_config(tmp_path / "more", shards, *named, f"init_from={first}", "steps=2", "ema.decay=0.5"))
    assert set(seen) == {("alpha camera",), ("beta camera",)}, "a view that leaves a name out changes no stem"
    assert specfm.load(taken).stems is not None
    anew = train(
        debug_config(
            tmp_path / "anew", shards, f"init_from={first}", "whiten.batches=2", "steps=2", "model.patch_size=3"
        )
    )
    assert specfm.load(anew).stems is None


def test_the_plain_shards_of_other_tests_still_run(tmp_path: Path) -> None:
    """Scenes whose windows lie in one row."""
    job = launch(
        tmp_path, ["pretrain/debug.yaml", *settings(tmp_path / "run", make_shards(tmp_path), "whiten.per=sensor")]
    )
    assert job.wait() == [0], job.text
