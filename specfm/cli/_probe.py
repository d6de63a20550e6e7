"""What the commands that probe share: the options of a probe, put together once, and the bank of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from downstream.probe.options import ProbeOptions
from specfm.cli._function import R
from specfm.cli._options import Align, Bands, spread
from specfm.errors import UsageError

SCRATCH_ON_CPU = 10_000_000  # parameters: the from-scratch row of a nano or tiny encoder takes a minute or a few


def names(text: str | None) -> tuple[str, ...]:
    """Words divided by commas, each once."""
    return tuple(dict.fromkeys(piece.strip() for piece in (text or "").split(",") if piece.strip()))


def numbers(option: str, text: str | None, kind: Callable[[str], Any] = int) -> tuple[Any, ...]:
    """Numbers divided by commas, whole ones by default."""
    try:
        return tuple(kind(piece) for piece in text.split(",")) if text else ()
    except ValueError:
        whole = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"{option} takes {whole} divided by commas, not {text!r}") from None


def one_of(option: str, text: str, meant: Mapping[str, Any]) -> Any:
    """What a word of the command line means."""
    if text not in meant:
        raise UsageError(f"{option} {text!r}: choose one of {', '.join(meant)}")
    return meant[text]


def listed(values: Sequence[Any]) -> str:
    """How a default of several values is written on the command line."""
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


@dataclass(frozen=True)
class Option:
    """An option of the command line that fills one of ``ProbeOptions``: its type with the help, and both directions."""

    field: str
    kind: Any
    read: Callable[[Any], Any] = lambda value: value
    show: Callable[[Any], Any] = lambda value: value


OPTIONS: dict[str, Option] = {
    "protocol": Option(
        "protocols",
        Annotated[str, typer.Option(help="Any of knn, linear, ridge (quick) and finetune (trains it), by commas.")],
        names,
        listed,
    ),
    "split": Option(
        "split",
        Annotated[
            str,
            typer.Option(
                help="group, block, scene, sensor (leave one out), or random_pixels (leaky); auto: group for 3 groups "
                "and more, else block."
            ),
        ],
    ),
    "shots": Option(
        "shots",
        Annotated[str | None, typer.Option(help="Train on so many labels a class; 5,10,20 gives a table.")],
        lambda text: numbers("--shots", text) or None,
    ),
    "seeds": Option("seeds", Annotated[int, typer.Option(help="Number of splits.")]),
    "window": Option(
        "window", Annotated[int | None, typer.Option(help="Side of the window, pixels (default: as pretrained).")]
    ),
    "pooling": Option(
        "pooling",
        Annotated[
            str,
            typer.Option(
                help="Tokens: mean, centre, similar (mean of those like the centre), pixel, class; several as "
                "mean+centre (= concat)."
            ),
        ],
    ),
    "layers": Option(
        "layers",
        Annotated[
            str | None,
            typer.Option(help="Blocks whose frozen features are put together, from 0, or -1 = last: 1,3,-1."),
        ],
        lambda text: numbers("--layers", text),
        lambda value: listed(value) or None,
    ),
    "bands": Option("bands", Bands),
    "whole": Option(
        "whole",
        Annotated[
            int | None,
            typer.Option(
                help="One sample a specimen, all of it on so many pixels a side (224): groups of the card, else all "
                "valid pixels of a scan; no threshold is put."
            ),
        ],
    ),
    "k": Option(
        "ks",
        Annotated[str, typer.Option("--k", help="Numbers of neighbours.")],
        lambda text: numbers("--k", text),
        listed,
    ),
    "init_seeds": Option("init_seeds", Annotated[int, typer.Option(help="Untrained twins to compare with.")]),
    "max_per_class": Option(
        "max_per_class", Annotated[int | None, typer.Option(help="At most so many pixels a class and group.")]
    ),
    "min_groups": Option(
        "min_groups", Annotated[int, typer.Option(help="Leave out classes found in fewer groups or blocks.")]
    ),
    "block": Option("block", Annotated[int | None, typer.Option(help="Side of a spatial block, pixels.")]),
    "group_by": Option(
        "group_by", Annotated[str, typer.Option(help="group (plot, scan), object (crown, specimen) or auto.")]
    ),
    "split_file": Option(
        "split_files",
        Annotated[list[Path] | None, typer.Option(help="Use this split file (may be repeated).")],
        lambda files: tuple(str(file) for file in files or ()),
        lambda _: None,
    ),
    "baselines": Option(
        "baselines",
        Annotated[
            bool, typer.Option(help="Also the raw-spectrum, PCA, MNF and SVM baselines and the encoder from scratch.")
        ],
    ),
    "peers": Option(
        "peers",
        Annotated[
            list[str] | None,
            typer.Option(
                help="Also a published encoder, NAME[@SIDE][=FILE.safetensors]: dofa_base, panopticon, copernicusfm, "
                "timm:MODEL; random weights without a file (repeatable)."
            ),
        ],
        lambda peers: tuple(peers or ()),
        lambda _: None,
    ),
    "pretreatment": Option(
        "pretreatment",
        Annotated[
            str | None,
            typer.Option(
                help="Pretreat spectra first, in order: snv, continuum, sg0, sg1, sg2 (sg1:15 of 15 bands, sg1:40nm)."
            ),
        ],
        names,
        lambda value: listed(value) or None,
    ),
    "class_weights": Option(
        "class_weights",
        Annotated[
            str, typer.Option(help="How much each class counts in fits: balanced (as in AA), sqrt, none (as in OA).")
        ],
    ),
    "align": Option("align", Align),
    "fit": Option(
        "fit",
        Annotated[
            str,
            typer.Option(
                help="Fit encoder and untrained twins to the scenes without labels: together (one stem, which "
                "fine-tuning on one sensor begins with too), scene (one each), no."
            ),
        ],
        lambda text: one_of("--fit", text, {"no": False, "together": True, "scene": "scene"}),
        lambda value: {False: "no", True: "together"}.get(value, "scene"),
    ),
}


def with_probe(
    defaults: ProbeOptions, leave_out: Sequence[str] = (), kinds: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command ``OPTIONS`` in place of its parameter ``probe``, a ``ProbeOptions`` that they fill.

    Args:
        defaults: what the options are when not given.
        leave_out: options that the command does not have.
        kinds: types of options whose help is another for this command.
    """
    chosen = {name: option for name, option in OPTIONS.items() if name not in leave_out}

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        options = {
            name: (kinds.get(name, option.kind), option.show(getattr(defaults, option.field)))
            for name, option in chosen.items()
        }
        return spread(
            command,
            "probe",
            options,
            lambda words: replace(defaults, **{chosen[n].field: chosen[n].read(value) for n, value in words.items()}),
        )

    return decorate


def with_scratch(options: ProbeOptions, encoder: Any, scratch: bool | None) -> ProbeOptions:
    """The options with a from-scratch row where it is asked for; by default among the baselines, unless that would
    take hours, of which the user is told.
    """
    if "scratch" in options.protocols or scratch is False or not (scratch or options.baselines):
        return options
    parameters = sum(p.numel() for p in encoder.parameters())
    if not scratch and encoder.device.type == "cpu" and parameters > SCRATCH_ON_CPU:
        typer.echo(
            f"no from-scratch row: {parameters / 1e6:.0f} million parameters take hours to train on a CPU; "
            "--scratch asks for it",
            err=True,
        )
        return options
    return replace(options, protocols=(*options.protocols, "scratch"))


def refuse_both(options: ProbeOptions, scratch: bool | None) -> None:
    """Refuse a from-scratch row that is asked for and forbidden at once.

    Raises:
        UsageError: it is.
    """
    if scratch is False and "scratch" in options.protocols:
        raise UsageError("--protocol names scratch and --no-scratch refuses it; leave one out")


def named_folder(text: str | None) -> str | None:
    """The folder that ``--cache`` names: None without one, and for the word none."""
    return None if text is None or text.lower() == "none" else text


def feature_bank(text: str | None) -> Any:
    """The bank of features: one named must work, the default one may fail to be writable."""
    from downstream.features.bank import Bank, default_folder

    if text is None:
        return Bank(default_folder(), strict=False)
    folder = named_folder(text)
    return None if folder is None else Bank(folder)
