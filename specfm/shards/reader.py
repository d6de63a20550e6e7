"""Reading one shard: an index in memory, samples straight from their place in the file into the caller's buffers.

Shapes: N samples of the shard, B samples asked for, H W window, C bands.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.errors import SpecfmError, UsageError
from specfm.hdf5 import open_hdf5, whole
from specfm.sensors import Sensor
from specfm.shards import cache as machine
from specfm.shards import schema
from specfm.shards.extents import Extents, aligned_empty, find_extents, gather

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)
BAD_SHARE = 1e-3  # more bad samples than this (and more than one) stop the job
_VERIFY_BYTES = 1 << 23
_READ_BYTES = 1 << 22  # whole windows held while some of their bands are copied out
_MASK_BYTES = 1 << 26  # masks of a shard up to this size are held in memory: one read less per sample
_PER_PROCESS = {
    "_descriptor", "_handle", "_lock", "_verifying", "_ready", "_data", "_data_path", "_substitute", "_held_masks",
    "bad",
}  # fmt: skip
_open_readers: weakref.WeakSet[ShardReader] = weakref.WeakSet()


class ShardReader:
    """One shard, open for random reads from any number of threads; picklable, and safe under fork (files are reopened
    per process).

    Opening reads the index only. The first :meth:`read` checks the CRC of every sample once per machine
    (:meth:`verify_once`): a bad sample is quarantined, that is listed in ``bad``, logged, and replaced by the next
    good one; more than 0.1 % bad (and more than one) is an error.

    Args:
        path: the shard.
        cache: ``auto`` copies slow layouts (compressed, automatic chunks) once into the machine's cache folder
            (:mod:`specfm.shards.cache`); ``off`` decodes at every read.
        verify: ``first`` or ``off`` (the caller verified already).

    Attributes:
        window: (H, W).
        shape: (N, H, W, C).
        dtype: of the cube as stored.
        sensor: of all samples.
        domain: what a mixture balances by.
        label_names: names behind ``label_N``.
        scene_names: names behind ``scene_id_N``.
        group_names: id -> name, behind ``group_N``.
        recipe: how the samples were made.
        fingerprint: 64 hex digits over what the shard holds.
        label_N: classes, -1 = unlabelled.
        group_N: what splits keep together.
        instance_id_N: what makes a negative false.
        origin_N2: row and column of each window in its scene.
        scene_id_N: scenes.
        valid_N: number of valid pixels.
        crc_N: checksums of the samples.
        statistics: name -> [C].

    Raises:
        ShardError: truncated (with both sizes), incomplete, damaged index, foreign or newer format.
    """

    def __init__(self, path: Path | str, cache: str = "auto", verify: str = "first") -> None:
        if verify not in ("first", "off"):
            raise UsageError(f"verify is {verify!r}; give first or off")
        machine.copies_allowed(cache)
        self.path = Path(path)
        self._cache, self._verify = cache, verify
        schema.check_file_size(self.path)
        try:
            with open_hdf5(self.path) as file:
                self._read_index(file)
        except SpecfmError:
            raise
        except (OSError, LookupError, RuntimeError, AttributeError, TypeError, ValueError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise schema.ShardError(f"{self.path} cannot be read as a shard ({reason}); build it again") from None
        size = self.path.stat().st_size
        needed = max(self._patches.end, self._masks.end if self._masks else 0)
        if size < needed:
            raise schema.ShardError(
                f"{self.path} is truncated: {size} bytes on disk, {needed} expected; copy or build it again"
            )
        self._start()

    def _read_index(self, file: h5py.File) -> None:
        attributes = schema.read_attributes(file, self.path)
        document = schema.read_document(file, self.path)
        patches = file["patches"]
        if patches.ndim != 4:
            raise schema.ShardError(f"{self.path}: patches have shape {patches.shape}, [N,H,W,C] expected")
        self.shape: tuple[int, int, int, int] = tuple(int(side) for side in patches.shape)  # type: ignore[assignment]
        self.dtype = patches.dtype.newbyteorder("=")
        index = {}
        for name, (kind, tail) in schema.INDEX.items():
            index[name] = whole(file[f"index/{name}"], self.path, f"index/{name}").astype(kind, copy=False)
            if index[name].shape != (self.shape[0], *tail):
                raise schema.ShardError(
                    f"{self.path}: index/{name} has shape {index[name].shape} for {self.shape[0]} samples"
                )
        self.fingerprint = schema.fingerprint(index, document, self.shape, self.dtype.name)
        if self.fingerprint != attributes.get("fingerprint"):
            raise schema.ShardError(
                f"{self.path}: its index does not match its fingerprint; bytes were changed, build it again"
            )
        self.sensor = Sensor.from_dict(document["sensor"])
        self.index_K: NDArray[np.int64] | None = None
        if len(self.sensor.bands) != self.shape[3]:
            raise schema.ShardError(f"{self.path}: {len(self.sensor.bands)} bands described, {self.shape[3]} stored")
        self.domain = str(attributes["domain"])
        self.codec = str(attributes["codec"])
        self.label_names: tuple[str, ...] = tuple(document["label_names"])
        self.scene_names: tuple[str, ...] = tuple(document["scene_names"])
        self.group_names: dict[int, str] = {int(key): name for key, name in document["group_names"].items()}
        self.recipe: dict[str, Any] = document["recipe"]
        self.label_N, self.group_N, self.instance_id_N = index["label"], index["group"], index["instance_id"]
        self.origin_N2, self.scene_id_N = index["origin"], index["scene_id"]
        self.valid_N, self.crc_N = index["valid"], index["crc"]
        self.statistics = {name: self._statistic(file[f"statistics/{name}"], name) for name in schema.STATISTICS}
        self._check_index()
        self._patches = find_extents(patches)
        self._masks: Extents | None = find_extents(file["mask"]) if "mask" in file else None

    def _statistic(self, dataset: h5py.Dataset, name: str) -> NDArray[np.float64]:
        values_C = whole(dataset, self.path, f"statistics/{name}").astype(np.float64)
        if values_C.shape != self.shape[3:]:
            raise schema.ShardError(
                f"{self.path}: statistics/{name} has shape {values_C.shape}, {self.shape[3:]} needed"
            )
        return values_C

    def _check_index(self) -> None:
        """Refuse numbers of the index that stand for nothing: whoever follows them would land elsewhere."""
        for name, id_N, names in (
            ("label", self.label_N, self.label_names), ("scene_id", self.scene_id_N, self.scene_names)
        ):  # fmt: skip
            lowest = -1 if name == "label" else 0
            if len(id_N) and names and not (lowest <= id_N.min() and id_N.max() < len(names)):
                raise schema.ShardError(f"{self.path}: index/{name} counts beyond {len(names)} names; build it again")
        texts = (*self.label_names, *self.scene_names, *self.group_names.values())
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.recipe, dict):
            raise schema.ShardError(f"{self.path}: its JSON description holds other things than names; build it again")

    def _start(self) -> None:
        self._data_path = self.path
        self._data: tuple[Extents, Extents | None] = (self._patches, self._masks)
        self._descriptor: int | None = None
        self._handle: Any = None
        self._lock = threading.Lock()
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
        return height, width, self._patches.nbytes // (height * width * self.dtype.itemsize)

    def __repr__(self) -> str:
        return f"ShardReader({str(self.path)!r}, {self.shape}, {self.dtype}, domain={self.domain!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in _PER_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def close(self) -> None:
        """Close what is open; the next read opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            if self._handle is not None:
                self._handle.close()
            self._descriptor = self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)  # type: ignore[arg-type]

    # -- opening the data --------------------------------------------------------------------------------------------

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
        return self._patches.offsets_N is None or (self._masks is not None and self._masks.offsets_N is None)

    def _open_slow(self) -> list[int] | None:
        reason = self._patches.reason or (self._masks.reason if self._masks else "")
        made = None
        if machine.copies_allowed(self._cache):
            with machine.one_at_a_time(self.path, self.fingerprint), open_hdf5(self.path) as file:
                _register_filters(self.codec)
                made = machine.uncompressed_copy(file, self.path, self.fingerprint, self.crc_N)
        if made is None:
            log.warning("%s has a slow layout (%s): every read goes through HDF5, one at a time", self.path, reason)
            return None
        log.warning("%s has a slow layout (%s): reading its uncompressed copy %s", self.path, reason, made[0])
        count, height, width, _ = self.shape
        first = machine._HEADER
        ids = np.arange(count, dtype=np.int64)
        nbytes = self._patches.nbytes
        masks = Extents(first + count * nbytes + ids * height * width, height * width) if self._masks else None
        self._data_path, self._data = made[0], (Extents(first + ids * nbytes, nbytes), masks)
        return made[1]

    def _hold_masks(self) -> None:
        patches, masks = self._data
        if patches.offsets_N is None or masks is None or masks.offsets_N is None:
            return
        if len(self) * masks.nbytes <= _MASK_BYTES:
            held = np.empty((len(self), *self.window), bool)
            gather(self._open(), masks.offsets_N, masks.nbytes, held.view(np.uint8), self._data_path)
            self._held_masks = held

    def _quarantine(self, bad: list[int]) -> None:
        self.bad = tuple(sorted(bad))
        if not bad:
            return
        listed = ", ".join(str(i) for i in self.bad[:10]) + (", ..." if len(bad) > 10 else "")
        if len(bad) > max(1, BAD_SHARE * len(self)) or len(bad) == len(self):
            raise schema.ShardError(
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
        substitute = np.arange(len(self), dtype=np.int64)
        good = np.setdiff1d(substitute, self.bad)
        for i in self.bad:  # the next good sample, cyclic: the same on every rank and machine
            substitute[i] = good[np.searchsorted(good, i) % len(good)]
        self._substitute = substitute

    def check_crcs(self, threads: int | None = None) -> list[int]:
        """Read every sample and compare its CRC; returns the ids that differ. No quarantine, no memory of checks."""
        step = max(1, _VERIFY_BYTES // max(1, self._patches.nbytes))
        ones = bytes([1]) * (self.shape[1] * self.shape[2])

        def check(start: int) -> list[int]:
            ids = np.arange(start, min(start + step, len(self)), dtype=np.int64)
            x = aligned_empty((len(ids), *self._stored), self.dtype)
            mask = np.ones((len(ids), *self.window), bool)
            try:
                self._fetch(ids, x, mask)
            except OSError:  # a compressed chunk that no longer decodes
                if len(ids) == 1:
                    return [int(ids[0])]
                return [bad for i in ids.tolist() for bad in check_one(i)]
            raw = mask.view(np.uint8)
            return [
                int(i)
                for i, sample, pixels in zip(ids, x, raw, strict=True)
                if zlib.crc32(ones if self._masks is None else pixels.tobytes(), zlib.crc32(sample)) != self.crc_N[i]
            ]

        def check_one(i: int) -> list[int]:
            x, mask = np.empty((1, *self._stored), self.dtype), np.ones((1, *self.window), bool)
            try:
                self._fetch(np.array([i]), x, mask)
            except OSError:
                return [i]
            pixels = ones if self._masks is None else mask.view(np.uint8).tobytes()
            return [i] if zlib.crc32(pixels, zlib.crc32(x)) != self.crc_N[i] else []

        with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
            return sorted(bad for found in pool.map(check, range(0, len(self), step)) for bad in found)

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
        step = max(1, _READ_BYTES // max(1, self._patches.nbytes))
        for start in range(0, len(wanted), step):
            some = slice(start, min(start + step, len(wanted)))
            whole = aligned_empty((len(wanted[some]), *self._stored), self.dtype)
            self._fetch(wanted[some], whole, mask[some])
            np.take(whole, self.index_K, axis=3, out=x[some], mode="clip")  # "clip" spares a copy; bands are in range
        return x, mask

    def _fetch(self, ids: NDArray[np.int64], x: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        patches, masks = self._data
        if patches.offsets_N is None or (masks is not None and masks.offsets_N is None):
            self._fetch_slow(ids, x, mask)
            return
        descriptor = self._descriptor if self._descriptor is not None else self._open()
        gather(descriptor, patches.offsets_N[ids], patches.nbytes, x, self._data_path)
        if masks is None:
            mask[:] = True
            return
        if self._held_masks is not None:
            np.take(self._held_masks, ids, axis=0, out=mask, mode="clip")  # "clip" spares a copy; ids are in range
            return
        assert masks.offsets_N is not None
        gather(descriptor, masks.offsets_N[ids], masks.nbytes, mask.view(np.uint8), self._data_path)

    def _open(self) -> int:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self._data_path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptor

    def _fetch_slow(self, ids: NDArray[np.int64], x: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Through HDF5, one thread at a time, in file order so that samples of one chunk share its decoding."""
        with self._lock:
            if self._handle is None:
                _register_filters(self.codec)
                self._handle = open_hdf5(self.path, rdcc_nbytes=1 << 27)
            patches, masks = self._handle["patches"], self._handle.get("mask")
            for row in np.argsort(ids, kind="stable"):
                x[row] = patches[int(ids[row])]
                mask[row] = True if masks is None else masks[int(ids[row])].astype(bool)


def _register_filters(codec: str) -> None:
    """Make the hdf5plugin codecs known to HDF5 (needed for reading as for writing)."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        if codec in ("blosc-zstd", "lz4"):
            raise schema.ShardError(
                f"codec {codec} needs hdf5plugin; install specfm with it or build shards with --codec none"
            ) from None


def _forget_inherited() -> None:
    """In a forked child: give up the parent's descriptors, locks and handles, so that each process opens its own."""
    for reader in list(_open_readers):
        if reader._descriptor is not None:
            os.close(reader._descriptor)
        reader._descriptor = None
        reader._handle = None
        reader._lock, reader._verifying = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_forget_inherited)
