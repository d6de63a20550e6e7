"""Running an exported ONNX file with ONNX Runtime and numpy: no torch is imported here or below.

Shapes: B tiles, T tile side, C bands, N tokens, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.deploy.facts import KEY, Facts
from specfm.errors import SpecfmError
from specfm.sensors import LEVELS, QUANTITIES, Sensor


class Deployed:
    """An exported model, loaded.

    Attributes:
        path: the file.
        facts: what stands in it.
        session: of the runtime.
        inputs: their names.
        outputs: their names.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Load a file.

        Args:
            path: of the file.
            threads: of the runtime; 0 = one a core.

        Raises:
            SpecfmError: onnxruntime is missing, or the file is no model that specfm exported.
        """
        self.path = Path(path)
        try:
            import onnxruntime
        except ImportError:
            raise SpecfmError(f"{path} needs onnxruntime; install specfm[onnx]") from None
        if not self.path.is_file():
            raise SpecfmError(f"{path}: no such file; give an .onnx file that specfm export wrote")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # it warns that a mask with a default is no constant, as is meant
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has a type of its own for every kind of damage
            said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise SpecfmError(f"{path}: no ONNX model that can be run ({said})") from None
        told = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if told is None:
            raise SpecfmError(f"{path}: was not written by specfm export, so its bands are not known; export it there")
        self.facts = Facts.from_json(told, self.path)
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name; a mask may be left out."""
        return dict(zip(self.outputs, self.session.run(None, dict(given)), strict=True))


def date_inputs(
    facts: Facts, number: int, x_BTTC: NDArray[Any], mask_BTT: NDArray[Any], level: float | None, sensor: Sensor
) -> dict[str, Any]:
    """Inputs of one date (from 1) of an exported model; of the sensor's bands, where these are inputs."""
    turn = "" if number == 1 else str(number)
    found: dict[str, Any] = {f"x{turn}_BHWC": x_BTTC, f"mask{turn}_BHW": mask_BTT}
    if level is not None:
        found[f"level{turn}_B"] = np.full(len(x_BTTC), level, np.float32)
    return found if facts.sensors else found | band_inputs(sensor, turn)


def band_inputs(sensor: Sensor, turn: str = "") -> dict[str, NDArray[Any]]:
    """What a graph for any bands is told of a sensor, beside values in physical units."""
    bands = sensor.bands
    quantity = None if sensor.pretreatment else sensor.quantity  # pretreated values are of none
    return {
        f"wavelengths{turn}_nm_C": np.where(bands.valid, bands.wavelengths_nm, np.nan),
        f"fwhm{turn}_nm_C": bands.fwhm_nm.copy(),
        f"quantity{turn}_G": np.array([-1 if quantity is None else QUANTITIES.index(quantity)]),
        f"processing{turn}_G": np.array([-1 if sensor.level is None else LEVELS.index(sensor.level)]),
        f"gsd{turn}_m_G": np.array([np.nan if sensor.gsd_m is None else sensor.gsd_m], np.float32),
    }
