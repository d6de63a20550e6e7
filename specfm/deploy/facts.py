"""What travels inside an exported file beside the graph, and whether a scene fits it: nothing here needs torch.

Shapes: C bands, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from specfm.documents import parse_json
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.sensors import Sensor

KEY = "specfm"  # name of the entry in ONNX's metadata; of a torch program the file specfm.json
FORMAT = 1
ENCODER = "encoder"
KINDS = (ENCODER, "classification", "segmentation", "change")
SAME_NM = 0.5  # centres that differ by less are one band
LARGEST = 1e30  # of a stored number put into another scale


@dataclass(frozen=True)
class Facts:
    """What a runtime needs to know of an exported model.

    Attributes:
        kind: one of :data:`KINDS`.
        sensors: that the model is baked for, one a date: bands (nm), quantity, and the scale and offset of its input;
            empty where bands are inputs of the graph.
        tile: side of its input, pixels.
        patch: of the encoder, pixels.
        level: ``scene``: the graph takes the level of the scene; ``sample``: it divides each tile by its own; ``none``.
        weights: digest of the release it was made of.
        version: of specfm.
        precision: fp32, or what of it became integers (:data:`specfm.deploy.int8.PRECISION`).
        classes: names of the K classes.
        palette: their colours.
        threshold: for *changed*.
        whole_windows: a map takes one window a pixel.
        taught: of the card, what is done to a scene first: pretreatment and selection of bands.
        trained_nm: lowest and highest wavelength of its training, where known.
        student: where it was taught to do without content, what that cost
            (:func:`downstream.compress.content_free.content_free`).
    """

    kind: str
    sensors: tuple[Sensor, ...]
    tile: int
    patch: int
    level: str
    weights: str
    version: str
    precision: str = "fp32"
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    threshold: float | None = None
    whole_windows: bool = False
    taught: dict[str, Any] = field(default_factory=dict)
    trained_nm: tuple[float, float] | None = None
    student: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads."""
        told = {"format": FORMAT, **asdict(self), "sensors": [sensor.to_dict() for sensor in self.sensors]}
        return json.dumps(told, allow_nan=False)

    def sensor(self, date: int) -> Sensor | None:
        """What a date (from 0) is baked for, None where bands are inputs."""
        return self.sensors[date] if self.sensors else None

    @classmethod
    def from_json(cls, text: str, where: object) -> Facts:
        """Read what stands in a file.

        Raises:
            SpecfmError: of another format, or damaged.
        """
        told = parse_json(text, str(where))
        if not isinstance(told, dict) or told.pop("format", None) != FORMAT or told.get("kind") not in KINDS:
            raise SpecfmError(f"{where}: its facts are of another format than {FORMAT}; export the model again")
        try:
            told["sensors"] = tuple(Sensor.from_dict(each) for each in told["sensors"])
            told["palette"] = tuple((int(r), int(g), int(b)) for r, g, b in told["palette"])
            told["classes"] = tuple(str(name) for name in told["classes"])
            told["trained_nm"] = told["trained_nm"] and (float(told["trained_nm"][0]), float(told["trained_nm"][1]))
            for name in ("tile", "patch"):
                if not isinstance(told[name], int) or told[name] < 1:
                    raise ValueError(f"{name} is {told[name]!r}")
            return cls(**told)
        except (KeyError, TypeError, ValueError, SpecfmError) as error:
            raise SpecfmError(f"{where}: its facts are damaged ({error}); export the model again") from None


@dataclass(frozen=True)
class Rescale:
    """From numbers as a scene stores them to numbers as the graph takes them."""

    factor: float
    shift: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``x * factor + shift``; the array itself where nothing changes."""
        if (self.factor, self.shift) == (1.0, 0.0):
            return x
        with np.errstate(over="ignore", invalid="ignore"):
            return (x * np.float32(self.factor) + np.float32(self.shift)).astype(np.float32, copy=False)


def fitting(scene: Scene, sensor: Sensor | None, model: str) -> Rescale:
    """How a scene's numbers become those of the sensor that a model was baked for.

    Args:
        scene: as the model was taught.
        sensor: None: bands are inputs of the graph, and values physical.
        model: what the user calls it, for messages.

    Raises:
        UsageError: the scene has other bands, other usable bands, or another quantity.
    """
    if sensor is None:
        return Rescale(scene.sensor.scale, scene.sensor.offset)
    has, baked = scene.sensor.bands, sensor.bands
    remedy = f"export for this scene: specfm export ... --sensor {scene.where}"
    if len(has) != len(baked):
        raise UsageError(f"{scene.where}: has {len(has)} bands, and {model} is baked for {len(baked)}; {remedy}")
    if odd := np.flatnonzero(has.valid != baked.valid).tolist():
        raise UsageError(
            f"{scene.where}: band {odd[0] + 1} is {'usable' if has.valid[odd[0]] else 'bad'}, and {model} is baked for "
            f"the opposite ({len(odd)} such bands); {remedy}"
        )
    with np.errstate(invalid="ignore"):
        away_C = np.where(has.valid, np.abs(has.wavelengths_nm - baked.wavelengths_nm), 0.0)
    if away_C.max(initial=0.0) >= SAME_NM:
        worst = int(away_C.argmax())
        raise UsageError(
            f"{scene.where}: band {worst + 1} is at {has.wavelengths_nm[worst]:.1f} nm, and {model} is baked for "
            f"{baked.wavelengths_nm[worst]:.1f} nm; {remedy}"
        )
    told = scene.sensor.quantity, sensor.quantity
    if None not in told and told[0] != told[1]:
        raise UsageError(f"{scene.where}: holds {told[0]}, and {model} is baked for {told[1]}; {remedy}")
    return Rescale(scene.sensor.scale / sensor.scale, (scene.sensor.offset - sensor.offset) / sensor.scale)


def outside(sensors: Sequence[Sensor], trained_nm: tuple[float, float] | None) -> str | None:
    """A sentence where bands lie outside the wavelengths of training."""
    if trained_nm is None or not sensors:
        return None
    nm = np.concatenate([sensor.bands.wavelengths_nm[sensor.bands.valid] for sensor in sensors])
    strange = nm[(nm < trained_nm[0]) | (nm > trained_nm[1])]
    if not len(strange):
        return None
    return (
        f"{len(strange)} of {len(nm)} bands ({strange.min():.0f} to {strange.max():.0f} nm) lie outside the "
        f"wavelengths that the model was trained on ({trained_nm[0]:.0f} to {trained_nm[1]:.0f} nm); what it makes of "
        "them is not known"
    )
