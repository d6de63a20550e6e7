"""The folder that a trained task model is released as, and the way back.

A release of an encoder with a head: ``config.json``, ``model.safetensors``, a manifest and a README.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from downstream.supervised.model import HeadSpec, TaskModel
from specfm.checkpoint import TASK, read_module, require_device
from specfm.errors import SpecfmError
from specfm.model_card import hub_block
from specfm.models.registry import build_encoder
from specfm.release import Release


def save_task(model: TaskModel, folder: str | Path, card: dict[str, Any] | None = None) -> Path:
    """Publish a task model as a release folder, by one rename.

    Args:
        model: what is published.
        folder: the release folder.
        card: JSON-safe facts about its training; default: the model's own.

    Raises:
        UsageError: ``folder`` exists.
    """
    return task_release(model, card).publish(folder)


def task_release(model: TaskModel, card: dict[str, Any] | None = None) -> Release:
    """The release of a task model as it is now; ``card`` as for :func:`save_task`."""
    card = dict(model.card if card is None else card)
    return Release.of(model, model.config(), card, _readme(model, card), TASK)


def load_task(path: str | Path, device: str = "cpu", task: str | None = None) -> TaskModel:
    """Load a task model from a release folder, a training checkpoint or a finished run, in evaluation mode.

    Args:
        path: the folder.
        device: a torch device.
        task: refuse a model of another task.

    Raises:
        SpecfmError: nothing to load there, an encoder without a head, another task, a changed byte, or an unknown
            format.
        UsageError: no such device.
    """
    require_device(device)
    model, config, card = read_module(path, TASK, _build)
    if task is not None and model.task != task:
        raise SpecfmError(f"{path} holds a {model.task} model, not a {task} model; give a model of that task")
    model.card = card
    return model.to(device).eval()


def _build(config: dict[str, Any]) -> TaskModel:
    facts = config["task"]
    head = HeadSpec(**{**facts["head"], "layers": tuple(facts["head"]["layers"])})
    return TaskModel(
        build_encoder(config["encoder"]), facts["task"], facts["label_names"], facts["tile"], head,
        facts["threshold"], facts["level"],
    )  # fmt: skip


def _readme(model: TaskModel, card: dict[str, Any]) -> str:
    lines = [
        *hub_block(card, "image-classification" if model.task == "classification" else "image-segmentation"),
        f"# A specfm {model.task} model",
        "",
        "```python",
        "from downstream.supervised.folder import load_task",
        'model = load_task("this folder")',
        "probabilities_BHWK = model.predict_tile(x_BHWC, bands)   # bands: specfm.BandGrid or specfm.Sensor",
        "```",
        "",
        f"* classes: {', '.join(model.label_names)}",
        f"* tile: {model.tile} pixels, head: {model.spec.kind}",
        f"* parameters: {sum(p.numel() for p in model.parameters()):,}",
    ]
    if model.threshold is not None:
        lines.append(f"* threshold for *changed*: {model.threshold:.4f} (chosen on validation)")
    lines += [f"* {key}: {json.dumps(value)}" for key, value in sorted(card.items())]
    return "\n".join(lines) + "\n"
