"""The lists of numbers in an HDF5 file that describe the bands of one cube: wavelengths, widths, good bands.

They are datasets (beside the cube or elsewhere) or attributes of the cube and its groups. A file with several cubes has
several lists: words that the names of a list and of its cube share tell which (``blue_wavelength`` is of
``rhot_blue``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specfm.readers.axes import fold
from specfm.readers.hdf_attributes import all_said, attribute
from specfm.readers.hdf_common import numbers

if TYPE_CHECKING:
    import h5py

# Folded names, the surest first; then what a name may contain, and what tells that it is something else.
_NAMES = {
    "wavelengths": ("wavelength", "wavelengths", "wavelengthsnm", "wavelengthnm", "centerwavelength",
                    "centrewavelength", "centerwavelengths", "centrewavelengths"),
    "fwhm": ("fwhm", "fwhmnm", "bandwidth", "bandwidths"),
    "good": ("goodwavelengths", "goodbands", "bbl"),
}  # fmt: skip
_CONTAINS = {"wavelengths": "wavelength", "fwhm": "fwhm", "good": "goodwavelength"}
_OTHER = re.compile(
    r"unit|good|bad|valid|flag|mask|index|count|number|uncert|shift|std|error|resol|calib|temper|range|min|max|window|"
    r"coef|offset|scale|lower|upper|start|end|first|last"
)
_NOT_A_LENGTH = re.compile(r"fwhm|width")
_NO_TELLING = {"wavelength", "wavelengths", "fwhm", "good", "bands", "band", "nm", "um", "center", "centre", "centers",
               "centres", "list", "data", "cube", "image", "values", "width", "bandwidth"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class HdfList:
    """One list: where it stands (for messages), its own name, its units if stated, how near to the cube it is."""

    where: str
    name: str
    size: int
    stored: h5py.Dataset | NDArray[np.float64]
    near: float = 0
    units: str | None = None
    words: frozenset[str] = field(default_factory=frozenset)

    def values(self) -> NDArray[np.float64]:
        """(size,)"""
        raw = self.stored if isinstance(self.stored, np.ndarray) else numbers(self.stored)
        return np.asarray(raw, np.float64).ravel()


def band_lists(kind: str, cube: h5py.Dataset, vectors: dict[str, h5py.Dataset]) -> list[HdfList]:
    """All lists of one kind (a key of ``_NAMES``): attributes of the cube and its groups, then ``vectors`` by path."""
    lists = []
    parents = cube.name.strip("/").split("/")[:-1]
    place, near = cube, len(parents) + 1.0
    while True:
        for said in all_said(place):
            listed = said.listed() if _rank(kind, said.name) is not None else None
            if listed is not None and listed.size > 1:
                units = _suffix(said.name) or attribute(place, f"{said.name}_units", f"{said.name}_unit")
                if units is None and kind == "wavelengths":
                    units = attribute(place, "wavelength_units", "wavelength_unit", "wavelengths_units")
                where = f"attribute {said.name} of {place.name}"
                lists.append(HdfList(where, said.name, listed.size, listed, near, units, _telling(said.name)))
        if place.name == "/":
            break
        # farther than a dataset in the same group
        place = place.parent
        near = len(place.name.strip("/").split("/")) - 0.5 if place.name != "/" else -0.5
    for path, item in vectors.items():
        name = path.rsplit("/", 1)[-1]
        if _rank(kind, name) is not None:
            steps = zip(parents, path.split("/")[:-1], strict=False)
            shared = sum(1 for a, b in steps if a == b)
            units = attribute(item, "units", "unit") or _suffix(name)
            lists.append(HdfList(path, name, item.size, item, shared, units, _telling(name)))
    return lists


def choose(kind: str, lists: Sequence[HdfList], cube: str, others: Collection[str]) -> list[HdfList]:
    """The lists that suit a cube best, best names first: one, or several that nothing tells apart.

    Args:
        kind: what the lists hold, such as ``wavelengths``.
        lists: of lengths that fit.
        cube: path of the cube.
        others: paths of the other cubes of the file; a list named after one of them is not ours.
    """
    ours, theirs = _telling(cube.rsplit("/", 1)[-1]), [_telling(other.rsplit("/", 1)[-1]) for other in others]
    own = [
        each for each in lists
        if len(each.words & ours) >= max((len(each.words & words) for words in theirs), default=0)
    ]  # fmt: skip

    def key(each: HdfList) -> tuple[int, int, float, int]:
        return (-len(each.words & ours), len(each.words - ours), -each.near, _rank(kind, each.name) or 0)

    ranked = sorted(own, key=key)
    return [each for each in ranked if key(each) == key(ranked[0])]


def axis_names(cube: h5py.Dataset) -> list[set[str]]:
    """What the file calls each axis: its label and the names of the scales attached to it."""
    names = []
    for dim in cube.dims:
        scales = (str(scale.name).rsplit("/", 1)[-1] for scale in dim.values() if scale.name)
        names.append({name for name in (dim.label, *scales) if name})
    return names


def _rank(kind: str, name: str) -> int | None:
    """How sure a name is, 0 the surest; None: it names something else."""
    folded = fold(name)
    if folded in _NAMES[kind]:
        return _NAMES[kind].index(folded)
    if _CONTAINS[kind] not in folded:
        return None
    rest = folded.replace(_CONTAINS[kind], "")
    if _OTHER.search(rest) or (kind == "wavelengths" and _NOT_A_LENGTH.search(rest)):
        return None
    return len(_NAMES[kind])


def _suffix(name: str) -> str | None:
    found = re.search(r"_(nm|um)$", name.lower())
    return found[1] if found else None


def _telling(name: str) -> frozenset[str]:
    """The words of a name that tell which cube it belongs to."""
    words = re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return frozenset(words) - _NO_TELLING
