"""The scenes of one part of a card: read, labelled, calibrated, told from background and pretreated as it says.

Shapes: H rows, W columns of a scene.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import numpy as np

from specfm.bands import BandGrid
from specfm.cards.digests import check_digests
from specfm.cards.labels import members, read_groups, read_labels, table_column
from specfm.cards.raster_files import read_raster
from specfm.cards.schema import IntegrationMs, Part, Task, band_ranges
from specfm.errors import SpecfmError
from specfm.grids import Grid
from specfm.objects import numbered, object_pixels, on_objects, tidied
from specfm.pretreatment import pretreat
from specfm.scene import Scene
from specfm.sensors import IntegrationTime, Sensor

References = tuple[Scene, list[Scene]]  # white and darks, as they were measured


class CardFacts(Protocol):
    """What of a card holds for all its parts; see :class:`specfm.cards.card.Card`."""

    @property
    def name(self) -> str: ...

    @property
    def domain(self) -> str: ...

    @property
    def task(self) -> Task: ...

    @property
    def label_names(self) -> list[str]: ...

    @property
    def sha256(self) -> dict[str, str]: ...

    def find(self, relative: str, root: Path | None) -> Path: ...

    def first(self, relative: str, root: Path | None) -> Path | None: ...


class PartScenes:
    """Opens files as a part of a card says.

    Args:
        card: what is said of all parts.
        part: what is said of this one.
        root: data folder, as of :meth:`specfm.cards.card.Card.scenes`.
    """

    def __init__(self, card: CardFacts, part: Part, root: Path | None = None) -> None:
        self.card, self.part, self.root = card, part, root
        self._opened: tuple[tuple[str, ...], References] | None = None  # of the last scan

    def scan(self, path: Path, name: str, saturation: float | None = None) -> tuple[Scene, Scene]:
        """The scene of a file as it was measured, and as the card gives it.

        Args:
            path: the file.
            name: of the scene within the card.
            saturation: of the counts, in place of the card's.
        """
        scene = self._measured(path, name)
        if saturation is not None:
            scene = scene.replace(saturation=saturation)
        given = self._on_objects(self._calibrated(scene, path, name, saturation), path, name)
        return scene, pretreat(given, self.part.pretreatment)

    def references(self, path: Path | None = None, name: str = "") -> References | None:
        """White and dark reference scans of a scan, opened once for scans in a row that share them.

        Args:
            path: the scan; needed where the names of its references say ``{stem}`` and the like.
            name: of its scene within the card.

        Returns:
            None where the part names no references.
        """
        files = self.reference_files(path, name)
        if not files:
            return None
        if self._opened is None or self._opened[0] != files:
            self._opened = files, self._open_references(*files)
        return self._opened[1]

    def reference_files(self, path: Path | None = None, name: str = "") -> tuple[str, ...]:
        """What the card calls the white reference of a scan and its dark ones; none where it names none."""
        part = self.part
        if part.white is None or part.dark is None:
            return ()
        named = (part.white.path, *part.dark)
        return named if path is None else tuple(self._fill(each, path, name) for each in named)

    def _open_references(self, white: str, *dark: str) -> References:
        times = self.part.integration_ms or IntegrationMs()

        def opened(name: str, time: float | None) -> Scene:
            own = {key: Part.model_fields[key].default for key in ("labels", "groups", "group", "group_match", "date")}
            alone = PartScenes(self.card, self.part.model_copy(update={**own, "path": name}), self.root)
            return _taken_in(time, alone._measured(self._find(name), Path(name).stem))

        dark_times: list[float | None] = [*times.dark] if times.dark else [None] * len(dark)
        darks = [opened(name, time) for name, time in zip(dark, dark_times, strict=True)]
        return opened(white, times.white), darks

    def _find(self, relative: str) -> Path:
        return self.card.find(relative, self.root)

    def _fill(self, template: str, path: Path, name: str) -> str:
        return _filled(template, self.card.name, name, path, self.part.group_match)

    def _measured(self, path: Path, name: str) -> Scene:
        from specfm.readers import read_scene
        from specfm.readers.resolve import read_wavelengths

        card, part = self.card, self.part
        digests = {card.first(file, self.root): digest for file, digest in card.sha256.items()}
        check_digests(card.name, {file: digest for file, digest in digests.items() if file is not None}, path)
        row = part.row
        grid = read_wavelengths(self._find(part.wavelengths)) if part.wavelengths else part.table_bands()
        instrument = None if row is None else row.name
        scene = read_scene(
            path,
            variable=part.variable,
            layout=part.layout,
            # a list of the card is not called by the instrument's name where the reader says what it took
            sensor=None if grid is None else Sensor(grid, name=None if part.wavelengths else instrument),
            units=part.units,
            quantity=part.quantity,
            scale=part.scale,
            offset=part.offset,
            nodata=part.nodata,
            name=f"{card.name}/{name}",
        )
        bands = self._narrowed(scene.sensor.bands, path)
        sensor = scene.sensor.replace(bands=self._mark_bad(bands))
        told = {"name": instrument, "level": part.level, "gsd_m": part.gsd_m or sensor.gsd_m or (row and row.gsd_m)}
        lies, labels, groups = Grid.of(scene), part.labels, part.groups

        def fill(template: str) -> str:
            return self._fill(template, path, name)

        return scene.replace(
            sensor=sensor.replace(**{key: value for key, value in told.items() if value is not None}),
            dataset=card.name,
            domain=card.domain,
            neighbours=scene.neighbours and card.task != "library",
            group=fill(part.group),
            saturation=part.saturation if part.saturation is not None else scene.saturation,
            label_names=tuple(card.label_names),
            labels_HW=labels and read_labels(labels, card.label_names, lies, self._find, fill),
            groups_HW=groups and read_groups(groups, lies, self._find, fill),
        )

    def _calibrated(self, scene: Scene, path: Path, name: str, saturation: float | None) -> Scene:
        """A scan as reflectance where its part has references, else as it is."""
        from specfm.calibration import calibrate

        part, references = self.part, self.references(path, name)
        if references is None or part.white is None:
            return scene
        white, darks = references
        panel = part.white.reflectance
        if part.integration_ms is not None:
            scene = _taken_in(part.integration_ms.scan, scene)
        return calibrate(scene, white, darks, saturation, self._find(panel) if isinstance(panel, str) else panel)

    def _on_objects(self, scene: Scene, path: Path, name: str) -> Scene:
        """A scan without its background where its part says what that is, else as it is.

        Raises:
            SpecfmError: a mask that is missing or does not fit, or no pixel that shows an object.
        """
        rule = self.part.object
        if rule is None:
            return scene
        if rule.mask is not None:
            mask, variable = (text and self._fill(text, path, name) for text in (rule.mask, rule.variable))
            raster = read_raster(self._find(str(mask)), variable)
            mask_HW = members(raster, Grid.of(scene))
        else:
            assert rule.threshold is not None, "the schema asks for one of both"
            mask_HW = object_pixels(scene, rule.threshold, rule.dark)
        mask_HW = tidied(mask_HW, rule.fill_holes, rule.smallest_px)
        if not mask_HW.any():
            raise SpecfmError(
                f"card {self.card.name}: {scene.where}: no pixel is left of its objects; look at object in the card "
                "(threshold, dark, smallest_px)"
            )
        given = on_objects(scene, mask_HW)
        return given.replace(groups_HW=numbered(mask_HW)) if rule.each_piece else given

    def _mark_bad(self, bands: BandGrid) -> BandGrid:
        stated = self.part.bad_bands
        if stated is None:
            return bands
        bad = _band_column(self._find(stated)) if stated.lower().endswith(".csv") else band_ranges(stated)
        for band in bad:
            if not 0 <= band < len(bands):
                raise SpecfmError(
                    f"card {self.card.name}: bad band {band + 1} is not among the {len(bands)} bands of the file"
                )
        valid = bands.valid.copy()
        valid[bad] = False
        return BandGrid(bands.wavelengths_nm, bands.fwhm_nm, valid)

    def _narrowed(self, bands: BandGrid, path: Path) -> BandGrid:
        """What ``bands`` or ``removed_bands`` leave usable of a file that states its wavelengths itself.

        Raises:
            SpecfmError: the file has neither all bands of the instrument that is named, nor those that are kept.
        """
        part = self.part
        if part.bands is None and part.removed_bands is None:
            return bands
        key, row = "bands" if part.bands else "removed_bands", part.row
        of = path.name if row is None else part.sensor or ""
        try:
            kept = part.kept_bands(len(bands) if row is None else len(row.bands), of)
        except ValueError as error:
            raise SpecfmError(f"card {self.card.name}: {key}: {error}") from None
        if row is not None and len(kept) == len(bands):
            return bands
        if row is not None and len(row.bands) != len(bands):
            raise SpecfmError(
                f"card {self.card.name}: {path.name} has {len(bands)} bands, neither the {len(row.bands)} of "
                f"{part.sensor} nor the {len(kept)} that {key} leaves of them; correct {key}, or leave out sensor so "
                "that it numbers the file's own bands"
            )
        valid = np.zeros(len(bands), bool)
        valid[kept] = bands.valid[kept]
        return BandGrid(bands.wavelengths_nm, bands.fwhm_nm, valid)


def _taken_in(milliseconds: float | None, scene: Scene) -> Scene:
    """The scene with the integration time that the card states, where it does."""
    return scene if milliseconds is None else scene.replace(integration=IntegrationTime.of_ms(milliseconds))


def _filled(template: str, card: str, scene: str, path: Path, pattern: str | None = None) -> str:
    parent = path.absolute().parent
    told = {"card": card, "scene": scene, "stem": path.stem, "name": path.name, "parent": parent.name}
    told["folder"] = str(parent)
    text = template
    for key, value in told.items():
        text = text.replace(f"{{{key}}}", value)
    if pattern is not None and "{match}" in text:
        match = re.search(pattern, path.stem)
        if match is None:
            raise SpecfmError(f"card {card}: group_match {pattern!r} does not occur in the file name {path.name}")
        text = text.replace("{match}", match.group(1))
    return text


def _band_column(path: Path) -> list[int]:
    bands = []
    for row, text in enumerate(table_column(path, "band"), 1):
        if not re.fullmatch(r"\s*[0-9]{1,12}\s*", text or ""):
            raise SpecfmError(f"{path}: row {row}: the column band must hold 1-based band numbers only")
        bands.append(int(text) - 1)
    return bands
