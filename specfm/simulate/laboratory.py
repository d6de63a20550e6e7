"""Simulated scans of a laboratory: objects on a black tray under a halogen lamp, with white and dark references.

    counts = dark + light * reflectance * shading + noise        light: lamp x detector, every column its own

No sun and no air. A scan's lots lie side by side, one material each, as many as there is room for (what has none comes
in the next scan). A scan has a batch of its own (shifted spectra), and the lamp has drifted since its white reference
was taken. What comes out are raw counts, which the ordinary card calibrates: simulated scans go through everything that
real ones do.

Shapes: H W pixels, C bands, K materials, V variations, L fine wavelengths.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.files import atomic_write_text, staged_folder
from specfm.scene import Scene
from specfm.sensors import Sensor
from specfm.simulate.envi import write_envi_scene
from specfm.simulate.fields import smooth_field
from specfm.simulate.lab_materials import TRAY, Domain, get_domains
from specfm.simulate.materials import FINE_NM, VARIATIONS, SceneMaterial

LAMP_KELVIN = 3000.0
FULL_WELL = 4095.0  # counts of the 12-bit detector
WHITE_AT = 0.8  # of the full well where the panel is brightest
PANEL = 0.98  # what the white panel reflects
DARK = 110.0  # counts without light, on average
READ_NOISE, PER_ELECTRON = 2.0, 0.08  # counts; shot noise has the variance PER_ELECTRON * counts
REFERENCE_LINES = 24
DRIFT, BATCH, OBJECT, PIXEL = 0.03, 0.6, 0.6, 0.35  # relative of the lamp; of materials, in their own deviations
CURVE = 0.015  # of a batch (scatter, finish), relative
CURVE_SHARE = 0.06  # its width as share of the range
MARGIN = 4  # pixels of tray around all lots, and between two
LOT, IN_A_ROW = 12, 4  # least side of a lot, pixels; so many lie in one row
CHIP = 3.0  # radius of an object of a known sensor's scans, pixels


@dataclass(frozen=True)
class Scan:
    """Raw counts of a scan with its references."""

    scene: Scene
    white: Scene
    dark: Scene


def sensor_domain(sensor: Sensor, materials: Sequence[SceneMaterial]) -> Domain:
    """Small objects of these materials before a known laboratory sensor.

    Bands in which not all materials are known are marked bad.

    Raises:
        SpecfmError: they are known in no band.
    """
    lows_nm, highs_nm = zip(*(material.range_nm for material in materials), strict=True)
    low_nm, high_nm = max(lows_nm), min(highs_nm)
    known = BandGrid(FINE_NM, np.ones_like(FINE_NM), (low_nm <= FINE_NM) & (high_nm >= FINE_NM))
    grid, _ = known.resample(sensor.bands)
    if not grid.valid.any():
        raise SpecfmError(
            f"no band of {sensor.name} lies in {low_nm:g}-{high_nm:g} nm, where materials are known; choose another "
            "sensor or library"
        )
    name = sensor.name or "sensor"
    return Domain(name, grid, tuple(materials), CHIP, gloss=0.1, camera=name, least=LOT)


def simulate_scan(domain: Domain, shape: tuple[int, int], seed: int, number: int = 0, variability: float = 1.0) -> Scan:
    """One scan of a domain.

    Args:
        domain: what is scanned, and by which camera (:data:`specfm.simulate.lab_materials.DOMAINS`,
            :func:`sensor_domain`).
        shape: (H, W); ``domain.least`` pixels a side at least, so that each lot holds objects.
        seed: decides everything, with ``number``, the scan's.
        number: of the scan among those of the seed; lamp and camera stay.
        variability: of materials between batches, objects and pixels; 1 = the deviations written with the materials.

    Returns:
        Raw counts (uint16, saturated at 4095): the scan with ``labels_HW`` (material, -1 = tray) and ``groups_HW`` (the
        object, -1 = tray), its white and its dark reference.

    Raises:
        UsageError: a scan too small for its lots.
    """
    if min(shape) < domain.least:
        raise UsageError(
            f"{domain.name}: a scan of {shape[0]} x {shape[1]} pixels has no room for lots; give at least "
            f"{domain.least} a side"
        )
    key = [seed, number, zlib.crc32(domain.name.encode())]
    rng = np.random.default_rng([*key, 0])
    labels_HW, groups_HW, shade_HW, gloss_HW = _objects(domain, shape, number, rng)
    reflectance_HWC = _reflectance(domain, labels_HW, groups_HW, variability, rng)
    signal_HWC = reflectance_HWC * shade_HW[..., None] + gloss_HW[..., None]
    light_WC, dark_WC = _camera(domain, shape[1], np.random.default_rng([zlib.crc32(domain.name.encode()), seed]))
    place_C = np.linspace(-1, 1, domain.bands)
    drift_C = 1 + DRIFT * (rng.standard_normal() + rng.standard_normal() * place_C)
    panel = np.full((REFERENCE_LINES, shape[1], domain.bands), PANEL)
    grid = domain.grid
    name = f"{domain.name}_{number:02d}"
    return Scan(
        _scene(name, grid, _counts(signal_HWC, light_WC * drift_C, dark_WC, rng), domain, labels_HW, groups_HW),
        _scene(f"{name}_white", grid, _counts(panel, light_WC, dark_WC, rng), domain),
        _scene(f"{name}_dark", grid, _counts(np.zeros_like(panel), light_WC, dark_WC, rng), domain),
    )


def write_laboratory(
    out: Path | str,
    domains: tuple[str, ...] | None = None,
    seed: int = 0,
    scans: int = 4,
    size: tuple[int, int] = (128, 128),
    progress: Callable[[], None] | None = None,
) -> list[Path]:
    """Simulate scans and write ENVI cubes with references and labels, and one dataset card a domain; all or nothing.

    Args:
        out: folder to make; it must not exist.
        domains: by name; None = all seven.
        seed: decides everything.
        scans: of each domain.
        size: (H, W) of each.
        progress: called after each scan.

    Returns:
        The card of each domain. Its scans come calibrated; raw counts with ``scenes(raw=True)``.

    Raises:
        UsageError: ``out`` exists, an unknown domain, a size too small.
    """
    chosen = get_domains(domains)
    with staged_folder(Path(out)) as folder:
        for domain in chosen:
            head = {
                "name": f"lab_{domain.name}",
                "title": f"Simulated laboratory scans of {domain.name} (seed {seed})",
            }
            write_scans(folder, domain, seed, scans, size, head, progress=progress or (lambda: None))
    return [Path(out) / f"{domain.name}.yaml" for domain in chosen]


def write_scans(
    folder: Path,
    domain: Domain,
    seed: int,
    scans: int,
    size: tuple[int, int],
    head: Mapping[str, str],
    *,
    variability: float = 1.0,
    progress: Callable[[], None],
) -> None:
    """Write the scans of one domain with references and labels into a folder, and their card.

    Args:
        folder: it exists.
        domain: see :func:`simulate_scan`.
        seed: see :func:`simulate_scan`.
        scans: how many.
        size: (H, W) of each.
        head: what the card says before all else.
        variability: see :func:`simulate_scan`.
        progress: called after each scan.
    """
    for number in range(scans):
        scan = simulate_scan(domain, size, seed, number, variability)
        for scene in (scan.scene, scan.white, scan.dark):
            write_envi_scene(scene, folder / f"{scene.name}.bil", "bil")
        progress()
    card = {**head, **_card(domain, scans)}
    text = yaml.safe_dump(card, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    atomic_write_text(folder / f"{domain.name}.yaml", f"# Simulated laboratory scans: {domain.name}\n{text}")


def _card(domain: Domain, scans: int) -> dict[str, Any]:
    names = [f"{domain.name}_{number:02d}" for number in range(scans)]
    references = {name: {"white": {"path": f"{name}_white.bil", "reflectance": PANEL}} for name in names}
    return {
        "domain": domain.name, "task": "classification", "licence": "made by specfm, free",
        "wavelength_trust": "high", "wavelength_note": "as simulated", "quantity": "dn", "level": "raw",
        "saturation": FULL_WELL, "group": "{stem}", "labels": {"path": "{stem}_labels.img", "unlabelled": [0]},
        "groups": {"path": "{stem}_blobs.img", "background": [-1]},
        "label_names": [material.name for material in domain.materials],
        "parts": [{"path": f"{name}.bil", **references[name], "dark": f"{name}_dark.bil"} for name in names],
    }  # fmt: skip


def _scene(
    name: str, grid: BandGrid, counts_HWC: NDArray[np.uint16], domain: Domain,
    labels_HW: NDArray[np.int32] | None = None, groups_HW: NDArray[np.int64] | None = None,
) -> Scene:  # fmt: skip
    labelled = {} if labels_HW is None else {"label_names": tuple(material.name for material in domain.materials)}
    return Scene.from_array(
        counts_HWC, Sensor(grid, "dn", level="raw", name=domain.camera or f"{domain.name}_camera"), name=name,
        saturation=FULL_WELL, labels_HW=labels_HW, groups_HW=groups_HW, group=name, domain=domain.name, **labelled,
    )  # fmt: skip


def _camera(domain: Domain, width: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts that full reflectance adds ``[W, C]`` (lamp, detector, vignetting, column gains), and dark counts."""
    nm = domain.grid.wavelengths_nm
    planck_C = nm**-5 / np.expm1(1.438776877e7 / (nm * LAMP_KELVIN))
    low_nm, high_nm = domain.range_nm
    middle = (low_nm + high_nm) / 2
    detector_C = 0.25 + np.exp(-0.5 * ((nm - middle) / (0.3 * (high_nm - low_nm))) ** 2)
    light_C = planck_C * nm * detector_C  # photons, not energy, are counted
    across_W = np.linspace(-1, 1, width)
    column_W = (1 - 0.25 * across_W**2) * (1 + 0.01 * rng.standard_normal(width))
    light_WC = column_W[:, None] * light_C * (1 + 0.01 * rng.standard_normal((width, len(nm))))
    dark_WC = DARK + 6 * rng.standard_normal((width, len(nm)))
    return light_WC * WHITE_AT * (FULL_WELL - DARK) / light_WC.max(), dark_WC


def _counts(
    signal: NDArray[np.float64], light_WC: NDArray[np.float64], dark_WC: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Counts with shot and read noise; 0 is left for fill."""
    collected = signal * light_WC
    deviation = np.sqrt(PER_ELECTRON * np.maximum(collected, 0) + READ_NOISE**2)
    noisy = dark_WC + collected + deviation * rng.standard_normal(collected.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), 1, FULL_WELL).astype(np.uint16)


def _reflectance(
    domain: Domain,
    labels_HW: NDArray[np.int32],
    groups_HW: NDArray[np.int64],
    variability: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(H, W, C): of each pixel its material, varied by batch, object and pixel, mixed a little at the rims."""
    from scipy.ndimage import gaussian_filter

    grid = BandGrid(domain.grid.wavelengths_nm, domain.grid.fwhm_nm)  # all bands: also bad ones see light
    _, matrix_CL = BandGrid(FINE_NM, np.ones_like(FINE_NM)).resample(grid)
    basis_KVC = np.stack([material.basis() for material in domain.materials]) @ matrix_CL.T
    tray_C = matrix_CL @ TRAY.reflectance()
    curve_KC = 1 + CURVE * np.stack(
        [smooth_field(rng, (1, domain.bands), CURVE_SHARE * domain.bands)[0] for _ in domain.materials]
    )
    batch_KV = BATCH * rng.standard_normal((len(domain.materials), VARIATIONS))
    object_GV = OBJECT * rng.standard_normal((int(groups_HW.max()) + 1, VARIATIONS))
    smooth_HWV = np.stack([smooth_field(rng, labels_HW.shape, 3.0) for _ in range(VARIATIONS)], -1)
    on_HW = labels_HW >= 0
    found_HWC = np.broadcast_to(tray_C, (*labels_HW.shape, domain.bands)).copy()
    variation_NV = batch_KV[labels_HW[on_HW]] + object_GV[groups_HW[on_HW]] + PIXEL * smooth_HWV[on_HW]
    varied_NC = np.einsum("nv,nvc->nc", variability * variation_NV, basis_KVC[labels_HW[on_HW], 1:])
    found_HWC[on_HW] = (basis_KVC[labels_HW[on_HW], 0] + varied_NC) * curve_KC[labels_HW[on_HW]]
    return np.maximum(gaussian_filter(found_HWC, (0.6, 0.6, 0)), 0.002)


def _objects(
    domain: Domain, shape: tuple[int, int], number: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Material and object of each pixel (-1 = tray), shading by shape, and highlights, ``[H, W]`` each."""
    labels_HW, groups_HW = np.full(shape, -1, np.int32), np.full(shape, -1, np.int64)
    shade_HW, gloss_HW = np.ones(shape), np.zeros(shape)
    row_HW, col_HW = np.mgrid[: shape[0], : shape[1]]
    count = len(domain.materials)
    rows, columns = _lots(count, shape)
    down, right = (
        np.linspace(0, side, lots + 1).astype(int) for side, lots in zip(shape, (rows, columns), strict=True)
    )
    shown = (np.arange(min(count, rows * columns)) + number * rows * columns) % count  # what does not fit has its turn
    order = shown[rng.permutation(len(shown))]
    number = 0
    for lot, material in enumerate(order):
        row, column = divmod(lot, columns)
        low, high = right[column] + MARGIN // 2, right[column + 1] - MARGIN // 2
        top = down[row] + (MARGIN // 2 if row else MARGIN)
        bottom = down[row + 1] - (MARGIN // 2 if row < rows - 1 else MARGIN)
        inside_HW = (col_HW >= low) & (col_HW < high) & (row_HW >= top) & (row_HW < bottom)
        if domain.radius is None:  # a sheet or a heap with an uneven rim
            rim_HW = 3 * np.abs(smooth_field(rng, shape, 6.0))
            depth_HW = np.minimum(np.minimum(col_HW - low, high - 1 - col_HW), row_HW - top)
            own_HW = inside_HW & (depth_HW >= np.minimum(rim_HW, 3))
            labels_HW[own_HW], groups_HW[own_HW] = material, number
            shade_HW[own_HW] *= (1 + 0.04 * smooth_field(rng, shape, 4.0))[own_HW]
            number += 1
            continue
        step = 1.9 * domain.radius
        for y in np.arange(top + domain.radius, bottom, step):
            for x in np.arange(low + domain.radius, high, step):
                centre = np.array([y, x]) + rng.uniform(-0.2, 0.2, 2) * domain.radius
                axes = domain.radius * rng.uniform(0.8, 1.1, 2)
                angle = rng.uniform(0, np.pi)
                far_HW = _ellipse(row_HW - centre[0], col_HW - centre[1], axes, angle)
                own_HW = inside_HW & (far_HW < 1)
                labels_HW[own_HW], groups_HW[own_HW] = material, number
                dome_HW = 1 - domain.relief * (1 - np.sqrt(np.clip(1 - far_HW, 0, 1)))
                shade_HW[own_HW] = dome_HW[own_HW]
                if rng.random() < domain.gloss:
                    spot_HW = _ellipse(row_HW - centre[0] + 0.3 * axes[0], col_HW - centre[1], 0.22 * axes, 0.0)
                    gloss_HW[own_HW] += 0.5 * np.exp(-spot_HW[own_HW])
                number += 1
    return labels_HW, groups_HW, shade_HW, gloss_HW


def _lots(count: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of lots on a tray: as many as have room; few in one row, many near to square."""
    most_down, most_right = shape[0] // LOT, shape[1] // LOT
    if count <= min(IN_A_ROW, most_right):
        return 1, count
    rows = min(most_down, max(1, round((count * shape[0] / shape[1]) ** 0.5)))
    columns = min(most_right, -(-count // rows))
    return min(most_down, -(-count // columns)), columns


def _ellipse(
    down_HW: NDArray[Any], right_HW: NDArray[Any], axes: NDArray[np.float64], angle: float
) -> NDArray[np.float64]:
    """Squared distance from the centre, 1 on the rim."""
    along = np.cos(angle) * right_HW + np.sin(angle) * down_HW
    across = np.cos(angle) * down_HW - np.sin(angle) * right_HW
    return (along / axes[0]) ** 2 + (across / axes[1]) ** 2
