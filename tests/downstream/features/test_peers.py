"""Published encoders behind one small adapter: weights or a plain word that there are none, bands mapped as stated."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from downstream.features.extract import extract
from downstream.features.peers import PeerName, load_peer, three_bands
from downstream.probe.options import ProbeOptions
from downstream.probe.run import probe
from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from tests.downstream.toy_scenes import SENSOR, field, plots

TIMM = "timm:test_vit@32"


def test_names_are_parsed() -> None:
    assert PeerName.parse("dofa_base") == PeerName("dofa_base", None, None)
    assert PeerName.parse("timm:resnet18@96=/a/b.safetensors") == PeerName(
        "timm:resnet18", 96, Path("/a/b.safetensors")
    )
    for text, word in (("dafo", "unknown peer"), ("dofa_base@x", "after @"), ("dofa_base@0", "after @")):
        with pytest.raises(UsageError, match=word):
            PeerName.parse(text)


def test_three_bands_are_red_green_blue_or_thirds() -> None:
    visible = BandGrid(np.array([460.0, 500, 545, 600, 645, 900]))
    assert three_bands(visible).tolist() == [4, 2, 0]
    assert three_bands(BandGrid(np.linspace(1000, 2000, 12))).tolist() == [10, 6, 2]
    assert three_bands(BandGrid(np.array([500.0, 800]))).tolist() == [0, 1, 0]


def test_timm_model_with_random_weights_says_so_and_is_repeatable() -> None:
    peer, label = load_peer(TIMM)
    assert label == "timm:test_vit random @32"
    one = extract(peer, [field(20, 20)], 9, pooling="mean").X_ND
    np.testing.assert_array_equal(one, extract(load_peer(TIMM)[0], [field(20, 20)], 9, pooling="mean").X_ND)
    assert one.std(0).max() > 0


def test_invalid_bands_pixels_and_level_do_not_reach_the_peer() -> None:
    peer, _ = load_peer(TIMM)
    x = torch.from_numpy(plots(1)[0].read()[None, :9, :9])
    mask = torch.ones(1, 9, 9, dtype=torch.bool)
    mask[:, 0] = False
    valid = np.ones(12, bool)
    valid[0] = False
    sensor = SENSOR.replace(bands=BandGrid(SENSOR.bands.wavelengths_nm, valid=valid))
    spoilt = x.clone()
    spoilt[..., 0], spoilt[:, 0] = 1e9, float("nan")
    expected = peer(x, sensor, mask).pooled_BD
    torch.testing.assert_close(peer(spoilt, sensor, mask).pooled_BD, expected)
    torch.testing.assert_close(peer(7 * x, sensor, mask).pooled_BD, expected, atol=1e-4, rtol=1e-4)


def test_weights_come_from_a_safetensors_file_only(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source, _ = load_peer(TIMM, seed=5)
    path = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in source.model.state_dict().items()}, path)
    peer, label = load_peer(f"{TIMM}={path}")
    assert "weights" in label and "random" not in label
    x, mask = torch.rand(2, 9, 9, 12), torch.ones(2, 9, 9, dtype=torch.bool)
    torch.testing.assert_close(peer(x, SENSOR, mask).pooled_BD, source(x, SENSOR, mask).pooled_BD)
    with pytest.raises(UsageError, match="only .safetensors"):
        load_peer(f"{TIMM}={tmp_path / 'w.pth'}")
    with pytest.raises(SpecfmError, match="does not fit"):
        save_file({"odd": torch.zeros(2)}, tmp_path / "odd.safetensors")
        load_peer(f"{TIMM}={tmp_path / 'odd.safetensors'}")
    path.write_bytes(b"no")
    with pytest.raises(SpecfmError, match="cannot be read"):
        load_peer(f"{TIMM}={path}")


def test_other_image_sizes_move_the_positions(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source, _ = load_peer("timm:test_vit@64")
    path = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in source.model.state_dict().items()}, path)
    peer, label = load_peer(f"timm:test_vit@32={path}")
    assert label.endswith("@32") and "weights" in label
    assert peer(torch.rand(1, 9, 9, 12), SENSOR, torch.ones(1, 9, 9, dtype=torch.bool)).pooled_BD.isfinite().all()


def test_unknown_timm_models_and_missing_torchgeo_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="timm has no model"):
        load_peer("timm:resnet_eighteen")
    monkeypatch.setitem(sys.modules, "torchgeo", None)
    with pytest.raises(UsageError, match=r"needs torchgeo.*specfm\[peers\]"):
        load_peer("dofa_small")


def test_peers_stand_in_the_table_under_the_same_splits() -> None:
    from tests.downstream.toy_scenes import ToyEncoder

    options = ProbeOptions(
        seeds=2, init_seeds=0, window=9, max_per_class=8, draws=100, grid=(1e-2, 1.0), peers=(TIMM,), baselines=False
    )
    rows = probe(ToyEncoder(), plots(6), options).rows
    peer = [r for r in rows if r["method"] == "timm:test_vit random @32"]
    assert {r["protocol"] for r in peer} == {"knn1", "knn5", "knn20", "linear"}
    assert peer[0]["pooling"] == "the peer's own" and peer[0]["digests"]["splits"] == rows[0]["digests"]["splits"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dofa_small@32", "panopticon@28", "copernicusfm@32"])
def test_torchgeo_models_give_features_of_any_bands(name: str) -> None:
    pytest.importorskip("torchgeo.models", reason="needs torchgeo (extra peers)")
    peer, label = load_peer(name)
    assert "random" in label
    one = extract(peer, [field(12, 12)], 9, pooling="mean").X_ND
    assert np.isfinite(one).all() and one.std(0).max() > 0
    x, mask = torch.rand(2, 9, 9, 5), torch.ones(2, 9, 9, dtype=torch.bool)
    assert peer(x, SENSOR.replace(bands=BandGrid(np.linspace(450, 900, 5))), mask).pooled_BD.shape[1] == one.shape[1]
