"""specfm: self-supervised pretraining for imaging spectrometers.

The package is a lazy face: importing it loads no torch, h5py, scikit-learn or matplotlib, seeds nothing and configures
no logging. Each public name is imported from its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "BandGrid": "specfm.bands",
    "Sensor": "specfm.sensors",
    "get_sensor": "specfm.sensor_table",
    "known_sensors": "specfm.sensor_table",
    "Scene": "specfm.scene",
    "read_scene": "specfm.readers",
    "load_card": "specfm.cards",
    "Batch": "specfm.batch",
    "BatchPart": "specfm.batch",
    "BandTensors": "specfm.batch",
    "Encoder": "specfm.models.encoder",
    "Features": "specfm.models.encoder",
    "create_backbone": "specfm.models",
    "create_encoder": "specfm.models",
    "load": "specfm.checkpoint",
    "load_task": "downstream.supervised.folder",
    "save": "specfm.checkpoint",
    "from_pretrained": "specfm.hub",
    "save_pretrained": "specfm.hub",
    "push_to_hub": "specfm.hub",
    **{
        name: f"specfm.cli.{name}"
        for name in (
            "inspect",
            "shard",
            "plan",
            "pretrain",
            "probe",
            "robustness",
            "explain",
            "benchmark",
            "finetune",
            "predict",
            "cluster",
            "search",
            "relate",
            "change",
            "embed",
            "export",
            "run",
            "compress",
            "report",
        )
    },
    "SpecfmError": "specfm.errors",
    "UsageError": "specfm.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'specfm' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
