"""White and dark references of laboratory scans: ``apply`` makes reflectance of counts, ``references`` says what of a
reference is usable, ``times`` compares integration times, ``panel`` is how bright the white reference truly is."""

from specfm.calibration.apply import MASKED, CalibratedSource, calibrate

__all__ = ["MASKED", "CalibratedSource", "calibrate"]
