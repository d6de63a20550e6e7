"""The whole road on simulated scenes: files, shards, pretraining on several sensors, probes on another one, a report.

Every stage uses what the ``specfm`` command of the same name uses, and says that command in full: it gives the same
files and numbers. They follow from the seeds here and in ``configs/demo.yaml``: two runs on one machine print one
table.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.errors import SpecfmError
from specfm.files import clear_stages

if TYPE_CHECKING:
    from specfm.scene import Scene

# Four sensors that share little: 13 to 210 bands, two kinds of range; reflectance, radiance and top of atmosphere.
SENSORS = ("hymap", "rosis", "hydice", "sentinel2_msi")
UNSEEN = "enmap"  # the probed sensor; pretraining sees neither it nor its ground
MATERIALS = ("broadleaf", "grass", "dry_grass", "clay_soil", "carbonate_soil", "asphalt", "concrete", "red_tile")
# Light differs from place to place, in level and in colour: a few labels do not show what to ignore, many views do.
CONDITIONS: dict[str, Any] = {
    "blob": 24.0,
    "illumination": 0.3,
    "gain": 0.2,
    "tilt": 0.3,
    "snr": 60.0,
    "variability": 0.6,
}
SIZE, WINDOW, STRIDE, VIEW = 96, 8, 4, 6  # pixels; views are cut from windows (views.crop of demo.yaml)
SEEN_DRAW, UNSEEN_DRAW = (1, 2), (2, 4)  # seed and scenes per sensor
SHOTS, SPLITS = 5, 10
PROBE: dict[str, Any] = {"split": "group", "pooling": "mean", "init_seeds": 2, "max_per_class": 20, "ks": (1, 5)}
TITLE = "specfm demo"
STAGES = ("scenes", "unseen", "shards", "pretrain", "results.jsonl", "report.html")

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """Rows of the probe (see ``downstream.probe.run``), the report, and seconds by stage."""

    rows: list[dict[str, Any]]
    report: Path
    seconds: dict[str, float]


def run_demo(out: Path, overwrite: bool = False, overrides: list[str] | None = None, say: Say = print) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for everything it makes.
        overwrite: replace what an earlier demo left in ``out``; other files there are not touched.
        overrides: changes of ``configs/demo.yaml`` (``steps=50``).
        say: gets one line when a stage begins and ends.

    Raises:
        UsageError: ``out`` holds an earlier demo, or an override is wrong.
        SpecfmError: matplotlib or jinja2 missing.
    """
    from pretrain.config import PretrainConfig
    from specfm.config import load_config

    run = out / "pretrain"
    places = [f"out={json.dumps(str(run))}", f"data.shards={json.dumps([str(out / 'shards')])}"]
    commands = demo_commands(out, overrides)
    config = load_config("demo.yaml", PretrainConfig, [*places, *(overrides or [])])
    _require_plots()
    clear_stages(out, STAGES, "demo", overwrite)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str, key: str) -> Iterator[None]:
        say("\n      $ ".join([f"[{len(seconds) + 1}/5] {name}", *commands[key]]))
        began = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - began, 1)
        say(f"      {seconds[name]:.0f} s")

    with stage("simulated scenes of known materials", "simulate"):
        seen = _simulate(out / "scenes", SENSORS, *SEEN_DRAW)
        unseen = _simulate(out / "unseen", (UNSEEN,), *UNSEEN_DRAW)
    with stage("shards", "shard"):
        _shard(seen, out / "shards")
    with stage(f"pretraining on {len(SENSORS)} sensors, without labels", "pretrain"):
        from pretrain.loop import train

        train(config)
        if not (run / "model").is_dir():  # a stop signal ends a run in order, with a checkpoint but without a release
            raise SpecfmError(f"the demo was stopped while pretraining; start it again with --overwrite --out {out}")
    with stage(f"probes on {UNSEEN}, a sensor and ground it never saw, {SHOTS} labels a class", "probe"):
        rows = _probe(run, unseen, out / "results.jsonl")
    with stage("report, here with an untrained twin and one scene a sensor", "report"):
        report = _report(run, seen + unseen, out / "results.jsonl", out / "report.html")
    return DemoResult(rows, report, seconds)


def demo_commands(out: Path, overrides: list[str] | None = None) -> dict[str, list[str]]:
    """The command lines behind each stage of a demo in ``out``, for a shell."""
    run, results = out / "pretrain", out / "results.jsonl"
    seen, unseen = [out / "scenes" / f"{sensor}.yaml" for sensor in SENSORS], out / "unseen" / f"{UNSEEN}.yaml"
    told = [word for key, value in CONDITIONS.items() for word in ("--set", f"{key}={value}")]

    def simulated(folder: str, sensors: tuple[str, ...], seed: int, scenes: int) -> list[Any]:
        drawn = _flags(out=out / folder, sensors=sensors, seed=seed, scenes=scenes, size=SIZE, materials=MATERIALS)
        return ["simulate", *drawn, *told]

    probed = {("k" if key == "ks" else key): value for key, value in PROBE.items()}
    shown = [word for card in (*seen, unseen) for word in ("--data", card)]
    lines: dict[str, list[list[Any]]] = {
        "simulate": [simulated("scenes", SENSORS, *SEEN_DRAW), simulated("unseen", (UNSEEN,), *UNSEEN_DRAW)],
        "shard": [["shard", *seen, *_flags(out=out / "shards", window=WINDOW, stride=STRIDE)]],
        "pretrain": [["pretrain", "demo.yaml", f"out={run}", f"data.shards={out / 'shards'}", *(overrides or [])]],
        "probe": [
            [
                *("probe", run, *_flags(data=unseen, shots=SHOTS, seeds=SPLITS, window=VIEW, **probed)),
                *("--no-scratch", *_flags(out=results)),
            ]
        ],
        "report": [
            [
                *("report", run, results, *_flags(out=out / "report.html"), *shown),
                *_flags(checkpoint=run, window=VIEW, title=TITLE),
            ]
        ],
    }
    return {key: [shlex.join(["specfm", *map(str, words)]) for words in each] for key, each in lines.items()}


def _flags(**options: Any) -> list[str]:
    """``--max-per-class 20`` for ``max_per_class=20``; several values are divided by commas."""
    found = []
    for key, value in options.items():
        found += [f"--{key.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return found


def _require_plots() -> None:
    """Fail before the work, not after it, where the report could not be drawn."""
    from downstream.report.figures import new_figure

    new_figure(1, 1)


def _simulate(out: Path, sensors: tuple[str, ...], seed: int, scenes: int) -> list[Scene]:
    from specfm.cards import load_card
    from specfm.simulate import write_simulation

    cards = write_simulation(out, sensors, seed, scenes, (SIZE, SIZE), MATERIALS, **CONDITIONS)
    return [scene for card in cards for scene in load_card(card).scenes()]


def _shard(scenes: list[Scene], out: Path) -> None:
    from specfm.shards import write_shards

    write_shards(scenes, out, WINDOW, STRIDE)


def _probe(run: Path, scenes: list[Scene], results: Path) -> list[dict[str, Any]]:
    from downstream.probe.options import ProbeOptions
    from downstream.probe.run import probe
    from downstream.results.files import append_rows
    from specfm.checkpoint import load

    options = ProbeOptions(shots=SHOTS, seeds=SPLITS, window=VIEW, **PROBE)
    rows = probe(load(run), scenes, options, data=f"simulated_{UNSEEN}", name="pretrained").rows
    append_rows(results, rows)
    return rows


def _report(run: Path, scenes: list[Scene], results: Path, out: Path) -> Path:
    from downstream.features.encoders import random_twin
    from downstream.report import build_report, embed_scenes
    from specfm.checkpoint import load

    shown = list({scene.domain: scene for scene in scenes}.values())  # one of each sensor
    encoder = load(run)
    embeddings = {
        f"{name} encoder, all sensors": embed_scenes(each, scenes, VIEW, max_per_class=10)
        for name, each in (("pretrained", encoder), ("random-init", random_twin(encoder, 0)))
    }
    return build_report(
        out,
        [run, results],
        scenes=shown,
        embeddings=embeddings,
        title=TITLE,
        notes=[
            f"Pretrained without labels on simulated scenes of {', '.join(SENSORS)}; probed with {SHOTS} labels a "
            f"class on {UNSEEN}, a sensor and ground that pretraining never saw.",
        ],
    ).path
