"""Materials by library: those written with specfm (of the ground, of a laboratory) and those of measured spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specfm.simulate.lab_materials import DOMAINS, LAB_MATERIALS
from specfm.simulate.materials import MATERIALS, SceneMaterial, get_materials
from specfm.simulate.measured import FEWEST_SPECTRA, measured_materials, whole
from specfm.simulate.spectra import read_library

GROUND, LABORATORY = "ground", "laboratory"
WRITTEN: dict[str, Mapping[str, SceneMaterial]] = {GROUND: MATERIALS, LABORATORY: LAB_MATERIALS}
MEANING = {
    "broadleaf": "green leaves of broad-leaved trees",
    "grass": "green grass: less water and chlorophyll than leaves",
    "conifer": "needles: darker, with more water and cellulose",
    "dry_grass": "straw: cellulose without chlorophyll",
    "dark_soil": "humous soil",
    "clay_soil": "soil with iron and clay (2205 nm)",
    "carbonate_soil": "the same soil with carbonate (2335 nm) in place of clay",
    "sand": "bright quartz sand",
    "asphalt": "road",
    "tar_roof": "asphalt with a hydrocarbon band (1730 nm)",
    "concrete": "grey, with carbonate",
    "red_tile": "burnt clay, iron oxide",
    "blue_metal": "painted sheet metal",
    "water": "clear and deep",
    "arabica_green": "raw beans: more oil, less caffeine",
    "robusta_green": "raw beans: less oil, more caffeine",
    "roasted": "roasted beans",
    "white_ripe": "white grapes",
    "red_ripe": "red grapes, with anthocyanin",
    "mouldy": "rotten grapes",
    "earthenware": "burnt clay with iron",
    "marl": "burnt clay with carbonate",
    "terra_sigillata": "fine red slip, most iron",
    "refined": "white sugar",
    "raw_cane": "brown sugar, a little moist",
    "starch_mixed": "sugar cut with starch",
    "rag": "paper of cotton and linen",
    "wood_pulp": "paper with lignin",
    "coated": "paper coated with clay and carbonate",
    "bone": "apatite and collagen",
    "flint": "grey stone with some water",
    "bronze": "corroded, with copper",
    "birch_bark": "pale bark",
    "pine_bark": "reddish bark",
    "lichen": "lichen on bark",
}
KINDS = {  # first part of the names of earthlib and ECOSTRESS
    "bare": "bare ground",
    "built": "built surfaces",
    "burned": "burnt surfaces",
    "manmade": "built surfaces",
    "nonphotosyntheticvegetation": "dry plants",
    "npv": "dry plants",
    "vegetation": "green plants",
}


def chosen_materials(library: str | None, names: Sequence[str] | None = None) -> list[SceneMaterial]:
    """Materials of a library.

    Args:
        library: ``ground`` (None likewise), ``laboratory``, or one of measured spectra
            (:mod:`specfm.simulate.spectra`).
        names: which of them; None: all.

    Raises:
        UsageError: an unknown library or material.
    """
    if (named := WRITTEN.get(library or GROUND)) is not None:
        return get_materials(names, named)
    return [*measured_materials(str(library), names)]


def list_materials(library: str | None) -> list[dict[str, Any]]:
    """A row a material: ``name``, ``what`` it is, ``low_nm`` and ``high_nm`` of what is known, number of ``spectra``
    (None: written by code), and whether it is ``usable``: a class needs five spectra.

    Raises:
        UsageError: an unknown library.
    """
    if (named := WRITTEN.get(library or GROUND)) is not None:
        homes = {each.name: domain.name for domain in DOMAINS.values() for each in domain.materials}
        rows = []
        for name, material in named.items():
            low_nm, high_nm = material.range_nm
            what = f"{homes[name]}: {MEANING[name]}" if name in homes else MEANING[name]
            rows.append(
                {"name": name, "what": what, "low_nm": low_nm, "high_nm": high_nm, "spectra": None, "usable": True}
            )
        return rows
    spectra = read_library(str(library))
    low_nm, high_nm = spectra.range_nm
    counts = np.bincount(spectra.class_N[whole(spectra)], minlength=len(spectra.classes))
    return [
        {
            "name": name, "what": KINDS.get(name.split(".")[0], "as the library calls it"), "low_nm": low_nm,
            "high_nm": high_nm, "spectra": int(count), "usable": bool(count >= FEWEST_SPECTRA),
        }
        for name, count in zip(spectra.classes, counts, strict=True)
    ]  # fmt: skip
