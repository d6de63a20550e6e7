"""From what a user names (cards, files, folders) to scenes, calibrated where there are references; their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specfm.calibration import CalibratedSource, calibrate
from specfm.errors import SpecfmError, UsageError
from specfm.files import sha256_file
from specfm.scene import ArraySource, Scene

_BESIDE = {
    ".csv",
    ".txt",
    ".md",
    ".json",
    ".yaml",
    ".yml",
    ".xml",
    ".png",
    ".jpg",
    ".pdf",
    ".wkt",
    ".ovr",
    ".shp",
    ".aux",
}


def open_scenes(
    names: Sequence[str],
    reader: dict[str, Any] | None = None,
    white: Path | None = None,
    dark: Path | None = None,
    saturation: float | None = None,
    domain: str | None = None,
) -> Iterator[Scene]:
    """Scenes of cards (by name or path) and of files or folders of files; no pixel is read.

    Scenes of files are called as their stems; where stems repeat, as their paths below the folder in common
    (:func:`specfm.cards.names.scene_names`).

    Args:
        names: what the user wrote.
        reader: arguments of :func:`specfm.readers.read_scene` for files.
        white, dark: references for files (cards name their own).
        saturation: raw saturation level, for calibration and masks.
        domain: replaces the domain of every scene. A file's default: its sensor's name, else its folder's and its
            number of bands (a folder of scans of one camera is a domain).

    Raises:
        UsageError: unknown card, one reference without the other. SpecfmError: unreadable file, files without names
            of their own.
    """
    from specfm.cards.names import scene_names

    if (white is None) != (dark is None):
        raise UsageError("calibration needs both --white and --dark")
    seen: set[Path] = set()
    scenes = [scene for name in names for scene in _open(name, dict(reader or {}), white, dark, saturation, seen)]
    files = {i: scene.path for i, scene in enumerate(scenes) if not scene.dataset and scene.path is not None}
    own = scene_names(list(files.values()), [scenes[i].name for i in files])
    for i, name in zip(files, own, strict=True):
        scenes[i] = scenes[i].replace(name=name)
    for scene in scenes:
        if saturation is not None and not isinstance(scene.source, CalibratedSource):
            scene = scene.replace(saturation=saturation)
        yield scene if domain is None else scene.replace(domain=domain)


def _open(
    name: str, reader: dict[str, Any], white: Path | None, dark: Path | None, saturation: float | None, seen: set[Path]
) -> Iterator[Scene]:
    from specfm.cards import load_card
    from specfm.readers import read_scene

    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml") or not (path.exists() or path.suffix or len(path.parts) > 1):
        if white is not None or any(value is not None for value in reader.values()):
            raise UsageError(f"{name} is a card, which describes its files itself; give reader options with files only")
        yield from load_card(name).scenes(saturation=saturation)
        return
    if not path.exists():
        raise SpecfmError(f"{name}: no such file, folder or card")
    references = {reference.resolve().with_suffix("") for reference in (white, dark) if reference is not None}
    for file in folder_files(path) if path.is_dir() else [path]:
        if path.is_dir() and file.resolve().with_suffix("") in references:
            continue  # the references of a folder of scans are no scans
        scene = read_scene(file, **reader)
        if scene.path is not None and scene.path.resolve() in seen:
            continue  # named twice: `folder/*` of a shell gives an ENVI header and its data file
        if scene.path is not None:
            seen.add(scene.path.resolve())
        if not scene.domain:
            scene = scene.replace(domain=scene.sensor.name or f"{file.resolve().parent.name}-{scene.shape[2]}")
        if white is not None and dark is not None:
            scene = calibrate(scene, read_scene(white, **reader), read_scene(dark, **reader), saturation)
        yield scene


def folder_files(folder: Path) -> list[Path]:
    """The cubes of a folder: plain files, without side files and without the data files of ENVI headers."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    headers = {p.with_suffix("") for p in files if p.suffix.lower() == ".hdr"}
    cubes = [
        p
        for p in files
        if p.suffix.lower() not in _BESIDE and (p.suffix.lower() == ".hdr" or not {p, p.with_suffix("")} & headers)
    ]
    if not cubes:
        raise SpecfmError(f"{folder}: no cube files in this folder")
    return cubes


def scene_identity(scene: Scene) -> dict[str, Any]:
    """What a scene's samples depend on, with digests of its file, labels and references; no path, no time."""
    identity: dict[str, Any] = {
        "name": scene.name,
        "shape": list(scene.shape),
        "dtype": scene.dtype.name,
        "sensor": scene.sensor.digest,
        "nodata": None if scene.nodata is None else str(scene.nodata),
        "saturation": scene.saturation,
        "domain": scene.domain,
        "group": scene.group,
        "content": scene_content(scene),
    }
    gains = getattr(scene.source, "digest", None)  # a calibration per band, which no field of the scene shows
    if gains is not None:
        identity["gains"] = gains
    for field in ("labels_HW", "groups_HW"):
        array = getattr(scene, field)
        identity[field] = None if array is None else hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]
    return identity


def scene_content(scene: Scene) -> str:
    """32 hex digits over the file or array behind a scene, whatever its name.

    Raises:
        SpecfmError: a scene that has neither.
    """
    digest = hashlib.sha256()
    source: Any = scene.source
    if isinstance(source, CalibratedSource):
        digest.update(np.ascontiguousarray(source.dark_WC))
        digest.update(np.ascontiguousarray(source.span_WC))
        digest.update(str(source.raw.saturation).encode())
        digest.update(b"" if source.raw.nodata is None else str(source.raw.nodata).encode())
        source = source.raw.source
    if isinstance(source, ArraySource):
        digest.update(np.ascontiguousarray(source.cube_HWC))
        return digest.hexdigest()[:32]
    files = {scene.path, getattr(source, "path", None)} - {None}
    if not files:
        raise SpecfmError(f"{scene.where}: a scene without a file or an array cannot be identified")
    for file in sorted(str(f) for f in files):
        digest.update(sha256_file(file).encode())
    return digest.hexdigest()[:32]


def recipe_digest(recipe: dict[str, Any]) -> str:
    """16 hex digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
