"""Laboratory pretreatments of spectra: continuum removal, standard normal variate, Savitzky-Golay derivatives.

``continuum`` and ``savitzky_golay`` hold the mathematics, ``steps`` what a user may ask for, ``scene`` a scene seen so.

Multiplicative scatter correction is not among them: but for the mean and deviation of its reference spectrum, which it
takes from the data set, it is the standard normal variate (Dhanoa et al. 1994, J. Near Infrared Spectrosc. 2, 43).
"""

from specfm.pretreatment.scene import beneath, measured, otherwise_taught, pretreat, told, untreated
from specfm.pretreatment.steps import Step, parse_steps, pretreat_spectra

__all__ = [
    "Step", "beneath", "measured", "otherwise_taught", "parse_steps", "pretreat", "pretreat_spectra", "told",
    "untreated",
]  # fmt: skip
