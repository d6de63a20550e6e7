"""Predicted maps beside the truth: the preview that was written with a map, and the labels in the map's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.report.figures import png_uri
from downstream.report.scenes import label_map
from specfm.documents import parse_json, read_json
from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from specfm.scene import Scene

SIDE = 800  # largest side of a picture of the truth


def map_view(path: Path, scenes: Sequence[Scene]) -> tuple[dict[str, Any], str | None]:
    """Pictures of one map, and why the truth is missing (None where it is there).

    Args:
        path: raster of `specfm predict` or `specfm change`, with its preview beside it.
        scenes: labelled scenes; the one that the map was made of gives the truth.

    Raises:
        SpecfmError: no preview beside the map, or a file that is not such a map.
    """
    preview = path.with_suffix(".png")
    if not preview.is_file():
        raise SpecfmError(f"{preview.name} is not beside it; make the map again without --no-preview")
    facts = map_facts(path)
    classes = {int(code): str(name) for code, name in (facts.get("classes") or {}).items()}
    names = [classes[code] for code in sorted(classes) if code > 0]
    of = [str(name) for name in facts.get("scenes") or []]
    view: dict[str, Any] = {"name": path.name, "map": png_uri(preview.read_bytes()), "truth": None, "of": ", ".join(of)}
    shown = ("model", "sensors", "task", "tile", "stride", "halo", "level", "threshold")
    view["facts"] = [(f"{path.name}: {key}", _told(facts[key])) for key in shown if facts.get(key) is not None]
    if "like" in facts:
        view["note"] = f"similarity to the pixels {facts['like']}: dark is little, yellow is most"
        return view, None
    truth = next((s for s in scenes if s.labels_HW is not None and _is_of(s, of)), None)
    if truth is None:
        return view, f"no labelled scene named {' or '.join(of) or '(unknown)'} is shown; pass its card with --data"
    if "method" in facts:  # groups of specfm cluster have no names to compare
        view["truth"], view["groups"] = label_map(truth), True
        view["note"] = f"groups have no names; labels in colours of their own: {', '.join(truth.label_names)}"
        return view, None
    if missing := [name for name in truth.label_names if name not in names]:
        view["note"] = f"classes that the map does not know are left white: {', '.join(missing)}"
    view["truth"] = _truth(truth, names, change=facts.get("task") == "change" or names[-1:] == ["changed"])
    return view, None


def map_facts(path: Path) -> dict[str, Any]:
    """The facts that the writers keep with a map, whatever its format.

    Raises:
        SpecfmError: the file cannot be read or holds no such facts.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            facts = read_json(path.with_suffix(".json"))
        elif suffix == ".hdr":
            from specfm.readers.envi_header import parse_header

            header = parse_header(path)
            # an ENVI description may not hold braces, so the writer puts parentheses
            facts = parse_json(header.text("description").replace("(", "{").replace(")", "}"), path)
        else:
            facts = _tiff_facts(path)
    except (OSError, ValueError) as error:
        raise SpecfmError(f"{path} is no map of classes written by specfm ({error})") from None
    if not isinstance(facts, dict) or not (isinstance(facts.get("classes"), dict) or "like" in facts):
        raise SpecfmError(f"{path} is no map of classes written by specfm")
    return facts


def _tiff_facts(path: Path) -> dict[str, Any]:
    from specfm.readers.raster_source import open_raster

    with open_raster(path) as file:
        tags = file.tags()
    facts = {}
    for key, text in tags.items():
        try:
            facts[key] = parse_json(text, path)
        except ValueError:
            facts[key] = text
    return facts


def _is_of(scene: Scene, names: Sequence[str]) -> bool:
    """Whether a map names the scene, be it as a file's or as a card's."""
    own = scene.name.removeprefix(f"{scene.dataset}/")
    return any(scene.name == name or own in (name, name.partition("/")[2]) for name in names)


def _truth(scene: Scene, names: Sequence[str], change: bool) -> str:
    """Labels as a picture in the colours of the map; the rest white."""
    from specfm.rasters.class_map import CHANGE_COLOURS, Legend
    from specfm.rasters.quicklook import enlarged, png_bytes

    labels_HW = scene.labels_HW
    assert labels_HW is not None
    step = max(1, -(-max(labels_HW.shape) // SIDE))
    thin_HW = labels_HW[::step, ::step]
    picture = np.full((*thin_HW.shape, 4), 255, np.uint8)
    colours_K3 = Legend.of(names, CHANGE_COLOURS if change else None).colours_K3
    for label, name in enumerate(scene.label_names):
        if name in names:
            picture[thin_HW == label, :3] = colours_K3[names.index(name)]
    return png_uri(png_bytes(enlarged(picture)))


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
