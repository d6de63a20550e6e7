"""What a user names (a card, CARD:SCENE, a file, a folder) becomes scenes, calibrated where there are references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from specfm.calibration import CalibratedSource, calibrate
from specfm.errors import SpecfmError, UsageError
from specfm.pretreatment import beneath, untreated
from specfm.scene import Scene

# files that lie beside cubes and are none
_BESIDE = {
    *(".csv", ".txt", ".md", ".json", ".yaml", ".yml", ".xml", ".png", ".jpg", ".pdf", ".wkt", ".ovr", ".shp", ".aux"),
}


def open_scenes(
    names: Sequence[str],
    reader: dict[str, Any] | None = None,
    white: Path | None = None,
    dark: Path | Sequence[Path] | None = None,
    saturation: float | None = None,
    domain: str | None = None,
    reflectance: float | Path = 1.0,
) -> Iterator[Scene]:
    """Scenes of cards (by name or path) and of files or folders of files; no pixel is read.

    Scenes of files are called as their stems; where stems repeat, as their paths below the folder in common
    (:func:`specfm.cards.names.scene_names`).

    Args:
        names: what the user wrote.
        reader: arguments of :func:`specfm.readers.read_scene` for files.
        white: white reference for files (cards name their own); see :func:`specfm.calibration.calibrate`.
        dark: dark references for files.
        saturation: raw saturation level, for calibration and masks.
        domain: replaces the domain of every scene. A file's default: its sensor's name, else its folder's and its
            number of bands (a folder of scans of one sensor is a domain).
        reflectance: how bright the panel of ``white`` is.

    Raises:
        UsageError: unknown card, one reference without the other.
        SpecfmError: unreadable file, files without names of their own.
    """
    from specfm.cards.names import scene_names

    darks = [] if dark is None else [dark] if isinstance(dark, Path) else list(dark)
    if (white is None) != (not darks):
        raise UsageError("calibration needs both --white and --dark")
    if white is None and reflectance != 1.0:
        raise UsageError("--white-reflectance is of a white reference; give --white and --dark")
    references = None if white is None else _References(white, darks, reflectance, dict(reader or {}))
    seen: set[Path] = set()
    scenes = [scene for name in names for scene in _open(name, dict(reader or {}), references, saturation, seen)]
    files = {i: scene.path for i, scene in enumerate(scenes) if not scene.dataset and scene.path is not None}
    own = scene_names(list(files.values()), [scenes[i].name for i in files])
    for i, name in zip(files, own, strict=True):
        scenes[i] = scenes[i].replace(name=name)
    for scene in scenes:
        if saturation is not None and not _is_calibrated(scene):
            scene = beneath(scene, lambda counts: counts.replace(saturation=saturation))
        yield scene if domain is None else scene.replace(domain=domain)


@dataclass
class _References:
    """White and dark references of files, opened once for all of them."""

    white: Path
    darks: list[Path]
    reflectance: float | Path
    reader: dict[str, Any]

    @property
    def paths(self) -> list[Path]:
        return [self.white, *self.darks]

    @cached_property
    def scenes(self) -> list[Scene]:
        from specfm.readers import read_scene

        return [read_scene(path, **self.reader) for path in self.paths]


def _open(
    name: str,
    reader: dict[str, Any],
    references: _References | None,
    saturation: float | None,
    seen: set[Path],
) -> Iterator[Scene]:
    from specfm.cards import load_card
    from specfm.readers import read_scene

    path = Path(name)
    if _is_card(name):
        _refuse_options(name, {**reader, "white": references})
        yield from load_card(name).scenes(saturation=saturation)
        return
    if not path.exists():
        raise SpecfmError(f"{name}: no such file, folder or card")
    no_scans = set() if references is None else {each.resolve().with_suffix("") for each in references.paths}
    for file in folder_files(path) if path.is_dir() else [path]:
        if path.is_dir() and file.resolve().with_suffix("") in no_scans:
            continue  # the references of a folder of scans are no scans
        scene = read_scene(file, **reader)
        if scene.path is not None and scene.path.resolve() in seen:
            continue  # named twice: `folder/*` of a shell gives an ENVI header and its data file
        if scene.path is not None:
            seen.add(scene.path.resolve())
        if not scene.domain:
            scene = scene.replace(domain=scene.sensor.name or f"{file.resolve().parent.name}-{scene.shape[2]}")
        if references is not None:
            white, *darks = references.scenes
            scene = calibrate(scene, white, darks, saturation, references.reflectance)
        yield scene


def _is_calibrated(scene: Scene) -> bool:
    source: Any = untreated(scene).source
    while (under := getattr(source, "under", None)) is not None:
        source = under
    return isinstance(source, CalibratedSource)


def _is_card(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in (".yaml", ".yml") or not (path.exists() or path.suffix or len(path.parts) > 1)


def _refuse_options(card: str, options: dict[str, Any]) -> None:
    if any(value is not None for value in options.values()):
        raise UsageError(f"{card} is a card, which describes its files itself; give reader options with files only")


def folder_files(folder: Path) -> list[Path]:
    """The cubes of a folder: plain files, without side files and without the data files of ENVI headers."""
    from specfm.readers.envi import describes_only_a_raster

    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [p for p in files if p.suffix.lower() != ".hdr" or not describes_only_a_raster(p)]
    headers = {p.with_suffix("") for p in files if p.suffix.lower() == ".hdr"}
    cubes = [
        p
        for p in files
        if p.suffix.lower() not in _BESIDE and (p.suffix.lower() == ".hdr" or not {p, p.with_suffix("")} & headers)
    ]
    if not cubes:
        raise SpecfmError(f"{folder}: no cube files in this folder")
    return cubes


def open_scene(name: str, **reader: Any) -> Scene:
    """The one scene that a user names: a file, a dataset card that holds one scene, or ``CARD:SCENE``.

    Args:
        name: what the user wrote; SCENE is the scene's name within the card, which is mostly the stem of its file.
        reader: options of :func:`specfm.readers.read_scene`, for a file.

    Of a card no other scene is opened.

    Raises:
        UsageError: a card of several scenes without a choice, an unknown scene, reader options beside a card.
        SpecfmError: unreadable file.
    """
    from specfm.cards.card import load_card

    card, colon, wanted = name.rpartition(":")
    if not colon or Path(name).exists() or (not card.endswith((".yaml", ".yml")) and Path(card).parent != Path(".")):
        card, wanted = name, ""
    if not _is_card(card):
        scenes = list(open_scenes([card], reader))
        inner = [scene.name for scene in scenes]
        if len(scenes) == 1:
            return scenes[0]
    else:
        _refuse_options(card, reader)
        inner = (opened := load_card(card)).names()
        chosen = [own for own in inner if wanted in ("", own)]
        if len(chosen) == 1:
            return next(opened.scenes(only=chosen[0].__eq__))
    names = ", ".join(inner[:6]) + (", ..." if len(inner) > 6 else "")
    problem = f"has no scene {wanted!r}" if wanted else f"holds {len(inner)} scenes"
    raise UsageError(f"{card} {problem}; name one of them as {card}:SCENE ({names})")


def card_scenes(cards: Sequence[str], patterns: Sequence[str] = ()) -> list[Scene]:
    """All scenes of dataset cards, or those whose name with its card's before it (``plots/OSBS_001``) matches one of
    the patterns; no other is opened.

    Raises:
        UsageError: an unknown card, a pattern that no scene matches.
        SpecfmError: missing files.
    """
    from fnmatch import fnmatch

    from specfm.cards.card import Card, load_card

    opened = [load_card(card) for card in cards]
    names = [f"{card.name}/{name}" for card in opened for name in card.names()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise UsageError(f"no scene of {', '.join(cards)} matches {pattern!r}; see specfm inspect {cards[0]}")

    def scenes_of(card: Card) -> Iterator[Scene]:
        def wanted(name: str) -> bool:
            return not patterns or any(fnmatch(f"{card.name}/{name}", pattern) for pattern in patterns)

        return card.scenes(only=wanted)

    return [scene for card in opened for scene in scenes_of(card)]


def also_through(scenes: Sequence[Scene], sensors: Sequence[str]) -> list[Scene]:
    """The scenes, then all of them as each of these known sensors would have measured them.

    Raises:
        UsageError: an unknown sensor.
        SpecfmError: a scene that does not show what the sensor measures.
    """
    from specfm.simulate import resample_scene

    return [*scenes, *(resample_scene(scene, sensor) for sensor in sensors for scene in scenes)]
