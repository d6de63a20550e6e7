"""``python -m pretrain.launch [options of torchrun] CONFIG [key=value ...] [--resume]``: torchrun for pretraining.

It takes all options of torchrun and adds what a run needs of it: signals of schedulers are handed on and leave time for
a checkpoint, and an orderly stop ends with 0 (:func:`specfm.engine.launch.torchrun`).
"""

from __future__ import annotations

import logging
import sys

from specfm.engine.launch import torchrun


def main(arguments: list[str] | None = None) -> int:
    """Launch the processes of this machine and wait for them; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return torchrun("pretrain", sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
