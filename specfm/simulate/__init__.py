"""Simulated scenes with known materials, for the demo, the tests and as true negatives in pretraining.

``materials`` defines the spectra, ``light`` sun and air, ``fields`` the map, ``scene`` puts them together, ``write``
makes files of them; ``measured`` takes materials from libraries of ``spectra``. ``specimens`` are laboratory scans of
their own: wings, species, a scale bar.

For pretraining, ``pairs`` shows surfaces to two sensors: ``surfaces`` mixes library spectra, ``skies`` lights them,
``seen`` is what a sensor with these ``responses`` makes of them.
"""

from specfm.simulate.materials import MATERIALS
from specfm.simulate.scene import SimulationConfig, resample_scene, simulate_scene
from specfm.simulate.specimens import SPECIES, simulate_specimen, write_specimens
from specfm.simulate.write import write_simulation

__all__ = [
    "MATERIALS",
    "SPECIES",
    "SimulationConfig",
    "resample_scene",
    "simulate_scene",
    "simulate_specimen",
    "write_simulation",
    "write_specimens",
]
