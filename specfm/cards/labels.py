"""Reading label and group rasters: any file that holds one number per pixel, brought to the shape of its scene.

Shapes: H rows, W columns of the scene; K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from specfm.cards.schema import Groups, Labels
from specfm.errors import SpecfmError
from specfm.tables import read_table

Find = Callable[[str], Path]  # a path of the card -> the file
Fill = Callable[[str], str]  # a template of the card -> its text for this scene
IMAGES = (".tif", ".tiff", ".bmp", ".png", ".gif")
ORDERS = {"rows": "C", "columns": "F"}


def read_labels(
    rule: Labels, names: Sequence[str], shape_HW: tuple[int, int], find: Find, fill: Fill
) -> NDArray[np.int32]:
    """The labels of one scene as a card's rule says.

    Args:
        rule: where they lie and how they are coded.
        names: the K class names.
        shape_HW: (H, W) of the scene.
        find: resolves a path of the card.
        fill: replaces ``{stem}`` and the like by the scene's.

    Returns:
        (H, W) int32, -1 = unlabelled.

    Raises:
        SpecfmError: a file is missing, does not fit the scene, or holds a value that is neither class nor unlabelled.
    """
    index = {name: i for i, name in enumerate(names)}
    # a table holds text, whatever YAML makes of the numbers of remap
    told = {str(raw): target for raw, target in (rule.remap or {}).items()}

    def class_of(value: str, otherwise: str = "") -> int:
        target = told.get(value, otherwise if told else value)
        return target if isinstance(target, int) else index.get(target, -1)

    if rule.constant is not None:
        return np.full(shape_HW, index[rule.constant], np.int32)
    if rule.table is not None:
        value = table_value(find(rule.table.path), rule.table.key, rule.table.value, fill(rule.table.match))
        return np.full(shape_HW, -1 if value is None else class_of(value), np.int32)
    if rule.rows is not None:
        values = table_column(find(rule.rows.path), rule.rows.value)
        labels = np.array([class_of(value, value) for value in values], np.int32)
        return as_raster(labels, shape_HW, rule.rows.path)
    if rule.masks is not None:
        members_KHW = np.stack([as_raster(read_array(find(path)), shape_HW, path) != 0 for path in rule.masks.values()])
        classes_K = np.array([index[name] for name in rule.masks])
        return np.where(members_KHW.sum(0) == 1, classes_K[members_KHW.argmax(0)], -1).astype(np.int32)
    assert rule.path is not None, "the schema allows exactly one kind"
    source = find(fill(rule.path))
    array = read_array(source, None if rule.variable is None else fill(rule.variable))
    if rule.dominant is not None:
        return dominant_class(array, shape_HW, rule.dominant, str(source), rule.order)
    return _classes(as_raster(array, shape_HW, str(source), rule.order), rule, index, str(source))


def read_groups(rule: Groups, shape_HW: tuple[int, int], find: Find, fill: Fill) -> NDArray[np.int64]:
    """Group number per pixel (H, W) int64, -1 on the background."""
    source = find(fill(rule.path))
    array = read_array(source, None if rule.variable is None else fill(rule.variable))
    raw_HW = as_raster(array, shape_HW, str(source), rule.order)
    return np.where(np.isin(raw_HW, rule.background), -1, raw_HW).astype(np.int64)


def _classes(raw_HW: NDArray[Any], rule: Labels, index: dict[str, int], where: str) -> NDArray[np.int32]:
    """Raw class numbers to 0..K-1; a value that is neither unlabelled nor a class is refused, never a silent class."""
    labels_HW = np.full(raw_HW.shape, -1, np.int32)
    known_HW = np.isnan(raw_HW) if raw_HW.dtype.kind == "f" else np.zeros(raw_HW.shape, bool)
    known_HW |= np.isin(raw_HW, rule.unlabelled)
    first = 1 if 0 in rule.unlabelled else 0
    remap = rule.remap or {i + first: i for i in index.values()}
    for value, target in remap.items():
        here_HW = raw_HW == int(value)
        labels_HW[here_HW] = index[target] if isinstance(target, str) else target
        known_HW |= here_HW
    if not known_HW.all():
        values = np.unique(raw_HW[~known_HW]).tolist()[:8]
        raise SpecfmError(
            f"{where}: label values {values} are neither classes of the card nor listed as unlabelled; name them in "
            "label_names or remap, or add them to unlabelled"
        )
    return labels_HW


def read_array(path: Path, variable: str | None = None) -> NDArray[Any]:
    """Read one array from ``.mat`` (v5 or v7.3), ``.npy``, ``.npz``, ``.h5``, an image, a GeoTIFF or an ENVI raster.

    Args:
        path: the file.
        variable: its name inside the file; may be left out where the file holds one array only.

    Returns:
        The array as stored, axes in MATLAB order for ``.mat`` (v7.3 files are turned); band axis of rasters last.

    Raises:
        SpecfmError: missing file, missing or ambiguous variable, or a format that is not known.
    """
    if not path.is_file():
        raise SpecfmError(f"{path} does not exist; the card's labels or groups need it")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _read_numpy(path, variable)
    if suffix == ".mat":
        from specfm.readers.matlab import load_variable

        if variable is None:
            raise SpecfmError(f"{path}: name the array to take labels from with 'variable'")
        return load_variable(path, variable)
    if suffix in (".h5", ".hdf5", ".he5"):
        return _read_hdf(path, variable)
    if suffix in IMAGES:
        return _read_image(path)
    return _read_envi(path)


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
    labels[shares_HWK.max(-1) <= threshold] = -1
    return labels


def table_value(path: Path, key: str, value: str, wanted: str) -> str | None:
    """Look up a scene in a CSV table: the entry of column ``value`` in the row whose ``key`` equals ``wanted``."""
    columns, rows = read_table(path)
    if key not in columns or value not in columns:
        raise SpecfmError(f"{path} has no columns {key!r} and {value!r}; it has {columns}")
    return next((row[value] for row in rows if row[key] == wanted), None)


def table_column(path: Path, value: str) -> list[str]:
    """A column of a CSV table."""
    columns, rows = read_table(path)
    if value not in columns:
        raise SpecfmError(f"{path} has no column {value!r}; it has {columns}")
    return [row[value] for row in rows]


def _choose(path: Path, variable: str | None, names: list[str]) -> str:
    if variable is None and len(names) == 1:
        return names[0]
    if variable is None:
        raise SpecfmError(f"{path} holds several arrays ({', '.join(names[:8])}); name one with 'variable'")
    if variable not in names:
        raise SpecfmError(f"{path} has no array {variable!r}; it has {', '.join(names[:8])}")
    return variable


def _read_numpy(path: Path, variable: str | None) -> NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as archive:
            return archive[_choose(path, variable, list(archive.files))]
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise SpecfmError(f"{path} cannot be read as an array ({error}); write it again with numpy.save") from None


def _read_hdf(path: Path, variable: str | None) -> NDArray[Any]:
    import h5py

    from specfm.readers.hdf_common import open_hdf

    with open_hdf(path) as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        return np.asarray(file[_choose(path, variable, found)])


def _read_image(path: Path) -> NDArray[Any]:
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            import rasterio
        except ImportError:
            raise SpecfmError(f"{path}: reading GeoTIFF labels needs rasterio; pip install 'specfm[geo]'") from None
        try:
            with rasterio.open(path) as raster:
                return np.moveaxis(raster.read(), 0, -1)
        except rasterio.errors.RasterioIOError as error:
            raise SpecfmError(f"{path} cannot be read as an image ({error}); write it anew") from None
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError) as error:  # PIL's word for a PNG with a wrong chunk
        raise SpecfmError(f"{path} cannot be read as an image ({error}); write it anew") from None


def _read_envi(path: Path) -> NDArray[Any]:
    from specfm.readers.envi import find_header, read_envi

    header = path if path.suffix.lower() == ".hdr" else find_header(path)
    if header is None:
        raise SpecfmError(
            f"{path}: labels of this kind are not known (no .hdr beside it); use .mat, .npz, .tif or ENVI"
        )
    source = read_envi(path, None if header == path else header).source
    height, width, _ = source.shape
    return source.read(range(height), range(width), None)
