"""Reading one shard: an index in memory, samples straight from their place in the file into the caller's buffers.

Shapes: N samples of the shard, B samples asked for, H W window, C bands.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.errors import UsageError
from specfm.hdf5 import open_hdf5
from specfm.sensors import Sensor
from specfm.shards import cache as machine
from specfm.shards import checks
from specfm.shards.decoded import DecodedFile, register_filters
from specfm.shards.descriptors import Descriptors
from specfm.shards.extents import Extents, aligned_empty, gather
from specfm.shards.index import IN_FILE, LISTED, Index, Listed, read_index
from specfm.shards.schema import ShardError

log = logging.getLogger(__name__)
BAD_SHARE = 1e-3  # more bad samples than this (and more than one) stop the job
_READ_BYTES = 1 << 22  # whole windows held while some of their bands are copied out
_MASK_BYTES = 1 << 26  # masks of a shard up to this size are held in memory: one read less per sample
_MASKS_BYTES = 1 << 30  # of all shards: beyond, masks are read with their samples
_PER_PROCESS = {
    "_key", "_decoded", "_opening", "_verifying", "_ready", "_data", "_data_path", "_substitute",
    "_held_masks", "bad",
}  # fmt: skip
_open_readers: weakref.WeakSet[ShardReader] = weakref.WeakSet()
_keys = itertools.count()
_descriptors = Descriptors()


class ShardReader(Index):
    """One shard, open for random reads from any number of threads; picklable, and safe under fork (files are reopened
    per process).

    Opening reads the index only, and not even that where a manifest tells what the shard is: the index is then read
    when it is first asked for. The first :meth:`read` checks the CRC of every sample once per machine
    (:meth:`verify_once`): a bad sample is quarantined, that is listed in ``bad``, logged, and replaced by the next
    good one; more than 0.1 % bad (and more than one) is an error.

    Args:
        path: the shard.
        cache: ``auto`` copies slow layouts (compressed, automatic chunks) once into the machine's cache folder
            (:mod:`specfm.shards.cache`); ``off`` decodes at every read.
        verify: ``first`` or ``off`` (the caller verified already).
        listed: what a manifest tells of it; None reads the index now.

    Its attributes are those of :class:`specfm.shards.index.Index`.

    Raises:
        ShardError: truncated (with both sizes), incomplete, damaged index, foreign or newer format.
    """

    _keeps_open = True  # a file in HDF5, between reads

    def __init__(
        self, path: Path | str, cache: str = "auto", verify: str = "first", listed: Listed | None = None
    ) -> None:
        if verify not in ("first", "off"):
            raise UsageError(f"verify is {verify!r}; give first or off")
        machine.copies_allowed(cache)
        self.path = Path(path)
        self._cache, self._verify = cache, verify
        self.index_K: NDArray[np.int64] | None = None
        self._start()
        for name in LISTED if listed is not None else ():
            setattr(self, name, getattr(listed, name))
        if listed is None:
            self._read_index()

    def __getattr__(self, name: str) -> Any:
        """The index, at the first question for something of it."""
        if name not in IN_FILE or "_opening" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._opening:
            if name not in self.__dict__:
                self._read_index()
        return self.__dict__[name]

    def _read_index(self) -> None:
        with self._at_hand() as path:
            index = vars(read_index(path, self.path))
        told = {name: self.__dict__[name] for name in LISTED if name in self.__dict__}
        if self.index_K is not None:
            index["statistics"] = {name: each[self.index_K] for name, each in index["statistics"].items()}
            for name in ("shape", "sensor"):  # of the bands that were chosen
                del told[name], index[name]
        for name, value in told.items():
            same = value.digest == index[name].digest if isinstance(value, Sensor) else value == index[name]
            if not same:
                raise ShardError(
                    f"{self.path}: its {name.replace('_', ' ')} differs from what the manifest beside it says; copy or "
                    "build the folder again"
                )
            del index[name]
        self.__dict__.update(index)

    @contextmanager
    def _at_hand(self) -> Iterator[Path]:
        """The file, which stays on this machine meanwhile."""
        yield self.path

    def _start(self) -> None:
        self._data_path = self.path
        self._data: tuple[Extents, Extents | None] | None = None  # the file's own extents
        self._key = next(_keys)  # of its descriptor
        self._decoded = DecodedFile()
        self._opening = threading.RLock()
        self._verifying = threading.Lock()
        self._ready = False
        self.bad: tuple[int, ...] = ()
        self._substitute: NDArray[np.int64] | None = None
        self._held_masks: NDArray[np.bool_] | None = None
        _open_readers.add(self)

    def select_bands(self, index_K: NDArray[np.int64]) -> None:
        """From now on give these bands only (0-based): sensor, shape, statistics and samples are of them.

        Windows lie in the file whole and are read whole; what is left out is dropped before anything else sees it.
        """
        self.index_K = index_K if self.index_K is None else self.index_K[index_K]
        self.sensor = self.sensor.replace(bands=self.sensor.bands.subset(index_K))
        self.shape = (*self.shape[:3], len(index_K))
        if "statistics" in self.__dict__:  # else when they are read
            self.statistics = {name: values_C[index_K] for name, values_C in self.statistics.items()}

    # -- identity and pickling ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def window(self) -> tuple[int, int]:
        """(H, W)."""
        return self.shape[1], self.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of one sample as given."""
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    @property
    def _stored(self) -> tuple[int, int, int]:
        """(H, W, C) of one sample as it lies in the file."""
        height, width = self.window
        return height, width, self.patches.nbytes // (height * width * self.dtype.itemsize)

    def __repr__(self) -> str:
        return f"ShardReader({str(self.path)!r}, {self.shape}, {self.dtype}, domain={self.domain!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _PER_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def close(self) -> None:
        """Close what is open; the next read opens it again."""
        _descriptors.close(self._key)
        self._decoded.close()

    def __del__(self) -> None:
        if (key := self.__dict__.get("_key")) is not None:
            _descriptors.forget(key)
            if self.__dict__.get("_held_masks") is not None:
                _masks_held.release(self._held_masks.nbytes)  # type: ignore[union-attr]

    # -- opening the data --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether its CRCs were looked at: the next read reads at once."""
        return self._ready

    def known_good(self) -> bool:
        """This machine checked every CRC before, and all were right; asked without opening the file."""
        if self._ready or self._verify != "first":
            return not self.bad
        return machine.recall_verified(self.path, self.fingerprint) == []

    def verify_once(self) -> tuple[int, ...]:
        """Make the samples readable and check every CRC unless this machine did so before; returns the bad ids.

        Raises:
            ShardError: more than 0.1 % (and more than one) of the samples are bad, or the file was cut short since it
                was opened.
        """
        if self._ready:
            return self.bad
        with self._verifying:  # a lock of its own: the threads that check CRCs take the other one to open the file
            if self._ready:
                return self.bad
            bad = self._open_slow() if self._is_slow else None
            if bad is None and self._verify == "first":
                bad = self._recall_or_check()
            self._quarantine(bad or [])
            self._hold_masks()
            self._ready = True
            return self.bad

    def _recall_or_check(self) -> list[int]:
        with machine.one_at_a_time(self.path, self.fingerprint):
            bad = machine.recall_verified(self.path, self.fingerprint)
            if bad is None:
                log.info("%s: checking the CRC of %d samples, once on this machine", self.path, len(self))
                status = self.path.stat()
                bad = self.check_crcs()
                machine.remember_verified(self.path, self.fingerprint, status, bad)
            return bad

    @property
    def _is_slow(self) -> bool:
        return self.patches.offsets_N is None or (self.masks is not None and self.masks.offsets_N is None)

    def _open_slow(self) -> list[int] | None:
        reason = self.patches.reason or (self.masks.reason if self.masks else "")
        made = None
        if machine.copies_allowed(self._cache):
            with machine.one_at_a_time(self.path, self.fingerprint), open_hdf5(self.path) as file:
                register_filters(self.codec)
                made = machine.uncompressed_copy(file, self.path, self.fingerprint, self.crc_N)
        if made is None:
            log.warning("%s has a slow layout (%s): every read goes through HDF5, one at a time", self.path, reason)
            return None
        log.warning("%s has a slow layout (%s): reading its uncompressed copy %s", self.path, reason, made[0])
        count, height, width, _ = self.shape
        first = machine._HEADER
        ids = np.arange(count, dtype=np.int64)
        nbytes = self.patches.nbytes
        masks = Extents(first + count * nbytes + ids * height * width, height * width) if self.masks else None
        self._data_path, self._data = made[0], (Extents(first + ids * nbytes, nbytes), masks)
        return made[1]

    def _hold_masks(self) -> None:
        patches, masks = self._data or (self.patches, self.masks)
        if patches.offsets_N is None or masks is None or masks.offsets_N is None:
            return
        size = len(self) * masks.nbytes
        if size <= _MASK_BYTES and _masks_held.take(size):
            held = np.empty((len(self), *self.window), bool)
            with self._lent() as descriptor:
                gather(descriptor, masks.offsets_N, masks.nbytes, held.view(np.uint8), self._data_path)
            self._held_masks = held

    def _quarantine(self, bad: list[int]) -> None:
        self.bad = tuple(sorted(bad))
        if not bad:
            return
        listed = ", ".join(str(i) for i in self.bad[:10]) + (", ..." if len(bad) > 10 else "")
        if len(bad) > max(1, BAD_SHARE * len(self)) or len(bad) == len(self):
            raise ShardError(
                f"{self.path}: {len(bad)} of {len(self)} samples fail their CRC ({listed}), more than {BAD_SHARE:.1%};"
                " copy or build the shard again (`specfm verify` lists all)"
            )
        log.warning(
            "%s: %d of %d samples fail their CRC, quarantined and replaced: ids %s",
            self.path,
            len(bad),
            len(self),
            listed,
        )
        self._substitute = checks.substitutes(self.bad, len(self))

    def check_crcs(self, threads: int | None = None) -> list[int]:
        """Read every sample and compare its CRC; returns the ids that differ. No quarantine, no memory of checks."""
        return checks.failing(self._fetch, self.crc_N, self._stored, self.dtype, self.masks is not None, threads)

    # -- reading -----------------------------------------------------------------------------------------------------

    def resolve(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Ids with quarantined samples replaced by their substitutes.

        Raises:
            UsageError: an id outside 0 ... N-1.
        """
        self.verify_once()
        wanted = np.asarray(ids, dtype=np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise UsageError(
                f"{self.path} has samples 0 to {len(self) - 1}; {wanted.min()} to {wanted.max()} were asked for"
            )
        return wanted if self._substitute is None else self._substitute[wanted]

    def read(
        self, ids: ArrayLike, out: NDArray[Any] | None = None, mask_out: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Windows and masks of samples, in the order asked for.

        Args:
            ids: B local ids; repeats are allowed.
            out: C-contiguous [B,H,W,C] of the stored type, filled in place (fastest where it begins on a cache
                line, as torch's buffers do); a new array if None.
            mask_out: C-contiguous bool [B,H,W], likewise.

        Returns:
            x_BHWC in stored units, mask_BHW (True = valid pixel).
        """
        wanted = self.resolve(ids)
        x = aligned_empty((len(wanted), *self.shape[1:]), self.dtype) if out is None else out
        mask = np.empty((len(wanted), *self.window), bool) if mask_out is None else mask_out
        if self.index_K is None:
            self._fetch(wanted, x, mask)
            return x, mask
        step = max(1, _READ_BYTES // max(1, self.patches.nbytes))
        for start in range(0, len(wanted), step):
            some = slice(start, min(start + step, len(wanted)))
            whole = aligned_empty((len(wanted[some]), *self._stored), self.dtype)
            self._fetch(wanted[some], whole, mask[some])
            np.take(whole, self.index_K, axis=3, out=x[some], mode="clip")  # "clip" spares a copy; bands are in range
        return x, mask

    def _fetch(self, ids: NDArray[np.int64], x: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        patches, masks = self._data or (self.patches, self.masks)
        if patches.offsets_N is None or (masks is not None and masks.offsets_N is None):
            self._fetch_slow(ids, x, mask)
            return
        with self._lent() as descriptor:
            gather(descriptor, patches.offsets_N[ids], patches.nbytes, x, self._data_path)
            if masks is not None and self._held_masks is None:
                assert masks.offsets_N is not None
                gather(descriptor, masks.offsets_N[ids], masks.nbytes, mask.view(np.uint8), self._data_path)
        if masks is None:
            mask[:] = True
        elif self._held_masks is not None:
            np.take(self._held_masks, ids, axis=0, out=mask, mode="clip")  # "clip" spares a copy; ids are in range

    def _lent(self) -> AbstractContextManager[int]:
        """A descriptor of the samples' file, open meanwhile."""
        return _descriptors.lend(self._key, self._data_path)

    def _fetch_slow(self, ids: NDArray[np.int64], x: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Through HDF5."""
        self._decoded.fetch(self._at_hand(), self.codec, ids, x, mask, self._keeps_open)


class _Budget:
    """Bytes that all readers of a process share."""

    def __init__(self) -> None:
        self.used = 0

    def take(self, size: int) -> bool:
        """Whether so much more fits; it is then taken. Threads may exceed the bound by what each takes."""
        if self.used + size > _MASKS_BYTES:
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Give it back."""
        self.used -= size


_masks_held = _Budget()


def _forget_inherited() -> None:
    """In a forked child: give up the parent's descriptors, locks and handles, so that each process opens its own."""
    _descriptors.after_fork()
    for reader in list(_open_readers):
        reader._decoded.after_fork()
        reader._verifying, reader._opening = threading.Lock(), threading.RLock()


os.register_at_fork(after_in_child=_forget_inherited)
