"""Writing one shard: to a temporary name, flushed, then renamed; CRC of every sample; statistics on the way.

Shapes: N samples, H W window, C bands.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.errors import UsageError
from specfm.files import fsync_path, publish_file, refuse_existing, temporary_sibling
from specfm.sensors import Sensor
from specfm.shards import schema
from specfm.shards.extents import ALIGNMENT

_STATISTICS_BYTES = 1 << 23  # float64 copies made for the statistics stay below this


class BandStatistics:
    """Mean, deviation, extremes and count per band over valid, finite values, merged block by block (Chan et al.
    1979)."""

    def __init__(self, channels: int) -> None:
        self.count = np.zeros(channels, np.float64)
        self.mean = np.zeros(channels, np.float64)
        self.square = np.zeros(channels, np.float64)
        self.min = np.full(channels, np.inf)
        self.max = np.full(channels, -np.inf)

    def add(self, x_NHWC: NDArray[Any], mask_NHW: NDArray[np.bool_]) -> None:
        """Take in a block of windows."""
        step = max(1, _STATISTICS_BYTES // max(1, 8 * x_NHWC[0].size)) if len(x_NHWC) else 1
        for start in range(0, len(x_NHWC), step):
            block, mask = x_NHWC[start : start + step], mask_NHW[start : start + step]
            values_PC = block.reshape(-1, block.shape[-1]) if mask.all() else block[mask]
            if len(values_PC):
                self._merge(values_PC.astype(np.float64))

    def _merge(self, values_PC: NDArray[np.float64]) -> None:
        finite_PC = np.isfinite(values_PC)
        if not finite_PC.all():
            low = np.where(finite_PC, values_PC, np.inf).min(0)
            high = np.where(finite_PC, values_PC, -np.inf).max(0)
            values_PC = np.where(finite_PC, values_PC, 0.0)
            count = finite_PC.sum(0).astype(np.float64)
        else:
            low, high = values_PC.min(0), values_PC.max(0)
            count = np.full(values_PC.shape[1], len(values_PC), np.float64)
        safe = np.maximum(count, 1)
        mean = values_PC.sum(0) / safe
        square = (np.where(finite_PC, values_PC - mean, 0.0) ** 2).sum(0)
        total = np.maximum(self.count + count, 1)
        delta = mean - self.mean
        self.square += square + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count += count
        self.min, self.max = np.minimum(self.min, low), np.maximum(self.max, high)

    def result(self) -> dict[str, NDArray[np.float64]]:
        """Arrays by name; NaN for a band without one valid value."""
        empty = self.count == 0
        std = np.sqrt(self.square / np.maximum(self.count, 1))
        values = {"mean": self.mean, "std": std, "min": self.min, "max": self.max}
        return {**{k: np.where(empty, np.nan, v) for k, v in values.items()}, "count": self.count}


class ShardWriter:
    """Writes one shard of a known number of samples and publishes it on :meth:`close`.

    Nothing exists under ``path`` until every sample was written, flushed to disk and given its CRC; leaving the
    ``with`` block by an exception removes the temporary file.

    Args:
        path: final name.
        window: (H, W).
        sensor: the one sensor of the shard; C is its number of bands.
        dtype: type of the cube; kept as read where possible (:func:`specfm.shards.schema.stored_dtype`).
        domain: what the sampler mixes by (a data set, a sensor, a material).
        codec: one of :data:`specfm.shards.schema.CODECS`; None means ``none``.
        count: number of samples N (HDF5 lays a contiguous data set out in advance).
        label_names: names behind the class numbers.
        scene_names: names behind the scene numbers.
        group_names: group id -> name.
        recipe: JSON-safe facts on how the samples were made; part of the fingerprint.
        overwrite: replace an existing file.

    Example:
        >>> with ShardWriter("a.h5", (9, 9), sensor, "int16", "orchard", count=64) as shard:    # doctest: +SKIP
        ...     shard.add(x_NHWC, mask_NHW, label=labels_N)
    """

    def __init__(
        self,
        path: Path | str,
        window: tuple[int, int],
        sensor: Sensor,
        dtype: np.dtype[Any] | str,
        domain: str,
        codec: str | None = None,
        *,
        count: int,
        label_names: Sequence[str] = (),
        scene_names: Sequence[str] = (),
        group_names: dict[int, str] | None = None,
        recipe: dict[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        import h5py

        self.path = Path(path)
        refuse_existing(self.path, overwrite)
        if count < 1:
            raise UsageError(f"a shard needs at least one sample, {self.path} would have {count}")
        self.overwrite = overwrite
        self.dtype = schema.stored_dtype(dtype)
        self.codec = codec or "none"
        self.shape = (count, *(int(side) for side in window), len(sensor.bands))
        self.document = {
            "sensor": sensor.to_dict(),
            "label_names": list(label_names),
            "scene_names": list(scene_names),
            "group_names": {str(key): name for key, name in sorted((group_names or {}).items())},
            "recipe": recipe or {},
        }
        options = schema.codec_options(self.codec, self.shape[1:])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._written = 0
        self._statistics = BandStatistics(self.shape[3])
        self._index = {name: np.zeros((count, *tail), kind) for name, (kind, tail) in schema.INDEX.items()}
        self._mask: Any = None
        self._temporary = temporary_sibling(self.path)
        # superblock 2: a file records its size up front, so truncation is told before HDF5 opens it; later ones add
        # "open for writing" flags, which a killed process would leave behind
        aligned = {"alignment_threshold": 4096, "alignment_interval": ALIGNMENT}
        self._file: Any = h5py.File(self._temporary, "w", libver=("v108", "v108"), locking=False, **aligned)
        try:
            self._file.attrs["format"] = schema.FORMAT
            self._file.attrs["format_version"] = schema.VERSION
            self._file.attrs["domain"] = domain
            self._file.attrs["window"] = np.asarray(window, np.int64)
            self._file.attrs["codec"] = self.codec
            self._patches = self._file.create_dataset("patches", self.shape, self.dtype, **options)
        except BaseException:
            self.abort()
            raise

    def __len__(self) -> int:
        return self._written

    def add(
        self,
        x_NHWC: NDArray[Any],
        mask_NHW: NDArray[np.bool_] | None = None,
        *,
        label: ArrayLike = -1,
        group: ArrayLike = 0,
        instance_id: ArrayLike | None = None,
        origin: ArrayLike = (0, 0),
        scene_id: ArrayLike = 0,
    ) -> None:
        """Append windows; scalars are repeated. ``instance_id`` defaults to a number of its own for every sample.

        Raises:
            UsageError: more samples than ``count``, or a wrong shape.
            ShardError: an integer value does not fit the stored type.
        """
        x_NHWC = self._as_stored(np.asarray(x_NHWC))
        size = len(x_NHWC)
        if x_NHWC.shape[1:] != self.shape[1:]:
            raise UsageError(f"{self.path}: windows are {x_NHWC.shape[1:]}, the shard holds {self.shape[1:]}")
        start, stop = self._written, self._written + size
        if stop > self.shape[0]:
            raise UsageError(f"{self.path}: {stop} samples given, {self.shape[0]} announced")
        mask = np.ones(x_NHWC.shape[:3], bool) if mask_NHW is None else np.asarray(mask_NHW, bool)
        if mask.shape != x_NHWC.shape[:3]:
            raise UsageError(f"{self.path}: mask is {mask.shape}, windows are {x_NHWC.shape}")
        if size:
            self._patches[start:stop] = x_NHWC
            self._write_mask(mask, start, stop)
        self._statistics.add(x_NHWC, mask)
        bytes_NHW = mask.view(np.uint8)
        fields: dict[str, ArrayLike] = {
            "label": label,
            "group": group,
            "instance_id": [schema.stable_id(self.path.name, i) for i in range(start, stop)]
            if instance_id is None
            else instance_id,
            "origin": origin,
            "scene_id": scene_id,
            "valid": mask.sum((1, 2)),
            "crc": [zlib.crc32(m.tobytes(), zlib.crc32(x)) for x, m in zip(x_NHWC, bytes_NHW, strict=True)],
        }
        for name, value in fields.items():
            if size:
                self._index[name][start:stop] = value
        self._written = stop

    def _as_stored(self, x: NDArray[Any]) -> NDArray[Any]:
        if x.dtype == self.dtype:
            return np.ascontiguousarray(x)
        stored = np.ascontiguousarray(x, dtype=self.dtype)
        if self.dtype.kind in "iu" and not np.array_equal(stored, x):
            raise schema.ShardError(f"{self.path}: values between {x.min()} and {x.max()} do not fit {self.dtype}")
        return stored

    def _write_mask(self, mask: NDArray[np.bool_], start: int, stop: int) -> None:
        if mask.all():
            return
        if self._mask is None:  # all valid so far: the fill value stands for every mask not written
            self._mask = self._file.create_dataset("mask", self.shape[:3], np.uint8, fillvalue=1)
        self._mask[start:stop] = mask.view(np.uint8)

    def close(self) -> str:
        """Write index, statistics and the ``complete`` marker, flush to disk, rename. Returns the fingerprint.

        Raises:
            UsageError: fewer samples than announced (nothing is published).
        """
        from specfm import __version__

        if self._written != self.shape[0]:
            self.abort()
            raise UsageError(f"{self.path}: {self._written} samples given, {self.shape[0]} announced")
        try:
            for name, array in self._index.items():
                self._file.create_dataset(f"index/{name}", data=array)
            for name, array in self._statistics.result().items():
                self._file.create_dataset(f"statistics/{name}", data=array)
            text = json.dumps(self.document, sort_keys=True, allow_nan=False).encode()
            self._file.create_dataset("json", data=np.frombuffer(text, np.uint8))
            digest = schema.fingerprint(self._index, self.document, self.shape, self.dtype.name)
            self._file.attrs["fingerprint"] = digest
            self._file.attrs["written_by"] = f"specfm {__version__}"
            self._file.flush()
            self._file.attrs["complete"] = 1
            self._file.close()
            fsync_path(self._temporary)
            publish_file(self._temporary, self.path, overwrite=self.overwrite)
        except BaseException:
            self.abort()
            raise
        return digest

    def abort(self) -> None:
        """Drop everything written so far."""
        with contextlib.suppress(Exception):  # a full disk makes closing fail too; the file is removed either way
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
