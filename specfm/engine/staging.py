"""One piece of work beside training: what a checkpoint holds is copied at once, and written while steps go on.

Of a checkpoint the copy takes milliseconds; writing, flushing to the disk, hashing and reading it back to verify take
seconds. Only rank 0 has such work. One piece at a time: the next waits for it, and so does the end of the run. An error
is raised where the loop looks next (:meth:`Beside.look`, after every step) or waits (:meth:`Beside.wait`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from specfm.engine import faults

if TYPE_CHECKING:
    from torch import Tensor


class Beside:
    """A thread that does one piece of work at a time."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._work: Future[Any] | None = None

    def begin(self, number: int, work: Callable[[], Any]) -> None:
        """Do ``work`` of step ``number``; what was begun before has been waited for."""
        assert self._work is None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="specfm-save")

        def at_its_step() -> Any:
            with faults.at(number):
                return work()

        self._work = self._thread.submit(at_its_step)

    def look(self) -> None:
        """Raise the error of work that has ended with one; does not wait."""
        if self._work is not None and self._work.done() and self._work.exception() is not None:
            self.wait()

    def wait(self) -> Any:
        """What the work came to, or its error; None where there is none."""
        work, self._work = self._work, None
        return None if work is None else work.result()

    def close(self) -> None:
        """Let the thread go, once what it does is done."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are now, on the CPU: later steps leave them alone."""
    import torch

    plain = torch.contiguous_format
    return {name: each.detach().to("cpu", copy=True, memory_format=plain) for name, each in tensors.items()}
