"""Whether pretraining saw what is probed: scene, sensor, domain or nothing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from specfm.scene import Scene


def seen_mark(card: Mapping[str, Any] | None, scenes: Sequence[Scene]) -> str:
    """Whether pretraining saw the probed scenes: "scene seen", "sensor seen", "domain seen", "unseen".

    The record is the model card's ``pretraining`` entry, or the card itself, with ``scenes``, ``contents`` (digests of
    their files: a scene by another name is still seen), ``sensors`` (names or digests) and ``domains``; without one the
    answer is "unknown".
    """
    record = pretraining_record(card)
    if not any(key in record for key in ("scenes", "sensors", "domains")):
        return "unknown"
    names, sensors, domains = (set(record.get(key) or ()) for key in ("scenes", "sensors", "domains"))
    if any(s.name in names for s in scenes) or _file_seen(set(record.get("contents") or ()), scenes):
        return "scene seen"
    if any(s.sensor.name in sensors or s.sensor.digest in sensors for s in scenes):
        return "sensor seen"
    return "domain seen" if any(s.domain in domains for s in scenes) else "unseen"


def _file_seen(contents: set[str], scenes: Sequence[Scene]) -> bool:
    from specfm.shards.identity import scene_content

    for scene in scenes if contents else ():
        try:
            if scene_content(scene) in contents:
                return True
        except SpecfmError:
            continue  # made on the way from another one, as simulated sensors are
    return False


def pretraining_record(card: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a model card says about pretraining: its ``pretraining`` entry, or the card itself; empty without."""
    record = (card or {}).get("pretraining", card)
    return record if isinstance(record, Mapping) else {}
