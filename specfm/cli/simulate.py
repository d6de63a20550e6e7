"""`specfm simulate`: scenes with known materials as files, with a dataset card per sensor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SENSORS = "aviris_classic_2010s,emit,neon_ais,specim_fx10"
SCENES, SPECIES = 2, 6


def command(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to make; it must not exist. Needed but for --list.")
    ] = None,
    sensors: Annotated[
        str | None,
        typer.Option(
            "--sensors",
            help="Known instruments, separated by commas (see specfm sensors). Those of a laboratory see a tray "
            "under a lamp: raw counts, white and dark references.",
            show_default=SENSORS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and options give the same bytes.", min=0)] = 0,
    scenes: Annotated[
        int | None, typer.Option(help="Scenes per sensor.", min=1, max=100, show_default=str(SCENES))
    ] = None,
    size: Annotated[int, typer.Option(help="Rows and columns of each scene.", min=8)] = 64,
    library: Annotated[
        str | None,
        typer.Option(
            help="Where materials come from: ground or laboratory (written by code), or measured spectra, a class "
            "each: earthlib (shipped), a folder of ECOSTRESS files, the USGS matrix, a card or a file of spectra.",
            show_default="ground",
        ),
    ] = None,
    materials: Annotated[
        str | None, typer.Option(help="Materials of the library, separated by commas; all by default.")
    ] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="Instead: print the materials of the library, and what they are.")
    ] = False,
    specimens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Instead: laboratory scans of so many specimens of each species (408 bands, 348-810 nm)."
        ),
    ] = None,
    species: Annotated[
        int | None, typer.Option(min=1, help="Species of the specimens, at most 8.", show_default=str(SPECIES))
    ] = None,
    same_ground: Annotated[
        bool, typer.Option(help="Let all sensors look at the same ground, those of a laboratory too.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value of the simulation (snr=80, stripes=0.01, nodata=0.1 ...; laboratory: variability=0.5 "
            "alone; specimens: thickness=0.02 ...).",
        ),
    ] = None,
) -> None:
    """Write simulated scenes of several sensors (ENVI), their true materials and a dataset card each."""
    from specfm.config import load_config
    from specfm.errors import UsageError
    from specfm.progress import stages
    from specfm.simulate import SimulationConfig, write_simulation, write_specimens
    from specfm.simulate.catalogue import chosen_materials
    from specfm.simulate.specimens import SpecimenConfig

    if list_all:
        _print_materials(library)
        return
    if out is None:
        raise UsageError("give --out FOLDER for what is simulated, or --list to see materials")
    of_scenes = {
        "--sensors": sensors is not None, "--scenes": scenes is not None, "--library": library is not None,
        "--materials": materials is not None, "--same-ground": same_ground,
    }  # fmt: skip
    if specimens is not None and any(of_scenes.values()):
        unread = ", ".join(name for name, given in of_scenes.items() if given)
        raise UsageError(f"specimens are of one sensor and of species of their own; leave out {unread} or --specimens")
    if specimens is None and species is not None:
        raise UsageError("--species says how many of --specimens there are; give both")
    if specimens is not None:
        told_of = load_config(None, SpecimenConfig, option).model_dump()
        with stages() as told:
            card = write_specimens(
                out,
                species or SPECIES,
                specimens,
                (size, size),
                seed,
                lambda done, total: told("simulate", done, total),
                **told_of,
            )
        typer.echo(str(card))
        return
    asked = load_config(None, SimulationConfig, option).model_dump(exclude_unset=True)
    names = [name.strip() for name in (sensors or SENSORS).split(",") if name.strip()]
    chosen = None if materials is None else [name.strip() for name in materials.split(",") if name.strip()]
    with stages() as told:
        cards = write_simulation(
            out,
            names,
            seed=seed,
            scenes=scenes or SCENES,
            size=(size, size),
            materials=chosen_materials(library, chosen),
            same_ground=same_ground,
            progress=lambda done, total: told("simulate", done, total),
            **asked,
        )
    for card in cards:
        typer.echo(str(card))


def _print_materials(library: str | None) -> None:
    from rich import box
    from rich.table import Table

    from specfm.cli._show import wide_console
    from specfm.simulate.catalogue import GROUND, list_materials

    rows = list_materials(library)
    table = Table("material", "what it is", "known nm", "spectra", box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for row in rows:
        spectra = "by code" if row["spectra"] is None else f"{row['spectra']}"
        spectra += "" if row["usable"] else " (too few)"
        table.add_row(row["name"], row["what"], f"{row['low_nm']:.0f}-{row['high_nm']:.0f}", spectra)
    wide_console().print(table)
    usable = sum(row["usable"] for row in rows)
    typer.echo(f"{usable} materials of {library or GROUND}; choose by --materials NAME,NAME")
