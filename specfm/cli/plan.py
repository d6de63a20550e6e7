"""``specfm plan``: what a pretraining will need, before it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from specfm.cli._function import function, printed

if TYPE_CHECKING:
    from pretrain.planning.plan import Plan


@function
def plan(
    config: Annotated[str, typer.Argument(help="YAML file, as given or below configs/ (e.g. pretrain/default.yaml).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys, e.g. model.size=small steps=500.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Processes of the run, one a GPU, over all nodes.")] = 1,
    memory: Annotated[
        str | None, typer.Option(help="Of one GPU, e.g. 80GB. Default: of the one here, where there is one.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(min=1e-3, help="10^12 operations a second that one GPU sustains. Default: as this machine."),
    ] = None,
) -> Plan:
    """Try a few steps of a pretraining and tell what all of it needs: memory, micro-batch, time, reading, disk.

    Nothing is written. Memory is counted from what the backward pass keeps, so a GPU need not be at hand; what was
    measured on this machine is said. Exit code 1 where it does not fit --memory as configured.
    """
    import sys

    from pretrain.config import PretrainConfig
    from specfm.config import load_config

    settings = load_config(config, PretrainConfig, overrides)
    from pretrain.planning.plan import make_plan, read_memory

    room = None if memory is None else read_memory(memory)

    def say(what: str) -> None:
        print(f"measuring: {what}", file=sys.stderr, flush=True)

    return make_plan(settings, gpus, room, tflops, say)


@printed(plan)
def command(
    found: Plan,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Print the plan."""
    import json

    from pretrain.planning.text import told

    if as_json:
        body = {
            "fits": found.fits, "settings": found.rows, "share": found.share, "parameters": found.parameters,
            "trained": found.trained, "flops_a_step": found.step_flops, "step_s": found.step_s, "wall_s": found.wall_s,
            "read_bytes_a_step": found.read_bytes, "read_s_a_step": found.read_s,
            "checkpoint_bytes": found.checkpoint_bytes, "device": found.device, "advice": found.advice(),
            "warnings": found.doubts,
        }  # fmt: skip
        typer.echo(json.dumps(body, indent=1))
    else:
        typer.echo("\n".join(told(found)))
    if found.fits is False:
        raise typer.Exit(1)
