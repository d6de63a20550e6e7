"""From the model of a pipeline to the file that is deployed, and what that file says of test windows.

Shapes: B windows, N test windows, U resampling units, K classes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from downstream.compress import measure
from downstream.compress.config import QuantiseStep
from downstream.compress.ground import Side
from downstream.compress.packed import write_packed
from downstream.compress.stages import Stage, calibration_inputs, deployed_inputs
from downstream.compress.train import middle_of
from downstream.deploy.task import OUTPUTS, task_facts, task_graph, taught_sensor
from specfm import __version__
from specfm.deploy.int8 import PRECISION, quantise
from specfm.deploy.runtime import Deployed
from specfm.deploy.write import write
from specfm.digests import state_digest
from specfm.files import atomic_write_bytes

BATCH = 256


@dataclass(frozen=True)
class DeployedFile:
    """A written file, and what can be said of it without running it.

    Attributes:
        path: of the file.
        numbers: weights in its graph, before any became integers.
        macs: multiply-accumulate operations for one window.
        nbytes: of the file; of a model with sparse weights those of its sparse storage, where that is smaller.
        stored: what has these bytes.
        difference: of the graph, before any integers, to the model: a share of the largest output.
    """

    path: Path
    numbers: int
    macs: int
    nbytes: int
    stored: str
    difference: float


def deploy(stage: Stage, asked: QuantiseStep | None, side: Side, out: Path) -> DeployedFile:
    """Write the file of a pipeline, baked for the bands of the scene; an earlier one there is replaced.

    Args:
        stage: the last one.
        asked: integers, if any.
        side: whose training windows static integers are calibrated on.
        out: the file.

    Raises:
        UsageError: integers that the model has no use for.
        SpecfmError: a part of the model cannot be exported.
    """
    model = stage.model
    sensors = [taught_sensor(side.ground.sensor, model.card)]
    graph, example = task_graph(model, sensors)
    facts = task_facts(model, sensors, state_digest(model), __version__)
    macs = measure.multiplications(graph, example)
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "small.onnx"
        difference = write(graph, example, OUTPUTS, whole, facts, form="onnx")
        numbers = measure.numbers_in(whole)
        packed = write_packed(model.state_dict(), Path(folder) / "packed.safetensors") if stage.sparse else None
        if asked is not None:
            samples = calibration_inputs(side, model, asked.windows) if asked.how == "static" else None
            quantise(
                whole, small, replace(facts, precision=PRECISION[asked.how]), asked.how, samples, asked.calibration
            )
        atomic_write_bytes(out, (whole if asked is None else small).read_bytes())
    dense = out.stat().st_size
    sparse = packed is not None and packed < dense
    return DeployedFile(
        out, numbers, macs, int(packed) if sparse and packed is not None else dense,
        "sparse weights" if sparse else "file", difference,
    )  # fmt: skip


def predicted(path: Path, side: Side, tile: int) -> np.ndarray:
    """Class of every test window, by ONNX Runtime."""
    deployed, found_N = Deployed(path), np.zeros(len(side.split.test_I), np.int64)
    middle = tile // 2
    for part in middle_of(side.test, tile):
        for at in np.array_split(np.arange(len(part)), -(-len(part) // BATCH)):
            probabilities = deployed(deployed_inputs(part.view(at)))[OUTPUTS[0]]
            found_N[part.id_N[at]] = probabilities[:, middle, middle].argmax(-1)
    return found_N


def timing_inputs(side: Side, tile: int, batch: int) -> dict[str, Any]:
    """Windows to time a file with: real ones, repeated where there are fewer."""
    (part, *_) = middle_of(side.test, tile)
    return deployed_inputs(part.view(np.arange(batch) % len(part)))
