"""`specfm inspect`: look at a cube, a folder of cubes or a dataset card before using it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specfm.cli._artefacts import recognise, text
from specfm.cli._function import function, printed
from specfm.cli._notes import reader_notes
from specfm.cli._options import with_reader
from specfm.cli._results import Descriptions
from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from specfm.inspection.scene import Inspection
    from specfm.scene import Scene


@function
@with_reader
def inspect(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Data or header files, folders of them, or dataset cards.")
    ],
    *,
    reader: dict[str, Any],
    quicklook: Annotated[
        Path | None,
        typer.Option(
            help="Write a false-colour PNG here (a folder, if there are several scenes: NAME.png is a picture)."
        ),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Write a commented dataset card to begin with here (PATH: one file).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace quicklooks and cards that exist.")] = False,
) -> Descriptions:
    """Tell shape, sensor, wavelength coverage, masks and anything suspicious about a scene; reads a bounded sample."""
    from specfm.errors import UsageError
    from specfm.files import refuse_existing
    from specfm.inspection.scene import inspect_given, inspect_scene
    from specfm.progress import progress
    from specfm.rasters.quicklook import write_quicklook

    first = paths[0]
    if len(paths) == 1 and (facts := recognise(Path(first))) is not None:
        return Descriptions([facts], [], single=True)
    single = len(paths) == 1 and Path(first).is_file() and Path(first).suffix.lower() not in (".yaml", ".yml")
    picture = quicklook is not None and (single or quicklook.suffix.lower() == ".png")
    if quicklook is not None and picture:
        if not single and (held := sum(map(_held, paths))) > 1:
            told = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
            raise UsageError(f"--quicklook {quicklook} is one picture, and {told} holds {held} scenes; name a folder")
        refuse_existing(quicklook, overwrite, "--quicklook")
    if card is not None:
        if not single:
            raise UsageError(f"--card begins a card for one file, and {first} is none; name one of its files")
        refuse_existing(card, overwrite, "--card")
    results: list[dict[str, Any]] = []
    refused: list[str] = []
    notes: list[str] = []
    drawn: set[str] = set()
    with progress("inspect", None) as advance, reader_notes(lambda record: notes.append(record.getMessage())):
        for path, scene, given in _all(paths, reader, refused, results, single, card):
            inspection = inspect_scene(scene, given=given)
            made = None if given is scene else inspect_given(scene, given)
            if card is not None:
                _begin_card(path, card, reader, scene, inspection)
            result = {**inspection.to_dict(), "given": made, "notes": list(dict.fromkeys(notes))}
            notes.clear()
            if quicklook is not None:
                target = quicklook if picture else quicklook / f"{_title(scene, drawn)}.png"
                result["quicklook"] = {"path": str(target), "bands": list(write_quicklook(given, target, overwrite))}
            results.append(result)
            advance()
    if not results and refused:
        raise SpecfmError(refused[0] if len(refused) == 1 else f"{first}: no scene could be read; first: {refused[0]}")
    return Descriptions(results, refused, single)


def _title(scene: Scene, drawn: set[str]) -> str:
    """What the picture of a scene among others is called: as the card names it, else as its file, whole if need be."""
    if scene.dataset or scene.path is None:
        return scene.name.replace("/", "_")
    title = scene.path.name if scene.path.stem in drawn else scene.path.stem
    drawn.add(title)
    return title


def _held(path: str) -> int:
    """How many scenes a file, a folder or a card holds; none is opened."""
    from specfm.cards import load_card
    from specfm.cards.loose_files import folder_files
    from specfm.cards.opening import is_card

    if Path(path).is_file() and not is_card(path):
        return 1
    return len(folder_files(Path(path))) if Path(path).is_dir() else len(load_card(path).names())


class Unread(SpecfmError):
    """A file that cannot be read yet.

    Attributes:
        facts: what can be said of it all the same.
    """

    def __init__(self, error: SpecfmError, facts: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.facts, self.exit_code = facts, error.exit_code


@contextmanager
def tell_of_unread(words: Mapping[str, Any]) -> Iterator[None]:
    """What can be said of a file that is refused is printed before its error."""
    import json

    from specfm.inspection.unread import unread_text

    try:
        yield
    except Unread as error:
        facts = error.facts
        typer.echo(json.dumps({**facts, "refused": str(error)}, indent=1) if words["as_json"] else unread_text(facts))
        raise


@printed(inspect, around=tell_of_unread)
def command(
    found: Descriptions,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON (a list where there may be several scenes); lists of bands count from 0."
        ),
    ] = False,
) -> None:
    """Print each scene, one fact a line."""
    import json
    import sys

    from specfm.inspection.several import summary

    if as_json:
        typer.echo(json.dumps(found.rows[0] if found.single else found.rows, indent=1, allow_nan=False))
    else:
        for row in found.rows:
            typer.echo(render(row) if "scene" in row else text(row))
        if len(scenes := [row for row in found.rows if "scene" in row]) > 1:
            typer.echo("\n".join(summary(scenes)))
    for message in found.refused:
        print(f"not read: {message}", file=sys.stderr)


def _all(
    paths: list[str],
    reader: dict[str, Any],
    refused: list[str],
    results: list[dict[str, Any]],
    single: bool,
    card: Path | None,
) -> Iterator[tuple[str, Scene, Scene]]:
    """The scenes behind all paths, each once (a shell's ``*`` names header and data file); of several paths, one that
    cannot be read is noted in ``refused``, and what is no scene but is known goes to ``results``."""
    seen: set[Path] = set()
    for path in paths:
        if len(paths) > 1 and (facts := recognise(Path(path))) is not None:
            results.append(facts)
            continue
        try:
            for scene, given in _told(path, reader, refused, single, card):
                if scene.path is None or len(paths) == 1 or scene.path.resolve() not in seen:
                    yield path, scene, given
                if scene.path is not None:
                    seen.add(scene.path.resolve())
        except SpecfmError as error:
            if len(paths) == 1:
                raise
            if str(error) not in refused:  # header and data file of one cube
                refused.append(str(error))


def _told(
    path: str, reader: dict[str, Any], refused: list[str], single: bool, card: Path | None
) -> Iterator[tuple[Scene, Scene]]:
    """:func:`_scenes`; of a file that is refused, what can be said of it goes with the error, and its card is begun.

    Raises:
        Unread: such a file.
    """
    from specfm.inspection.unread import describe_unread

    try:
        yield from _scenes(path, reader, refused)
    except SpecfmError as error:
        facts = describe_unread(path, reader["variable"], reader["layout"]) if single else None
        if facts is None:
            raise
        if card is not None:
            _begin_card(path, card, reader, None, None)
        raise Unread(error, facts) from error


def _begin_card(
    path: str, card: Path, reader: dict[str, Any], scene: Scene | None, inspection: Inspection | None
) -> None:
    import sys

    from specfm.files import atomic_write_bytes
    from specfm.inspection.starter import starter_card

    atomic_write_bytes(card, starter_card(Path(path), card, reader, scene, inspection).encode())
    print(f"{card}: begun; look it through, then: specfm inspect {card}", file=sys.stderr)


def _scenes(path: str, reader: dict[str, Any], refused: list[str]) -> Iterator[tuple[Scene, Scene]]:
    """The scenes behind PATH, as measured and as given; what is not read of a folder is noted in ``refused``."""
    from specfm.cards import load_card
    from specfm.cards.loose_files import FileReader
    from specfm.cards.opening import is_card, refuse_options

    place, files = Path(path), FileReader.of(reader)
    if is_card(path):
        refuse_options(path, reader)
        card = load_card(path)
        if card.task == "change":
            card.pairs()  # refused here, not by the first training on it
        yield from card.scans(saturation=files.saturation)  # saturated counts show in what was measured
        return
    if not place.exists():
        raise SpecfmError(f"{place}: no such file")
    for entry in files.files(place):
        try:
            scene = files.measured(entry)
            given = files.calibrated(scene)
        except SpecfmError as error:
            if not place.is_dir():
                raise
            refused.append(str(error))
            continue
        yield scene, given


def render(row: dict[str, Any]) -> str:
    """A description as text, one fact a line."""
    scene, sensor, coverage, masks, values = (row[key] for key in ("scene", "sensor", "coverage", "masks", "values"))
    picture, made = row.get("quicklook"), row["given"]
    height, width, count = scene["shape"]
    known = [sensor["name"] or "unnamed sensor"]
    known += [sensor[key] or f"{key} unknown" for key in ("quantity", "level")]
    if sensor["gsd_m"]:
        known.append(f"{sensor['gsd_m']:g} m")
    physical = (
        f"physical = stored x {sensor['scale']:g} {'-' if sensor['offset'] < 0 else '+'} {abs(sensor['offset']):g}"
    )
    stored = f"{scene['dtype']}, {scene['bytes'] / 1e6:.3g} MB"
    lines = [
        f"{scene['name']}" + (f"  ({scene['path']})" if scene["path"] else ""),
        f"  cube        {height} rows x {width} columns x {count} bands (numbered from 1), {stored}",
        f"  sensor      {', '.join(known)}; {physical}",
        f"  wavelengths {_span(coverage)}",
        f"  place       {_place(scene)}",
        f"  masks       {_masks(masks)}",
        f"  values      {_values(values)} (stored, usable bands, {masks['sampled_rows']} of {height} rows)",
    ]
    if made is not None:
        lines.append(f"  given as    {_made(made)}")
        lines.extend(f"{'':14}{_both(band)}" for band in made["bands"])
    if scene["labels"] is not None:
        shown = ", ".join(f"{name} {number}" for name, number in list(scene["labels"].items())[:12])
        lines.append(f"  labels      {shown}" + (" ..." if len(scene["labels"]) > 12 else ""))
    if picture is not None:
        red, green, blue = (band + 1 for band in picture["bands"])
        lines.append(f"  quicklook   {picture['path']} (bands {red}, {green}, {blue} as red, green, blue)")
    lines.extend(f"  note        {note}" for note in row["notes"])
    if not row["findings"]:
        lines.append("  suspicious  nothing found")
    lines.extend(f"  suspicious  {finding['text']}" for finding in row["findings"])
    return "\n".join(lines)


def _span(coverage: dict[str, Any]) -> str:
    if coverage["low_nm"] is None:
        return "no usable band"
    words = f"{coverage['low_nm']:.1f}-{coverage['high_nm']:.1f} nm"
    words += f", {coverage['usable']} of {coverage['bands']} bands usable"
    if coverage["spacing_nm"] is not None:
        words += f", every {coverage['spacing_nm']:.2f} nm"
    widths = coverage["fwhm_nm"]
    words += ", FWHM unknown" if widths is None else f", FWHM {widths[0]:.2f}-{widths[2]:.2f} nm"
    if coverage["gaps_nm"]:
        words += "; gaps " + ", ".join(f"{low:.0f}-{high:.0f}" for low, high in coverage["gaps_nm"][:6])
    return words


def _place(scene: dict[str, Any]) -> str:
    if scene["crs"] is None and scene["transform"] is None:
        return "none"
    crs = scene["crs"] or "unnamed reference"
    crs = crs if len(crs) < 40 else crs.split('"')[1] if '"' in crs else crs[:40]
    transform = scene["transform"]
    return crs + ("" if transform is None else f", corner {transform[0]:.10g}, {transform[3]:.10g}")


def _masks(masks: dict[str, Any]) -> str:
    words = [f"nodata {masks['nodata']:g}" if masks["nodata"] is not None else "no nodata value"]
    if masks["saturation"] is not None:
        words.append(f"saturation {masks['saturation']:g}")
    words.append(f"bad bands {masks['bad_bands']}" if masks["bad_bands"] else "no bad bands")
    words.append(f"{masks['valid_pixels']:.1%} of pixels valid")
    return ", ".join(words)


def _made(made: dict[str, Any]) -> str:
    """What references or a card make of a scan."""
    words = made["quantity"] or "unknown quantity"
    if made["pretreatment"]:
        words += f" after {', '.join(made['pretreatment'])}"
    words += f", {_values(made)}"
    objects = made["objects"]
    if objects is not None:
        words += f"; objects on {objects['share']:.1%} of pixels, in {objects['pieces']} pieces"
    return words


def _both(band: dict[str, Any]) -> str:
    """A band before and after."""
    return f"band {band['number']}, {band['nm']:.0f} nm: {_values(band['stored'])} -> {_values(band['given'])}"


def _values(values: dict[str, Any]) -> str:
    if values["low"] is None:
        return "none valid"
    return f"{values['low']:.6g} to {values['high']:.6g}, mean {values['mean']:.6g}"
