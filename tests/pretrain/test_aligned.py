"""Pretraining on aligned tokens: every sensor of the store put as one ideal sensor, from the whitening on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import specfm
from pretrain.loop import train
from specfm.errors import UsageError
from specfm.shards import ShardReader
from tests.pretrain.runs import debug_config, make_shard, weights

ALIGNED = ("model.options={aligned: true, rank: 1}", "whiten.batches=2", "views.band_draw=part", "views.noise=0.003")
MERGED = ("views.merge_probability=0.5", "views.keep_low=0.8")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    """Three sensors; one of them has the bands to draw a library from."""
    folder = tmp_path_factory.mktemp("shards")
    return [
        str(make_shard(folder / f"{name}.h5", name, bands, 96, seed))
        for seed, (name, bands) in enumerate({"wide": 80, "half": 40, "few": 12}.items())
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, shards) -> Path:
    return train(debug_config(tmp_path_factory.mktemp("plain") / "run", shards, "steps=6", *ALIGNED, *MERGED))


def test_it_is_aligned_when_loaded_and_in_training(plain: Path) -> None:
    encoder = specfm.load(plain)
    assert encoder.aligned and encoder.library is not None and encoder.alignment is not None
    assert encoder.train().alignment is not None
    assert specfm.load(plain, align=False).alignment is None


@pytest.mark.slow
def test_whitening_divides_out_what_alignment_leaves(tmp_path: Path, shards) -> None:
    """One window through all its bands and through every other: closer than in an encoder that was not aligned."""
    found = {}
    for name, options in (("aligned", ALIGNED + MERGED), ("not", ("model.options={rank: 1}", *ALIGNED[1:]))):
        encoder = specfm.load(train(debug_config(tmp_path / name, shards, "steps=1", "optim.lr=1e-30", *options)))
        reader = ShardReader(shards[0])
        x_BHWC, sensor = torch.from_numpy(reader.read(range(32))[0].copy()), reader.sensor
        every = [i % 2 == 0 for i in range(len(sensor.bands))]
        half = sensor.replace(bands=specfm.BandGrid(sensor.bands.wavelengths_nm, sensor.bands.fwhm_nm, every))
        with torch.no_grad():
            one, two = (encoder(x_BHWC, s).pooled_BD for s in (sensor, half))
        found[name] = float((one - two).norm(dim=1).mean() / torch.cdist(one, one).mean())
    assert found["aligned"] < 0.7 * found["not"], found


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("whiten.batches=0",), "whiten.batches=16"),
        (("whiten.lr_share=0.1",), "whiten.lr_share=0"),
        (("data.exclude=[wide]",), "no sensor of the shards"),
    ],
)
def test_what_cannot_be_aligned_is_refused(tmp_path: Path, shards, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        train(debug_config(tmp_path / "run", shards, *ALIGNED, *overrides))
    assert not (tmp_path / "run").exists()


def test_weights_of_an_encoder_that_was_not_aligned_are_refused(tmp_path: Path, shards, plain: Path) -> None:
    with pytest.raises(UsageError, match="aligned"):
        train(debug_config(tmp_path / "run", shards, f"init_from={plain}", "model.options={rank: 1}"))
    first = train(
        debug_config(tmp_path / "on", shards, "steps=1", f"init_from={plain}", ALIGNED[0], "whiten.batches=0")
    )
    assert weights(first).keys() == weights(plain).keys()
