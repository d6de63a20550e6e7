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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr, model_validator

from specfm.cards.digests import Digest, read_with, refuse_unread
from specfm.cards.names import scene_names
from specfm.cards.part_scenes import PartScenes, References
from specfm.cards.schema import Part, Task, Trust
from specfm.config import Strict, build_config, config_roots, find_config, read_yaml
from specfm.errors import SpecfmError, UsageError
from specfm.grids import Grid, require_one_grid
from specfm.limits import UNTRUSTED, switched_on
from specfm.scene import Scene


class Card(Strict):
    """A dataset card.

    Attributes:
        name: short name (as in file names).
        title: a sentence.
        domain: what the mixture balances by (``aviris``, ``neon``, ``lab`` ...).
        task: what the labels are good for; ``library`` marks point spectra without neighbourhood.
        citation: whom to cite.
        licence: terms as known.
        obtain: where users get the files.
        wavelength_trust: how well the band list is known; None is not known.
        wavelength_note: why.
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
            spread = ({**shared, **part} for part in parts)
            rest["parts"] = [{**part, **path} for part in spread for path in _one_path_each(part)]
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
            references = [
                self.first(reference, root)
                for part, path, name in self._called(found)
                for reference in PartScenes(self, part, root).reference_files(path, name)
            ]
            opened = [*(path for _, path in found), *(path for path in references if path is not None)]
            refuse_unread(self.name, {name: self.first(name, root) for name in self.sha256}, opened)
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
        opened: dict[int, PartScenes] = {}
        for part, path, name in self._named(root):
            if only(name):
                yield opened.setdefault(id(part), PartScenes(self, part, root)).scan(path, name, saturation)

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
        return PartScenes(self, part, root).references()

    def find(self, relative: str, root: Path | None = None) -> Path:
        """Resolve a path of the card against the data folders.

        Raises:
            SpecfmError: found in none of them.
        """
        found = self.first(relative, root)
        if found is None:
            raise self._absent(relative, root)
        return found

    def first(self, relative: str, root: Path | None) -> Path | None:
        """As :meth:`find`, None where there is no such file."""
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
            found = _matching(folder, part.path)
            found = [path for path in found if path.stem not in part.exclude]
            found = self._without_references(part, folder, found)
            if found:
                return [self._inside(path) for path in found]
        raise self._absent(part.path, root)

    def _without_references(self, part: Part, folder: Path, found: list[Path]) -> list[Path]:
        """A pattern that also matches the references of its scans names the scans alone."""
        named = {name for path in found for name in PartScenes(self, part).reference_files(path, path.stem)}
        references = {(folder / name).with_suffix("") for name in named}
        return [path for path in found if path.with_suffix("") not in references] or found

    def _absent(self, relative: str, root: Path | None) -> SpecfmError:
        looked = " or ".join(str(folder) for folder in self._roots(root)) or "any data folder"
        where = f" ({self.obtain})" if self.obtain else ""
        return SpecfmError(f"card {self.name}: no {relative} below {looked}; set SPECFM_DATA to its folder{where}")

    def _named(self, root: Path | None) -> list[tuple[Part, Path, str]]:
        """Files with the names of their scenes within the card (see :func:`scene_names`)."""
        return self._called(self.files(root))

    def _called(self, found: list[tuple[Part, Path]]) -> list[tuple[Part, Path, str]]:
        try:
            names = scene_names([path for _, path in found], arrays=[part.variable for part, _ in found])
        except SpecfmError as error:
            raise SpecfmError(f"card {self.name}: {error}") from None
        return [(part, path, name) for (part, path), name in zip(found, names, strict=True)]


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


def _one_path_each(part: dict[str, Any]) -> list[dict[str, Any]]:
    """A part whose path is a list is one part for each, alike in all else."""
    paths = part.get("path")
    return [{"path": path} for path in paths] if isinstance(paths, list) and paths else [{}]


def _matching(folder: Path, pattern: str) -> list[Path]:
    """The file of that name, the cubes of the folder of that name, or the files that match the pattern: of an ENVI
    header and its data file one, and no side files where there are cubes."""
    from specfm.cards.loose_files import cubes_among, folder_files

    if (folder / pattern).is_file():
        return [folder / pattern]
    if (folder / pattern).is_dir():
        return folder_files(folder / pattern)
    found = _glob(folder, pattern)
    return cubes_among(found) or found


def _glob(folder: Path, pattern: str) -> list[Path]:
    if anchor := Path(pattern).anchor:
        folder, pattern = Path(anchor), str(Path(pattern).relative_to(anchor))
    return sorted(path for path in folder.glob(pattern) if path.is_file())
