"""Starts several processes of a training module on this machine through torchrun; gives back an honest exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys

from specfm.engine.guard import stop_signals

log = logging.getLogger(__name__)

SHUTDOWN_S = 170  # time a stop signal leaves for the checkpoint; schedulers send theirs 180 s before the end


def launch(module: str, arguments: list[str], processes: int) -> int:
    """Run ``python -m module arguments`` in ``processes`` processes and wait for all of them.

    Stop signals are handed on to the workers (one that is not in ``--signals-to-handle`` would kill only the launcher
    and orphan them).

    Returns:
        0 if all went well, also after an orderly stop by a signal; else the exit code of the first process that failed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    # torchrun explains every failing worker at length; the worker has already said it in one sentence.
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    signals = ",".join(number.name for number in stop_signals())
    command = [
        "--standalone", f"--nproc-per-node={processes}", f"--signals-to-handle={signals}",
        f"--shutdown-timeout={SHUTDOWN_S}", "-m", module, *arguments,
    ]  # fmt: skip
    try:
        run(get_args_parser().parse_args(command))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(
            f"error: the process of rank {failure.local_rank} was killed by {name} (a system short of memory does "
            "that); the run can go on with --resume", file=sys.stderr, flush=True,
        )  # fmt: skip
        return 128 - failure.exitcode
    except SignalException as stop:
        log.warning("stopped by %s", stop.sigval.name)
        return 0
    return 0
