"""A labelled scene under one split, in memory: the windows that models are trained, chosen and tested on.

Shapes: N windows, I sample ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from downstream.compress.config import SceneConfig
from downstream.probe.options import ProbeOptions
from downstream.protocols.windows import Windows, by_sensor, windows_of
from downstream.results.leakage import Leakage, leakage_score
from downstream.splits.samples import Samples, collect_samples
from downstream.splits.split import Split, draw_splits
from specfm.digests import digest_parts
from specfm.errors import UsageError
from specfm.scene import Scene
from specfm.sensors import Sensor


@dataclass(frozen=True)
class Ground:
    """Scenes of one sensor with their samples and splits.

    Attributes:
        config: that it was opened by.
        scenes: of one sensor.
        samples: their labelled windows, as wide as the widest network sees.
        splits: one a seed.
        digest: over samples and all stored values.
    """

    config: SceneConfig
    scenes: tuple[Scene, ...]
    samples: Samples
    splits: tuple[Split, ...]
    digest: str

    @property
    def sensor(self) -> Sensor:
        """Of all scenes."""
        return self.scenes[0].sensor

    def side(self, number: int) -> Side:
        """A split, read into memory."""
        split = self.splits[number]
        parts = [
            by_sensor(windows_of(self.scenes, self.samples, ids_I, self.samples.window))
            for ids_I in (split.train_I, split.val_I, split.test_I)
        ]
        return Side(self, number, *parts)

    def leakage(self) -> list[Leakage]:
        """Of every split."""
        return [leakage_score(split, self.samples) for split in self.splits]


@dataclass(frozen=True)
class Side:
    """One split of a ground: windows to train on, to choose by and to test on, a part per sensor."""

    ground: Ground
    number: int
    train: list[Windows]
    val: list[Windows]
    test: list[Windows]

    @property
    def split(self) -> Split:
        """Of the samples."""
        return self.ground.splits[self.number]


def open_ground(config: SceneConfig, window: int, seeds: int) -> Ground:
    """Open a labelled scene and draw its splits; every network of a benchmark is trained on the same.

    Args:
        config: which.
        window: side of the widest window.
        seeds: splits.

    Raises:
        SpecfmError: no labels, or classes too small to split.
        UsageError: no such scene, or scenes of several sensors.
    """
    from specfm.cards import load_card

    scenes = list(load_card(config.card).scenes())
    if config.scenes:
        scenes = [scene for scene in scenes if any(fnmatch(scene.name, wanted) for wanted in config.scenes)]
        if not scenes:
            raise UsageError(f"no scene of {config.card} matches scenes={list(config.scenes)}")
    if len({scene.sensor.digest for scene in scenes}) > 1:
        raise UsageError(
            f"{config.card} has scenes of several sensors, and a model is deployed for one; name its scenes"
        )
    samples = collect_samples(scenes, window, max_per_class=config.max_per_class)
    options = ProbeOptions(
        split=config.split, seeds=seeds, block=config.block, min_groups=config.min_groups,
        max_per_class=config.max_per_class,
    )  # fmt: skip
    options.check()
    splits = draw_splits(samples, options, None)
    digest = digest_parts([samples.digest, *(part for scene in scenes for part in (scene.sensor.digest, scene.read()))])
    return Ground(config, tuple(scenes), samples, tuple(splits), digest)
