"""What subcommands that read one scene share: the options that say how to read it, and opening it.

The options are types for parameters of a command; a command names those it takes, in its own order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specfm.errors import UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

SceneName = Annotated[str, typer.Argument(help="ENVI, GeoTIFF, MATLAB, HDF5 or .npy file; CARD or CARD:SCENE.")]
Variable = Annotated[str | None, typer.Option(help="Name of the cube in a MATLAB or HDF5 file.")]
Layout = Annotated[str | None, typer.Option(help="Axes: HWC, CHW, spectra or bands_by_pixels:HxW.")]
SensorName = Annotated[str | None, typer.Option(help="A known sensor, if the file is silent.")]
Wavelengths = Annotated[Path | None, typer.Option(help="CSV: band,centre_nm,fwhm_nm, if it is silent.")]
Units = Annotated[str | None, typer.Option(help="Unit of the wavelengths, if it does not say: nm, um.")]
Quantity = Annotated[str | None, typer.Option(help="dn, radiance, ... if the file is silent.")]
Scale = Annotated[float | None, typer.Option(help="physical = stored * scale; wins over the file.")]
Nodata = Annotated[float | None, typer.Option(help="Stored value of pixels not measured.")]
Window = Annotated[int, typer.Option(help="Side of a tile, pixels; 0 = 8 patches.")]
Stride = Annotated[int, typer.Option(help="Step between tiles, pixels; 0 = half a window.")]
Level = Annotated[str, typer.Option(help="Brightness level divided out: scene (no seams) or sample.")]
BatchSize = Annotated[int, typer.Option(help="Tiles per forward call.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]
NoPreview = Annotated[bool, typer.Option("--no-preview", help="Write no PNG beside the map.")]


def open_scene(name: str, **reader: Any) -> Scene:
    """The one scene that a user names: a file, a dataset card that holds one scene, or ``CARD:SCENE``.

    Args:
        name: what the user wrote; SCENE is the stem of a file of the card.
        reader: options of :func:`specfm.readers.read_scene`, for a file.

    Raises:
        UsageError: a card of several scenes without a choice, an unknown scene, reader options beside a card.
        SpecfmError: unreadable file.
    """
    from specfm.shards.inputs import open_scenes

    card, colon, wanted = name.rpartition(":")
    if not colon or Path(name).exists() or (not card.endswith((".yaml", ".yml")) and Path(card).parent != Path(".")):
        card, wanted = name, ""
    scenes = list(open_scenes([card], reader))
    chosen = [scene for scene in scenes if not wanted or scene.name.rpartition("/")[2] == wanted]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(scene.name.rpartition("/")[2] for scene in scenes[:6]) + (", ..." if len(scenes) > 6 else "")
    problem = f"has no scene {wanted!r}" if wanted else f"holds {len(scenes)} scenes"
    raise UsageError(f"{card} {problem}; name one of them as {card}:SCENE ({names})")


def say_map(out: Path, scene: Scene, shares: dict[str, float], preview: bool) -> None:
    """Print what a map of classes holds."""
    beside = f", {out.with_suffix('.png')} to look at" if preview else ""
    typer.echo(f"{out}: {scene.shape[0]} x {scene.shape[1]} pixels{beside}")
    for name, share in shares.items():
        typer.echo(f"  {share:6.1%}  {name}")
