"""`specfm simulate`: scenes with known materials as files, with a dataset card per sensor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SENSORS = "aviris_classic_2010s,emit,neon_ais,specim_fx10"
SCENES, SPECIES = 2, 6


def command(
    out: Annotated[Path, typer.Option("--out", help="Folder to make; it must not exist.")],
    sensors: Annotated[
        str | None,
        typer.Option(
            "--sensors", help="Known instruments, separated by commas (see specfm sensors).", show_default=SENSORS
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
            help="Take materials from a library of measured spectra, a class each: earthlib (shipped), a folder of "
            "ECOSTRESS files, the USGS matrix, a dataset card or a file of spectra."
        ),
    ] = None,
    materials: Annotated[
        str | None, typer.Option(help="Materials or classes of the library, separated by commas; all by default.")
    ] = None,
    specimens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Instead: laboratory scans of so many specimens of each species (408 bands, 348-810 nm)."
        ),
    ] = None,
    species: Annotated[
        int | None, typer.Option(min=1, help="Species of the specimens, at most 8.", show_default=str(SPECIES))
    ] = None,
    same_ground: Annotated[bool, typer.Option(help="Let all sensors look at the same ground.")] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value of the simulation (snr=80, stripes=0.01, nodata=0.1 ...; specimens: thickness=0.02 ...).",
        ),
    ] = None,
) -> None:
    """Write simulated scenes of several sensors (ENVI), their true materials and a dataset card each."""
    from specfm.config import load_config
    from specfm.errors import UsageError
    from specfm.progress import stages
    from specfm.simulate import SimulationConfig, write_simulation, write_specimens
    from specfm.simulate.measured import measured_materials
    from specfm.simulate.specimens import SpecimenConfig

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
    config = load_config(None, SimulationConfig, option)
    names = [name.strip() for name in (sensors or SENSORS).split(",") if name.strip()]
    chosen = None if materials is None else [name.strip() for name in materials.split(",") if name.strip()]
    measured = None if library is None else measured_materials(library, chosen)
    with stages() as told:
        cards = write_simulation(
            out,
            names,
            seed=seed,
            scenes=scenes or SCENES,
            size=(size, size),
            materials=chosen if measured is None else measured,
            same_ground=same_ground,
            progress=lambda done, total: told("simulate", done, total),
            **config.model_dump(),
        )
    for card in cards:
        typer.echo(str(card))
