"""Options that several subcommands take, as types for parameters: a command names those it takes, in its own order."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

# Maps of one scene, and its features
Checkpoint = Annotated[str, typer.Argument(help="Checkpoint folder or run.")]
SceneName = Annotated[str, typer.Argument(help="ENVI, GeoTIFF, MATLAB, HDF5 or .npy file; CARD or CARD:SCENE.")]
MapOut = Annotated[Path, typer.Option("--out", help="FILE.tif, FILE.hdr (ENVI Classification) or FILE.npy.")]
Window = Annotated[int, typer.Option(min=0, help="Side of a tile, pixels; 0 = 8 patches.")]
Stride = Annotated[int, typer.Option(min=0, help="Step between tiles, pixels; 0 = half a window.")]
Level = Annotated[str, typer.Option(help="Brightness level divided out: scene (no seams) or sample.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles per forward call.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]
NoPreview = Annotated[bool, typer.Option("--no-preview", help="Write no PNG beside the map.")]

# Probes
Encoder = Annotated[str, typer.Argument(help="Checkpoint folder or run, or random:SIZE[:PATCH] (untrained).")]
Data = Annotated[
    list[str], typer.Option("--data", help="Dataset card: a name under configs/data or a YAML file (repeatable).")
]
Seeds = Annotated[int, typer.Option(help="Number of splits.")]
ProbeWindow = Annotated[int | None, typer.Option(help="Side of the window, pixels (default: as pretrained).")]
Neighbours = Annotated[str, typer.Option("--k", help="Numbers of neighbours.")]
InitSeeds = Annotated[int, typer.Option(help="Untrained twins to compare with.")]
Baselines = Annotated[
    bool, typer.Option(help="Also the raw-spectrum, PCA, MNF and SVM baselines and the encoder from scratch.")
]
Scratch = Annotated[
    bool | None,
    typer.Option(
        "--scratch/--no-scratch",
        help="Also the encoder trained on the labels alone. Default: with the baselines, where it takes minutes.",
    ),
]
MaxPerClass = Annotated[int | None, typer.Option(help="At most so many pixels a class and group.")]
MinGroups = Annotated[int, typer.Option(help="Leave out classes found in fewer groups or blocks.")]
Block = Annotated[int | None, typer.Option(help="Side of a spatial block, pixels.")]
Scenes = Annotated[str | None, typer.Option(help="Only scenes whose name matches, e.g. 'OSBS*'.")]
Cache = Annotated[
    str | None, typer.Option(help="Folder where features are kept, or none. Default: specfm in the user's cache.")
]
ProbeDevice = Annotated[str, typer.Option(help="cpu or cuda: where features and probes are computed.")]
Align = Annotated[
    bool | None,
    typer.Option(
        "--align/--no-align",
        help="Make features of different cameras comparable. Default: where the encoder was trained so, or the data "
        "were seen through different bands.",
    ),
]
RowsOut = Annotated[Path | None, typer.Option(help="Append the rows to this JSON-lines file.")]
RowsAsJson = Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")]

# Runs of a configuration
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in its folder exactly.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, write nothing.")]

READER: dict[str, Any] = {
    "variable": Annotated[str | None, typer.Option(help="Name of the cube in a MATLAB or HDF5 file.")],
    "layout": Annotated[
        str | None, typer.Option(help="Axes: HWC, CHW, spectra or bands_by_pixels:HxW (MATLAB, HDF5, npy).")
    ],
    "sensor": Annotated[str | None, typer.Option(help="A known sensor (see `specfm sensors`), if the file is silent.")],
    "wavelengths": Annotated[
        Path | None, typer.Option(help="CSV with columns band, centre_nm, fwhm_nm, if the file is silent.")
    ],
    "units": Annotated[
        str | None, typer.Option(help="Unit of the file's wavelengths, if it does not say: nm, um, cm-1.")
    ],
    "quantity": Annotated[
        str | None,
        typer.Option(help="dn, radiance, toa_reflectance or surface_reflectance; wins over the file."),
    ],
    "scale": Annotated[float | None, typer.Option(help="physical = stored * scale (+ offset); wins over the file.")],
    "nodata": Annotated[float | None, typer.Option(help="Stored value of pixels not measured; wins over the file.")],
}  # options of specfm.readers.read_scene


def with_reader(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``READER`` in place of its parameter ``reader``, a dict that holds their values.

    Example:
        >>> @with_reader
        ... def command(path: str, *, reader: dict[str, Any]) -> None:
        ...     print(path, reader["units"])
        >>> command(path="a.npy", **(dict.fromkeys(READER) | {"units": "nm"}))
        a.npy nm
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in READER.items()]
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        parameters += options if parameter.name == "reader" else [parameter.replace(kind=keyword)]

    @functools.wraps(command)
    def parsed(**words: Any) -> None:
        reader = {name: words.pop(name) for name in READER}
        command(**words, reader=reader)

    # what typer reads a command's options from
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return parsed
