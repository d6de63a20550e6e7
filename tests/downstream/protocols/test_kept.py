"""What trainings came to is kept: a killed probe does not train the same split twice, and nothing stale is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from downstream.features.bank import Bank, windows_digest
from downstream.protocols import trained as trained_module
from downstream.protocols.options import ProtocolOptions, TrainOptions
from downstream.protocols.run import trained
from downstream.splits.samples import collect_samples
from downstream.splits.split import make_split
from specfm.errors import SpecfmError
from specfm.models import create_encoder
from tests.downstream.toy_scenes import plots

SCENES = plots(6)
SAMPLES = collect_samples(SCENES, 3)
SPLITS = [make_split(SAMPLES, "group", seed) for seed in range(2)]
OPTIONS = ProtocolOptions(protocols=("finetune",), train=TrainOptions(steps=2, batch=4, most=20))


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_encoder("nano", patch_size=3, dim=12, depth=1, heads=2)


class Counted(list[int]):
    """Seeds of the splits that were trained on; the training after ``most`` of them is interrupted."""

    most = 10


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    seeds, whole = Counted(), trained_module.train_on

    def train(encoder: Any, scenes: Any, samples: Any, split: Any, **words: Any) -> Any:
        if len(seeds) == seeds.most:
            raise KeyboardInterrupt
        seeds.append(split.seed)
        return whole(encoder, scenes, samples, split, **words)

    monkeypatch.setattr(trained_module, "train_on", train)
    return seeds


def run(encoder: Any, folder: Path, options: ProtocolOptions = OPTIONS, samples: Any = SAMPLES) -> list[np.ndarray]:
    splits = SPLITS if samples is SAMPLES else [make_split(samples, "group", seed) for seed in range(2)]
    digests = {"": windows_digest(SCENES, samples)}
    found = trained(encoder, {"": SCENES}, samples, splits, options, "finetune", "x", 3, "mean", Bank(folder), digests)[
        ""
    ]
    return found.conf_SUKK


def test_an_interrupted_probe_goes_on(encoder: torch.nn.Module, counted: Counted, tmp_path: Path) -> None:
    whole = run(encoder, tmp_path / "other")
    counted.clear()
    counted.most = 1
    with pytest.raises(KeyboardInterrupt):
        run(encoder, tmp_path / "bank")
    counted.most = 10
    assert counted == [0]
    again = run(encoder, tmp_path / "bank")
    assert counted == [0, 1]
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
    run(encoder, tmp_path / "bank")
    assert counted == [0, 1]


def test_what_decides_is_part_of_the_name(encoder: torch.nn.Module, counted: Counted, tmp_path: Path) -> None:
    run(encoder, tmp_path)
    run(encoder, tmp_path, replace(OPTIONS, train=replace(OPTIONS.train, lr=1e-4)))
    other = create_encoder("nano", patch_size=3, dim=12, depth=1, heads=2)
    run(other, tmp_path)
    run(encoder, tmp_path, samples=replace(SAMPLES, y_N=(SAMPLES.y_N + 1) % 3))
    assert counted == [0, 1] * 4


def test_a_damaged_file_is_trained_again(
    encoder: torch.nn.Module, counted: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(encoder, tmp_path)
    for path in tmp_path.glob("*.predictions"):
        path.write_bytes(b"\xff" * 40)
    run(encoder, tmp_path)
    assert counted == [0, 1, 0, 1]
    assert "trained again" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(encoder: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecfmError, match="predictions cannot be kept in .*choose another --cache"):
        run(encoder, tmp_path / "file" / "bank")
