"""The page of names that Python code of others uses; mkdocstrings fills in what the docstrings say."""

from __future__ import annotations

import specfm
from specfm import cli

# rooms that a user calls, beside the names of `specfm` itself
ROOMS = {
    "Scenes made by code": ("specfm.simulate.scene.simulate_scene", "specfm.simulate.write.write_simulation"),
    "Shards": (
        "specfm.shards.build.write_shards", "specfm.shards.shard_set.ShardSet", "specfm.shards.reader.ShardReader",
        "specfm.shards.verify.verify_shards",
    ),
    "Dense features": (
        "specfm.dense.memory.embed_scene", "specfm.dense.stream.embed_to_file", "specfm.dense.fit.fit_encoder",
    ),
    "Probes": ("downstream.probe.run.probe", "downstream.probe.options.ProbeOptions"),
    "Maps": (
        "downstream.maps.cluster.cluster_to_file", "downstream.maps.search.search_to_file",
        "downstream.maps.change.distance_to_file",
    ),
    "Training": ("pretrain.loop.train", "specfm.config.load_config"),
    "Plug-ins": ("specfm.plugins", "pretrain.objectives.base.Objective"),
}  # fmt: skip


def page() -> str:
    """Markdown with a directive for every name."""
    functions = [name for name in specfm.__all__ if name in cli.COMMANDS]
    parts = [
        "# Python",
        "`import specfm` is light: each name is imported when it is first used. Cubes are `[H, W, C]`: rows, columns, "
        "bands; Python counts all three from 0. Commands are functions too, with the options of "
        "[the command line](commands.md) as keywords: " + ", ".join(f"`specfm.{name}`" for name in functions) + ".",
        "## specfm",
    ]
    parts += [
        _directive(f"{specfm._PUBLIC[name]}.{name}", f"specfm.{name}")
        for name in specfm.__all__
        if name not in functions
    ]
    for title, names in ROOMS.items():
        parts.append(f"## {title}")
        parts += [_directive(name, name) for name in names]
    return "\n\n".join(parts) + "\n"


def _directive(path: str, heading: str) -> str:
    return f"::: {path}\n    options:\n      heading: {heading}\n      toc_label: {heading.split('.')[-1]}"
