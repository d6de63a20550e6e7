"""Pretraining through a curriculum: what batches become, resuming in any stage, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import specfm
from pretrain.curriculum import BatchCurriculum
from pretrain.loop import train
from pretrain.pairs.pairing import Pairs
from specfm.batch import Batch
from specfm.engine.curriculum import CurriculumConfig, StageConfig
from specfm.engine.faults import FaultError
from specfm.errors import UsageError
from specfm.reducers import Merge
from specfm.reducers.base import grids_of
from tests.pretrain.runs import debug_config, make_shards, metrics, weights
from tests.pretrain.samples import random_batch


def staged(**values: object) -> BatchCurriculum:
    return BatchCurriculum(CurriculumConfig.model_validate(values), 10, seed=0, patch_size=3)


def changed(batch: Batch, stage: StageConfig, number: int) -> Batch:
    pairs = staged().change(Pairs.of(batch), stage, number)
    assert pairs.second is pairs.first
    return pairs.first


def test_a_stage_crops_and_merges_with_metadata() -> None:
    batch = random_batch(side=12)
    small = changed(batch, StageConfig(bands=0.5, size=0.5), 1)
    for before, after in zip(batch, small, strict=True):
        assert after.x_BHWC.shape == (6, 6, 6, round(0.5 * before.bands.channels)) and len(after.bands) == 1
        told, whole = after.bands, before.bands
        assert (told.fwhm_nm_GC > whole.fwhm_nm_GC.max()).any() and told.valid_GC.all()
        assert torch.equal(told.scale_G, whole.scale_G) and torch.equal(told.offset_G, whole.offset_G)
        matrix = torch.from_numpy(Merge().plan(grids_of(whole)[0], told.channels).matrix_KC).float()
        for i in range(6):  # values: the merged window that the origin names
            row, col = after.origin_B2[i].tolist()
            window = before.x_BHWC[i, row : row + 6, col : col + 6].float()
            assert torch.allclose(after.x_BHWC[i], window @ matrix.T, rtol=1e-5)
    assert len({tuple(o) for o in small.parts[0].origin_B2.tolist()}) > 1
    again = changed(batch, StageConfig(bands=0.5, size=0.5), 1)
    other = changed(batch, StageConfig(bands=0.5, size=0.5), 2)
    assert torch.equal(again.parts[0].x_BHWC, small.parts[0].x_BHWC)
    assert not torch.equal(other.parts[0].origin_B2, small.parts[0].origin_B2)


def test_the_whole_is_the_batch_itself_and_samples_do_not_depend_on_their_batch() -> None:
    batch = random_batch(side=12)
    whole = changed(batch, StageConfig(), 5)
    assert all(a is b for a, b in zip(whole, batch, strict=True))
    part = changed(batch.select(2, 5), StageConfig(size=0.25), 3).parts[0]
    assert torch.equal(part.x_BHWC, changed(batch, StageConfig(size=0.25), 3).parts[0].x_BHWC[2:5])


def test_both_sides_of_pairs_are_changed() -> None:
    one, two = random_batch(side=12), random_batch(side=12, seed=1)
    pairs = staged().change(Pairs(one, two), StageConfig(bands=0.5, size=0.5), 1)
    for side, whole in zip(pairs.sides, (one, two), strict=True):
        assert torch.equal(side.parts[0].x_BHWC, changed(whole, StageConfig(bands=0.5, size=0.5), 1).parts[0].x_BHWC)


def test_components_are_refused_and_merging_is_named() -> None:
    with pytest.raises(UsageError, match=r"without wavelengths, which this encoder cannot read; set .*reducer=merge"):
        staged(reducer="pca")
    with pytest.raises(UsageError, match="shrink changes the size of a pixel"):
        staged(window="shrink")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    return make_shards(tmp_path_factory.mktemp("shards"))


STAGES = (  # four steps each
    "curriculum.stages=[{bands: .25, size: .4, share: .04}, {bands: .5, size: .7, share: .245}, {}]",
    "curriculum.cost=formula", "checkpoint.every=2", "objective.band_prediction.weight=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards) -> Path:
    return train(debug_config(tmp_path_factory.mktemp("whole") / "run", shards, *STAGES))


def test_a_run_goes_through_its_stages_on_one_schedule(whole, shards, tmp_path) -> None:
    rows = metrics(whole)
    assert [row["stage"] for row in rows] == [1] * 4 + [2] * 4 + [3] * 4
    plain = train(debug_config(tmp_path / "plain", shards, "objective.band_prediction.weight=0.5"))
    assert [row["lr"] for row in rows] == [row["lr"] for row in metrics(plain)]
    assert [row["loss"] for row in rows] != [row["loss"] for row in metrics(plain)]
    assert all(torch.isfinite(p).all() for p in specfm.load(whole).parameters())


@pytest.mark.parametrize(
    "stop", [5, pytest.param(8, marks=pytest.mark.slow), pytest.param(11, marks=pytest.mark.slow)]
)  # from a switch, from the middle of a stage, in the last one
def test_resuming_in_any_stage_changes_no_bit(tmp_path, shards, whole, monkeypatch, stop) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("SPECFM_FAULTS", f"step.forward:raise@step={stop}")
    with pytest.raises(FaultError):
        train(debug_config(out, shards, *STAGES))
    monkeypatch.delenv("SPECFM_FAULTS")
    train(debug_config(out, shards, *STAGES), resume=True)
    assert weights(out) == weights(whole)
    assert [row["stage"] for row in metrics(out)] == [row["stage"] for row in metrics(whole)]


def test_measured_costs_are_those_of_the_whole_run(tmp_path, shards, monkeypatch) -> None:
    """A resumed run keeps the plan that was measured, so it is resumed exactly; measuring itself leaves no trace."""
    overrides = ("curriculum.stages=2", "checkpoint.every=2", "steps=6", "curriculum.repeats=1")
    out = tmp_path / "run"
    monkeypatch.setenv("SPECFM_FAULTS", "step.forward:raise@step=3")
    with pytest.raises(FaultError):
        train(debug_config(out, shards, *overrides))
    monkeypatch.delenv("SPECFM_FAULTS")
    first = [row["loss"] for row in metrics(out)]
    monkeypatch.setattr("specfm.engine.curriculum._seconds", lambda *_: pytest.fail("measured again"))
    train(debug_config(out, shards, *overrides), resume=True)
    assert [row["loss"] for row in metrics(out)][:2] == first[:2] and len(metrics(out)) == 6
    with pytest.raises(UsageError, match="another curriculum"):
        train(debug_config(out, shards, *overrides[1:], "curriculum.stages=3", "steps=8"), resume=True)


def test_a_budget_shortens_the_run(tmp_path, shards) -> None:
    out = train(debug_config(tmp_path / "run", shards, "curriculum={budget: .5, stages: 2, cost: formula}"))
    assert len(metrics(out)) == 6 and specfm.load(out).card["steps"] == 6
