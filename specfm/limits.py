"""How much a file may ask for before it is believed: every bound of specfm, and the two switches of trust.

A file that states more than its bound is refused by what it states, before memory or time is spent on it. Each bound
can be raised for one command by an environment variable, which the message names (``SPECFM_MAX_NESTING=200``);
workers inherit it.

The switches: ``SPECFM_LINKED_FILES=1`` (``specfm --linked-files``) lets a data file read other files;
``SPECFM_UNTRUSTED=1`` (``specfm --untrusted``) keeps every card within its folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from specfm.errors import SpecfmError, UsageError

MAXIMA: dict[str, int] = {
    "json_bytes": 256 << 20,
    "yaml_bytes": 4 << 20,
    "yaml_nodes": 200_000,  # aliases counted as often as they are used
    "nesting": 64,  # of JSON and YAML
    "table_bytes": 256 << 20,  # of a CSV file
    "header_bytes": 64 << 20,  # of an ENVI header or an XML file beside a cube
    "bands": 100_000,
    "choices": 8,  # of a pattern in a card: alternatives and repeats with an end
    "repeats": 4,  # of a pattern in a card: those without an end
    "chunks": 20_000_000,  # of an HDF5 cube
    "unpacked_bytes": 1 << 30,  # what any file may unpack to, however small it is
    "unpacked_ratio": 1100,  # beyond that, unpacked over packed bytes; deflate reaches 1032
    "depth": 256,  # of an encoder, in blocks
    "width": 16_384,  # of an encoder: any of its widths
    "patch": 64,  # side of a patch, in pixels
    "image": 4096,  # side of the image that fixed positions are made for, in pixels
    "parameters": 4_000_000_000,  # of a trunk, before it is built
}
LINKED_FILES, UNTRUSTED = "SPECFM_LINKED_FILES", "SPECFM_UNTRUSTED"


def maximum(name: str) -> int:
    """The bound of one of :data:`MAXIMA`, as the environment has it or by default.

    Raises:
        UsageError: the environment variable holds no whole number.
    """
    stated = os.environ.get(variable(name))
    if stated is None:
        return MAXIMA[name]
    if not (stated.isascii() and stated.isdigit() and len(stated) < 19):
        raise UsageError(f"{variable(name)} must be a whole number, got {stated[:40]!r}")
    return int(stated)


def variable(name: str) -> str:
    """The environment variable that moves a bound."""
    return f"SPECFM_MAX_{name.upper()}"


def excess(name: str, amount: int) -> str | None:
    """Words for an amount beyond a bound, with the remedy; None where it is within."""
    most = maximum(name)
    return None if amount <= most else f"at most {most} are read (for input that you trust: {variable(name)}={amount})"


def refuse_unpacked(path: Path, nbytes: int, what: str) -> None:
    """Refuse an array that would be far larger than the file it is packed in, before it is unpacked.

    Args:
        path: the file.
        nbytes: what it says it unpacks to.
        what: the array, for the message.

    Raises:
        SpecfmError: more than ``unpacked_bytes``, and more than ``unpacked_ratio`` times the file.
    """
    size = path.stat().st_size
    ratio = -(-nbytes // max(size, 1))
    if nbytes > maximum("unpacked_bytes") and ratio > maximum("unpacked_ratio"):
        raise SpecfmError(
            f"{path}: {what} would unpack to {nbytes} bytes, {ratio} times the {size} bytes of the file, which no "
            f"measured data do; for a file that you trust, set {variable('unpacked_ratio')}={ratio}"
        )


def switched_on(name: str) -> bool:
    """Whether one of the two switches is set (anything but empty, ``0`` and ``no``)."""
    return os.environ.get(name, "").lower() not in ("", "0", "no", "off", "false")


def refuse_linked(path: Path, what: str) -> None:
    """Refuse a data file that would read another one, unless that is allowed.

    Args:
        path: the data file.
        what: how it does it, completing "it ...".

    Raises:
        SpecfmError: it would, and ``--linked-files`` was not said.
    """
    if not switched_on(LINKED_FILES):
        raise SpecfmError(
            f"{path}: it {what}; a data file opens itself and nothing else, so copy everything into one file, or say "
            f"specfm --linked-files COMMAND (from Python: {LINKED_FILES}=1) if you trust it"
        )
