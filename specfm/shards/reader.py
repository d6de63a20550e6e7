"""Reading one shard: an index in memory, samples straight from their place in the file into the caller's buffers.

Shapes: N samples of the shard, B samples asked for, H W window, C bands.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.errors import SpecfmError, UsageError
from specfm.hdf5 import open_hdf5, whole
from specfm.sensors import Sensor
from specfm.shards import cache as machine
from specfm.shards import schema
from specfm.shards.descriptors import Descriptors
from specfm.shards.extents import Extents, aligned_empty, find_extents, gather

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)
BAD_SHARE = 1e-3  # more bad samples than this (and more than one) stop the job
_VERIFY_BYTES = 1 << 23
_READ_BYTES = 1 << 22  # whole windows held while some of their bands are copied out
_MASK_BYTES = 1 << 26  # masks of a shard up to this size are held in memory: one read less per sample
_MASKS_BYTES = 1 << 30  # of all shards: beyond, masks are read with their samples
_HANDLES = 64  # files open in HDF5, of shards with a slow layout
_PER_PROCESS = {
    "_key", "_handle", "_lock", "_opening", "_verifying", "_ready", "_data", "_data_path", "_substitute",
    "_held_masks", "bad",
}  # fmt: skip
_INDEX = {  # what is read from the file when it is first asked for, where a manifest told the rest
    "codec", "group_names", "recipe", "label_N", "group_N", "instance_id_N", "origin_N2", "scene_id_N", "valid_N",
    "crc_N", "statistics", "_patches", "_masks",
}  # fmt: skip
_open_readers: weakref.WeakSet[ShardReader] = weakref.WeakSet()
_keys = itertools.count()
_descriptors = Descriptors()
_handles: OrderedDict[int, weakref.ref[ShardReader]] = OrderedDict()


@dataclass(frozen=True)
class Listed:
    """What a manifest tells of a shard; see :class:`ShardReader` for the names.

    Attributes:
        shape: (N, H, W, C).
        dtype: as stored.
        fingerprint: 64 hex digits.
        domain: of all samples.
        sensor: likewise.
        scenes: how many.
        scene_names: their names.
        label_names: of the classes.
        contents: digests of the files it was cut from.
        blind: windows without a valid pixel.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    fingerprint: str
    domain: str
    sensor: Sensor
    scenes: int
    scene_names: tuple[str, ...]
    label_names: tuple[str, ...]
    contents: tuple[str, ...]
    blind: int


_TOLD: tuple[str, ...] = tuple(Listed.__annotations__)


class ShardReader:
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

    Attributes:
        window: (H, W).
        shape: (N, H, W, C).
        dtype: of the cube as stored.
        sensor: of all samples.
        domain: what a mixture balances by.
        label_names: names behind ``label_N``.
        scenes: how many scene numbers there are.
        scene_names: names behind ``scene_id_N``.
        contents: digests of the files that it was cut from, where its recipe tells.
        blind: windows without a valid pixel.
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

    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    fingerprint: str
    domain: str
    sensor: Sensor
    scenes: int
    scene_names: tuple[str, ...]
    label_names: tuple[str, ...]
    contents: tuple[str, ...]
    blind: int
    codec: str
    group_names: dict[int, str]
    recipe: dict[str, Any]
    label_N: NDArray[np.int32]
    group_N: NDArray[np.int64]
    instance_id_N: NDArray[np.int64]
    origin_N2: NDArray[np.int32]
    scene_id_N: NDArray[np.int32]
    valid_N: NDArray[np.int32]
    crc_N: NDArray[np.uint32]
    statistics: dict[str, NDArray[np.float64]]
    _patches: Extents
    _masks: Extents | None

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
        for name in _TOLD if listed is not None else ():
            setattr(self, name, getattr(listed, name))
        if listed is None:
            self._read_index()

    def __getattr__(self, name: str) -> Any:
        """The index, at the first question for something of it."""
        if name not in _INDEX or "_opening" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._opening:
            if name not in self.__dict__:
                self._read_index()
        return self.__dict__[name]

    def _read_index(self) -> None:
        with self._at_hand() as path:
            index = self._index_of(path)
        told = {name: self.__dict__[name] for name in _TOLD if name in self.__dict__}
        if self.index_K is not None:
            index["statistics"] = {name: each[self.index_K] for name, each in index["statistics"].items()}
            for name in ("shape", "sensor"):  # of the bands that were chosen
                del told[name], index[name]
        for name, value in told.items():
            same = value.digest == index[name].digest if isinstance(value, Sensor) else value == index[name]
            if not same:
                raise schema.ShardError(
                    f"{self.path}: its {name.replace('_', ' ')} differs from what the manifest beside it says; copy or "
                    "build the folder again"
                )
            del index[name]
        self.__dict__.update(index)

    @contextmanager
    def _at_hand(self) -> Iterator[Path]:
        """The file, which stays on this machine meanwhile."""
        yield self.path

    def _index_of(self, path: Path) -> dict[str, Any]:
        """Everything that the file tells of itself, checked."""
        schema.check_file_size(path)
        try:
            with open_hdf5(path) as file:
                index = self._parse(file)
        except SpecfmError:
            raise
        except (OSError, LookupError, RuntimeError, AttributeError, TypeError, ValueError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise schema.ShardError(f"{self.path} cannot be read as a shard ({reason}); build it again") from None
        size = path.stat().st_size
        needed = max(index["_patches"].end, index["_masks"].end if index["_masks"] else 0)
        if size < needed:
            raise schema.ShardError(
                f"{self.path} is truncated: {size} bytes on disk, {needed} expected; copy or build it again"
            )
        return index

    def _parse(self, file: h5py.File) -> dict[str, Any]:
        attributes = schema.read_attributes(file, self.path)
        document = schema.read_document(file, self.path)
        patches = file["patches"]
        if patches.ndim != 4:
            raise schema.ShardError(f"{self.path}: patches have shape {patches.shape}, [N,H,W,C] expected")
        shape: tuple[int, ...] = tuple(int(side) for side in patches.shape)
        dtype = patches.dtype.newbyteorder("=")
        index = {}
        for name, (kind, tail) in schema.INDEX.items():
            index[name] = whole(file[f"index/{name}"], self.path, f"index/{name}").astype(kind, copy=False)
            if index[name].shape != (shape[0], *tail):
                raise schema.ShardError(
                    f"{self.path}: index/{name} has shape {index[name].shape} for {shape[0]} samples"
                )
        fingerprint = schema.fingerprint(index, document, shape, dtype.name)
        if fingerprint != attributes.get("fingerprint"):
            raise schema.ShardError(
                f"{self.path}: its index does not match its fingerprint; bytes were changed, build it again"
            )
        sensor = Sensor.from_dict(document["sensor"])
        if len(sensor.bands) != shape[3]:
            raise schema.ShardError(f"{self.path}: {len(sensor.bands)} bands described, {shape[3]} stored")
        scene_names, label_names = tuple(document["scene_names"]), tuple(document["label_names"])
        group_names = {int(key): name for key, name in document["group_names"].items()}
        recipe = document["recipe"]
        self._check_index(index, label_names, scene_names, (*group_names.values(),), recipe)
        cut_from = recipe.get("scenes", ())
        return {
            "shape": shape, "dtype": dtype, "fingerprint": fingerprint, "sensor": sensor,
            "domain": str(attributes["domain"]), "codec": str(attributes["codec"]),
            "scene_names": scene_names, "label_names": label_names, "group_names": group_names, "recipe": recipe,
            "scenes": max(len(scene_names), int(index["scene_id"].max()) + 1),
            "contents": tuple(str(s["content"]) for s in cut_from if isinstance(s, dict) and "content" in s),
            "blind": int((index["valid"] == 0).sum()),
            "group_N": index["group"], "instance_id_N": index["instance_id"], "label_N": index["label"],
            "origin_N2": index["origin"], "scene_id_N": index["scene_id"], "valid_N": index["valid"],
            "crc_N": index["crc"],
            "statistics": {
                name: self._statistic(file[f"statistics/{name}"], name, shape[3:]) for name in schema.STATISTICS
            },
            "_patches": find_extents(patches), "_masks": find_extents(file["mask"]) if "mask" in file else None,
        }  # fmt: skip

    def _statistic(self, dataset: h5py.Dataset, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        values_C = whole(dataset, self.path, f"statistics/{name}").astype(np.float64)
        if values_C.shape != shape:
            raise schema.ShardError(f"{self.path}: statistics/{name} has shape {values_C.shape}, {shape} needed")
        return values_C

    def _check_index(
        self, index: dict[str, NDArray[Any]], label_names: tuple[Any, ...], scene_names: tuple[Any, ...],
        group_names: tuple[Any, ...], recipe: Any,
    ) -> None:  # fmt: skip
        """Refuse numbers of the index that stand for nothing: whoever follows them would land elsewhere."""
        for name, names in (("label", label_names), ("scene_id", scene_names)):
            lowest, id_N = -1 if name == "label" else 0, index[name]
            if len(id_N) and names and not (lowest <= id_N.min() and id_N.max() < len(names)):
                raise schema.ShardError(f"{self.path}: index/{name} counts beyond {len(names)} names; build it again")
        texts = (*label_names, *scene_names, *group_names)
        if not all(isinstance(text, str) for text in texts) or not isinstance(recipe, dict):
            raise schema.ShardError(f"{self.path}: its JSON description holds other things than names; build it again")

    def _start(self) -> None:
        self._data_path = self.path
        self._data: tuple[Extents, Extents | None] | None = None  # the file's own extents
        self._key = next(_keys)  # of its descriptor
        self._handle: Any = None
        self._lock = threading.Lock()
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
        _descriptors.close(self._key)
        with self._lock:
            self._close_handle()

    def _close_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle = None
        _handles.pop(self._key, None)

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
        patches, masks = self._data or (self._patches, self._masks)
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
        patches, masks = self._data or (self._patches, self._masks)
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
        """Through HDF5, one thread at a time, in file order so that samples of one chunk share its decoding."""
        with self._lock, self._at_hand() as path:
            if self._handle is None:
                _register_filters(self.codec)
                self._handle = open_hdf5(path, rdcc_nbytes=1 << 27)
                _handles[self._key] = weakref.ref(self)
                _close_handles(self)
            patches, masks = self._handle["patches"], self._handle.get("mask")
            for row in np.argsort(ids, kind="stable"):
                x[row] = patches[int(ids[row])]
                mask[row] = True if masks is None else masks[int(ids[row])].astype(bool)


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


def _close_handles(but: ShardReader) -> None:
    """Close files of other readers in HDF5 where too many are open, the longest open first; none that is read from."""
    for key, known in list(_handles.items())[: max(0, len(_handles) - _HANDLES)]:
        reader = known()
        if reader is None:
            _handles.pop(key, None)
        elif reader is not but and reader._lock.acquire(blocking=False):
            try:
                reader._close_handle()
            finally:
                reader._lock.release()


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
    _descriptors.after_fork()
    _handles.clear()
    for reader in list(_open_readers):
        reader._handle = None
        reader._lock, reader._verifying, reader._opening = threading.Lock(), threading.Lock(), threading.RLock()


os.register_at_fork(after_in_child=_forget_inherited)
