"""One process (group) at a time in a folder: a lock file that beats while its holder lives.

Who holds it is told by machine and pid. On the same machine the kernel says whether that process lives. Of another
machine, or another container of this one, whose processes cannot be seen, only the heartbeat tells: the holder sets the
file's time every few seconds, and a lock that has been silent for minutes may be taken over. A holder that was taken
for dead and wakes finds the lock in other hands (:meth:`RunLock.check`) and stops before it writes anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

from specfm.documents import parse_json, read_json
from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_json, temporary_sibling, unpublish

log = logging.getLogger(__name__)

BEAT_S = 15.0  # between two heartbeats
SILENT_S = 300.0  # without one for so long, the lock of a process that cannot be seen is taken over


class LockedError(UsageError):
    """Another live process works in this folder."""


class LockLostError(SpecfmError):
    """The lock was taken over by another process, or removed, while it was held."""


class RunLock:
    """The lock of a folder.

    A small JSON file put in place by a hard link (or ``O_EXCL``), complete from its first moment; works on file systems
    without ``flock``. Times are compared on the file system's own clock, so the clocks of hosts may differ.

    Args:
        folder: What is locked; made if it is not there.
        name: Of the lock file.
        wait: Where the holder cannot be seen, wait until it beats (then it lives) or has been silent for long enough.
            Without it such a lock is refused until then.
        beat_s: Seconds between heartbeats.
        silent_s: Seconds without one before a lock is taken over.

    Example:
        >>> with RunLock(Path("runs/a")):      # doctest: +SKIP
        ...     train()
    """

    def __init__(
        self, folder: Path | str, name: str = "run.lock", wait: bool = False, beat_s: float = BEAT_S,
        silent_s: float = SILENT_S,
    ) -> None:  # fmt: skip
        self.path = Path(folder) / name
        self.wait, self.beat_s, self.silent_s = wait, beat_s, silent_s
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> RunLock:
        """Take the lock.

        Raises:
            LockedError: it is held; names host and pid of its holder.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        pid = os.getpid()
        text = {
            "host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _process_start(pid),
            "token": self._token,
        }  # fmt: skip
        temporary = temporary_sibling(self.path)
        atomic_write_json(temporary, text)
        try:
            for _ in range(3):
                try:
                    _place(temporary, self.path)
                    self._start_beating()
                    return self
                except FileExistsError:
                    self._drop_if_stale(temporary)
        finally:
            temporary.unlink(missing_ok=True)
        raise LockedError(f"{self.path} was taken by another process at the same moment; try again")

    def _drop_if_stale(self, probe: Path) -> None:
        try:
            content, beat = self.path.read_bytes(), self.path.stat().st_mtime
            holder = parse_json(content, self.path)
            host, pid, started = str(holder["host"]), int(holder["pid"]), holder.get("started")
            here = socket.gethostname()
            machine = str(holder.get("machine") or (_machine() if host == here else host))  # older locks lack it
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            log.warning("removing unreadable lock %s", self.path)
            self._take_away(content, beat)
            return
        if machine != _machine():
            silent = self._silence(probe, beat, f"pid {pid} on host {host}")
            log.warning("taking over %s: pid %d on host %s has been silent for %.0f s", self.path, pid, host, silent)
        # The start time tells a live holder from an unrelated process that was given the same pid later.
        elif _alive(pid) and (started is None or _process_start(pid) in (None, started)):
            raise LockedError(f"{self.path} is held by pid {pid} on this host ({host}); stop it or choose another out")
        else:
            log.warning("removing stale lock %s of dead pid %d", self.path, pid)
        self._take_away(content, beat)

    def _silence(self, probe: Path, beat: float, holder: str) -> float:
        """Seconds without heartbeat of a holder that cannot be seen, once they are enough; waits for them if it may.

        Raises:
            LockedError: it beats, or has not been silent for long enough.
        """
        told = False
        while True:
            os.utime(probe)
            silent = probe.stat().st_mtime - beat
            if silent > self.silent_s:
                return silent
            if not self.wait:
                raise LockedError(
                    f"{self.path} is held by {holder}, last heard of {max(silent, 0):.0f} s ago; stop it or choose "
                    f"another out (after {self.silent_s:.0f} s of silence the lock can be taken over)"
                )
            if not told:
                log.warning(
                    "%s is held by %s, last heard of %.0f s ago; waiting whether it lives", self.path, holder, silent
                )
                told = True
            time.sleep(min(self.beat_s, self.silent_s - silent + 0.01) / 4)
            try:
                now = self.path.stat().st_mtime
            except FileNotFoundError:  # released meanwhile
                return silent
            if now != beat:
                raise LockedError(f"{self.path} is held by {holder}, which lives; stop it or choose another out")

    def _take_away(self, content: bytes, beat: float) -> None:
        """Remove the lock only if it is still the one judged stale: it may have been replaced, or have beaten."""
        try:
            aside = unpublish(self.path)
        except FileNotFoundError:
            return
        if aside.read_bytes() != content or aside.stat().st_mtime != beat:
            with contextlib.suppress(FileExistsError):
                _place(aside, self.path)
        aside.unlink()

    def check(self) -> None:
        """Before anything is written: the lock is still ours.

        Raises:
            LockLostError: another process has taken it over, or it was removed.
        """
        if (whose := self._lost_to()) is not None:
            raise LockLostError(
                f"{self.path} is no longer held by this process (pid {os.getpid()}): {whose}; nothing more is written"
            )

    def _lost_to(self) -> str | None:
        """Why the lock is not ours any more; None if it is, or if that cannot be told now."""
        try:
            holder = read_json(self.path)
            if holder["token"] == self._token:
                return None
            return f"pid {holder['pid']} on host {holder['host']} took it over while this one was silent"
        except FileNotFoundError:
            return "it was taken over or removed"
        except OSError:  # a file system that does not answer does not mean another holder
            return None
        except (ValueError, KeyError, TypeError):
            return "it was changed"

    def _start_beating(self) -> None:
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name="specfm-lock", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._released.wait(self.beat_s):
            if self._lost_to() is not None:
                return  # whoever writes next is told by `check`
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Remove the lock if it is still ours."""
        self._released.set()
        if self._thread is not None:
            self._thread.join(5.0)
            self._thread = None
        try:
            if read_json(self.path).get("token") == self._token:
                self.path.unlink()
                return
        except (OSError, ValueError, AttributeError):
            pass
        log.warning("lock %s was removed or changed while held", self.path)

    def __enter__(self) -> RunLock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _place(source: Path, final: Path) -> None:
    """Give ``final`` the content of ``source`` unless it exists (FileExistsError); complete from its first moment."""
    try:
        os.link(source, final)
    except FileExistsError:
        raise
    except OSError:  # no hard links here (some network and FAT file systems)
        descriptor = os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(source.read_bytes())


def _machine() -> str:
    """What a pid belongs to: this boot of this kernel and its namespace of pids (a container has its own); the host's
    name where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _process_start(pid: int) -> str | None:
    """Kernel start time of a process (clock ticks since boot: immune to clock jumps); None where /proc is absent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
