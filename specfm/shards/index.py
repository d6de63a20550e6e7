"""What a shard says of itself: read from its file and checked, or told by the manifest of its folder.

Shapes: N samples of the shard, H W window, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.hdf5 import open_hdf5, whole
from specfm.sensors import Sensor
from specfm.shards import schema
from specfm.shards.extents import Extents, find_extents

if TYPE_CHECKING:
    import h5py


@dataclass(eq=False)
class Listed:
    """What a manifest tells of a shard.

    Attributes:
        shape: (N, H, W, C).
        dtype: as stored.
        fingerprint: 64 hex digits over what the shard holds.
        domain: of all samples; what a mixture balances by.
        sensor: of all samples.
        scenes: how many scene numbers there are.
        scene_names: names behind ``scene_id_N``.
        label_names: names behind ``label_N``.
        contents: digests of the files that it was cut from, where its recipe tells.
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


@dataclass(eq=False)
class Index(Listed):
    """All that a shard's file tells beside its samples.

    Attributes:
        codec: of the samples.
        group_names: id -> name, behind ``group_N``.
        recipe: how the samples were made.
        label_N: classes, -1 = unlabelled.
        group_N: what splits keep together.
        instance_id_N: what makes a negative false.
        origin_N2: row and column of each window in its scene.
        scene_id_N: scenes.
        valid_N: number of valid pixels.
        crc_N: checksums of the samples.
        statistics: name -> [C].
        patches: where the cubes lie in the file.
        masks: where their valid pixels lie; None where all are.
    """

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
    patches: Extents
    masks: Extents | None


LISTED = tuple(each.name for each in fields(Listed))
IN_FILE = tuple(each.name for each in fields(Index) if each.name not in LISTED)


def read_index(path: Path, name: Path) -> Index:
    """Everything that a file tells of itself, checked.

    Args:
        path: the file.
        name: what it is called in messages.

    Raises:
        ShardError: truncated (with both sizes), incomplete, damaged, of a foreign or newer format.
    """
    schema.check_file_size(path)
    try:
        with open_hdf5(path) as file:
            found = _parse(file, name)
    except SpecfmError:
        raise
    except (OSError, LookupError, RuntimeError, AttributeError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise schema.ShardError(f"{name} cannot be read as a shard ({reason}); build it again") from None
    size = path.stat().st_size
    needed = max(found.patches.end, found.masks.end if found.masks else 0)
    if size < needed:
        raise schema.ShardError(f"{name} is truncated: {size} bytes on disk, {needed} expected; copy or build it again")
    return found


def _parse(file: h5py.File, path: Path) -> Index:
    attributes = schema.read_attributes(file, path)
    document = schema.read_document(file, path)
    patches = file["patches"]
    if patches.ndim != 4:
        raise schema.ShardError(f"{path}: patches have shape {patches.shape}, [N,H,W,C] expected")
    count, height, width, channels = (int(side) for side in patches.shape)
    shape = (count, height, width, channels)
    dtype = patches.dtype.newbyteorder("=")
    index = {}
    for name, (kind, tail) in schema.INDEX.items():
        index[name] = whole(file[f"index/{name}"], path, f"index/{name}").astype(kind, copy=False)
        if index[name].shape != (shape[0], *tail):
            raise schema.ShardError(f"{path}: index/{name} has shape {index[name].shape} for {shape[0]} samples")
    fingerprint = schema.fingerprint(index, document, shape, dtype.name)
    if fingerprint != attributes.get("fingerprint"):
        raise schema.ShardError(f"{path}: its index does not match its fingerprint; bytes were changed, build it again")
    sensor = Sensor.from_dict(document["sensor"])
    if len(sensor.bands) != shape[3]:
        raise schema.ShardError(f"{path}: {len(sensor.bands)} bands described, {shape[3]} stored")
    scene_names, label_names = tuple(document["scene_names"]), tuple(document["label_names"])
    group_names = {int(key): name for key, name in document["group_names"].items()}
    recipe = document["recipe"]
    _check_index(path, index, label_names, scene_names, (*group_names.values(),), recipe)
    cut_from = recipe.get("scenes", ())
    return Index(
        shape=shape, dtype=dtype, fingerprint=fingerprint, sensor=sensor, domain=str(attributes["domain"]),
        codec=str(attributes["codec"]), scene_names=scene_names, label_names=label_names, group_names=group_names,
        recipe=recipe, scenes=max(len(scene_names), int(index["scene_id"].max()) + 1),
        contents=tuple(str(s["content"]) for s in cut_from if isinstance(s, dict) and "content" in s),
        blind=int((index["valid"] == 0).sum()), group_N=index["group"], instance_id_N=index["instance_id"],
        label_N=index["label"], origin_N2=index["origin"], scene_id_N=index["scene_id"], valid_N=index["valid"],
        crc_N=index["crc"], patches=find_extents(patches),
        masks=find_extents(file["mask"]) if "mask" in file else None,
        statistics={
            name: _statistic(file[f"statistics/{name}"], path, name, shape[3:]) for name in schema.STATISTICS
        },
    )  # fmt: skip


def _statistic(dataset: h5py.Dataset, path: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    values_C = whole(dataset, path, f"statistics/{name}").astype(np.float64)
    if values_C.shape != shape:
        raise schema.ShardError(f"{path}: statistics/{name} has shape {values_C.shape}, {shape} needed")
    return values_C


def _check_index(
    path: Path, index: dict[str, NDArray[Any]], label_names: tuple[Any, ...], scene_names: tuple[Any, ...],
    group_names: tuple[Any, ...], recipe: Any,
) -> None:  # fmt: skip
    """Refuse numbers of the index that stand for nothing: whoever follows them would land elsewhere."""
    for name, names in (("label", label_names), ("scene_id", scene_names)):
        lowest, id_N = -1 if name == "label" else 0, index[name]
        if len(id_N) and names and not (lowest <= id_N.min() and id_N.max() < len(names)):
            raise schema.ShardError(f"{path}: index/{name} counts beyond {len(names)} names; build it again")
    texts = (*label_names, *scene_names, *group_names)
    if not all(isinstance(text, str) for text in texts) or not isinstance(recipe, dict):
        raise schema.ShardError(f"{path}: its JSON description holds other things than names; build it again")
