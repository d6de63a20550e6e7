"""Objectives that other packages bring (:mod:`specfm.plugins`): their class, and settings as a config has them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pretrain.objectives.base import Objective
from specfm.config import build_config
from specfm.plugins import plugin

GROUP = "specfm.objectives"


def objective_class(name: str) -> Any:
    """The class behind an entry point.

    Raises:
        UsageError: no package brings it.
        PluginError: it is not what it should be.
    """
    found = plugin(GROUP, name, ())
    loaded = found.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Objective)):
        raise found.failed("is no subclass of pretrain.objectives.base.Objective")
    settings = getattr(loaded, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel) and "weight" in settings.model_fields):
        raise found.failed("has no Settings (a specfm.config.Strict with a weight)")
    return loaded


def settings_of(name: str, values: dict[str, Any]) -> Any:
    """Checked settings of an objective.

    Raises:
        UsageError: an unknown objective or key, or a value of the wrong type.
    """
    return build_config(values, objective_class(name).Settings, f"objective.plugins.{name}")
