"""Simulated scenes as files: ENVI cubes, label and blob rasters and one dataset card per sensor.

What flies looks at a ground under sun and air; what stands in a laboratory looks at a tray under a lamp, and has white
and dark references (:mod:`specfm.simulate.laboratory`).

What is written goes back in through the ordinary readers and cards, so the whole pipeline can be run from files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from specfm.config import build_config
from specfm.errors import UsageError
from specfm.files import atomic_write_text, staged_folder
from specfm.scene import Scene
from specfm.sensor_table import SensorRow, get_row
from specfm.simulate.envi import AXES, write_envi_scene
from specfm.simulate.laboratory import sensor_domain, write_scans
from specfm.simulate.materials import SceneMaterial, get_materials
from specfm.simulate.scene import SimulationConfig, simulate_scene

IN_LABORATORY = ("quantity", "variability")  # what of `SimulationConfig` scans of a laboratory read


def write_simulation(
    out: Path | str,
    sensors: Sequence[str],
    seed: int = 0,
    scenes: int = 2,
    size: tuple[int, int] = (64, 64),
    materials: Sequence[str | SceneMaterial] | None = None,
    same_ground: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Path]:
    """Simulate scenes of several sensors and write them with labels and a card each; all or nothing.

    Args:
        out: folder to make; it must not exist.
        sensors: names of known instruments.
        seed: decides everything; the same arguments give the same bytes.
        scenes: scenes per sensor, each a group of its own.
        size: (H, W) of each.
        materials: names out of ``MATERIALS`` (None = all of them), or materials of a library
            (:func:`specfm.simulate.measured.measured_materials`).
        same_ground: let all sensors look at the same ground (else each has its own), those of a laboratory too.
        progress: called with (done, total) after each scene.
        **options: see `SimulationConfig`.

    Returns:
        The card of each sensor. Sensors of a laboratory are written as raw counts, which their card calibrates, unless
        ``quantity`` is another than ``dn`` or ``same_ground`` is set: then they look at a ground as the others do.

    Raises:
        UsageError: ``out`` exists, an unknown sensor, material or option, or an option that no sensor reads.
    """
    config = build_config(options, SimulationConfig, "write_simulation")
    names = list(dict.fromkeys(get_row(sensor).name for sensor in sensors))
    chosen = get_materials(materials)
    classes = [material.name for material in chosen]
    in_laboratory = {name for name in names if _in_laboratory(get_row(name), config, same_ground)}
    if in_laboratory.issuperset(names) and (unread := [key for key in options if key not in IN_LABORATORY]):
        raise UsageError(
            f"{', '.join(unread)}: scans on a tray ({', '.join(names)}) read {' and '.join(IN_LABORATORY)} alone; "
            "leave it out, or add quantity=surface_reflectance for scenes of a ground"
        )
    total, done = len(names) * scenes, 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    with staged_folder(Path(out)) as folder:
        for place, name in enumerate(names):
            head = {"name": f"simulated_{name}", "title": f"Simulated {get_row(name).title} (seed {seed})"}
            if name in in_laboratory:
                domain = sensor_domain(get_row(name).sensor, chosen)
                write_scans(folder, domain, seed, scenes, size, head, variability=config.variability, progress=advance)
                continue
            # interleaves differ between sensors, as they do between providers
            interleave = tuple(AXES)[place % len(AXES)]
            for number in range(scenes):
                key = [seed, number] if same_ground else [seed, number, place + 1]
                state = int(np.random.SeedSequence(key).generate_state(1)[0])
                scene = simulate_scene(name, chosen, size, state, name=f"{name}_{number:02d}", **options)
                write_envi_scene(scene, folder / f"{name}_{number:02d}.{interleave}", interleave)
                advance()
            card = {**head, **_card(scene, name, classes, interleave)}
            text = yaml.safe_dump(card, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
            atomic_write_text(folder / f"{name}.yaml", f"# Simulated scenes of {get_row(name).title}\n{text}")
    return [Path(out) / f"{name}.yaml" for name in names]


def _in_laboratory(row: SensorRow, config: SimulationConfig, same_ground: bool) -> bool:
    return row.platform == "laboratory" and config.quantity in (None, "dn") and not same_ground


def _card(scene: Scene, name: str, classes: list[str], interleave: str) -> dict[str, Any]:
    return {
        "domain": name,
        "task": "classification",
        "licence": "made by specfm, free",
        "wavelength_trust": "high",
        "wavelength_note": "as simulated",
        "path": f"{name}_[0-9][0-9].{interleave}",
        "sensor": name,
        "quantity": scene.sensor.quantity,
        "level": scene.sensor.level,
        "scale": scene.sensor.scale,
        **({} if scene.saturation is None else {"saturation": scene.saturation}),
        "group": "{stem}",
        "labels": {"path": "{stem}_labels.img", "unlabelled": [0]},
        "groups": {"path": "{stem}_blobs.img", "background": [-1]},
        "label_names": classes,
    }
