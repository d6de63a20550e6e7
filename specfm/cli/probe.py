"""`specfm probe`: what a frozen encoder is worth on labelled scenes, beside its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from downstream.features.options import FeatureOptions
from downstream.probe.options import ProbeOptions
from specfm.cli import _options as shared
from specfm.cli._function import function, printed
from specfm.cli._probe import feature_bank, names, refuse_both, with_probe, with_scratch
from specfm.cli._show import print_remarks, wide_console

if TYPE_CHECKING:
    from downstream.probe.run import ProbeResult


@function
@with_probe(ProbeOptions())
def probe(
    checkpoint: shared.Encoder,
    data: shared.Data,
    probe: ProbeOptions,
    scenes: shared.Scenes = None,
    through: Annotated[
        str | None, typer.Option(help="Also see every scene through these sensors (specfm sensors): enmap,prisma.")
    ] = None,
    save_splits: Annotated[Path | None, typer.Option(help="Write the splits into this new folder.")] = None,
    scratch: shared.Scratch = None,
    cache: shared.Cache = None,
    device: shared.ProbeDevice = "cpu",
    out: shared.RowsOut = None,
) -> ProbeResult:
    """Probe frozen features by kNN and linear probe on leakage-safe splits, beside every control."""
    from downstream.features.encoders import open_encoder
    from downstream.probe.run import probe as run_probe
    from downstream.results.files import append_rows
    from specfm.cards.opening import also_through, card_scenes
    from specfm.errors import UsageError
    from specfm.files import refuse_closed_folder, refuse_unwritable

    refuse_both(probe, scratch)
    probe.check()
    chosen = also_through(card_scenes(data, [scenes] if scenes else []), names(through))
    if save_splits is not None:
        if save_splits.exists():
            raise UsageError(f"{save_splits} exists; choose another --save-splits")
        refuse_closed_folder(save_splits, "--save-splits")
    if out is not None:
        refuse_unwritable(out)
    encoder, name, pretrained = open_encoder(checkpoint, device)
    called = title(data, scenes, probe, names(through))
    found = run_probe(
        encoder, chosen, with_scratch(probe, encoder, scratch), data=called, name=name, pretrained=pretrained,
        bank=feature_bank(cache),
    )  # fmt: skip
    if save_splits is not None:
        from downstream.splits.split import save_split

        for number, each in enumerate(found.splits):
            save_split(each, save_splits / f"{each.rule}-{number:03d}.json")
    if out is not None:
        append_rows(out, found.rows)
    return found


@printed(probe)
def command(found: ProbeResult, out: Path | None, as_json: shared.RowsAsJson = False) -> None:
    """Print the rows as tables, or as JSON."""
    import json

    if as_json:
        typer.echo(json.dumps(found.rows, indent=1))
        return
    _show(found.rows)
    if out is not None:
        typer.echo(f"{len(found.rows)} rows appended to {out}")


def _of_card(each: Any) -> str:
    """The name of a card, also of a Scene from it or of a card itself."""
    from specfm.cards import load_card

    if isinstance(each, str):
        return load_card(each).name
    return getattr(each, "dataset", "") or str(each.name)


def title(data: list[str], scenes: str | None, options: FeatureOptions, through: tuple[str, ...] = ()) -> str:
    """Name of the data in the tables, with what is done to them."""
    cards = "+".join(dict.fromkeys(_of_card(each) for each in data))
    seen = (f"[{scenes}]" if scenes else "") + "".join(f"@{sensor}" for sensor in through)
    return cards + seen + options.done_to_data


def _show(rows: list[dict[str, Any]]) -> None:
    """Tables, then what to beware of."""
    from downstream.results import text

    console = wide_console()
    groups = text.tables(rows)
    for group in groups:
        console.print(text.heading(group[0]), highlight=False)
        console.print(text.table(group, width=console.width))
        if (held := text.held_out_table(group)) is not None:
            console.print(held)
        print_remarks(console, text.remarks(group))
    if len(groups) > 1:
        console.print(text.shots_table(rows))
