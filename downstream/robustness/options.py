"""What decides the numbers of a robustness test: the probe, and the conditions it is tested under."""

from __future__ import annotations

from dataclasses import dataclass, field

from downstream.probe.options import ProbeOptions
from specfm.errors import UsageError

SENSORS: tuple[str, ...] = ("enmap", "prisma", "desis", "hyperion", "sentinel2_msi")
STEPS: tuple[int, ...] = (4, 10)
SNRS: tuple[float, ...] = (100.0, 50.0, 20.0)


@dataclass(frozen=True)
class RobustnessOptions:
    """What decides the numbers.

    Attributes:
        probe: as of ``specfm probe``, with one number of shots.
        sensors: known sensors that scenes are seen through.
        steps: n of every n-th band.
        snrs: signal-to-noise ratios.
        seed: of shuffled wavelengths, the random half of the bands and the noise.
    """

    probe: ProbeOptions = field(default_factory=lambda: ProbeOptions(ks=(1,), init_seeds=1))
    sensors: tuple[str, ...] = SENSORS
    steps: tuple[int, ...] = STEPS
    snrs: tuple[float, ...] = SNRS
    seed: int = 0

    def check(self) -> None:
        """Refuse what makes no sense here, by name.

        Raises:
            UsageError: one sentence on the first of it.
        """
        self.probe.check()
        if len(self.probe.shot_list) > 1 or self.probe.peers or self.probe.pretreatment:
            raise UsageError("robustness takes one number of shots, no peers and no pretreatment")
        if self.probe.fit == "scene":
            raise UsageError("robustness fits one stem to the scenes as measured; use --fit together")
        if any(n < 2 for n in self.steps) or any(not snr > 0 for snr in self.snrs):
            raise UsageError("every n-th band needs n from 2 on, and a signal-to-noise ratio is above 0")
