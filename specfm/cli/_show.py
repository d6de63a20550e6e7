"""How subcommands print their tables and what to beware of in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def wide_console(piped: int = 120) -> Console:
    """Standard output; a pipe has no width, so that tables are laid out for ``piped`` columns there."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=piped)


@contextmanager
def run_logging(words: object) -> Iterator[None]:
    """A training run speaks on stderr, what other packages say from warnings on."""
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("specfm", "pretrain", "downstream"):
        logging.getLogger(name).setLevel(logging.INFO)
    yield


def print_remarks(console: Console, lines: Iterable[str]) -> None:
    """Notices and alarms below a table, alarms in yellow."""
    for line in lines:
        console.print(line, highlight=False, style="yellow" if line.startswith("alarm") else None)
