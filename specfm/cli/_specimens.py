"""What subcommands that compare specimens share: opening scans, and finding the specimens in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from specfm.cli._options import number

if TYPE_CHECKING:
    from specfm.scene import Scene
    from specfm.specimens import Specimen


def open_several(names: Sequence[str | Scene], reader: dict[str, Any]) -> list[Scene]:
    """All scenes of cards, files and folders, those of ``CARD:SCENE`` after them."""
    from specfm.cards.opening import open_scene, open_scenes

    several = [name for name in names if not isinstance(name, str) or ":" not in name or Path(name).exists()]
    alone = [name for name in names if isinstance(name, str) and name not in several]
    return [*(open_scenes(several, reader) if several else ()), *(open_scene(name, **reader) for name in alone)]


def find(scenes: Sequence[Scene], threshold: str | None, dark: bool) -> list[Specimen]:
    """The specimens of scans; told is where several pieces of one scan count as one."""
    from specfm.dense.per_specimen import one_of_several_pieces
    from specfm.shards.options import WindowOptions
    from specfm.shards.windows import valid_pixels
    from specfm.specimens import specimens_of

    objects = WindowOptions(object_threshold=number(threshold), dark_objects=dark)
    found = specimens_of(scenes, lambda scene: valid_pixels(scene, objects))
    if said := one_of_several_pieces(found):
        typer.echo(f"notice: {said}", err=True)
    return found
