"""What subcommands that map one scene share: opening it, and saying what the map holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from specfm.errors import UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene


def open_scene(name: str, **reader: Any) -> Scene:
    """The one scene that a user names: a file, a dataset card that holds one scene, or ``CARD:SCENE``.

    Args:
        name: what the user wrote; SCENE is the scene's name within the card, which is mostly the stem of its file.
        reader: options of :func:`specfm.readers.read_scene`, for a file.

    Raises:
        UsageError: a card of several scenes without a choice, an unknown scene, reader options beside a card.
        SpecfmError: unreadable file.
    """
    from specfm.shards.identity import open_scenes

    card, colon, wanted = name.rpartition(":")
    if not colon or Path(name).exists() or (not card.endswith((".yaml", ".yml")) and Path(card).parent != Path(".")):
        card, wanted = name, ""
    scenes = list(open_scenes([card], reader))
    inner = [scene.name.removeprefix(f"{scene.dataset}/") for scene in scenes]
    chosen = [scene for scene, own in zip(scenes, inner, strict=True) if wanted in ("", own)]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(inner[:6]) + (", ..." if len(scenes) > 6 else "")
    problem = f"has no scene {wanted!r}" if wanted else f"holds {len(scenes)} scenes"
    raise UsageError(f"{card} {problem}; name one of them as {card}:SCENE ({names})")


def say_no_data(scene: Scene) -> None:
    """Print that there was nothing to map."""
    typer.echo(f"notice: {scene.where} has no pixel with data; look at its nodata value and its bad bands")


def say_map(out: Path, scene: Scene, shares: dict[str, float], preview: bool) -> None:
    """Print what a map of classes holds."""
    beside = f", {out.with_suffix('.png')} to look at" if preview else ""
    typer.echo(f"{out}: {scene.shape[0]} x {scene.shape[1]} pixels{beside}")
    for name, share in shares.items():
        typer.echo(f"  {share:6.1%}  {name}")
    if not any(shares.values()):
        say_no_data(scene)
