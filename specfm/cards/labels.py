"""Labels and groups of a scene, as the rule of a card says: rasters on its grid, masks, tables.

Shapes: H rows, W columns of the scene; K classes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.cards.raster_files import RasterFile, read_raster
from specfm.cards.schema import Groups, Labels
from specfm.errors import SpecfmError
from specfm.grids import Grid, require_one_grid
from specfm.scene import is_nodata
from specfm.tables import read_table

log = logging.getLogger(__name__)

Find = Callable[[str], Path]  # a path of the card -> the file
Fill = Callable[[str], str]  # a template of the card -> its text for this scene
UNCLASSIFIED = ("unclassified", "unlabelled", "unlabeled", "background", "no data", "nodata", "none", "masked", "")
ORDERS = {"rows": "C", "columns": "F"}


def read_labels(rule: Labels, names: Sequence[str], grid: Grid, find: Find, fill: Fill) -> NDArray[np.int32]:
    """The labels of one scene as a card's rule says.

    Args:
        rule: where they lie and how they are coded.
        names: the K class names.
        grid: of the scene; rasters must lie on it.
        find: resolves a path of the card.
        fill: replaces ``{stem}`` and the like by the scene's.

    Returns:
        (H, W) int32, -1 = unlabelled.

    Raises:
        SpecfmError: a file is missing, does not fit the scene, or holds a value that is neither class nor unlabelled.
    """
    index, shape_HW = {name: i for i, name in enumerate(names)}, grid.shape_HW
    plain = [_plain(name) for name in names]  # "Morpho" of a table is the class morpho, unless there are two of it
    spelt = {name: i for i, name in enumerate(plain) if plain.count(name) == 1}
    # a table holds text, whatever YAML makes of the numbers of remap
    told = {str(raw): target for raw, target in (rule.remap or {}).items()}

    def class_of(value: str, otherwise: str = "") -> int:
        target = told.get(value, otherwise if told else value)
        return target if isinstance(target, int) else index.get(target, spelt.get(_plain(target), -1))

    def lost(values: Sequence[str]) -> int:
        """How many say a class that is not asked for, where nothing says that this is meant."""
        return 0 if told else sum(class_of(v) == -1 and _plain(v) not in UNCLASSIFIED for v in values)

    if rule.constant is not None:
        return np.full(shape_HW, index[rule.constant], np.int32)
    if rule.table is not None:
        sought = fill(rule.table.match)
        value = table_value(find(rule.table.path), rule.table.key, rule.table.value, sought)
        if value is None:
            log.warning("%s carries no label: no row of %s has it as %s", sought, rule.table.path, rule.table.key)
            return np.full(shape_HW, -1, np.int32)
        if lost([value]):
            log.warning("%s carries no label: it is none of label_names in %s", sought, rule.table.path)
        return np.full(shape_HW, class_of(value), np.int32)
    if rule.rows is not None:
        values = table_column(find(rule.rows.path), rule.rows.value)
        labels = np.array([class_of(value, value) for value in values], np.int32)
        if count := lost(values):
            log.info(
                "%s: %d of %d rows carry no label: they are none of label_names", rule.rows.path, count, len(values)
            )
        return as_raster(labels, shape_HW, rule.rows.path)
    if rule.masks is not None:
        members_KHW = np.stack([members(read_raster(find(path)), grid) for path in rule.masks.values()])
        classes_K = np.array([index[name] for name in rule.masks])
        return np.where(members_KHW.sum(0) == 1, classes_K[members_KHW.argmax(0)], -1).astype(np.int32)
    assert rule.path is not None, "the schema allows exactly one kind"
    raster = read_raster(find(fill(rule.path)), None if rule.variable is None else fill(rule.variable))
    if rule.dominant is not None:
        _refuse_no_numbers(raster)
        _check_grid(raster, grid)
        shares = np.where(_nodata(raster.array, raster), np.nan, raster.array)
        return dominant_class(shares, shape_HW, rule.dominant, str(raster.path), rule.order)
    return _classes(_on_grid(raster, grid, rule.order), rule, names, raster)


def read_groups(rule: Groups, grid: Grid, find: Find, fill: Fill) -> NDArray[np.int64]:
    """Group number per pixel (H, W) int64, -1 on the background and where the file has no data."""
    raster = read_raster(find(fill(rule.path)), None if rule.variable is None else fill(rule.variable))
    raw_HW = _on_grid(raster, grid, rule.order)
    none_HW = np.isin(raw_HW, rule.background) | _nodata(raw_HW, raster)
    if raw_HW.dtype.kind == "f" and (raw_HW[~none_HW] % 1).any():
        raise SpecfmError(f"{raster.path}: groups are whole numbers, but it holds fractions; give the raster of groups")
    if (highest := np.abs(raw_HW[~none_HW].astype(np.float64)).max(initial=0)) >= 2.0**63:
        raise SpecfmError(f"{raster.path}: group {highest:.6g} is too large to count with; number groups below 2^63")
    return np.where(none_HW, -1, np.where(none_HW, 0, raw_HW)).astype(np.int64)


def members(mask: RasterFile, grid: Grid) -> NDArray[np.bool_]:
    """The pixels (H, W) of a mask that are set; no data is not."""
    _refuse_no_raster(mask)
    _check_grid(mask, grid)
    return as_raster(is_set(mask), grid.shape_HW, str(mask.path))


def is_set(mask: RasterFile) -> NDArray[np.bool_]:
    """Where a mask holds a number other than zero; no data is not set. In the shape of its array.

    Raises:
        SpecfmError: an array of something else than numbers.
    """
    _refuse_no_numbers(mask)
    return np.asarray((mask.array != 0) & ~_nodata(mask.array, mask))


def _plain(name: str) -> str:
    """A class name without what files spell differently: case, and underscores or hyphens for spaces."""
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def _check_grid(raster: RasterFile, grid: Grid) -> None:
    """A raster that says where it lies must lie on the grid of its scene; one that does not is taken by its size."""
    own = raster.grid
    if own is not None and (own.placed or own.shape_HW == grid.shape_HW):
        require_one_grid(grid, own)


def _on_grid(raster: RasterFile, grid: Grid, order: str = "rows") -> NDArray[Any]:
    """One number per pixel of the scene (H, W).

    Raises:
        SpecfmError: a picture of colours, no numbers, another grid, or another number of pixels.
    """
    _refuse_no_raster(raster)
    _check_grid(raster, grid)
    return as_raster(raster.array, grid.shape_HW, str(raster.path), order)


def _refuse_no_raster(raster: RasterFile) -> None:
    """A raster of a scene holds one number per pixel."""
    if raster.colours:
        raise SpecfmError(
            f"{raster.path}: a picture of colours holds no class numbers; save the labels as numbers, in a raster of "
            "one band or an image with a palette"
        )
    _refuse_no_numbers(raster)


def _refuse_no_numbers(raster: RasterFile) -> None:
    if raster.array.dtype.kind not in "biuf":
        raise SpecfmError(f"{raster.path}: holds {raster.array.dtype}, where real numbers are needed; save it as such")


def _nodata(raw_HW: NDArray[Any], raster: RasterFile) -> NDArray[np.bool_]:
    """Where the file says that there are no data, and where a number is not a number."""
    missing_HW = np.isnan(raw_HW) if raw_HW.dtype.kind == "f" else np.zeros(raw_HW.shape, bool)
    return missing_HW if raster.nodata is None else missing_HW | is_nodata(raw_HW, raster.nodata)


def _classes(raw_HW: NDArray[Any], rule: Labels, names: Sequence[str], raster: RasterFile) -> NDArray[np.int32]:
    """Raw class numbers to 0..K-1; a value that is neither unlabelled nor a class is refused, never a silent class."""
    index = {name: i for i, name in enumerate(names)}
    labels_HW = np.full(raw_HW.shape, -1, np.int32)
    known_HW = np.isnan(raw_HW) if raw_HW.dtype.kind == "f" else np.zeros(raw_HW.shape, bool)
    known_HW |= np.isin(raw_HW, rule.unlabelled)
    for value, target in _coding(rule, names, raster).items():
        here_HW = raw_HW == int(value)
        labels_HW[here_HW] = index[target] if isinstance(target, str) else target
        known_HW |= here_HW
        if raster.nodata == int(value) and target != -1 and here_HW.any():
            log.warning("%s: it calls %s no data, which the card counts as class %r", raster.path, value, target)
    if rule.remap is None:
        labels_HW[np.isin(raw_HW, rule.unlabelled)] = -1  # what the card says goes before what the header says
    known_HW |= _nodata(raw_HW, raster)  # a class of the card stays one, whatever the file calls no data
    if not known_HW.all():
        values = np.unique(raw_HW[~known_HW]).tolist()[:8]
        raise SpecfmError(
            f"{raster.path}: label values {values} are neither classes of the card nor listed as unlabelled; name them "
            "in label_names or remap, or add them to unlabelled"
        )
    return labels_HW


def _coding(rule: Labels, names: Sequence[str], raster: RasterFile) -> Mapping[int | str, int | str]:
    """Raw number -> class (-1 = unlabelled): as the card's ``remap`` says, else by the names that the file has for its
    numbers, else 0..K-1, or 1..K where 0 is unlabelled.

    Raises:
        SpecfmError: the file calls a number by the name of another class than the card does.
    """
    first = 1 if 0 in rule.unlabelled else 0
    plain: dict[int | str, int | str] = {i + first: i for i in range(len(names))}
    theirs = {code: name.strip() for code, name in enumerate(raster.class_names)}
    known = {_plain(name): i for i, name in enumerate(names)}
    named: dict[int | str, int | str] = {
        code: known[_plain(name)] for code, name in theirs.items() if _plain(name) in known
    }
    if rule.remap is not None:
        told = {int(v): t if isinstance(t, int) else names.index(t) for v, t in rule.remap.items()}
        other = [f"{code} {theirs[int(code)]!r}" for code, i in named.items() if told.get(int(code), i) != i]
        if other:
            log.info("%s: its own names (%s) are not those of remap, which is used", raster.path, ", ".join(other))
        return rule.remap
    rest = {code: name for code, name in theirs.items() if code not in named}
    if named and all(_plain(name) in UNCLASSIFIED for name in rest.values()):
        if any(plain.get(code) != i for code, i in named.items()):
            log.info("%s: its classes are taken by the names in its header, not by their numbers", raster.path)
        return {**named, **dict.fromkeys(rest, -1)}
    shifted = [f"{code} is {theirs[int(code)]!r}" for code, i in named.items() if plain.get(code) != i]
    if shifted:
        raise SpecfmError(
            f"{raster.path}: its header says that {', '.join(shifted[:4])}, but the card counts otherwise; say what "
            "each number is with remap, or list the classes in label_names as the header does"
        )
    if theirs and not named:
        log.info("%s: the class names of its header are not used; those of the card count", raster.path)
    return plain


def as_raster(array: NDArray[Any], shape_HW: tuple[int, int], where: str, order: str = "rows") -> NDArray[Any]:
    """Bring a label array to (H, W): singleton axes are dropped; a flat one is laid out by rows or by columns (MATLAB).

    Raises:
        SpecfmError: the array does not hold one number per pixel.
    """
    height, width = shape_HW
    if array.shape == shape_HW:
        return array
    flat = np.squeeze(array)
    if flat.shape == shape_HW:
        return flat
    if flat.ndim <= 1 and flat.size == height * width:
        return flat.reshape(shape_HW, order=ORDERS[order])  # type: ignore[call-overload]
    raise SpecfmError(
        f"{where}: labels of shape {array.shape} do not fit a scene of {height} x {width} pixels; give the card the "
        "labels (path, variable) of this cube"
    )


def dominant_class(
    array: NDArray[Any], shape_HW: tuple[int, int], threshold: float, where: str, order: str = "columns"
) -> NDArray[np.int32]:
    """Labels from abundances: the index of the largest share where it exceeds ``threshold``, else -1.

    Args:
        array: (K, H * W), (H * W, K) or (H, W, K) shares.
        shape_HW: (H, W) of the scene.
        threshold: share in 0..1 above which a pixel counts as that material.
        where: the file, for messages.
        order: how a flat pixel axis runs: ``columns`` (MATLAB) or ``rows``.
    """
    pixels = shape_HW[0] * shape_HW[1]
    if array.ndim == 3 and array.shape[:2] == shape_HW:
        shares_HWK = array
    elif array.ndim == 2 and pixels in array.shape:
        shares_NK = array.T if array.shape[1] == pixels else array
        shares_HWK = shares_NK.reshape((*shape_HW, -1), order=ORDERS[order])  # type: ignore[call-overload]
    else:
        raise SpecfmError(
            f"{where}: abundances of shape {array.shape} do not fit a scene of {shape_HW[0]} x {shape_HW[1]} pixels; "
            "give the card the labels (path, variable) of this cube"
        )
    labels = shares_HWK.argmax(-1).astype(np.int32)
    labels[~(shares_HWK.max(-1) > threshold)] = -1  # so that a share that is no number is no label
    return labels


def table_value(path: Path, key: str, value: str, wanted: str) -> str | None:
    """Look up a scene in a CSV table: the entry of column ``value`` in the row whose ``key`` equals ``wanted``."""
    columns, rows = read_table(path, (key, value))
    if key not in columns or value not in columns:
        raise SpecfmError(f"{path} has no columns {key!r} and {value!r} among its {len(columns)}; name those it has")
    return next((row[value] for row in rows if row[key] == wanted.strip()), None)


def table_column(path: Path, value: str) -> list[str]:
    """A column of a CSV table."""
    columns, rows = read_table(path, [value])
    if value not in columns:
        raise SpecfmError(f"{path} has no column {value!r} among its {len(columns)}; name one that it has")
    return [row[value] for row in rows]
