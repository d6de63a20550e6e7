"""Open files of a process, few of them: a store of ten thousand shards must not need ten thousand descriptors."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST = 512  # and never more than a quarter of what the system allows a process


def allowed() -> int:
    """Descriptors that are kept open."""
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return MOST if soft == resource.RLIM_INFINITY else max(4, min(MOST, soft // 4))
    except (ImportError, OSError):
        return 64


class _File:
    """A descriptor and how many threads read from it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.users = 0
        self.dropped = False


class Descriptors:
    """Lends descriptors by key; closes the least recently lent that nobody reads from where there are too many.

    Args:
        most: to be kept open; more only while more are read from at once.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._start()

    def _start(self) -> None:
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._unwanted: deque[int] = deque()  # told by finalisers, which may run while the lock is held
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, key: int, path: Path) -> Iterator[int]:
        """The descriptor of ``path``, opened where it is not; its position is shared.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            while self._unwanted:
                self._take_out(self._unwanted.popleft())
            file = self._files.get(key)
            if file is None:
                file = self._files[key] = _File(path)
                self._make_room()
            else:
                self._files.move_to_end(key)
            file.users += 1
        try:
            yield file.descriptor
        finally:
            with self._lock:
                file.users -= 1
                if file.dropped and not file.users:
                    os.close(file.descriptor)
                self._make_room()

    def _make_room(self) -> None:
        if self._most is None:
            self._most = allowed()
        excess = len(self._files) - self._most
        if excess > 0:
            newest = next(reversed(self._files))
            idle = [key for key, file in self._files.items() if not file.users and key != newest]
            for key in idle[:excess]:
                self._take_out(key)

    def _take_out(self, key: int) -> None:
        file = self._files.pop(key, None)
        if file is not None:
            file.dropped = True
            if not file.users:
                os.close(file.descriptor)

    def close(self, key: int) -> None:
        """Close one, once nobody reads from it."""
        with self._lock:
            self._take_out(key)

    def forget(self, key: int) -> None:
        """The same a little later; may be called by a finaliser."""
        self._unwanted.append(key)

    def after_fork(self) -> None:
        """In a forked child: give up what was open, so that each process has its own."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                os.close(file.descriptor)
        self._start()
