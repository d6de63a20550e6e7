"""Errors a user can cause and mend; every message is one sentence that names the file or key and the remedy."""

from __future__ import annotations

import errno

REMEDIES = {
    errno.EACCES: "choose another place or change its permissions",
    errno.EPERM: "choose another place or change its permissions",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "choose a path whose folders are no files",
    errno.EEXIST: "choose another path",
}


class SpecfmError(Exception):
    """Bad input (a file, a checkpoint, a shard). The command line prints the message and exits with ``exit_code``."""

    exit_code = 1


class UsageError(SpecfmError, ValueError):
    """Bad use: an unknown key or flag, a value of the wrong type, an output folder that already exists.

    For Python callers it is the ``ValueError`` that they expect of a wrong argument.
    """

    exit_code = 2


def plain(text: str, most: int = 4000) -> str:
    """Text that may go to a terminal: names out of files could hold its control codes, half characters, or a novel."""
    text = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    return text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)"


def sentence(error: Exception) -> str:
    """What is said of an error: its message, or for one of the operating system the file, the reason and a remedy."""
    if not isinstance(error, OSError) or not error.strerror:
        return plain(str(error))
    where = "" if error.filename is None else plain(f"{error.filename}", 300) + ": "
    return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}; {REMEDIES.get(error.errno or 0, 'check the path')}"
