"""Errors a user can cause and mend; every message is one sentence that names the file or key and the remedy."""


class SpecfmError(Exception):
    """Bad input (a file, a checkpoint, a shard). The command line prints the message and exits with ``exit_code``."""

    exit_code = 1


class UsageError(SpecfmError):
    """Bad use: an unknown key or flag, a value of the wrong type, an output folder that already exists."""

    exit_code = 2
