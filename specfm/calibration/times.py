"""Which integration times a scan and its references state, and what follows from them.

Counts of light grow with the time, and so does the dark current; the bias of the electronics does not. A dark reference
can therefore not be divided by its time: it belongs to the scan or the white reference that was taken with its own
time, and where there is none such it is subtracted as it is, which is told.

Shapes: C bands.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.scene import Scene
from specfm.sensors import IntegrationTime

SAME = 0.01  # times that differ by less than this share are one time: shutters are not set more finely
HOW = "write integration_ms: {scan: ..., white: ..., dark: ...} in a dataset card"


@dataclass(frozen=True)
class Times:
    """What integration times say about a scan and its references.

    Attributes:
        dark_of_scan: which of the dark references is subtracted from the scan.
        dark_of_white: which of them from the white reference.
        ratio: time of the scan by that of the white reference, (C,), or (1,) one for all bands; 1 where unknown.
        note: one sentence to tell, "" if there is none.
        level: of :mod:`logging`.
    """

    dark_of_scan: int
    dark_of_white: int
    ratio: NDArray[np.float64]
    note: str
    level: int


def compare_times(scan: Scene, white: Scene, darks: Sequence[Scene]) -> Times:
    """Compare the integration times of a scan and its references.

    Raises:
        SpecfmError: several dark references, and no times that say which belongs to which.
    """
    dark_of_scan, dark_of_white = (_partner(each, darks) for each in (scan, white))
    if scan.integration is None and white.integration is None and all(dark.integration is None for dark in darks):
        return Times(0, 0, np.ones(1), "", logging.INFO)
    facts, doubts = [], []
    ratio = _ratio(scan.integration, white.integration)
    roles = [("scan", scan), ("white reference", white), ("dark reference", darks[dark_of_scan])]
    roles += [] if dark_of_white == dark_of_scan else [("dark reference", darks[dark_of_white])]
    called = {id(scene): role if scene is scan else f"{role} {scene.where}" for role, scene in roles}
    said = {id(scene): f"{called[id(scene)]} ({scene.integration.said})" for _, scene in roles if scene.integration}
    silent = [called[id(scene)] for _, scene in roles if scene.integration is None]
    if silent:
        stated = " and ".join(said.values())
        so = "so taken as equal" if ratio is None else "which is subtracted as it is"
        doubts.append(f"integration time stated by {stated}, by {' and '.join(silent)} not, {so} ({HOW})")
    elif ratio is None:
        doubts.append(
            f"integration times of {said[id(scan)]} and {said[id(white)]} cannot be compared, so taken as equal ({HOW})"
        )
    if ratio is not None and not _is_one(ratio):
        facts.append(f"integration times of {said[id(scan)]} and {said[id(white)]} differ and are divided out")
    apart: dict[int, list[str]] = {}
    for partner, index in ((scan, dark_of_scan), (white, dark_of_white)):
        between = _ratio(partner.integration, darks[index].integration)
        if between is not None and not _is_one(between):
            apart.setdefault(index, []).append(said[id(partner)])
    for index, partners in apart.items():
        doubts.append(
            f"{said[id(darks[index])]} was taken with another time than {' and '.join(partners)} and is subtracted as "
            "it is (name a dark reference of that time too; dark takes several)"
        )
    level = logging.WARNING if doubts else logging.INFO
    return Times(dark_of_scan, dark_of_white, np.ones(1) if ratio is None else ratio, "; ".join(facts + doubts), level)


def _partner(scene: Scene, darks: Sequence[Scene]) -> int:
    """The dark reference of a scene's own integration time, else the one nearest in time."""
    if len(darks) == 1:
        return 0
    ratios = [_ratio(dark.integration, scene.integration) for dark in darks]
    apart = [np.inf if ratio is None else float(np.abs(np.log(ratio)).max()) for ratio in ratios]
    if not np.isfinite(apart).any():
        raise SpecfmError(
            f"{scene.where}: {len(darks)} dark references and no integration times that say which belongs to it; give "
            f"one, or {HOW}"
        )
    return int(np.argmin(apart))


def _ratio(one: IntegrationTime | None, other: IntegrationTime | None) -> NDArray[np.float64] | None:
    """One time by another, None where they cannot be compared; exactly 1 where they are the same."""
    if one is None or other is None or one.unit != other.unit:
        return None
    a, b = np.asarray(one.value, np.float64), np.asarray(other.value, np.float64)
    if len({len(a), len(b)} - {1}) > 1:
        return None
    ratio: NDArray[np.float64] = a / b
    return ratio


def _is_one(ratio: NDArray[np.float64]) -> bool:
    return bool((np.abs(np.log(ratio)) < SAME).all())
