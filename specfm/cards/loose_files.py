"""Files without a card: found in a folder, read as the user says, calibrated by the references that the user names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from specfm.calibration import calibrate
from specfm.calibration.beside import note_references
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene

# files that lie beside cubes and are none
_BESIDE = {
    *(".csv", ".txt", ".md", ".json", ".yaml", ".yml", ".xml", ".png", ".jpg", ".pdf", ".wkt", ".ovr", ".shp", ".aux"),
}
MOST_FOLDERS = 100  # below a folder without cubes are looked into


@dataclass
class FileReader:
    """How files are read; references are opened once for all of them.

    Attributes:
        read_as: arguments of :func:`specfm.readers.read_scene`, of scans and references alike.
        white: white reference scan, None = scans stay as they are.
        darks: dark reference scans, one of each integration time.
        panel: what the white panel reflects; see :func:`specfm.calibration.calibrate`.
        saturation: stored value from which a pixel is saturated.
    """

    read_as: dict[str, Any] = field(default_factory=dict)
    white: Path | None = None
    darks: list[Path] = field(default_factory=list)
    panel: float | Path = 1.0
    saturation: float | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> FileReader:
        """From what a user says: arguments of ``read_scene``, ``white``, ``white_reflectance``, ``dark`` and
        ``saturation``; None is not said.

        Raises:
            UsageError: one reference without the other, the reflectance of a panel without a white reference.
        """
        read_as = dict(told)
        white, panel, dark, saturation = (
            read_as.pop(key, None) for key in ("white", "white_reflectance", "dark", "saturation")
        )
        darks = [dark] if isinstance(dark, str | Path) else [*(dark or ())]
        if (white is None) != (not darks):
            raise UsageError("calibration needs both --white and --dark")
        if white is None and panel is not None:
            raise UsageError("--white-reflectance is of a white reference; give --white and --dark")
        paths = [Path(each) for each in darks]
        return cls(read_as, None if white is None else Path(white), paths, panel_of(panel), saturation)

    def files(self, path: Path) -> list[Path]:
        """A file, or the scans of a folder: its cubes without the references."""
        if not path.is_dir():
            return [path]
        references = {each.resolve().with_suffix("") for each in self._references}
        return [file for file in folder_files(path) if file.resolve().with_suffix("") not in references]

    def measured(self, file: Path) -> Scene:
        """The scene as it was stored.

        Raises:
            SpecfmError: unreadable file.
        """
        from specfm.readers import read_scene

        scene = read_scene(file, **self.read_as)
        return scene if self.saturation is None else scene.replace(saturation=self.saturation)

    def calibrated(self, scene: Scene) -> Scene:
        """The scene as reflectance where there are references, else as it is; some that seem to lie beside it are told.

        Raises:
            SpecfmError: references that do not fit.
        """
        if self.white is None:
            note_references(scene)
            return scene
        white, *darks = self._opened
        return calibrate(scene, white, darks, self.saturation, self.panel)

    def scenes(self, path: Path) -> Iterator[Scene]:
        """Of a file or a folder, as commands work with them."""
        for file in self.files(path):
            yield self.calibrated(self.measured(file))

    @property
    def _references(self) -> Sequence[Path]:
        return [] if self.white is None else [self.white, *self.darks]

    @cached_property
    def _opened(self) -> list[Scene]:
        from specfm.readers import read_scene

        return [read_scene(path, **self.read_as) for path in self._references]


def folder_files(folder: Path) -> list[Path]:
    """The cubes of a folder: plain files, without side files and without the data files of ENVI headers.

    Raises:
        SpecfmError: there are none; says in which folders below there are.
    """
    held = sorted(folder.iterdir())
    if cubes := cubes_among(p for p in held if p.is_file() and not p.name.startswith(".")):
        return cubes
    below = ((p, cubes_among(sorted(q for q in p.iterdir() if q.is_file()))) for p in held[:MOST_FOLDERS] if p.is_dir())
    found = next((cubes for _, cubes in below if cubes), None)
    if found is None:
        raise SpecfmError(f"{folder}: no cube files in this folder")
    raise SpecfmError(
        f"{folder}: no cube files in this folder itself, but in folders below it ({found[0]}); name those, or all of "
        f'them in a card by a pattern (path: "{folder}/*/{found[0].name}")'
    )


def cubes_among(files: Iterable[Path]) -> list[Path]:
    """Those of several files that are cubes of their own, in their order: no side files, and of an ENVI header and its
    data file one, the header."""
    from specfm.readers.envi import describes_only_a_raster

    files = [p for p in files if p.suffix.lower() != ".hdr" or not describes_only_a_raster(p)]
    headers = {p.with_suffix("") for p in files if p.suffix.lower() == ".hdr"}
    return [
        p
        for p in files
        if p.suffix.lower() not in _BESIDE and (p.suffix.lower() == ".hdr" or not {p, p.with_suffix("")} & headers)
    ]


def panel_of(stated: float | str | Path | None) -> float | Path:
    """What a panel reflects, as a user says it: a share (1 where nothing is said), else the path of a table."""
    try:
        return 1.0 if stated is None else float(stated)  # type: ignore[arg-type]  # a Path is no number
    except (TypeError, ValueError):
        return Path(str(stated))
