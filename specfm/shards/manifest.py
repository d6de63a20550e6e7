"""``manifest.json`` of a folder of shards: what is in it, so that a store opens without a look into every file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specfm.documents import parse_json, read_json
from specfm.errors import SpecfmError
from specfm.files import atomic_write_json, sha256_file
from specfm.sensors import Sensor
from specfm.shards import schema
from specfm.shards.identity import recipe_digest
from specfm.shards.index import Listed
from specfm.shards.reader import ShardReader

_LISTED: dict[str, type] = {  # what a shard can be known by before it is opened; older manifests lack some
    "samples": int, "window": list, "bands": int, "dtype": str, "domain": str, "sensor_digest": str, "scenes": int,
    "scene_names": list, "label_names": list, "contents": list, "blind": int,
}  # fmt: skip


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
        ShardError: missing, damaged, newer, or naming a file outside the folder.
    """
    path = folder / schema.MANIFEST
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise schema.ShardError(
            f"{folder} has no {schema.MANIFEST}: it is no folder of shards, or `specfm shard` did not finish"
        ) from None
    except (OSError, ValueError) as error:
        raise schema.ShardError(f"{path} cannot be read ({error}); build the shards again") from None
    return checked_manifest(manifest, str(path))


def parse_manifest(content: bytes, where: str) -> dict[str, Any]:
    """The same of bytes that come from ``where``.

    Raises:
        ShardError: likewise.
    """
    try:
        return checked_manifest(parse_json(content, Path(where)), where)
    except ValueError as error:
        raise schema.ShardError(f"{where} cannot be read ({error}); build the shards again") from None


def checked_manifest(manifest: Any, path: str) -> dict[str, Any]:
    """A manifest that has what every reader needs.

    Raises:
        ShardError: it has not; ``path`` is named.
    """
    if not isinstance(manifest, dict) or manifest.get("format") != schema.MANIFEST_FORMAT:
        raise schema.ShardError(f"{path} is not a manifest of shards")
    version, rows = manifest.get("format_version"), manifest.get("shards")
    if not isinstance(version, int):
        raise schema.ShardError(f"{path} has no number 'format_version'; build the shards again")
    if version > schema.VERSION:
        writer = manifest.get("written_by", "a later specfm")
        raise schema.ShardError(f"{path} was written by {writer}, format {version} > {schema.VERSION}; update specfm")
    keys = {"file": str, "size": int, "sha256": str, "fingerprint": str}
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in keys.items()) for row in rows
    ):
        raise schema.ShardError(
            f"{path} has no proper list of shards ({', '.join(keys)} of each); copy it or build the shards again"
        )
    for row in rows:
        if Path(row["file"]).name != row["file"] or row["file"].startswith(".") or "\0" in row["file"]:
            raise schema.ShardError(f"{path} lists {row['file'][:60]!r}, which is not a plain file name; refusing it")
    return manifest


def listed_shards(manifest: Mapping[str, Any], where: str) -> list[Listed | None]:
    """What the manifest tells of each shard; None for rows of an older specfm, which tell too little.

    Raises:
        ShardError: a sensor that is none.
    """
    table = manifest.get("sensors")
    sensors: dict[str, Sensor] = {}
    for digest, told in (table if isinstance(table, dict) else {}).items():
        try:
            sensors[digest] = Sensor.from_dict(told)
        except (SpecfmError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise schema.ShardError(
                f"{where}: sensor {digest[:20]!r} is none ({error}); build the shards again"
            ) from None
    return [_listed(row, sensors) for row in manifest["shards"]]


def _listed(row: Mapping[str, Any], sensors: Mapping[str, Sensor]) -> Listed | None:
    if not all(isinstance(row.get(key), kind) for key, kind in _LISTED.items()):
        return None
    sensor, window = sensors.get(row["sensor_digest"]), row["window"]
    texts = (*row["scene_names"], *row["label_names"], *row["contents"])
    if (
        sensor is None
        or len(window) != 2
        or not all(isinstance(side, int) and side > 0 for side in window)
        or row["samples"] < 1
        or row["dtype"] not in schema.STORED_DTYPES
        or not all(isinstance(text, str) for text in texts)
    ):
        return None
    return Listed(
        (row["samples"], window[0], window[1], row["bands"]),
        np.dtype(row["dtype"]),
        row["fingerprint"],
        row["domain"],
        sensor,
        row["scenes"],
        tuple(row["scene_names"]),
        tuple(row["label_names"]),
        tuple(row["contents"]),
        row["blind"],
    )


def write_manifest(folder: Path, files: Iterable[str], kept: Mapping[str, Any] | None = None) -> None:
    """Describe finished shards in ``manifest.json``: size, SHA-256, fingerprint of each. Written last, atomically.

    Args:
        folder: where they are.
        files: names of those to describe.
        kept: a manifest of the folder whose rows stay as they are, beside the new ones.
    """
    from specfm import __version__

    rows = list(kept["shards"]) if kept else []
    sensors = dict(kept.get("sensors", {})) if kept else {}
    for name in sorted(files):
        reader = ShardReader(folder / name)
        sensors[reader.sensor.digest] = reader.sensor.to_dict()
        rows.append(
            {
                "file": name,
                "size": os.path.getsize(folder / name),
                "sha256": sha256_file(folder / name),
                "fingerprint": reader.fingerprint,
                "samples": len(reader),
                "window": list(reader.window),
                "bands": reader.shape[3],
                "dtype": reader.dtype.name,
                "domain": reader.domain,
                "sensor": reader.sensor.name,
                "sensor_digest": reader.sensor.digest,
                "inputs_digest": recipe_digest(reader.recipe),
                "scenes": reader.scenes,
                "scene_names": list(reader.scene_names),
                "label_names": list(reader.label_names),
                "contents": list(reader.contents),
                "blind": reader.blind,
            }
        )
    manifest = {
        "format": schema.MANIFEST_FORMAT,
        "format_version": schema.VERSION,
        "written_by": f"specfm {__version__}",
        "sensors": sensors,
        "shards": sorted(rows, key=lambda row: str(row["file"])),
    }
    atomic_write_json(folder / schema.MANIFEST, manifest)
