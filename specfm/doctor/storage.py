"""How fast a folder is written and read, and whether it does what checkpoints and locks rely on."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from specfm.doctor.finding import Finding, bad, good, note

BLOCK = 64 << 10  # about a window of 12 x 12 pixels and 200 bands
LOOKS = 200
SLOW_READS = 300.0  # windows a second that keep a GPU busy are thousands; fewer than this starve a CPU
MEMORY_READS = 100_000.0  # no disk is as fast, one thread reading
LITTLE = 5 << 30


def storage(folder: Path, megabytes: int) -> Iterator[Finding]:
    """Space, speed and manners of ``folder``."""
    if not folder.is_dir():
        yield bad("storage", f"{folder} is no folder", "name one that is there: specfm doctor --folder DIR")
        return
    try:
        place = Path(tempfile.mkdtemp(prefix=".specfm-doctor-", dir=folder))
    except OSError as error:
        yield bad(
            "storage", f"{folder} cannot be written ({error.strerror})", "name another: specfm doctor --folder DIR"
        )
        return
    try:
        free = shutil.disk_usage(folder).free
        if free < max(LITTLE, 4 * megabytes << 20):
            yield note(
                "storage", f"{free / 2**30:.1f} GiB free in {folder}", "checkpoints of a run take some GiB; make room"
            )
        if free > 4 * megabytes << 20:
            yield speed(place, folder, megabytes)
        yield from manners(place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def speed(place: Path, folder: Path, megabytes: int) -> Finding:
    """One file: written through to the disk, then read in places at random, from the disk where the system lets us."""
    path, block = place / "speed", os.urandom(1 << 20)
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    write = megabytes / (time.perf_counter() - start)
    places = [random.Random(0).randrange(0, (megabytes << 20) - BLOCK) for _ in range(LOOKS)]
    with path.open("rb", buffering=0) as file:
        if cold := hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        for offset in places:
            file.seek(offset)
            file.read(BLOCK)
        reads = LOOKS / (time.perf_counter() - start)
    cold = cold and reads < MEMORY_READS
    said = (
        f"{folder}: writes {write:.0f} MB/s, {reads:.0f} reads of {BLOCK >> 10} KiB a second at random places"
        f"{'' if cold else ' (from memory: the system did not let go of the file)'}"
    )
    if reads < SLOW_READS:
        return note("storage", said, "copy shards to a disk of the machine, or let data.threads read ahead")
    return good("storage", said)


def manners(place: Path, folder: Path) -> Iterator[Finding]:
    """A file replaces another at once, a name is taken by one process only, a lock holds."""
    one, other = place / "one", place / "other"
    one.write_text("new")
    other.write_text("old")
    os.replace(one, other)
    if other.read_text() != "new":
        yield bad(
            "storage", f"{folder} does not replace files at once: a kill could lose a checkpoint", "use another disk"
        )
    try:
        os.link(other, place / "linked")
    except OSError:
        yield note("storage", f"{folder} has no hard links", "locks fall back to plain files; run one job a folder")
    try:
        import fcntl

        with (place / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError as error:
        yield note(
            "storage", f"{folder} does not know flock ({error.strerror}): a dead run's lock is taken over slowly",
            "nothing to do for one run at a time",
        )  # fmt: skip


def cache() -> Iterator[Finding]:
    """The cache folder: where it is, whether it can be written, how much it holds."""
    from specfm.shards.cache import cache_folder

    folder = cache_folder()
    parent = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(parent, os.W_OK):
        yield note(
            "cache", f"{folder} cannot be written: features and copies of shards are not kept",
            "export SPECFM_CACHE=/a/folder/of/yours",
        )  # fmt: skip
        return
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    free = shutil.disk_usage(parent).free
    said = f"{folder}: {held / 2**30:.1f} GiB held, {free / 2**30:.0f} GiB free"
    if free < LITTLE:
        yield note("cache", said, "delete it (always safe), or export SPECFM_CACHE=/a/larger/disk")
    else:
        yield good("cache", said)
