"""A made push-broom sensor with light, dark current and bias that are known, and files of it.

Shapes: H lines, W columns, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from specfm.bands import BandGrid
from specfm.scene import Scene
from specfm.sensors import IntegrationTime, Sensor

CENTRES_NM = np.linspace(450, 950, 6)
ENVI_CODES = {"u2": 12, "i2": 2, "f4": 4}


@dataclass
class Lab:
    """Counts = bias + (dark current + light * reflectance) * time, every element of the detector its own."""

    width: int = 7
    lines: int = 12
    noise: float = 0.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(4))

    def __post_init__(self) -> None:
        size = (self.width, len(CENTRES_NM))
        self.bias_WC = self.rng.uniform(90, 110, size)
        self.current_WC = self.rng.uniform(2, 4, size)  # counts per ms
        self.light_WC = self.rng.uniform(300, 400, size)
        self.truth_HWC = self.rng.uniform(0.1, 0.8, (self.lines, *size))

    def counts(self, reflectance: Any, milliseconds: float) -> NDArray[np.float64]:
        shape = (self.lines, self.width, len(CENTRES_NM))
        mean = self.bias_WC + (self.current_WC + self.light_WC * reflectance) * milliseconds
        return np.broadcast_to(mean, shape) + self.rng.normal(0, 1, shape) * self.noise

    def scene(self, name: str, reflectance: Any, milliseconds: float, said: bool = True, **fields: Any) -> Scene:
        sensor = Sensor(BandGrid(CENTRES_NM), quantity="dn", level="raw")
        time = IntegrationTime.of_ms(milliseconds) if said else None
        cube = np.rint(self.counts(reflectance, milliseconds)).astype(np.uint16)
        return Scene.from_array(cube, sensor, name, integration=time, **fields)


def write_envi(path: Path, cube_HWC: NDArray[Any], extra: str = "", dtype: str = "u2") -> Path:
    """A BIL cube with its header; ``extra`` are lines of the header."""
    np.rint(cube_HWC).astype(dtype).transpose(0, 2, 1).tofile(path.with_suffix(".raw"))
    height, width, count = cube_HWC.shape
    path.with_suffix(".hdr").write_text(
        f"ENVI\nsamples = {width}\nlines = {height}\nbands = {count}\ninterleave = bil\nbyte order = 0\n"
        f"data type = {ENVI_CODES[dtype]}\nwavelength units = nm\n"
        f"wavelength = {{{', '.join(map(str, CENTRES_NM[:count]))}}}\n{extra}"
    )
    return path.with_suffix(".raw")


def write_card(folder: Path, **fields: Any) -> Path:
    """A card ``lab.yaml`` of ``scan.raw``, ``white.raw`` and ``dark.raw`` in a folder."""
    path = folder / "lab.yaml"
    said = {
        "name": "lab", "domain": "lab", "wavelength_trust": "high", "path": "scan.raw", "white": "white.raw",
        "dark": "dark.raw", "quantity": "dn", "level": "raw", **fields,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(said))
    return path
