"""`specfm probe`: what a frozen encoder is worth on labelled scenes, beside its controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli import _options as shared
from specfm.cli._show import print_remarks, wide_console

SCRATCH_ON_CPU = 10_000_000  # parameters: the from-scratch row of a nano or tiny encoder takes a minute or a few


def command(
    checkpoint: shared.Encoder,
    data: shared.Data,
    protocol: Annotated[
        str, typer.Option(help="Any of knn, linear, ridge (quick) and finetune (trains the encoder), by commas.")
    ] = "knn,linear",
    split: Annotated[
        str,
        typer.Option(
            help="group, block, scene, sensor (leave one out), or random_pixels (leaky); auto: group for 3 groups and "
            "more, else block."
        ),
    ] = "auto",
    shots: Annotated[str | None, typer.Option(help="Train on so many labels a class; 5,10,20 gives a table.")] = None,
    seeds: shared.Seeds = 10,
    window: shared.ProbeWindow = None,
    pooling: Annotated[
        str, typer.Option(help="mean, centre or class token, several as mean+centre (= concat).")
    ] = "concat",
    layers: Annotated[
        str | None, typer.Option(help="Blocks whose frozen features are put together, from 0, or -1 = last: 1,3,-1.")
    ] = None,
    k: shared.Neighbours = "1,5,20",
    init_seeds: shared.InitSeeds = 3,
    max_per_class: shared.MaxPerClass = None,
    min_groups: shared.MinGroups = 3,
    block: shared.Block = None,
    group_by: Annotated[str, typer.Option(help="group (plot, scan), object (crown, specimen) or auto.")] = "auto",
    scenes: shared.Scenes = None,
    through: Annotated[
        str | None, typer.Option(help="Also see every scene through these sensors (specfm sensors): enmap,prisma.")
    ] = None,
    split_file: Annotated[list[Path] | None, typer.Option(help="Use this split file (may be repeated).")] = None,
    save_splits: Annotated[Path | None, typer.Option(help="Write the splits into this new folder.")] = None,
    baselines: shared.Baselines = True,
    scratch: shared.Scratch = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            help="Also a published encoder, NAME[@SIDE][=FILE.safetensors]: dofa_base, panopticon, copernicusfm, "
            "timm:MODEL; random weights without a file (repeatable)."
        ),
    ] = None,
    align: shared.Align = None,
    cache: shared.Cache = None,
    device: shared.ProbeDevice = "cpu",
    out: shared.RowsOut = None,
    as_json: shared.RowsAsJson = False,
) -> None:
    """Probe frozen features by kNN and linear probe on leakage-safe splits, beside every control."""
    import json

    from downstream.features.encoders import open_encoder
    from downstream.probe.run import ProbeOptions, probe
    from downstream.results import files as results
    from specfm.errors import UsageError
    from specfm.files import refuse_closed_folder, refuse_unwritable

    if group_by not in ("auto", "group", "object"):
        raise UsageError(f"unknown --group-by {group_by!r}; one of auto, group, object")
    files = len(split_file or ())
    asked = {
        "split": split != "auto", "seeds": seeds not in (10, files), "block": block is not None,
        "min-groups": min_groups != 3,
    }  # fmt: skip
    if split_file and any(asked.values()):
        option = next(name for name, there in asked.items() if there)
        raise UsageError(f"--split-file holds whole splits; leave --{option} out")
    chosen, label = labelled_scenes(data, scenes, through)
    if split == "auto":
        split = "group" if len({scene.group for scene in chosen}) >= 3 else "block"
    options = ProbeOptions(
        protocols=protocols(protocol, scratch), split=split, shots=numbers("--shots", shots) or None, seeds=seeds,
        window=window, pooling=pooling, layers=numbers("--layers", layers), ks=numbers("--k", k), init_seeds=init_seeds,
        max_per_class=max_per_class, min_groups=min_groups, block=block, group_by=group_by,  # type: ignore[arg-type]
        baselines=baselines, split_files=tuple(str(p) for p in split_file or ()), peers=tuple(peers or ()), align=align,
    )  # fmt: skip
    options.check()
    if save_splits is not None:
        if save_splits.exists():
            raise UsageError(f"{save_splits} exists; choose another --save-splits")
        refuse_closed_folder(save_splits, "--save-splits")
    if out is not None:
        refuse_unwritable(out)
    encoder, name, pretrained = open_encoder(checkpoint, device)
    options = with_scratch(options, encoder, scratch)
    bank: dict[str, Any] = {}
    rows = probe(
        encoder, chosen, options, data=label, name=name, pretrained=pretrained, bank=bank, cache=feature_bank(cache)
    )  # fmt: skip
    if save_splits is not None:
        from downstream.splits.split import save_split

        for number, each in enumerate(bank["splits"]):
            save_split(each, save_splits / f"{each.rule}-{number:03d}.json")
    if out is not None:
        results.append_rows(out, rows)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    _show(rows)
    if out is not None:
        typer.echo(f"{len(rows)} rows appended to {out}")


def protocols(text: str, scratch: bool | None) -> tuple[str, ...]:
    """The protocols named, and "scratch" where that is asked for."""
    from specfm.errors import UsageError

    named = tuple(dict.fromkeys(piece.strip() for piece in text.split(",") if piece.strip()))
    if scratch is False and "scratch" in named:
        raise UsageError("--protocol names scratch and --no-scratch refuses it; leave one out")
    return (*named, "scratch") if scratch and "scratch" not in named else named


def with_scratch(options: Any, encoder: Any, scratch: bool | None) -> Any:
    """The options with a from-scratch row among the baselines, unless that would take hours; then the user is told."""
    from dataclasses import replace

    if "scratch" in options.protocols or scratch is False or not options.baselines:
        return options
    parameters = sum(p.numel() for p in encoder.parameters())
    if encoder.device.type == "cpu" and parameters > SCRATCH_ON_CPU:
        typer.echo(
            f"no from-scratch row: {parameters / 1e6:.0f} million parameters take hours to train on a CPU; "
            "--scratch asks for it",
            err=True,
        )
        return options
    return replace(options, protocols=(*options.protocols, "scratch"))


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


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Whole numbers divided by commas."""
    from specfm.errors import UsageError

    try:
        return tuple(int(piece) for piece in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"{option} takes whole numbers divided by commas, not {text!r}") from None


def labelled_scenes(data: list[str], pattern: str | None, through: str | None) -> tuple[list[Any], str]:
    """The scenes asked for, and their name in the table."""
    from fnmatch import fnmatch

    from specfm.cards import load_card
    from specfm.errors import UsageError

    cards = [load_card(name) for name in data]
    chosen = [s for card in cards for s in card.scenes() if pattern is None or fnmatch(s.name, pattern)]
    if not chosen:
        raise UsageError(f"no scene of {', '.join(data)} matches --scenes {pattern!r}")
    label = "+".join(card.name for card in cards) + (f"[{pattern}]" if pattern else "")
    if through:
        from specfm.simulate import resample_scene

        sensors = [name.strip() for name in through.split(",") if name.strip()]
        chosen += [resample_scene(scene, name) for name in sensors for scene in chosen]
        label += "".join(f"@{name}" for name in sensors)
    return chosen, label


def feature_bank(folder: str | None) -> Any:
    """The bank of features: one named must work, the default one may fail to be writable."""
    from downstream.features.bank import Bank, default_folder

    if folder is not None and folder.lower() == "none":
        return None
    return Bank(default_folder(), strict=False) if folder is None else Bank(folder)
