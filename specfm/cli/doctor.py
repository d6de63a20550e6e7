"""`specfm doctor`: the environment, and what to do about each finding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Option(help="Where runs and shards will lie; its storage is timed.")] = Path("."),
    megabytes: Annotated[int, typer.Option(min=8, help="Size of the file that storage is timed with.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a list.")] = False,
) -> None:
    """Look at environment, GPUs, storage, codecs and accounts; say what to do; exit code 1 if specfm would fail."""
    import json
    from functools import partial

    from specfm.cli._show import wide_console
    from specfm.doctor import examine

    found = []
    say = partial(wide_console().print, highlight=False, markup=False, soft_wrap=True)
    for each in examine(folder, megabytes):
        found.append(each)
        if not as_json:
            mark, style = {"good": ("ok  ", None), "note": ("note", "yellow"), "bad": ("BAD ", "red")}[each.level]
            say(f"{mark}  {each.about}: {each.found}", style=style)
            if each.remedy:
                say(f"      -> {each.remedy}")
    if as_json:
        typer.echo(json.dumps([each.to_dict() for each in found], indent=1))
    wrong = sum(each.level == "bad" for each in found)
    if not as_json:
        notes = sum(each.level == "note" for each in found)
        typer.echo(f"{wrong} to mend, {notes} worth knowing" if wrong or notes else "all good")
    if wrong:
        raise typer.Exit(1)
