"""Shard schema, version 1: one HDF5 file, one sensor, one window size.

==================  ==================  =======================================================================
dataset             shape, type         meaning
==================  ==================  =======================================================================
patches             [N,H,W,C] stored    windows as read; contiguous, or chunks of one sample
mask                [N,H,W] uint8       1 = valid pixel; absent when every pixel of every window is valid
index/label         [N] int32           -1 = unlabelled
index/group         [N] int64           what splits keep together (stable hash of domain and group name)
index/instance_id   [N] int64           what makes a negative false (stable hash; see :mod:`specfm.shards.windows`)
index/origin        [N,2] int32         row and column of the window's first pixel in its scene
index/scene_id      [N] int32           index into ``scene_names``
index/valid         [N] int32           number of valid pixels
index/crc           [N] uint32          CRC32 of the patch bytes followed by the mask bytes (ones where mask is absent)
statistics/*        [C] float64         mean, std, min, max, count over valid pixels, in stored units
json                [bytes] uint8       UTF-8 JSON: sensor, label names, scene names, group names, recipe
==================  ==================  =======================================================================

Attributes of the root are numbers and strings only: ``format``, ``format_version``, ``written_by``, ``domain``,
``window``, ``codec``, ``fingerprint`` (SHA-256 over the index and the JSON) and ``complete``, which is written last.
Long JSON is a dataset because an HDF5 attribute ends at 64 KiB. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.digests import digest_parts
from specfm.documents import parse_json
from specfm.errors import SpecfmError
from specfm.hdf5 import whole

if TYPE_CHECKING:
    import h5py

FORMAT = "specfm-shard"
VERSION = 1
SUFFIX = ".h5"
MANIFEST = "manifest.json"
MANIFEST_FORMAT = "specfm-shards"

STORED_DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "float16", "float32")
INDEX: dict[str, tuple[str, tuple[int, ...]]] = {
    "label": ("int32", ()),
    "group": ("int64", ()),
    "instance_id": ("int64", ()),
    "origin": ("int32", (2,)),
    "scene_id": ("int32", ()),
    "valid": ("int32", ()),
    "crc": ("uint32", ()),
}
STATISTICS = ("mean", "std", "min", "max", "count")
CODECS = ("none", "chunks", "blosc-zstd", "lz4", "gzip")


class ShardError(SpecfmError):
    """A shard is damaged, incomplete or of a format this version does not read."""


def stored_dtype(dtype: np.dtype[Any] | str) -> np.dtype[Any]:
    """The type in which values of ``dtype`` are kept: integers as read, float64 as float32, wide integers as int32.

    Raises:
        ShardError: complex or other types that no model reads.
    """
    native = np.dtype(dtype).newbyteorder("=")
    if native.name in STORED_DTYPES:
        return native
    if native.kind == "f":
        return np.dtype("float32")
    if native.kind in "iu":  # values are checked against int32 when they are written
        return np.dtype("int32")
    if native.kind == "b":
        return np.dtype("uint8")
    raise ShardError(f"values of type {native} cannot be stored in a shard; convert the cube to a real number type")


def codec_options(codec: str, sample_shape: tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments of ``create_dataset`` for a codec; never h5py's automatic chunks (160 times slower to read).

    Args:
        codec: ``none`` (contiguous), ``chunks`` (one sample a chunk, no filter), ``blosc-zstd``, ``lz4`` or ``gzip``.
        sample_shape: (H, W, C) of one sample.
    """
    if codec not in CODECS:
        from specfm.errors import UsageError

        raise UsageError(f"unknown codec {codec!r}; give one of {', '.join(CODECS)}")
    if codec == "none":
        return {}
    chunked: dict[str, Any] = {"chunks": (1, *sample_shape)}
    if codec == "chunks":
        return chunked
    if codec == "gzip":
        return {**chunked, "compression": "gzip", "compression_opts": 4, "shuffle": True}
    import hdf5plugin

    if codec == "lz4":
        return {**chunked, **hdf5plugin.Bitshuffle(cname="lz4")}
    return {**chunked, **hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=hdf5plugin.Blosc.BITSHUFFLE)}


def stable_id(*parts: object) -> int:
    """A positive 63-bit number that is the same on every machine for the same parts."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def fingerprint(index: dict[str, NDArray[Any]], document: dict[str, Any], shape: tuple[int, ...], dtype: str) -> str:
    """SHA-256 (64 hex) over everything that identifies a shard's content: index (CRCs included), JSON, shape and type.

    The mask and patch bytes enter through the CRCs, so two shards with equal fingerprints hold equal samples.
    """
    told = json.dumps(document, sort_keys=True, allow_nan=False)
    return digest_parts([f"{FORMAT} {VERSION} {shape} {dtype}\n", told, *(index[name] for name in INDEX)], 64)


def check_file_size(path: Path) -> None:
    """Compare the size that the HDF5 superblock records with the file's real size, before HDF5 or a map touches it.

    Raises:
        ShardError: not an HDF5 file, or cut short (names expected and actual size).
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(64)
            size = handle.seek(0, 2)
    except FileNotFoundError:
        raise ShardError(f"{path} does not exist") from None
    if len(head) < 48 or head[:8] != b"\x89HDF\r\n\x1a\n":
        raise ShardError(
            f"{path} is not an HDF5 file ({size} bytes); it was cut short while written or is something else, "
            "copy or build it again"
        )
    if head[8] in (0, 1) and head[13] == 8:
        (expected,) = struct.unpack_from("<Q", head, 40 if head[8] == 0 else 44)
    elif head[8] in (2, 3) and head[9] == 8:
        (expected,) = struct.unpack_from("<Q", head, 28)
    else:
        return
    if size < expected:
        raise ShardError(
            f"{path} is truncated: {size} bytes on disk, {expected} expected; copy or build it again (`specfm shard`)"
        )


def read_attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    """Root attributes, numbers and strings only.

    Raises:
        ShardError: an attribute of any other type (opaque, compound, reference, object), foreign file, newer version,
            incomplete.
    """
    import h5py

    found: dict[str, Any] = {}
    for name in file.attrs:
        kind = file.attrs.get_id(name).dtype
        if not (h5py.check_string_dtype(kind) or kind.kind in "iufS"):
            raise ShardError(
                f"{path}: attribute {name!r} has type {kind}; shards hold numbers and strings only, refusing it"
            )
        value = file.attrs[name]
        if isinstance(value, bytes | np.bytes_):
            value = value.decode(errors="replace")
        found[name] = value
    if found.get("format") != FORMAT:
        raise ShardError(
            f"{path} is not a specfm shard (no attribute format = {FORMAT!r}); build one with `specfm shard`"
        )
    try:
        version = int(found.get("format_version", -1))
    except (TypeError, ValueError):
        raise ShardError(f"{path}: attribute 'format_version' is not a number") from None
    if version > VERSION:
        writer = found.get("written_by", "a later specfm")
        raise ShardError(f"{path} was written by {writer}, format {version} > {VERSION}; update specfm")
    if version < 1 or int(found.get("complete", 0)) != 1:
        raise ShardError(f"{path} is incomplete (its writer did not finish); delete it and run `specfm shard` again")
    return found


def read_document(file: h5py.File, path: Path) -> dict[str, Any]:
    """The JSON document of an open shard.

    Raises:
        ShardError: missing or not JSON.
    """
    try:
        document = parse_json(whole(file["json"], path, "its description").astype(np.uint8).tobytes(), path)
    except KeyError:
        raise ShardError(f"{path} has no dataset 'json'; it is not a complete shard") from None
    except (ValueError, TypeError) as error:
        raise ShardError(f"{path}: its JSON description is damaged ({error})") from None
    if not isinstance(document, dict) or "sensor" not in document:
        raise ShardError(f"{path}: its JSON description names no sensor")
    return document
