"""What readers, cards, grids and calibration have to say (where wavelengths come from, defaults taken, references that
fail), said by every subcommand on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from specfm.errors import plain

LOGGERS = ("specfm.readers", "specfm.calibration", "specfm.grids", "specfm.cards")


@contextmanager
def reader_notes(tell: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Hand what ``LOGGERS`` log meanwhile to ``tell``, and to nobody else; the innermost of several has the word."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record)

    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [Handler()], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


@contextmanager
def printed_notes() -> Iterator[None]:
    """Print what ``LOGGERS`` log meanwhile on stderr: the first of a kind at once, how many more like it at the end.

    They name the file first, so that notes which differ in nothing else are of one kind.
    """
    first: dict[tuple[str, ...], logging.LogRecord] = {}
    files: dict[tuple[str, ...], set[str]] = {}

    def tell(record: logging.LogRecord) -> None:
        file, *rest = map(str, record.args) if isinstance(record.args, tuple) and record.args else ("",)
        kind = (record.msg, *rest)
        if kind not in first:
            first[kind] = record
            _print(record, record.getMessage())
        files.setdefault(kind, set()).add(file)

    with reader_notes(tell):
        try:
            yield
        finally:
            for kind, record in first.items():
                if len(files[kind]) > 1:
                    _print(record, f"{len(files[kind]) - 1} more like: {record.getMessage()}")


def _print(record: logging.LogRecord, text: str) -> None:
    print(f"{'warning' if record.levelno >= logging.WARNING else 'note'}: {plain(text)}", file=sys.stderr)
