"""``torchrun -m pretrain CONFIG [key=value ...] [--resume]``: one process of a run (also: ``python -m pretrain``)."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from specfm.engine.launch import end_with_launcher, lacking_flags
from specfm.errors import SpecfmError, sentence


def main(arguments: list[str] | None = None) -> int:
    """Run one process; returns the exit code (an error is one sentence on stderr, told by one process)."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain", description="Pretrain an encoder (one process of a run)."
    )
    parser.add_argument("config", help="YAML file, as given or below configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, such as optim.lr=1e-3")
    parser.add_argument("--resume", action="store_true", help="continue the run in its folder")
    given = parser.parse_intermixed_args(arguments)
    end_with_launcher()
    main_rank = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if main_rank else logging.WARNING, format="%(levelname)s %(message)s")
    log = logging.getLogger(__name__)
    if main_rank and "TORCHELASTIC_RESTART_COUNT" in os.environ:
        log.info("%s processes on %s nodes", os.environ["WORLD_SIZE"], os.environ["GROUP_WORLD_SIZE"])
    if main_rank and (said := lacking_flags()) is not None:
        log.warning("%s", said)
    try:
        from pretrain.config import PretrainConfig
        from pretrain.loop import train
        from specfm.config import load_config

        train(load_config(given.config, PretrainConfig, given.overrides), given.resume)
    except (SpecfmError, OSError) as error:
        if not getattr(error, "told", not main_rank):  # before they have met, all processes fail alike: rank 0 tells
            print(f"error: {sentence(error)}", file=sys.stderr, flush=True)
        return int(getattr(error, "exit_code", 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
