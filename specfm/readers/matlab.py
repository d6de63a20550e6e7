"""MATLAB files: v5 (one compressed stream per variable) and v7.3 (HDF5 with reversed axes).

A v5 variable cannot be read in part: it is read once, whole, when the first pixel is asked for, and kept. A v7.3
variable is read by window.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.limits import refuse_unpacked
from specfm.readers.axes import BAND_AXIS, band_layout
from specfm.readers.axes import by as _by
from specfm.readers.found import Found
from specfm.readers.hdf_common import HdfSource, numbers, open_hdf
from specfm.readers.layouts import LAYOUTS, apply_layout, check_layout, layout_shape
from specfm.readers.matlab5 import stored_type
from specfm.readers.matlab_tags import check_tags

log = logging.getLogger(__name__)

_WAVELENGTH_NAMES = ("wavelength", "wavelengths", "wavelengths_nm", "wl", "wvl", "lambda", "centers", "centres")
_CLASSES = {"double": "f8", "single": "f4", "logical": "?"}


class MatlabSource:
    """A variable of a v5 or v7.3 file as a cube ``[H, W, C]``."""

    def __init__(self, path: Path, variable: str, stored_shape: Sequence[int], dtype: Any, layout: str, hdf: bool):
        self.path, self.variable, self.layout, self.hdf = path, variable, layout, hdf
        self.stored_shape = tuple(int(size) for size in stored_shape)
        self.shape = layout_shape(self.stored_shape, layout, f"{path}: variable {variable!r}")
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self._hdf = HdfSource(path, variable.replace(".", "/"), layout[::-1]) if hdf and layout in BAND_AXIS else None
        if self._hdf is not None:
            self.dtype = self._hdf.dtype
        self._cube: NDArray[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cube": None}  # another process reads the file itself

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        if self._hdf is not None:  # HDF5 sees MATLAB's axes reversed: HWC is stored as [C, W, H], CHW as [W, H, C]
            return self._hdf.read(rows, cols, bands)
        if self._cube is None:
            self._cube = apply_layout(self._load(), self.layout, self.shape)
        part = self._cube[rows.start : rows.stop : rows.step, cols.start : cols.stop : cols.step]
        return np.array(part if bands is None else part[:, :, bands], dtype=self.dtype, order="C")

    def _load(self) -> NDArray[Any]:
        if self.hdf:
            with open_hdf(self.path) as file:
                return numbers(file[self.variable.replace(".", "/")]).T
        return _load_v5(self.path, self.variable)


def read_matlab(
    path: Path,
    variable: str | None,
    layout: str | None,
    hdf: bool,
    supplied: Callable[[], int | None] = lambda: None,
) -> Found:
    """Open a MATLAB cube.

    Args:
        path: the file.
        variable: its name; None: the only variable that fits the layout.
        layout: one of HWC (default), CHW, HCW, bands_by_pixels:HxW, spectra.
        hdf: the file is v7.3.
        supplied: length of the list of bands that the user supplies, None without one.

    Raises:
        SpecfmError: unreadable, no such variable, several candidates (they are listed), or axes that cannot be told.
    """
    check_layout(layout or "HWC")
    variables = _list_hdf(path) if hdf else _list_v5(path)
    silent = not any(_last(key) in _WAVELENGTH_NAMES for key in variables)
    if not hdf and (variable is None or variable not in variables or silent):
        variables |= list_fields(path)
    name = _choose(path, variables, variable, layout or "HWC")
    shape, dtype = variables[name]
    lists = _own_lists(path, variables, name, layout)
    if len(shape) == 3 and (layout is None or layout in BAND_AXIS):
        own = next((size for key, size in lists.items() if _last(key) in _WAVELENGTH_NAMES and size in shape), None)
        layout = band_layout(f"{path}: {name}", shape, layout, own, supplied=supplied)
    layout = layout or "HWC"
    if not hdf and "." not in name:
        # doubles of whole numbers are stored as small integers, and read as such
        dtype = stored_type(path, name) or _load_v5(path, name).dtype.str
    source = MatlabSource(path, name, shape, dtype, layout, hdf)
    found = Found(source=source, path=path, name=path.stem)
    count = source.shape[2]
    for key in (key for key, size in lists.items() if size == count):
        last = _last(key)
        if last in _WAVELENGTH_NAMES and found.wavelengths is None:
            found.wavelengths = _vector(path, key, hdf)  # a .mat states no units: resolve asks for them
        elif last == "fwhm" and found.fwhm is None:
            found.fwhm = _vector(path, key, hdf)
        elif last == "bbl" and found.valid is None:
            found.valid = _vector(path, key, hdf) != 0
    if found.wavelengths is None:
        found.fwhm = None
    return found


def _own_lists(
    path: Path, variables: dict[str, tuple[tuple[int, ...], str]], cube: str, layout: str | None
) -> dict[str, int]:
    """Lists of bands of a cube and their lengths: those of its own struct first, then of the structs that hold it.

    A list that shares more of its structs with another cube that it fits is that one's.
    """
    others = [(name, _band_counts(shape, layout)) for name, (shape, _) in variables.items() if name != cube]
    near: dict[str, int] = {}
    lengths: dict[str, int] = {}
    for key, (shape, _) in variables.items():
        size = int(np.prod(shape))
        if _last(key) not in (*_WAVELENGTH_NAMES, "fwhm", "bbl") or not 1 < size == max(shape):
            continue
        near[key], lengths[key] = _shared(key, cube), size
        theirs = next((name for name, counts in others if size in counts and _shared(key, name) > near[key]), None)
        if theirs is not None:
            log.info("%s: %s lies beside %s and is not used for %s", path, key, theirs, cube)
            del lengths[key]
    return {key: lengths[key] for key in sorted(lengths, key=lambda each: -near[each])}


def _band_counts(shape: tuple[int, ...], layout: str | None) -> tuple[int, ...]:
    """How many bands an array may have if it is a cube; none where it is no cube."""
    if layout is None or layout in BAND_AXIS:
        return shape if len(shape) == 3 else ()
    try:
        return layout_shape(shape, layout, "")[2:] if 1 not in shape else ()
    except SpecfmError:
        return ()


def _shared(one: str, other: str) -> int:
    """How many structs two variables have in common, from the outermost on."""
    pairs = list(zip(one.split(".")[:-1], other.split(".")[:-1], strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _last(variable: str) -> str:
    """The last name of a variable, which may be the field of a struct, in lower case."""
    return variable.rpartition(".")[2].lower()


def load_variable(path: Path, variable: str) -> NDArray[Any]:
    """One whole numeric variable, axes as MATLAB shows them (label maps, abundances)."""
    with path.open("rb") as handle:
        hdf = b"MATLAB 7.3" in handle.read(16)
    variables = _list_hdf(path) if hdf else _list_v5(path)
    if not hdf and variable not in variables:
        variables |= list_fields(path)
    if variable not in variables:
        raise SpecfmError(f"{path}: no variable {variable!r}; it holds {_listing(variables)}")
    return _vector(path, variable, hdf, flat=False)


def _choose(path: Path, variables: dict[str, tuple[tuple[int, ...], str]], variable: str | None, layout: str) -> str:
    if variable is not None and any(name.startswith(f"{variable}.") for name in variables):
        variables = {name: each for name, each in variables.items() if name.startswith(f"{variable}.")}  # a struct
    elif variable is not None:
        if variable not in variables:
            raise SpecfmError(f"{path}: no variable {variable!r}; it holds {_listing(variables)}")
        return variable
    axes = 3 if layout in BAND_AXIS else 2
    fits = []
    for name, (shape, _) in variables.items():
        if len(shape) != axes or int(np.prod(shape)) == 0 or (axes == 2 and min(shape) == 1):
            continue
        try:
            layout_shape(shape, layout, name)
        except SpecfmError:
            continue
        fits.append(name)
    if not fits:
        matrices = " (a matrix needs --layout: " + LAYOUTS + ")" if axes == 3 else ""
        raise SpecfmError(f"{path}: no variable fits layout {layout}; it holds {_listing(variables)}{matrices}")
    if len(fits) > 1:
        listing = _listing({name: variables[name] for name in fits})
        raise SpecfmError(f"{path}: several variables could be the cube; choose one with --variable: {listing}")
    return fits[0]


def _list_v5(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    from scipy.io import whosmat

    with _readable(path):
        entries = whosmat(path)
    numeric = {"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
    return {name: (tuple(shape), _CLASSES.get(kind, kind)) for name, shape, kind in entries if kind in numeric}


def _list_hdf(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    import h5py

    from specfm.readers.hdf_attributes import stored_kind

    found: dict[str, tuple[tuple[int, ...], str]] = {}

    def take(group: Any, prefix: str) -> None:
        for name, item in group.items():
            if isinstance(item, h5py.Group) and not name.startswith("#"):
                take(item, f"{prefix}{name}.")  # a struct, whose fields are variables of their own
            elif (
                isinstance(item, h5py.Dataset)
                and stored_kind(item) in "iufb"
                and "MATLAB_empty" not in item.attrs
                # text is stored as numbers
                and item.attrs.get("MATLAB_class", b"") != b"char"
            ):
                found[f"{prefix}{name}"] = (tuple(reversed(item.shape)), item.dtype.str)

    with open_hdf(path) as file:
        take(file, "")
    return found


def _vector(path: Path, name: str, hdf: bool, flat: bool = True) -> NDArray[Any]:
    if hdf:
        with open_hdf(path) as file:
            array = numbers(file[name.replace(".", "/")]).T
    else:
        array = _load_v5(path, name)
    return array.ravel() if flat else array


def list_fields(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Numeric arrays inside the structs of a v5 file, as ``struct.field``; the structs are read whole for it."""
    from scipy.io import whosmat

    with _readable(path):
        structs = [name for name, _, kind in whosmat(path) if kind == "struct"]
    found: dict[str, tuple[tuple[int, ...], str]] = {}

    def take(value: Any, name: str) -> None:
        if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
            for field in value.dtype.names:
                take(value.reshape(-1)[0][field], f"{name}.{field}")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
            found[name] = (value.shape, value.dtype.newbyteorder("=").str)

    for name in structs:
        take(_load_v5(path, name, plain=False), name)
    return found


def _load_v5(path: Path, name: str, plain: bool = True) -> NDArray[Any]:
    """A variable, or the field of a struct (``struct.field``); ``plain``: in the byte order of the machine."""
    from scipy.io import loadmat, whosmat

    top, *fields = name.split(".")
    with _readable(path):
        for stated, shape, kind in whosmat(path):
            if stated == top and kind not in ("struct", "cell", "object"):
                refuse_unpacked(path, math.prod(shape), f"the variable {top!r}")
        array = np.asarray(loadmat(path, variable_names=[top])[top])
        for field in fields:
            array = np.asarray(array.reshape(-1)[0][field])
    if not plain:
        return array
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class _readable:
    """Turn whatever a damaged v5 stream raises into one sentence, and what would end the process too."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        check_tags(self.path)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, SpecfmError):
            size = self.path.stat().st_size
            raise SpecfmError(
                f"{self.path}: not a readable MATLAB file ({' '.join(str(error).split())}; {size} bytes); "
                "it was cut short or damaged, copy it again"
            ) from error


def _listing(variables: dict[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{name} {_by(shape)}" for name, (shape, _) in variables.items()) or "no numeric variable"
