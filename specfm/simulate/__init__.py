"""Simulated scenes with known materials, for the demo, the tests and as true negatives in pretraining.

``materials`` defines the spectra, ``light`` sun and air, ``fields`` the map, ``scene`` puts them together, ``write``
makes files of them; ``measured`` takes materials from libraries of ``spectra``.

For pretraining, ``pairs`` shows surfaces to two sensors: ``surfaces`` mixes library spectra, ``skies`` lights them,
``seen`` is what a sensor with these ``responses`` makes of them.
"""

from specfm.simulate.materials import MATERIALS
from specfm.simulate.scene import SimulationConfig, resample_scene, simulate_scene
from specfm.simulate.write import write_simulation

__all__ = ["MATERIALS", "SimulationConfig", "resample_scene", "simulate_scene", "write_simulation"]
