"""Features kept on disk: extracted once, found again by what decides them, picked up where a killed run left off.

An entry is a folder named by a digest of checkpoint (weights and config), data (the pixels, bands and places of the
windows) and view (window, pooling, layers, batch). It holds ``features.npy`` (``[N, D]`` float32, read as a memory
map, never written as one), ``entry.json`` (what the digest stands for) and a manifest whose hashes are checked before
use. While it is being filled it is called ``<digest>.partial`` and counts its finished batches, which are on disk
before they are counted. Only floating-point features are kept; deleting the folder is always safe.

Shape suffixes: N samples, D features, B batch, HWC scene axes.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.array_file import ArrayFile
from downstream.splits.samples import Samples
from specfm.digests import digest_json, digest_parts, state_digest
from specfm.documents import read_json
from specfm.errors import SpecfmError
from specfm.files import (
    IntegrityError,
    atomic_write_json,
    publish_folder,
    remove_folder,
    require_free_space,
    verify_manifest,
    write_manifest,
)
from specfm.locks import LockedError, RunLock

if TYPE_CHECKING:
    from specfm.scene import Scene


log = logging.getLogger(__name__)
FORMAT = "specfm-features-1"
Batches = Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]


def default_folder() -> Path:
    """``features`` in the cache folder of specfm: ``$SPECFM_CACHE``, or ``specfm`` in the user's own."""
    from specfm.shards.cache import cache_folder

    return cache_folder() / "features"


def windows_digest(scenes: Sequence[Scene], samples: Samples, strip: int = 128) -> str:
    """16 hex digits over everything that an encoder can see of these samples: pixels, validity rules, bands, places."""
    before, after = samples.window // 2, samples.window - samples.window // 2

    def parts() -> Iterator[str | np.ndarray]:
        yield samples.digest
        yield f"{samples.window}"
        for index, scene in enumerate(scenes):
            rows = samples.rc_N2[samples.scene_N == index, 0]
            if not len(rows):
                continue
            height = scene.shape[0]
            low, high = max(int(rows.min()) - before, 0), min(int(rows.max()) + after, height)
            yield f"{scene.sensor.digest} {scene.shape} {scene.dtype.str} {scene.nodata} {scene.saturation}"
            yield "" if scene.neighbours else "spectra"
            for start in range(low, high, strip):
                part = scene.read(slice(start, min(start + strip, high)), slice(None))
                yield part.astype(part.dtype.newbyteorder("<"), copy=False)

    return digest_parts(parts())


# Modules and packages whose code decides what features are; a package stands for all its modules.
_DECIDING = (
    *("specfm.models", "specfm.bands", "specfm.batch", "specfm.library", "specfm.scene", "specfm.sensors"),
    "specfm.window",
    *("specfm.dense.fit", "downstream.features.fit"),
    *("downstream.features.extract", "downstream.features.pooling", "downstream.features.peers"),
)


def _files_of(module: str) -> list[Path]:
    """Where the source of a module lies, or of all modules of a package; nothing is imported but its parents."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"{module} has no source; mend _DECIDING"
    path = Path(spec.origin)
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]


@lru_cache(maxsize=8)
def code_digest(deciding: tuple[str, ...] = _DECIDING) -> str:
    """16 hex digits over the source of modules, by default of those that turn pixels into features.

    An update of them makes new features.
    """
    return digest_parts(path.read_bytes() for name in deciding for path in _files_of(name))


class _Unwritable(Exception):
    """The folder of the bank cannot be written."""


@contextmanager
def _writing() -> Iterator[None]:
    """Tell trouble with the bank's own folder from trouble with the scenes that are read meanwhile."""
    try:
        yield
    except OSError as error:
        raise _Unwritable(str(error)) from error


class Bank:
    """A folder of extracted features.

    Args:
        folder: where entries lie; made when the first one is written.
        flush_s: seconds between the points from which a killed extraction can go on.
        strict: whether a folder that cannot be written is an error, or means that features are just not kept.
    """

    def __init__(self, folder: str | Path, flush_s: float = 10.0, strict: bool = True) -> None:
        self.folder, self.flush_s, self.strict = Path(folder), flush_s, strict
        self.hits = self.misses = 0

    def open(self) -> None:
        """Make the folder.

        Raises:
            SpecfmError: it cannot be made (``strict``).
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if self.strict:
                raise SpecfmError(
                    f"features cannot be kept in {self.folder} ({error}); choose another --cache"
                ) from None

    def features(
        self, encoder: Any, scenes: Sequence[Scene], samples: Samples, view: dict[str, Any], compute: Batches,
        data_digest: str | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Features ``[N, D]`` (a read-only memory map), from disk or else by ``compute``.

        Args:
            encoder: whose features; its weights and config are part of the key.
            scenes: scenes of the samples.
            samples: which windows.
            view: JSON-safe description of what is taken of them.
            compute: gives (sample ids, values ``[B, D]``) from a batch number on, always the same batches.
            data_digest: see ``windows_digest``; worked out here if not given.

        Raises:
            SpecfmError: the folder cannot be written (``strict``).
        """
        import torch

        from downstream.features.encoders import encoder_device

        facts = {
            "format": FORMAT,
            "checkpoint": state_digest(encoder),
            "data": data_digest or windows_digest(scenes, samples),
            "view": view,
            "samples": len(samples),
            "aligned": None if (alignment := getattr(encoder, "alignment", None)) is None else alignment.digest,
            "code": code_digest(),
            "torch": [str(torch.__version__), encoder_device(encoder).type],
        }
        key = digest_json(facts)
        if (found := self._read(key)) is not None:
            self.hits += 1
            return found
        self.misses += 1
        try:
            with _writing():
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = RunLock(self.folder, f"{key}.lock").acquire()
            try:
                found = self._read(key)  # another process may have finished it meanwhile
                if found is None:
                    self._fill(self.folder / f"{key}.partial", facts, compute)
                    with _writing():
                        write_manifest(self.folder / f"{key}.partial", kind=FORMAT)
                        publish_folder(self.folder / f"{key}.partial", self.folder / key)
                    found = self._read(key)
            finally:
                lock.release()
        except LockedError:
            log.info("another process is filling %s.partial; these features are computed without it", key)
        except _Unwritable as error:
            if self.strict:
                raise SpecfmError(
                    f"features cannot be kept in {self.folder} ({error}); choose another --cache"
                ) from None
            log.warning("features cannot be kept in %s (%s)", self.folder, error)
        return gather(compute(0), len(samples)) if found is None else found

    def _read(self, key: str) -> np.ndarray | None:
        """The entry's features, or None; an entry that was altered is removed and made again."""
        entry = self.folder / key
        if not entry.is_dir():
            return None
        try:
            verify_manifest(entry)
            return np.load(entry / "features.npy", mmap_mode="r", allow_pickle=False)
        except (IntegrityError, OSError, ValueError) as error:
            log.warning("%s; these features are extracted again", error)
            try:
                remove_folder(entry)
            except OSError:
                log.debug("%s is gone already", entry)
            return None

    def _fill(self, partial: Path, facts: dict[str, Any], compute: Batches) -> None:
        """Write the batches that are missing in ``partial``."""
        path, count = partial / "features.npy", int(facts["samples"])
        done, array = self._resume(partial, facts)
        marked = time.monotonic()
        try:
            for ids_B, values_BD in compute(done):
                with _writing():
                    if array is None:
                        partial.mkdir(exist_ok=True)
                        (partial / "progress.json").unlink(missing_ok=True)
                        require_free_space(partial, count * values_BD.shape[1] * 4)
                        array = ArrayFile.create(path, (count, values_BD.shape[1]))
                    array.write(ids_B, values_BD)
                    done += 1
                    if time.monotonic() - marked >= self.flush_s:
                        array.flush()
                        atomic_write_json(partial / "progress.json", {**facts, "batches": done})
                        marked = time.monotonic()
            assert array is not None
            with _writing():
                array.flush()
        finally:
            if array is not None:
                array.close()
        with _writing():
            (partial / "progress.json").unlink(missing_ok=True)
            atomic_write_json(partial / "entry.json", facts)

    def _resume(self, partial: Path, facts: dict[str, Any]) -> tuple[int, ArrayFile | None]:
        """Batches on disk and the array they are in; (0, None) where nothing can be gone on with."""
        try:
            progress = read_json(partial / "progress.json")
            done = int(progress["batches"])
            if {**progress, "batches": 0} != {**facts, "batches": 0}:
                return 0, None
            array = ArrayFile.reopen(partial / "features.npy")
            if array.shape[0] != facts["samples"]:
                array.close()
                return 0, None
            return done, array
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0, None


def gather(batches: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """All batches in one array ``[N, D]``."""
    X_ND: np.ndarray | None = None
    for ids_B, values_BD in batches:
        if X_ND is None:
            X_ND = np.empty((count, values_BD.shape[1]), np.float32)
        X_ND[ids_B] = values_BD
    assert X_ND is not None
    return X_ND
