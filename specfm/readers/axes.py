"""Which axis of an array holds the bands: one rule for every format that does not fix it.

What is said beats what is counted, and what the file says beats what is supplied: the layout asked for; the name of an
axis in the file; the file's own list of wavelengths, where exactly one axis is as long; else the bands come last, and a
list that is supplied must agree. Nothing is turned round because a supplied list happens to fit: the layout is asked
for. Axes: H rows, W columns, C bands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from specfm.errors import SpecfmError

BAND_AXIS = {"CHW": 0, "HCW": 1, "HWC": 2}  # layout -> the axis with the bands
_LAYOUTS = {axis: layout for layout, axis in BAND_AXIS.items()}
_ORDINALS = ("first", "second", "last")
_SPECTRAL = re.compile(r"wavelength|(bands?|channels?)$|^spectral$")
_SPATIAL = re.compile(
    r"^(x|y|lat|latitude|lon|longitude|easting|northing|downtrack|crosstrack|alongtrack|acrosstrack|"
    r"(n|num|numberof)?(rows?|cols?|columns?|lines?|samples?|scans?|pixels?)|ccdpixels|height|width)$"
)


def fold(name: str) -> str:
    """A name without what spellings differ in: case, blanks, underscores (``Scale Factor`` = ``ScaleFactor``)."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def band_layout(
    what: str,
    shape: Sequence[int],
    layout: str | None,
    own: int | None = None,
    names: Sequence[Collection[str]] = ((), (), ()),
    supplied: Callable[[], int | None] = lambda: None,
) -> str:
    """The layout of an array of three axes: HWC, CHW or HCW.

    Args:
        what: file and array, for messages.
        shape: sizes of the three axes.
        layout: the one the user asks for, or None.
        own: length of the file's own list of wavelengths, None without one.
        names: what the file calls each axis.
        supplied: length of the list that the user supplies, None without one; asked only where it matters.

    Raises:
        SpecfmError: several axes could hold the bands, or the supplied list fits another axis than the one taken.
    """
    if layout is None:
        axis = named_axis(names)
        fits = [i for i, size in enumerate(shape) if size == own]
        if axis is None and len(fits) > 1:
            raise SpecfmError(
                f"{what} has shape {by(shape)} and {own} wavelengths, so its band axis cannot be told; say "
                f"{_options(fits)}"
            )
        if axis is None and fits:
            axis = fits[0]
        told = axis is not None
        axis = 2 if axis is None else axis
    else:
        axis, told = BAND_AXIS[layout], True
    if own == shape[axis]:
        return _LAYOUTS[axis]
    count = supplied()
    fits = [i for i, size in enumerate(shape) if size == count]
    if count is None or not fits or (told and axis in fits) or fits == [axis]:
        return _LAYOUTS[axis]
    if axis in fits:
        raise SpecfmError(
            f"{what} has shape {by(shape)}, of which {len(fits)} axes fit the {count} bands of the list that was "
            f"supplied, so its band axis cannot be told; say {_options(fits)}"
        )
    raise SpecfmError(
        f"{what} has shape {by(shape)}; as {_LAYOUTS[axis]} it has {shape[axis]} bands, but the list that was supplied "
        f"has {count}, as many as the {' and the '.join(_ORDINALS[i] for i in fits)} axis; if the bands stand there, "
        f"say {_options(fits)}"
    )


def named_axis(names: Sequence[Collection[str]]) -> int | None:
    """The axis that the file names: the only one called after bands, or the one left by two called after places."""
    folded = [{fold(name) for name in axis} for axis in names]
    spectral = [i for i, axis in enumerate(folded) if any(_SPECTRAL.search(name) for name in axis)]
    if len(spectral) == 1:
        return spectral[0]
    other = [i for i, axis in enumerate(folded) if not any(_SPATIAL.search(name) for name in axis)]
    return other[0] if not spectral and len(other) == 1 else None


def by(shape: Sequence[int]) -> str:
    """A shape as messages say it: ``12x10x6``."""
    return "x".join(map(str, shape))


def _options(axes: Sequence[int]) -> str:
    return " or ".join(f"--layout {_LAYOUTS[axis]}" for axis in sorted(axes, reverse=True))
