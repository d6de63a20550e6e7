"""Dataset cards: a small YAML file that turns any folder of files into scenes with labels, groups and a domain.

A card lists parts; each part is a file or a glob, how to read it and where its labels lie. Keys of a part written at
the top of the card are defaults for all its parts, so a card of one part needs no list. Example::

    name: my_fields
    domain: neon
    path: plots/*.tif
    wavelengths: plots/bands.csv
    quantity: surface_reflectance
    scale: 0.0001
    labels: {path: labels.npz, variable: "{stem}__species", unlabelled: [0]}
    label_names: [oak, pine]
    group: "{stem}"

The keys are described in :mod:`specfm.cards.schema`. Shapes: H rows, W columns, C bands of a scene; K classes. Labels
are int32 everywhere in specfm: -1 unlabelled, classes 0..K-1.
"""

from __future__ import annotations

import datetime
import difflib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from specfm.bands import BandGrid
from specfm.cards.digests import Digest, check_digests, read_with, refuse_unread
from specfm.cards.labels import members, read_groups, read_labels, table_column
from specfm.cards.names import scene_names
from specfm.cards.raster_files import read_raster
from specfm.cards.schema import IntegrationMs, Part, Task, Trust, band_ranges
from specfm.config import Strict, build_config, config_roots, find_config, read_yaml
from specfm.errors import SpecfmError, UsageError
from specfm.grids import Grid, require_one_grid
from specfm.limits import UNTRUSTED, switched_on
from specfm.objects import object_pixels, on_objects, tidied
from specfm.pretreatment import pretreat
from specfm.scene import Scene
from specfm.sensors import IntegrationTime, Sensor

References = tuple[Scene, list[Scene]]  # white and darks, as they were measured


class Card(Strict):
    """A dataset card.

    Attributes:
        name, title: short name (as in file names) and a sentence.
        domain: what the mixture balances by (``aviris``, ``neon``, ``lab`` ...).
        task: what the labels are good for; ``library`` marks point spectra without neighbourhood.
        citation, licence, obtain: whom to cite, terms as known, where users get the files.
        wavelength_trust, wavelength_note: how well the band list is known, and why; None is not known.
        label_names: the K classes.
        label_note: how the labels came about, where it matters.
        sha256: data file -> its digest, where known (a line per file of a glob); checked when the scene is opened.
            An ENVI cube is not its header: whoever gives the header's digest gives the cube's too.
        parts: see `Part`.
    """

    name: str
    title: str = ""
    domain: str
    task: Task = "unlabelled"
    citation: str = ""
    licence: str = ""
    obtain: str = ""
    wavelength_trust: Trust | None = None
    wavelength_note: str = ""
    label_names: list[str] = []
    label_note: str = ""
    sha256: dict[str, Digest] = {}
    parts: list[Part] = Field(min_length=1)
    keys_beside: ClassVar[tuple[str, ...]] = tuple(Part.model_fields)
    _folder: Path = PrivateAttr(Path("."))

    @model_validator(mode="before")
    @classmethod
    def _spread_defaults(cls, data: Any) -> Any:
        """Move keys of `Part` written at the top into every part, where the part does not set them itself."""
        if not isinstance(data, dict):
            return data
        shared = {key: data[key] for key in Part.model_fields if key in data}
        rest = {key: value for key, value in data.items() if key not in shared}
        parts = data.get("parts", [{}])
        if isinstance(parts, list) and all(isinstance(part, dict) for part in parts):
            rest["parts"] = [{**shared, **part} for part in parts]
        return rest

    @model_validator(mode="after")
    def _names_are_known(self) -> Card:
        for part in self.parts:
            if part.labels is None:
                continue
            if not self.label_names:
                raise ValueError("a card with labels lists its classes in label_names")
            used: list[Any] = [*(part.labels.masks or {}), *(part.labels.remap or {}).values(), part.labels.constant]
            for name in used:
                if isinstance(name, str) and name not in self.label_names:
                    raise ValueError(f"class {name!r} is not in label_names")
                if isinstance(name, int) and not 0 <= name < len(self.label_names):
                    raise ValueError(f"class index {name} is outside 0..{len(self.label_names) - 1}")
        return self

    def files(self, root: Path | None = None) -> list[tuple[Part, Path]]:
        """The data files of every part, sorted within a part.

        Raises:
            SpecfmError: a part matches nothing (the message names the path and SPECFM_DATA), or ``sha256`` names a file
                that the card does not read.
        """
        found = [(part, path) for part in self.parts for path in self._expand(part, root)]
        if self.sha256:
            named = ((part.white, part.dark or []) for part in self.parts)
            names = [name for white, dark in named if white is not None for name in (white.path, *dark)]
            references = [self._first(name, root) for name in names]
            opened = [*(path for _, path in found), *(path for path in references if path is not None)]
            refuse_unread(self.name, {name: self._first(name, root) for name in self.sha256}, opened)
        return found

    def names(self, root: Path | None = None) -> list[str]:
        """What the scenes are called within the card; no file is opened."""
        return [name for _, _, name in self._named(root)]

    def scenes(
        self,
        root: Path | None = None,
        *,
        saturation: float | None = None,
        only: Callable[[str], bool] = lambda name: True,
    ) -> Iterator[Scene]:
        """The scenes of the card, with labels_HW, label_names, group, groups_HW and domain filled in.

        Where a part names white and dark references its scans come as reflectance (:mod:`specfm.calibration`), where it
        says which pixels show objects all others are no data (:mod:`specfm.objects`; a threshold is found by reading
        the scan once), and where it names pretreatments its spectra come pretreated (:mod:`specfm.pretreatment`).

        Args:
            root: data folder; by default the card's own folder, then ``SPECFM_DATA``, then ``../shared/data``.
            saturation: of the counts, in place of the card's.
            only: tells by its name within the card whether a scene is wanted; no other is opened.
        """
        for _, scene in self.scans(root, saturation=saturation, only=only):
            yield scene

    def scans(
        self,
        root: Path | None = None,
        *,
        saturation: float | None = None,
        only: Callable[[str], bool] = lambda name: True,
    ) -> Iterator[tuple[Scene, Scene]]:
        """Every scene as it was measured and as :meth:`scenes` gives it; one and the same without references and
        pretreatment."""
        opened: dict[int, References | None] = {}
        for part, path, name in self._named(root):
            if only(name):
                scene = self._scene(part, path, root, name)
                if id(part) not in opened:
                    opened[id(part)] = self.references(part, root)
                calibrated = self._calibrated(scene, part, opened[id(part)], root, saturation)
                yield scene, pretreat(self._on_objects(calibrated, part, path, root, name), part.pretreatment)

    def pairs(self, root: Path | None = None) -> list[tuple[Scene, Scene]]:
        """Before and after of every pair of a card of task ``change``: the two scenes of one group, by their date.

        The labels belong to the pair: those of the earlier scene, or where it has none those of the later.

        Raises:
            SpecfmError: another task, a part without date, a group that is not two scenes of two dates, or two dates
                that are not on one grid.
        """
        if self.task != "change":
            raise SpecfmError(f"card {self.name} has task {self.task}, not change; pairs need a card with two dates")
        dates: dict[str, datetime.date] = {}
        for part, _, name in self._named(root):
            if part.date is None:
                raise SpecfmError(f"card {self.name}: {part.path} has no date; write date: YYYY-MM-DD in its part")
            dates[name] = part.date
        found: dict[str, list[tuple[datetime.date, Scene]]] = {}
        for day, scene in zip(dates.values(), self.scenes(root), strict=True):
            found.setdefault(scene.group, []).append((day, scene))
        pairs = []
        for group, dated in found.items():
            days = sorted({day for day, _ in dated})
            if len(dated) != 2 or len(days) != 2:
                listed = ", ".join(f"{scene.name} ({day})" for day, scene in dated)
                raise SpecfmError(
                    f"card {self.name}: group {group!r} has {listed}; a pair needs two scenes of different dates, so "
                    'give each pair its own group (group: "{stem}" where the files of a pair are called alike)'
                )
            before, after = (scene for _, scene in sorted(dated, key=lambda each: each[0]))
            require_one_grid(Grid.of(before), Grid.of(after))
            if before.labels_HW is None:
                before = before.replace(labels_HW=after.labels_HW)
            pairs.append((before, after))
        return pairs

    def references(self, part: Part, root: Path | None = None) -> References | None:
        """The white reference scan of a part and its dark ones, or None; raw counts like the scan itself."""
        if part.white is None or part.dark is None:
            return None
        times = part.integration_ms or IntegrationMs()

        def opened(name: str, time: float | None) -> Scene:
            own = {key: Part.model_fields[key].default for key in ("labels", "groups", "group", "group_match", "date")}
            alone = part.model_copy(update={**own, "path": name})
            return _taken_in(time, self._scene(alone, self.find(name, root), root, Path(name).stem))

        dark_times: list[float | None] = [*times.dark] if times.dark else [None] * len(part.dark)
        darks = [opened(name, time) for name, time in zip(part.dark, dark_times, strict=True)]
        return opened(part.white.path, times.white), darks

    def _calibrated(
        self, scene: Scene, part: Part, references: References | None, root: Path | None, saturation: float | None
    ) -> Scene:
        """A scan as reflectance where its part has references, else as it is."""
        from specfm.calibration import calibrate

        if references is None or part.white is None:
            return scene
        white, darks = references
        panel = part.white.reflectance
        if part.integration_ms is not None:
            scene = _taken_in(part.integration_ms.scan, scene)
        return calibrate(scene, white, darks, saturation, self.find(panel, root) if isinstance(panel, str) else panel)

    def _on_objects(self, scene: Scene, part: Part, path: Path, root: Path | None, name: str) -> Scene:
        """A scan without its background where its part says what that is, else as it is.

        Raises:
            SpecfmError: a mask that is missing or does not fit, or no pixel that shows an object.
        """
        rule = part.object
        if rule is None:
            return scene
        if rule.mask is not None:

            def fill(template: str) -> str:
                return _filled(template, self.name, name, path, part.group_match)

            raster = read_raster(self.find(fill(rule.mask), root), rule.variable and fill(rule.variable))
            mask_HW = members(raster, Grid.of(scene))
        else:
            assert rule.threshold is not None, "the schema asks for one of both"
            mask_HW = object_pixels(scene, rule.threshold, rule.dark)
        mask_HW = tidied(mask_HW, rule.fill_holes, rule.smallest_px)
        if not mask_HW.any():
            raise SpecfmError(
                f"card {self.name}: {scene.where}: no pixel is left of its objects; look at object in the card "
                "(threshold, dark, smallest_px)"
            )
        return on_objects(scene, mask_HW)

    def find(self, relative: str, root: Path | None = None) -> Path:
        """Resolve a path of the card against the data folders.

        Raises:
            SpecfmError: found in none of them.
        """
        found = self._first(relative, root)
        if found is None:
            raise self._absent(relative, root)
        return found

    def _first(self, relative: str, root: Path | None) -> Path | None:
        found = next((folder / relative for folder in self._roots(root) if (folder / relative).exists()), None)
        return found and self._inside(found)

    def _inside(self, path: Path) -> Path:
        """The path, unless the card is not trusted and it leads out of its folder, by a link too."""
        if switched_on(UNTRUSTED) and not self._is_shipped:
            for file in (path, *read_with(path)):
                if not file.resolve().is_relative_to(self._folder):
                    raise SpecfmError(
                        f"card {self.name}: {path} leads out of the card's folder {self._folder}, where a card that is "
                        "not trusted may not read; copy the file there, or leave out --untrusted"
                    )
        return path

    @property
    def _is_shipped(self) -> bool:
        return any(self._folder.is_relative_to(top.resolve()) for top in config_roots())

    def _roots(self, root: Path | None) -> list[Path]:
        if root is not None:
            return [Path(root)]
        if switched_on(UNTRUSTED) and not self._is_shipped:
            return [self._folder]
        return [*([] if self._is_shipped else [self._folder]), *data_folders()]

    def _expand(self, part: Part, root: Path | None) -> list[Path]:
        for folder in self._roots(root):
            found = [folder / part.path] if (folder / part.path).is_file() else _glob(folder, part.path)
            found = [path for path in found if path.stem not in part.exclude]
            if found:
                return [self._inside(path) for path in found]
        raise self._absent(part.path, root)

    def _absent(self, relative: str, root: Path | None) -> SpecfmError:
        looked = " or ".join(str(folder) for folder in self._roots(root)) or "any data folder"
        where = f" ({self.obtain})" if self.obtain else ""
        return SpecfmError(f"card {self.name}: no {relative} below {looked}; set SPECFM_DATA to its folder{where}")

    def _named(self, root: Path | None) -> list[tuple[Part, Path, str]]:
        """Files with the names of their scenes within the card (see :func:`scene_names`)."""
        found = self.files(root)
        try:
            names = scene_names([path for _, path in found], arrays=[part.variable for part, _ in found])
        except SpecfmError as error:
            raise SpecfmError(f"card {self.name}: {error}") from None
        return [(part, path, name) for (part, path), name in zip(found, names, strict=True)]

    def _scene(self, part: Part, path: Path, root: Path | None, name: str) -> Scene:
        from specfm.readers import read_scene
        from specfm.readers.resolve import read_wavelengths

        digests = {self._first(name, root): digest for name, digest in self.sha256.items()}
        check_digests(self.name, {file: digest for file, digest in digests.items() if file is not None}, path)
        row = part.row
        grid = read_wavelengths(self.find(part.wavelengths, root)) if part.wavelengths else part.table_bands()
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
            name=f"{self.name}/{name}",
        )
        bands = self._narrowed(scene.sensor.bands, part, path)
        sensor = scene.sensor.replace(bands=self._mark_bad(bands, part, root))
        told = {"name": instrument, "level": part.level, "gsd_m": part.gsd_m or sensor.gsd_m or (row and row.gsd_m)}
        lies = Grid.of(scene)

        def find(relative: str) -> Path:
            return self.find(relative, root)

        def fill(template: str) -> str:
            return _filled(template, self.name, name, path, part.group_match)

        return scene.replace(
            sensor=sensor.replace(**{key: value for key, value in told.items() if value is not None}),
            dataset=self.name,
            domain=self.domain,
            neighbours=scene.neighbours and self.task != "library",
            group=fill(part.group),
            saturation=part.saturation if part.saturation is not None else scene.saturation,
            label_names=tuple(self.label_names),
            labels_HW=None if part.labels is None else read_labels(part.labels, self.label_names, lies, find, fill),
            groups_HW=None if part.groups is None else read_groups(part.groups, lies, find, fill),
        )

    def _mark_bad(self, bands: BandGrid, part: Part, root: Path | None) -> BandGrid:
        if part.bad_bands is None:
            return bands
        listed = part.bad_bands.lower().endswith(".csv")
        bad = _band_column(self.find(part.bad_bands, root)) if listed else band_ranges(part.bad_bands)
        for band in bad:
            if not 0 <= band < len(bands):
                raise SpecfmError(
                    f"card {self.name}: bad band {band + 1} is not among the {len(bands)} bands of the file"
                )
        valid = bands.valid.copy()
        valid[bad] = False
        return BandGrid(bands.wavelengths_nm, bands.fwhm_nm, valid)

    def _narrowed(self, bands: BandGrid, part: Part, path: Path) -> BandGrid:
        """What ``bands`` or ``removed_bands`` leave usable of a file that states its wavelengths itself.

        Raises:
            SpecfmError: the file has neither all bands of the instrument that is named, nor those that are kept.
        """
        if part.bands is None and part.removed_bands is None:
            return bands
        key, row = "bands" if part.bands else "removed_bands", part.row
        of = path.name if row is None else part.sensor or ""
        try:
            kept = part.kept_bands(len(bands) if row is None else len(row.bands), of)
        except ValueError as error:
            raise SpecfmError(f"card {self.name}: {key}: {error}") from None
        if row is not None and len(kept) == len(bands):
            return bands
        if row is not None and len(row.bands) != len(bands):
            raise SpecfmError(
                f"card {self.name}: {path.name} has {len(bands)} bands, neither the {len(row.bands)} of {part.sensor} "
                f"nor the {len(kept)} that {key} leaves of them; correct {key}, or leave out sensor so that it numbers "
                "the file's own bands"
            )
        valid = np.zeros(len(bands), bool)
        valid[kept] = bands.valid[kept]
        return BandGrid(bands.wavelengths_nm, bands.fwhm_nm, valid)


def load_card(path_or_name: str | Path) -> Card:
    """Load a card by path, or by name from the shipped ones (``configs/data/``).

    Raises:
        UsageError: no such card (the nearest names are offered), an unknown key or a bad value.
    """
    given = Path(path_or_name)
    if given.is_file():
        path = given
    else:
        names = card_names()
        name = given.name.removesuffix(".yaml")
        if given.parent.as_posix() not in (".", "data", "configs/data"):
            raise UsageError(f"{given} does not exist; give the path of a dataset card, or a shipped card by its name")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
            raise UsageError(f"no dataset card {str(path_or_name)!r}; {hint}")
        path = find_config(f"data/{name}.yaml")
    card = build_config(read_yaml(path), Card, str(path))
    card._folder = path.resolve().parent
    return card


def card_names() -> list[str]:
    """Names of the cards that come with specfm."""
    return sorted({path.stem for root in config_roots() for path in (root / "data").glob("*.yaml")})


def data_folders() -> list[Path]:
    """Where data files are looked for: ``SPECFM_DATA``, else ``../shared/data`` beside a checkout."""
    if os.environ.get("SPECFM_DATA"):
        return [Path(os.environ["SPECFM_DATA"])]
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return [default] if default.is_dir() else []


def _taken_in(milliseconds: float | None, scene: Scene) -> Scene:
    """The scene with the integration time that the card states, where it does."""
    return scene if milliseconds is None else scene.replace(integration=IntegrationTime.of_ms(milliseconds))


def _glob(folder: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute():
        return sorted(Path(pattern).parent.glob(Path(pattern).name))
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _filled(template: str, card: str, scene: str, path: Path, pattern: str | None = None) -> str:
    told = {"card": card, "scene": scene, "stem": path.stem, "name": path.name, "parent": path.absolute().parent.name}
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
