"""Simulated specimens on a card: pinned butterflies with known species, seen by a laboratory scanner.

Each scan shows one specimen before a pale card with a scale bar. Wings are symmetric, posed a little askew, and painted
with what colours real ones: melanin (reflectance rises smoothly with wavelength), pigments (a step at an absorption
edge) and structural colours, a multilayer whose reflectance peaks at ``2 (n1 d1 + n2 d2) cos(angle)`` (Land, Prog.
Biophys. 24, 1972), so that the peak shifts with the layers' thickness, which differs between specimens, and with the
curvature of the wing. Species come in pairs that share shape, pattern and pigments and differ in the peak alone, by 14
to 20 nm; in the first pair it lies in the ultraviolet, of which a colour photograph shows nothing.

Shapes: H W pixels, C bands, n pixels of the specimen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field

from specfm.config import Strict, build_config
from specfm.errors import UsageError
from specfm.files import atomic_write_text, staged_folder
from specfm.scene import Scene
from specfm.sensor_table import get_row
from specfm.simulate.envi import write_envi_scene
from specfm.simulate.fields import smooth_field

SENSOR = "specimen_408"
SCALE = 1e-4  # uint16 reflectance
CARD, INK, BODY = 0.82, 0.04, 0.10  # reflectances
SMALLEST = 24  # rows and columns on which wings and bar can be told


@dataclass(frozen=True)
class Species:
    """What one species looks like.

    Attributes:
        name: as in labels.
        peak_nm: of the structural colour, seen from above.
        edge_nm: where its pigment stops absorbing.
        melanin: optical depth of the wings' ground colour at 350 nm.
        spots: eyespots of a wing.
        band: place of the structural band along the wing, 0 at the body, 1 at the tip.
        slim: width of the wings relative to length.
    """

    name: str
    peak_nm: float
    edge_nm: float
    melanin: float
    spots: int
    band: float
    slim: float


SPECIES = (
    Species("ultraviolet_a", 366, 540, 2.2, 2, 0.55, 0.62),
    Species("ultraviolet_b", 386, 540, 2.2, 2, 0.55, 0.62),
    Species("blue_a", 456, 580, 1.6, 1, 0.65, 0.52),
    Species("blue_b", 470, 580, 1.6, 1, 0.65, 0.52),
    Species("green_a", 520, 505, 2.8, 3, 0.45, 0.70),
    Species("green_b", 536, 505, 2.8, 3, 0.45, 0.70),
    Species("red_a", 628, 620, 1.9, 0, 0.70, 0.58),
    Species("red_b", 646, 620, 1.9, 0, 0.70, 0.58),
)


class SpecimenConfig(Strict):
    """How much specimens of a species differ, and how well they are measured.

    Attributes:
        thickness: relative deviation of the layers' thickness between specimens: 0.01 shifts a peak by 1 %.
        curvature: largest angle between wing and card, degrees; shifts peaks to shorter wavelengths.
        fading: deviation of the logarithm of the melanin's depth between specimens (age, wear).
        pose: turn, degrees, and shift, percent of the side, of a specimen: one standard deviation.
        light: relative deviation of the smooth brightness field.
        snr: signal to noise of a white surface; the lamp is weak in the ultraviolet, where it falls to a third.
    """

    thickness: float = Field(default=0.008, ge=0, lt=0.5)
    curvature: float = Field(default=12.0, ge=0, lt=80)
    fading: float = Field(default=0.15, ge=0)
    pose: float = Field(default=3.0, ge=0, le=30)
    light: float = Field(default=0.06, ge=0)
    snr: float = Field(default=120.0, gt=0)


def simulate_specimen(
    species: int | str, shape: tuple[int, int] = (96, 96), seed: int = 0, *, name: str | None = None, **options: Any
) -> Scene:
    """One scan of one specimen.

    Args:
        species: a name of :data:`SPECIES` or its place there.
        shape: (H, W), at least 24 each.
        seed: of specimen, pose and noise; the same gives the same bytes.
        name: of the scene, which is also its group.
        options: see :class:`SpecimenConfig`.

    Returns:
        A scene in memory: uint16 reflectance in 408 bands, ``labels_HW`` (species, -1 off the specimen) and
        ``groups_HW`` (1 on the specimen, -1 elsewhere).

    Raises:
        UsageError: an unknown species or option, or a scan too small.
    """
    config = build_config(options, SpecimenConfig, "simulate_specimen")
    place = _place(species)
    if min(shape) < SMALLEST or seed < 0:
        raise UsageError(f"a scan has at least {SMALLEST} x {SMALLEST} pixels and a seed from 0, got {shape}, {seed}")
    row = get_row(SENSOR)
    nm_C = row.bands.wavelengths_nm
    rng = np.random.default_rng([seed, 31, place])
    cube_HWC = _card(shape, nm_C)
    part_HW, along_HW, across_HW = _wings(shape, SPECIES[place], config, rng)
    on_HW = part_HW > 0
    cube_HWC[on_HW] = _colours(part_HW, along_HW, across_HW, nm_C, SPECIES[place], config, rng)
    cube_HWC *= np.exp(config.light * smooth_field(rng, shape, min(shape) / 2))[..., None]
    cube_HWC += _noise(cube_HWC, nm_C, config.snr, rng)
    called = name or f"{SPECIES[place].name}_{seed}"
    return Scene.from_array(
        np.clip(np.rint(cube_HWC / SCALE), 1, 65535).astype(np.uint16),
        row.sensor.replace(quantity="surface_reflectance", scale=SCALE, offset=0.0, level="L2"),
        name=called,
        nodata=0,
        labels_HW=np.where(on_HW, place, -1).astype(np.int32),
        label_names=tuple(each.name for each in SPECIES),
        group=called,
        groups_HW=np.where(on_HW, 1, -1).astype(np.int64),
        domain="specimens",
    )


def write_specimens(
    out: Path | str,
    species: int = 6,
    specimens: int = 6,
    size: tuple[int, int] = (96, 96),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Path:
    """Write scans of several specimens of several species (ENVI .bil and .hdr, uint16), and their dataset card.

    Beside each scan lie ``*_labels.img`` (species by pixel) and ``*_blobs.img`` (1 on the specimen, -1 elsewhere).

    Args:
        out: folder to make; it must not exist.
        species: the first so many of :data:`SPECIES`.
        specimens: of each, one scan and one group each.
        size: see :func:`simulate_specimen`.
        seed: see :func:`simulate_specimen`.
        progress: called with (done, total).
        options: see :func:`simulate_specimen`.

    Returns:
        The card.

    Raises:
        UsageError: ``out`` exists, more species than there are, an unknown option.
    """
    if not 1 <= species <= len(SPECIES) or specimens < 1:
        raise UsageError(f"there are 1 to {len(SPECIES)} species and 1 specimen or more, not {species} and {specimens}")
    with staged_folder(Path(out)) as folder:
        for number in range(species * specimens):
            place, own = divmod(number, specimens)
            name = f"{SPECIES[place].name}_{own:02d}"
            scene = simulate_specimen(place, size, zlib.crc32(f"{seed} {name}".encode()), name=name, **options)
            write_envi_scene(scene, folder / f"{name}.bil", "bil")
            if progress is not None:
                progress(number + 1, species * specimens)
        card = {
            "name": "simulated_specimens",
            "title": f"Simulated specimens of {species} species in 408 bands (seed {seed})",
            "domain": "specimens",
            "task": "classification",
            "licence": "made by specfm, free",
            "wavelength_trust": "high",
            "wavelength_note": "as simulated",
            "path": "*.bil",
            "quantity": "surface_reflectance",
            "level": "L2",
            "scale": SCALE,
            "group": "{stem}",
            "labels": {"path": "{stem}_labels.img", "unlabelled": [0]},
            "groups": {"path": "{stem}_blobs.img", "background": [-1]},
            "label_names": [each.name for each in SPECIES],
        }
        text = yaml.safe_dump(card, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
        atomic_write_text(folder / "specimens.yaml", f"# Simulated specimens; labels are species\n{text}")
    return Path(out) / "specimens.yaml"


def _place(species: int | str) -> int:
    names = [each.name for each in SPECIES]
    if species in names:
        return names.index(str(species))
    if isinstance(species, int) and 0 <= species < len(names):
        return species
    raise UsageError(f"unknown species {species!r}; one of {', '.join(names)}")


def _card(shape: tuple[int, int], nm_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """The card (fibres absorb in the ultraviolet) with a scale bar of alternate blocks along its lower edge."""
    paper_C = CARD * (1 - 0.25 * np.exp(-((nm_C - 348) / 30)))
    cube_HWC = np.broadcast_to(paper_C, (*shape, len(nm_C))).copy()
    height, width = shape
    top, block = height - max(2, height // 16) - 1, max(2, width // 24)
    for number in range(6):
        left = width // 16 + number * block
        cube_HWC[top : height - 1, left : left + block] = INK if number % 2 == 0 else CARD
    return cube_HWC


def _wings(
    shape: tuple[int, int], species: Species, config: SpecimenConfig, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """part_HW (0 card, 1 fore wing, 2 hind wing, 3 body) and each pixel's place along (0..1) and across (-1..1)."""
    height, width = shape
    turn = np.deg2rad(config.pose * rng.standard_normal())
    shift_2 = config.pose / 100 * rng.standard_normal(2)
    size = 1 + 0.05 * np.clip(rng.standard_normal(), -2, 2)
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float64)
    y_HW, x_HW = (y_HW / height - 0.46 - shift_2[0]) / size, (x_HW / width - 0.5 - shift_2[1]) / size
    y_HW, x_HW = np.cos(turn) * y_HW - np.sin(turn) * x_HW, np.sin(turn) * y_HW + np.cos(turn) * x_HW
    side_HW = np.abs(x_HW)  # wings are mirror images
    part_HW = np.zeros(shape, np.int64)
    along_HW, across_HW = np.zeros(shape), np.zeros(shape)
    for part, tilt, length in ((2, 35.0, 0.36), (1, -28.0, 0.44)):  # the fore wing lies over the hind wing
        angle = np.deg2rad(tilt)
        u_HW = (np.cos(angle) * side_HW + np.sin(angle) * y_HW) / length
        v_HW = (-np.sin(angle) * side_HW + np.cos(angle) * y_HW) / (0.5 * species.slim * length)
        inside_HW = (2 * u_HW - 1) ** 2 + v_HW**2 <= 1
        part_HW[inside_HW], along_HW[inside_HW], across_HW[inside_HW] = part, u_HW[inside_HW], v_HW[inside_HW]
    part_HW[(side_HW / 0.022) ** 2 + (y_HW / 0.2) ** 2 <= 1] = 3
    return part_HW, along_HW, across_HW


def _colours(
    part_HW: NDArray[np.int64],
    along_HW: NDArray[np.float64],
    across_HW: NDArray[np.float64],
    nm_C: NDArray[np.float64],
    species: Species,
    config: SpecimenConfig,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Reflectance (n, C) of the specimen's pixels."""
    on_HW = part_HW > 0
    part_n, along_n, across_n = part_HW[on_HW], along_HW[on_HW], across_HW[on_HW]
    fading = np.exp(config.fading * rng.standard_normal())
    peak_nm = species.peak_nm * (1 + config.thickness * rng.standard_normal())
    bent_n = np.deg2rad(config.curvature) * np.abs(across_n)
    grain_n = 1 + 0.08 * rng.standard_normal(len(part_n))
    depth_C = species.melanin * np.exp(-(nm_C - 350) / 260)
    found_nC = np.exp(-depth_C * fading * grain_n[:, None]) * 0.9
    dusk_n = np.exp(-1.5 * np.clip((along_n - 0.85) / 0.15, 0, 1))  # the margin is dark
    found_nC *= dusk_n[:, None]
    pigment_C = 0.05 + 0.55 / (1 + np.exp(-(nm_C - species.edge_nm) / 12))
    shiny_n = (part_n < 3) & (np.abs(along_n - species.band) < 0.14)
    middle_n = peak_nm * np.cos(bent_n[shiny_n])[:, None]
    found_nC[shiny_n] = 0.06 + 0.6 * np.exp(-0.5 * ((nm_C - middle_n) / 22) ** 2) * grain_n[shiny_n][:, None]
    for spot in range(species.spots):
        away_n = np.hypot((along_n - 0.78 + 0.12 * spot) * 2, across_n - 0.35 + 0.5 * spot)
        found_nC[(part_n == 2 - spot % 2) & (away_n < 0.22)] = pigment_C
        found_nC[(part_n == 2 - spot % 2) & (away_n < 0.10)] = INK  # the pupil of the eyespot
    found_nC[part_n == 3] = BODY * (0.6 + 0.4 * (nm_C - 348) / 462)
    return found_nC


def _noise(
    cube_HWC: NDArray[np.float64], nm_C: NDArray[np.float64], snr: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Shot-like noise under a halogen lamp, which has a third of its signal left at 348 nm."""
    lamp_C = 1 - (1 - 1 / 3) * np.exp(-((nm_C - 348) / 60))
    deviation_HWC = np.sqrt(np.maximum(cube_HWC, 0) * CARD + 0.02**2) / (snr * lamp_C)
    return deviation_HWC * rng.standard_normal(cube_HWC.shape)
