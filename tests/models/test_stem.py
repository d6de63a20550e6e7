"""Stems of acquisitions: each sample goes through its own, they are kept with an encoder, unknown sensors are named."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import specfm
from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.digests import state_digest
from specfm.errors import SpecfmError
from specfm.models import create_encoder
from specfm.models.stem import Acquisition, Stem, Stems
from specfm.sensors import Sensor

GRID = BandGrid(np.linspace(450, 900, 8), np.full(8, 20.0))
NAMES = (Acquisition("a", "one"), Acquisition("b", "two"), Acquisition("c", "two"), Acquisition("a", "one", "field"))


def stems(width: int = 16, kinds: int = 1) -> Stems:
    torch.manual_seed(1)
    count = len(NAMES)
    return Stems(NAMES, torch.randn(kinds, count, width, width), torch.randn(kinds, count, width))


def encoder(**options: object) -> specfm.Encoder:
    torch.manual_seed(0)
    return create_encoder("nano", patch_size=2, dim=16, depth=1, heads=2, hidden=8, code_width=16, **options).eval()


def part(name: str | None, count: int = 3, stem_B: torch.Tensor | None = None) -> BatchPart:
    zero = torch.zeros(count, dtype=torch.int64)
    x_BHWC = torch.rand(count, 4, 4, 8, generator=torch.Generator().manual_seed(3))
    bands = BandTensors.from_sensors(Sensor(GRID, name=name))
    return BatchPart(x_BHWC, bands, None, zero, zero, zero, zero, torch.zeros(count, 2).long(), zero, zero, stem_B)


def test_each_sample_goes_through_its_own_map() -> None:
    stem, held = Stem(16), stems()
    stem.hold(held.acquisitions, held.weight_KSDD[0], held.bias_KSD[0])
    tokens_BND, row_B = torch.randn(5, 3, 16), torch.tensor([2, -1, 0, 2, 3])
    found = stem(tokens_BND, row_B)
    for n, row in enumerate(row_B.tolist()):
        wanted = tokens_BND[n]
        if row >= 0:
            wanted = wanted @ held.weight_KSDD[0, row].T + held.bias_KSD[0, row]
        torch.testing.assert_close(found[n], wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stem(tokens_BND[:1], row_B[:1]), found[:1], rtol=1e-5, atol=1e-5)
    assert torch.equal(stem(tokens_BND), tokens_BND)


def test_a_mixed_batch_in_one_call_is_each_part_by_itself() -> None:
    model = encoder()
    model.stems = stems()
    first, second = part("one", stem_B=torch.tensor([3, 0, 3])), part("two", stem_B=torch.tensor([1, 2, 1]))
    whole = model(Batch((first, second))).pooled_BD
    apart = torch.cat([model(Batch((each,))).pooled_BD for each in (first, second)])
    torch.testing.assert_close(whole, apart, rtol=1e-5, atol=1e-5)
    micro = torch.cat([model(Batch((first, second)).select(n, n + 2)).pooled_BD for n in (0, 2, 4)])
    torch.testing.assert_close(whole, micro, rtol=1e-5, atol=1e-5)
    alike = model(Batch((first.replace(stem_B=torch.zeros(3).long()),))).pooled_BD
    assert torch.allclose(whole[1], alike[1], atol=1e-5) and not torch.allclose(whole[0], alike[0], atol=1e-3)


def test_pixel_tokens_go_through_the_map_of_their_sample_too() -> None:
    model, held = encoder(pixel=True), stems(kinds=2)
    one = part(None, stem_B=torch.tensor([2, 0, 2]))
    model.stems = held
    found = model(Batch((one,))).pixel_BQD
    for row, samples in ((2, [0, 2]), (0, [1])):
        for own, weight_SDD, bias_SD in zip(model._own_stems, held.weight_KSDD, held.bias_KSD, strict=True):
            own.set(weight_SDD[row], bias_SD[row])
        torch.testing.assert_close(found[samples], model(Batch((one,))).pixel_BQD[samples], rtol=1e-4, atol=1e-5)
        model.stems = held


def test_a_known_sensor_is_found_by_its_name_and_others_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = encoder()
    x_BHWC = part("one").x_BHWC
    own = model(x_BHWC, Sensor(GRID, name="one")).pooled_BD
    model.stems = stems()
    with caplog.at_level(logging.WARNING):
        known = model(x_BHWC, Sensor(GRID, name="one")).pooled_BD
        assert not caplog.text
        strange = [model(x_BHWC, Sensor(GRID, name=name)).pooled_BD for name in ("two", "three", None, "three")]
    assert torch.equal(known, model(Batch((part("one", stem_B=torch.zeros(3).long()),))).pooled_BD)
    assert all(torch.equal(each, own) for each in strange)
    assert len(caplog.records) == 3 and "encoder.fit(scenes), or --fit" in caplog.text
    assert "several for sensor two" in caplog.text and "none for sensor three" in caplog.text


def test_they_are_kept_with_the_encoder_and_are_part_of_what_it_is(tmp_path: Path) -> None:
    model = encoder(pixel=True)
    plain = state_digest(model)
    model.stems = stems(kinds=2)
    assert state_digest(model) != plain
    specfm.save(model, tmp_path / "model")
    again = specfm.load(tmp_path / "model")
    assert again.stems is not None and again.stems.acquisitions == NAMES
    assert torch.equal(again.stems.weight_KSDD, model.stems.weight_KSDD)
    assert state_digest(again) == state_digest(model)
    x_BHWC = part("one").x_BHWC
    assert torch.equal(*(m(x_BHWC, Sensor(GRID, name="one")).pixel_BQD for m in (model, again)))
    again.stem.set(torch.eye(16), torch.zeros(16))
    assert again.stems is None
    kept = model.stems.domains()
    assert kept is not None and kept.acquisitions == NAMES[:3] and kept.weight_KSDD.shape == (2, 3, 16, 16)


def test_stems_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = encoder()
    with pytest.raises(SpecfmError, match="width 8"):
        model.stems = stems(width=8)
    with pytest.raises(SpecfmError, match="pixel tokens"):
        model.stems = stems(kinds=2)
    with pytest.raises(SpecfmError, match="no stems of acquisitions"):
        Stems.from_bytes(b"nonsense")
    odd = stems()
    with pytest.raises(SpecfmError, match="do not fit together"):
        Stems.from_bytes(Stems(odd.acquisitions[:2], odd.weight_KSDD, odd.bias_KSD).to_bytes())
