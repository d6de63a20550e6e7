"""What subcommands that map one scene share: saying what it is to the encoder, and what the map holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from specfm.cli._results import ClassMap
    from specfm.scene import Scene


def say_taught(encoder: Any, scenes: Sequence[Scene]) -> None:
    """Print that an encoder learnt from spectra pretreated otherwise, if it did."""
    from specfm.pretreatment import otherwise_taught

    if said := otherwise_taught(encoder.card, scenes):
        typer.echo(f"notice: {said}", err=True)


def say_unsaid(scenes: Sequence[Scene], card: dict[str, Any]) -> None:
    """Print which scenes may not hold what a task model learnt from; ``card`` tells of that."""
    from downstream.maps.class_maps import background_told, unsaid_quantity

    told = (tell(scene, card) for tell in (unsaid_quantity, background_told) for scene in scenes)
    for said in filter(None, told):
        typer.echo(f"notice: {said}", err=True)


def say_no_data(scene: Scene) -> None:
    """Print that there was nothing to map."""
    typer.echo(f"notice: {scene.where} has no pixel with data; look at its nodata value and its bad bands")


def say_map(found: ClassMap) -> None:
    """Print what a map of classes holds."""
    beside = "" if found.picture is None else f", {found.picture} to look at"
    typer.echo(f"{found.path}: {found.scene.shape[0]} x {found.scene.shape[1]} pixels{beside}")
    for name, share in found.shares.items():
        typer.echo(f"  {share:6.1%}  {name}")
    if not any(found.shares.values()):
        say_no_data(found.scene)
