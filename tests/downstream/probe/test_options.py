"""Options that make no sense are refused before anything is read, in one sentence that names the option."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from downstream.probe.options import ProbeOptions
from downstream.protocols.options import TrainOptions
from specfm.errors import UsageError


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"min_groups": 0}, "--min-groups must be at least 1, not 0"),
        ({"min_samples": 0}, "min_samples must be at least 1, not 0"),
        ({"block": 0}, "--block must be at least 1, not 0"),
        ({"max_per_class": 0}, "--max-per-class must be at least 1, not 0"),
        ({"group_by": "moon"}, "unknown --group-by 'moon'; one of auto, group, object"),
        ({"split": "pixels"}, "unknown split 'pixels'; one of auto, group, block, scene, sensor, random_pixels"),
        ({"test_share": 1.0}, "test_share must lie between 0 and 1, not be 1.0"),
        ({"val_share": 0.0}, "val_share must lie between 0 and 1, not be 0.0"),
        ({"shots": (5, 0)}, "--shots must be at least 1 label a class"),
        ({"window": 0}, "--window must be at least 1, not 0"),
        ({"ks": ()}, "k of kNN must be at least 1"),
        ({"grid": ()}, "grid must hold rising strengths C above 0, not ()"),
        ({"grid": (0.0, 1.0)}, "grid must hold rising strengths C above 0, not (0.0, 1.0)"),
        ({"grid": (10.0, 1.0)}, "grid must hold rising strengths C above 0, not (10.0, 1.0)"),
        ({"grid": (1.0, float("nan"))}, "grid must hold rising strengths C above 0, not (1.0, nan)"),
        ({"class_weights": "even"}, "--class-weights 'even': choose one of balanced, sqrt, none"),
        ({"trained_seeds": 0}, "trained_seeds must be at least 1, not 0"),
        ({"train": TrainOptions(steps=0)}, "train.steps must be at least 1, not 0"),
        ({"train": TrainOptions(batch=0)}, "train.batch must be at least 1, not 0"),
        ({"train": TrainOptions(lr=float("nan"))}, "train.lr must be above 0, not nan"),
        ({"train": TrainOptions(layer_decay=1.5)}, "train.layer_decay must be above 0 and at most 1, not 1.5"),
        ({"train": TrainOptions(drop_path=1.0)}, "train.drop_path must be at least 0 and below 1, not 1.0"),
        ({"train": TrainOptions(weight_decay=-1.0)}, "train.weight_decay must be at least 0, not -1.0"),
        ({"pca": 0}, "pca must be at least 1, not 0"),
        ({"init_seeds": -1}, "--init-seeds must be at least 0, not -1"),
        ({"draws": 0}, "draws must be at least 1, not 0"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        replace(ProbeOptions(), **wrong).check()
    assert str(refused.value) == said


def test_the_least_of_everything_and_the_defaults_are_taken() -> None:
    ProbeOptions().check()
    ProbeOptions(
        seeds=1, min_groups=1, min_samples=1, block=1, max_per_class=1, shots=1, window=1, ks=(1,), grid=(1e-4,),
        trained_seeds=1, pca=1, init_seeds=0, draws=1,
        train=TrainOptions(steps=1, batch=1, patience=1, most=1, layer_decay=1.0, drop_path=0.0, weight_decay=0.0),
    ).check()  # fmt: skip
