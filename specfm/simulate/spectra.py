"""Measured spectra of materials on one fine grid: the library that comes with specfm, and those a user names.

A library is one of:

* ``earthlib``: 7,261 soils, built and dry materials and simulated canopies, 400-2450 nm, shipped as HDF5 (C. Anderson,
  package earthlib 1.1.0, MIT; its licence lies beside it);
* a folder of ECOSTRESS text files (``*.spectrum.txt``);
* the 1995 USGS library as a MATLAB matrix whose first three columns are wavelengths, resolutions and channel numbers;
* whatever else opens as a scene of reflectance: a dataset card (``berlin_library``), an ENVI library, a labelled cube.

Shapes: N spectra, L fine wavelengths, W wavelengths as measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specfm.bands import to_nm
from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_bytes

GRID_NM = np.arange(350.0, 2501.0, 5.0)
SHIPPED = {"earthlib": Path(__file__).parent / "data" / "earthlib.h5"}
STEP = 1e-4  # of reflectance in a packed file
WIDEST_GAP_NM = 35.0  # bridged by a straight line wherever it lies
WATER_NM = ((1310.0, 1560.0), (1740.0, 2060.0))  # where air is dark, so that libraries leave gaps: bridged as well
LOWEST, HIGHEST = -0.05, 1.5  # what a measured reflectance may be; other values are bad
MOST_SPECTRA = 20_000  # of one library; more are thinned evenly
SHARED = 0.9  # of its spectra cover the range of a library


@dataclass(frozen=True)
class MaterialSpectra:
    """Reflectance spectra with their classes.

    Attributes:
        name: of the library.
        spectra_NL: float32 reflectance at ``GRID_NM``, 0 where unknown.
        known_NL: where it was measured, or lies in a gap narrow or dark enough to be bridged.
        class_N: index into ``classes``.
        classes: names, as coarse as ``vegetation.tree``.
    """

    name: str
    spectra_NL: NDArray[np.float32]
    known_NL: NDArray[np.bool_]
    class_N: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.spectra_NL)

    @property
    def range_nm(self) -> tuple[float, float]:
        """What nine in ten of the spectra cover."""
        first_N = GRID_NM[self.known_NL.argmax(1)]
        last_N = GRID_NM[::-1][self.known_NL[:, ::-1].argmax(1)]
        return float(np.quantile(first_N, SHARED, method="higher")), float(
            np.quantile(last_N, 1 - SHARED, method="lower")
        )

    def select(self, index: ArrayLike) -> MaterialSpectra:
        """Some of the spectra; the classes stay."""
        rows = np.asarray(index)
        return replace(self, spectra_NL=self.spectra_NL[rows], known_NL=self.known_NL[rows], class_N=self.class_N[rows])


def on_grid(
    name: str, wavelengths_nm_W: NDArray[np.float64], reflectance_NW: NDArray[Any], labels: Sequence[str]
) -> MaterialSpectra:
    """Spectra of one wavelength list, in any order, on the fine grid; not-a-number and impossible values are bad.

    Spectra known at fewer than 20 points (100 nm) are left out.

    Raises:
        SpecfmError: no spectrum is left.
    """
    order = np.argsort(wavelengths_nm_W, kind="stable")
    nm_W, values_NW = wavelengths_nm_W[order], np.asarray(reflectance_NW, np.float64)[:, order]
    good_NW = np.isfinite(values_NW) & (values_NW >= LOWEST) & (values_NW <= HIGHEST) & np.isfinite(nm_W)
    spectra_NL = np.zeros((len(values_NW), len(GRID_NM)), np.float32)
    known_NL = np.zeros(spectra_NL.shape, bool)
    for pattern in np.unique(good_NW, axis=0):  # mostly one or two
        rows = np.flatnonzero((good_NW == pattern).all(1))
        at_nm = nm_W[pattern]
        if len(at_nm) < 2:
            continue
        known_L = _reached(at_nm)
        right_L = np.clip(np.searchsorted(at_nm, GRID_NM[known_L]), 1, len(at_nm) - 1)
        left_nm, right_nm = at_nm[right_L - 1], at_nm[right_L]
        share_L = np.clip((GRID_NM[known_L] - left_nm) / np.maximum(right_nm - left_nm, 1e-9), 0, 1)
        good = values_NW[np.ix_(rows, np.flatnonzero(pattern))]
        line = good[:, right_L - 1] * (1 - share_L) + good[:, right_L] * share_L
        spectra_NL[np.ix_(rows, np.flatnonzero(known_L))] = np.clip(line, 0, 1.2)
        known_NL[rows] = known_L
    kept = known_NL.sum(1) >= 20
    if not kept.any():
        raise SpecfmError(
            f"{name}: no spectrum has 100 nm of reflectance between {GRID_NM[0]:g} and {GRID_NM[-1]:g} nm; give "
            "reflectance of 0 to 1 (a dataset card can state its scale)"
        )
    classes, class_N = np.unique(np.asarray(labels, dtype=str)[kept], return_inverse=True)
    return MaterialSpectra(name, spectra_NL[kept], known_NL[kept], class_N.astype(np.int64), tuple(classes.tolist()))


def _reached(at_nm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(L,) True within the range, in narrow gaps, and in gaps that lie in water vapour."""
    known_L = (at_nm[0] - 2.5 <= GRID_NM) & (at_nm[-1] + 2.5 >= GRID_NM)
    for left, right in pairwise(at_nm):
        dark = any(low <= left and right <= high for low, high in WATER_NM)
        if right - left > WIDEST_GAP_NM and not dark:
            known_L &= (left + 2.5 > GRID_NM) | (right - 2.5 < GRID_NM)
    return known_L


def read_library(name: str) -> MaterialSpectra:
    """A library by name, folder, file or card; see the module.

    Raises:
        UsageError: no such library.
        SpecfmError: a file that cannot be read, or no reflectance.
    """
    if name in SHIPPED:
        return _shipped(name)
    path = Path(name)
    if path.is_dir() and any(path.glob("*.spectrum.txt")):
        return thinned(_read_ecostress(path))
    if path.suffix.lower() == ".mat" and path.exists():
        found = _read_usgs(path)
        if found is not None:
            return found
    return thinned(_read_scenes(name))


@lru_cache(maxsize=2)
def _shipped(name: str) -> MaterialSpectra:
    return unpack(SHIPPED[name], name)


def thinned(spectra: MaterialSpectra) -> MaterialSpectra:
    """At most ``MOST_SPECTRA``, evenly taken."""
    step = -(-len(spectra) // MOST_SPECTRA)
    return spectra if step == 1 else spectra.select(np.arange(0, len(spectra), step))


# -- the shipped form --------------------------------------------------------------------------------------------------


def pack(
    path: Path, wavelengths_nm_W: NDArray[np.float64], reflectance_NW: NDArray[Any], labels: Sequence[str], note: str
) -> None:
    """Write spectra as HDF5: steps from band to band in units of 1e-4, which compress to a byte or less each.

    The shipped library was made so from ``spectra.sli`` and the columns LEVEL_2 and LEVEL_3 of ``spectra.csv``.
    """
    import io

    import h5py

    levels_NW = np.rint(np.asarray(reflectance_NW, np.float64) / STEP)
    steps_NW = np.diff(levels_NW, axis=1, prepend=0).astype(np.int16)
    classes, class_N = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["note"] = note
        file["wavelengths_nm"] = np.asarray(wavelengths_nm_W, np.float64)
        packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
        file.create_dataset("steps_NW", data=steps_NW, chunks=(min(512, len(steps_NW)), steps_NW.shape[1]), **packed)
        file.create_dataset("class_N", data=class_N.astype(np.uint8 if len(classes) < 256 else np.uint16), **packed)
        file["classes"] = [name.encode() for name in classes.tolist()]
    atomic_write_bytes(path, buffer.getvalue())


def unpack(path: Path, name: str) -> MaterialSpectra:
    """Inverse of :func:`pack`, on the fine grid."""
    from specfm.hdf5 import open_hdf5

    with open_hdf5(path) as file:
        reflectance_NW = np.cumsum(file["steps_NW"][:], axis=1, dtype=np.int32) * STEP
        classes = [text.decode() for text in file["classes"][:]]
        labels = [classes[i] for i in file["class_N"][:]]
        return on_grid(name, file["wavelengths_nm"][:], reflectance_NW, labels)


# -- other libraries ---------------------------------------------------------------------------------------------------


def _read_ecostress(folder: Path) -> MaterialSpectra:
    """Text files of the ECOSTRESS library (Meerdink et al., RSE 230, 2019), each on a grid of its own.

    Those without a point between 350 and 2500 nm (thermal ones) are passed over.
    """
    parts = []
    for path in sorted(folder.glob("*.spectrum.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        fields = dict(re.findall(r"^([A-Za-z ]+):[ \t]*(.*)$", text, flags=re.M))
        units = fields.get("Y Units", "")
        scale = 0.01 if "percent" in units.lower() else 1.0 if "reflectance" in units.lower() else None
        unit = re.search(r"\((.*?)s?\)", fields.get("X Units", ""))
        rows = re.findall(r"^\s*([-+.\deE]+)[ \t,]+([-+.\deE]+)[ \t]*$", text, flags=re.M)
        try:
            values = np.array(rows, dtype=np.float64)
            if scale is None or unit is None or len(values) < 2:
                raise ValueError("it states no units of reflectance and wavelength, or has no two rows of numbers")
            nm_W = to_nm(values[:, 0], unit.group(1))
        except (ValueError, SpecfmError) as error:
            raise SpecfmError(f"{path}: is no spectrum of the ECOSTRESS library ({error}); take it out") from None
        label = ".".join(path.name.split(".")[:2])
        near = (nm_W > GRID_NM[0] - 5) & (nm_W < GRID_NM[-1] + 5)
        if near.sum() >= 20:
            try:
                parts.append(on_grid(str(folder), nm_W[near], scale * values[near, 1][None], [label]))
            except SpecfmError:
                continue
    if not parts:
        raise SpecfmError(f"{folder}: no spectrum lies between {GRID_NM[0]:g} and {GRID_NM[-1]:g} nm")
    return joined(str(folder), parts)


def _read_usgs(path: Path) -> MaterialSpectra | None:
    """The matrix ``datalib`` of the 1995 USGS library with ``names`` as rows of codes; None for another MATLAB file.

    The class of a spectrum is the first word of its name, the mineral.
    """
    from scipy.io import loadmat

    from specfm.readers.matlab_tags import check_tags

    check_tags(path)
    try:
        held = loadmat(path, variable_names=["datalib", "names"])
        table, codes = held["datalib"], held["names"]
    except (KeyError, ValueError, NotImplementedError, OSError):
        return None
    if table.ndim != 2 or codes.ndim != 2 or table.shape[1] != len(codes) or table.shape[1] < 4:
        return None
    names = ["".join(chr(code) for code in row).split() for row in codes[3:]]
    labels = [re.split(r"[^A-Za-z]", words[0])[0].lower() if words else "unnamed" for words in names]
    return on_grid(str(path), to_nm(table[:, 0], "um"), table[:, 3:].T, labels)


def _read_scenes(name: str) -> MaterialSpectra:
    """The labelled pixels of scenes, or all where none is."""
    from specfm.cards.opening import open_scenes

    parts = []
    try:
        for scene in open_scenes([name]):
            if scene.sensor.quantity not in (None, "surface_reflectance"):
                raise SpecfmError(f"{scene.where}: holds {scene.sensor.quantity}; spectra of materials are reflectance")
            labels_N = np.full(scene.shape[:2], -1) if scene.labels_HW is None else scene.labels_HW
            chosen = np.flatnonzero(labels_N.ravel() >= 0) if (labels_N >= 0).any() else np.arange(labels_N.size)
            chosen = chosen[:: -(-len(chosen) // MOST_SPECTRA)]
            usable = scene.sensor.bands.valid
            cube_HWC = scene.values()[..., usable]
            texts = [
                scene.label_names[label] if 0 <= label < len(scene.label_names) else scene.name
                for label in labels_N.ravel()[chosen]
            ]
            if len(set(texts)) > len(texts) / 2:  # numbered names of single spectra: `asphalt 2`
                texts = [re.sub(r"[\W\d_]+$", "", text).strip().lower() or text for text in texts]
            spectra_NW = cube_HWC.reshape(-1, int(usable.sum()))[chosen]
            parts.append(on_grid(name, scene.sensor.bands.wavelengths_nm[usable], spectra_NW, texts))
    except UsageError as error:
        raise UsageError(
            f"{name!r} is no library of spectra: neither {', '.join(SHIPPED)} nor a folder of *.spectrum.txt files, "
            f"a USGS .mat, a cube or a card ({error})"
        ) from None
    return joined(name, parts)


def joined(name: str, parts: Sequence[MaterialSpectra]) -> MaterialSpectra:
    """Several sets of spectra as one; equal names of classes are one class."""
    labels = np.concatenate([np.array(part.classes)[part.class_N] for part in parts])
    classes, class_N = np.unique(labels, return_inverse=True)
    return MaterialSpectra(
        name,
        np.concatenate([part.spectra_NL for part in parts]),
        np.concatenate([part.known_NL for part in parts]),
        class_N.astype(np.int64),
        tuple(classes.tolist()),
    )
