"""Several shards as one store: global sample ids, domains, a fingerprint.

Shapes: B samples of one shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.band_selection import BandSelection
from specfm.digests import digest_parts
from specfm.errors import SpecfmError, UsageError
from specfm.selected_scene import PIXELS
from specfm.shards import schema
from specfm.shards.manifest import listed_shards, read_manifest
from specfm.shards.reader import ShardReader
from specfm.shards.remote import is_address, open_folder

_HELD_BYTES = 1 << 25  # of whole windows, while the spectra in their middle are looked at


class ShardSet:
    """Shards of one or several folders, in a fixed order (folders as given, files by name).

    A global sample id is ``offsets[k] + local id``; a global scene id is ``scene_offsets[k] + local scene id``.

    Args:
        paths: a folder written by ``specfm shard``, its address (:mod:`specfm.shards.remote`), a shard file, or a list
            of them. A folder without its manifest is refused: it was not finished.
        cache: as in :class:`ShardReader`.
        verify: as in :class:`ShardReader`.
        include: domain names to keep; unknown names are refused.
        exclude: domain names to leave out (leave-one-sensor-out); unknown names are refused.
        bands: give these only (:mod:`specfm.band_selection`); ``importance`` is fitted on pixels of the shards kept.

    Attributes:
        readers: one per shard.
        sizes: samples per shard.
        domains: name per shard.
        domain_names: sorted.
        domain_ids: number per shard, into ``domain_names``.
        fingerprint: 64 hex digits over those of the shards.
    """

    def __init__(
        self,
        paths: Path | str | Iterable[Path | str],
        cache: str = "auto",
        verify: str = "first",
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        bands: str | BandSelection | None = None,
    ) -> None:
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        readers = [reader for path in listed for reader in _readers(path, cache, verify)]
        if not readers:
            raise UsageError(
                f"no shards in {', '.join(str(p) for p in listed) or 'an empty list'}; build some with `specfm shard`"
            )
        _refuse_doubles(readers)
        names = sorted({reader.domain for reader in readers})
        kept = choose_domains(names, include, exclude)
        self.readers = [reader for reader in readers if reader.domain in kept]
        if bands is not None:
            _select_bands(self.readers, BandSelection.parse(bands))
        self.sizes = [len(reader) for reader in self.readers]
        self.domains = [reader.domain for reader in self.readers]
        self.domain_names = sorted(kept)
        self.domain_ids = [self.domain_names.index(name) for name in self.domains]
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        scenes = [reader.scenes for reader in self.readers]
        self.scene_offsets = np.concatenate([[0], np.cumsum(scenes)]).astype(np.int64)
        text = "\n".join(reader.fingerprint for reader in self.readers)
        self.fingerprint = digest_parts([text], 64)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __repr__(self) -> str:
        return f"ShardSet({len(self)} samples, {len(self.readers)} shards, domains {', '.join(self.domain_names)})"

    def locate(self, sample_ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard index and local id of global sample ids."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        shard = np.searchsorted(self.offsets, ids, side="right") - 1
        return shard, ids - self.offsets[shard]

    def verify_once(self, tell: Callable[[str], object] = lambda what: None) -> int:
        """Check every CRC unless this machine did so before; returns the number of quarantined samples.

        Shards that are known to be good are not opened for it; ``tell`` is given the path of each other one.
        """
        bad = 0
        for reader in self.readers:
            if not reader.known_good():
                tell(str(reader.path))
                bad += len(reader.verify_once())
        return bad

    def describe(self, shard: int, ids: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Per-sample fields of (already resolved) local ids, named as in :class:`specfm.batch.BatchPart`."""
        reader = self.readers[shard]
        fields = {
            "sample_id_B": ids + self.offsets[shard],
            "instance_id_B": reader.instance_id_N[ids],
            "group_B": reader.group_N[ids],
            "scene_id_B": reader.scene_id_N[ids] + self.scene_offsets[shard],
            "origin_B2": reader.origin_N2[ids],
            "label_B": reader.label_N[ids],
            "domain_B": np.full(len(ids), self.domain_ids[shard]),
        }
        return {name: np.ascontiguousarray(value, dtype=np.int64) for name, value in fields.items()}


def _select_bands(readers: list[ShardReader], wanted: BandSelection) -> None:
    """Shards of one band grid give the same bands.

    Raises:
        SpecfmError: shards of pretreated spectra, in which every band has a part in every other.
    """
    alike: dict[str, list[ShardReader]] = {}
    for reader in readers:
        if done := reader.sensor.pretreatment:
            raise SpecfmError(
                f"{reader.path}: holds spectra pretreated by {', '.join(done)} from all bands; choose bands where "
                "shards are cut (specfm shard --bands)"
            )
        alike.setdefault(reader.sensor.bands.digest, []).append(reader)
    for members in alike.values():
        pixels_MC = None
        if wanted.kind == "importance":
            pixels_MC = np.concatenate([centre_spectra(reader, -(-PIXELS // len(members))) for reader in members])
        index_K = wanted.indices(members[0].sensor.bands, pixels_MC, str(members[0].path))
        for reader in members:
            reader.select_bands(index_K)


def centre_spectra(reader: ShardReader, most: int) -> NDArray[np.float32]:
    """spectra_MC: physical values in the middle of at most ``most`` windows, spread over the shard; valid pixels."""
    ids = np.unique(np.linspace(0, len(reader) - 1, min(most, len(reader))).astype(np.int64))
    height, width = reader.window
    found = []
    for some in np.array_split(ids, -(-len(ids) * reader.nbytes // _HELD_BYTES)):
        x_BHWC, mask_BHW = reader.read(some)
        middle_BC = x_BHWC[:, height // 2, width // 2][mask_BHW[:, height // 2, width // 2]].astype(np.float32)
        found.append(middle_BC * np.float32(reader.sensor.scale) + np.float32(reader.sensor.offset))
    return np.concatenate(found)


def _refuse_doubles(readers: list[ShardReader]) -> None:
    """The same windows under two sample ids would be negatives of each other, and on both sides of a split."""
    first: dict[str, Path] = {}
    for reader in readers:
        if reader.fingerprint in first:
            raise UsageError(f"{first[reader.fingerprint]} and {reader.path} hold the same samples; give one of them")
        first[reader.fingerprint] = reader.path


def choose_domains(names: list[str], include: Iterable[str] | None, exclude: Iterable[str]) -> list[str]:
    """Names that stay.

    Raises:
        UsageError: a name that is not there, or nothing left.
    """
    asked, left_out = set(names if include is None else include), set(exclude)
    if unknown := sorted((asked | left_out) - set(names)):
        raise UsageError(f"no domain {', '.join(unknown)} among the shards; there are {', '.join(sorted(names))}")
    kept = [name for name in names if name in asked and name not in left_out]
    if not kept:
        raise UsageError(f"no domain is left of {', '.join(sorted(names))} after include and exclude")
    return kept


def _readers(given: Path | str, cache: str, verify: str) -> list[ShardReader]:
    """Readers of a shard or a folder; what the manifest of a folder tells of a shard is not looked up in its file."""
    if isinstance(given, str) and is_address(given):
        return list[ShardReader](open_folder(given))
    path = Path(given)
    if path.is_file():
        return [ShardReader(path, cache, verify)]
    if not path.is_dir():
        raise UsageError(f"{path} does not exist; give a folder written by `specfm shard`")
    manifest = read_manifest(path)
    readers = []
    for row, told in zip(manifest["shards"], listed_shards(manifest, str(path / schema.MANIFEST)), strict=True):
        file = path / row["file"]
        try:
            size = file.stat().st_size
        except OSError:
            raise schema.ShardError(
                f"{file} is missing, its manifest lists it; copy or build the folder again"
            ) from None
        if size != row["size"]:
            raise schema.ShardError(f"{file} has {size} bytes, its manifest says {row['size']}; copy or build it again")
        readers.append(ShardReader(file, cache, verify, told))
    return readers
