"""What the attributes around an HDF5 cube state, in whatever spelling, and what of it was not used.

Names are compared without case, blanks and underscores. Attributes of the cube come first, then those of its groups
from the nearest on, where only names that can mean nothing else count, and numbers stored beside the cube under such a
name. C bands.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specfm.readers.axes import fold
from specfm.readers.hdf_attributes import Said, all_said

if TYPE_CHECKING:
    import h5py

    from specfm.readers.found import Found

log = logging.getLogger(__name__)

# Folded names, the surest first. A group may say those of the first line about the cubes in it.
_PLAIN = {
    "scale": ("scalefactor", "reflectancescalefactor", "radiancescalefactor", "scalingfactor"),
    "offset": ("addoffset",),
    "fill": ("fillvalue", "missingvalue", "dataignorevalue", "nodata", "nodatavalue", "ignorevalue", "missingdata"),
}
_ON_CUBE = {
    "scale": (*_PLAIN["scale"], "scale"),
    "offset": (*_PLAIN["offset"], "offset"),
    "fill": (*_PLAIN["fill"], "missing", "fill"),
    "range": ("validrange",),
    "low": ("validmin",),
    "high": ("validmax",),
    "unsigned": ("unsigned",),
}
_AROUND = frozenset(name for names in _PLAIN.values() for name in names)
_LOOKS_LIKE = re.compile(
    r"scale|scaling|offset|gain|slope|intercept|fill|missing|nodata|ignore|valid(range|min|max)|saturat"
)
_DIVIDES = ("reflectancescalefactor", "radiancescalefactor")  # ENVI: the number that stands for 1


class Stated:
    """What is stated about one cube of ``count`` bands; remembers what was used."""

    def __init__(self, path: Path, cube: h5py.Dataset, count: int):
        import h5py

        self.path, self.cube, self.count = path, cube, count
        self._cube = list(all_said(cube))
        self._around: list[Said] = []
        group = cube.parent
        beside = {
            name: item[()]
            for name, item in ((name, group.get(name)) for name in group if fold(name) in _AROUND)
            if isinstance(item, h5py.Dataset) and item.size in (1, count)
        }
        self._around += all_said(group, beside)
        self._masks = [
            name for name in group
            if re.search("nodata|missing|ignore|fill", fold(name)) and getattr(group.get(name), "ndim", 0) == 2
        ]  # fmt: skip
        while True:
            self._around += all_said(group)
            if group.name == "/":
                break
            group = group.parent
        self._used: set[tuple[str, str]] = set()

    def find(self, what: str) -> list[Said]:
        """The attributes of one kind at the nearest place that has any, the surest spelling first; counted as used."""
        for said, names in ((self._cube, _ON_CUBE[what]), (self._around, _PLAIN.get(what, ()))):
            found = [each for each in said if fold(each.name) in names]
            if not found:
                continue
            nearest = [each for each in found if each.item.name == found[0].item.name]
            nearest.sort(key=lambda each: names.index(fold(each.name)))
            if said is self._around:
                log.info("%s: %s of %s holds for %s", self.path, nearest[0].name, nearest[0].item.name, self.cube.name)
            return nearest
        return []

    def calibration(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Factor and offset, (1,) or (C,) each, of ``physical = stored * factor + offset``; None = not stated.

        ``scale_factor`` multiplies, as the CF conventions say. In other spellings (NEON, ENVI) a number above 1 is what
        stands for 1, so it divides.

        Raises:
            SpecfmError: no number, zero, or a list of another length than the bands.
        """
        lists: list[NDArray[np.float64] | None] = []
        for what in ("scale", "offset"):
            found = self.find(what)
            if not found:
                lists.append(None)
                continue
            said = self._use(found[0])
            values = said.numbers()
            if len(values) not in (1, self.count):
                raise said.refusal(f"one value, or one for each of {self.count} bands, is needed")
            if not np.isfinite(values).all() or (what == "scale" and not values.all()):
                raise said.refusal(f"a finite number{' other than zero' if what == 'scale' else ''} is needed")
            lists.append(self._factor(said, values) if what == "scale" else values)
        return lists[0], lists[1]

    def _factor(self, said: Said, values: NDArray[np.float64]) -> NDArray[np.float64]:
        name = fold(said.name)
        if said.name == "scale_factor":
            if self.cube.dtype.kind in "iu" and values.min() >= 100:
                log.warning(
                    "%s: scale_factor = %s multiplies, as the CF conventions say; where it is meant to divide, say "
                    "--scale %g", self.path, said.words[0], 1 / values[0],
                )  # fmt: skip
            return values
        if name in _DIVIDES or (values > 1).all():
            log.info("%s: %s = %s stands for 1, so it divides", self.path, said.name, said.words[0])
            return np.asarray(1.0 / values)
        return values

    def _as_meant(self, value: float, view: np.dtype[Any] | None) -> float:
        """A number written in the stored type, in the type that ``_Unsigned`` says."""
        if view is None or not float(value).is_integer():
            return value
        info = np.iinfo(self.cube.dtype)
        inside = info.min <= value <= info.max
        return float(np.array(int(value), self.cube.dtype.newbyteorder("=")).view(view)) if inside else value

    def fills(self, view: np.dtype[Any] | None = None) -> list[float]:
        """All stored values that mean "not measured", each once. ``_FillValue`` is one value, others may be lists.

        ``view``: what :meth:`view` gave; the values are told in it.
        """
        values: list[float] = []
        for said in self.find("fill"):
            self._use(said)
            stated = [said.one_number()] if fold(said.name) == "fillvalue" else said.numbers().tolist()
            values += [self._as_meant(value, view) for value in stated]
        # by their text: NaN equals NaN here
        return list({repr(value): value for value in values}.values())

    def valid_range(
        self,
        factor: NDArray[np.float64] | None,
        offset: NDArray[np.float64] | None,
        view: np.dtype[Any] | None = None,
    ) -> tuple[float, float] | None:
        """Lowest and highest valid stored value; None = not stated.

        Stated as a fraction for packed integers, it is meant in physical units (netCDF: the type of the attribute
        tells), and brought back to stored ones.
        """
        low, high = -np.inf, np.inf
        used = []
        for said in self.find("range")[:1]:
            if len(said.words) != 2:
                raise said.refusal("two values are needed")
            used.append(self._use(said))
            low, high = said.numbers().tolist()
        for said in self.find("low")[:1]:
            used.append(self._use(said))
            low = said.one_number()
        for said in self.find("high")[:1]:
            used.append(self._use(said))
            high = said.one_number()
        if not used:
            return None
        packed = self.cube.dtype.kind in "iu" and (factor is not None or offset is not None)
        if packed and any(said.kind == "f" for said in used):
            gain, shift = np.ones(1) if factor is None else factor, np.zeros(1) if offset is None else offset
            if gain.size > 1 or shift.size > 1 or gain[0] < 0:
                self._used -= {(said.item.name, said.name) for said in used}  # said to be unused
                return None
            low, high = (low - shift[0]) / gain[0], (high - shift[0]) / gain[0]
            low, high = low - 1e-6 * max(1.0, abs(low)), high + 1e-6 * max(1.0, abs(high))  # rounding is not outside
        else:
            low, high = self._as_meant(low, view), self._as_meant(high, view)
        if not low <= high:
            raise used[0].refusal("the lower end must come first")
        edges = [(f"below {low:g}", low > -np.inf), (f"above {high:g}", high < np.inf)]
        says = " and ".join(words for words, stated in edges if stated)
        if says:
            log.info("%s: stored values %s count as nodata (%s)", self.path, says, used[0].name)
        return low, high

    def view(self) -> np.dtype[Any] | None:
        """The type the stored integers are meant to have, where netCDF's ``_Unsigned`` says another; else None."""
        dtype = self.cube.dtype.newbyteorder("=")
        for said in self.find("unsigned")[:1]:
            self._use(said)
            word = said.one().lower()
            if word not in ("true", "false", "1", "0"):
                raise said.refusal("true or false is needed")
            meant = {"true": "u", "1": "u", "false": "i", "0": "i"}[word]
            if dtype.kind in "iu" and dtype.kind != meant:
                return np.dtype(f"{meant}{dtype.itemsize}")
        return None

    def note_unused(self, saturation: bool = False) -> None:
        """Say in one note what is stated about the cube's numbers and was not used.

        Args:
            saturation: what is stated of it was.
        """
        unused = [
            f"{said.name} = {', '.join(said.words[:4])}{', ...' if len(said.words) > 4 else ''}"
            for said in self._cube
            if _LOOKS_LIKE.search(fold(said.name)) and (said.item.name, said.name) not in self._used
            and not (saturation and "saturat" in fold(said.name))
        ]  # fmt: skip
        unused += [
            f"{said.name} (of {said.item.name})"
            for said in self._around
            if fold(said.name) in _AROUND and (said.item.name, said.name) not in self._used
        ]
        unused += [f"the array {name} beside it" for name in self._masks]
        if unused:
            log.warning("%s: %s also states what is not used: %s", self.path, self.cube.name, "; ".join(unused))

    def _use(self, said: Said) -> Said:
        self._used.add((said.item.name, said.name))
        return said


def describe_numbers(stated: Stated, found: Found, view: np.dtype[Any] | None = None) -> None:
    """Take scale, offset and the values that are no measurements; say what else is stated.

    Args:
        stated: what the file says of its numbers.
        found: changed in place.
        view: what ``stated.view()`` gave.
    """
    factor, shift = stated.calibration()
    count = stated.count
    if any(each is not None and each.size > 1 for each in (factor, shift)) or (factor is not None and factor[0] < 0):
        found.gains = (
            np.ones(count) if factor is None else np.broadcast_to(factor, count),
            np.zeros(count) if shift is None else np.broadcast_to(shift, count),
        )
    else:
        found.scale, found.offset = (None if each is None else float(each[0]) for each in (factor, shift))
    fills = stated.fills(view)
    found.nodata, found.fills = (fills[0], tuple(fills[1:])) if fills else (None, ())
    if found.fills:
        log.info("%s: several values count as nodata: %s", found.path, ", ".join(f"{value:g}" for value in fills))
    found.valid_range = stated.valid_range(factor, shift, view)
    stated.note_unused(saturation=found.saturation is not None and not found.is_scaled)
