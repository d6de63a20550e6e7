"""The ``specfm`` command: one small file per subcommand, imported only when it (or the help) is asked for.

A subcommand is a function ``command`` in ``specfm/cli/<name>.py`` whose docstring is its help; everything it uses of
the library is imported inside it, so ``specfm --help`` starts no torch. To add one: write the file, name it in
``COMMANDS``.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from specfm.cli._notes import printed_notes
from specfm.errors import SpecfmError, sentence

COMMANDS: dict[str, str] = {
    "demo": "specfm.cli.demo",
    "doctor": "specfm.cli.doctor",
    "multidomain": "specfm.cli.multidomain",
    "inspect": "specfm.cli.inspect",
    "sensors": "specfm.cli.sensors",
    "simulate": "specfm.cli.simulate",
    "shard": "specfm.cli.shard",
    "verify": "specfm.cli.verify",
    "plan": "specfm.cli.plan",
    "pretrain": "specfm.cli.pretrain",
    "probe": "specfm.cli.probe",
    "robustness": "specfm.cli.robustness",
    "explain": "specfm.cli.explain",
    "compare-bands": "specfm.cli.compare_bands",
    "benchmark": "specfm.cli.benchmark",
    "finetune": "specfm.cli.finetune",
    "convert": "specfm.cli.convert",
    "embed": "specfm.cli.embed",
    "cluster": "specfm.cli.cluster",
    "search": "specfm.cli.search",
    "relate": "specfm.cli.relate",
    "predict": "specfm.cli.predict",
    "change": "specfm.cli.change",
    "export": "specfm.cli.export",
    "run": "specfm.cli.run",
    "compress": "specfm.cli.compress",
    "report": "specfm.cli.report",
}
INTERRUPTED = 130  # the shell's code for a process ended by SIGINT


class LazyGroup(TyperGroup):
    """A command group that imports a subcommand's module when it is looked up, and turns errors into one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None  # the parser then reports the unknown name and exits with 2
        if cmd_name not in self.commands:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(cmd_name)(import_module(COMMANDS[cmd_name]).command)
            self.commands[cmd_name] = typer.main.get_command(single)
        return self.commands[cmd_name]

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; what the readers note and errors the user can mend become sentences on stderr."""
        try:
            with printed_notes():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # a closed pipe (`specfm sensors | head`) is the reader's choice, handled by the parser
        except (SpecfmError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            print(f"error: {sentence(error)}", file=sys.stderr)
            raise SystemExit(getattr(error, "exit_code", 1)) from None


def _on_terminate(number: int, frame: object) -> NoReturn:
    """Leave as by Ctrl-C, so that what is half-written is taken away; commands that can go on set their own handler."""
    signal.signal(number, signal.SIG_IGN)
    print("terminated", file=sys.stderr)
    raise SystemExit(128 + number)


app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        from specfm import __version__

        print(f"specfm {__version__}")
        raise typer.Exit()


@app.callback(no_args_is_help=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    linked_files: Annotated[
        bool, typer.Option("--linked-files", help="Let data files that you trust read other files (VRT, linked HDF5).")
    ] = False,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="Keep dataset cards that came from elsewhere within their folder.")
    ] = False,
) -> None:
    """Self-supervised pretraining for imaging spectrometers: read, shard, pretrain, probe, embed."""
    from specfm.limits import LINKED_FILES, UNTRUSTED

    for name, asked in ((LINKED_FILES, linked_files), (UNTRUSTED, untrusted)):
        if asked:
            ctx.call_on_close(partial(_put_back, name, os.environ.get(name)))
            os.environ[name] = "1"  # of this process and its workers


def _put_back(name: str, before: str | None) -> None:
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before


def main() -> None:
    """Entry point of the ``specfm`` command and of ``python -m specfm``."""
    signal.signal(signal.SIGTERM, _on_terminate)
    app(prog_name="specfm")
