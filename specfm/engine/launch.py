"""Starts several processes of a training module on this machine through torchrun; gives back an honest exit code.

And what such a process owes its launcher: to end when it has gone (:func:`end_with_launcher`), and to say at its start
where the launcher would not hand on the signals of a scheduler (:func:`lacking_flags`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specfm.engine.guard import stop_signals

log = logging.getLogger(__name__)

SHUTDOWN_S = 170  # time a stop signal leaves for the checkpoint; schedulers send theirs 180 s before the end
ROOT = Path(__file__).resolve().parents[2]  # where specfm and the module to run are imported from
_LAUNCHER = "SPECFM_LAUNCHER"  # pid of :func:`launch`, for its workers
_HANDLED = "TORCHELASTIC_SIGNALS_TO_HANDLE"  # what torchrun tells its workers (torch 2.9)
_WORKER = "TORCHELASTIC_RUN_ID"  # set for whom torchrun has started


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
        with _imports_as_here():
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


@contextmanager
def _imports_as_here() -> Iterator[None]:
    """Workers import what this process imports, in its order, and nothing from the current folder, where a user's own
    file may bear the name of the module."""
    paths = [each for each in sys.path if each]
    if str(ROOT) not in paths:  # found by way of the current folder, which is a checkout then
        paths.insert(0, str(ROOT))
    wanted = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths), _LAUNCHER: str(os.getpid())}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_with_launcher(every_s: float = 1.0, patience_s: float = SHUTDOWN_S) -> None:
    """In a process that torchrun has started: end when torchrun is no more; its death by SIGKILL reaches nobody else.

    A thread looks whose child this process is. An orphan sends itself SIGTERM, so a run that has begun saves a
    checkpoint and ends in order; one that has not ended after ``patience_s`` is ended at once. Elsewhere does nothing.
    """
    if _WORKER not in os.environ:
        return
    parent = int(os.environ.get(_LAUNCHER, os.getppid()))
    ended = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            ended.wait(every_s)
        print("error: the launcher of this run has gone; its processes end", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        ended.wait(patience_s)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="specfm-launcher", daemon=True).start()


def lacking_flags() -> str | None:
    """What to say where torchrun does not hand on all stop signals: such a one kills it, and nothing is saved.

    None where it hands on all, or did not start this process.
    """
    if _WORKER not in os.environ or _HANDLED not in os.environ:
        return None
    handled = {each.strip() for each in os.environ[_HANDLED].split(",")}
    lacking = [number.name for number in stop_signals() if number.name not in handled]
    if not lacking:
        return None
    wanted = ",".join(number.name for number in stop_signals())
    return (
        f"torchrun does not hand on {', '.join(lacking)}, which schedulers send before the end: it would die of it; "
        f"start it with --signals-to-handle {wanted} --shutdown-timeout {SHUTDOWN_S}"
    )
