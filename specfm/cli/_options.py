"""Options that several subcommands take, as types for parameters: a command names those it takes, in its own order."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli._function import OrObject, R, parameters_of


def _saved_encoder(value: Any, stack: ExitStack) -> str | None:
    """The folder of a copy of an encoder, for as long as the call takes: all that follows is as with one on disk."""
    if not hasattr(value, "state_dict"):
        return None
    from specfm.checkpoint import save, unwrapped
    from specfm.errors import UsageError

    value = unwrapped(value)
    if not hasattr(value, "num_features"):
        return None
    if not getattr(value, "config", None):
        raise UsageError(
            f"an object of class {type(value).__name__} is no encoder of specfm, which says how it was built (config); "
            "downstream.probe.run.probe takes others"
        )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="specfm-"))) / "encoder"
    return str(save(value, folder))


def _scene(value: Any, stack: ExitStack) -> Any:
    """A Scene itself, or as a Scene what says its bands itself (xarray, a mapping of image and wavelengths)."""
    from specfm.scene import Scene

    if isinstance(value, Scene):
        return value
    if not (hasattr(value, "dims") or isinstance(value, Mapping)):
        return None
    from specfm.dense.given import as_scene

    return as_scene(value, None)


def _card(value: Any, stack: ExitStack) -> Any:
    from specfm.cards.card import Card

    return value if isinstance(value, Card) else _scene(value, stack)


def _sensor(value: Any, stack: ExitStack) -> Any:
    from specfm.sensors import Sensor

    return value if isinstance(value, Sensor) else _scene(value, stack)


OR_ENCODER = OrObject("Encoder", _saved_encoder)
OR_SCENE = OrObject("Scene", _scene, hint="; of an array make one: specfm.Scene.from_array(array, sensor)")
OR_SENSOR = OrObject("Sensor or Scene", _sensor)
OR_CARD = OrObject("Card or Scene", _card)

# Maps of one scene, and its features
Checkpoint = Annotated[str, typer.Argument(help="Checkpoint folder or run."), OR_ENCODER]
SceneName = Annotated[
    str, typer.Argument(help="ENVI, GeoTIFF, MATLAB, HDF5 or .npy file; CARD or CARD:SCENE."), OR_SCENE
]
MapOut = Annotated[Path, typer.Option("--out", help="FILE.tif, FILE.hdr (ENVI Classification) or FILE.npy.")]
Window = Annotated[int, typer.Option(min=0, help="Side of a tile, pixels; 0 = 8 patches, or the only size it reads.")]
Stride = Annotated[int, typer.Option(min=0, help="Step between tiles, pixels; 0 = half a window.")]
Level = Annotated[str, typer.Option(help="Brightness level divided out: scene (no seams) or sample.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles per forward call.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")]
NoPreview = Annotated[bool, typer.Option("--no-preview", help="Write no PNG beside the map.")]

# Which bands are used
Bands = Annotated[
    str | None,
    typer.Option(
        help="Use these bands only: rgb, sample:1-9,40 (1-based), uniform:N, regions[:N], regions:blue,red, "
        "window:LOW-HIGH (nm), importance:N."
    ),
]

# Specimens
Whole = Annotated[
    int | None, typer.Option(help="Per specimen: see the whole of each on so many pixels a side, in one go (224).")
]
ObjectThreshold = Annotated[
    str | None,
    typer.Option(help="Per specimen: it is where the mean stored level is above otsu or a number; default groups."),
]
DarkObjects = Annotated[bool, typer.Option("--dark-objects", help="It lies below the threshold.")]

# Probes
Encoder = Annotated[
    str, typer.Argument(help="Checkpoint folder or run, or random:SIZE[:PATCH] (untrained)."), OR_ENCODER
]
Data = Annotated[
    list[str],
    typer.Option("--data", help="Dataset card: a name under configs/data or a YAML file (repeatable)."),
    OR_CARD,
]
Scratch = Annotated[
    bool | None,
    typer.Option(
        "--scratch/--no-scratch",
        help="Also the encoder trained on the labels alone. Default: with the baselines, where it takes minutes.",
    ),
]
Scenes = Annotated[str | None, typer.Option(help="Only scenes whose CARD/SCENE matches, e.g. '*/OSBS*'.")]
Cache = Annotated[
    str | None, typer.Option(help="Folder where features are kept, or none. Default: specfm in the user's cache.")
]
ProbeDevice = Annotated[str, typer.Option(help="cpu or cuda: where features and probes are computed.")]
Align = Annotated[
    bool | None,
    typer.Option(
        "--align/--no-align",
        help="Make features of different sensors comparable. Default: where the encoder was trained so, or the data "
        "were seen through different bands.",
    ),
]
Pixels = Annotated[
    bool, typer.Option("--pixels", help="Of an encoder with pixel tokens: a feature for every pixel, not every patch.")
]
Fit = Annotated[
    bool,
    typer.Option(
        "--fit/--no-fit",
        help="First fit the encoder's stem to what is mapped: in closed form, from its pixels alone, without labels.",
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
        str | None, typer.Option(help="Axes: HWC, CHW or HCW; of MATLAB and npy also spectra or bands_by_pixels:HxW.")
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
    "scale": Annotated[float | None, typer.Option(help="physical = stored * scale + offset; wins over the file.")],
    "offset": Annotated[float | None, typer.Option(help="physical = stored * scale + offset; wins over the file.")],
    "nodata": Annotated[float | None, typer.Option(help="Stored value of pixels not measured; wins over the file.")],
    "white": Annotated[
        Path | None,
        typer.Option(help="White reference scan of a laboratory camera; with --dark. In a card: white and dark."),
    ],
    "white_reflectance": Annotated[
        str | None,
        typer.Option(
            help="What the white panel reflects: a share or a CSV (wavelength_nm, reflectance).", show_default="1"
        ),
    ],
    "dark": Annotated[
        list[Path] | None,
        typer.Option(help="Dark reference scan; with --white. Repeatable: one of each integration time."),
    ],
    "saturation": Annotated[
        float | None, typer.Option(help="Stored value from which a pixel is saturated; also beside a card.")
    ],
}  # what specfm.cards.opening is told of files


def number(text: str | None) -> float | str | None:
    """A number where the text is one, else the text."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def with_reader(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options of ``READER`` in place of its parameter ``reader``, a dict that holds their values.

    Example:
        >>> @with_reader
        ... def command(path: str, *, reader: dict[str, Any]) -> None:
        ...     print(path, reader["units"])
        >>> command(path="a.npy", **(dict.fromkeys(READER) | {"units": "nm"}))
        a.npy nm
    """
    return spread(command, "reader", {name: (kind, None) for name, kind in READER.items()}, dict)


def spread(
    command: Callable[..., R],
    parameter: str,
    options: Mapping[str, tuple[Any, Any]],
    make: Callable[[dict[str, Any]], Any],
) -> Callable[..., R]:
    """Give a command several options in place of one parameter.

    Args:
        command: it takes ``parameter``.
        parameter: the name of that one.
        options: type (with its help) and default of each option, in the order of the help.
        make: from the values of all options to that of the parameter.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(n, keyword, default=default, annotation=kind) for n, (kind, default) in options.items()]
    parameters: list[inspect.Parameter] = []
    for each in parameters_of(command):
        parameters += added if each.name == parameter else [each.replace(kind=keyword)]

    @functools.wraps(command)
    def parsed(**words: Any) -> Any:
        values = {name: words.pop(name) for name in options}
        return command(**words, **{parameter: make(values)})

    # what typer reads a command's options from
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    returned = {"return": command.__annotations__["return"]} if "return" in command.__annotations__ else {}
    parsed.__annotations__ = {each.name: each.annotation for each in parameters} | returned
    return parsed
