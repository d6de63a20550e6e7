"""`specfm convert`: published weights of other projects -> a release folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    kind: Annotated[Literal["specaware"], typer.Argument(metavar="KIND", help="Whose weights: specaware.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Their state dict as FILE.safetensors.")],
    out: Annotated[Path, typer.Option("--out", help="Release folder to write; must not exist.")],
    sentence_vectors: Annotated[
        Path | None,
        typer.Option(
            help="FILE.safetensors with SpecAware's frozen sentence vectors (384 numbers each) named avc, avng, av3, "
            "others, L1 and L2, which its release does not hold; without it random ones stand in their place."
        ),
    ] = None,
) -> None:
    """Make a release folder of published weights, which every command reads; a decoder goes along for pretraining."""
    from specfm.convert.specaware import convert_specaware

    found = convert_specaware(file, out, sentence_vectors)
    sizes = found["encoder"]
    typer.echo(
        f"{out}: SpecAware, {sizes['depth']} blocks of width {sizes['dim']}, patches of {sizes['patch_size']} px, "
        f"windows of {sizes['image_size']} px"
    )
    if found["decoder"] is None:
        typer.echo("no decoder in the file: masked pretraining from it starts with a new one")
    else:
        typer.echo(
            f"heads.safetensors: its decoder, for objective.masked with published=true, decoder={found['decoder']}"
        )
