"""A dataset card to begin with: what could be found of a file, filled in; what only its owner knows, as comments."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specfm.calibration.beside import references_beside
from specfm.cards.loose_files import cubes_among, panel_of
from specfm.inspection.scene import Inspection, runs
from specfm.scene import Scene

TOLD = (
    *("variable", "layout", "sensor", "wavelengths", "units", "quantity", "scale", "offset", "nodata", "saturation"),
)
ASKED = """\
# object: {threshold: otsu}        # things on a background: all else is no data; dark: true, or mask: "{stem}_mask.png"
# citation: ""                     # whom to cite; also licence, obtain, title
# bad_bands: 1-3,220               # bands to mark unusable, numbered from 1
# labels: {path: labels.tif, unlabelled: [0]}   # class numbers; also masks, table, rows, constant
# label_names: [first class, second class]
# group: "{stem}"                  # what splits keep together; default one group a scene
"""


def starter_card(
    path: Path, card: Path, reader: Mapping[str, Any], scene: Scene | None = None, inspection: Inspection | None = None
) -> str:
    """The text of a card that lies at ``card`` and reads the file at ``path``.

    Args:
        path: the file.
        card: where the card will lie.
        reader: what the user said of the file, by the names of :func:`specfm.readers.read_scene`.
        scene: what became of it; None where it could not be read without more.
        inspection: of the scene; None likewise.
    """
    stem = re.sub(r"\W+", "_", path.stem).strip("_").lower() or "scene"
    lines = [
        "# A dataset card, begun by `specfm inspect`. Lines behind # are for you: fill in or leave out.",
        f"name: {_plain(stem)}",
        f"domain: {_plain(_domain(scene, stem))}                # what pretraining balances by: the camera, as a rule",
        f"path: {_plain(_relative(path, card))}",
        f"#                                    or a pattern for many files alike: {_pattern(path, card)}",
    ]
    if scene is not None:
        lines += _stated(scene, inspection)
    told: dict[str, Any] = {key: reader[key] for key in TOLD if reader.get(key) is not None}
    if "wavelengths" in told:
        told["wavelengths"] = _relative(Path(told["wavelengths"]), card)
    lines += [f"{key}: {_plain(value)}" for key, value in told.items()]
    if scene is None and not {"sensor", "wavelengths"} & told.keys():
        lines += [
            "# TO FILL IN: the file does not say its wavelengths. One of",
            "# wavelengths: bands.csv           # columns band, centre_nm, fwhm_nm",
            "# sensor: NAME                     # of `specfm sensors`; removed_bands: 1-3 where some are taken out",
            "# linear_nm: [400, 1000, 224]      # first, last, count: evenly spaced, where nothing better is known",
        ]
    if scene is None or scene.sensor.quantity is None:
        lines.append("# quantity: radiance               # or dn, toa_reflectance, surface_reflectance")
    if "scale" not in told and (scene is None or (scene.sensor.scale, scene.sensor.offset) == (1.0, 0.0)):
        lines.append("# scale: 0.0001                    # physical = stored * scale + offset")
    if "nodata" not in told and (scene is None or scene.nodata is None):
        lines.append("# nodata: -9999                    # stored value of pixels not measured")
    lines += _references(path, card, reader)
    return "\n".join(lines) + "\n" + ASKED


def _references(path: Path, card: Path, reader: Mapping[str, Any]) -> list[str]:
    """White, dark and panel: as the user named them, else as comments, with what seems to lie beside the scan."""
    if reader.get("white") is not None:
        darks = [_relative(Path(each), card) for each in reader["dark"]]
        white: dict[str, Any] = {"path": _relative(Path(reader["white"]), card)}
        if (panel := reader.get("white_reflectance")) is not None:
            share = panel_of(panel)
            white["reflectance"] = share if isinstance(share, float) else _relative(share, card)
        return [f"white: {json.dumps(white, ensure_ascii=False)}", f"dark: {json.dumps(darks, ensure_ascii=False)}"]
    found = references_beside(path)
    if found is None:
        return [
            "# white: {path: white.hdr, reflectance: 0.99}   # reference scan of a laboratory camera; what its panel",
            "#                                    reflects: a share, or a CSV with columns wavelength_nm, reflectance",
            "# dark: dark.hdr                   # the other reference; both or neither",
        ]
    panel = "0.99" if found.panel is None else _plain(_relative(found.panel, card))
    named = [_plain(_relative(each, card)) for each in (found.white, found.dark)]
    own = [_plain("{folder}/" + each.name.replace(path.stem, "{stem}")) for each in (found.white, found.dark)]
    return [
        "# References seem to lie beside the scan; without # they make reflectance of its counts. reflectance is the",
        "# panel's: a share, or a CSV with columns wavelength_nm, reflectance.",
        f"# white: {{path: {named[0]}, reflectance: {panel}}}",
        f"# dark: {named[1]}",
        f"#                                    of many scans: white {own[0]}, dark {own[1]}",
    ]


def _stated(scene: Scene, inspection: Inspection | None) -> list[str]:
    """What was found, as comments: what the file says itself the card need not repeat."""
    height, width, count = scene.shape
    bands, sensor = scene.sensor.bands, scene.sensor
    valid = bands.wavelengths_nm[bands.valid]
    lines = [f"# As read: {height} rows x {width} columns x {count} bands, {scene.dtype.name}"]
    if len(valid):
        lines.append(f"#   wavelengths {valid.min():.1f}-{valid.max():.1f} nm, {len(valid)} of {count} bands usable")
    if len(valid) < count:
        lines.append(f"#   unusable bands (from 1): {runs((~bands.valid).nonzero()[0])}")
    known = {"sensor": sensor.name, "quantity": sensor.quantity, "level": sensor.level, "gsd_m": sensor.gsd_m}
    known |= {"scale": sensor.scale, "offset": sensor.offset, "nodata": scene.nodata, "saturation": scene.saturation}
    lines.append("#   " + ", ".join(f"{key} {value}" for key, value in known.items() if value is not None))
    for finding in () if inspection is None else inspection.findings:
        lines.append(f"#   suspicious: {finding.text}")
    return lines


def _domain(scene: Scene | None, stem: str) -> str:
    name = None if scene is None else scene.sensor.name
    return re.sub(r"\W+", "_", name or stem).strip("_").lower() or stem


def _relative(path: Path, card: Path) -> str:
    """As a card names its files: below its own folder, else by the whole path."""
    whole, folder = path.resolve(), card.resolve().parent
    return os.path.relpath(whole, folder) if whole.is_relative_to(folder) else str(whole)


def _pattern(path: Path, card: Path) -> str:
    """Files called alike: those in folders of their own where the file is the only cube in its own, else its kind."""
    folder = Path(_relative(path, card)).parent
    alone = folder.name and len(cubes_among(p for p in path.parent.iterdir() if p.is_file())) == 1
    return _plain(folder.parent / "*" / path.name if alone else folder / f"*{path.suffix}")


def _plain(value: Any) -> str:
    """A value as YAML reads it back."""
    return json.dumps(value if isinstance(value, int | float) else str(value), ensure_ascii=False)
