"""`specfm sensors`: the table of known instruments, or the band list of one."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def command(
    name: Annotated[str | None, typer.Argument(help="An instrument, any case or alias; none: the whole table.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the known imaging spectrometers with their bands, source and exactness; with NAME, its band list."""
    import json
    import math

    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    from specfm.sensor_table import get_row, known_sensors

    console = Console()  # 80 columns in a pipe, unless COLUMNS says otherwise
    if name is None:
        rows = [row.to_dict() for row in known_sensors().values()]
        if as_json:
            typer.echo(json.dumps(rows, indent=1))
            return
        plain: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False}
        whole = Column("name", no_wrap=True)
        table = Table(whole, "bands", "range nm", "FWHM nm", "GSD", "centres", "FWHM", **plain)
        sources = Table(whole.copy(), "source", **plain)  # apart: beside the figures they would not fit 80 columns
        for row in known_sensors().values():
            info = row.to_dict()
            low, high = info["range_nm"]
            # dict.fromkeys: one number where all bands are equally wide
            widths = "-".join(dict.fromkeys(f"{v:.1f}" for v in info["fwhm_nm"])) if info["fwhm_nm"] else "unknown"
            exact = (word.replace("approximate", "approx.") for word in (row.exactness, row.fwhm_exactness))
            table.add_row(row.name, str(len(row.bands)), f"{low:.0f}-{high:.0f}", widths, row.typical_gsd, *exact)
            sources.add_row(row.name, row.source)
        console.print(table)
        console.print()
        console.print(sources)
        return
    row = get_row(name)
    centres, fwhm = row.bands.wavelengths_nm, row.bands.fwhm_nm
    labels = row.band_names or tuple(str(i + 1) for i in range(len(centres)))
    if as_json:
        bands = [
            {"band": label, "centre_nm": float(c), "fwhm_nm": None if math.isnan(f) else float(f)}
            for label, c, f in zip(labels, centres, fwhm, strict=True)
        ]
        typer.echo(json.dumps({**row.to_dict(), "band_list": bands}, indent=1))
        return
    head = f"{row.title}\ncentres {row.exactness}, FWHM {row.fwhm_exactness}; source: {row.source}"
    console.print(head, highlight=False)
    table = Table("band", "centre nm", "FWHM nm")
    for label, c, f in zip(labels, centres, fwhm, strict=True):
        table.add_row(label, f"{c:.2f}", "unknown" if math.isnan(f) else f"{f:.2f}")
    console.print(table)
