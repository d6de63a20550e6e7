"""Starts the processes of a training module through torchrun: the signal flags that work, an honest exit code.

And what such a process owes its launcher: to end when it has gone (:func:`end_with_launcher`), to say at its start
where the launcher would not hand on the signals of a scheduler (:func:`lacking_flags`), and to fail, so that it is
started again, where only others were told to stop (:func:`starts_again`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
    """Run ``python -m module arguments`` in ``processes`` processes of this machine; :func:`torchrun` has the rest."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    return torchrun(module, ["--standalone", f"--nproc-per-node={processes}", *arguments])


def torchrun(module: str, arguments: list[str]) -> int:
    """Run ``torchrun`` for a module and wait for it: its own options, then the arguments of the module.

    Stop signals are handed on to the workers: torchrun dies of those it is not told to handle, and orphans its workers.
    After an orderly stop torchrun itself ends with 1 and a traceback.

    Returns:
        0 if all went well, also after an orderly stop by a signal; else the exit code of the first process that failed.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a peer that is lost is else told by pages of C++ frames
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import get_args_parser, parse_min_max_nnodes, run

    # torchrun explains every failing worker at length; the worker has already said it in one sentence.
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signals = ",".join(number.name for number in stop_signals())
    parser = get_args_parser()
    parser.prog = "torchrun"
    parsed = parser.parse_args([f"--signals-to-handle={signals}", f"--shutdown-timeout={SHUTDOWN_S}", *arguments])
    parsed.training_script_args.insert(0, parsed.training_script)
    parsed.module, parsed.training_script = True, module
    if len(set(parse_min_max_nnodes(parsed.nnodes))) > 1:
        # torch keeps the address of the first meeting, of which a machine that joins later knows nothing
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    try:
        with _imports_as_here():
            run(parsed)
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
    except (RendezvousError, DistError) as error:
        reason = " ".join(str(error).split())[:200]
        print(
            f"error: the launchers of this run do not meet, or the one that holds --rdzv-endpoint has gone ({reason}); "
            "start them again, with --resume", file=sys.stderr, flush=True,
        )  # fmt: skip
        return 1
    return 0


def starts_again(wait_s: float = 2.0, told: Callable[[], bool] = lambda: False) -> bool:
    """Whether this process has to fail to be started again, after a stop that another one was told of.

    That is so where torchrun has restarts left: its node is well, and the run goes on without the other one, or with a
    new one. A signal of its own may be on its way, and is waited for: then the whole run is to stop.

    Args:
        wait_s: how long.
        told: whether it has come.
    """
    left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) - int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if _WORKER not in os.environ or left <= 0:
        return False
    end = time.monotonic() + wait_s
    while not told() and time.monotonic() < end:
        time.sleep(0.05)
    return not told()


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
