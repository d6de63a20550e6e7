"""What one machine remembers about shards: which were verified, and uncompressed copies of those with slow layouts.

Folder: ``$SPECFM_CACHE``, else ``$XDG_CACHE_HOME/specfm``, else ``~/.cache/specfm``. ``verified/*.json`` holds size,
modification time and fingerprint of files whose CRCs were checked; ``shards/*.raw`` holds uncompressed copies. All of
it can be deleted at any time. ``SPECFM_SHARD_CACHE=off`` (or ``ShardReader(cache="off")``)
makes no copies: compressed shards are then decoded at every read.

Why a copy and not a chunk cache: a random batch touches as many compressed chunks as it has samples, so each read
pays the whole decoder (1.1 ms for gzip against 26 us for the bytes); only bytes that are already decoded can be ten
times faster.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specfm.documents import read_json
from specfm.errors import UsageError
from specfm.files import atomic_write_json, publish_file, temporary_sibling
from specfm.shards.schema import stable_id

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 27
_HEADER = 4096  # keeps the samples page aligned


def cache_folder() -> Path:
    """The cache folder (not necessarily there yet)."""
    if chosen := os.environ.get("SPECFM_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "specfm"


def copies_allowed(cache: str) -> bool:
    """Whether slow layouts are copied: the argument ``auto`` or ``off``, and the environment."""
    if cache not in ("auto", "off"):
        raise UsageError(f"cache is {cache!r}; give auto or off")
    return cache == "auto" and os.environ.get("SPECFM_SHARD_CACHE", "auto").lower() not in ("off", "0", "no")


def _record_path(path: Path, fingerprint: str) -> Path:
    return cache_folder() / "verified" / f"{fingerprint[:16]}-{stable_id(path.resolve()):016x}.json"


@contextmanager
def one_at_a_time(path: Path, fingerprint: str) -> Iterator[None]:
    """Held by one process of this machine at a time, so that eight ranks do not all check the same bytes; let go of
    when a process ends, however it does. Where files cannot be locked, each goes on by itself.
    """
    with ExitStack() as stack:
        try:
            import fcntl

            lock = _record_path(path, fingerprint).with_suffix(".lock")
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(open(lock, "w"))
            fcntl.flock(handle, fcntl.LOCK_EX)
            stack.callback(fcntl.flock, handle, fcntl.LOCK_UN)  # or a process forked meanwhile would go on holding it
        except (ImportError, OSError) as error:
            log.info("%s: checked by every process by itself (%s)", path, error)
        yield


def recall_verified(path: Path, fingerprint: str) -> list[int] | None:
    """Bad ids found when this very file (size, modification time, fingerprint) was verified; None if it never was."""
    try:
        record = read_json(_record_path(path, fingerprint))
        status = path.stat()
        now = (status.st_size, status.st_mtime_ns, fingerprint)
        same = (record["size"], record["mtime_ns"], record["fingerprint"]) == now
        return [int(i) for i in record["bad"]] if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_verified(path: Path, fingerprint: str, status: os.stat_result, bad: list[int]) -> None:
    """Note that a file was verified; ``status`` is from *before* reading, so a change while reading is noticed."""
    record = {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    try:
        atomic_write_json(_record_path(path, fingerprint), {**record, "fingerprint": fingerprint, "bad": bad})
    except OSError as error:
        log.info("cannot remember that %s was verified (%s); it will be verified again next time", path, error)


def uncompressed_copy(
    file: h5py.File, path: Path, fingerprint: str, crc_N: NDArray[np.uint32]
) -> tuple[Path, list[int]] | None:
    """A raw file with the samples (then the masks) of an open shard, made once per machine; with ids of samples that
    fail their CRC.

    Returns:
        Path and bad ids, or None where a copy cannot be made (no space, folder not writable); the reason is logged.
    """
    patches, mask = file["patches"], file.get("mask")
    count = patches.shape[0]
    nbytes = int(np.prod(patches.shape[1:])) * patches.dtype.itemsize
    pixels = int(np.prod(patches.shape[1:3]))
    total = _HEADER + count * (nbytes + (pixels if mask is not None else 0))
    target = cache_folder() / "shards" / f"{fingerprint[:32]}.raw"
    header = json.dumps({"format": "specfm-raw", "version": 1, "fingerprint": fingerprint}).encode().ljust(_HEADER)
    try:
        with open(target, "rb") as handle:
            if handle.read(_HEADER) == header and os.fstat(handle.fileno()).st_size == total:
                known = recall_verified(target, fingerprint)
                if known is not None:
                    return target, known
        log.warning("uncompressed copy %s was changed or not finished; making it again", target)
    except FileNotFoundError:
        pass
    temporary = temporary_sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < 1.3 * total:
            folder, needed = target.parent, int(1.3 * total)
            log.warning("%s: no uncompressed copy, %d bytes free of %d needed in %s", path, free, needed, folder)
            return None
        bad = _transcode(patches, mask, temporary, header, crc_N, nbytes)
        publish_file(temporary, target, overwrite=True)
        remember_verified(target, fingerprint, target.stat(), bad)
        return target, bad
    except OSError as error:
        log.warning("%s: no uncompressed copy in %s (%s)", path, target.parent, error)
        return None
    finally:
        temporary.unlink(missing_ok=True)


def _transcode(
    patches: h5py.Dataset, mask: Any, target: Path, header: bytes, crc_N: NDArray[np.uint32], nbytes: int
) -> list[int]:
    """Decode every chunk once, in order, checking CRCs; returns the ids that fail."""
    count, depth = patches.shape[0], patches.chunks[0] if patches.chunks else 1
    step = max(1, _BLOCK_BYTES // (nbytes * depth)) * depth  # whole chunks, so that none is decoded twice
    ones = bytes([1]) * int(np.prod(patches.shape[1:3]))
    bad: list[int] = []
    masks: list[NDArray[np.uint8]] = []
    native = patches.dtype.newbyteorder("=")
    with open(target, "wb") as handle:
        handle.write(header)
        for start in range(0, count, step):
            stop = min(start + step, count)
            block_mask = None if mask is None else np.ascontiguousarray(mask[start:stop], dtype=np.uint8)
            try:
                block = np.ascontiguousarray(patches[start:stop], dtype=native)
                unreadable: set[int] = set()
            except OSError:  # a damaged chunk: find which samples it takes with it
                block, unreadable = _salvage(patches, start, stop, native)
            block.tofile(handle)
            if block_mask is not None:
                masks.append(block_mask)
            for i in range(start, stop):
                last = ones if block_mask is None else block_mask[i - start].tobytes()
                if i in unreadable or zlib.crc32(last, zlib.crc32(block[i - start])) != crc_N[i]:
                    bad.append(i)
        for block_mask in masks:
            block_mask.tofile(handle)
    return bad


def _salvage(patches: h5py.Dataset, start: int, stop: int, dtype: np.dtype[Any]) -> tuple[NDArray[Any], set[int]]:
    block = np.zeros((stop - start, *patches.shape[1:]), dtype)
    lost: set[int] = set()
    for i in range(start, stop):
        try:
            block[i - start] = patches[i]
        except OSError:
            lost.add(i)
    return block, lost
