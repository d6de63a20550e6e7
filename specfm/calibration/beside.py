"""White and dark references that lie beside a scan, told by their names; nothing is calibrated by a guess.

Cameras and people call them after the scan (``WHITEREF_leaf.hdr``, ``leaf_dark.hdr``), or plainly (``white.raw``).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from specfm.scene import Scene

log = logging.getLogger(__name__)
_REFERENCE = r"(?<![a-z])(?:ref(?:erence)?[_\- ]?)?{kind}[_\- ]?(?:ref(?:erence)?)?(?![a-z])"
WHITE, DARK = (re.compile(_REFERENCE.format(kind=kind), re.IGNORECASE) for kind in ("white", "dark"))
PANEL = re.compile(r"panel|white|spectralon|reference", re.IGNORECASE)
MOST_FILES = 10_000  # of a folder are looked at


@dataclass(frozen=True)
class Beside:
    """What was found: both references, and perhaps a CSV file that may say what the panel reflects."""

    white: Path
    dark: Path
    panel: Path | None


def references_beside(scan: Path) -> Beside | None:
    """The references in a scan's folder, of its own file type: those called after it, else the only ones there are.

    Returns:
        None where not both are found, or the file is a reference itself.
    """
    if WHITE.search(scan.stem) or DARK.search(scan.stem):
        return None
    try:
        files = sorted(path for path, _ in zip(scan.parent.iterdir(), range(MOST_FILES), strict=False))
    except OSError:
        return None
    alike = [path for path in files if path.suffix == scan.suffix and path != scan]
    white, dark = _one_of(alike, WHITE, scan.stem), _one_of(alike, DARK, scan.stem)
    tables = [path for path in files if path.suffix.lower() == ".csv" and PANEL.search(path.stem)]
    return None if white is None or dark is None else Beside(white, dark, tables[0] if len(tables) == 1 else None)


def note_references(scene: Scene) -> None:
    """Say how a file of raw counts becomes reflectance, where its references seem to lie beside it."""
    if scene.path is None or scene.sensor.quantity not in (None, "dn"):
        return
    if (found := references_beside(scene.path)) is not None:
        log.info(
            "%s: taken as it was stored; references seem to lie beside it: --white %s --dark %s makes reflectance of "
            "it (in a card: white and dark)", scene.path, found.white, found.dark,
        )  # fmt: skip


def _one_of(files: list[Path], kind: re.Pattern[str], stem: str) -> Path | None:
    named = [path for path in files if kind.search(path.stem)]
    own = [path for path in named if _plain(kind.sub("", path.stem)) == _plain(stem)]
    chosen = own or named
    return chosen[0] if len(chosen) == 1 else None


def _plain(stem: str) -> str:
    return re.sub(r"[\W_]", "", stem).lower()
