"""What a dataset card may say: its parts, how their files are read, and where labels and groups lie.

See :mod:`specfm.cards.card` for an example. Every key is checked when a card is loaded, before any data file is needed.
"""

from __future__ import annotations

import datetime
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from specfm.bands import BandGrid
from specfm.calibration.panel import BRIGHTEST
from specfm.cards.patterns import brackets
from specfm.config import Strict
from specfm.errors import UsageError
from specfm.limits import excess
from specfm.pretreatment import parse_steps
from specfm.sensor_table import SensorRow, get_row

Trust = Literal["high", "medium-high", "medium", "low-medium", "low"]
Task = Literal["unlabelled", "classification", "anomaly", "change", "unmixing", "library"]


def band_ranges(text: str) -> list[int]:
    """Parse 1-based band numbers such as ``"104-108,150-163,220"`` into 0-based indices, order kept.

    Raises:
        ValueError: not numbers, or a range that runs backwards.
    """
    indices: list[int] = []
    for piece in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9]{1,12})(?:-([0-9]{1,12}))?", piece)
        if match is None:
            raise ValueError(f"bands are 1-based numbers and ranges like '1-3,220', got {text[:60]!r}")
        begin, end = int(match[1]), int(match[2] or match[1])
        if begin < 1 or end < begin:
            raise ValueError(f"band range {piece!r} is empty or starts below 1")
        if words := excess("bands", max(end, len(indices))):
            raise ValueError(f"band range {piece!r} is too long; {words}")
        indices.extend(range(begin - 1, end))
    return indices


def _checked_ranges(text: str) -> str:
    band_ranges(text)
    return text


def _checked_bad(text: str) -> str:
    return text if text.lower().endswith(".csv") else _checked_ranges(text)


def usable_path(text: str) -> str:
    """A path or pattern of a card that names a file on every system, and is found in reasonable time.

    Raises:
        ValueError: empty, longer than file systems allow, with a zero byte, or with more than one ``**``.
    """
    parts = PurePosixPath(text).parts
    if not text.strip() or not any(part not in ("/", ".", "..") for part in parts):
        raise ValueError("a path must name a file")
    if "\0" in text:
        raise ValueError("a path must not hold a zero byte")
    if len(text.encode()) > 4095 or any(len(part.encode()) > 255 for part in parts):
        raise ValueError(f"a path of {len(text)} characters is longer than file systems allow")
    if sum("**" in part for part in parts) > 1 or any("**" in part and part != "**" for part in parts):
        raise ValueError("'**' stands for any folders and may be written once, as a part of its own")
    return text


def _as_list(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else [value]


def _as_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Ranges = Annotated[str, AfterValidator(_checked_ranges)]
FilePath = Annotated[str, AfterValidator(usable_path)]
Milliseconds = Annotated[float, Field(gt=0)]


class LabelTable(Strict):
    """A CSV that names the class of whole scenes.

    Attributes:
        path: the CSV.
        key: column that names the scene.
        value: column that names its class.
        match: what of a scene stands in ``key``; filled in like ``group`` of a part.
    """

    path: FilePath
    key: str
    value: str
    match: str = "{name}"


class LabelRows(Strict):
    """A CSV with one line per spectrum of a library, in its order; column ``value`` names the class.

    Attributes:
        path: the CSV.
        value: column that names the class.
    """

    path: FilePath
    value: str


class Labels(Strict):
    """Where the labels of a part lie: a raster, masks by class, a table of scenes or of spectra, or one class for all.

    Attributes:
        path: raster of class numbers; ``{stem}``, ``{parent}`` and the like are filled in (see `Part`).
        variable: name of the array, where the file holds several; filled in likewise.
        order: how a flat raster runs: ``rows``, or ``columns`` as MATLAB does.
        unlabelled: raw values that mean "no label" (not-a-number always does).
        remap: raw value -> class name or index; without it raw values are 0..K-1, or 1..K where 0 is unlabelled.
        dominant: the array holds abundances: a pixel gets its largest class where that share exceeds this number.
        masks: class name -> raster whose non-zero pixels belong to it; pixels in no or several masks are unlabelled.
        table: a CSV with one row per scene: ``path``, column ``key`` that equals ``match``, column ``value``.
        rows: a CSV with one line per spectrum of a library.
        constant: the class of every pixel of the part.
    """

    path: FilePath | None = None
    variable: str | None = None
    order: Literal["rows", "columns"] = "rows"
    unlabelled: list[int] = []
    remap: dict[int | str, int | str] | None = None
    dominant: float | None = Field(default=None, gt=0, lt=1)
    masks: dict[str, FilePath] | None = None
    table: LabelTable | None = None
    rows: LabelRows | None = None
    constant: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Labels:
        kinds = [self.path, self.masks, self.table, self.rows, self.constant]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("give exactly one of path, masks, table, rows and constant")
        wrong = [key for key in self.remap or {} if not str(key).lstrip("-").isdecimal()] if self.path else []
        if wrong:
            raise ValueError(f"remap of a raster goes from its numbers to classes, and {wrong[0]!r} is no whole number")
        return self


class Groups(Strict):
    """A raster of group numbers (crown ids, field ids); pixels of ``background`` get group -1.

    Attributes:
        path: the raster; ``{stem}``, ``{parent}`` and the like are filled in.
        variable: name of the array, where the file holds several.
        order: how a flat raster runs: ``rows``, or ``columns`` as MATLAB does.
        background: numbers that are no group.
    """

    path: FilePath
    variable: str | None = None
    order: Literal["rows", "columns"] = "rows"
    background: list[int] = [0]


class Objects(Strict):
    """Which pixels of a scan show an object; all others are no data, and carry no label.

    Attributes:
        threshold: ``otsu``, or a level: objects are brighter, by the mean of usable bands in stored units (of scans
            with references, after calibration: whose units are 1e-4).
        dark: they are darker instead.
        mask: in place of a threshold, a raster whose non-zero pixels are objects; ``{stem}`` and the like are filled
            in, and ``variable`` names the array where the file holds several.
        variable: of ``mask``: name of the array, where the file holds several.
        fill_holes: pixels that objects enclose belong to them.
        smallest_px: pieces of fewer pixels are no objects (dust, letters of a scale bar).
        each_piece: pieces that touch no other are specimens of their own, numbered from the top (a tray, a drawer);
            else all objects of a scan are one specimen.
    """

    threshold: Literal["otsu"] | float | None = None
    dark: bool = False
    mask: FilePath | None = None
    variable: str | None = None
    fill_holes: bool = True
    smallest_px: int = Field(default=16, ge=1)
    each_piece: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Objects:
        if (self.threshold is None) == (self.mask is None):
            raise ValueError("give threshold (otsu, or a level) or mask (a raster), not both")
        if self.mask is not None and self.dark:
            raise ValueError("dark says on which side of a threshold objects lie; a mask says itself where they are")
        if self.mask is None and self.variable is not None:
            raise ValueError("variable names an array of a mask, and there is none")
        return self


class White(Strict):
    """A white reference scan, written as its path alone or as this mapping.

    Attributes:
        path: the scan; ``{stem}``, ``{parent}`` and the like are filled in (see `Part`), where each scan has its own.
        reflectance: of the panel it shows, 0..1: a number, or a CSV with the columns ``wavelength_nm`` and
            ``reflectance`` that covers the usable bands.
    """

    path: FilePath
    reflectance: float | FilePath = 1.0

    @field_validator("reflectance")
    @classmethod
    def _is_a_share(cls, stated: float | str) -> float | str:
        if isinstance(stated, float) and not 0 < stated <= BRIGHTEST:
            raise ValueError(f"reflectance of a panel is a share above 0 and up to {BRIGHTEST:g} (write 50 % as 0.5)")
        return stated


class IntegrationMs(Strict):
    """Integration times in milliseconds, where the files do not say them or are wrong.

    Attributes:
        scan: of the scans.
        white: of the white reference.
        dark: of the dark reference; a list where there are several.
    """

    scan: Milliseconds | None = None
    white: Milliseconds | None = None
    dark: Annotated[list[Milliseconds], BeforeValidator(_as_list)] | None = None


class Part(Strict):
    """Files of one kind and how to read them (see the module's example).

    Attributes:
        path: file, folder or glob below the data root (or the card's folder); a list is one part for each, alike in
            all else. Of an ENVI header and its data file a glob takes one.
        variable: name of the cube, passed to the reader (MATLAB, HDF5).
        layout: order of its axes, passed to the reader (MATLAB, HDF5, ``.npy``).
        sensor: known instrument (``specfm sensors``); gives the bands where neither file nor card states them.
        bands: 1-based ranges of that instrument's bands that the files keep. Of files that state wavelengths of all its
            bands, and of any file where no ``sensor`` is named, they number the file's own bands, and mark the others
            unusable.
        removed_bands: in place of ``bands``, 1-based ranges of those that are missing from the files.
        wavelengths: band list CSV (centre_nm, fwhm_nm), used where the file itself is silent.
        units: unit of the file's own wavelengths where it does not say it (nm, um, cm-1).
        linear_nm: [first, last, count] for evenly spaced centres, where nothing better is known.
        bad_bands: 1-based ranges, or a CSV with a column ``band``, to mark unusable.
        quantity: what the numbers are; overrides what the file says, as all down to ``gsd_m`` do.
        level: processing level.
        scale: ``physical = stored * scale + offset``.
        offset: in physical units.
        nodata: stored value that means nothing was measured.
        saturation: stored value from which on a pixel is saturated, and so no data.
        gsd_m: ground sampling distance, metres.
        labels: see `Labels`.
        groups: see `Groups`.
        date: day of acquisition (2000-05-03); the two scenes of a group of a card of task ``change`` are a pair by it.
        group: what splits keep together, by default one group per scene. Filled in: ``{card}``; ``{scene}``, the
            scene's name within the card; ``{stem}``, ``{name}`` and ``{parent}``, the file's name without and with its
            ending and its folder's; ``{match}``, the first bracket of ``group_match``, searched in the stem; of files
            but not of groups ``{folder}``, that folder itself (``{folder}/white.raw`` lies beside its scan). A scene is
            called as its file's stem; where stems repeat, as its path below the folder they have in common
            (``scans/*/raw.hdr`` gives ``specimen_a/raw``), and where one file gives several scenes, by ``variable``.
        group_match: regular expression, searched in the file's stem; its first bracket is ``{match}``.
        white: white reference scan, same reader options as the scan, whose raw counts it turns into reflectance; also
            how bright the panel is (`White`).
        dark: dark reference scan; a list where each integration time has its own. Filled in as of ``white``.
        integration_ms: integration times, which win over those that the files state (`IntegrationMs`).
        object: what of a scan is no background (`Objects`), for every command that reads the card.
        pretreatment: what is done to physical values, in order (``[snv, sg1]``; :mod:`specfm.pretreatment.steps`), of
            scans with references after calibration. Whatever reads the card gets the result.
        exclude: file stems to leave out of a glob.
    """

    path: FilePath
    variable: str | None = None
    layout: str | None = None
    sensor: str | None = None
    bands: Ranges | None = None
    removed_bands: Ranges | None = None
    wavelengths: FilePath | None = None
    units: str | None = None
    linear_nm: tuple[float, float, int] | None = None
    bad_bands: Annotated[FilePath, AfterValidator(_checked_bad)] | None = None
    quantity: Literal["dn", "radiance", "toa_reflectance", "surface_reflectance"] | None = None
    level: Literal["raw", "L1", "L2"] | None = None
    scale: float | None = Field(default=None, gt=0)
    offset: float | None = None
    nodata: float | None = None
    saturation: float | None = None
    gsd_m: float | None = Field(default=None, gt=0)
    labels: Labels | None = None
    groups: Groups | None = None
    date: datetime.date | None = None
    group: str = "{card}/{scene}"
    group_match: str | None = None
    white: Annotated[White, BeforeValidator(_as_path)] | None = None
    dark: Annotated[list[FilePath], Field(min_length=1), BeforeValidator(_as_list)] | None = None
    integration_ms: IntegrationMs | None = None
    object: Objects | None = None
    pretreatment: Annotated[list[str], BeforeValidator(_as_list)] = []
    exclude: list[str] = []

    @field_validator("pretreatment")
    @classmethod
    def _known_steps(cls, names: list[str]) -> list[str]:
        try:
            parse_steps(names)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Part:
        if self.bands and self.removed_bands:
            raise ValueError("give bands or removed_bands, not both")
        if (self.white is None) != (self.dark is None):
            raise ValueError("give both white and dark references, or neither")
        if self.integration_ms is not None:
            if self.white is None or self.dark is None:
                raise ValueError("integration_ms compares a scan with its references: name them with white and dark")
            times = self.integration_ms.dark
            if times is not None and len(times) != len(self.dark):
                raise ValueError(f"integration_ms.dark has {len(times)} times for {len(self.dark)} dark references")
        if self.groups is not None and self.object is not None and self.object.each_piece:
            raise ValueError("groups numbers the specimens, and so does object.each_piece; leave one out")
        if "{folder}" in self.group:
            raise ValueError("group uses {folder}, another one on each machine; write {parent} or {scene}")
        if "{match}" in self.group and self.group_match is None:
            raise ValueError("group uses {match}, so group_match must say which part of the file name that is")
        if self.group_match is not None and brackets("group_match", self.group_match) < 1:
            raise ValueError(f"group_match {self.group_match!r} has no bracket around what {{match}} stands for")
        if self.row is not None or self.linear_nm is not None:  # this checks them even where other bands win
            self.table_bands()
        return self

    def table_bands(self) -> BandGrid | None:
        """Bands stated without any file: ``linear_nm`` or the known instrument, narrowed to what the files keep."""
        if self.linear_nm is not None:
            if words := excess("bands", self.linear_nm[2]):
                raise ValueError(f"linear_nm asks for {self.linear_nm[2]} bands; {words}")
            return BandGrid(np.linspace(self.linear_nm[0], self.linear_nm[1], self.linear_nm[2]))
        if self.sensor is None:
            return None
        grid = _row(self.sensor).bands
        return grid.subset(self.kept_bands(len(grid), self.sensor))

    def kept_bands(self, count: int, of: str) -> NDArray[np.int64]:
        """0-based numbers of the bands that ``bands`` or ``removed_bands`` leave of so many.

        Raises:
            ValueError: they number a band beyond those ``of`` something that has ``count``.
        """
        chosen = band_ranges(self.bands or self.removed_bands or f"1-{count}")
        if max(chosen) >= count:
            raise ValueError(f"band {max(chosen) + 1} is beyond the {count} bands of {of}")
        return np.setdiff1d(np.arange(count), chosen) if self.removed_bands else np.array(chosen)

    @property
    def row(self) -> SensorRow | None:
        """The known instrument, if one is named."""
        return None if self.sensor is None else _row(self.sensor)


def _row(name: str) -> SensorRow:
    try:
        return get_row(name)
    except UsageError as error:
        raise ValueError(str(error)) from None  # pydantic adds which key of which card
